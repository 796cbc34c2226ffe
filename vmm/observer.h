// Observers: what debuggers and analyses want to be told of while a machine runs. Any number at once; with none they cost nothing.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "vmm/types.h"

namespace retrovisor {

// A range of linear addresses whose accesses are of interest, in whatever address space is current.
struct Watch {
  LinearAddr begin;
  uint64_t size = 0;
  bool on_read = false;
  bool on_write = false;
};

// A range of guest-physical bytes whose changes are of interest, through whatever address they are made and by whomever. Bytes
// that are no RAM are never seen to change.
struct PhysicalWatch {
  PhysAddr begin;
  uint64_t size = 0;
};

// Who wrote physical bytes.
enum class Writer : uint8_t {
  instruction,  // a store of an instruction, or of the delivery of an exception or interrupt
  page_walk,    // the processor, setting A or D flags in a table
  outside,      // no vCPU: a device, or whoever else writes to guest memory
};

struct Observation {
  enum class Kind : uint8_t {
    breakpoint,  // the instruction at `address` is about to run, or its next iteration; position: before it
    read,        // an instruction read `size` bytes at `address`, touching watch `index`; position: before it
    write,       // the same for a write; old_value and new_value of the watched bytes (the first 8 of the watch)
    physical_write,  // the same for a write to physical watch `index`; memory holds what was written
    instruction,     // as breakpoint, for every instruction and every iteration
    exception,       // exception `number` of the instruction at `rip` was delivered, its error code is new_value
    interrupt,       // external interrupt or NMI of vector `number` is delivered, before the instruction at `rip`
    address_space,   // the instruction at `rip` made CR3 new_value from old_value
    vcpu_switch,     // another vCPU's turn begins: `vcpu`
    dma_read,        // a device reads `bytes` of guest memory
    dma_write,       // a device writes them; `data` is what
    block,           // a basic block begins at `address`: the instruction at `rip` was a branch, taken or not (`transfer`: an edge
                     // from there); or an exception or interrupt of it was delivered; or somebody began to look here. Where a run
                     // was cut, none begins
  };
  Kind kind{};
  VcpuId vcpu;
  Position position;       // instructions retired before the one that is, or is to be, executed
  LinearAddr address;
  uint64_t size = 0;
  size_t index = 0;        // of the watch in Interest::watches or physical
  uint64_t rip = 0;        // of the instruction
  uint64_t old_value = 0;
  uint64_t new_value = 0;
  bool changed = false;    // write: any of the watched bytes, not just the first 8, has another value now
  // Breakpoint: the state is that of arrival at `position`; no interrupt, fault or timer came between (a handler's first
  // instruction is at the same position as the interrupted one, which has not been executed).
  bool on_arrival = false;
  // Physical writes: who, and (not from outside) in which address space and with which rights. `address` and `size` are those of
  // the access, which for a page walk is the one that needed it.
  Writer writer{};
  uint8_t cpl = 0;
  uint64_t cr3 = 0;
  PhysRange bytes;         // the part of the access that touches the page of the watch; of DMA: all
  LinearAddr through;      // the linear address of bytes.begin, for instructions
  uint8_t number = 0;      // vector
  bool transfer = false;   // block: by the instruction at `rip`
  // Reads, writes, DMA: what was read or written, `size` bytes; while hit() is called only.
  std::span<const uint8_t> data;
};

// A set of kinds.
using ObservationKinds = uint32_t;
constexpr ObservationKinds mask_of(Observation::Kind kind) { return ObservationKinds{1} << static_cast<unsigned>(kind); }
// Those that name no address: one asks for all of them or none.
inline constexpr ObservationKinds kObservedEvents = mask_of(Observation::Kind::instruction) | mask_of(Observation::Kind::exception) |
    mask_of(Observation::Kind::interrupt) | mask_of(Observation::Kind::address_space) | mask_of(Observation::Kind::vcpu_switch) |
    mask_of(Observation::Kind::dma_read) | mask_of(Observation::Kind::dma_write) | mask_of(Observation::Kind::block);
// Those that the machine makes, not its engine: to be had of every machine.
inline constexpr ObservationKinds kMachineKinds = mask_of(Observation::Kind::vcpu_switch) | mask_of(Observation::Kind::dma_read) |
    mask_of(Observation::Kind::dma_write);
inline constexpr ObservationKinds kAllKinds = (ObservationKinds{mask_of(Observation::Kind::block)} << 1) - 1;

// What one observer wants to be told of.
struct Interest {
  std::vector<uint64_t> breakpoints;  // linear addresses of instructions
  std::vector<Watch> watches;
  std::vector<PhysicalWatch> physical;
  ObservationKinds events = 0;        // of kObservedEvents
  // Called for each hit, at a point where the machine's state is exact for breakpoints and instructions; for the others it is that
  // of the middle of things and must not be looked at. True: stop. Breakpoints, instructions and blocks stop before their
  // instruction, what an instruction does behind it (one iteration, for string operations). It must not change who observes.
  std::function<bool(const Observation&)> hit;
  // Breakpoints and instructions at exactly this position are passed over: where a debugger resumes from.
  Position resume_from = kNoPosition;

  ObservationKinds kinds() const;
};

class Observers;

// An interest in force. Ends with its object.
class Subscription {
 public:
  Subscription() = default;
  Subscription(Subscription&& other) noexcept;
  Subscription& operator=(Subscription&& other) noexcept;
  ~Subscription();
  explicit operator bool() const { return hub_ != nullptr; }

 private:
  friend class Observers;
  Observers* hub_ = nullptr;
  Interest interest_;
};

// All who observe one machine.
class Observers {
 public:
  Observers() = default;
  ~Observers();
  Observers(const Observers&) = delete;
  Observers& operator=(const Observers&) = delete;

  // Puts `interest` in force. Not while an observation is being told.
  [[nodiscard]] Subscription subscribe(Interest interest);
  // The kinds that can be had; asking for others is a bug of who asks.
  ObservationKinds offered() const { return offered_; }

  // --- for who makes observations ---
  void offer(ObservationKinds kinds) { offered_ = kinds; }
  // Called whenever what is wanted has changed.
  void on_change(std::function<void()> changed) { changed_ = std::move(changed); }
  // What is wanted by anybody. Breakpoints: ascending, no duplicates; watches: one observer's behind the other's.
  struct Wanted {
    std::vector<uint64_t> breakpoints;
    std::vector<Watch> watches;
    std::vector<PhysicalWatch> physical;
    ObservationKinds events = 0;
  };
  const Wanted& wanted() const { return wanted_; }
  bool wants(Observation::Kind event) const { return (wanted_.events & mask_of(event)) != 0; }
  // Would the breakpoint, or the instruction, at `address` be told to anybody at `position`?
  bool wants_code(uint64_t address, Position position) const;
  // Tells those who want it; `o.index` is that of the watch in wanted(). True: somebody asks to stop.
  bool tell(const Observation& o);

 private:
  friend class Subscription;
  void leave(Subscription& who);
  void moved(Subscription& from, Subscription& to);
  void gather();

  std::vector<Subscription*> subscriptions_;  // in the order in which they came
  Wanted wanted_;
  ObservationKinds offered_ = kAllKinds;
  std::function<void()> changed_;
  bool telling_ = false;
};

}  // namespace retrovisor
