// The parts of KVM's interface to user space that <linux/kvm.h> cannot give to C++, and that older copies of it lack.
//
// Several headers of Linux (6.1 among them) declare the variable-length structures with an empty struct inside. That has
// size 0 in C and size 1 in C++, so in C++ the structures are larger, their entries lie elsewhere, and the request
// numbers, which hold the size, are unknown to the kernel. Hence our own: buffers of a header and entries, and the
// numbers that C has. Source: Documentation/virt/kvm/api.rst; include/uapi/linux/kvm.h.
#pragma once

#include <linux/kvm.h>

#include <array>
#include <cstddef>
#include <cstdint>

namespace retrovisor::kvm {

// Requests of ioctl(2) whose numbers hold the size of a variable-length structure.
namespace request {
inline constexpr unsigned long get_msr_index_list = _IOC(_IOC_READ | _IOC_WRITE, KVMIO, 0x02, 4);
inline constexpr unsigned long get_supported_cpuid = _IOC(_IOC_READ | _IOC_WRITE, KVMIO, 0x05, 8);
inline constexpr unsigned long get_msrs = _IOC(_IOC_READ | _IOC_WRITE, KVMIO, 0x88, 8);
inline constexpr unsigned long set_msrs = _IOC(_IOC_WRITE, KVMIO, 0x89, 8);
inline constexpr unsigned long set_signal_mask = _IOC(_IOC_WRITE, KVMIO, 0x8b, 4);
inline constexpr unsigned long set_cpuid2 = _IOC(_IOC_WRITE, KVMIO, 0x90, 8);
inline constexpr unsigned long get_cpuid2 = _IOC(_IOC_READ | _IOC_WRITE, KVMIO, 0x91, 8);
inline constexpr unsigned long get_xsave = _IOC(_IOC_READ, KVMIO, 0xa4, 4096);
inline constexpr unsigned long set_xsave = _IOC(_IOC_WRITE, KVMIO, 0xa5, 4096);
inline constexpr unsigned long get_xsave2 = _IOC(_IOC_READ, KVMIO, 0xcf, 4096);
}  // namespace request

inline constexpr size_t kMaxMsrEntries = 64;
inline constexpr size_t kMaxMsrIndices = 1024;
// The kernel's limit (KVM_MAX_CPUID_ENTRIES) was 80 before Linux 5.10; what it offers can be more than a guest's table.
inline constexpr size_t kMaxCpuidEntries = 256;

struct MsrBuffer {
  uint32_t count = 0;
  uint32_t pad = 0;
  std::array<kvm_msr_entry, kMaxMsrEntries> entries{};
};
struct MsrIndexBuffer {
  uint32_t count = 0;
  std::array<uint32_t, kMaxMsrIndices> indices{};
};
struct CpuidBuffer {
  uint32_t count = 0;
  uint32_t pad = 0;
  std::array<kvm_cpuid_entry2, kMaxCpuidEntries> entries{};
};
static_assert(offsetof(MsrBuffer, entries) == 8 && sizeof(kvm_msr_entry) == 16);
static_assert(offsetof(MsrIndexBuffer, indices) == 4);
static_assert(offsetof(CpuidBuffer, entries) == 8 && sizeof(kvm_cpuid_entry2) == 40);
static_assert(sizeof(kvm_regs) == 144 && sizeof(kvm_sregs) == 312 && sizeof(kvm_sregs2) == 320);
static_assert(sizeof(kvm_vcpu_events) == 64 && sizeof(kvm_debugregs) == 128 && sizeof(kvm_msr_filter) == 392);

// Without KVM_CAP_XSAVE2, and with it unless a process asks for components that a guest of ours never has, the area has
// this size.
struct alignas(64) XsaveArea {
  std::array<uint8_t, 4096> bytes{};
};

}  // namespace retrovisor::kvm
