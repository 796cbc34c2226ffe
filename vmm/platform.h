// What a machine offers to the engine and the devices inside it. All references outlive them.
#pragma once

#include <array>
#include <cstdint>

#include "vmm/bus.h"
#include "vmm/clock.h"
#include "vmm/journal.h"
#include "vmm/memory/guest_memory.h"
#include "vmm/observer.h"
#include "vmm/types.h"

namespace retrovisor {

// Why a machine stopped running. Traces store the number: append only.
enum class StopReason : uint8_t {
  position = 0,        // reached the position asked for
  power_off = 1,       // the guest switched the machine off (ACPI S5)
  reset = 2,           // the guest asked for a reset (0xcf9, keyboard controller, ACPI)
  triple_fault = 3,    // shutdown of the (boot) vCPU
  debug_exit = 4,      // isa-debug-exit; detail is the exit code ((value << 1) | 1)
  guest_panic = 5,     // the guest's panic message was seen and the user asked to stop on it
  halted_forever = 6,  // every vCPU is halted and nothing will ever wake one
  stuck = 7,           // the guest takes exceptions forever without retiring an instruction
  host_request = 8,    // the host asked: Ctrl-C, time limit
  observed = 9,        // an observer asked to stop (vmm/observer.h)
  engine_failed = 10,  // the engine cannot go on: EngineReport::failure says why
};
inline constexpr StopReason kLastStopReason = StopReason::engine_failed;
std::string_view to_string(StopReason reason);

struct Stop {
  StopReason reason = StopReason::position;
  uint64_t detail = 0;
};

// How a device asks the machine to stop. The machine stops after the instruction that caused it.
class MachineControl {
 public:
  virtual ~MachineControl() = default;
  virtual void request_stop(Stop stop) = 0;
  virtual bool stop_requested() const = 0;
  // Engines call this under TimeSource::events at each synchronous event, before they handle it: each port or MMIO access by
  // itself (elements of string I/O, parts of wide accesses), HLT, RDMSR and WRMSR of registers that msr_kept_by_cpu() does not
  // name, RDTSC, RDTSCP, RDRAND, RDSEED. Time moves on, and behind the instruction the machine wants a look.
  virtual void synchronous_event() {}
};

// The machine's own random generator (xoshiro256**), seeded through the boundary; answers RDRAND and RDSEED.
class Entropy {
 public:
  void seed(const std::array<uint64_t, 4>& seed) { s_ = seed; }
  uint64_t next();
  void save(StateWriter& out) const;
  void restore(StateReader& in);

 private:
  std::array<uint64_t, 4> s_{1, 2, 3, 4};
};

struct Platform {
  GuestMemory& memory;
  PortBus& ports;
  MmioBus& mmio;
  Clock& clock;
  Deadlines& deadlines;
  Journal& journal;
  Entropy& entropy;
  MachineControl& control;
  Observers& observers;
};

}  // namespace retrovisor
