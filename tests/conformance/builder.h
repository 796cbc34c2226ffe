// Builds one sequence: encodes instructions, aims memory operands, and keeps track of what is known about registers,
// segments and status bits, so that what runs is defined by the architecture.
#pragma once

#include <optional>
#include <span>

#include "tests/conformance/segments.h"
#include "tests/conformance/sequence.h"
#include "vmm/cpu/registers.h"

namespace retrovisor::conformance {

struct Memory {
  uint8_t base = 0xff, index = 0xff, scale = 0;  // 0xff: none
  bool rip = false;
  uint8_t address = 0;  // bits of the effective address: 16, 32, 64; 0: the mode's
  uint8_t segment = 0;  // prefix byte or 0
  int32_t disp = 0;     // rip: unused, `target` counts
  uint64_t target = 0;  // linear address meant (unless wild)
  bool wild = false;    // nobody knows
};

struct Encoding {
  uint8_t operand = 0;   // bits of the operand that prefixes choose: 16, 32, 64; 0: they do not
  bool prefix66 = false;  // mandatory
  uint8_t rep = 0;       // F2, F3
  bool lock = false;
  bool rex = false;  // a REX prefix even if no bit of it is needed
  uint8_t rex_junk = 0;
  uint8_t map = 0, opcode = 0;
  bool modrm = false;
  uint8_t reg = 0;
  bool memory = false;
  uint8_t rm = 0;  // register; or for opcodes that hold one (modrm false) the register, if in_opcode
  bool in_opcode = false;
  uint8_t address = 0;  // for instructions without a memory operand that have an address size
  uint8_t segment = 0;  // and for those that take a segment prefix
  Memory mem;
  uint64_t imm = 0;
  uint8_t imm_size = 0;
};

constexpr uint8_t low(uint64_t v) { return static_cast<uint8_t>(v); }

inline Encoding memory_form(unsigned map, unsigned opcode, unsigned reg, const Memory& mem) {
  Encoding e;
  e.map = low(map);
  e.opcode = low(opcode);
  e.modrm = e.memory = true;
  e.reg = low(reg);
  e.mem = mem;
  return e;
}

inline Encoding register_form(unsigned map, unsigned opcode, unsigned reg, unsigned rm) {
  Encoding e;
  e.map = low(map);
  e.opcode = low(opcode);
  e.modrm = true;
  e.reg = low(reg);
  e.rm = low(rm);
  return e;
}

// An opcode with nothing behind it but an immediate.
inline Encoding plain(unsigned opcode, unsigned operand = 0, uint64_t imm = 0, unsigned imm_size = 0) {
  Encoding e;
  e.opcode = low(opcode);
  e.operand = low(operand);
  e.imm = imm;
  e.imm_size = low(imm_size);
  return e;
}

// An opcode whose low bits are a register.
inline Encoding short_form(unsigned map, unsigned opcode, unsigned reg, unsigned operand = 0) {
  Encoding e = plain(opcode, operand);
  e.map = low(map);
  e.in_opcode = true;
  e.rm = low(reg);
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

// What a segment register allows, as far as it is known.
struct Window {
  uint64_t base = 0;
  uint64_t first = 0, last = 0;  // valid offsets
  bool readable = false, writable = false;
  bool big = false;              // D/B
  uint64_t mask = ~uint64_t{0};  // of offsets and linear addresses

  uint64_t offset(uint64_t target) const { return (target - base) & mask; }
  // The bytes from `before` below to `after` above the target lie in it.
  bool covers(uint64_t target, uint64_t before, uint64_t after) const {
    const uint64_t at = offset(target);
    return at >= first && at - first >= before && at <= last && last - at >= after - 1;
  }
};

class Builder {
 public:
  Builder(const Generator& generator, uint64_t index);
  Sequence build();

 private:
  // -- modes
  bool is64() const { return mode_ == Mode::bits64; }
  unsigned registers() const { return is64() ? 16 : 8; }
  uint8_t mode_bits() const { return mode_ == Mode::bits64 ? 64 : mode_ == Mode::bits32 ? 32 : 16; }
  uint8_t default_operand() const { return mode_ == Mode::bits16 ? 16 : 32; }
  uint64_t mode_mask() const { return is64() ? ~uint64_t{0} : 0xffffffff; }
  // Then also results that are undefined along with the flags count.
  bool own_model() const { return generator_.repertoire_.own_model.has_value(); }
  bool on_amd() const { return generator_.repertoire_.own_model == ProcessorModel::amd; }
  bool available(Group group) const { return (generator_.repertoire_.groups >> static_cast<unsigned>(group) & 1) != 0; }
  // Offset into the code segment of what comes next.
  uint64_t here() const;
  // -- start
  void choose_start();
  void choose_segments();
  void choose_vectors();
  // -- segments
  Window window(SegReg reg) const;
  void loaded(SegReg reg, uint16_t selector);  // follows a load of a segment register
  static uint8_t prefix_of(SegReg reg);
  static SegReg segment_of(const Memory& m);
  unsigned stack_bits() const { return is64() ? 64 : window(SS).big ? 32 : 16; }
  // -- memory operands
  enum : unsigned { kAnywhere = 1, kNaturallyAligned = 2, kNeverFaults = 4, kInside = 8 };
  // How an operand may be reached: bytes below and above the target that have to lie in the segment, too.
  struct Reach {
    unsigned before = 0, after = 16;
    bool writable = true;
    std::optional<SegReg> segment = std::nullopt;  // this one only
  };
  uint64_t good_target(unsigned bytes, unsigned alignment);
  Memory choose_memory(unsigned bytes, unsigned alignment, unsigned how);
  std::optional<Memory> bad_memory(unsigned bytes, unsigned alignment, bool aligned, bool inside);
  std::optional<Memory> anywhere(unsigned alignment);
  std::optional<Memory> outside_segment(unsigned bytes, unsigned alignment, uint64_t mask);
  Memory express(uint64_t target) { return express(target, Reach{}); }
  Memory express(uint64_t target, const Reach& reach);
  bool try_express(uint64_t target, const Reach& reach, Memory& out);
  uint64_t page_address(PageKind kind);
  // -- encoding
  void append(const Encoding& e, Item item);
  unsigned encode_address16(const Memory& m, unsigned reg, uint8_t* out);
  unsigned encode_address(const Memory& m, unsigned reg, uint8_t* out);
  void append_bytes(std::initializer_list<uint8_t> bytes, const char* name, Status defines = 0, Status undefines = 0,
                    Status reads = 0);
  void append_bytes(std::span<const uint8_t> bytes, Item item);
  void note(const Item& item);  // follows the status bits
  void need(Status reads);      // makes sure that they are defined
  // -- instructions
  void random_item();
  bool random_form();
  void form(const Form& f);
  unsigned choose_bits(const Form& f);
  bool shift_effects(const Form& f, unsigned bits, std::optional<unsigned> count, Item& item);
  uint64_t immediate(const Form& f, unsigned bits, uint8_t& size);
  unsigned pick_register(bool written);
  void forget(uint16_t registers);
  void forget8(unsigned code);
  void set_register(unsigned reg, uint64_t value);  // MOV reg, imm
  void copy_register(unsigned to, unsigned from);
  void store_constant(uint64_t target, unsigned bytes, uint32_t value, bool tail = false);
  unsigned free_register(uint16_t but);
  // Stack operations of `bits`; 0: the mode's own size.
  void push(unsigned reg, unsigned bits = 0);
  void pop(unsigned reg, unsigned bits = 0);
  void push_constant(uint32_t value, unsigned bits = 0);
  void move_sp(int64_t by);
  unsigned stack_operand(unsigned bits) const { return bits == 64 ? 0u : bits; }
  // A register that gets the offset of a place further on: load_label, then bind at that place.
  struct Label {
    size_t item;
  };
  Label load_label(unsigned reg);
  void bind(const Label& label);
  // Places a 16-bit instruction pointer reaches.
  bool near_start() const { return here() < 0xf000; }
  // -- composite items
  void composite_integer();
  void composite_bits();
  void composite_control();
  void composite_string();
  void composite_system();
  void composite_legacy();
  void self_modifying();
  void self_modifying_far();
  void run_off_page();
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
  void move_absolute();
  void translate();
  std::optional<uint64_t> string_begin(const Window& w, unsigned reach, unsigned address);
  void branch_over();
  void backward_loop();
  void indirect_branch();
  void far_transfer();
  // Far transfers of the legacy modes: to selector:offset with a given operand size. `to` is bound behind it.
  struct Place {
    uint16_t selector;
    Mode mode;
  };
  enum class Far : uint8_t { jump, call, jump_memory, call_memory, ret, iret };
  Place code_place(Mode mode);
  void far_to(Far how, const Place& to);
  void visit();
  void bad_far_transfer();
  static bool loadable(SegReg reg, uint16_t selector);
  bool choose_load(SegReg& reg, uint16_t& selector);
  void load_segment();
  void pop_segment(SegReg reg, unsigned bits);
  void switch_stack();
  uint64_t stack_pointer(uint16_t selector);
  uint16_t stack_selector();
  void run_over_limit();
  void cut_branch();
  void load_far_pointer();
  void inspect_selector();
  void push_pop_segment();
  void bound();
  uint16_t any_selector();
  uint16_t data_selector();

  bool full() const { return size_ > kSlotSize - 160 || ended_; }

  const Generator& generator_;
  Random random_;
  Sequence sequence_;
  Mode mode_ = Mode::bits64;
  SegReg home_ = DS;       // legacy modes: this one stays flat
  std::array<std::optional<uint16_t>, 6> selector_;
  std::array<uint64_t, 6> base_{};  // of FS and GS beyond what the selector says
  std::array<std::optional<uint64_t>, 16> known_;
  Status undefined_ = 0;
  unsigned size_ = 0;
  unsigned depth_ = 0;     // of branches being built
  bool faulty_ = false;    // memory operands may fault
  bool ended_ = false;     // what follows cannot run
};

}  // namespace retrovisor::conformance
