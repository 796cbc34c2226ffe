// Whose answers the soft engine gives where processors differ.
#pragma once

#include <cstdint>

namespace retrovisor {

// Where AMD's and Intel's processors differ (flags that the manuals leave undefined, the order of faults, what is left behind by
// an instruction that faults), `model` has one fixed answer, the same on every host; `amd` and `intel` give those processors'
// answers, so that what such a processor has pushed into memory under KVM is met again. Traces store the number.
enum class ProcessorModel : uint8_t {
  model = 0,
  amd = 1,    // measured: Zen 3, Zen 5
  intel = 2,  // measured: family 6, model 0xcf (Sapphire and Emerald Rapids)
};
inline constexpr ProcessorModel kLastProcessorModel = ProcessorModel::intel;

}  // namespace retrovisor
