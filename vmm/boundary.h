// The boundary: everything nondeterministic enters the machine here, and only here.
// Three implementations: live (vmm/host), recording (record/), replaying (replay/).
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <span>

#include "vmm/endpoint.h"
#include "vmm/digest.h"
#include "vmm/result.h"
#include "vmm/types.h"

namespace retrovisor {

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

// A point between two synchronous events at which a recorded run was interrupted: a vCPU's state there. It is reached by
// running until the state is this one. Several instructions can leave the same state behind only if they go on alike, so it
// does not matter which is taken.
struct Landing {
  Position position;  // of the machine, once it has landed
  // If known, the state to look for; else `position` counts instructions and says it all.
  bool by_state = false;
  std::array<uint64_t, 16> gpr{};
  uint64_t linear_rip = 0;
  uint64_t rflags = 0;
  StateDigest state;       // of the vCPU and memory; not of devices, which have no part in this
  uint64_t progress = 0;   // the host's count of instructions since the event before, if it has one; else 0
  // How long the vCPU can have run from the event before to here, on the host that recorded it: bounds the search.
  uint64_t host_ns = UINT64_MAX;
  // How many exceptions and interrupts were delivered at `position` before: none of them counts as an instruction. Known
  // where instructions are counted.
  uint64_t deliveries = 0;
};

class Boundary {
 public:
  virtual ~Boundary() = default;
  // Seconds since 1970 at reset: seeds the RTC. Asked once per reset.
  virtual uint64_t wall_clock(Moment at) = 0;
  // Fills `out` with entropy: seeds the machine's own generator (RDRAND). Asked once per reset.
  virtual void entropy(Moment at, std::span<uint8_t> out) = 0;
  // What the machine has to be fed and heard, told once, before any question.
  virtual void connect(std::span<const Endpoint>) {}
  // What has arrived at an endpoint: bytes of a stream, at most out.size(), or one packet that fits. Asked at positions that depend on
  // machine state only.
  virtual size_t receive(Moment at, EndpointId endpoint, std::span<uint8_t> out) = 0;
  // The vCPUs are all halted and nothing is due for `ns` (UINT64_MAX: nothing is due at all). How long did it last?
  // Virtual time: all of it at once. Real time: sleeps, returns early when input arrives.
  // `input_wanted`: an endpoint has room, so input may end the wait; if false only time (or the host's wish to stop) can.
  virtual IdleWait idle_wait(Moment at, uint64_t ns, bool input_wanted) = 0;
  // What the guest sends, a packet at a time or bytes. Not a source of nondeterminism: replaying boundaries may show or drop it.
  virtual void transmit(Moment at, EndpointId endpoint, std::span<const uint8_t> bytes) = 0;
  // Contents of an endpoint of blocks, which may be other ones each time: `out.size()` bytes from `offset` on.
  virtual Result<void> read_blocks(Moment, EndpointId, uint64_t /*offset*/, std::span<uint8_t> /*out*/) {
    return Error{ErrorCode::io, "nothing is connected", ""};
  }
  // What an endpoint that is a directory answers, which may be another thing each time: at most `question.most` bytes.
  virtual Result<std::vector<uint8_t>> ask_directory(Moment, EndpointId, const DirectoryQuestion&) {
    return Error{ErrorCode::io, "nothing is connected", ""};
  }

  // The rest is asked only by machines whose time source is TimeSource::events.

  // A synchronous event happens: how much time has passed since the last one.
  virtual uint64_t time_passed(Moment) { return 0; }
  // An interrupt waits behind an event, and the vCPU has it enabled. Is it delivered here? `possible`: the engine can.
  virtual bool deliver(Moment, bool possible) { return possible; }
  // Can the machine be interrupted between two events? Else next_landing() says where it was.
  virtual bool lands() const { return false; }
  // The machine runs without events. Does something call for an interruption: time `due` has come, or input?
  virtual bool landing_wanted(Moment, VirtualTime /*due*/) { return false; }
  // The machine has landed.
  virtual void landed(Moment, const Landing&) {}
  // Where the machine will land before the next event, if it does.
  virtual std::optional<Landing> next_landing(Moment) { return std::nullopt; }
  // The machine has executed so many instructions on its way to a landing that it has not met. True: it need not look further.
  virtual bool search_ends(const Landing&, uint64_t /*instructions*/) { return false; }
  // The engine says that it cannot get there.
  virtual void landing_missed(Moment, const Landing&) {}
};

}  // namespace retrovisor
