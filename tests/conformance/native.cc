#include "tests/conformance/native.h"

#include <asm/ldt.h>
#include <fcntl.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/futex.h>
#include <linux/seccomp.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <ucontext.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstddef>
#include <cstring>
#include <ctime>

#include "tests/conformance/segments.h"
#include "vmm/cpu/registers.h"

// The signal handler runs with FS and GS bases of the sequence's choosing: nothing it calls may touch thread-local
// storage (which includes lazy binding; the executable is linked with -z now).
#define RV_NO_SANITIZE __attribute__((no_sanitize("address", "undefined", "thread")))

// Entry into a sequence and the way back. What the sequence leaves is stored by `conformance_exit`, which the code at
// kExit jumps to; if it faults, the signal handler stores it and returns to `conformance_resume`.
asm(R"(
  .pushsection .bss
  .balign 64
  .globl conformance_state
  .hidden conformance_state
conformance_state: .skip 688
conformance_rsp: .skip 8
conformance_target: .skip 6
conformance_ss: .skip 2
conformance_host_fs: .skip 8
  .globl conformance_fsgsbase
  .hidden conformance_fsgsbase
conformance_fsgsbase: .skip 8
  .globl conformance_ended
  .hidden conformance_ended
conformance_ended: .skip 8
  .popsection
  .pushsection .rodata
  .balign 4
conformance_mxcsr: .long 0x1f80
conformance_user_ss: .word 0x2b
  .popsection

  .pushsection .text
  .globl conformance_enter
  .hidden conformance_enter
  .type conformance_enter, @function
conformance_enter:
  push %rbx
  push %rbp
  push %r12
  push %r13
  push %r14
  push %r15
  mov %rsp, conformance_rsp(%rip)
  movq $0, conformance_ended(%rip)
  mov 128(%rdi), %rax
  mov %eax, conformance_target(%rip)
  movzwl 162(%rdi), %eax
  mov %ax, conformance_target+4(%rip)
  movzwl 164(%rdi), %eax
  mov %ax, conformance_ss(%rip)
  cmpq $0, conformance_fsgsbase(%rip)
  je 1f
  rdfsbase %rax
  mov %rax, conformance_host_fs(%rip)
  mov 168(%rdi), %fs
  mov 170(%rdi), %gs
  mov 144(%rdi), %rax
  wrfsbase %rax
  mov 152(%rdi), %rax
  wrgsbase %rax
1:
  mov 166(%rdi), %ds
  mov 160(%rdi), %es
  fxrstor64 176(%rdi)
  pushq 136(%rdi)
  popfq
  mov 0(%rdi), %rax
  mov 8(%rdi), %rcx
  mov 16(%rdi), %rdx
  mov 24(%rdi), %rbx
  mov 32(%rdi), %rsp
  mov 40(%rdi), %rbp
  mov 48(%rdi), %rsi
  mov 64(%rdi), %r8
  mov 72(%rdi), %r9
  mov 80(%rdi), %r10
  mov 88(%rdi), %r11
  mov 96(%rdi), %r12
  mov 104(%rdi), %r13
  mov 112(%rdi), %r14
  mov 120(%rdi), %r15
  mov 56(%rdi), %rdi
  mov conformance_ss(%rip), %ss
  ljmpl *conformance_target(%rip)

  # With a 16-bit stack segment an interrupt may spoil the upper half of RSP, so SS comes before RSP.
  .globl conformance_exit
  .hidden conformance_exit
conformance_exit:
  mov %rax, conformance_state+0(%rip)
  mov %rcx, conformance_state+8(%rip)
  mov %rdx, conformance_state+16(%rip)
  mov %rbx, conformance_state+24(%rip)
  mov %rsp, conformance_state+32(%rip)
  mov %rbp, conformance_state+40(%rip)
  mov %rsi, conformance_state+48(%rip)
  mov %rdi, conformance_state+56(%rip)
  mov %r8, conformance_state+64(%rip)
  mov %r9, conformance_state+72(%rip)
  mov %r10, conformance_state+80(%rip)
  mov %r11, conformance_state+88(%rip)
  mov %r12, conformance_state+96(%rip)
  mov %r13, conformance_state+104(%rip)
  mov %r14, conformance_state+112(%rip)
  mov %r15, conformance_state+120(%rip)
  mov %cs, conformance_state+162(%rip)
  mov %ss, conformance_state+164(%rip)
  mov conformance_user_ss(%rip), %ss
  mov conformance_rsp(%rip), %rsp
  pushfq
  popq conformance_state+136(%rip)
  fxsave64 conformance_state+176(%rip)
  movq $1, conformance_ended(%rip)
  .globl conformance_resume
  .hidden conformance_resume
conformance_resume:
  mov %es, conformance_state+160(%rip)
  mov %ds, conformance_state+166(%rip)
  mov %fs, conformance_state+168(%rip)
  mov %gs, conformance_state+170(%rip)
  pushq $2
  popfq
  fninit
  ldmxcsr conformance_mxcsr(%rip)
  xor %ecx, %ecx
  mov %ecx, %ds
  mov %ecx, %es
  cmpq $0, conformance_fsgsbase(%rip)
  je 1f
  rdfsbase %rax
  mov %rax, conformance_state+144(%rip)
  rdgsbase %rax
  mov %rax, conformance_state+152(%rip)
  mov %ecx, %fs
  mov %ecx, %gs
  mov conformance_host_fs(%rip), %rax
  wrfsbase %rax
1:
  pop %r15
  pop %r14
  pop %r13
  pop %r12
  pop %rbp
  pop %rbx
  ret
  .popsection
)");

