// A sequence of instructions with the state it starts from, and what is known about the status bits along it.
#pragma once

#include <string>
#include <vector>

#include "tests/conformance/forms.h"
#include "tests/conformance/random.h"
#include "tests/conformance/state.h"

namespace retrovisor::conformance {

struct Item {
  std::array<uint8_t, 16> bytes{};
  uint8_t length = 0;
  const char* name = "";
  Status defines = 0;    // status bits that have a defined value afterwards
  Status undefines = 0;  // that have not
  Status reads = 0;
  Status undefined_on_fault = 0;
  bool tail = false;    // belongs to the item before: hides what is the implementation's business
  bool alignment_open = false;  // whether it is subject to alignment checks (#AC) is the implementation's business
  bool to_mmx = false;  // switches to MMX mode, maybe even if it then faults
  int target = -1;       // branches within the sequence: index of the item jumped to
  bool always = false;   // the branch is taken always
  bool approximate = false;  // the result may differ within the architecture's error bound; nothing runs behind it
};

struct Sequence {
  uint64_t index = 0;
  uint64_t address = 0;
  State start{};
  std::vector<Item> items;

  // Offset of item i (or the end) from `address`.
  unsigned offset(size_t i) const;
  // For each item, and the end, the status bits that have no defined value before it. Empty if an item reads one.
  std::vector<Status> undefined_before() const;
  // The bytes, and the jump to kExit behind them.
  void write(uint8_t* slot) const;
};

// Which groups to draw from.
using GroupMask = uint32_t;
inline constexpr GroupMask kAllGroups = (1u << kGroups) - 1;

class Generator {
 public:
  // `fsgsbase`: the host's user mode has RDFSBASE and so on.
  Generator(uint64_t seed, GroupMask groups, bool fsgsbase);
  // The same (seed, groups, index) always give the same sequence.
  Sequence make(uint64_t index) const;
  // What the arena holds before the sequences of batch `batch`.
  void fill_arena(uint64_t batch, ArenaBytes& out) const;

 private:
  friend class Builder;
  uint64_t seed_;
  GroupMask groups_;
  bool fsgsbase_;
  std::vector<Form> forms_;
  std::vector<uint32_t> draw_;  // indices into forms_, each as often as its weight says, per enabled group
};

// "address: bytes  mnemonic operands" lines, one per item that is not a NOP put in by the minimiser.
std::string disassemble(const Sequence& sequence);

}  // namespace retrovisor::conformance
