// A sequence of instructions with the state it starts from, and what is known about the status bits along it.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "tests/conformance/forms.h"
#include "tests/conformance/random.h"
#include "tests/conformance/state.h"
#include "vmm/processor_model.h"

namespace retrovisor::conformance {

struct Item {
  std::array<uint8_t, 16> bytes{};
  uint8_t length = 0;
  Mode mode = Mode::bits64;  // it is decoded in
  const char* name = "";
  Status defines = 0;    // status bits that have a defined value afterwards
  Status undefines = 0;  // that have not
  Status reads = 0;
  Status undefined_on_fault = 0;
  uint16_t open_on_fault = 0;  // general registers that a fault may leave changed
  bool tail = false;    // belongs to the item before: hides what is the implementation's business, or goes back to its mode
  bool inner = false;   // a tail that can be left out by itself, with the tails behind it
  bool closing = false;  // a tail that ends what the inner ones lie in
  bool alignment_open = false;  // whether it is subject to alignment checks (#AC) is the implementation's business
  bool order_open = false;  // which of several exceptions comes first is the implementation's business
  bool write_open = false;  // whether it needs the right to write what it leaves as it is is the implementation's business
  bool to_mmx = false;  // switches to MMX mode, maybe even if it then faults
  int target = -1;       // branches within the sequence: index of the item jumped to
  bool always = false;   // the branch is taken always
  bool approximate = false;  // the result may differ within the architecture's error bound; nothing runs behind it
};

struct Sequence {
  uint64_t index = 0;
  uint64_t address = 0;  // linear
  Mode mode = Mode::bits64;  // at its start and its end
  State start{};
  std::vector<Item> items;

  // Offset of item i (or the end) from `address`.
  unsigned offset(size_t i) const;
  // For each item, and the end, the status bits that have no defined value before it. Empty if an item reads one.
  std::vector<Status> undefined_before() const;
  // The bytes, and the jump to kExit behind them.
  void write(uint8_t* slot) const;
  // Both sides give this vendor's answers: what the manuals leave open, and the engine is known to answer as that vendor's
  // processors do, is compared, too.
  void settle(ProcessorModel vendor);
  std::optional<ProcessorModel> settled;
};

// No instructions yet, and a start that does not stand out: flat segments, a stack, x87 and SSE as after initialisation. In
// 16-bit mode the code segment is the first of the local descriptor table's.
Sequence empty_sequence(Mode mode);

// Which groups to draw from.
using GroupMask = uint32_t;
inline constexpr GroupMask kAllGroups = (1u << kGroups) - 1;

struct Repertoire {
  uint64_t seed = 0;
  GroupMask groups = kAllGroups;
  std::array<bool, kModes> modes = {true, false, false};
  bool fsgsbase = false;  // the host's user mode has RDFSBASE and so on
  bool ldt = false;       // there is a local descriptor table
  bool single = false;    // one instruction, or composite, a sequence
  std::optional<ProcessorModel> own_model;  // the vendor, if the engine answers as the host's processor does: Sequence::settle
};

class Generator {
 public:
  explicit Generator(const Repertoire& repertoire);
  // The same (repertoire, index) always give the same sequence.
  Sequence make(uint64_t index) const;
  // What the arena holds before the sequences of batch `batch`.
  void fill_arena(uint64_t batch, ArenaBytes& out) const;

 private:
  friend class Builder;
  Repertoire repertoire_;
  std::vector<Form> forms_;
  // Indices into forms_ of what exists in a mode, each as often as its weight says, of the enabled groups.
  std::array<std::vector<uint32_t>, kModes> draw_;
};

// "address: bytes  mnemonic operands" lines, one per item that is not a NOP put in by the minimiser.
std::string disassemble(const Sequence& sequence);

}  // namespace retrovisor::conformance
