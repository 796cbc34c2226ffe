// What the x87 tests share: one instruction run by our handlers, and by the host's x87 on the same state.
#pragma once

#include <sys/mman.h>

#include <cstdint>
#include <cstring>
#include <initializer_list>
#include <memory>
#include <random>
#include <span>
#include <string>
#include <vector>

#include "vmm/soft/decode.h"
#include "vmm/soft/emit_x87.h"
#include "vmm/soft/x87_state.h"

namespace retrovisor::soft {

inline constexpr uint64_t kOperandAddress = 0x10040;
inline constexpr unsigned kOperandSize = 128;

inline bool same(const X87Register& a, const X87Register& b) {
  return a.mantissa == b.mantissa && a.sign_exponent == b.sign_exponent;
}
inline std::string text(const X87Register& v) {
  char out[40];
  snprintf(out, sizeof out, "%04x:%016llx", v.sign_exponent, static_cast<unsigned long long>(v.mantissa));
  return out;
}
inline std::string text(const X87State& f) {
  char head[80];
  snprintf(head, sizeof head, "fcw %04x fsw %04x (top %u) tag %02x st", f.fcw, f.fsw, x87_top(f), f.tag);
  std::string out = head;
  for (unsigned i = 0; i < 8; ++i) out += (x87_empty(f, i) ? " (empty)" : " ") + text(f.r[x87_physical(f, i)]);
  return out;
}

// Everything of it.
inline bool equal(const X87State& a, const X87State& b) {
  bool registers = true;
  for (unsigned i = 0; i < 8; ++i) registers = registers && same(a.r[i], b.r[i]);
  return registers && a.fcw == b.fcw && a.fsw == b.fsw && a.tag == b.tag && a.fop == b.fop && a.fip == b.fip &&
         a.fdp == b.fdp && a.fcs == b.fcs && a.fds == b.fds;
}

// The last handler of a test's two-op block.
inline RV_HANDLER stop_block(SoftCpu*, const Op*) { RV_LEAVE; }

// One vCPU in 64-bit mode with one page of memory that always hits the soft TLB.
class X87Bench {
 public:
  X87Bench() : cpu_(std::make_unique<SoftCpu>()), translations_(std::make_unique<Translations>()), page_(kPageSize) {
    Tlb& tlb = translations_->tlb[Translations::supervisor];
    for (TlbEntry& e : tlb.entry) e = {kNoTag, kNoTag, 0, 0};
    const uint64_t page = kOperandAddress & kPageMask;
    tlb.entry[(page >> kPageShift) % kTlbEntries] = {page, page, reinterpret_cast<uint64_t>(page_.data()) - page, 0};
    cpu_->translations = translations_.get();
    cpu_->tlb = &tlb;
    cpu_->mode = block_mode::code64;
    cpu_->s.cr0 = cr0::PE | cr0::PG | cr0::NE;
    cpu_->s.efer = efer::LME | efer::LMA;
    cpu_->s.segment[CS].attributes = seg::L | seg::P | seg::S | seg::code;
    cpu_->s.rip = 0x401000;
    cpu_->s.gpr[RSI] = kOperandAddress;
  }

  SoftCpu& cpu() { return *cpu_; }
  X87State& fpu() { return cpu_->s.x87; }
  uint8_t* operand() { return page_.data() + (kOperandAddress & ~kPageMask); }

