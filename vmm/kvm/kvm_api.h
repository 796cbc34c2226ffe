// /dev/kvm, virtual machines and vCPUs as objects: the file descriptors and mappings are owned, every call is typed and
// every failure is an Error that names the ioctl or capability and says what to do. Source:
// Documentation/virt/kvm/api.rst.
//
// Nothing here knows a guest's state or the machine; the only policy is what a VM needs before its first vCPU.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "vmm/kvm/kvm_abi.h"
#include "vmm/result.h"

namespace retrovisor::kvm {

// The system calls of this room. Tests put failures, or a whole false KVM, in their place.
class SystemCalls {
 public:
  virtual ~SystemCalls() = default;
  // All but unmap and close give a value >= 0, or -errno.
  virtual int open(const char* path) = 0;
  // `arg` is a pointer or an integer, as the request wants it.
  virtual int ioctl(int fd, unsigned long request, void* arg) = 0;
  // Maps `size` bytes of `fd` from offset 0, shared, to read and write.
  virtual int map(int fd, size_t size, void** address) = 0;
  // pread(2).
  virtual long read_at(int fd, std::span<uint8_t> out, uint64_t offset) = 0;
  virtual void unmap(void* address, size_t size) = 0;
  virtual void close(int fd) = 0;
};
// The real ones. The object has no state.
SystemCalls& system_calls();

// An open file of KVM's. Movable; closes what it owns.
class File {
 public:
  File() = default;
  File(SystemCalls& calls, int fd) : calls_(&calls), fd_(fd) {}
  File(File&& other) noexcept : calls_(other.calls_), fd_(other.fd_) { other.fd_ = -1; }
  File& operator=(File&& other) noexcept;
  ~File() { reset(); }

  bool is_open() const { return fd_ >= 0; }
  int fd() const { return fd_; }
  SystemCalls& calls() const { return *calls_; }
  // The ioctl's result, or an Error "<name> failed: <reason>; <what to do>".
  Result<int> call(unsigned long request, const char* name, void* arg) const;
  Result<int> call(unsigned long request, const char* name, unsigned long arg) const;
  void reset();

 private:
  SystemCalls* calls_ = nullptr;
  int fd_ = -1;
};

// One capability that this room asks for.
struct Capability {
  uint32_t number = 0;
  const char* name = "";  // "KVM_CAP_USER_MEMORY"
  bool required = false;
  uint32_t at_least = 1;  // smallest value, or bits that must be set if `bits`
  bool bits = false;
  const char* use = "";   // what Retrovisor does with it
};
std::span<const Capability> wanted_capabilities();

// What this host's KVM offers, for the engine and for `doctor`.
struct HostCapabilities {
  struct Found {
    const Capability* capability = nullptr;
    uint32_t value = 0;  // 0: not offered
    bool enough() const;
  };
  int api_version = 0;
  std::vector<Found> found;  // as wanted_capabilities()
  uint32_t vcpu_map_size = 0;
  std::vector<uint32_t> msrs;                      // KVM_GET_MSR_INDEX_LIST, in KVM's order
  std::vector<kvm_cpuid_entry2> supported_cpuid;   // KVM_GET_SUPPORTED_CPUID

  // The value of KVM_CHECK_EXTENSION; 0 also for capabilities that are not in wanted_capabilities().
  uint32_t value(uint32_t number) const;
  bool has(uint32_t number) const { return value(number) != 0; }
  bool has_msr(uint32_t index) const;
};

// How a VM is set up; the defaults are what the engine uses.
struct VmOptions {
  // RDMSR and WRMSR come to user space but for the registers of msr_filter.h.
  bool filter_msrs = true;
  // WRMSR of these comes to user space although KVM keeps them: HostQuirks::unchecked_msrs.
  std::vector<uint32_t> unchecked_msrs;
  // An instruction that KVM cannot emulate is an exit at every privilege level, not #UD at level 3.
  bool exit_on_emulation_failure = true;
};

class KvmVm;

// KVM_CREATE_VCPU and the vCPU's shared page. One thread at a time.
class KvmVcpu {
 public:
  enum class Ran : uint8_t { exited, interrupted };  // interrupted: EINTR, by a signal or immediate_exit

  KvmVcpu(KvmVcpu&& other) noexcept;
  KvmVcpu& operator=(KvmVcpu&&) = delete;
  ~KvmVcpu();

  uint32_t id() const { return id_; }
  const File& file() const { return file_; }
  // The page shared with KVM; valid as long as this object.
  kvm_run& run_area() const { return *run_; }
  // Data of KVM_EXIT_IO: the bytes at io.data_offset; empty if what the page says lies outside of it.
  std::span<uint8_t> io_data() const;

  // KVM_RUN. The reason of an exit is in run_area().
  Result<Ran> run();

