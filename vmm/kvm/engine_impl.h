// The insides of the KVM engine.
#pragma once

#include <optional>

#include "vmm/kvm/code_patches.h"
#include "vmm/kvm/host_quirks.h"
#include "vmm/kvm/instruction_names.h"
#include "vmm/kvm/kicker.h"
#include "vmm/kvm/kvm_engine.h"
#include "vmm/kvm/memory_slots.h"
#include "vmm/kvm/plain_code.h"
#include "vmm/kvm/progress_counter.h"
#include "vmm/kvm/tsc_trap.h"
#include "vmm/kvm/vcpu_state.h"
#include "vmm/host_engine.h"
#include "vmm/soft/soft_engine.h"

namespace retrovisor::kvm {

class KvmEngine final : public Engine, public HostEngine {
 public:
  KvmEngine(const Platform& platform, ProcessorModel flags, UserTsc user_tsc, const KvmEngineOptions& options)
      : platform_(platform),
        options_(options),
        soft_(platform, {1, flags, user_tsc}),
        user_tsc_(user_tsc),
        patches_(platform.memory, {.returns = options.share == KvmEngineOptions::Share::kernel_only,
                                   .cr4 = user_tsc == UserTsc::by_exception}),
        turn_(options.turns) {}
  ~KvmEngine() override;
  Result<void> start(SystemCalls& calls);

  std::string_view name() const override { return "kvm"; }
  CpuState& vcpu_state(VcpuId id) override { return soft_.vcpu_state(id); }
  EngineStop run(Vcpu& vcpu, Position limit) override;
  void state_changed(Vcpu& vcpu) override;
  void memory_changed() override { soft_.memory_changed(); }
  void memory_protected() override { soft_.memory_protected(); }
  Stepper& stepper() override { return soft_; }
  HostEngine* host() override { return this; }
  const EngineReport& report() const override;
  bool settle(Vcpu& vcpu) override;
  bool can_deliver(Vcpu& vcpu) override;
  void complete(Vcpu& vcpu) override;
  void find_dirty() override;
  void allow_kicks(bool on) override;
  uint64_t progress() override;

  const KvmStatistics& kvm_statistics() const;

 private:
  // After an exit: what run() does with it.
  enum class Next : uint8_t { again, event, kicked, window, halted, shutdown, failed };

  EngineStop run_kvm(Vcpu& vcpu);
  EngineStop run_soft(Vcpu& vcpu, uint64_t instructions);
  bool stepped() const { return options_.share == KvmEngineOptions::Share::stepped; }
  bool soft_has_turn(const Vcpu& vcpu);
  bool ask_for_traps(bool loaded);
  bool load(Vcpu& vcpu);
  bool show_apic_base(Vcpu& vcpu);
  bool store(Vcpu& vcpu, bool access_pending);
  bool registers_suffice() const;
  bool drain(Vcpu& vcpu);
  bool settle_string(Vcpu& vcpu);
  bool settle_exception(Vcpu& vcpu);
  Next exited(Vcpu& vcpu);
  Next port_access(Vcpu& vcpu);
  Next mmio_access(Vcpu& vcpu);
  Next msr_access(Vcpu& vcpu, bool write);
  Next finish_sregs_write(Vcpu& vcpu, uint32_t index, uint64_t value);
  Next halt(Vcpu& vcpu);
  Next trapped(Vcpu& vcpu);
  Next assist(Vcpu& vcpu);
  Next unexpected(const std::string& what);
  const CodePatches::Site* patched_site(const CpuState& s);
  bool unknown_code(const CpuState& s) const;
  void look_for_patches(const CpuState& s);
  Result<KvmVcpu::Ran> enter();
  // user_tsc.cc
  bool trap_changes(const CpuState& s);
  void set_trap(const CpuState& s);
  std::optional<PhysAddr> protection_handler(const CpuState& s);
  bool program_reads_tsc(Vcpu& vcpu);
  void lift_patches();
  void collect_written();
  bool fail(Error error);
  template <class T>
  bool ok(Result<T> result) {
    return result.ok() || fail(std::move(result).error());
  }

  const Platform& platform_;
  KvmEngineOptions options_;
  soft::SoftEngine soft_;
  std::optional<Kvm> kvm_;
  std::optional<KvmVm> vm_;
  std::optional<KvmVcpu> vcpu_;
  std::optional<MemorySlots> slots_;
  std::optional<StateCarrier> carrier_;
  HostQuirks quirks_;
  Surroundings around_;
  std::unique_ptr<Kicker> kicker_;
  std::unique_ptr<ProgressCounter> progress_;
  uint64_t progress_at_event_ = 0;

  // Which parts of the state (namespace part) are newer in KVM than in CpuState, and the other way round.
  uint32_t in_kvm_ = 0;
  uint32_t changed_ = part::all;
  bool pending_ = false;      // KVM has not finished the instruction of the last exit
  uint32_t accesses_ = 0;     // exits since the last that was no port or MMIO access
  bool kvm_wrote_ = true;     // KVM has run since find_dirty()
  bool soft_stale_ = true;    // the soft engine's translations may not fit the state
  UserTsc user_tsc_;
  TscTrap tsc_trap_ = TscTrap::none;
  std::optional<PhysAddr> handler_;  // where the guest's #GP handler begins; a place of patches_ while around_.trap_tsc
  CodePatches patches_;
  bool patches_on_ = false;
  bool breakpoints_exit_ = false;
  uint64_t scanned_ = UINT64_MAX;  // the piece of linear space whose code was last looked through
  unsigned scans_ = 0;
  // If KVM runs step by step: how many steps since which event, and how many may be.
  uint64_t steps_ = 0, steps_event_ = UINT64_MAX, patience_ = 16384;
  uint64_t turn_;
  uint64_t turn_event_ = UINT64_MAX;
  bool soft_turn_ = false;
  std::optional<Error> failure_;
  mutable EngineReport report_;   // made when somebody asks
  mutable KvmStatistics counts_;  // `progress` and `soft` are read when somebody asks
  InstructionNames names_;
  PlainCode plain_;
};

}  // namespace retrovisor::kvm
