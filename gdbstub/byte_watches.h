// Watching bytes whichever addresses lead to them: `monitor watch`, and what a debugger's own write watches have to know of
// writes through other addresses.
//
// A debugger's write watch is hit by stores through its address, in whatever address space is current, and by changes of the bytes
// to which its address leads where the run begins: through whatever other address, by whomever, while it leads there. So the
// change that the debugger shows is the one that happened there.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "gdbstub/breakpoints.h"
#include "replay/timeline.h"

namespace retrovisor::gdb {

// The bytes to which `size` bytes from `address` on lead for this vCPU, page by page. An error says what of them is no memory.
Result<std::vector<ByteWatch>> bytes_at(Machine& machine, VcpuId vcpu, uint64_t address, uint64_t size);

// In words: who wrote, where, through which address; `asked` is one that needs no mention.
std::string describe_write(const Observation& o, std::optional<uint64_t> asked);
// 0x0012, of the first (at most 8) of `size` bytes.
std::string shown_value(uint64_t value, uint64_t size);

class ByteWatches {
 public:
  static constexpr size_t kMost = 64;

  struct Watch {
    std::vector<ByteWatch> bytes;  // without seen_at
    std::string text;              // as the user wrote it
  };
  std::vector<Watch>& mine() { return mine_; }

  // Adds what the watches are about to what a run stops at.
  void add_to(StopConditions& c, Machine& machine, VcpuId vcpu, const Breakpoints& breakpoints);
  // Which of Breakpoints::watches() a stop at a watch belongs to, if it is the debugger's.
  std::optional<size_t> watch_of(const Observation& o) const;

  // A run begins: remembers what the debugger's write watches show.
  void begin(Machine& machine, VcpuId vcpu, const Breakpoints& breakpoints, bool backward);
  // What the user has to know of a stop at a watch beside what the debugger shows; may be empty.
  std::string explain(const Observation& o, const Breakpoints& breakpoints) const;

 private:
  std::vector<Watch> mine_;
  std::vector<std::optional<size_t>> owner_;  // of StopConditions::bytes: the index in Breakpoints::watches()
  std::vector<ByteWatch> bytes_;              // StopConditions::bytes
  Position from_;                             // where the run began, and which way it goes
  bool backward_ = false;
  std::vector<std::optional<uint64_t>> shown_;  // by each of Breakpoints::watches() there; none: not mapped
};

}  // namespace retrovisor::gdb
