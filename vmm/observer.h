// Observers: what a debugger or an analysis wants to be told of while an engine runs. With none installed they cost nothing.
#pragma once

#include <cstdint>
#include <functional>
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
  };
  Kind kind{};
  VcpuId vcpu;
  Position position;       // instructions retired before the one that is, or is to be, executed
  LinearAddr address;
  uint64_t size = 0;
  size_t index = 0;        // of the watch in Observers::watches or physical
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
  PhysRange bytes;         // the part of the access that touches the page of the watch
  LinearAddr through;      // the linear address of bytes.begin, for instructions
};

// What code has touched, as linear pages (address / kPageSize) in whatever address space was current; ascending.
struct TouchedPages {
  std::vector<uint64_t> executed;
  std::vector<uint64_t> written;   // and perhaps some that could have been written without a further look
  std::vector<uint64_t> accessed;  // read or written
};

struct Observers {
  std::vector<uint64_t> breakpoints;  // linear addresses of instructions, ascending, no duplicates
  std::vector<Watch> watches;
  std::vector<PhysicalWatch> physical;
  // Called for each hit, at a point where the machine's state is exact for breakpoints; for accesses it is that of the
  // middle of the instruction and must not be looked at. True: stop. Breakpoints stop before their instruction, accesses
  // behind theirs (one iteration, for string operations).
  std::function<bool(const Observation&)> hit;
  // A breakpoint at exactly this position is passed over: where a debugger resumes from.
  Position resume_from = kNoPosition;

  bool empty() const { return breakpoints.empty() && watches.empty() && physical.empty(); }
};

}  // namespace retrovisor
