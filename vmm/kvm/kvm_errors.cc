// Words for what went wrong.
#include <cerrno>
#include <cstring>

#include "vmm/kvm/kvm_api.h"

namespace retrovisor::kvm {

namespace {

constexpr int kAny = -1;
struct Advice {
  std::string_view name;  // empty: every call
  int error;              // kAny: every error
  std::string_view text;
};
// The first match counts.
constexpr Advice kAdvice[] = {
    {Kvm::kPath, ENOENT, "is KVM loaded? Try `modprobe kvm_intel` or `modprobe kvm_amd`, in a container pass the device in, "
                         "or use --engine=soft"},
    {Kvm::kPath, EACCES, "add yourself to group kvm (`usermod -aG kvm`, then log in again), or use --engine=soft"},
    {Kvm::kPath, EPERM, "the sandbox or container forbids the device; allow it, or use --engine=soft"},
    {Kvm::kPath, ENXIO, "the device has no driver: load kvm_intel or kvm_amd, or use --engine=soft"},
    {Kvm::kPath, ENODEV, "the device has no driver: load kvm_intel or kvm_amd, or use --engine=soft"},
    {"KVM_CREATE_VM", EBUSY, "another hypervisor holds the processor's virtualization; stop it, or use --engine=soft"},
    {"KVM_CREATE_VM", ENODEV, "virtualization is off in the firmware; switch on VT-x or AMD-V, or use --engine=soft"},
    {"KVM_CREATE_VM", EOPNOTSUPP, "virtualization is off in the firmware; switch on VT-x or AMD-V, or use --engine=soft"},
    {"KVM_CREATE_VCPU", EINVAL, "fewer vCPUs (--cpus) may do, or use --engine=soft"},
    {"KVM_SET_USER_MEMORY_REGION", EINVAL,
     "this KVM does not take the memory layout; try another --memory, or use --engine=soft"},
    {"KVM_SET_CPUID2", EINVAL, "this KVM does not take our CPU model; use --engine=soft"},
    {"", ENOMEM, "the host has no memory left for it: try a smaller --memory"},
    {"", EMFILE, "too many open files; raise the limit (`ulimit -n`)"},
    {"", ENFILE, "the host has too many open files"},
    {"", ENOTTY, "this KVM is too old for it; update the host's kernel, or use --engine=soft"},
    {"", EPERM, "the sandbox or container forbids it; allow it, or use --engine=soft"},
    {"KVM_RUN", EFAULT, "guest memory is not mapped on the host"},
    {"", kAny, "if it happens again, use --engine=soft"},
};

}  // namespace

std::string advice(std::string_view name, int error) {
  for (const Advice& a : kAdvice) {
    if ((a.name.empty() || a.name == name) && (a.error == kAny || a.error == error)) return "; " + std::string(a.text);
  }
  return {};
}

std::string errno_text(int error) {
  const char* text = strerrordesc_np(error);
  return text != nullptr ? text : "error " + std::to_string(error);
}

}  // namespace retrovisor::kvm
