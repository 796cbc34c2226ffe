#include "analysis/linux/parameter_places.h"

#include <array>

#include "analysis/linux/byte_writer.h"

namespace retrovisor {
namespace {

// RDI, RSI, RDX, RCX, R8, R9 in DWARF's numbers (the supplement, figure 3.36).
constexpr std::array<uint8_t, 6> kRegisters = {5, 4, 1, 2, 8, 9};
constexpr uint8_t kOpReg0 = 0x50, kOpBregRsp = 0x77, kOpPiece = 0x93;
// Members of a structure of 16 bytes that are looked at before it counts as not understood.
constexpr uint32_t kPatience = 64;

}  // namespace

std::optional<std::vector<uint8_t>> ParameterPlaces::in_registers(uint32_t size, uint32_t words) {
  if (used_ + words > kRegisters.size()) return std::nullopt;
  ByteWriter out;
  for (uint32_t i = 0; i < words; ++i) {
    out.u8(kOpReg0 + kRegisters[used_++]);
    if (words == 1) continue;
    out.u8(kOpPiece);
    out.uleb(i + 1 < words ? 8 : size - 8 * i);
  }
  return out.take();
}

std::vector<uint8_t> ParameterPlaces::on_stack(uint32_t size, uint32_t alignment) {
  // The stack is aligned before the call: with the return address, 8 bytes later.
  stack_ = (stack_ - 8 + alignment - 1) / alignment * alignment + 8;
  ByteWriter out;
  out.u8(kOpBregRsp);
  out.sleb(static_cast<int64_t>(stack_));
  stack_ += (uint64_t{size} + 7) / 8 * 8;
  return out.take();
}

// Nothing but integers and pointers, each where it would be without `packed`: class INTEGER.
bool ParameterPlaces::only_integers(BtfId type, uint64_t offset, uint32_t& patience) const {
  if (patience == 0) return false;
  --patience;
  const BtfId id = btf_.resolve(type);
  const Btf::Type t = btf_.type(id);
  const uint32_t size = btf_.size_of(id).value_or(0);
  switch (t.kind) {
    case Btf::Kind::integer: return size <= 8 && offset % size == 0;
    case Btf::Kind::pointer:
    case Btf::Kind::enumeration:
    case Btf::Kind::enumeration64: return offset % size == 0;
    case Btf::Kind::array: {
      const Btf::Array a = btf_.array(id);
      const uint32_t element = btf_.size_of(a.element).value_or(0);
      for (uint32_t i = 0; i < a.count; ++i)
        if (!only_integers(a.element, offset + uint64_t{element} * i, patience)) return false;
      return true;
    }
    case Btf::Kind::structure:
    case Btf::Kind::union_:
      for (uint32_t i = 0; i < t.count; ++i) {
        const Btf::Member m = btf_.member(id, i);
        if (m.bits == 0 && !only_integers(m.type, offset + m.bit / 8, patience)) return false;
      }
      return true;
    default: return false;
  }
}

std::optional<std::vector<uint8_t>> ParameterPlaces::next(BtfId type) {
  const BtfId id = btf_.resolve(type);
  const auto size = btf_.size_of(id);
  if (lost_ || !size) {
    lost_ = true;
    return std::nullopt;
  }
  if (*size == 0) return std::nullopt;  // an empty structure is not passed at all
  const Btf::Kind kind = btf_.type(id).kind;
  if (kind == Btf::Kind::integer && *size == 16) {
    if (auto place = in_registers(16, 2)) return place;
    return on_stack(16, 16);
  }
  const bool aggregate = kind == Btf::Kind::structure || kind == Btf::Kind::union_;
  if (aggregate && *size > 16) return on_stack(*size, 8);
  uint32_t patience = kPatience;
  if (!only_integers(id, 0, patience)) {
    lost_ = true;
    return std::nullopt;
  }
  if (auto place = in_registers(*size, (*size + 7) / 8)) return place;
  return on_stack(*size, 8);
}

}  // namespace retrovisor