extern "C" {
extern retrovisor::conformance::State conformance_state;
extern uint64_t conformance_rsp;
extern uint64_t conformance_fsgsbase;
extern uint64_t conformance_ended;
void conformance_enter(const retrovisor::conformance::State* state);
void conformance_exit();
void conformance_resume();
}

namespace retrovisor::conformance {

static_assert(offsetof(State, rip) == 128 && offsetof(State, fs_base) == 144 && offsetof(State, selector) == 160 &&
              offsetof(State, fx) == 176);
static_assert(sizeof(State) == 688);

struct NativeRunner::Shared {
  // Futex words: the number of the batch asked for, and of the last one finished.
  uint32_t asked;
  uint32_t done;
  uint32_t progress;  // sequences of this batch finished so far
  uint32_t first;     // sequence to start with
  uint32_t count;
  ArenaBytes pristine;
  State states[kSlots];
  Outcome outcomes[kSlots];
};

namespace {

constexpr unsigned kSignalStackSize = 1 << 16;
constexpr unsigned kStuckMs = 5000;

// What the signal handler fills besides conformance_state. One child, one thread: these are its registers, so to speak.
struct FaultRecord {
  uint8_t vector;
  uint32_t error_code;
  uint64_t cr2;
};
constinit FaultRecord g_fault{};
constinit bool g_inside = false;

RV_NO_SANITIZE long raw_syscall(long number, long a, long b, long c, long d) {
  long result;
  register long r10 asm("r10") = d;
  asm volatile("syscall" : "=a"(result) : "a"(number), "D"(a), "S"(b), "d"(c), "r"(r10) : "rcx", "r11", "memory");
  return result;
}

RV_NO_SANITIZE long address_of(uint32_t& word) { return static_cast<long>(reinterpret_cast<uintptr_t>(&word)); }

RV_NO_SANITIZE void on_fault(int, siginfo_t*, void* context) {
  asm volatile("pushfq; andq $~0x40000, (%%rsp); popfq" ::: "memory", "cc");  // the sequence may have set AC
  auto* uc = static_cast<ucontext_t*>(context);
  greg_t* g = uc->uc_mcontext.gregs;
  if (!g_inside) raw_syscall(SYS_exit_group, 3, 0, 0, 0);
  static constexpr int kOrder[16] = {REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP, REG_RSI, REG_RDI,
                                     REG_R8,  REG_R9,  REG_R10, REG_R11, REG_R12, REG_R13, REG_R14, REG_R15};
  State& s = conformance_state;
  for (unsigned i = 0; i < 16; ++i) s.gpr[i] = static_cast<uint64_t>(g[kOrder[i]]);
  s.rip = static_cast<uint64_t>(g[REG_RIP]);
  s.rflags = static_cast<uint64_t>(g[REG_EFL]);
  auto* fx = reinterpret_cast<uint8_t*>(uc->uc_mcontext.fpregs);
  __builtin_memcpy(s.fx.data(), fx, s.fx.size());
  // The kernel stores CS and SS; the others are still the sequence's own and are read by conformance_resume.
  const auto selectors = static_cast<uint64_t>(g[REG_CSGSFS]);
  s.selector[CS] = static_cast<uint16_t>(selectors);
  s.selector[SS] = static_cast<uint16_t>(selectors >> 48);
  g_fault.vector = static_cast<uint8_t>(g[REG_TRAPNO]);
  g_fault.error_code = static_cast<uint32_t>(g[REG_ERR]);
  g_fault.cr2 = g_fault.vector == 14 ? static_cast<uint64_t>(g[REG_CR2]) : 0;
  g[REG_RIP] = static_cast<greg_t>(reinterpret_cast<uintptr_t>(&conformance_resume));
  g[REG_RSP] = static_cast<greg_t>(conformance_rsp);
  g[REG_EFL] = 0x202;
  g[REG_CSGSFS] = static_cast<greg_t>(kUserCs | uint64_t{kUserSs} << 48);
  // Nothing pending may be left for the kernel's or our own next x87 or SSE instruction.
  fx[0] = 0x7f;
  fx[1] = 0x03;
  fx[2] = fx[3] = 0;
  constexpr uint32_t kMxcsr = 0x1f80;
  __builtin_memcpy(fx + 24, &kMxcsr, 4);
}

bool install_handlers() {
  void* stack = mmap(nullptr, kSignalStackSize, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (stack == MAP_FAILED) return false;
  stack_t alternate{};
  alternate.ss_sp = stack;
  alternate.ss_size = kSignalStackSize;
  if (sigaltstack(&alternate, nullptr) != 0) return false;
  struct sigaction action {};
  action.sa_sigaction = on_fault;
  action.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER;
  for (const int number : {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP}) {
    if (sigaction(number, &action, nullptr) != 0) return false;
  }
  return true;
}

// From here on the process can wait, return from a signal, and end. Whatever a sequence does, it does no more.
bool enter_sandbox() {
  sock_filter filter[] = {
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, arch)),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, AUDIT_ARCH_X86_64, 1, 0),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS),
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr)),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_futex, 3, 0),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_rt_sigreturn, 2, 0),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_exit_group, 1, 0),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
  };
  sock_fprog program{};
  program.len = static_cast<unsigned short>(std::size(filter));
  program.filter = filter;
  return prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 && prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) == 0;
}

