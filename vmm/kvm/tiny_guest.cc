#include "vmm/kvm/tiny_guest.h"

#include <fmt/format.h>
#include <pthread.h>
#include <signal.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

namespace retrovisor::kvm {
namespace {

// Where things lie in the guest's memory, below kCode.
constexpr uint64_t kGdt = 0x1000, kLdt = 0x1800, kIdt = 0x2000, kTss = 0x3000;
constexpr uint64_t kPml4 = 0x4000, kPdpt = 0x5000, kPd = 0x6000;
constexpr uint64_t kHandlers = 0x7000, kHandlerSize = 16, kVectors = TinyGuest::kSystemCall + 1;
constexpr uint64_t kKernelStack = 0xa000;  // its top

constexpr uint16_t kKernelCs = 0x10, kCompatibilityCs = 0x23, kTssSelector = 0x40, kLdtSelector = 0x50;
constexpr uint64_t kLdtSize = 16;
constexpr uint8_t kHlt = 0xf4;

constexpr uint32_t kMsrStar = 0xc0000081, kMsrLstar = 0xc0000082, kMsrSfmask = 0xc0000084;

// Segment descriptors (SDM 3A 3.4.5): flat, present, accessed.
constexpr uint64_t kDescriptors[] = {
    0,
    0,
    0x00af9b000000ffff,  // 10h: 64-bit code, DPL 0
    0x00cf93000000ffff,  // 18h: data, DPL 0
    0x00cffb000000ffff,  // 20h: 32-bit code, DPL 3
    0x00cff3000000ffff,  // 28h: data, DPL 3
    0x00affb000000ffff,  // 30h: 64-bit code, DPL 3
    0,
    0x00008b0000000067 | (kTss << 16),
    0,                                                // 40h: busy 64-bit TSS
    0x0000820000000000 | (kLdt << 16) | (kLdtSize - 1),
    0,  // 50h: LDT
};
// Of the LDT.
constexpr uint64_t kUserCodeDescriptor = 0x00affb000000ffff;

enum class Form : uint8_t { code64, code32, data };

kvm_segment segment(uint16_t selector, uint8_t dpl, Form form) {
  kvm_segment s{};
  s.selector = selector;
  s.limit = 0xffffffff;
  s.type = form == Form::data ? 3 : 0xb;
  s.present = 1;
  s.dpl = dpl;
  s.s = 1;
  s.g = 1;
  s.l = form == Form::code64;
  s.db = form != Form::code64;
  return s;
}

}  // namespace

class TinyGuest::Memory {
 public:
  Memory() : base_(mmap(nullptr, kMemorySize, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0)) {}
  ~Memory() {
    if (base_ != MAP_FAILED) munmap(base_, kMemorySize);
  }
  Memory(const Memory&) = delete;
  Memory& operator=(const Memory&) = delete;

  bool ok() const { return base_ != MAP_FAILED; }
  std::span<uint8_t> bytes() const { return {static_cast<uint8_t*>(base_), kMemorySize}; }
  uint64_t address() const { return reinterpret_cast<uint64_t>(base_); }
  void put(uint64_t at, uint64_t value) { std::memcpy(bytes().subspan(at, 8).data(), &value, 8); }
  void put(uint64_t at, std::span<const uint8_t> data) { std::copy(data.begin(), data.end(), bytes().subspan(at).begin()); }

 private:
  void* base_;
};

// A timer that ends KVM_RUN of this thread by a signal. The signal is blocked but inside KVM_RUN, so it needs no handler.
class TinyGuest::Alarm {
 public:
  Alarm() {
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, signal_);
    pthread_sigmask(SIG_BLOCK, &set, &before_);
    sigevent event{};
    event.sigev_notify = SIGEV_THREAD_ID;
    event.sigev_signo = signal_;
    event._sigev_un._tid = gettid();
    made_ = timer_create(CLOCK_MONOTONIC, &event, &timer_) == 0;
  }
  ~Alarm() {
    if (made_) timer_delete(timer_);
    drain();
    pthread_sigmask(SIG_SETMASK, &before_, nullptr);
  }
  Alarm(const Alarm&) = delete;
  Alarm& operator=(const Alarm&) = delete;

  bool ok() const { return made_; }
  // For KVM_SET_SIGNAL_MASK: only the alarm ends a run.
  uint64_t blocked_signals() const { return ~(uint64_t{1} << (signal_ - 1)); }
  void set(std::chrono::milliseconds limit) {
    itimerspec when{};
    when.it_value.tv_sec = limit.count() / 1000;
    when.it_value.tv_nsec = (limit.count() % 1000) * 1'000'000;
    timer_settime(timer_, 0, &when, nullptr);
  }
  void clear() {
    set(std::chrono::milliseconds(0));
    drain();
  }

 private:
  void drain() {
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, signal_);
    const timespec now{};
    while (sigtimedwait(&set, nullptr, &now) == signal_) {
    }
  }

  const int signal_ = SIGRTMIN + 5;
  sigset_t before_{};
  timer_t timer_{};
  bool made_ = false;
};

