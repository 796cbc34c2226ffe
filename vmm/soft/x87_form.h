// Forms of operands of the x87 instructions that compute or compare.
#pragma once

#include <cstdint>

namespace retrovisor::soft {

enum class X87Form : uint8_t {
  st0_sti,      // D8: ST(0) = ST(0) op ST(i)
  sti_st0,      // DC: ST(i) = ST(0) op ST(i)
  sti_st0_pop,  // DE: the same, then pop
  float32,
  float64,
  int16,
  int32,
};

}  // namespace retrovisor::soft