  // D8-DF with one ModRM byte; memory forms address [rsi]. Emit::unknown if there is no such instruction.
  Emit decode(uint8_t opcode, uint8_t modrm, bool narrow = false) {
    Insn insn;
    insn.length = 2;
    insn.mode = cpu_->mode;
    insn.opcode = opcode;
    insn.operand_size = narrow ? 2 : 4;
    insn.has_modrm = opcode != 0x9b;
    insn.modrm = modrm;
    insn.memory = insn.has_modrm && modrm < 0xc0;
    ops_[0] = Op{};
    ops_[1] = Op{};
    ops_[0].base = slot_of(RSI);
    ops_[0].index = kZeroSlot;
    ops_[0].seg_off = kZeroSlot;
    ops_[0].ea = DS | 2 << ea::size_shift;
    ops_[0].remaining = 1;
    ops_[0].length = 2;
    ops_[0].ip_offset = 6;
    ops_[1].fn = stop_block;
    fpu_class = FpuClass::none;
    return emit_x87(insn, ops_[0], fpu_class);
  }
  // True: executed. False: cpu().fault is set.
  bool execute() {
    constexpr uint8_t kNone = 0xff;
    cpu_->fault.vector = kNone;
    const uint64_t rip = cpu_->s.rip;
#if RV_TAIL_CALLS
    ops_[0].fn(cpu_.get(), ops_);
#else
    for (const Op* op = ops_; op != nullptr;) op = op->fn(cpu_.get(), op);
#endif
    cpu_->s.rip = rip;
    return cpu_->fault.vector == kNone;
  }
  bool run(uint8_t opcode, uint8_t modrm, bool narrow = false) {
    return decode(opcode, modrm, narrow) != Emit::unknown && execute();
  }
  Op& op() { return ops_[0]; }

  FpuClass fpu_class = FpuClass::none;

 private:
  std::unique_ptr<SoftCpu> cpu_;
  std::unique_ptr<Translations> translations_;
  std::vector<uint8_t> page_;
  Op ops_[2] = {};
};

// Runs single instructions on the host's x87, between an FRSTOR and an FNSAVE, so that unmasked exceptions are seen and
// never trap.
class HostX87 {
 public:
  struct Outcome {
    uint64_t rflags;
    uint64_t rax;
  };
  HostX87() : code_(mmap(nullptr, kPageSize, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)) {}
  ~HostX87() { munmap(code_, kPageSize); }
  HostX87(const HostX87&) = delete;
  HostX87& operator=(const HostX87&) = delete;

  // The memory operand of the instruction, if any, is [rsi].
  void assemble(std::initializer_list<uint8_t> instruction) {
    std::vector<uint8_t> code = {0x48, 0x89, 0xd0, 0x51, 0x9d, 0xdd, 0x27};  // mov rax,rdx; push rcx; popf; frstor [rdi]
    code.insert(code.end(), instruction.begin(), instruction.end());
    // pushf; pop rcx; fnsave [rdi]; mov [r8],rcx; ret
    code.insert(code.end(), {0x9c, 0x59, 0xdd, 0x37, 0x49, 0x89, 0x08, 0xc3});
    mprotect(code_, kPageSize, PROT_READ | PROT_WRITE);
    std::memcpy(code_, code.data(), code.size());
    mprotect(code_, kPageSize, PROT_READ | PROT_EXEC);
  }

  Outcome run(X87State& f, void* operand, uint64_t rax, uint64_t rflags) {
    uint8_t image[108] = {};
    put(image, f.fcw);
    put(image + 4, f.fsw);
    put(image + 8, x87_full_tag(f));
    for (unsigned i = 0; i < 8; ++i) {
      std::memcpy(image + 28 + 10 * i, &x87_st(f, i).mantissa, 8);
      std::memcpy(image + 36 + 10 * i, &x87_st(f, i).sign_exponent, 2);
    }
    Outcome outcome{};
    using Code = uint64_t (*)(void*, void*, uint64_t, uint64_t, uint64_t*);
    outcome.rax = reinterpret_cast<Code>(code_)(image, operand, rax, rflags, &outcome.rflags);
    f.fcw = get(image);
    f.fsw = get(image + 4);
    f.tag = x87_abridged_tag(get(image + 8));
    for (unsigned i = 0; i < 8; ++i) {
      std::memcpy(&x87_st(f, i).mantissa, image + 28 + 10 * i, 8);
      std::memcpy(&x87_st(f, i).sign_exponent, image + 36 + 10 * i, 2);
    }
    return outcome;
  }

