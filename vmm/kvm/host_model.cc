#include "vmm/kvm/host_model.h"

#include "vmm/kvm/progress_counter.h"

namespace retrovisor::kvm {
namespace {

// Does BSF leave the sign flag as it was? With its source not zero, processors that compute flags clear it.
bool host_scans_keep_flags() {
  uint64_t bit = 0, flags = 0;
  // A negative operand of TEST sets SF. The red zone is not ours.
  asm volatile(
      "lea -128(%%rsp), %%rsp\n\ttest %2, %2\n\tbsf %2, %0\n\tpushfq\n\tpop %1\n\tlea 128(%%rsp), %%rsp"
      : "+r"(bit), "=&r"(flags)
      : "r"(int64_t{-2})
      : "cc", "memory");
  constexpr uint64_t kSign = 0x80;
  return (flags & kSign) != 0;
}

}  // namespace

ProcessorModel host_processor_model() {
  static const ProcessorModel model = processor_model_of(host_processor().vendor, host_scans_keep_flags());
  return model;
}

ProcessorModel processor_model_of(std::string_view vendor, bool scans_keep_flags) {
  // Hygon's processors have Zen cores. Which generation it is is told by what it does, not by its number: hypervisors
  // make numbers up.
  const bool amd = vendor == "AuthenticAMD" || vendor == "HygonGenuine";
  if (amd) return scans_keep_flags ? ProcessorModel::amd_zen3 : ProcessorModel::amd;
  if (vendor == "GenuineIntel") return ProcessorModel::intel;
  return ProcessorModel::model;
}

}  // namespace retrovisor::kvm
