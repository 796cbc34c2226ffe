#include "analysis/linux/orc.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>

namespace retrovisor {
namespace {

constexpr size_t kAddressSize = 4, kEntrySize = 6;
// Debian's kernels have some 200,000 to 400,000.
constexpr uint64_t kMostEntries = 4'000'000;

Error bad(std::string what) { return Error{ErrorCode::bad_image, "the kernel's ORC table " + std::move(what), ""}; }

uint16_t bits_of(const uint8_t* entry) { return static_cast<uint16_t>(entry[4] | entry[5] << 8); }

constexpr unsigned kTypeShift = 8;

OrcPacking guess_packing(const std::vector<uint8_t>& raw) {
  size_t calls_of_old = 0, calls_of_new = 0, regs = 0, signals = 0;
  for (size_t at = 0; at < raw.size(); at += kEntrySize) {
    const uint16_t bits = bits_of(&raw[at]);
    const unsigned narrow = bits >> kTypeShift & 3;
    calls_of_old += narrow == 0;
    calls_of_new += (bits >> kTypeShift & 7) == 2;
    if (narrow != 1) continue;
    ++regs;
    signals += bits >> (kTypeShift + 2) & 1;
  }
  if (calls_of_new > calls_of_old) return OrcPacking::wide_type;
  return signals * 2 > regs ? OrcPacking::signal_and_end : OrcPacking::end_bit;
}

OrcType type_of(uint16_t bits, OrcPacking packing) {
  if (packing == OrcPacking::wide_type) {
    const unsigned type = bits >> kTypeShift & 7;
    return type <= static_cast<unsigned>(OrcType::regs_partial) ? static_cast<OrcType>(type) : OrcType::undefined;
  }
  const unsigned end = packing == OrcPacking::end_bit ? 2 : 3;
  if ((bits >> (kTypeShift + end) & 1) != 0) return OrcType::end_of_stack;
  // Entries of "nothing known here" (the linker's padding, code that objtool did not follow) have no stack pointer.
  if ((bits & 0xf) == static_cast<unsigned>(OrcRegister::undefined)) return OrcType::undefined;
  constexpr OrcType kTypes[] = {OrcType::call, OrcType::regs, OrcType::regs_partial, OrcType::undefined};
  return kTypes[bits >> kTypeShift & 3];
}

int16_t offset_at(const uint8_t* bytes) { return static_cast<int16_t>(bytes[0] | bytes[1] << 8); }

}  // namespace

Result<OrcTable> OrcTable::read(const KernelMemory& memory, uint64_t addresses, uint64_t entries, uint64_t count,
                                std::optional<OrcPacking> packing) {
  if (count == 0 || count > kMostEntries) return bad(fmt::format("has {} entries, expected 1 to {}", count, kMostEntries));
  const auto raw_addresses = memory.bytes(addresses, count * kAddressSize);
  const auto raw = memory.bytes(entries, count * kEntrySize);
  if (!raw_addresses || !raw) return bad(fmt::format("of {} entries at {:#x} and {:#x} is not all there", count, addresses, entries));
  OrcTable out;
  out.packing_ = packing ? *packing : guess_packing(*raw);
  out.addresses_.reserve(count);
  out.entries_.reserve(count);
  for (uint64_t i = 0; i < count; ++i) {
    int32_t distance = 0;
    std::memcpy(&distance, &(*raw_addresses)[i * kAddressSize], sizeof distance);
    const uint64_t at = addresses + i * kAddressSize + static_cast<uint64_t>(int64_t{distance});
    if (i != 0 && at < out.addresses_.back()) return bad(fmt::format("is not sorted: {:#x} is behind {:#x}", at, out.addresses_.back()));
    const uint8_t* const entry = &(*raw)[i * kEntrySize];
    const uint16_t bits = bits_of(entry);
    out.addresses_.push_back(at);
    out.entries_.push_back({offset_at(entry), offset_at(entry + 2), static_cast<OrcRegister>(bits & 0xf),
                            static_cast<OrcRegister>(bits >> 4 & 0xf), type_of(bits, out.packing_)});
  }
  return out;
}

std::optional<OrcEntry> OrcTable::find(uint64_t ip) const {
  const auto next = std::upper_bound(addresses_.begin(), addresses_.end(), ip);
  if (next == addresses_.begin()) return std::nullopt;
  return entries_[static_cast<size_t>(next - addresses_.begin()) - 1];
}

}  // namespace retrovisor