 private:
  static void put(uint8_t* at, uint16_t v) { std::memcpy(at, &v, 2); }
  static uint16_t get(const uint8_t* at) {
    uint16_t v;
    std::memcpy(&v, at, 2);
    return v;
  }
  void* code_;
};

// Operands that find mistakes: edges of every kind, and random bits.
class X87Values {
 public:
  explicit X87Values(uint64_t seed) : random_(seed) {}
  uint64_t bits() { return random_(); }
  bool chance(unsigned percent) { return random_() % 100 < percent; }

  X87Register value() {
    static constexpr uint16_t kExponents[] = {
        0, 1, 2, 63, 64, 0x3f7f, 0x3f80, 0x3f81, 0x3fbe, 0x3fbf, 0x3ffd, 0x3ffe, 0x3fff, 0x4000, 0x4001,
        0x400d, 0x400e, 0x401d, 0x401e, 0x403c, 0x403d, 0x403e, 0x407e, 0x407f, 0x43fe, 0x43ff, 0x3c00,
        0x3c01, 0x3bcc, 0x7ffd, 0x7ffe, 0x7fff, 0x7fff};
    static constexpr uint64_t kMantissas[] = {
        0x8000000000000000, 0x8000000000000001, 0xc000000000000000, 0xffffffffffffffff, 0xffffff0000000000,
        0xffffff8000000000, 0x8000008000000000, 0xfffffffffffff800, 0xfffffffffffffc00, 0x8000000000000400,
        0xa000000000000000, 0xc90fdaa22168c235, 0x0000000000000000, 0x0000000000000001, 0x4000000000000000,
        0x7fffffffffffffff};
    const uint16_t sign = chance(50) ? kX87Sign : uint16_t{0};
    const auto exponent = [&]() -> uint16_t {
      if (chance(45)) return kExponents[random_() % std::size(kExponents)];
      if (chance(60)) return static_cast<uint16_t>(0x3fff - 70 + random_() % 140);
      return random_() & 0x7fff;
    }();
    uint64_t mantissa = chance(50) ? kMantissas[random_() % std::size(kMantissas)] : random_();
    if (chance(30)) mantissa &= ~uint64_t{0} << random_() % 64;
    if (exponent != 0 && !chance(6)) mantissa |= kX87IntegerBit;
    if (chance(8)) return x87_zero(sign != 0);
    return {mantissa, static_cast<uint16_t>(sign | exponent)};
  }
  // A normal number with an exponent within `spread` of 2^center.
  X87Register normal(int center, unsigned spread) {
    const int e = 16383 + center - static_cast<int>(spread) + static_cast<int>(random_() % (2 * spread + 1));
    return {random_() | kX87IntegerBit, static_cast<uint16_t>((chance(50) ? kX87Sign : 0u) | static_cast<unsigned>(e))};
  }

  X87State state() {
    X87State f;
    for (X87Register& r : f.r) r = value();
    // Operands often meet near one another, where rounding and cancellation happen.
    if (chance(40)) {
      const unsigned i = random_() % 8;
      f.r[(i + 1) & 7].sign_exponent = static_cast<uint16_t>(f.r[i].sign_exponent + random_() % 5);
    }
    static constexpr uint16_t kPrecision[3] = {0, 2, 3};
    const unsigned masks = chance(60) ? fcw::masks : static_cast<unsigned>(random_() & fcw::masks);
    const uint64_t precision = kPrecision[random_() % 3], rounding = random_() & 3;
    f.fcw = x87_control(static_cast<uint16_t>(masks | precision << fcw::pc_shift | rounding << fcw::rc_shift));
    const uint64_t r = random_();
    f.fsw = static_cast<uint16_t>((r & (fsw::condition | fsw::top_mask)) | (r >> 32 & masks & fsw::exceptions));
    f.tag = chance(75) ? 0xff : static_cast<uint8_t>(random_());
    // Loads need a free register.
    if (chance(50)) f.tag = static_cast<uint8_t>(f.tag & ~(1u << x87_physical(f, 7)));
    return f;
  }

 private:
  std::mt19937_64 random_;
};

}  // namespace retrovisor::soft
