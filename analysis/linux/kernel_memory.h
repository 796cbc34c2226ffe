// Memory of a guest's kernel by linear address, for readers that trust nothing in it: looking changes nothing, and what is no RAM
// is not there.
#pragma once

#include <array>
#include <bit>
#include <cstdint>
#include <cstring>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "vmm/machine/memory_view.h"

namespace retrovisor {

class KernelMemory {
 public:
  virtual ~KernelMemory() = default;

  // Copies bytes from `at` on; how many there were before the first that is not there.
  virtual size_t read(uint64_t at, std::span<uint8_t> out) const = 0;

  // A little-endian number (or another plain value).
  template <class T>
  std::optional<T> get(uint64_t at) const {
    std::array<uint8_t, sizeof(T)> bytes{};
    if (read(at, bytes) != bytes.size()) return std::nullopt;
    return std::bit_cast<T>(bytes);
  }
  // All of [at, at + size), or nothing. The caller bounds `size`.
  std::optional<std::vector<uint8_t>> bytes(uint64_t at, size_t size) const;
  // Up to a NUL, or to `most` bytes, or to where memory ends.
  std::string text(uint64_t at, size_t most) const;
};

// Through the page tables of a vCPU's state.
class MachineMemory final : public KernelMemory {
 public:
  MachineMemory(GuestMemory& memory, const CpuState& state) : view_(memory, state, false) {}
  size_t read(uint64_t at, std::span<uint8_t> out) const override { return view_.read(at, out); }

 private:
  MemoryView view_;  // of the state as it is when it is read
};

// Bytes that lie at `begin`: a file, or a test's.
class ImageMemory final : public KernelMemory {
 public:
  ImageMemory(uint64_t begin, std::span<const uint8_t> bytes) : begin_(begin), bytes_(bytes) {}
  size_t read(uint64_t at, std::span<uint8_t> out) const override;

 private:
  uint64_t begin_;
  std::span<const uint8_t> bytes_;
};

}  // namespace retrovisor