bool map_at(uint64_t address, uint64_t size, int protection, int fd, uint64_t offset) {
  void* const wanted = reinterpret_cast<void*>(address);
  const int flags = (fd < 0 ? MAP_PRIVATE | MAP_ANONYMOUS : MAP_SHARED) | MAP_FIXED_NOREPLACE | MAP_POPULATE;
  return mmap(wanted, size, protection, flags, fd, static_cast<off_t>(offset)) == wanted;
}

// Loads the local descriptor table. 0, or errno.
int install_ldt() {
  const auto& table = local_descriptors();
  for (unsigned i = 0; i < table.size(); ++i) {
    const Descriptor& d = table[i];
    user_desc u{};
    u.entry_number = i;
    u.base_addr = d.base;
    u.limit = d.limit;
    u.seg_32bit = d.big;
    u.contents = d.code() ? MODIFY_LDT_CONTENTS_CODE
                          : d.kind == Descriptor::Kind::stack ? MODIFY_LDT_CONTENTS_STACK : MODIFY_LDT_CONTENTS_DATA;
    u.read_exec_only = !d.open;
    u.limit_in_pages = d.pages;
    u.seg_not_present = !d.present;
    constexpr int kWrite = 0x11;
    // The call's result is an int, whatever syscall() makes of it.
    const auto result = static_cast<int>(syscall(SYS_modify_ldt, kWrite, &u, sizeof u));
    if (result != 0) return result == -1 ? errno : -result;
  }
  return 0;
}

// jmp [rip + 2] and the address of conformance_exit, aligned (AC may be set).
bool map_exit() {
  if (!map_at(kExit, kPageSize, PROT_READ | PROT_WRITE, -1, 0)) return false;
  auto* code = reinterpret_cast<uint8_t*>(kExit);
  static constexpr uint8_t kJump[] = {0xff, 0x25, 2, 0, 0, 0, 0, 0};
  std::memcpy(code, kJump, sizeof kJump);
  void (*target)() = &conformance_exit;
  std::memcpy(code + sizeof kJump, &target, sizeof target);
  return mprotect(code, kPageSize, PROT_READ | PROT_EXEC) == 0;
}

