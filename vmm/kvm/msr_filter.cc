#include "vmm/kvm/msr_filter.h"

#include <array>

#include "vmm/cpu/msr.h"

namespace retrovisor::kvm {

namespace {

constexpr uint32_t kRangeMsrs = 64;  // one word of bitmap: the smallest piece the kernel reads

}  // namespace

std::vector<uint32_t> passed_msrs(const HostCapabilities& host) {
  std::vector<uint32_t> passed;
  for (const uint32_t index : msrs_kept_by_cpu()) {
    const bool in_sregs = index == msr::EFER || index == msr::FS_BASE || index == msr::GS_BASE;
    if (in_sregs || host.has_msr(index)) passed.push_back(index);
  }
  return passed;
}

Result<void> install_msr_filter(const KvmVm& vm, const HostCapabilities& host) {
  kvm_msr_filter filter{};
  std::array<uint64_t, KVM_MSR_FILTER_MAX_RANGES> bitmaps{};
  filter.flags = KVM_MSR_FILTER_DEFAULT_DENY;
  size_t ranges = 0;
  for (const uint32_t index : passed_msrs(host)) {
    if (ranges == 0 || index - filter.ranges[ranges - 1].base >= kRangeMsrs) {
      RV_ASSERT(ranges < bitmaps.size());
      kvm_msr_filter_range& range = filter.ranges[ranges];
      range.flags = KVM_MSR_FILTER_READ | KVM_MSR_FILTER_WRITE;
      range.base = index;
      range.nmsrs = kRangeMsrs;
      range.bitmap = static_cast<uint8_t*>(static_cast<void*>(&bitmaps[ranges]));
      ++ranges;
    }
    bitmaps[ranges - 1] |= uint64_t{1} << (index - filter.ranges[ranges - 1].base);
  }
  // First where refused accesses go: with the filter alone they would be #GP.
  RV_TRY(vm.enable(KVM_CAP_X86_USER_SPACE_MSR, "KVM_CAP_X86_USER_SPACE_MSR",
                   KVM_MSR_EXIT_REASON_FILTER | KVM_MSR_EXIT_REASON_UNKNOWN | KVM_MSR_EXIT_REASON_INVAL));
  return vm.set_msr_filter(filter);
}

}  // namespace retrovisor::kvm
