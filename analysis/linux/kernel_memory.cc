#include "analysis/linux/kernel_memory.h"

#include <algorithm>

namespace retrovisor {

std::optional<std::vector<uint8_t>> KernelMemory::bytes(uint64_t at, size_t size) const {
  std::vector<uint8_t> out(size);
  if (read(at, out) != size) return std::nullopt;
  return out;
}

std::string KernelMemory::text(uint64_t at, size_t most) const {
  std::string out;
  std::array<uint8_t, 64> piece{};
  while (out.size() < most) {
    const size_t wanted = std::min(piece.size(), most - out.size());
    const size_t got = read(at + out.size(), std::span(piece).first(wanted));
    const auto end = std::find(piece.begin(), piece.begin() + static_cast<std::ptrdiff_t>(got), 0);
    out.append(piece.begin(), end);
    if (got < wanted || end != piece.begin() + static_cast<std::ptrdiff_t>(got)) break;
  }
  return out;
}

size_t ImageMemory::read(uint64_t at, std::span<uint8_t> out) const {
  const uint64_t offset = at - begin_;
  if (at < begin_ || offset >= bytes_.size()) return 0;
  const size_t n = std::min<size_t>(out.size(), bytes_.size() - offset);
  if (n != 0) std::memcpy(out.data(), bytes_.data() + offset, n);  // nothing may be wanted, at no address
  return n;
}

}  // namespace retrovisor
