// The software engine: looks up or builds blocks, runs them, and does between them what happens between instructions.
#pragma once

#include <bitset>
#include <memory>
#include <optional>
#include <vector>

#include "vmm/cpu/page_walk.h"
#include "vmm/processor_model.h"
#include "vmm/engine.h"
#include "vmm/soft/block_ops.h"
#include "vmm/soft/code_cache.h"
#include "vmm/soft/decoded_block.h"
#include "vmm/soft/soft_cpu.h"
#include "vmm/soft/touched.h"
#include "vmm/stepper.h"

namespace retrovisor::soft {

class SoftEngine final : public Engine, public Stepper, public GuardedWriteObserver {
 public:
  SoftEngine(const Platform& platform, const EngineOptions& options);
  ~SoftEngine() override;

  std::string_view name() const override { return "soft"; }
  CpuState& vcpu_state(VcpuId id) override { return contexts_[id.value]->cpu.s; }
  EngineStop run(Vcpu& vcpu, Position limit) override;
  EngineStop run_instructions(Vcpu& vcpu, uint64_t count) override;
  // Delivers an exception (not #DB) of the instruction at RIP, which something else has executed so far. A page fault's address
  // is in CR2 already. Returns EngineStop::limit or EngineStop::triple_fault.
  EngineStop raise(Vcpu& vcpu, uint8_t vector, std::optional<uint32_t> error);
  // Whether run() returns EngineStop::kicked where an interrupt that waits, and may not be delivered yet, could be.
  void stop_at_window(bool on) { stop_at_window_ = on; }
  uint64_t deliveries() override;
  void yield_behind(uint64_t count) override { yield_behind_ = count; }
  void state_changed(Vcpu& vcpu) override;
  void memory_changed() override;
  void memory_protected() override;
  void observe(Observers& observers) override;
  void track_touched(bool on) override;
  TouchedPages take_touched() override;
  Stepper& stepper() override { return *this; }
  HostEngine* host() override { return nullptr; }
  const EngineReport& report() const override;

  void guarded_write(PhysRange range) override;
  void watched_write(PhysAddr addr, std::span<const uint8_t> data, bool walk) override;
  // The store of an instruction to a page of page_flag::watched; `linear` is its address.
  void watched_store(SoftCpu& cpu, uint64_t linear, PhysAddr addr, std::span<const uint8_t> data);

  // For the slow path of stores: a write to a guarded page is about to happen; `size` bytes within it.
  // True: go ahead (whatever was made of the bytes is gone); false: the storing instruction must run as the last of its block.
  bool before_guarded_write(SoftCpu& cpu, const Op& op, uint64_t phys, const void* data, unsigned size);
  // A translation is going to be remembered: guards the pages that it was read from.
  void guard_tables(const PageWalk& walk);
  // CR3 was loaded, its old value is `old`: forgets what the tables there may say otherwise.
  void cr3_loaded(SoftCpu& cpu, uint64_t old);
  // Changes whenever cached code is written.
  uint64_t code_changes() const { return cache_.invalidations(); }
  // For deliver_fault(): the exceptions whose delivery failed, one after the other.
  std::vector<ChainedFault>& chain() { return report_.fault_chain; }
  // Tells who wants to know of an exception (error code: `now`), an interrupt, or a CR3 that was `before` and is `now`.
  void tell(SoftCpu& cpu, Observation::Kind kind, uint64_t rip, uint8_t number, uint64_t before, uint64_t now);
  // exec_undefined: the instruction at `rip` is not known.
  void count_unknown(SoftCpu& cpu, uint64_t rip);

 private:
  // Ends blocks where an instruction has to be the last of one, and where a breakpoint may be.
  struct Cuts final : BlockCuts {
    Cuts(const SoftEngine& of, uint64_t at) : engine(of), phys(at) {}
    bool cut_behind(unsigned begin, unsigned end) const override {
      return engine.cache_.ends_block(phys + begin) || engine.breakpoint_offset(phys + end);
    }
    const SoftEngine& engine;
    uint64_t phys;  // of the block
  };
  struct Context {
    SoftCpu cpu;
    // While blocks are observed: whether one begins at s.rip, and what led here.
    struct Arrival {
      bool begins = true;
      bool transfer = false;
      uint64_t from = 0;
    } arrival;
    Translations translations;
  };
  // A block that is not cached: cut short by the limit, or made of one instruction that has to run alone.
  struct ScratchBlock {
    Block block;
    Op ops[kMaxBlockOps];
  };