std::string TinyGuest::End::text() const {
  switch (kind) {
    case Kind::halted: return "it ran";
    case Kind::syscall: return "SYSCALL's handler was reached in ring 0";
    case Kind::exception: return fmt::format("the guest got {} {}", vector < 32 ? "exception" : "interrupt", vector);
    case Kind::debug: return "KVM_EXIT_DEBUG";
    case Kind::read_msr: return "KVM_EXIT_X86_RDMSR";
    case Kind::emulation_failure: return "KVM_EXIT_INTERNAL_ERROR, an instruction KVM cannot emulate";
    case Kind::time_limit: return "no end within the time limit";
    case Kind::other: return reason == KVM_EXIT_SHUTDOWN ? "triple fault" : fmt::format("exit reason {}", reason);
  }
  return "?";
}

TinyGuest::TinyGuest(std::unique_ptr<Memory> memory, std::unique_ptr<Alarm> alarm, KvmVm vm, KvmVcpu vcpu)
    : memory_(std::move(memory)), alarm_(std::move(alarm)), vm_(std::move(vm)), vcpu_(std::move(vcpu)) {}

TinyGuest::~TinyGuest() = default;

Result<std::unique_ptr<TinyGuest>> TinyGuest::create(const Kvm& kvm, std::span<const kvm_cpuid_entry2> cpuid,
                                                     bool dirty_log, const VmOptions& options) {
  auto memory = std::make_unique<Memory>();
  auto alarm = std::make_unique<Alarm>();
  if (!memory->ok() || !alarm->ok())
    return Error{ErrorCode::io, fmt::format("no memory or no timer for a guest: {}", errno_text(errno)), "probe"};
  for (size_t i = 0; i < std::size(kDescriptors); ++i) memory->put(kGdt + 8 * i, kDescriptors[i]);
  memory->put(kLdt + (TinyGuest::kUserCodeInLdt & ~7U), kUserCodeDescriptor);
  memory->put(kTss + 4, kKernelStack);       // RSP0
  memory->put(kTss + 0x66, uint64_t{0x68});  // no I/O bitmap
  // Page tables: present, writable, user; one page of 2 MiB.
  memory->put(kPml4, kPdpt | 7);
  memory->put(kPdpt, kPd | 7);
  memory->put(kPd, uint64_t{0x87});
  for (uint64_t vector = 0; vector < kVectors; ++vector) {
    const uint64_t handler = kHandlers + vector * kHandlerSize;
    memory->bytes()[handler] = kHlt;
    const bool for_programs = vector == 3 || vector == 4 || vector == kSystemCall;
    const uint64_t type = for_programs ? 0xee00 : 0x8e00;  // 64-bit interrupt gate
    memory->put(kIdt + 16 * vector, (handler & 0xffff) | uint64_t{kKernelCs} << 16 | type << 32 | (handler >> 16) << 48);
  }
  memory->bytes()[kSyscall] = kHlt;

  RV_TRY(auto vm, kvm.create_vm(options));
  kvm_userspace_memory_region region{};
  region.flags = dirty_log ? KVM_MEM_LOG_DIRTY_PAGES : 0;
  region.memory_size = kMemorySize;
  region.userspace_addr = memory->address();
  RV_TRY(vm.set_memory_region(region));
  RV_TRY(auto vcpu, vm.create_vcpu(0));
  RV_TRY(vcpu.set_cpuid(cpuid));
  RV_TRY(vcpu.set_signal_mask(alarm->blocked_signals()));
  return std::unique_ptr<TinyGuest>(new TinyGuest(std::move(memory), std::move(alarm), std::move(vm), std::move(vcpu)));
}

