#include "vmm/kvm/kvm_api.h"

#include <fcntl.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>

#include "vmm/kvm/msr_filter.h"

namespace retrovisor::kvm {

namespace {

class RealCalls final : public SystemCalls {
 public:
  int open(const char* path) override { return negative_errno(::open(path, O_RDWR | O_CLOEXEC)); }
  int ioctl(int fd, unsigned long request, void* arg) override { return negative_errno(::ioctl(fd, request, arg)); }
  int map(int fd, size_t size, void** address) override {
    void* p = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (p == MAP_FAILED) return -errno;
    *address = p;
    return 0;
  }
  long read_at(int fd, std::span<uint8_t> out, uint64_t offset) override {
    const ssize_t n = pread(fd, out.data(), out.size(), static_cast<off_t>(offset));
    return n < 0 ? -errno : n;
  }
  void unmap(void* address, size_t size) override { munmap(address, size); }
  void close(int fd) override { ::close(fd); }

 private:
  static int negative_errno(int result) { return result < 0 ? -errno : result; }
};

// An ioctl may be cut short by a signal before it has done anything; KVM_CREATE_VM is known for it.
constexpr int kEintrRetries = 100;

// Quirks of KVM that it can be told to leave out (KVM_CAP_DISABLE_QUIRKS2):
// - moving RIP before the exit of OUT to port 7eh, unlike all other ports;
// - writing the host's kind of hypercall instruction into guest code; it shall be #UD;
// - MONITOR and MWAIT doing nothing where the CPU model does not have them; they shall be #UD.
// KVM_X86_QUIRK_CD_NW_CLEARED stays: without it the guest's CR0.CD switches real caches off.
constexpr uint64_t kUnwantedQuirks =
    KVM_X86_QUIRK_OUT_7E_INC_RIP | KVM_X86_QUIRK_FIX_HYPERCALL_INSN | KVM_X86_QUIRK_MWAIT_NEVER_UD_FAULTS;

// Four pages that Intel processors without unrestricted guest need for real mode: a TSS (three) and a page table. They
// lie below the boot firmware's place and above the local APIC, where the machine has neither RAM nor devices.
constexpr uint64_t kIdentityMapAddress = 0xfffbc000;
constexpr unsigned long kTssAddress = 0xfffbd000;

constexpr uint32_t kSyncAll = KVM_SYNC_X86_REGS | KVM_SYNC_X86_SREGS | KVM_SYNC_X86_EVENTS;

constexpr bool kRequired = true, kOptional = false;
#define RV_CAP(name, ...) Capability{name, #name, __VA_ARGS__}
constexpr Capability kCapabilities[] = {
    RV_CAP(KVM_CAP_USER_MEMORY, kRequired, 1, false, "guest memory"),
    RV_CAP(KVM_CAP_DESTROY_MEMORY_REGION_WORKS, kRequired, 1, false, "changing guest memory"),
    RV_CAP(KVM_CAP_NR_MEMSLOTS, kRequired, 8, false, "guest memory"),
    RV_CAP(KVM_CAP_EXT_CPUID, kRequired, 1, false, "the CPU model"),
    RV_CAP(KVM_CAP_ENFORCE_PV_FEATURE_CPUID, kRequired, 1, false, "hides KVM's paravirtual features"),
    RV_CAP(KVM_CAP_SYNC_REGS, kRequired, kSyncAll, true, "registers without a system call"),
    RV_CAP(KVM_CAP_IMMEDIATE_EXIT, kRequired, 1, false, "stopping at a point"),
    RV_CAP(KVM_CAP_X86_USER_SPACE_MSR, kRequired, 1, false, "MSRs answered by our CPU model"),
    RV_CAP(KVM_CAP_X86_MSR_FILTER, kRequired, 1, false, "MSRs answered by our CPU model"),
    RV_CAP(KVM_CAP_VCPU_EVENTS, kRequired, 1, false, "saving and restoring a vCPU"),
    RV_CAP(KVM_CAP_XSAVE, kRequired, 1, false, "saving and restoring a vCPU"),
    RV_CAP(KVM_CAP_XCRS, kRequired, 1, false, "saving and restoring a vCPU"),
    RV_CAP(KVM_CAP_DEBUGREGS, kRequired, 1, false, "saving and restoring a vCPU"),
    RV_CAP(KVM_CAP_MP_STATE, kRequired, 1, false, "starting and stopping vCPUs"),
    RV_CAP(KVM_CAP_XSAVE2, kOptional, 1, false, "saving and restoring a vCPU"),
    RV_CAP(KVM_CAP_SREGS2, kOptional, 1, false, "PDPTEs of PAE paging"),
    RV_CAP(KVM_CAP_SET_TSS_ADDR, kOptional, 1, false, "real mode on older Intel processors"),
    RV_CAP(KVM_CAP_SET_IDENTITY_MAP_ADDR, kOptional, 1, false, "real mode on older Intel processors"),
    RV_CAP(KVM_CAP_INTERNAL_ERROR_DATA, kOptional, 1, false, "bytes of instructions KVM cannot emulate"),
    RV_CAP(KVM_CAP_EXIT_ON_EMULATION_FAILURE, kOptional, 1, false, "the soft engine helps out in user mode too"),
    RV_CAP(KVM_CAP_DISABLE_QUIRKS2, kOptional, 1, false, "hypercalls are not patched into guest code"),
    RV_CAP(KVM_CAP_PMU_CAPABILITY, kOptional, 1, false, "no performance counters for the guest"),
    RV_CAP(KVM_CAP_SET_GUEST_DEBUG, kOptional, 1, false, "breakpoints and single steps"),
    RV_CAP(KVM_CAP_SET_GUEST_DEBUG2, kOptional, 1, false, "breakpoints and single steps"),
    RV_CAP(KVM_CAP_BINARY_STATS_FD, kOptional, 1, false, "counts emulated instructions"),
    RV_CAP(KVM_CAP_READONLY_MEM, kOptional, 1, false, "watchpoints by page"),
    RV_CAP(KVM_CAP_EXCEPTION_PAYLOAD, kOptional, 1, false, "exceptions on the way"),
    RV_CAP(KVM_CAP_X86_TRIPLE_FAULT_EVENT, kOptional, 1, false, "triple faults on the way"),
    RV_CAP(KVM_CAP_SMALLER_MAXPHYADDR, kOptional, 1, false, "physical addresses of 40 bits"),
    RV_CAP(KVM_CAP_TSC_CONTROL, kOptional, 1, false, "the TSC's rate"),
    RV_CAP(KVM_CAP_MAX_VCPUS, kOptional, 1, false, "several vCPUs"),
};
#undef RV_CAP

bool is_enough(const Capability& c, uint32_t value) {
  return c.bits ? (value & c.at_least) == c.at_least : value >= c.at_least;
}

}  // namespace

SystemCalls& system_calls() {
  static RealCalls calls;
  return calls;
}

File& File::operator=(File&& other) noexcept {
  if (this != &other) {
    reset();
    calls_ = other.calls_;
    fd_ = other.fd_;
    other.fd_ = -1;
  }
  return *this;
}

void File::reset() {
  if (fd_ >= 0) calls_->close(fd_);
  fd_ = -1;
}

Result<int> File::call(unsigned long request, const char* name, void* arg) const {
  RV_ASSERT(is_open());
  int result = -EINTR;
  for (int i = 0; i < kEintrRetries && result == -EINTR; ++i) result = calls_->ioctl(fd_, request, arg);
  if (result >= 0) return result;
  return Error{ErrorCode::io, std::string(name) + " failed: " + errno_text(-result) + advice(name, -result), {}};
}

Result<int> File::call(unsigned long request, const char* name, unsigned long arg) const {
  return call(request, name, reinterpret_cast<void*>(arg));
}

std::span<const Capability> wanted_capabilities() { return kCapabilities; }

bool HostCapabilities::Found::enough() const { return is_enough(*capability, value); }

uint32_t HostCapabilities::value(uint32_t number) const {
  for (const Found& f : found) {
    if (f.capability->number == number) return f.value;
  }
  return 0;
}

bool HostCapabilities::has_msr(uint32_t index) const {
  for (const uint32_t m : msrs) {
    if (m == index) return true;
  }
  return false;
}

Result<Kvm> Kvm::open(SystemCalls& calls, const char* path) {
  const int fd = calls.open(path);
  if (fd < 0) {
    const std::string why = errno_text(-fd) + advice(kPath, -fd);
    return Error{ErrorCode::unsupported, std::string("cannot open ") + path + ": " + why, {}};
  }
  Kvm kvm{File(calls, fd)};
  RV_TRY(kvm.probe());
  return kvm;
}

Result<void> Kvm::probe() {
  HostCapabilities& host = capabilities_;
  RV_TRY(const int version, file_.call(KVM_GET_API_VERSION, "KVM_GET_API_VERSION", 0ul));
  host.api_version = version;
  if (version != KVM_API_VERSION) {
    return Error{ErrorCode::unsupported,
                 "KVM_GET_API_VERSION says " + std::to_string(version) + ", not " + std::to_string(KVM_API_VERSION) +
                     "; update the host's kernel, or use --engine=soft", {}};
  }
  std::string lacking;
  for (const Capability& c : kCapabilities) {
    // Capabilities the kernel does not know are no error but 0.
    RV_TRY(auto value, file_.call(KVM_CHECK_EXTENSION, "KVM_CHECK_EXTENSION", static_cast<unsigned long>(c.number)));
    host.found.push_back({&c, static_cast<uint32_t>(value)});
    if (c.required && !is_enough(c, static_cast<uint32_t>(value))) {
      lacking += (lacking.empty() ? "" : ", ") + std::string(c.name) + " (" + c.use + ")";
    }
  }
  if (!lacking.empty()) {
    return Error{ErrorCode::unsupported,
                 "this host's KVM lacks " + lacking + "; update the host's kernel, or use --engine=soft", {}};
  }

  RV_TRY(auto size, file_.call(KVM_GET_VCPU_MMAP_SIZE, "KVM_GET_VCPU_MMAP_SIZE", 0ul));
  host.vcpu_map_size = static_cast<uint32_t>(size);
  if (host.vcpu_map_size < sizeof(kvm_run)) {
    return Error{ErrorCode::unsupported,
                 "KVM_GET_VCPU_MMAP_SIZE says " + std::to_string(size) + " bytes, too few; use --engine=soft", {}};
  }

  auto msrs = std::make_unique<MsrIndexBuffer>();
  msrs->count = kMaxMsrIndices;
  RV_TRY(file_.call(request::get_msr_index_list, "KVM_GET_MSR_INDEX_LIST", msrs.get()));
  host.msrs.assign(msrs->indices.begin(), msrs->indices.begin() + std::min<size_t>(msrs->count, kMaxMsrIndices));

  auto cpuid = std::make_unique<CpuidBuffer>();
  cpuid->count = kMaxCpuidEntries;
  RV_TRY(file_.call(request::get_supported_cpuid, "KVM_GET_SUPPORTED_CPUID", cpuid.get()));
  const size_t entries = std::min<size_t>(cpuid->count, kMaxCpuidEntries);
  host.supported_cpuid.assign(cpuid->entries.begin(), cpuid->entries.begin() + entries);
  return {};
}

Result<KvmVm> Kvm::create_vm(const VmOptions& options) const {
  RV_TRY(auto fd, file_.call(KVM_CREATE_VM, "KVM_CREATE_VM", 0ul));
  KvmVm vm(File(file_.calls(), fd), capabilities_.vcpu_map_size);
  const File& file = vm.file();
  if (capabilities_.has(KVM_CAP_SET_IDENTITY_MAP_ADDR)) {
    uint64_t address = kIdentityMapAddress;
    RV_TRY(file.call(KVM_SET_IDENTITY_MAP_ADDR, "KVM_SET_IDENTITY_MAP_ADDR", &address));
  }
  if (capabilities_.has(KVM_CAP_SET_TSS_ADDR)) {
    RV_TRY(file.call(KVM_SET_TSS_ADDR, "KVM_SET_TSS_ADDR", kTssAddress));
  }
  if (const uint64_t quirks = capabilities_.value(KVM_CAP_DISABLE_QUIRKS2) & kUnwantedQuirks; quirks != 0) {
    RV_TRY(vm.enable(KVM_CAP_DISABLE_QUIRKS2, "KVM_CAP_DISABLE_QUIRKS2", quirks));
  }
  if ((capabilities_.value(KVM_CAP_PMU_CAPABILITY) & KVM_PMU_CAP_DISABLE) != 0) {
    RV_TRY(vm.enable(KVM_CAP_PMU_CAPABILITY, "KVM_CAP_PMU_CAPABILITY", KVM_PMU_CAP_DISABLE));
  }
  if (options.exit_on_emulation_failure && capabilities_.has(KVM_CAP_EXIT_ON_EMULATION_FAILURE)) {
    RV_TRY(vm.enable(KVM_CAP_EXIT_ON_EMULATION_FAILURE, "KVM_CAP_EXIT_ON_EMULATION_FAILURE", 1));
  }
  if (options.filter_msrs) RV_TRY(install_msr_filter(vm, capabilities_, options.unchecked_msrs));
  return vm;
}

}  // namespace retrovisor::kvm
