// The journal: every timing or nondeterministic event of the machine, with its position, as it happens.
// vmm only tells; what is done with it (written to a trace, checked against one) is a JournalSink's matter.
#pragma once

#include <cstdint>
#include <string_view>

#include "vmm/clock.h"
#include "vmm/types.h"

namespace retrovisor {

// Also the kinds of events in a trace. Numbers are part of the trace format: append only.
enum class EventKind : uint8_t {
  interrupt = 0,    // a: vector, b: InterruptSource
  timer = 1,        // a: number of the timer, in the order of the board's devices as all state is; b: deadline in ns of guest time
  port_read = 2,    // a: port, b: size in bytes, c: value
  port_write = 3,   // same
  mmio_read = 4,    // a: guest-physical address, b: size in bytes, c: value
  mmio_write = 5,   // same
  tsc_read = 6,     // a: value
  rdrand = 7,       // a: value, b: size in bytes
  dma = 8,          // a: guest-physical address, b: size in bytes, c: XXH3-64 of the data
  vcpu_switch = 9,  // a: vCPU that runs from here on
  exception = 10,   // a: vector, b: error code, c: CR2 (for #PF)
  exception_lost = 11,  // as exception, but its handler could not be entered: another exception, #DF or a shutdown takes its place
  // Told to whoever asks for it while a machine runs; never in a trace, where it would say what the guest's own code says.
  cr3_write = 31,   // a: new value of CR3, b: old one
  // Boundary events: what a replay needs. Always written; c: guest time in ns (while halted the position stands still).
  wall_clock = 32,    // a: seconds since 1970
  entropy = 33,       // data: bytes
  console_input = 34, // of a stream. a: endpoint, b: how many polls came before at the same moment; data: bytes
  idle_wait = 35,     // a: ns asked for, b: ns waited; only when they differ
  packet = 36,        // a: endpoint, b: as console_input; data: the packet
  disk_read = 37,     // contents that can change. a: endpoint, b: offset in bytes; data: bytes
  host_stop = 38,     // the host asked for a stop in a call to the boundary. a: 0 poll, 1 idle wait; b: as console_input
  time_passed = 39,   // time by events: how much has passed at an event. a: ns
  deliver = 40,       // time by events: the interrupt that waited behind an event is delivered there
  landing = 41,       // time by events: the run was interrupted between two events. data: encode_landing()
  directory_read = 42,  // an answer of a directory that can change. a: endpoint, b: hash_of() the question; data: the answer
};
inline constexpr unsigned kEventKinds = 64;
std::string_view to_string(EventKind kind);

enum class InterruptSource : uint8_t { local_apic = 0, pic = 1, nmi = 2 };

struct JournalEvent {
  EventKind kind{};
  VcpuId vcpu;
  Position position;
  uint64_t a = 0;
  uint64_t b = 0;
  uint64_t c = 0;
};

class JournalSink {
 public:
  virtual ~JournalSink() = default;
  virtual void event(const JournalEvent& e) = 0;
};

// Bit sets of EventKind.
using EventMask = uint64_t;
constexpr EventMask mask_of(EventKind kind) { return EventMask{1} << static_cast<unsigned>(kind); }
inline constexpr EventMask kJournalDefault = mask_of(EventKind::interrupt) | mask_of(EventKind::timer) | mask_of(EventKind::vcpu_switch);
inline constexpr EventMask kJournalFull = 0x7fffffff;  // all that a trace may hold beside boundary events
inline constexpr EventMask kJournalAll = 0xffffffff;   // all that is ever told

class Journal {
 public:
  explicit Journal(const Clock& clock) : clock_(clock) {}
  void connect(JournalSink* sink, EventMask mask) {
    sink_ = sink;
    mask_ = sink == nullptr ? 0 : mask;
  }
  bool wants(EventKind kind) const { return (mask_ & mask_of(kind)) != 0; }
  void log(EventKind kind, uint64_t a = 0, uint64_t b = 0, uint64_t c = 0) {
    if (wants(kind)) [[unlikely]] sink_->event({kind, vcpu_, clock_.position(), a, b, c});
  }
  // Of the vCPU that runs from here on.
  void set_vcpu(VcpuId vcpu) { vcpu_ = vcpu; }
  Position position() const { return clock_.position(); }

 private:
  const Clock& clock_;
  JournalSink* sink_ = nullptr;
  EventMask mask_ = 0;
  VcpuId vcpu_;
};

}  // namespace retrovisor
