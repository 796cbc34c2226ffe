#include "vmm/kvm/kvm_engine.h"

#include <algorithm>
#include <array>
#include <span>

#include "vmm/cpu/page_walk.h"
#include "vmm/kvm/cpuid.h"
#include "vmm/kvm/engine_impl.h"
#include "vmm/kvm/linear_memory.h"

namespace retrovisor::kvm {
namespace {

// How many instructions the soft engine runs before it is asked again whether KVM can.
constexpr uint64_t kSoftPiece = 4096;
// The same while KVM runs step by step: in the kernel each instruction, in programs, which are the soft engine's, more.
constexpr uint64_t kStep = 1, kProgramStep = 64;
// A loop that waits is the soft engine's after so many steps without an event, in long pieces; the next after half as many.
constexpr uint64_t kLeastPatience = 128, kWaitingPiece = 65536;

// The part of RCX that counts for the string instruction at RIP: as wide as its addresses (SDM 2B, REP).
uint64_t count_mask(const CpuState& s, GuestMemory& memory) {
  constexpr uint8_t kAddressSize = 0x67;
  std::array<uint8_t, kLongestInstruction> code{};
  const size_t have = read_code(s, memory, code);
  bool other_size = false;
  for (const uint8_t byte : std::span(code).first(have)) {  // prefixes end at the opcode, INS, OUTS, MOVS and so on
    if ((byte & 0xfc) == 0x6c || (byte & 0xf0) == 0xa0) break;
    other_size = other_size || byte == kAddressSize;
  }
  const unsigned bits = s.code_bits();
  if (bits == 64) return other_size ? 0xffffffff : UINT64_MAX;
  return (bits == 32) != other_size ? 0xffffffff : 0xffff;
}

bool in_upper_half(uint64_t linear) { return linear >> 63 != 0; }

}  // namespace

EngineFactory kvm_engine(const KvmEngineOptions& options) {
  return [options](const Platform& platform, const EngineOptions& machine) -> Result<std::unique_ptr<Engine>> {
    RV_ASSERT(machine.vcpus == 1);
    auto engine = std::make_unique<KvmEngine>(platform, machine.processor_model, machine.user_tsc, options);
    RV_TRY(engine->start(options.calls != nullptr ? *options.calls : system_calls()));
    return std::unique_ptr<Engine>(std::move(engine));
  };
}

const KvmStatistics* kvm_statistics(const Engine& engine) {
  return engine.name() == "kvm" ? &static_cast<const KvmEngine&>(engine).kvm_statistics() : nullptr;
}

const KvmStatistics& KvmEngine::kvm_statistics() const {
  if (progress_ != nullptr) counts_.progress = progress_->read().value_or(0);
  counts_.soft = platform_.clock.retired().value;
  return counts_;
}

KvmEngine::~KvmEngine() { lift_patches(); }

Result<void> KvmEngine::start(SystemCalls& calls) {
  RV_TRY(auto kvm, Kvm::open(calls));
  kvm_.emplace(std::move(kvm));
  RV_TRY(quirks_, probe_quirks(*kvm_));
  if (user_tsc_ == UserTsc::by_exception) {
    tsc_trap_ = probe_tsc_trap(*kvm_);
    if (tsc_trap_ == TscTrap::none)
      return Error{ErrorCode::unsupported, "this host's KVM lets programs read the TSC, which the recording's did not; replay with "
                                           "--engine=soft", "engine"};
  }
  VmOptions vm_options;
  vm_options.unchecked_msrs = quirks_.unchecked_msrs;
  RV_TRY(auto vm, kvm_->create_vm(vm_options));
  vm_.emplace(std::move(vm));
  RV_TRY(auto slots, MemorySlots::create(*vm_, platform_.memory));
  slots_.emplace(std::move(slots));
  RV_TRY(auto vcpu, vm_->create_vcpu(0));
  vcpu_.emplace(std::move(vcpu));
  RV_TRY(install_cpuid(*vcpu_, cpuid_table(VcpuId(0), 1)));
  carrier_.emplace(kvm_->capabilities(), quirks_);
  auto progress = open_progress_counter(ProgressKind::emulated_instructions, *vcpu_);
  if (progress) progress_ = std::move(*progress);
  return {};
}

bool KvmEngine::fail(Error error) {
  if (!failure_) failure_ = std::move(error);
  return false;
}

// --- moving the state -----------------------------------------------------------------------------------------------

bool KvmEngine::load(Vcpu& vcpu) {
  if (changed_ == 0) return true;
  around_.cr8 = vcpu.interrupts != nullptr ? vcpu.interrupts->cr8() : 0;
  if (vcpu.interrupts != nullptr) vcpu.interrupts->read_msr(msr::APIC_BASE, around_.apic_base);
  const uint32_t slow = changed_ & ~part::core;
  if (slow != 0 && !ok(carrier_->load(*vcpu_, vcpu.state, around_, changed_ == part::all ? part::all : slow))) return false;
  if (changed_ != part::all && (changed_ & part::core) != 0 && !ok(carrier_->load_synced(*vcpu_, vcpu.state, around_))) return false;
  changed_ = 0;
  return true;
}

// KVM has no APIC of this vCPU's, but it is KVM that answers CPUID, whose leaf 1 shows whether there is one.
bool KvmEngine::show_apic_base(Vcpu& vcpu) {
  uint64_t base = 0;
  if (vcpu.interrupts == nullptr || !vcpu.interrupts->read_msr(msr::APIC_BASE, base) || base == around_.apic_base) return true;
  around_.apic_base = base;
  return ok(carrier_->load(*vcpu_, vcpu.state, around_, part::sregs));
}

// Copying SREGS and events to the shared page costs KVM a noticeable part of a quick exit, and behind a port or MMIO access
// nobody looks at them: the access is pending, so drain() comes first, which brings everything. Getting them by ioctl after
// another exit costs much more; so only where nothing but accesses has come for a while.
bool KvmEngine::registers_suffice() const {
  constexpr uint32_t kAWhile = 32;
  const bool mode_decides = options_.upper_half_only || options_.share == KvmEngineOptions::Share::kernel_only;
  const bool trap_depends = user_tsc_ == UserTsc::by_exception && scans_ != 0;
  return accesses_ >= kAWhile && !mode_decides && !trap_depends;
}

// After each KVM_RUN: the parts that come for nothing, and are wanted.
bool KvmEngine::store(Vcpu& vcpu, bool access_pending) {
  // KVM has executed something: what was a shadow is none, unless KVM says so.
  vcpu.state.shadow = Shadow::none;
  const bool nmi = vcpu.state.nmi_pending;  // KVM is never given one, but a device may have sent it meanwhile
  if (!ok(carrier_->store_synced(*vcpu_, vcpu.state, around_))) return false;
  if ((vcpu_->run_area().kvm_valid_regs & KVM_SYNC_X86_SREGS) == 0) {
    if (access_pending) around_.delivery = {};
    else if (!ok(carrier_->store(*vcpu_, vcpu.state, around_, part::core & ~part::regs))) return false;
  }
  vcpu.state.nmi_pending = nmi;
  in_kvm_ |= part::all & ~part::core;
  kvm_wrote_ = soft_stale_ = true;
  return true;
}

// Finishes what KVM has begun: a port or MMIO access, the delivery of an event. False: failed, or something else came of it.
bool KvmEngine::drain(Vcpu& vcpu) {
  pending_ = false;
  carrier_->ask_for_sync(*vcpu_);
  vcpu_->run_area().immediate_exit = 1;
  auto ran = vcpu_->run();
  vcpu_->run_area().immediate_exit = 0;
  if (!ran) return fail(std::move(ran).error());
  if (!store(vcpu, false)) return false;
  if (*ran != KvmVcpu::Ran::interrupted) return false;
  if (around_.delivery.exception) return settle_exception(vcpu);
  return (vcpu.state.rflags & flag::RF) == 0 || settle_string(vcpu);
}

// The instruction ends with an exception, a refused MSR access, say, which KVM would deliver at its next entry. The soft
// engine does it now, so that the state is one between instructions.
bool KvmEngine::settle_exception(Vcpu& vcpu) {
  complete(vcpu);
  if (failure_) return false;
  const Delivery delivery = std::exchange(around_.delivery, {});
  find_dirty();
  if (soft_stale_) soft_.state_changed(vcpu);
  soft_stale_ = false;
  changed_ = part::all;
  const auto error = delivery.has_error_code ? std::optional(delivery.error_code) : std::nullopt;
  if (soft_.raise(vcpu, delivery.exception_vector, error) == EngineStop::triple_fault)
    platform_.control.request_stop({StopReason::triple_fault, 0});
  return true;
}

// An access of a repeated string instruction is done. KVM shows RF then, as the soft engine does; but behind the last element it
// may still stand at the instruction, with a count of zero. As the soft engine has it:
bool KvmEngine::settle_string(Vcpu& vcpu) {
  const CpuState& s = vcpu.state;
  if ((s.gpr[RCX] & count_mask(s, platform_.memory)) == 0) run_soft(vcpu, 1);
  return !failure_;
}

bool KvmEngine::settle(Vcpu& vcpu) {
  if (!pending_ || failure_) return false;
  const uint64_t events = platform_.clock.events();
  if (!drain(vcpu) && !failure_) exited(vcpu);
  return platform_.clock.events() != events;
}

void KvmEngine::complete(Vcpu& vcpu) {
  if (in_kvm_ == 0 || failure_) return;
  RV_ASSERT(!pending_);
  if (ok(carrier_->store(*vcpu_, vcpu.state, around_, in_kvm_))) in_kvm_ = 0;
}

void KvmEngine::state_changed(Vcpu& vcpu) {
  soft_.state_changed(vcpu);
  RV_ASSERT(!pending_);
  in_kvm_ = 0;
  changed_ = part::all;
  around_.delivery = {};
}

void KvmEngine::find_dirty() {
  collect_written();
  lift_patches();
}

void KvmEngine::collect_written() {
  if (!kvm_wrote_ || failure_) return;
  kvm_wrote_ = false;
  const bool collected = ok(slots_->collect_dirty([this](uint64_t page) {
    // The guest may have copied our breakpoints, or written over them.
    if (patches_on_) patches_.recheck({PhysAddr(page << kPageShift), kPageSize});
    if ((platform_.memory.flags(page) & page_flag::guarded) != 0)
      soft_.guarded_write({PhysAddr(page << kPageShift), kPageSize});
  }));
  if (!collected) memory_changed();
}

const EngineReport& KvmEngine::report() const {
  report_ = {soft_.report().statistics, {}, failure_};
  return report_;
}

void KvmEngine::allow_kicks(bool on) {
  kicker_.reset();
  if (!on) return;
  auto kicker = Kicker::create(vcpu_->run_area());
  if (kicker) kicker_ = std::move(*kicker);
  else fail(std::move(kicker).error());
}

uint64_t KvmEngine::progress() {
  const auto count = progress_ != nullptr ? progress_->read() : std::nullopt;
  return count ? *count - progress_at_event_ : 0;
}

bool KvmEngine::can_deliver(Vcpu& vcpu) {
  const CpuState& s = vcpu.state;
  if (!s.interruptible()) return false;
  if ((changed_ & part::core) != 0) return true;
  return !around_.delivery.any() && (vcpu_->run_area().ready_for_interrupt_injection != 0 || s.activity == Activity::halted);
}

// --- running --------------------------------------------------------------------------------------------------------

bool KvmEngine::soft_has_turn(const Vcpu& vcpu) {
  const CpuState& s = vcpu.state;
  // What KVM cannot carry, and what is so rare that one way to do it is enough: NMI, INIT.
  if (!carrier_->carries(s) || s.pending_debug != 0 || s.nmi_pending || s.init_pending) return true;
  if (options_.upper_half_only && s.cpl() != 3 && !(s.mode64() && in_upper_half(s.rip))) return true;
  switch (options_.share) {
    case KvmEngineOptions::Share::kvm: return false;
    case KvmEngineOptions::Share::kernel_only: return s.cpl() == 3;
    case KvmEngineOptions::Share::stepped:
      return steps_ >= patience_ || (vcpu.intr && vcpu.may_deliver) || !plain_.is_next(s, platform_.memory);
    case KvmEngineOptions::Share::in_turns: break;
  }
  if (turn_event_ != platform_.clock.events()) {
    turn_event_ = platform_.clock.events();
    turn_ = turn_ * 6364136223846793005 + 1442695040888963407;  // Knuth's MMIX generator
    soft_turn_ = (turn_ >> 63) != 0;
  }
  return soft_turn_;
}

EngineStop KvmEngine::run(Vcpu& vcpu, Position limit) {
  RV_ASSERT(platform_.clock.position() < limit);
  CpuState& s = vcpu.state;
  if (s.activity == Activity::halted) {
    if (!woken(vcpu, interrupt_due(vcpu))) return EngineStop::halted;
    s.activity = Activity::running;
  }
  const uint64_t events = platform_.clock.events();
  EngineStop stop = EngineStop::limit;
  while (stop == EngineStop::limit && platform_.clock.events() == events && !failure_) {
    if (platform_.control.stop_requested()) return EngineStop::yield;
    const bool window = kicker_ != nullptr && vcpu.intr && !vcpu.may_deliver && quirks_.late_interrupt_window;
    if (stepped()) {
      if (settle(vcpu)) return EngineStop::yield;
      if (failure_) break;
      if (std::exchange(steps_event_, events) != events) {
        if (steps_ >= patience_) patience_ = std::max(patience_ / 2, kLeastPatience);
        steps_ = 0;
      }
    }
    if (!window && !soft_has_turn(vcpu)) {
      ++steps_;
      stop = run_kvm(vcpu);
      continue;
    }
    if (settle(vcpu)) return EngineStop::yield;
    if (failure_) break;
    soft_.stop_at_window(kicker_ != nullptr);
    const bool in_step = stepped() && steps_ < patience_;
    const uint64_t piece = !stepped() ? kSoftPiece : !in_step ? kWaitingPiece : s.cpl() == 0 ? kStep : kProgramStep;
    ++steps_;
    stop = run_soft(vcpu, piece);
    soft_.stop_at_window(false);
    // Code of the soft engine's can run without events for ever, too.
    if (stop == EngineStop::limit && platform_.clock.events() == events && kicker_ != nullptr && !in_step) stop = EngineStop::kicked;
  }
  return failure_ ? EngineStop::failed : stop;
}

EngineStop KvmEngine::run_soft(Vcpu& vcpu, uint64_t instructions) {
  complete(vcpu);
  if (failure_) return EngineStop::failed;
  find_dirty();
  if (soft_stale_) soft_.state_changed(vcpu);
  soft_stale_ = false;
  changed_ = part::all;
  return soft_.run_instructions(vcpu, instructions);
}

// What shall end the next run beside the guest's own doing: the step, breakpoints. `loaded`: registers have been set since the
// last run, and KVM forgets a step then.
bool KvmEngine::ask_for_traps(bool loaded) {
  kvm_guest_debug debug{};
  if (stepped()) {
    debug.control = KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_SINGLESTEP;
    return !loaded || ok(vcpu_->set_guest_debug(debug));
  }
  if (patches_on_ || patches_.sites().empty()) return true;
  if (!breakpoints_exit_) {  // else a breakpoint is the guest's own affair
    debug.control = KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_USE_SW_BP;
    if (!ok(vcpu_->set_guest_debug(debug))) return false;
    breakpoints_exit_ = true;
  }
  patches_.patch();
  patches_on_ = true;
  return true;
}

EngineStop KvmEngine::run_kvm(Vcpu& vcpu) {
  if (vcpu.intr && vcpu.may_deliver) {
    if (settle(vcpu)) return EngineStop::yield;
    if (!load(vcpu)) return EngineStop::failed;
    const auto source = vcpu.interrupts->source();
    const uint8_t vector = vcpu.interrupts->acknowledge();
    vcpu.may_deliver = false;
    platform_.journal.log(EventKind::interrupt, vector, static_cast<uint64_t>(source));
    if (!ok(vcpu_->interrupt(vector))) return EngineStop::failed;
    changed_ = 0;
  }
  if (unknown_code(vcpu.state)) {
    if (settle(vcpu)) return EngineStop::yield;
    if (failure_) return EngineStop::failed;
    look_for_patches(vcpu.state);
  }
  if (user_tsc_ == UserTsc::by_exception && trap_changes(vcpu.state)) {
    if (settle(vcpu)) return EngineStop::yield;
    if (failure_) return EngineStop::failed;
    set_trap(vcpu.state);
  }
  const bool loaded = changed_ != 0;
  if (!load(vcpu) || !ask_for_traps(loaded)) return EngineStop::failed;
  kvm_run& run = vcpu_->run_area();
  run.request_interrupt_window = kicker_ != nullptr && vcpu.intr ? 1 : 0;
  if (kicker_ != nullptr) {
    const VirtualTime due = platform_.deadlines.next();
    kicker_->entered(due == kNever ? UINT64_MAX : due <= platform_.clock.now() ? 0 : due - platform_.clock.now());
  }
  const uint8_t cr8 = vcpu.interrupts != nullptr ? vcpu.interrupts->cr8() : uint8_t{0};
  run.cr8 = cr8;
  ++counts_.entries;
  pending_ = false;
  carrier_->ask_for_sync(*vcpu_, registers_suffice() ? part::regs : part::core);
  auto ran = enter();
  if (kicker_ != nullptr) kicker_->left();
  if (!ran) {
    fail(std::move(ran).error());
    return EngineStop::failed;
  }
  const bool access = *ran == KvmVcpu::Ran::exited && (run.exit_reason == KVM_EXIT_IO || run.exit_reason == KVM_EXIT_MMIO);
  accesses_ = access ? accesses_ + 1 : 0;
  if (!store(vcpu, access)) return EngineStop::failed;
  if (run.cr8 != cr8 && vcpu.interrupts != nullptr) vcpu.interrupts->set_cr8(static_cast<uint8_t>(run.cr8));
  const Next next = *ran == KvmVcpu::Ran::interrupted ? Next::kicked : exited(vcpu);
  switch (next) {
    case Next::again: return EngineStop::limit;
    case Next::event: return EngineStop::yield;
    case Next::halted: return EngineStop::halted;
    case Next::shutdown:
      vcpu.state.activity = Activity::shutdown;
      return EngineStop::triple_fault;
    case Next::failed: return EngineStop::failed;
    case Next::window: return EngineStop::kicked;
    case Next::kicked: break;
  }
  ++counts_.kicks;
  run.immediate_exit = 0;
  // What KVM is about to deliver belongs to the point behind us: it goes first, and the next kick finds it done. (Entering
  // with immediate_exit set would not deliver it.)
  if (around_.delivery.any() || may_hide_exception(around_.last_exception, vcpu.state, platform_.memory)) return EngineStop::limit;
  // One more instruction by the soft engine: some hosts do not say that the last was STI, after which no interrupt may come.
  const uint64_t events = platform_.clock.events();
  const EngineStop stop = run_soft(vcpu, 1);
  return stop == EngineStop::limit && platform_.clock.events() == events ? EngineStop::kicked : stop;
}

// --- patches --------------------------------------------------------------------------------------------------------

void KvmEngine::lift_patches() {
  if (!patches_on_) return;
  patches_.unpatch();
  patches_on_ = false;
}

// A kernel's code is looked through once for each piece of address space it runs in.
constexpr unsigned kPieceShift = 30, kMostScans = 16;

// Not in the lower half: what runs there in ring 0 is a loader that copies itself, and unpacks what it takes for data.
bool KvmEngine::unknown_code(const CpuState& s) const {
  return !stepped() && in_upper_half(s.rip) && s.rip >> kPieceShift != scanned_ && scans_ != kMostScans;
}

// The executable memory around a 64-bit kernel's code.
void KvmEngine::look_for_patches(const CpuState& s) {
  constexpr uint64_t kMost = uint64_t{64} << 20;
  if (!s.mode64() || s.cpl() != 0) return;
  scanned_ = s.rip >> kPieceShift;
  ++scans_;
  const auto walk = [&](uint64_t linear) { return walk_page(s, platform_.memory, LinearAddr(linear), {}, false); };
  const PageWalk here = walk(s.rip);
  if (!here.ok || !platform_.memory.is_ram(here.phys)) return;
  // As far as memory is executable and contiguous.
  uint64_t begin = s.rip & kPageMask, end = begin + kPageSize;
  const auto continues = [&](uint64_t linear) {
    const PageWalk w = walk(linear);
    return w.ok && w.executable && w.phys.value - here.phys.value == linear - s.rip && platform_.memory.is_ram(w.phys);
  };
  while (end - begin < kMost && begin != 0 && continues(begin - kPageSize + (s.rip & ~kPageMask))) begin -= kPageSize;
  while (end - begin < kMost && continues(end + (s.rip & ~kPageMask))) end += kPageSize;
  const LinearAddr known(s.rip);
  CodePatches::Area area;
  area.physical = {PhysAddr(here.phys.value - (s.rip - begin)), end - begin};
  area.linear = LinearAddr(begin);
  area.starts = std::span(&known, 1);
  find_dirty();
  (void)ok(patches_.scan(area));
  counts_.patched = patches_.sites().size();
}

// The breakpoint of ours at which the vCPU stands; null: it is none. The soft engine does what is under it, on the code as the
// guest wrote it.
const CodePatches::Site* KvmEngine::patched_site(const CpuState& s) {
  const PageWalk walk = walk_page(s, platform_.memory, s.linear_rip(), {}, false);
  if (!walk.ok || !platform_.memory.is_ram(walk.phys)) return nullptr;
  const auto* site = patches_.find(walk.phys);
  return site != nullptr ? site : patches_.adopt(walk.phys, s.mode64() ? 64 : 32);
}

}  // namespace retrovisor::kvm