  EngineStop loop(SoftCpu& cpu, uint64_t end);
  void run_block(SoftCpu& cpu, const Block& block, const Op* op);
  void run_observed_block(SoftCpu& cpu, const Block& block, const Op* op);
  static void enter(SoftCpu& cpu, const Block& block, const Op* op);
  bool build_scratch(SoftCpu& cpu, unsigned max_insns);
  bool run_scratch(SoftCpu& cpu, unsigned max_insns);
  void step_slowly(SoftCpu& cpu, bool shadowed);
  bool wake(SoftCpu& cpu);
  enum class Interrupt : uint8_t { none, delivered, shadowed, triple_fault };
  Interrupt take_interrupt(SoftCpu& cpu, uint64_t position);

  Block* find_block(SoftCpu& cpu);
  bool code_address(SoftCpu& cpu, uint64_t& phys);
  bool fetch_page(SoftCpu& cpu, uint64_t linear, uint64_t& phys);
  unsigned build(SoftCpu& cpu, uint64_t phys, unsigned max_insns, Block& block, Op* ops);
  bool decode_code(SoftCpu& cpu, uint64_t phys, unsigned max_insns, Block& block);
  bool crossing_matches(SoftCpu& cpu, const Block* block);
  void hold_back_writes(uint64_t phys);
  void forget_jumps();
  // What a write to a page table means for the translations remembered: nothing; they change; the code that runs may, too.
  enum class TableWrite : uint8_t { harmless, data, code };
  TableWrite table_write(uint64_t phys, const void* data, unsigned size);
  void drop_translations(SoftCpu& cpu, uint64_t phys, unsigned size, TableWrite what);
  void forget_tables();
  // Observers: may the block at this address be entered without passing the run loop? (Page offsets of linear and
  // physical addresses agree, which makes the answer good for all aliases of the code.)
  bool breakpoint_offset(uint64_t address) const { return code_observed_ && breakpoint_offsets_[address & ~kPageMask]; }
  bool at_observed_code(SoftCpu& cpu, uint64_t position, bool on_arrival);
  bool at_observed_block(SoftCpu& cpu, uint64_t position);
  void note_transfer(SoftCpu& cpu, const Block& block, uint64_t begin);
  void arrive(SoftCpu& cpu, uint64_t from, bool transfer);
  void note_executed(SoftCpu& cpu) {
    if (touched_ == nullptr) return;
    touched_->executed.note(cpu.s.linear_rip().value >> kPageShift);
  }
  void hold_back_translations();
  void flag_watched_pages(bool on);
  bool watched_bytes(uint64_t phys, uint64_t size) const;
  void write_observed(Observation o, std::span<const uint8_t> data);
  void split_block(SoftCpu& cpu);

  const Platform& platform_;
  CodeCache cache_;
  std::vector<std::unique_ptr<Context>> contexts_;
  ScratchBlock scratch_;
  DecodedBlock decoded_;  // what build() decoded last
  std::vector<uint64_t> tables_;        // pages flagged as page tables
  uint64_t idle_table_writes_ = 0;      // writes to them that were harmless
  Observers* observers_;                // whom to tell; wanted() says what
  bool code_observed_ = false;           // somebody wants to know of breakpoints or instructions
  bool every_instruction_ = false;
  bool blocks_observed_ = false;
  bool watching_ = false;                // either of them
  std::vector<uint64_t> watched_pages_;  // flagged page_flag::watched
  SoftCpu* running_ = nullptr;           // between entering and leaving run_instructions()
  bool stop_at_window_ = false;
  bool count_delivery(uint64_t position);
  // How many deliveries() there were at which position, and behind how many to yield.
  uint64_t delivered_at_ = kNoPosition.value;
  uint64_t deliveries_ = 0;
  uint64_t yield_behind_ = 0;
  ProcessorModel processor_model_ = ProcessorModel::model;
  bool built_string_ = false;  // the last instruction of `decoded_` is a repeated string instruction
  std::bitset<kPageSize> breakpoint_offsets_;
  std::unique_ptr<TouchedLog> touched_;  // null: nobody asks
  mutable EngineReport report_;
};

inline size_t jump_index(uint64_t rip) { return (rip ^ rip >> 12) % kJumpCacheEntries; }

}  // namespace retrovisor::soft
