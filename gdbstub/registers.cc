#include "gdbstub/registers.h"

#include <algorithm>
#include <array>
#include <cstring>

#include "vmm/cpu/canonical.h"
#include "vmm/cpu/control_registers.h"

namespace retrovisor::gdb {
namespace {

using Kind = Register::Kind;

constexpr std::string_view kFloat = "float";
constexpr std::string_view kVector = "vector";

// Little endian numbers of up to 8 bytes.
uint64_t number(std::span<const uint8_t> bytes) {
  uint64_t value = 0;
  std::memcpy(&value, bytes.data(), std::min<size_t>(bytes.size(), 8));
  return value;
}

std::vector<Register> make_x86_64() {
  std::vector<Register> out;
  constexpr std::array<std::string_view, 16> kNames{"rax", "rbx", "rcx", "rdx", "rsi", "rdi", "rbp", "rsp",
                                                    "r8",  "r9",  "r10", "r11", "r12", "r13", "r14", "r15"};
  constexpr std::array<unsigned, 8> kOrder{RAX, RBX, RCX, RDX, RSI, RDI, RBP, RSP};
  for (unsigned i = 0; i < 16; ++i)
    out.push_back(
        {kNames[i], Kind::gpr, i < 8 ? kOrder[i] : i, 8, i == 6 || i == 7 ? "data_ptr" : "int64", Feature::core, ""});
  out.push_back({"rip", Kind::pc, 0, 8, "code_ptr", Feature::core, ""});
  return out;
}

std::vector<Register> make_i386() {
  std::vector<Register> out;
  constexpr std::array<std::string_view, 8> kNames{"eax", "ecx", "edx", "ebx", "esp", "ebp", "esi", "edi"};
  for (unsigned i = 0; i < 8; ++i)
    out.push_back({kNames[i], Kind::gpr, i, 4, i == RSP || i == RBP ? "data_ptr" : "int32", Feature::core, ""});
  out.push_back({"eip", Kind::pc, 0, 4, "code_ptr", Feature::core, ""});
  return out;
}

std::vector<Register> complete(std::vector<Register> out, bool wide) {
  const unsigned word = wide ? 8 : 4;
  const std::string_view integer = wide ? "int64" : "int32";
  const std::string_view pointer = "data_ptr";
  out.push_back({"eflags", Kind::eflags, 0, 4, "eflags", Feature::core, ""});
  constexpr std::array<std::pair<std::string_view, SegReg>, 6> kSelectors{
      {{"cs", CS}, {"ss", SS}, {"ds", DS}, {"es", ES}, {"fs", FS}, {"gs", GS}}};
  for (const auto& [name, index] : kSelectors) out.push_back({name, Kind::selector, index, 4, "int32", Feature::core, ""});
  constexpr std::array<std::string_view, 8> kStack{"st0", "st1", "st2", "st3", "st4", "st5", "st6", "st7"};
  for (unsigned i = 0; i < 8; ++i) out.push_back({kStack[i], Kind::st, i, 10, "i387_ext", Feature::core, ""});
  constexpr std::array<std::string_view, 8> kX87{"fctrl", "fstat", "ftag", "fiseg", "fioff", "foseg", "fooff", "fop"};
  for (unsigned i = 0; i < 8; ++i) out.push_back({kX87[i], Kind::x87, i, 4, "int32", Feature::core, kFloat});
  constexpr std::array<std::string_view, 16> kXmm{"xmm0", "xmm1", "xmm2",  "xmm3",  "xmm4",  "xmm5",  "xmm6",  "xmm7",
                                                  "xmm8", "xmm9", "xmm10", "xmm11", "xmm12", "xmm13", "xmm14", "xmm15"};
  for (unsigned i = 0; i < (wide ? 16u : 8u); ++i)
    out.push_back({kXmm[i], Kind::xmm, i, 16, "vec128", Feature::sse, kVector});
  out.push_back({"mxcsr", Kind::mxcsr, 0, 4, "mxcsr", Feature::sse, kVector});
  // gdb 13 fails an assertion of its own when an i386 description has the feature for these.
  const Feature bases = wide ? Feature::segments : Feature::system;
  out.push_back({"fs_base", Kind::base, FS, word, integer, bases, ""});
  out.push_back({"gs_base", Kind::base, GS, word, integer, bases, ""});
  if (wide) out.push_back({"k_gs_base", Kind::k_gs_base, 0, 8, integer, Feature::system, ""});
  out.push_back({"cr0", Kind::cr, 0, word, "cr0", Feature::system, ""});
  out.push_back({"cr2", Kind::cr, 2, word, pointer, Feature::system, ""});
  out.push_back({"cr3", Kind::cr, 3, word, integer, Feature::system, ""});
  out.push_back({"cr4", Kind::cr, 4, word, "cr4", Feature::system, ""});
  out.push_back({"cr8", Kind::cr, 8, word, integer, Feature::system, ""});
  out.push_back({"efer", Kind::efer, 0, word, "efer", Feature::system, ""});
  return out;
}

const X87Register& stack_register(const X87State& x87, unsigned i) { return x87.r[((x87.fsw >> 11) + i) & 7]; }

// The tag word with two bits per register (SDM 1 8.1.7), from the abridged one and the registers.
uint16_t full_tag(const X87State& x87) {
  unsigned tag = 0;
  for (unsigned i = 0; i < 8; ++i) {
    unsigned t = 3;  // empty
    if ((x87.tag >> i & 1) != 0) {
      const unsigned exponent = x87.r[i].sign_exponent & 0x7fff;
      const uint64_t mantissa = x87.r[i].mantissa;
      if (exponent == 0 && mantissa == 0)
        t = 1;
      else
        t = exponent == 0 || exponent == 0x7fff || mantissa >> 63 == 0 ? 2 : 0;
    }
    tag |= t << (2 * i);
  }
  return static_cast<uint16_t>(tag);
}

uint64_t read_x87(const X87State& x, unsigned index) {
  switch (index) {
    case 0: return x.fcw;
    case 1: return x.fsw;
    case 2: return full_tag(x);
    // 64-bit code saves 64-bit pointers and no selectors (FXSAVE64): what is above 32 bits stands in the selector's place.
    case 3: return x.fcs != 0 ? x.fcs : x.fip >> 32 & 0xffff;
    case 4: return x.fip & 0xffffffff;
    case 5: return x.fds != 0 ? x.fds : x.fdp >> 32 & 0xffff;
    case 6: return x.fdp & 0xffffffff;
    default: return x.fop & 0x7ff;
  }
}

void write_x87(X87State& x, unsigned index, uint64_t value) {
  const auto word = static_cast<uint16_t>(value);
  switch (index) {
    case 0: x.fcw = static_cast<uint16_t>((word & 0x1f3f) | 0x40); break;
    case 1: x.fsw = word; break;
    case 2:
      x.tag = 0;
      for (unsigned i = 0; i < 8; ++i)
        if ((word >> (2 * i) & 3) != 3) x.tag = static_cast<uint8_t>(x.tag | 1u << i);
      break;
    case 3: x.fcs = word; break;
    case 4: x.fip = value & 0xffffffff; break;
    case 5: x.fds = word; break;
    case 6: x.fdp = value & 0xffffffff; break;
    default: x.fop = word & 0x7ff; break;
  }
}

uint64_t read_cr(const Vcpu& vcpu, unsigned index) {
  const CpuState& s = vcpu.state;
  switch (index) {
    case 0: return s.cr0;
    case 2: return s.cr2;
    case 3: return s.cr3;
    case 4: return s.cr4;
    default: return vcpu.interrupts != nullptr ? vcpu.interrupts->cr8() : 0;
  }
}

bool write_cr3(CpuState& s, GuestMemory& memory, uint64_t value) {
  if ((value >> kPhysicalBits) != 0) return false;
  if (s.pae_paging()) {
    uint8_t raw[32];
    if (!memory.read(PhysAddr(value & 0xffffffe0), raw)) return false;
    std::array<uint64_t, 4> entries{};
    for (size_t i = 0; i < 4; ++i) entries[i] = number(std::span(raw + 8 * i, 8));
    if (!std::all_of(entries.begin(), entries.end(), valid_pdpte)) return false;
    s.pdpte = entries;
  }
  s.cr3 = value;
  return true;
}

// Mode bits hang together (SDM 3A 2.5, 9.8.5), and segments and instruction lengths with them: a debugger does not
// switch modes.
bool write_cr(Vcpu& vcpu, GuestMemory& memory, unsigned index, uint64_t value) {
  CpuState& s = vcpu.state;
  constexpr uint64_t kMode0 = cr0::PE | cr0::PG;
  constexpr uint64_t kFree4 = kCr4Supported & ~(cr4::PSE | cr4::PAE);
  switch (index) {
    case 0:
      if (((value ^ s.cr0) & kMode0) != 0 || !valid_cr0(value)) return false;
      s.cr0 = value;
      return true;
    case 2: s.cr2 = value; return true;
    case 3: return write_cr3(s, memory, value);
    case 4:
      if (((value ^ s.cr4) & ~kFree4) != 0) return false;
      s.cr4 = value;
      return true;
    default:
      if (value > 15 || vcpu.interrupts == nullptr) return false;
      if (vcpu.interrupts->cr8() != value) vcpu.interrupts->set_cr8(static_cast<uint8_t>(value));
      return true;
  }
}

bool write_pc(CpuState& s, uint64_t value) {
  if (s.mode64()) {
    if (!is_canonical(value)) return false;
    s.rip = value;
  } else {
    s.rip = (value - s.segment[CS].base) & 0xffffffff;
  }
  return true;
}

bool write_flags(CpuState& s, uint64_t value) {
  if (((value ^ s.rflags) & flag::VM) != 0) return false;
  s.rflags = (s.rflags & ~flag::all) | (value & flag::all) | flag::fixed;
  return true;
}

void write_selector(CpuState& s, unsigned index, uint16_t value) {
  if (s.segment[index].selector == value) return;
  s.segment[index].selector = value;
  if (!s.protected_mode() || s.vm86()) s.segment[index].base = uint64_t{value} << 4;
}

bool write_number(Vcpu& vcpu, GuestMemory& memory, const Register& r, uint64_t value) {
  CpuState& s = vcpu.state;
  switch (r.kind) {
    case Kind::gpr:
      // Without REX the upper halves are out of reach: they stay.
      s.gpr[r.index] = r.bytes == 8 ? value : (s.gpr[r.index] & ~uint64_t{0xffffffff}) | value;
      return true;
    case Kind::pc: return write_pc(s, value);
    case Kind::eflags: return write_flags(s, value);
    case Kind::selector:
      if (value > 0xffff) return false;
      write_selector(s, r.index, static_cast<uint16_t>(value));
      return true;
    case Kind::x87: write_x87(s.x87, r.index, value); return true;
    case Kind::mxcsr:
      if ((value >> 16) != 0) return false;  // SDM 1 10.2.3: reserved
      s.mxcsr = static_cast<uint32_t>(value);
      return true;
    case Kind::base:
      if (!is_canonical(value)) return false;
      s.segment[r.index].base = value;
      return true;
    case Kind::k_gs_base:
      if (!is_canonical(value)) return false;
      s.kernel_gs_base = value;
      return true;
    case Kind::cr: return write_cr(vcpu, memory, r.index, value);
    case Kind::efer: {
      constexpr uint64_t kFree = efer::SCE | efer::NXE;
      if (((value ^ s.efer) & ~kFree) != 0) return false;
      s.efer = value;
      return true;
    }
    case Kind::st:
    case Kind::xmm: break;
  }
  return false;
}

}  // namespace

std::span<const Register> registers(Arch arch) {
  static const std::vector<Register> x86_64 = complete(make_x86_64(), true);
  static const std::vector<Register> i386 = complete(make_i386(), false);
  return arch == Arch::x86_64 ? x86_64 : i386;
}

size_t registers_size(Arch arch) {
  size_t size = 0;
  for (const Register& r : registers(arch)) size += r.bytes;
  return size;
}

std::vector<uint8_t> read_register(const Vcpu& vcpu, const Register& r) {
  const CpuState& s = vcpu.state;
  std::vector<uint8_t> out(r.bytes);
  uint64_t value = 0;
  switch (r.kind) {
    case Kind::st: {
      const X87Register& x = stack_register(s.x87, r.index);
      std::memcpy(out.data(), &x.mantissa, 8);
      std::memcpy(out.data() + 8, &x.sign_exponent, 2);
      return out;
    }
    case Kind::xmm: std::memcpy(out.data(), s.xmm[r.index].q, 16); return out;
    case Kind::gpr: value = s.gpr[r.index]; break;
    case Kind::pc: value = s.linear_rip().value; break;
    case Kind::eflags: value = s.rflags; break;
    case Kind::selector: value = s.segment[r.index].selector; break;
    case Kind::x87: value = read_x87(s.x87, r.index); break;
    case Kind::mxcsr: value = s.mxcsr; break;
    case Kind::base: value = s.segment[r.index].base; break;
    case Kind::k_gs_base: value = s.kernel_gs_base; break;
    case Kind::cr: value = read_cr(vcpu, r.index); break;
    case Kind::efer: value = s.efer; break;
  }
  std::memcpy(out.data(), &value, std::min<size_t>(r.bytes, 8));
  return out;
}

bool write_register(Vcpu& vcpu, GuestMemory& memory, const Register& r, std::span<const uint8_t> value) {
  if (value.size() != r.bytes) return false;
  // A debugger that gives a whole set back has changed one or two: what is as it was need not be possible to write.
  const std::vector<uint8_t> now = read_register(vcpu, r);
  if (std::memcmp(now.data(), value.data(), now.size()) == 0) return true;
  CpuState& s = vcpu.state;
  if (r.kind == Kind::st) {
    X87Register& x = s.x87.r[((s.x87.fsw >> 11) + r.index) & 7];
    std::memcpy(&x.mantissa, value.data(), 8);
    std::memcpy(&x.sign_exponent, value.data() + 8, 2);
    return true;
  }
  if (r.kind == Kind::xmm) {
    std::memcpy(s.xmm[r.index].q, value.data(), 16);
    return true;
  }
  return write_number(vcpu, memory, r, number(value));
}

}  // namespace retrovisor::gdb
