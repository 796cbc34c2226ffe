#include <algorithm>
#include <cstring>

#include <fmt/format.h>

#include "vmm/cpu/canonical.h"
#include "vmm/cpu/debug_registers.h"
#include "vmm/cpu/page_walk.h"
#include "vmm/soft/exceptions.h"
#include "vmm/soft/memory.h"
#include "vmm/soft/soft_engine.h"

namespace retrovisor {

std::unique_ptr<Engine> make_soft_engine(const Platform& platform, const EngineOptions& options) {
  return std::make_unique<soft::SoftEngine>(platform, options);
}

namespace soft {
namespace {

// Bytes of decoded blocks to keep. A Debian boot to a shell decodes about 20 MB.
constexpr size_t kCacheLimit = size_t{48} << 20;
// Exceptions delivered in a row without one retired instruction before the guest counts as stuck. A real CPU would
// go on for ever; the longest legitimate chain is a handful.
constexpr unsigned kMaxExceptionChain = 1 << 20;
constexpr size_t kMaxUnknown = 256;

void clear_translations(Translations& t) {
  for (Tlb& tlb : t.tlb)
    for (TlbEntry& e : tlb.entry) e = {kNoTag, kNoTag, 0, 0};
  for (CodeTlbEntry& e : t.code) e = {kNoTag, 0, false, false};
  for (JumpCacheEntry& e : t.jump) e = {0, 0, nullptr};
}

// The op that ends a block finds the block it belongs to in its immediate.
void bind_last(Block& block, Op* ops) {
  if (block.bound) ops[block.ops_count - 1].imm = static_cast<int64_t>(reinterpret_cast<intptr_t>(&block));
}

// Where positions do not count instructions, how many to run before giving the machine a chance to look around.
constexpr uint64_t kLongRun = uint64_t{1} << 24;

constexpr uint8_t kFirstStamp = 1;  // generation 0 is never current, so an empty jump cache entry never matches

}  // namespace

SoftEngine::SoftEngine(const Platform& platform, const EngineOptions& options)
    : platform_(platform),
      cache_(platform.memory, kCacheLimit),
      scratch_{},
      observers_(&platform.observers),
      processor_model_(options.processor_model) {
  for (uint32_t i = 0; i < options.vcpus; ++i) {
    auto context = std::make_unique<Context>();
    clear_translations(context->translations);
    context->translations.generation[0] = context->translations.generation[1] = kFirstStamp;
    context->cpu.s = CpuState::at_reset(VcpuId(i));
    context->cpu.translations = &context->translations;
    context->cpu.platform = &platform_;
    context->cpu.engine = this;
    context->cpu.vcpus = options.vcpus;
    context->cpu.user_tsc = options.user_tsc;
    context->cpu.processor_model = vendor_of(processor_model_);
    // AMD's processors have MXCSR.MM, misaligned SSE (APM 1 4.2.2). No CPUID bit of ours offers it.
    context->cpu.mxcsr_mask = vendor_of(processor_model_) == ProcessorModel::amd ? 0x2ffff : 0xffff;
    contexts_.push_back(std::move(context));
  }
  platform.memory.set_observer(this);
}

SoftEngine::~SoftEngine() { platform_.memory.set_observer(nullptr); }

void SoftEngine::state_changed(Vcpu& vcpu) {
  SoftCpu& cpu = contexts_[vcpu.id.value]->cpu;
  cpu.observed_stop = false;
  contexts_[vcpu.id.value]->arrival = {};
  delivered_at_ = kNoPosition.value;
  tlb_flush(cpu);
}

void SoftEngine::memory_changed() {
  cache_.flush();
  forget_tables();
}

void SoftEngine::memory_protected() {
  for (auto& c : contexts_)
    for (Tlb& tlb : c->translations.tlb)
      for (TlbEntry& e : tlb.entry) e.write_tag = kNoTag;
}

const EngineReport& SoftEngine::report() const {
  report_.statistics.cache_bytes = cache_.bytes();
  return report_;
}

void SoftEngine::forget_jumps() {
  for (auto& c : contexts_) {
    soft::forget_jumps(c->cpu, 0);
    soft::forget_jumps(c->cpu, 1);
  }
}

void SoftEngine::guarded_write(PhysRange range) {
  const uint8_t flags = platform_.memory.flags(range.begin.value >> kPageShift);
  if ((flags & page_flag::code) != 0 && cache_.invalidate(range.begin.value, range.size)) forget_jumps();
  if ((flags & (page_flag::table | page_flag::table_upper)) != 0) forget_tables();
}

bool SoftEngine::before_guarded_write(SoftCpu& cpu, const Op& op, uint64_t phys, const void* data, unsigned size) {
  const uint8_t flags = platform_.memory.flags(phys >> kPageShift);
  const bool code = (flags & page_flag::code) != 0 && cache_.overlaps(phys, size);
  const TableWrite table = (flags & (page_flag::table | page_flag::table_upper)) != 0 ? table_write(phys, data, size) : TableWrite::harmless;
  // What is watched for, too: the stop has to come right behind this instruction.
  const bool watched = (flags & page_flag::watched) != 0 && watched_bytes(phys, size);
  if (op.remaining > 1 && (code || table == TableWrite::code || watched)) return false;
  if (code) {
    cache_.invalidate(phys, size);
    forget_jumps();
  }
  if (table != TableWrite::harmless) drop_translations(cpu, phys, size, table);
  return true;
}

void SoftEngine::count_unknown(SoftCpu& cpu, uint64_t rip) {
  uint64_t phys = 0;
  std::string hex;
  const LinearAddr linear = cpu.s.linear_code(rip);
  for (unsigned i = 0; i < 8; ++i) {
    const PageWalk walk = walk_page(cpu.s, platform_.memory, linear + i, {}, false);
    phys = walk.phys.value;
    if (!walk.ok || !platform_.memory.is_ram(PhysAddr(phys))) break;
    hex += fmt::format("{:02x}", *platform_.memory.host(PhysAddr(phys)));
  }
  // Code that went astray: there is nothing to execute.
  if (hex.empty()) hex = fmt::format("{}{:#x}", kNoMemory, phys);
  auto& unknown = report_.statistics.unknown_instructions;
  if (unknown.size() < kMaxUnknown || unknown.contains(hex)) ++unknown[hex];
}

// --- finding code ---------------------------------------------------------------------------------------------------

// Guest-physical address of the code page at `linear`. False: cpu.fault is set.
bool SoftEngine::fetch_page(SoftCpu& cpu, uint64_t linear, uint64_t& phys) {
  const bool user = cpu.s.cpl() == 3;
  CodeTlbEntry& e = cpu.translations->code[(linear >> kPageShift) % kCodeTlbEntries];
  const uint64_t page = linear & kPageMask;
  if (e.tag != page || !(user ? e.user : e.supervisor)) {
    const PageWalk walk = walk_page(cpu.s, platform_.memory, LinearAddr(linear), {.write = false, .user = user, .fetch = true});
    if (!walk.ok) {
      cpu.fault = {vec::PF, true, walk.error, linear, false};
      cpu.exit = Exit::fault;
      return false;
    }
    if (e.tag != page) e = {page, walk.phys.value & kPageMask, false, false};
    (user ? e.user : e.supervisor) = true;
    guard_tables(walk);
  }
  phys = e.phys | (linear & ~kPageMask);
  return true;
}

// Guest-physical address of the instruction at CS:RIP.
bool SoftEngine::code_address(SoftCpu& cpu, uint64_t& phys) {
  const CpuState& s = cpu.s;
  uint64_t linear = s.rip;
  if (s.mode64()) {
    if (!is_canonical(linear)) return raise_gp(cpu, 0);
  } else {
    if (s.rip > s.segment[CS].limit) return raise_gp(cpu, 0);
    linear = (s.segment[CS].base + s.rip) & 0xffffffff;
  }
  return fetch_page(cpu, linear, phys);
}

// Does the second page of a page-crossing block still lie where it did?
bool SoftEngine::crossing_matches(SoftCpu& cpu, const Block* block) {
  uint64_t linear = cpu.s.mode64() ? cpu.s.rip : cpu.s.segment[CS].base + cpu.s.rip;
  linear = (linear & kPageMask) + kPageSize;
  if (!cpu.s.mode64()) linear &= 0xffffffff;
  uint64_t phys = 0;
  return fetch_page(cpu, linear, phys) && phys == block->phys2;
}

// The cached block at CS:RIP, built if need be; null with cpu.exit == fault if the code cannot be fetched, and null
// with cpu.exit == lookup if it cannot be cached (run it from scratch).
Block* SoftEngine::find_block(SoftCpu& cpu) {
  const bool flat = (cpu.mode & block_mode::flat) != 0;
  JumpCacheEntry& jump = cpu.translations->jump[jump_index(cpu.s.rip)];
  if (flat && jump.rip == cpu.s.rip && jump.stamp == cpu.jump_stamp[cpu.s.rip >> 63]) return jump.block;

  uint64_t phys = 0;
  cpu.exit = Exit::lookup;
  if (!code_address(cpu, phys)) return nullptr;
  note_executed(cpu);
  if (!platform_.memory.is_ram(PhysAddr(phys))) return nullptr;
  Block* block = cache_.find(phys, cpu.mode);
  if (block != nullptr && block->phys2 != Block::kOnePage && !crossing_matches(cpu, block)) {
    if (cpu.exit == Exit::fault) return nullptr;
    cache_.invalidate(block->phys, 1);  // another second page now: decode it again
    forget_jumps();
    block = nullptr;
  }
  if (block == nullptr) {
    Block fresh;
    const unsigned ops = build(cpu, phys, kMaxBlockInsns, fresh, scratch_.ops);
    if (ops == 0) return nullptr;
    if (fresh.phys2 != Block::kOnePage && !platform_.memory.is_ram(PhysAddr(fresh.phys2))) return nullptr;
    const uint64_t flushes = cache_.flushes();
    block = cache_.insert(fresh, scratch_.ops, ops);
    if (cache_.flushes() != flushes) {
      forget_jumps();
      cpu.chain_from = nullptr;
    }
    hold_back_writes(phys);
    if (fresh.phys2 != Block::kOnePage) hold_back_writes(fresh.phys2);
    bind_last(*block, block->ops());
    ++report_.statistics.blocks_decoded;
  }
  if (!flat) return block->size - 1u <= cpu.s.segment[CS].limit - cpu.s.rip ? block : nullptr;
  if (block->phys2 == Block::kOnePage && !breakpoint_offset(phys) && !blocks_observed_) jump = {cpu.s.rip, cpu.jump_stamp[cpu.s.rip >> 63], block};
  return block;
}

// A page has come to be guarded: stores to it must take the slow path from now on.
void SoftEngine::hold_back_writes(uint64_t phys) {
  const auto host = reinterpret_cast<uint64_t>(platform_.memory.host(PhysAddr(phys & kPageMask)));
  for (auto& c : contexts_)
    for (Tlb& tlb : c->translations.tlb)
      for (TlbEntry& e : tlb.entry)
        if (e.write_tag != kNoTag && e.write_tag + e.addend == host) e.write_tag = kNoTag;
}

// Decodes the block at CS:RIP into decoded_, up to `max_insns` instructions. False: cpu.fault is set.
bool SoftEngine::decode_code(SoftCpu& cpu, uint64_t phys, unsigned max_insns, Block& block) {
  const CodeContext context{.mode = cpu.mode, .processor_model = processor_model_};
  GuestMemory& memory = platform_.memory;
  // Bytes to the end of the page, and never beyond the code segment's limit (SDM 3A 5.3).
  const uint64_t in_page = kPageSize - (phys & ~kPageMask);
  const uint64_t within_limit =
      cpu.s.mode64() ? kPageSize : uint64_t{cpu.s.segment[CS].limit} + 1 - std::min<uint64_t>(cpu.s.rip, uint64_t{cpu.s.segment[CS].limit} + 1);
  const uint64_t available = std::min(in_page, within_limit);
  uint8_t buffer[2 * kMaxInsnLength];
  std::memset(buffer, 0xff, sizeof buffer);  // what nobody answers reads as ones
  const bool ram = memory.is_ram(PhysAddr(phys));
  const uint8_t* bytes = ram ? memory.host(PhysAddr(phys)) : buffer;
  const uint64_t readable = ram ? available : std::min<uint64_t>(available, sizeof buffer);
  const Cuts cuts(*this, phys);
  decode_block({{bytes, readable}, static_cast<unsigned>(in_page)}, context, max_insns, &cuts, decoded_);
  if (decoded_.empty() && decoded_.end() == BlockEnd::bytes_end && available < kMaxInsnLength) {
    if (within_limit <= in_page) return raise_gp(cpu, 0);
    // The instruction goes on in the next page.
    if (ram) std::memcpy(buffer, bytes, available);
    uint64_t linear = (cpu.s.mode64() ? cpu.s.rip : cpu.s.segment[CS].base + cpu.s.rip) + available;
    if (!cpu.s.mode64()) linear &= 0xffffffff;
    else if (!is_canonical(linear)) return raise_gp(cpu, 0);
    uint64_t phys2 = 0;
    if (!fetch_page(cpu, linear, phys2)) return false;
    const uint64_t rest = std::min<uint64_t>(kMaxInsnLength, within_limit - available);
    if (memory.is_ram(PhysAddr(phys2))) std::memcpy(buffer + available, memory.host(PhysAddr(phys2)), rest);
    const uint64_t both = std::min<uint64_t>(available + rest, kMaxInsnLength);
    decode_block({{buffer, both}, static_cast<unsigned>(in_page)}, context, max_insns, &cuts, decoded_);
    block.phys2 = phys2;
  }
  // Longer than 15 bytes, or running into the segment's limit.
  return !decoded_.empty() || raise_gp(cpu, 0);
}

// Decodes from CS:RIP (at guest-physical `phys`) until something ends the block. Returns the number of ops; 0 with
// cpu.exit == fault if the first instruction cannot be fetched.
unsigned SoftEngine::build(SoftCpu& cpu, uint64_t phys, unsigned max_insns, Block& block, Op* ops) {
  block = Block{};
  block.phys = phys;
  block.mode = cpu.mode;
  if (!decode_code(cpu, phys, max_insns, block)) return 0;
  const unsigned count = make_ops(decoded_, platform_.memory.is_ram(PhysAddr(phys)), block, ops);
  built_string_ = decoded_.end() != BlockEnd::undefined && is_repeated_string(decoded_.last().insn);
  return count;
}

// --- running --------------------------------------------------------------------------------------------------------

void SoftEngine::run_block(SoftCpu& cpu, const Block& block, const Op* op) {
  if (blocks_observed_) [[unlikely]] return run_observed_block(cpu, block, op);
  enter(cpu, block, op);
}

void SoftEngine::run_observed_block(SoftCpu& cpu, const Block& block, const Op* op) {
  const uint64_t begin = cpu.s.rip;
  const uint64_t end = cpu.limit - static_cast<uint64_t>(cpu.budget) + block.count;
  enter(cpu, block, op);
  const bool whole = cpu.limit - static_cast<uint64_t>(cpu.budget) == end && cpu.exit != Exit::fault && cpu.exit != Exit::split;
  if (whole) note_transfer(cpu, block, begin);
}

void SoftEngine::enter(SoftCpu& cpu, const Block& block, const Op* op) {
  cpu.budget -= block.count;
  cpu.exit = Exit::lookup;
  cpu.chain_from = nullptr;
#if RV_TAIL_CALLS
  op->fn(&cpu, op);
#else
  while (op != nullptr) op = op->fn(&cpu, op);
#endif
}

// Makes a block of at most `max_insns` instructions that is thrown away afterwards. False: cpu.exit is a fault.
bool SoftEngine::build_scratch(SoftCpu& cpu, unsigned max_insns) {
  uint64_t phys = 0;
  cpu.exit = Exit::lookup;
  if (!code_address(cpu, phys)) return false;
  note_executed(cpu);
  if (build(cpu, phys, std::min(max_insns, kMaxBlockInsns), scratch_.block, scratch_.ops) == 0) return false;
  scratch_.block.linkable = 0;
  bind_last(scratch_.block, scratch_.ops);
  return true;
}

bool SoftEngine::run_scratch(SoftCpu& cpu, unsigned max_insns) {
  if (!build_scratch(cpu, max_insns)) return false;
  run_block(cpu, scratch_.block, scratch_.ops);
  return true;
}

// The instruction at CS:RIP turned out to touch MMIO, or code of its own block, from the middle of a block. It runs
// alone now, and ends its block when that is decoded again.
void SoftEngine::split_block(SoftCpu& cpu) {
  uint64_t phys = 0;
  if (!code_address(cpu, phys)) return;
  cache_.mark_mmio_site(phys);
  if (cache_.invalidate(phys, 1)) forget_jumps();
  run_scratch(cpu, 1);
}

// A vCPU that does not run: does anything wake it?
bool SoftEngine::wake(SoftCpu& cpu) {
  CpuState& s = cpu.s;
  if (!woken(*cpu.vcpu, interrupt_due(*cpu.vcpu))) return false;
  if (s.activity == Activity::wait_for_sipi) {
    s.start_up();
    mode_changed(cpu);
  }
  s.activity = Activity::running;
  return true;
}

SoftEngine::Interrupt SoftEngine::take_interrupt(SoftCpu& cpu, uint64_t position) {
  CpuState& s = cpu.s;
  if (s.init_pending) {
    s = s.after_init(cpu.vcpu->id);
    cpu.cc = cc_of_flags(s.rflags);
    mode_changed(cpu);
    tlb_flush(cpu);
    return Interrupt::delivered;
  }
  const bool nmi = s.nmi_due();
  if (!nmi && !interrupt_due(*cpu.vcpu)) return Interrupt::none;
  if (in_shadow(cpu, position)) return Interrupt::shadowed;
  platform_.clock.set_retired(Position(position));
  uint8_t vector = vec::NMI;
  InterruptSource source = InterruptSource::nmi;
  if (nmi) {
    s.nmi_pending = false;
    s.nmi_blocked = true;
  } else {
    source = cpu.vcpu->interrupts->source();
    vector = cpu.vcpu->interrupts->acknowledge();
    if (platform_.clock.source() == TimeSource::events) {
      cpu.vcpu->may_deliver = false;
      x87_pointers_through_memory(cpu.processor_model, s.x87);  // KVM gets interrupts from user space
    }
  }
  platform_.journal.log(EventKind::interrupt, vector, static_cast<uint64_t>(source));
  tell(cpu, Observation::Kind::interrupt, s.rip, vector, 0, 0);
  return deliver_interrupt(cpu, vector, EventType::external) ? Interrupt::delivered : Interrupt::triple_fault;
}

// One instruction with TF, RF or breakpoints armed (SDM 3B 17.3). A fault is left in cpu.exit and cpu.fault.
void SoftEngine::step_slowly(SoftCpu& cpu, bool shadowed) {
  CpuState& s = cpu.s;
  const uint64_t position = cpu.limit - static_cast<uint64_t>(cpu.budget);
  const bool held_back = s.shadow == Shadow::debug && in_shadow(cpu, position);
  const bool resume = (s.rflags & flag::RF) != 0;
  if (!resume && !held_back && breakpoints_armed(s.dr7)) {
    const uint64_t linear = s.linear_rip().value;
    uint64_t hits = 0;
    for (unsigned i = 0; i < 4; ++i) {
      const BreakpointControl b = breakpoint_control(s.dr7, i);
      if (b.on && b.what == BreakOn::execution && s.dr[i] == linear) hits |= uint64_t{1} << i;
    }
    if (hits != 0) {
      cpu.fault = {vec::DB, false, 0, hits, false};
      cpu.exit = Exit::fault;
      return;
    }
  }
  s.rflags &= ~flag::RF;
  const bool single_step = (s.rflags & flag::TF) != 0;
  cpu.debug_hits = 0;
  cpu.event_delivered = false;
  bool ran = false;
  if (resume && !shadowed && !single_step && !breakpoints_armed(s.dr7) && s.pending_debug == 0 && cpu.budget > 1 && build_scratch(cpu, 1) && built_string_) {
    // Nothing but RF, which stays in force as long as iterations are left: as many of them at once as there is room for.
    run_block(cpu, scratch_.block, scratch_.ops);
    ran = true;
  } else {
    cpu.limit = position + 1;
    cpu.budget = 1;
    ran = run_scratch(cpu, 1);
  }
  if (!ran || cpu.exit == Exit::fault) {
    if (resume) s.rflags |= flag::RF;  // the instruction has not completed
    mode_changed(cpu);
    return;
  }
  const uint64_t now = cpu.limit - static_cast<uint64_t>(cpu.budget);
  const bool trap = single_step && (!cpu.event_delivered || (s.rflags & flag::TF) != 0);
  uint64_t bits = s.pending_debug | cpu.debug_hits | (trap ? dr6::BS : 0);
  s.pending_debug = 0;
  if (s.shadow == Shadow::debug && in_shadow(cpu, now)) {
    s.pending_debug = bits & ~dr6::BS;  // MOV SS, POP SS: wait for the next instruction
    bits = 0;
  }
  mode_changed(cpu);
  if (bits != 0) {
    // Between two iterations AMD's processors push RF as it was when the instruction began (measured: Zen 3).
    if (vendor_of(processor_model_) == ProcessorModel::amd && built_string_ && !resume) s.rflags &= ~flag::RF;
    if (s.activity == Activity::halted) s.activity = Activity::running;
    cpu.fault = {vec::DB, false, 0, bits, true};
    cpu.exit = Exit::fault;
  }
}

uint64_t SoftEngine::deliveries() { return delivered_at_ == platform_.clock.retired().value ? deliveries_ : 0; }

// True: the run shall be left here.
bool SoftEngine::count_delivery(uint64_t position) {
  deliveries_ = delivered_at_ == position ? deliveries_ + 1 : 1;
  delivered_at_ = position;
  return deliveries_ == yield_behind_;
}

EngineStop SoftEngine::loop(SoftCpu& cpu, uint64_t end) {
  CpuState& s = cpu.s;
  const uint64_t deadline_changes = platform_.deadlines.changes();
  const uint64_t events = platform_.clock.events();
  uint64_t last_position = kNoPosition.value;
  unsigned exceptions = 0;
  // The last position at which something other than an instruction happened, or may have: the machine did what was due.
  uint64_t disturbed = cpu.limit - static_cast<uint64_t>(cpu.budget);
  for (;;) {
    const uint64_t position = cpu.limit - static_cast<uint64_t>(cpu.budget);
    if (position != last_position) {
      last_position = position;
      exceptions = 0;
    }
    cpu.limit = end;
    cpu.budget = static_cast<int64_t>(end - position);
    if (cpu.observed_stop) [[unlikely]] {  // first of all: nothing else may happen here yet
      cpu.observed_stop = false;
      return EngineStop::observed;
    }
    if (platform_.deadlines.changes() != deadline_changes || platform_.control.stop_requested() || platform_.clock.events() != events)
      return EngineStop::yield;
    if (position == end) return EngineStop::limit;
    if (s.activity != Activity::running && !wake(cpu)) return EngineStop::halted;

    bool shadowed = false;
    if (cpu.vcpu->intr || s.nmi_pending || s.init_pending) [[unlikely]] {
      if (stop_at_window_ && interrupt_waits(*cpu.vcpu) && !cpu.vcpu->may_deliver && !in_shadow(cpu, position))
        return EngineStop::kicked;
      const uint64_t interrupted = s.rip;
      switch (take_interrupt(cpu, position)) {
        case Interrupt::none: break;
        case Interrupt::triple_fault: return EngineStop::triple_fault;
        case Interrupt::shadowed: shadowed = true; break;
        case Interrupt::delivered:
          cpu.chain_from = nullptr;
          disturbed = position;
          if (blocks_observed_) [[unlikely]] arrive(cpu, interrupted, false);
          if (++exceptions > kMaxExceptionChain) return EngineStop::stuck;
          if (count_delivery(position)) [[unlikely]] return EngineStop::yield;
          continue;
      }
    }

    if (watching_) [[unlikely]] {
      if (blocks_observed_ && at_observed_block(cpu, position)) return EngineStop::observed;
      if (at_observed_code(cpu, position, position != disturbed)) return EngineStop::observed;
    } else {
      cpu.one_iteration = false;
    }

    if (cpu.slow) [[unlikely]] {
      step_slowly(cpu, shadowed);
    } else if (shadowed) [[unlikely]] {
      cpu.limit = position + 1;  // one instruction, and not on into the next block
      cpu.budget = 1;
      run_scratch(cpu, 1);
    } else {
      Block* from = cpu.exit == Exit::lookup ? cpu.chain_from : nullptr;
      const unsigned slot = cpu.chain_slot;
      cpu.chain_from = from;
      Block* block = find_block(cpu);
      if (block != nullptr && cpu.budget >= block->count) {
        if (cpu.chain_from != nullptr && from->live && block->live && block->phys2 == Block::kOnePage && !breakpoint_offset(block->phys) && !blocks_observed_) {
          CodeCache::link(from, slot, block);
        }
        run_block(cpu, *block, block->ops());
      } else {
        cpu.chain_from = nullptr;
        if (block != nullptr || cpu.exit != Exit::fault) run_scratch(cpu, static_cast<unsigned>(std::min<int64_t>(cpu.budget, kMaxBlockInsns)));
      }
    }
    if (cpu.exit == Exit::lookup) [[likely]] continue;
    if (cpu.exit == Exit::split) split_block(cpu);
    if (cpu.exit == Exit::fault) {
      if (++exceptions > kMaxExceptionChain) return EngineStop::stuck;
      disturbed = cpu.limit - static_cast<uint64_t>(cpu.budget);
      platform_.clock.set_retired(Position(disturbed));
      const bool behind = cpu.fault.trap;
      const uint64_t faulted = s.rip;
      if (!deliver_fault(cpu)) return EngineStop::triple_fault;
      if (blocks_observed_) [[unlikely]] arrive(cpu, faulted, false);
      cpu.exit = Exit::lookup;
      cpu.chain_from = nullptr;
      if (!behind && count_delivery(disturbed)) [[unlikely]] return EngineStop::yield;
    }
    if (cpu.exit == Exit::yield) {
      cpu.exit = Exit::lookup;
      return EngineStop::yield;
    }
  }
}

EngineStop SoftEngine::run(Vcpu& vcpu, Position limit) {
  if (platform_.clock.unit() == PositionUnit::instructions) return run_instructions(vcpu, limit - platform_.clock.retired());
  RV_ASSERT(platform_.clock.position() < limit);  // the run ends at the next one anyway
  return run_instructions(vcpu, kLongRun);
}

EngineStop SoftEngine::run_instructions(Vcpu& vcpu, uint64_t count) {
  SoftCpu& cpu = contexts_[vcpu.id.value]->cpu;
  CpuState& s = cpu.s;
  RV_ASSERT(&vcpu.state == &s);
  const uint64_t position = platform_.clock.retired().value;
  const Position limit(position + count);
  RV_ASSERT(count < (uint64_t{1} << 62) && limit.value < (uint64_t{1} << 62));
  cpu.vcpu = &vcpu;
  set_rflags(cpu, s.rflags);
  mode_changed(cpu);
  cpu.limit = limit.value;
  cpu.budget = static_cast<int64_t>(limit.value - position);
  cpu.exit = Exit::lookup;
  cpu.chain_from = nullptr;
  cpu.shadow_position = position;
  running_ = &cpu;
  const EngineStop stop = loop(cpu, limit.value);
  running_ = nullptr;
  platform_.clock.set_retired(Position(cpu.limit - static_cast<uint64_t>(cpu.budget)));
  settle_shadow(cpu, platform_.clock.retired().value);
  s.rflags = get_rflags(cpu);
  return stop;
}

EngineStop SoftEngine::raise(Vcpu& vcpu, uint8_t vector, std::optional<uint32_t> error) {
  SoftCpu& cpu = contexts_[vcpu.id.value]->cpu;
  cpu.vcpu = &vcpu;
  set_rflags(cpu, vcpu.state.rflags);
  mode_changed(cpu);
  cpu.fault = {vector, error.has_value(), error.value_or(0), vcpu.state.cr2, false};
  const bool running = deliver_fault(cpu);
  vcpu.state.rflags = get_rflags(cpu);
  return running ? EngineStop::limit : EngineStop::triple_fault;
}

// --- op.h -----------------------------------------------------------------------------------------------------------

RV_HANDLER op_fault(SoftCpu* cpu, const Op* op) {
  cpu->s.rip += op->ip_offset;
  cpu->budget += op->remaining;
  RV_LEAVE;
}

bool call_end(SoftCpu& cpu, const Op& op, Exec f) {
  cpu.s.rip += op.ip_offset;
  cpu.end_rip = cpu.s.rip;
  cpu.in_end = true;
  sync_clock(cpu, op);
  const bool done = f(cpu, op);
  cpu.in_end = false;
  if (!done) cpu.budget += op.remaining;
  return done;
}

}  // namespace soft
}  // namespace retrovisor
