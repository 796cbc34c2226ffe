// Builds one sequence: encodes instructions, aims memory operands, and keeps track of what is known about registers
// and status bits, so that what runs is defined by the architecture.
#pragma once

#include <optional>
#include <span>

#include "tests/conformance/sequence.h"
#include "vmm/cpu/registers.h"

namespace retrovisor::conformance {

struct Memory {
  uint8_t base = 0xff, index = 0xff, scale = 0;  // 0xff: none
  bool rip = false;
  bool addr32 = false;
  uint8_t segment = 0;  // prefix byte 64, 65 or 0
  int32_t disp = 0;     // rip: unused, `target` counts
  uint64_t target = 0;  // linear address meant (unless wild)
  bool wild = false;    // nobody knows
};

struct Encoding {
  bool operand16 = false;
  uint8_t rep = 0;  // F2, F3
  bool lock = false;
  bool rex_w = false;
  bool rex = false;  // a REX prefix even if no bit of it is needed
  uint8_t rex_junk = 0;
  uint8_t map = 0, opcode = 0;
  bool modrm = false;
  uint8_t reg = 0;
  bool memory = false;
  uint8_t rm = 0;  // register; or for opcodes that hold one (modrm false) the register, if in_opcode
  bool in_opcode = false;
  Memory mem;
  uint64_t imm = 0;
  uint8_t imm_size = 0;
};

constexpr uint8_t low(uint64_t v) { return static_cast<uint8_t>(v); }

inline Encoding memory_form(unsigned map, unsigned opcode, unsigned reg, const Memory& mem) {
  Encoding e;
  e.map = static_cast<uint8_t>(map);
  e.opcode = static_cast<uint8_t>(opcode);
  e.modrm = e.memory = true;
  e.reg = static_cast<uint8_t>(reg);
  e.mem = mem;
  return e;
}

inline Encoding register_form(unsigned map, unsigned opcode, unsigned reg, unsigned rm) {
  Encoding e;
  e.map = static_cast<uint8_t>(map);
  e.opcode = static_cast<uint8_t>(opcode);
  e.modrm = true;
  e.reg = static_cast<uint8_t>(reg);
  e.rm = static_cast<uint8_t>(rm);
  return e;
}

inline Item named(const char* name, Status defines = 0, Status undefines = 0, Status reads = 0) {
  Item item;
  item.name = name;
  item.defines = defines;
  item.undefines = undefines;
  item.reads = reads;
  return item;
}

class Builder {
 public:
  Builder(const Generator& generator, uint64_t index);
  Sequence build();

 private:
  // -- start
  void choose_start();
  // -- memory operands
  enum : unsigned { kAnywhere = 1, kNaturallyAligned = 2, kNeverFaults = 4, kInside = 8 };
  uint64_t good_target(unsigned bytes, unsigned alignment);
  Memory choose_memory(unsigned bytes, unsigned alignment, unsigned how);
  Memory express(uint64_t target);
  bool try_express(uint64_t target, Memory& out);
  uint64_t page_address(PageKind kind);
  uint64_t segment_base(uint8_t prefix) const;
  // -- encoding
  void append(const Encoding& e, Item item);
  void append_bytes(std::initializer_list<uint8_t> bytes, const char* name, Status defines = 0, Status undefines = 0,
                    Status reads = 0);
  void append_bytes(std::span<const uint8_t> bytes, Item item);
  void note(const Item& item);  // follows the status bits
  void need(Status reads);      // makes sure that they are defined
  // -- instructions
  void random_item();
  void form(const Form& f);
  bool shift_effects(const Form& f, unsigned bits, std::optional<unsigned> count, Item& item);
  uint64_t immediate(const Form& f, unsigned bits, uint8_t& size);
  unsigned pick_register(bool written);
  void forget(uint16_t registers);
  void forget8(unsigned code);
  void set_register(unsigned reg, uint64_t value);  // MOV reg, imm
  void store_constant(uint64_t target, unsigned bytes, uint32_t value, bool tail = false);
  void load_address(unsigned reg, int64_t from_end);  // LEA reg, [rip + from_end]
  unsigned free_register(uint16_t but);
  // -- composite items
  void composite_integer();
  void composite_bits();
  void composite_control();
  void composite_string();
  void composite_system();
  void self_modifying();
  void segment_registers();
  void segment_bases();
  void single_step();
  void composite_x87();
  void composite_x87_environment();
  void transcendental();
  void composite_sse();
  void composite_fault();
  void divide();
  void compare_exchange();
  void pop_flags();
  void enter();
  void branch_over();
  void backward_loop();
  void indirect_branch();
  void far_transfer();

  bool full() const { return size_ > kSlotSize - 160 || ended_; }

  const Generator& generator_;
  Random random_;
  Sequence sequence_;
  std::array<std::optional<uint64_t>, 16> known_;
  Status undefined_ = 0;
  unsigned size_ = 0;
  unsigned depth_ = 0;     // of branches being built
  bool faulty_ = false;    // memory operands may fault
  bool ended_ = false;     // what follows cannot run
};

}  // namespace retrovisor::conformance
