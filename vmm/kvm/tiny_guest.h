// A guest of a few instructions, for asking a host's KVM how it does things. Long mode, the lowest 2 MiB mapped one to one
// for both rings, and a handler for each vector that halts, so that the end of a run tells what happened. Programs may use
// INT3, INTO and kSystemCall.
//
// Descriptors have Linux's places (kernel code 10h, data 18h, user data 2Bh, user code 33h, TSS 40h): a KVM nested in
// software shows its own selectors to ring 3, and those are these.
#pragma once

#include <array>
#include <chrono>
#include <cstdint>
#include <memory>
#include <span>
#include <string>

#include "vmm/kvm/kvm_api.h"
#include "vmm/result.h"

namespace retrovisor::kvm {

class TinyGuest {
 public:
  static constexpr uint64_t kMemorySize = 0x200000;
  static constexpr uint64_t kCode = 0x10000;    // where load() puts the code
  static constexpr uint64_t kSyscall = 0x8000;  // LSTAR: a HLT
  static constexpr uint64_t kData = 0x20000;    // a page of nothing

  static constexpr uint64_t kUserStack = 0xc000;  // its top
  static constexpr uint8_t kSystemCall = 0x80;    // the last vector
  // Selectors. The LDT has 64-bit code for ring 3.
  static constexpr uint16_t kKernelData = 0x18, kUserData = 0x2b, kUserCode = 0x33, kUserCodeInLdt = 0xf;

  enum class Ring : uint8_t { kernel, user, compatibility /* ring 3, 32-bit code */ };

  struct End {
    enum class Kind : uint8_t {
      halted,             // the code's own HLT
      syscall,            // the HLT that LSTAR points to
      exception,          // or interrupt, number `vector`
      debug,              // KVM_EXIT_DEBUG
      read_msr,           // KVM_EXIT_X86_RDMSR
      emulation_failure,  // KVM_EXIT_INTERNAL_ERROR, KVM_INTERNAL_ERROR_EMULATION
      time_limit,
      other,  // another exit, `reason`
    };
    Kind kind = Kind::other;
    uint8_t vector = 0;
    uint32_t reason = 0;  // KVM_EXIT_*
    uint64_t rip = 0;     // behind the HLT of a halt
    std::string text() const;
  };

  // `cpuid`: the table for KVM_SET_CPUID2. dirty_log: memory is logged (KVM_MEM_LOG_DIRTY_PAGES).
  static Result<std::unique_ptr<TinyGuest>> create(const Kvm& kvm, std::span<const kvm_cpuid_entry2> cpuid,
                                                   bool dirty_log = false, const VmOptions& options = {});
  ~TinyGuest();
  TinyGuest(const TinyGuest&) = delete;
  TinyGuest& operator=(const TinyGuest&) = delete;

  // Puts `code` at kCode and the vCPU at its begin, all general registers zero. `cr4`: bits to set beside those of long
  // mode.
  Result<void> load(Ring ring, std::span<const uint8_t> code, uint64_t cr4 = 0);
  // What the guest has at `at`, 8 bytes.
  uint64_t peek(uint64_t at) const;
  // Of an exception or interrupt, the kernel's if its stack was as load() left it: the address, the flags that were pushed.
  uint64_t fault_rip() const;
  uint64_t fault_rflags() const;
  // Runs to the next exit, or until `limit` is over. Reads no clock and no TSC.
  Result<End> run(std::chrono::milliseconds limit);

  KvmVm& vm() { return vm_; }
  KvmVcpu& vcpu() { return vcpu_; }

 private:
  class Memory;
  class Alarm;
  TinyGuest(std::unique_ptr<Memory> memory, std::unique_ptr<Alarm> alarm, KvmVm vm, KvmVcpu vcpu);

  std::unique_ptr<Memory> memory_;  // outlives the VM
  std::unique_ptr<Alarm> alarm_;
  KvmVm vm_;
  KvmVcpu vcpu_;
};

// A table with `leaf1_ecx` among what a 64-bit guest needs: nothing else of the host, no RDRAND, no RDTSCP.
std::array<kvm_cpuid_entry2, 6> tiny_cpuid(uint32_t leaf1_ecx = 0);

}  // namespace retrovisor::kvm