RV_NO_SANITIZE void run_one(const State& state, const uint8_t* pristine, Outcome& out) {
  g_fault = {kNoFault, 0, 0};
  g_inside = true;
  conformance_enter(&state);
  g_inside = false;
  out.vector = g_fault.vector;
  out.error_code = g_fault.error_code;
  out.cr2 = g_fault.cr2;
  if (conformance_fsgsbase == 0) {
    conformance_state.fs_base = state.fs_base;
    conformance_state.gs_base = state.gs_base;
  }
  if (conformance_ended != 0) conformance_state.rip = kExit;
  __builtin_memcpy(&out.state, &conformance_state, sizeof(State));
  const auto page = [](unsigned p) { return reinterpret_cast<uint8_t*>(kArena + p * kPageSize); };
  const auto restore = [&](unsigned p, unsigned at, const uint8_t* bytes) { __builtin_memcpy(page(p) + at, bytes, kLine); };
  collect_lines(pristine, page, restore, out);
}

}  // namespace

bool host_has_fsgsbase() { return (getauxval(AT_HWCAP2) & 2) != 0; }

RV_NO_SANITIZE void NativeRunner::child_main() {
  const rlimit no_core{0, 0};
  setrlimit(RLIMIT_CORE, &no_core);
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  bool ok = map_at(kCode, kCodeMapped, PROT_READ | PROT_EXEC, code_fd_, 0) && map_exit();
  for (unsigned p = 0; p < kArenaPages; ++p) {
    if (kArenaLayout[p] == PageKind::none) continue;
    const int protection = PROT_READ | (kArenaLayout[p] == PageKind::read_only ? 0 : PROT_WRITE) |
                           (kArenaLayout[p] == PageKind::executable ? PROT_EXEC : 0);
    ok = ok && map_at(kArena + p * kPageSize, kPageSize, protection, arena_fd_, p * kPageSize);
  }
  const auto alias = [&](uint64_t address, uint64_t of) {
    ok = ok && map_at(address, kPageSize, PROT_READ | PROT_WRITE, arena_fd_, of - kArena);
  };
  alias(kWrap + kWrapSize - kPageSize, kStackBegin);
  alias(kWrap, kStackBegin + kPageSize);
  alias(kTop, kTopAlias);
  conformance_fsgsbase = host_has_fsgsbase() ? 1 : 0;
  ok = ok && install_handlers() && enter_sandbox();
  if (!ok) _exit(2);
  Shared& s = *shared_;
  uint32_t finished = __atomic_load_n(&s.done, __ATOMIC_ACQUIRE);
  for (;;) {
    uint32_t asked;
    while ((asked = __atomic_load_n(&s.asked, __ATOMIC_ACQUIRE)) == finished) {
      raw_syscall(SYS_futex, address_of(s.asked), FUTEX_WAIT, static_cast<long>(finished), 0);
    }
    for (uint32_t i = s.first; i < s.count; ++i) {
      run_one(s.states[i], s.pristine.data(), s.outcomes[i]);
      __atomic_store_n(&s.progress, i + 1, __ATOMIC_RELEASE);
    }
    finished = asked;
    __atomic_store_n(&s.done, finished, __ATOMIC_RELEASE);
    raw_syscall(SYS_futex, address_of(s.done), FUTEX_WAKE, 1, 0);
  }
}

Result<std::unique_ptr<NativeRunner>> NativeRunner::create() {
  std::unique_ptr<NativeRunner> runner(new NativeRunner);
  const auto fail = [](const char* what) {
    return Error{ErrorCode::io, std::string("cannot set up native execution: ") + what + ": " + std::strerror(errno), ""};
  };
  runner->code_fd_ = memfd_create("conformance-code", MFD_CLOEXEC);
  runner->arena_fd_ = memfd_create("conformance-arena", MFD_CLOEXEC);
  if (runner->code_fd_ < 0 || runner->arena_fd_ < 0) return fail("memfd_create");
  if (ftruncate(runner->code_fd_, kCodeMapped) != 0) return fail("ftruncate");
  if (ftruncate(runner->arena_fd_, kArenaSize) != 0) return fail("ftruncate");
  const auto map = [](size_t size, int fd) {
    return mmap(nullptr, size, PROT_READ | PROT_WRITE, fd < 0 ? MAP_SHARED | MAP_ANONYMOUS : MAP_SHARED, fd, 0);
  };
  void* const code = map(kCodeMapped, runner->code_fd_);
  if (code == MAP_FAILED) return fail("mmap");
  runner->code_ = static_cast<uint8_t*>(code);
  void* const arena = map(kArenaSize, runner->arena_fd_);
  if (arena == MAP_FAILED) return fail("mmap");
  runner->arena_ = static_cast<uint8_t*>(arena);
  void* const shared = map(sizeof(Shared), -1);
  if (shared == MAP_FAILED) return fail("mmap");
  runner->shared_ = static_cast<Shared*>(shared);
  if (const int error = install_ldt(); error != 0) {  // children inherit it
    runner->ldt_missing_ = std::string("modify_ldt: ") + std::strerror(error);
  }
  RV_TRY(runner->start_child());
  return runner;
}

