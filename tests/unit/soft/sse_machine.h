// A vCPU in 64-bit mode with paging, some RAM and nothing else, to run single x87, MMX and SSE instructions on.
#pragma once

#include <gtest/gtest.h>

#include <array>
#include <cstring>
#include <memory>
#include <span>
#include <vector>

#include "vmm/soft/decode.h"
#include "vmm/soft/emit.h"
#include "vmm/soft/emit_sse.h"
#include "vmm/soft/emit_x87.h"
#include "vmm/soft/soft_cpu.h"
#include "vmm/soft/soft_engine.h"

namespace retrovisor::soft {

// Ends the ops of a test.
inline RV_HANDLER op_test_end(SoftCpu*, const Op*) { RV_LEAVE; }

class SseMachine {
 public:
  static constexpr uint64_t kData = 0x10000;     // page with data, mapped read-write
  static constexpr uint64_t kMissing = 0x20000;  // page not present
  static constexpr uint64_t kReadOnly = 0x21000;
  static constexpr uint64_t kCode = 0x8000;  // where the instructions are said to be

  SseMachine() {
    auto created = GuestMemory::create(kMinRam);
    RV_ASSERT(created.ok());
    memory_ = std::move(created).value();
    platform_ =
        std::make_unique<Platform>(Platform{*memory_, ports_, mmio_, clock_, deadlines_, journal_, entropy_, control_, observers_});
    engine_ = std::make_unique<SoftEngine>(*platform_, EngineOptions{});
    translations_ = std::make_unique<Translations>();
    cpu_ = std::make_unique<SoftCpu>();

    // The first 2 MiB, mapped to themselves: PML4 at 0x1000, then one table of each level.
    put<uint64_t>(0x1000, 0x2000 | pte::P | pte::RW);
    put<uint64_t>(0x2000, 0x3000 | pte::P | pte::RW);
    put<uint64_t>(0x3000, 0x4000 | pte::P | pte::RW);
    for (uint64_t page = 0; page < 512; ++page) {
      const uint64_t at = page << kPageShift;
      const uint64_t rights = at == kMissing ? 0 : at == kReadOnly ? pte::P : pte::P | pte::RW;
      put<uint64_t>(0x4000 + page * 8, at | rights);
    }

    CpuState& s = cpu_->s;
    s.cr0 = cr0::PE | cr0::PG | cr0::WP | cr0::NE | cr0::ET;
    s.cr3 = 0x1000;
    s.cr4 = cr4::PAE | cr4::OSFXSR | cr4::OSXMMEXCPT | cr4::OSXSAVE;
    s.efer = efer::LME | efer::LMA;
    s.xcr0 = 3;
    s.segment[CS] = {0, 0xffffffff, seg::P | seg::S | 0xb | seg::L | seg::G, 8};
    for (const SegReg r : {DS, ES, SS, FS, GS}) s.segment[r] = {0, 0xffffffff, seg::P | seg::S | 3 | seg::DB | seg::G, 16};
    cpu_->platform = platform_.get();
    cpu_->engine = engine_.get();
    cpu_->translations = translations_.get();
    tlb_flush(*cpu_);
    mode_changed(*cpu_);
    s.gpr[RBX] = kData;
  }

  // Leaves 64-bit mode for a flat 32-bit segment (compatibility mode).
  void use_32_bit_code() {
    cpu_->s.segment[CS].attributes = seg::P | seg::S | 0xb | seg::DB | seg::G;
    mode_changed(*cpu_);
  }

  SoftCpu& cpu() { return *cpu_; }
  CpuState& s() { return cpu_->s; }
  template <class T>
  T at(uint64_t address) const {
    T value;
    std::memcpy(&value, memory_->host(PhysAddr(address)), sizeof value);
    return value;
  }
  template <class T>
  void put(uint64_t address, const T& value) {
    std::memcpy(memory_->host(PhysAddr(address)), &value, sizeof value);
  }
  uint8_t* data() { return memory_->host(PhysAddr(kData)); }

