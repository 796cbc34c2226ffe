#include "vmm/kvm/msr_filter.h"

#include <algorithm>
#include <array>

#include "vmm/cpu/msr.h"

namespace retrovisor::kvm {

namespace {

constexpr uint32_t kRangeMsrs = 64;  // one word of bitmap: the smallest piece the kernel reads

}  // namespace

bool msr_in_sregs(uint32_t index) { return index == msr::EFER || index == msr::FS_BASE || index == msr::GS_BASE; }

std::vector<uint32_t> passed_msrs(const HostCapabilities& host) {
  std::vector<uint32_t> passed;
  for (const uint32_t index : msrs_kept_by_cpu()) {
    if (msr_in_sregs(index) || host.has_msr(index)) passed.push_back(index);
  }
  return passed;
}

std::vector<uint32_t> written_msrs(const HostCapabilities& host, std::span<const uint32_t> unchecked) {
  std::vector<uint32_t> written;
  for (const uint32_t index : passed_msrs(host)) {
    const bool often = index == msr::EFER || index == msr::FS_BASE || index == msr::GS_BASE || index == msr::KERNEL_GS_BASE;
    if (often && std::find(unchecked.begin(), unchecked.end(), index) == unchecked.end()) written.push_back(index);
  }
  return written;
}

Result<void> install_msr_filter(const KvmVm& vm, const HostCapabilities& host, std::span<const uint32_t> unchecked) {
  kvm_msr_filter filter{};
  std::array<uint64_t, KVM_MSR_FILTER_MAX_RANGES> bitmaps{};
  filter.flags = KVM_MSR_FILTER_DEFAULT_DENY;
  size_t ranges = 0;
  // A range is for reading or for writing: where one is for both and another covers the same registers, KVM asks the first alone.
  const auto pass = [&](std::span<const uint32_t> registers, uint32_t flags) {
    const size_t first = ranges;
    for (const uint32_t index : registers) {
      if (ranges == first || index - filter.ranges[ranges - 1].base >= kRangeMsrs) {
        RV_ASSERT(ranges < bitmaps.size());
        kvm_msr_filter_range& range = filter.ranges[ranges];
        range.flags = flags;
        range.base = index;
        range.nmsrs = kRangeMsrs;
        range.bitmap = static_cast<uint8_t*>(static_cast<void*>(&bitmaps[ranges]));
        ++ranges;
      }
      bitmaps[ranges - 1] |= uint64_t{1} << (index - filter.ranges[ranges - 1].base);
    }
  };
  pass(passed_msrs(host), KVM_MSR_FILTER_READ);
  pass(written_msrs(host, unchecked), KVM_MSR_FILTER_WRITE);
  // First where refused accesses go: with the filter alone they would be #GP.
  RV_TRY(vm.enable(KVM_CAP_X86_USER_SPACE_MSR, "KVM_CAP_X86_USER_SPACE_MSR",
                   KVM_MSR_EXIT_REASON_FILTER | KVM_MSR_EXIT_REASON_UNKNOWN | KVM_MSR_EXIT_REASON_INVAL));
  return vm.set_msr_filter(filter);
}

}  // namespace retrovisor::kvm
