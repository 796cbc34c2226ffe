// The boundary: everything nondeterministic enters the machine here, and only here.
// Three implementations: live (vmm/host), recording (record/), replaying (replay/).
#pragma once

#include <array>
#include <cstdint>
#include <span>

#include "vmm/types.h"

namespace retrovisor {

enum class Channel : uint8_t {
  serial0 = 0,  // the 16550A at 0x3f8
  debug = 1,    // the debug consoles at 0xe9 and 0x402; output only
};

struct IdleWait {
  // At most what was asked; less only if input came or the host wants control. UINT64_MAX (only if nothing was due):
  // no input will ever come, the machine is done.
  uint64_t waited_ns = 0;
  bool host_wants_control = false;  // Ctrl-C and the like: run_until() returns StopReason::host_request
};

// When the machine asks. Position alone does not tell two questions apart: while every vCPU is halted time goes on and the
// position stands still.
struct Moment {
  Position position;
  VirtualTime time;
  bool operator==(const Moment&) const = default;
};

class Boundary {
 public:
  virtual ~Boundary() = default;
  // Seconds since 1970 at reset: seeds the RTC. Asked once per reset.
  virtual uint64_t wall_clock(Moment at) = 0;
  // Fills `out` with entropy: seeds the machine's own generator (RDRAND). Asked once per reset.
  virtual void entropy(Moment at, std::span<uint8_t> out) = 0;
  // Bytes that have arrived on `channel`, at most out.size(). Asked at positions that depend on machine state only.
  virtual size_t poll_input(Moment at, Channel channel, std::span<uint8_t> out) = 0;
  // The vCPUs are all halted and nothing is due for `ns` (UINT64_MAX: nothing is due at all). How long did it last?
  // Virtual time: all of it at once. Real time: sleeps, returns early when input arrives.
  // `input_wanted`: the serial port has room, so input may end the wait; if false only time (or the host's wish to stop) can.
  virtual IdleWait idle_wait(Moment at, uint64_t ns, bool input_wanted) = 0;
  // The guest wrote to the console. Not a source of nondeterminism: replaying boundaries may show or drop it.
  virtual void output(Moment at, Channel channel, std::span<const uint8_t> bytes) = 0;
};

}  // namespace retrovisor