NativeRunner::~NativeRunner() {
  stop_child();
  if (shared_ != nullptr) munmap(shared_, sizeof(Shared));
  if (code_ != nullptr) munmap(code_, kCodeMapped);
  if (arena_ != nullptr) munmap(arena_, kArenaSize);
  if (code_fd_ >= 0) close(code_fd_);
  if (arena_fd_ >= 0) close(arena_fd_);
}

Result<void> NativeRunner::start_child() {
  __atomic_store_n(&shared_->done, __atomic_load_n(&shared_->asked, __ATOMIC_ACQUIRE), __ATOMIC_RELEASE);
  child_ = fork();
  if (child_ < 0) return Error{ErrorCode::io, std::string("fork: ") + std::strerror(errno), ""};
  if (child_ == 0) child_main();
  return {};
}

void NativeRunner::stop_child() {
  if (child_ <= 0) return;
  kill(child_, SIGKILL);
  while (waitpid(child_, nullptr, 0) < 0 && errno == EINTR) {
  }
  child_ = -1;
}

bool NativeRunner::wait_for_child() {
  const uint32_t asked = shared_->asked;
  uint32_t seen = 0;
  unsigned idle_ms = 0;
  for (;;) {
    const uint32_t done = __atomic_load_n(&shared_->done, __ATOMIC_ACQUIRE);
    if (done == asked) return true;
    constexpr unsigned kPollMs = 20;
    const timespec wait{0, kPollMs * 1000 * 1000};
    syscall(SYS_futex, &shared_->done, FUTEX_WAIT, done, &wait);
    if (__atomic_load_n(&shared_->done, __ATOMIC_ACQUIRE) == asked) return true;
    if (waitpid(child_, nullptr, WNOHANG) == child_) {
      child_ = -1;
      return false;
    }
    const uint32_t progress = __atomic_load_n(&shared_->progress, __ATOMIC_ACQUIRE);
    idle_ms = progress == seen ? idle_ms + kPollMs : 0;
    seen = progress;
    if (idle_ms >= kStuckMs) return false;
  }
}

Result<const Outcome*> NativeRunner::run(const Batch& batch) {
  std::memcpy(code_, batch.code.data(), kCodeSize);
  std::memcpy(shared_->states, batch.states.data(), sizeof(State) * batch.count);
  shared_->pristine = batch.arena;
  shared_->first = 0;
  shared_->count = batch.count;
  constexpr unsigned kMaxLost = 32;  // more than this in one batch is no bad luck
  for (unsigned lost = 0; shared_->first < batch.count;) {
    std::memcpy(arena_, batch.arena.data(), kArenaSize);
    __atomic_store_n(&shared_->progress, shared_->first, __ATOMIC_RELEASE);
    __atomic_add_fetch(&shared_->asked, 1, __ATOMIC_RELEASE);
    syscall(SYS_futex, &shared_->asked, FUTEX_WAKE, 1);
    if (wait_for_child()) break;
    stop_child();
    ++children_lost_;
    const uint32_t bad = shared_->progress;
    if (++lost > kMaxLost || bad >= batch.count) return Error{ErrorCode::io, "the native child process keeps dying", ""};
    shared_->outcomes[bad].vector = kLost;
    shared_->outcomes[bad].lines_count = 0;
    shared_->first = bad + 1;
    RV_TRY(start_child());
  }
  return static_cast<const Outcome*>(shared_->outcomes);
}

}  // namespace retrovisor::conformance