Result<void> TinyGuest::load(Ring ring, std::span<const uint8_t> code, uint64_t cr4) {
  RV_ASSERT(code.size() <= kData - kCode);
  const std::span<uint8_t> space = memory_->bytes().subspan(kCode, kData - kCode);
  std::fill(space.begin(), space.end(), kHlt);
  memory_->put(kCode, code);

  kvm_sregs s{};
  RV_TRY(vcpu_.get_sregs(s));
  const bool user = ring != Ring::kernel;
  const uint8_t dpl = user ? 3 : 0;
  s.cs = ring == Ring::compatibility ? segment(kCompatibilityCs, dpl, Form::code32)
                                     : segment(user ? kUserCode : kKernelCs, dpl, Form::code64);
  s.ss = segment(user ? kUserData : kKernelData, dpl, Form::data);
  s.ds = s.es = s.fs = s.gs = s.ss;
  s.tr = {};
  s.tr.selector = kTssSelector;
  s.tr.base = kTss;
  s.tr.limit = 0x67;
  s.tr.type = 0xb;
  s.tr.present = 1;
  s.ldt = {};
  s.ldt.selector = kLdtSelector;
  s.ldt.base = kLdt;
  s.ldt.limit = kLdtSize - 1;
  s.ldt.type = 2;
  s.ldt.present = 1;
  s.gdt = {};
  s.gdt.base = kGdt;
  s.gdt.limit = sizeof(kDescriptors) - 1;
  s.idt = {};
  s.idt.base = kIdt;
  s.idt.limit = 16 * kVectors - 1;
  s.cr0 = 0x80050033;  // PG, AM, WP, NE, ET, MP, PE
  s.cr3 = kPml4;
  s.cr4 = 0x620 | cr4;  // OSXMMEXCPT, OSFXSR, PAE
  s.efer = 0x501;       // LMA, LME, SCE
  std::fill(std::begin(s.interrupt_bitmap), std::end(s.interrupt_bitmap), uint64_t{0});
  RV_TRY(vcpu_.set_sregs(s));
  kvm_regs r{};
  r.rip = kCode;
  r.rsp = user ? kUserStack : kKernelStack;
  r.rflags = 2;
  RV_TRY(vcpu_.set_regs(r));
  // SYSCALL: CS and SS from bits 47-32; SYSRET: from bits 63-48.
  const std::array<kvm_msr_entry, 3> msrs = {{
      {kMsrStar, 0, uint64_t{kKernelCs} << 32 | uint64_t{0x23} << 48},
      {kMsrLstar, 0, kSyscall},
      {kMsrSfmask, 0, 0},
  }};
  return vcpu_.set_msrs(msrs);
}

uint64_t TinyGuest::peek(uint64_t at) const {
  uint64_t value = 0;
  RV_ASSERT(at <= kMemorySize - sizeof value);
  std::memcpy(&value, memory_->bytes().subspan(at, sizeof value).data(), sizeof value);
  return value;
}

// RIP, CS, RFLAGS, RSP, SS end at the stack's top, whether or not an error code is below them.
uint64_t TinyGuest::fault_rip() const { return peek(kKernelStack - 5 * sizeof(uint64_t)); }

uint64_t TinyGuest::fault_rflags() const { return peek(kKernelStack - 3 * sizeof(uint64_t)); }

Result<TinyGuest::End> TinyGuest::run(std::chrono::milliseconds limit) {
  alarm_->set(limit);
  const auto ran = vcpu_.run();
  alarm_->clear();
  if (!ran) return ran.error();
  kvm_regs r{};
  RV_TRY(vcpu_.get_regs(r));
  End end;
  end.rip = r.rip;
  if (*ran == KvmVcpu::Ran::interrupted) {
    end.kind = End::Kind::time_limit;
    return end;
  }
  const kvm_run& page = vcpu_.run_area();
  end.reason = page.exit_reason;
  switch (page.exit_reason) {
    case KVM_EXIT_HLT:
      if (r.rip >= kHandlers && r.rip < kHandlers + kVectors * kHandlerSize) {
        end.kind = End::Kind::exception;
        end.vector = static_cast<uint8_t>((r.rip - kHandlers) / kHandlerSize);
      } else {
        end.kind = r.rip == kSyscall + 1 ? End::Kind::syscall : End::Kind::halted;
      }
      break;
    case KVM_EXIT_DEBUG: end.kind = End::Kind::debug; break;
    case KVM_EXIT_X86_RDMSR: end.kind = End::Kind::read_msr; break;
    case KVM_EXIT_INTERNAL_ERROR:
      if (page.internal.suberror == KVM_INTERNAL_ERROR_EMULATION) end.kind = End::Kind::emulation_failure;
      break;
    default: break;
  }
  return end;
}

std::array<kvm_cpuid_entry2, 6> tiny_cpuid(uint32_t leaf1_ecx) {
  std::array<kvm_cpuid_entry2, 6> table{};
  const auto set = [&](size_t i, uint32_t leaf, uint32_t eax, uint32_t ebx, uint32_t ecx, uint32_t edx) {
    table[i].function = leaf;
    table[i].eax = eax;
    table[i].ebx = ebx;
    table[i].ecx = ecx;
    table[i].edx = edx;
  };
  set(0, 0, 7, 0x756e6547, 0x6c65746e, 0x49656e69);  // GenuineIntel
  // Family 6, model 0Fh, stepping 1. FPU to PSE36, CLFLUSH, MMX, FXSR, SSE, SSE2.
  set(1, 1, 0x6f1, 0x800, leaf1_ecx, 0x078bfbff & ~uint32_t{0x40000});
  set(2, 7, 0, 0, 0, 0);
  table[2].flags = KVM_CPUID_FLAG_SIGNIFCANT_INDEX;
  set(3, 0x80000000, 0x80000008, 0, 0, 0);
  set(4, 0x80000001, 0, 0, 0, 0x20100800);  // long mode, NX, SYSCALL
  set(5, 0x80000008, 0x3028, 0, 0, 0);      // 40 physical, 48 linear address bits
  return table;
}

}  // namespace retrovisor::kvm
