// Whose answers the soft engine gives where processors differ.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string_view>

namespace retrovisor {

// Where AMD's and Intel's processors differ (flags that the manuals leave undefined, the order of faults, what is left behind by
// an instruction that faults), `model` has one fixed answer, the same on every host; the others give those processors' answers, so
// that what such a processor has pushed into memory under KVM is met again. docs/vendors.md lists them. Traces store the number.
enum class ProcessorModel : uint8_t {
  model = 0,
  amd = 1,       // measured: Zen 5
  intel = 2,     // measured: family 6, model 0xcf (Sapphire and Emerald Rapids)
  amd_zen3 = 3,  // measured: Zen 3. As amd, but BSF and BSR leave all flags but ZF alone
};
inline constexpr ProcessorModel kLastProcessorModel = ProcessorModel::amd_zen3;

// What generations of a vendor's processors have in common: model, amd or intel. All but a few rules look at this only.
constexpr ProcessorModel vendor_of(ProcessorModel model) {
  return model == ProcessorModel::amd_zen3 ? ProcessorModel::amd : model;
}

inline constexpr std::array<std::string_view, 4> kProcessorModelNames = {"model", "amd", "intel", "amd-zen3"};

constexpr std::string_view name_of(ProcessorModel model) { return kProcessorModelNames[static_cast<size_t>(model)]; }

constexpr std::optional<ProcessorModel> processor_model_named(std::string_view name) {
  for (size_t i = 0; i < kProcessorModelNames.size(); ++i)
    if (kProcessorModelNames[i] == name) return static_cast<ProcessorModel>(i);
  return std::nullopt;
}

}  // namespace retrovisor