  Result<void> get_regs(kvm_regs& out) const;
  Result<void> set_regs(const kvm_regs& in) const;
  Result<void> get_sregs(kvm_sregs& out) const;
  Result<void> set_sregs(const kvm_sregs& in) const;
  Result<void> get_sregs2(kvm_sregs2& out) const;        // KVM_CAP_SREGS2
  Result<void> set_sregs2(const kvm_sregs2& in) const;
  Result<void> get_xsave(XsaveArea& out) const;
  Result<void> set_xsave(const XsaveArea& in) const;
  Result<void> get_xcr0(uint64_t& out) const;            // KVM_CAP_XCRS
  Result<void> set_xcr0(uint64_t value) const;
  Result<void> get_debugregs(kvm_debugregs& out) const;
  Result<void> set_debugregs(const kvm_debugregs& in) const;
  Result<void> get_events(kvm_vcpu_events& out) const;
  Result<void> set_events(const kvm_vcpu_events& in) const;
  Result<void> get_mp_state(uint32_t& out) const;
  Result<void> set_mp_state(uint32_t value) const;
  // All entries, or an Error that names the first register KVM refused.
  Result<void> get_msrs(std::span<kvm_msr_entry> entries) const;
  Result<void> set_msrs(std::span<const kvm_msr_entry> entries) const;
  Result<void> set_cpuid(std::span<const kvm_cpuid_entry2> entries) const;
  Result<std::vector<kvm_cpuid_entry2>> get_cpuid() const;
  // KVM_INTERRUPT: delivers an external interrupt at the next entry. KVM does not look at RFLAGS.IF or a shadow.
  Result<void> interrupt(uint8_t vector) const;
  Result<void> set_guest_debug(const kvm_guest_debug& in) const;
  // KVM_GET_STATS_FD; KVM_CAP_BINARY_STATS_FD.
  Result<File> stats() const;
  // The signals blocked while in KVM_RUN, bit n-1 for signal n, in place of the thread's own mask (KVM_SET_SIGNAL_MASK).
  Result<void> set_signal_mask(uint64_t blocked) const;

 private:
  friend class KvmVm;
  KvmVcpu(File file, uint32_t id, kvm_run* run, size_t size) : file_(std::move(file)), id_(id), run_(run), size_(size) {}

  File file_;
  uint32_t id_ = 0;
  kvm_run* run_ = nullptr;
  size_t size_ = 0;
};

// A virtual machine. Its vCPUs and memory slots live in the kernel until all of its files are closed: the memory behind
// slots must outlive this object and the vCPUs.
class KvmVm {
 public:
  KvmVm(KvmVm&&) = default;
  KvmVm& operator=(KvmVm&&) = default;

  const File& file() const { return file_; }

  Result<void> enable(uint32_t capability, const char* name, uint64_t argument = 0) const;
  Result<void> set_memory_region(const kvm_userspace_memory_region& region) const;
  // Copies slot `slot`'s log and clears it. `bitmap`: a bit per page, rounded up to whole words.
  Result<void> get_dirty_log(uint32_t slot, std::span<uint64_t> bitmap) const;
  Result<void> set_msr_filter(const kvm_msr_filter& filter) const;
  // Ids are below the host's KVM_CAP_MAX_VCPU_ID. The vCPU has no CPUID table yet.
  Result<KvmVcpu> create_vcpu(uint32_t id) const;

 private:
  friend class Kvm;
  KvmVm(File file, uint32_t vcpu_map_size) : file_(std::move(file)), vcpu_map_size_(vcpu_map_size) {}

  File file_;
  uint32_t vcpu_map_size_ = 0;
};

class Kvm {
 public:
  static constexpr const char* kPath = "/dev/kvm";

  // Opens the device, checks the version and the required capabilities, and asks what the host has.
  static Result<Kvm> open(SystemCalls& calls = system_calls(), const char* path = kPath);
  Kvm(Kvm&&) = default;
  Kvm& operator=(Kvm&&) = default;

  const File& file() const { return file_; }
  const HostCapabilities& capabilities() const { return capabilities_; }
  // A VM without interrupt controllers, timers or memory, ready for vCPUs: the pages that hosts without unrestricted
  // guests need are placed, hypercalls are not patched into guest code, the guest's performance counters are off, MSRs
  // are filtered.
  Result<KvmVm> create_vm(const VmOptions& options = {}) const;

 private:
  explicit Kvm(File file) : file_(std::move(file)) {}
  Result<void> probe();

  File file_;
  HostCapabilities capabilities_;
};

// The end of an error message: what a user can do about `error` (an errno) of `name`. Starts with "; " or is empty.
std::string advice(std::string_view name, int error);
// "No such file or directory", without the thread-unsafe strerror.
std::string errno_text(int error);

}  // namespace retrovisor::kvm