  // Decodes and emits. Emit::unknown also if there is no such instruction.
  Emit prepare(std::span<const uint8_t> bytes) {
    insn_ = Insn{};
    fpu_ = FpuClass::none;
    const uint8_t mode = cpu_->mode & block_mode::code_mask;
    if (decode(bytes.data(), bytes.size(), mode, insn_) != DecodeStatus::ok) return Emit::unknown;
    ops_ = {};
    prepare_op(insn_, 0, ops_[0]);
    ops_[0].remaining = 1;
    ops_[1].fn = op_test_end;
    const Emit emit = emit_sse(insn_, ops_[0], fpu_);
    return emit != Emit::unknown ? emit : emit_x87(insn_, ops_[0], fpu_);
  }
  // The same for an instruction of any group, on a processor of model `how`.
  Emit prepare_any(std::span<const uint8_t> bytes, ProcessorModel how) {
    fpu_ = FpuClass::none;
    if (decode(bytes.data(), bytes.size(), cpu_->mode & block_mode::code_mask, insn_) != DecodeStatus::ok) return Emit::unknown;
    insn_.flat = true;
    insn_.processor_model = cpu_->processor_model = vendor_of(how);
    insn_.scans_keep_flags = how == ProcessorModel::amd_zen3;
    ops_ = {};
    prepare_op(insn_, 0, ops_[0]);
    ops_[0].remaining = 1;
    ops_[1].fn = op_test_end;
    return emit(insn_, fpu_, ops_[0]);
  }
  // Runs what was prepared. False: a fault (cpu().fault) or another exit.
  bool execute() {
    cpu_->exit = Exit::lookup;
    cpu_->s.rip = kCode;
#if RV_TAIL_CALLS
    ops_[0].fn(cpu_.get(), &ops_[0]);
#else
    for (const Op* op = ops_[0].fn(cpu_.get(), &ops_[0]); op != nullptr;) op = op->fn(cpu_.get(), op);
#endif
    return cpu_->exit == Exit::lookup;
  }
  bool run(std::initializer_list<uint8_t> bytes) {
    const std::vector<uint8_t> copy(bytes);
    if (prepare(copy) != Emit::next) {
      ADD_FAILURE() << "no such instruction";
      return false;
    }
    return execute();
  }
  bool known(std::initializer_list<uint8_t> bytes) {
    const std::vector<uint8_t> copy(bytes);
    return prepare(copy) != Emit::unknown;
  }
  // Runs an instruction that has to raise `vector`.
  void expect_fault(std::initializer_list<uint8_t> bytes, uint8_t vector) {
    EXPECT_FALSE(run(bytes));
    EXPECT_EQ(cpu_->exit, Exit::fault);
    EXPECT_EQ(cpu_->fault.vector, vector);
    EXPECT_FALSE(cpu_->address_fault);
  }

  FpuClass fpu() const { return fpu_; }
  const Insn& insn() const { return insn_; }

 private:
  struct NoControl final : MachineControl {
    void request_stop(Stop) override {}
    bool stop_requested() const override { return false; }
  };

  Clock clock_;
  Journal journal_{clock_};
  PortBus ports_{journal_};
  MmioBus mmio_{journal_};
  Deadlines deadlines_;
  Entropy entropy_;
  NoControl control_;
  Observers observers_;
  std::unique_ptr<GuestMemory> memory_;
  std::unique_ptr<Platform> platform_;
  std::unique_ptr<SoftEngine> engine_;  // keeps the account of page tables
  std::unique_ptr<Translations> translations_;
  std::unique_ptr<SoftCpu> cpu_;
  Insn insn_;
  FpuClass fpu_ = FpuClass::none;
  std::array<Op, 2> ops_{};
};

}  // namespace retrovisor::soft
