#include "analysis/linux/kernel_btf.h"

#include <array>
#include <cstring>

namespace retrovisor {
namespace {

// Debian's has 4 to 6 MiB.
constexpr uint64_t kMostBytes = uint64_t{64} << 20;

bool is_signed(const Btf& btf, BtfId id) {
  const BtfId meaning = btf.resolve(id);
  switch (btf.type(meaning).kind) {
    case Btf::Kind::integer: return btf.integer(meaning).is_signed;
    case Btf::Kind::enumeration:
    case Btf::Kind::enumeration64: return btf.is_signed_enumeration(meaning);
    default: return false;
  }
}

}  // namespace

Result<std::vector<uint8_t>> kernel_btf_bytes(const KernelMemory& memory, const KernelSymbols& symbols) {
  const KernelSymbol* begin = symbols.find("__start_BTF");
  const KernelSymbol* end = symbols.find("__stop_BTF");
  if (begin == nullptr || end == nullptr)
    return Error{ErrorCode::unsupported, "the kernel carries no types (it was built without CONFIG_DEBUG_INFO_BTF)", "BTF"};
  if (end->address <= begin->address || end->address - begin->address > kMostBytes)
    return Error{ErrorCode::bad_image, "the kernel's types are not where its symbols say", "BTF"};
  auto bytes = memory.bytes(begin->address, end->address - begin->address);
  if (!bytes) return Error{ErrorCode::bad_image, "the kernel's types are not in memory", "BTF"};
  return std::move(*bytes);
}

Result<Btf> read_kernel_btf(const KernelMemory& memory, const KernelSymbols& symbols) {
  RV_TRY(const auto bytes, kernel_btf_bytes(memory, symbols));
  return Btf::parse(bytes);
}

Result<Btf> read_module_btf(const KernelMemory& memory, const Btf& kernel, uint64_t module) {
  const auto data = kernel.field("module", "btf_data"), data_size = kernel.field("module", "btf_data_size");
  if (!data || !data_size) return Error{ErrorCode::unsupported, "the kernel's modules carry no types", "BTF"};
  const auto at = read_field(memory, kernel, module, *data), size = read_field(memory, kernel, module, *data_size);
  if (!at || !size) return Error{ErrorCode::bad_image, "no module is there", "BTF"};
  if (*at == 0 || *size == 0) return Error{ErrorCode::unsupported, "the module carries no types", "BTF"};
  const auto bytes = *size <= kMostBytes ? memory.bytes(*at, *size) : std::nullopt;
  if (!bytes) return Error{ErrorCode::bad_image, "the module's types are not in memory", "BTF"};
  return Btf::parse(*bytes, &kernel);
}

std::optional<uint64_t> read_field(const KernelMemory& memory, const Btf& btf, uint64_t object, const Btf::Field& field) {
  if (field.bits == 0 || field.bits > 64 || field.bit > 7) return std::nullopt;
  const size_t size = (field.bit + field.bits + 7) / 8;  // up to 9
  std::array<uint8_t, 9> bytes{};
  if (memory.read(object + field.offset, std::span(bytes).first(size)) != size) return std::nullopt;
  uint64_t value = 0;
  std::memcpy(&value, bytes.data(), sizeof value);
  value >>= field.bit;
  if (field.bit != 0) value |= uint64_t{bytes[8]} << (64 - field.bit);
  if (field.bits == 64) return value;
  const uint64_t mask = (uint64_t{1} << field.bits) - 1;
  value &= mask;
  if (is_signed(btf, field.type) && (value >> (field.bits - 1) & 1) != 0) value |= ~mask;
  return value;
}

}  // namespace retrovisor
