// VMs and vCPUs: one method per ioctl.
#include <algorithm>
#include <cerrno>
#include <cstdio>

#include "vmm/kvm/kvm_api.h"

namespace retrovisor::kvm {

namespace {

template <class T>
Result<void> get(const File& file, unsigned long request, const char* name, T& out) {
  RV_TRY(file.call(request, name, &out));
  return {};
}
// ioctl(2) takes a plain pointer for both directions; with these requests the kernel only reads.
template <class T>
Result<void> set(const File& file, unsigned long request, const char* name, const T& in) {
  RV_TRY(file.call(request, name, const_cast<T*>(&in)));
  return {};
}

Result<void> enable_capability(const File& file, uint32_t capability, const char* name, uint64_t argument) {
  kvm_enable_cap cap{};
  cap.cap = capability;
  cap.args[0] = argument;
  const std::string call = std::string("KVM_ENABLE_CAP(") + name + ")";
  return set(file, KVM_ENABLE_CAP, call.c_str(), cap);
}

Error refused_msr(const char* name, uint32_t index, const char* what) {
  char number[16];
  std::snprintf(number, sizeof number, "%xh", index);
  return Error{ErrorCode::io, std::string(name) + " refused MSR " + number + what, {}};
}

}  // namespace

// --- VM --------------------------------------------------------------------------------------------------------------

Result<void> KvmVm::enable(uint32_t capability, const char* name, uint64_t argument) const {
  return enable_capability(file_, capability, name, argument);
}

Result<void> KvmVm::set_memory_region(const kvm_userspace_memory_region& region) const {
  return set(file_, KVM_SET_USER_MEMORY_REGION, "KVM_SET_USER_MEMORY_REGION", region);
}

Result<void> KvmVm::get_dirty_log(uint32_t slot, std::span<uint64_t> bitmap) const {
  kvm_dirty_log log{};
  log.slot = slot;
  log.dirty_bitmap = bitmap.data();
  return get(file_, KVM_GET_DIRTY_LOG, "KVM_GET_DIRTY_LOG", log);
}

Result<void> KvmVm::set_msr_filter(const kvm_msr_filter& filter) const {
  return set(file_, KVM_X86_SET_MSR_FILTER, "KVM_X86_SET_MSR_FILTER", filter);
}

Result<KvmVcpu> KvmVm::create_vcpu(uint32_t id) const {
  RV_TRY(auto fd, file_.call(KVM_CREATE_VCPU, "KVM_CREATE_VCPU", static_cast<unsigned long>(id)));
  File file(file_.calls(), fd);
  void* page = nullptr;
  if (const int error = file_.calls().map(fd, vcpu_map_size_, &page); error < 0) {
    const std::string why = errno_text(-error) + advice("", -error);
    return Error{ErrorCode::io, "cannot map the page shared with KVM (mmap of a vCPU): " + why, {}};
  }
  KvmVcpu vcpu(std::move(file), id, static_cast<kvm_run*>(page), vcpu_map_size_);
  // Without their leaves in CPUID, KVM's clocks and hypercalls shall not work either.
  RV_TRY(enable_capability(vcpu.file_, KVM_CAP_ENFORCE_PV_FEATURE_CPUID, "KVM_CAP_ENFORCE_PV_FEATURE_CPUID", 1));
  return vcpu;
}

// --- vCPU ------------------------------------------------------------------------------------------------------------

KvmVcpu::KvmVcpu(KvmVcpu&& other) noexcept
    : file_(std::move(other.file_)), id_(other.id_), run_(other.run_), size_(other.size_) {
  other.run_ = nullptr;
}

KvmVcpu::~KvmVcpu() {
  if (run_ != nullptr) file_.calls().unmap(run_, size_);
}

std::span<uint8_t> KvmVcpu::io_data() const {
  const auto& io = run_->io;
  const uint64_t bytes = uint64_t{io.size} * io.count;
  if (io.data_offset > size_ || bytes > size_ - io.data_offset) return {};
  // The bytes follow kvm_run in the same mapping.
  return std::span(static_cast<uint8_t*>(static_cast<void*>(run_)) + io.data_offset, static_cast<size_t>(bytes));
}

Result<KvmVcpu::Ran> KvmVcpu::run() {
  const int result = file_.calls().ioctl(file_.fd(), KVM_RUN, nullptr);
  if (result >= 0) return Ran::exited;
  if (result == -EINTR) return Ran::interrupted;
  return Error{ErrorCode::io, "KVM_RUN failed: " + errno_text(-result) + advice("KVM_RUN", -result), {}};
}

Result<void> KvmVcpu::get_regs(kvm_regs& out) const { return get(file_, KVM_GET_REGS, "KVM_GET_REGS", out); }
Result<void> KvmVcpu::set_regs(const kvm_regs& in) const { return set(file_, KVM_SET_REGS, "KVM_SET_REGS", in); }
Result<void> KvmVcpu::get_sregs(kvm_sregs& out) const { return get(file_, KVM_GET_SREGS, "KVM_GET_SREGS", out); }
Result<void> KvmVcpu::set_sregs(const kvm_sregs& in) const { return set(file_, KVM_SET_SREGS, "KVM_SET_SREGS", in); }
Result<void> KvmVcpu::get_sregs2(kvm_sregs2& out) const { return get(file_, KVM_GET_SREGS2, "KVM_GET_SREGS2", out); }
Result<void> KvmVcpu::set_sregs2(const kvm_sregs2& in) const { return set(file_, KVM_SET_SREGS2, "KVM_SET_SREGS2", in); }
Result<void> KvmVcpu::get_xsave(XsaveArea& out) const { return get(file_, request::get_xsave, "KVM_GET_XSAVE", out); }
Result<void> KvmVcpu::set_xsave(const XsaveArea& in) const { return set(file_, request::set_xsave, "KVM_SET_XSAVE", in); }
Result<void> KvmVcpu::get_debugregs(kvm_debugregs& out) const {
  return get(file_, KVM_GET_DEBUGREGS, "KVM_GET_DEBUGREGS", out);
}
Result<void> KvmVcpu::set_debugregs(const kvm_debugregs& in) const {
  return set(file_, KVM_SET_DEBUGREGS, "KVM_SET_DEBUGREGS", in);
}
Result<void> KvmVcpu::get_events(kvm_vcpu_events& out) const {
  return get(file_, KVM_GET_VCPU_EVENTS, "KVM_GET_VCPU_EVENTS", out);
}
Result<void> KvmVcpu::set_events(const kvm_vcpu_events& in) const {
  return set(file_, KVM_SET_VCPU_EVENTS, "KVM_SET_VCPU_EVENTS", in);
}
Result<void> KvmVcpu::set_guest_debug(const kvm_guest_debug& in) const {
  return set(file_, KVM_SET_GUEST_DEBUG, "KVM_SET_GUEST_DEBUG", in);
}

Result<void> KvmVcpu::get_xcr0(uint64_t& out) const {
  kvm_xcrs xcrs{};
  RV_TRY(get(file_, KVM_GET_XCRS, "KVM_GET_XCRS", xcrs));
  for (uint32_t i = 0; i < std::min<uint32_t>(xcrs.nr_xcrs, KVM_MAX_XCRS); ++i) {
    if (xcrs.xcrs[i].xcr == 0) {
      out = xcrs.xcrs[i].value;
      return {};
    }
  }
  // A processor without XSAVE has none.
  return Error{ErrorCode::unsupported, "KVM_GET_XCRS shows no XCR0; use --engine=soft", {}};
}

Result<void> KvmVcpu::set_xcr0(uint64_t value) const {
  kvm_xcrs xcrs{};
  xcrs.nr_xcrs = 1;
  xcrs.xcrs[0].value = value;
  return set(file_, KVM_SET_XCRS, "KVM_SET_XCRS", xcrs);
}

Result<void> KvmVcpu::get_mp_state(uint32_t& out) const {
  kvm_mp_state state{};
  RV_TRY(get(file_, KVM_GET_MP_STATE, "KVM_GET_MP_STATE", state));
  out = state.mp_state;
  return {};
}

Result<void> KvmVcpu::set_mp_state(uint32_t value) const {
  kvm_mp_state state{};
  state.mp_state = value;
  return set(file_, KVM_SET_MP_STATE, "KVM_SET_MP_STATE", state);
}

// Both MSR ioctls return how many entries went well; the next one is the refused one.

Result<void> KvmVcpu::get_msrs(std::span<kvm_msr_entry> entries) const {
  RV_ASSERT(entries.size() <= kMaxMsrEntries);
  MsrBuffer buffer;
  buffer.count = static_cast<uint32_t>(entries.size());
  std::copy(entries.begin(), entries.end(), buffer.entries.begin());
  RV_TRY(auto done, file_.call(request::get_msrs, "KVM_GET_MSRS", &buffer));
  const auto read = static_cast<size_t>(done);
  if (read < entries.size()) return refused_msr("KVM_GET_MSRS", entries[read].index, " although KVM lists it");
  std::copy_n(buffer.entries.begin(), entries.size(), entries.begin());
  return {};
}

Result<void> KvmVcpu::set_msrs(std::span<const kvm_msr_entry> entries) const {
  RV_ASSERT(entries.size() <= kMaxMsrEntries);
  MsrBuffer buffer;
  buffer.count = static_cast<uint32_t>(entries.size());
  std::copy(entries.begin(), entries.end(), buffer.entries.begin());
  RV_TRY(auto done, file_.call(request::set_msrs, "KVM_SET_MSRS", &buffer));
  const auto written = static_cast<size_t>(done);
  if (written < entries.size()) return refused_msr("KVM_SET_MSRS", entries[written].index, "'s value");
  return {};
}

Result<void> KvmVcpu::set_cpuid(std::span<const kvm_cpuid_entry2> entries) const {
  RV_ASSERT(entries.size() <= kMaxCpuidEntries);
  auto buffer = std::make_unique<CpuidBuffer>();
  buffer->count = static_cast<uint32_t>(entries.size());
  std::copy(entries.begin(), entries.end(), buffer->entries.begin());
  return set(file_, request::set_cpuid2, "KVM_SET_CPUID2", *buffer);
}

Result<std::vector<kvm_cpuid_entry2>> KvmVcpu::get_cpuid() const {
  auto buffer = std::make_unique<CpuidBuffer>();
  buffer->count = kMaxCpuidEntries;
  RV_TRY(get(file_, request::get_cpuid2, "KVM_GET_CPUID2", *buffer));
  const auto count = static_cast<ptrdiff_t>(std::min<size_t>(buffer->count, kMaxCpuidEntries));
  return std::vector<kvm_cpuid_entry2>(buffer->entries.begin(), buffer->entries.begin() + count);
}

Result<void> KvmVcpu::interrupt(uint8_t vector) const {
  kvm_interrupt in{};
  in.irq = vector;
  return set(file_, KVM_INTERRUPT, "KVM_INTERRUPT", in);
}

Result<File> KvmVcpu::stats() const {
  RV_TRY(auto fd, file_.call(KVM_GET_STATS_FD, "KVM_GET_STATS_FD", 0ul));
  return File(file_.calls(), fd);
}

Result<void> KvmVcpu::set_signal_mask(uint64_t blocked) const {
  struct {
    uint32_t size = 8;  // of the kernel's set, whatever the C library's sigset_t has
    uint8_t set[8];
  } mask;
  static_assert(sizeof mask == 12);
  std::copy_n(static_cast<const uint8_t*>(static_cast<const void*>(&blocked)), sizeof mask.set, mask.set);
  return set(file_, request::set_signal_mask, "KVM_SET_SIGNAL_MASK", mask);
}

}  // namespace retrovisor::kvm
