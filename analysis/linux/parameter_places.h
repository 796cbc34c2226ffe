// Where a function finds its parameters when it is entered. Source: System V ABI, AMD64 supplement 1.0, section 3.2.3.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "analysis/linux/btf.h"

namespace retrovisor {

class ParameterPlaces {
 public:
  explicit ParameterPlaces(const Btf& btf) : btf_(btf) {}
  // The next parameter's place as a DWARF expression, for where the return address is on top of the stack. Nothing: it has none,
  // or is of a kind that kernels do not pass; behind one of those nobody knows any more.
  std::optional<std::vector<uint8_t>> next(BtfId type);

 private:
  std::optional<std::vector<uint8_t>> in_registers(uint32_t size, uint32_t words);
  std::vector<uint8_t> on_stack(uint32_t size, uint32_t alignment);
  bool only_integers(BtfId type, uint64_t offset, uint32_t& patience) const;

  const Btf& btf_;
  uint32_t used_ = 0;    // integer registers
  uint64_t stack_ = 8;   // behind the return address
  bool lost_ = false;
};

}  // namespace retrovisor
