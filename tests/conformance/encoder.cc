// How the builder turns instructions into bytes.
#include <algorithm>
#include <cstring>

#include "tests/conformance/builder.h"

namespace retrovisor::conformance {
namespace {

constexpr uint8_t kNone = 0xff;

}  // namespace

// SDM 2A table 2-1. Returns the number of bytes: ModRM and displacement.
unsigned Builder::encode_address16(const Memory& m, unsigned reg, uint8_t* out) {
  unsigned rm = 0;
  if (m.index != kNone) {
    rm = (m.base == RBP ? 2u : 0u) | (m.index == RDI ? 1u : 0u);
  } else {
    rm = m.base == RSI ? 4 : m.base == RDI ? 5 : m.base == RBX ? 7 : 6;
  }
  unsigned mod = 0, bytes = 2;
  if (m.base != kNone) {
    if (m.disp == 0 && rm != 6) {
      mod = random_.chance(90) ? 0 : 1 + random_.pick(2);
    } else {
      mod = m.disp >= -128 && m.disp < 128 && random_.chance(95) ? 1 : 2;
    }
    bytes = mod;
  }
  out[0] = low(mod << 6 | reg | rm);
  std::memcpy(out + 1, &m.disp, bytes);
  return 1 + bytes;
}

// SDM 2A tables 2-2 and 2-3; not for RIP-relative operands. Returns the number of bytes: ModRM, SIB, displacement.
unsigned Builder::encode_address(const Memory& m, unsigned reg, uint8_t* out) {
  unsigned n = 0;
  if (!is64() && m.base == kNone && m.index == kNone && random_.chance(70)) {  // without SIB
    out[n++] = low(reg | 5);
    std::memcpy(out + n, &m.disp, 4);
    return n + 4;
  }
  unsigned mod = 0;
  if (m.base != kNone) {
    if (m.disp == 0 && (m.base & 7) != 5) {
      mod = random_.chance(90) ? 0 : 1 + random_.pick(2);
    } else {
      mod = m.disp >= -128 && m.disp < 128 && random_.chance(95) ? 1 : 2;
    }
  }
  const bool sib = m.base == kNone || m.index != kNone || (m.base & 7) == 4;
  out[n++] = low(mod << 6 | reg | (sib ? 4 : m.base & 7u));
  if (sib) {
    const unsigned index = m.index == kNone ? 4 : m.index & 7u;
    out[n++] = low(m.scale * 64u | index << 3 | (m.base == kNone ? 5 : m.base & 7u));
  }
  const unsigned bytes = m.base == kNone ? 4 : mod == 0 ? 0 : mod == 1 ? 1 : 4;
  std::memcpy(out + n, &m.disp, bytes);
  return n + bytes;
}

void Builder::append(const Encoding& e, Item item) {
  need(item.reads);
  std::array<uint8_t, 32> b{};
  unsigned n = 0;
  std::array<uint8_t, 8> prefixes{};
  unsigned count = 0;
  const unsigned address = e.memory ? e.mem.address : e.address;
  const uint8_t segment = e.memory ? e.mem.segment : e.segment;
  if (e.prefix66 || (e.operand == 16 && mode_ != Mode::bits16) || (e.operand == 32 && mode_ == Mode::bits16)) {
    prefixes[count++] = 0x66;
  }
  if (e.rep != 0) prefixes[count++] = e.rep;
  if (e.lock) prefixes[count++] = 0xf0;
  if (address != 0 && address != mode_bits()) prefixes[count++] = 0x67;
  if (segment != 0) prefixes[count++] = segment;
  // A segment prefix that does nothing.
  if ((is64() || (e.modrm && !e.memory && address == 0)) && random_.permille(15)) {
    static constexpr uint8_t kIgnored[] = {0x26, 0x2e, 0x36, 0x3e};
    prefixes[count++] = random_.of(kIgnored);
  }
  for (unsigned i = 0; i < count; ++i) {  // in any order
    const unsigned k = i + random_.pick(count - i);
    std::swap(prefixes[i], prefixes[k]);
    b[n++] = prefixes[i];
  }
  uint8_t rex = 0;
  if (e.operand == 64) rex |= 8;
  if (e.modrm && e.reg >= 8) rex |= 4;
  if (e.memory) {
    if (e.mem.index != kNone && e.mem.index >= 8) rex |= 2;
    if (e.mem.base != kNone && e.mem.base >= 8) rex |= 1;
  } else if ((e.modrm || e.in_opcode) && e.rm >= 8) {
    rex |= 1;
  }
  rex |= e.rex_junk;
  if (rex != 0 || e.rex) b[n++] = low(0x40 | rex);
  if (e.map != 0) b[n++] = 0x0f;
  if (e.map >= 2) b[n++] = e.map == 2 ? 0x38 : 0x3a;
  b[n++] = low(e.in_opcode ? e.opcode | (e.rm & 7) : e.opcode);
  unsigned disp_at = 0;
  if (e.modrm) {
    const unsigned reg = (e.reg & 7u) << 3;
    if (!e.memory) {
      b[n++] = low(0xc0 | reg | (e.rm & 7));
    } else if (e.mem.rip) {
      b[n++] = low(0x05 | reg);
      disp_at = n;
      n += 4;
    } else if (address == 16) {
      n += encode_address16(e.mem, reg, b.data() + n);
    } else {
      n += encode_address(e.mem, reg, b.data() + n);
    }
  }
  std::memcpy(b.data() + n, &e.imm, e.imm_size);
  n += e.imm_size;
  if (e.memory && e.mem.rip) {
    const uint64_t effective = window(segment_of(e.mem)).offset(e.mem.target);
    const auto disp = static_cast<uint32_t>(effective - (sequence_.address + size_ + n));
    std::memcpy(b.data() + disp_at, &disp, 4);
  }
  if (n > 15) return;  // rather leave it out than run into #GP
  append_bytes(std::span<const uint8_t>(b.data(), n), item);
}

void Builder::append_bytes(std::span<const uint8_t> bytes, Item item) {
  std::copy(bytes.begin(), bytes.end(), item.bytes.begin());
  item.length = low(bytes.size());
  item.mode = mode_;
  note(item);
  size_ += item.length;
  sequence_.items.push_back(item);
}

void Builder::append_bytes(std::initializer_list<uint8_t> bytes, const char* name, Status defines, Status undefines,
                           Status reads) {
  need(reads);
  append_bytes(std::span<const uint8_t>(bytes.begin(), bytes.size()), named(name, defines, undefines, reads));
}

void Builder::note(const Item& item) { undefined_ = (undefined_ & ~item.defines) | item.undefines; }

void Builder::need(Status reads) {
  if ((reads & undefined_ & status::flags) != 0 && !own_model()) {  // cmp r, imm8
    Encoding e = register_form(0, 0x83, 7, random_.pick(registers()));
    e.operand = is64() && random_.chance(50) ? 64 : 32;
    e.imm = random_.next() & 0xff;
    e.imm_size = 1;
    append(e, named("cmp", status::flags));
  }
  if ((reads & undefined_ & status::x87) != 0) append_bytes({0xd9, 0xe5}, "fxam", status::x87);
}

}  // namespace retrovisor::conformance
