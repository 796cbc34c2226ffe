// What the engine tells observers, and the account it keeps of touched pages.
#include <algorithm>
#include <cstring>

#include "vmm/soft/memory.h"
#include "vmm/soft/soft_engine.h"

namespace retrovisor::soft {

// Every page has to pass through the slow path once more before accesses to it are fast again. What the translations say
// stays good.
void SoftEngine::hold_back_translations() {
  for (auto& c : contexts_) {
    for (Tlb& tlb : c->translations.tlb) {
      for (TlbEntry& e : tlb.entry) {
        if (e.read_tag != kNoTag) e.read_tag |= kHeldBack;
        e.write_tag = kNoTag;
      }
    }
  }
}

void SoftEngine::observe(Observers& observers) {
  observers_ = &observers;
  const Observers::Wanted& wanted = observers.wanted();
  const bool every = observers.wants(Observation::Kind::instruction);
  // Blocks that were made for the eyes of somebody are too short for anybody else.
  if (every_instruction_ && !every) {
    cache_.flush();
    forget_jumps();
  }
  every_instruction_ = every;
  const bool blocks = observers.wants(Observation::Kind::block);
  if (blocks && !blocks_observed_) {  // no block leads to the next but through the run loop
    cache_.flush();
    forget_jumps();
    for (auto& c : contexts_) c->arrival = {};
  }
  blocks_observed_ = blocks;
  code_observed_ = every || !wanted.breakpoints.empty();
  watching_ = code_observed_ || blocks;
  breakpoint_offsets_.reset();
  if (code_observed_) {
    if (every) breakpoint_offsets_.set();
    for (const uint64_t address : wanted.breakpoints) breakpoint_offsets_.set(address & ~kPageMask);
    cache_.cut_at(breakpoint_offsets_);
    forget_jumps();
  }
  flag_watched_pages(false);
  if (!wanted.physical.empty()) flag_watched_pages(true);
  for (auto& c : contexts_) {
    c->cpu.observers = wanted.watches.empty() && wanted.physical.empty() ? nullptr : observers_;
    c->cpu.observed_stop = false;
  }
  if (!wanted.watches.empty()) hold_back_translations();
}

void SoftEngine::tell(SoftCpu& cpu, Observation::Kind kind, uint64_t rip, uint8_t number, uint64_t before, uint64_t now) {
  if (!observers_->wants(kind)) [[likely]] return;
  Observation o;
  o.kind = kind;
  o.vcpu = cpu.vcpu->id;
  o.position = platform_.clock.retired();
  o.rip = rip;
  o.cpl = static_cast<uint8_t>(cpu.s.cpl());
  o.cr3 = cpu.s.cr3;
  o.address = cpu.s.linear_rip();
  o.number = number;
  o.old_value = before;
  o.new_value = now;
  if (observers_->tell(o)) cpu.observed_stop = true;
}

// --- physical bytes -------------------------------------------------------------------------------------------------

// A page with watched bytes is guarded like one with code: no write to it is fast, and writes by others are reported.
void SoftEngine::flag_watched_pages(bool on) {
  GuestMemory& memory = platform_.memory;
  for (const uint64_t page : watched_pages_)
    memory.flags(page) = static_cast<uint8_t>(memory.flags(page) & ~page_flag::watched);
  watched_pages_.clear();
  if (!on) return;
  for (const PhysicalWatch& w : observers_->wanted().physical) {
    const uint64_t last = w.begin.value + std::min(w.size - 1, UINT64_MAX - w.begin.value);
    for (uint64_t page = w.begin.value >> kPageShift; w.size != 0 && page <= last >> kPageShift; ++page) {
      if (page >= memory.page_limit()) break;
      if (!memory.is_ram(PhysAddr(page << kPageShift)) || (memory.flags(page) & page_flag::watched) != 0) continue;
      memory.flags(page) |= page_flag::watched;
      watched_pages_.push_back(page);
      hold_back_writes(page << kPageShift);
    }
  }
}

namespace {

bool meet(const PhysicalWatch& w, uint64_t phys, uint64_t size) {
  return w.size != 0 && size != 0 && (phys - w.begin.value < w.size || w.begin.value - phys < size);
}

// The first (at most 8) bytes of a watch as they are now; bytes that are no RAM count as zero.
uint64_t value_of(const GuestMemory& memory, const PhysicalWatch& w) {
  uint64_t value = 0;
  auto* bytes = reinterpret_cast<uint8_t*>(&value);
  for (uint64_t i = 0; i < std::min<uint64_t>(w.size, 8); ++i)
    if (memory.is_ram(w.begin + i)) bytes[i] = *memory.host(w.begin + i);
  return value;
}

}  // namespace

bool SoftEngine::watched_bytes(uint64_t phys, uint64_t size) const {
  const auto& all = observers_->wanted().physical;
  return std::any_of(all.begin(), all.end(), [&](const PhysicalWatch& w) { return meet(w, phys, size); });
}

// `o` says who writes `data` to o.bytes, which lie in one page. Writes it, and tells the observers whose bytes it touches.
void SoftEngine::write_observed(Observation o, std::span<const uint8_t> data) {
  struct Touch {
    size_t index;
    uint64_t before;
    bool changes;
  };
  std::vector<Touch> touches;
  const GuestMemory& memory = platform_.memory;
  uint8_t* const host = memory.host(o.bytes.begin);
  const uint64_t phys = o.bytes.begin.value;
  for (size_t i = 0; i < observers_->wanted().physical.size(); ++i) {
    const PhysicalWatch& w = observers_->wanted().physical[i];
    if (!meet(w, phys, data.size())) continue;
    const uint64_t first = std::max(w.begin.value, phys) - phys;
    const uint64_t end = std::min<uint64_t>(w.size - (phys + first - w.begin.value), data.size() - first) + first;
    touches.push_back({i, value_of(memory, w), std::memcmp(host + first, data.data() + first, end - first) != 0});
  }
  std::memcpy(host, data.data(), data.size());
  for (const Touch& touch : touches) {
    o.index = touch.index;
    o.old_value = touch.before;
    o.new_value = value_of(memory, observers_->wanted().physical[touch.index]);
    o.changed = touch.changes;
    o.data = data;
    if (!observers_->tell(o) || running_ == nullptr) continue;
    running_->observed_stop = true;
    // Where code is being fetched, the block that comes has not taken its part of the budget yet: there the stop comes late.
    if (running_->observed != nullptr) leave_after_block(*running_);
  }
}

namespace {

// Who makes the access that `cpu` is about, and where in its instruction stream.
Observation access_of(const SoftCpu& cpu) {
  Observation o;
  o.kind = Observation::Kind::physical_write;
  o.vcpu = cpu.vcpu == nullptr ? VcpuId{} : cpu.vcpu->id;
  o.cpl = static_cast<uint8_t>(cpu.s.cpl());
  o.cr3 = cpu.s.cr3;
  // Between instructions, where code is fetched and events are delivered (kNoOp), none has been taken from the budget.
  const bool between = cpu.observed == nullptr || cpu.observed->op.fn == nullptr;
  o.position = between ? Position(cpu.limit - static_cast<uint64_t>(cpu.budget)) : position_before(cpu, cpu.observed->op);
  if (cpu.in_end)
    o.rip = cpu.end_rip;
  else
    o.rip = cpu.observed == nullptr ? cpu.s.rip : instruction_rip(cpu, cpu.observed->op);
  if (cpu.observed != nullptr) {
    o.address = LinearAddr(cpu.observed->linear);
    o.size = cpu.observed->size;
  } else {
    o.address = cpu.s.linear_rip();
  }
  return o;
}

}  // namespace

void SoftEngine::watched_store(SoftCpu& cpu, uint64_t linear, PhysAddr addr, std::span<const uint8_t> data) {
  Observation o = access_of(cpu);
  o.writer = Writer::instruction;
  o.bytes = {addr, data.size()};
  o.through = LinearAddr(linear);
  write_observed(o, data);
}

void SoftEngine::watched_write(PhysAddr addr, std::span<const uint8_t> data, bool walk) {
  Observation o;
  if (walk && running_ != nullptr) {
    o = access_of(*running_);
    o.writer = Writer::page_walk;
  } else {
    o.kind = Observation::Kind::physical_write;
    o.writer = Writer::outside;
    o.position = platform_.clock.retired();
    if (running_ != nullptr && running_->vcpu != nullptr) o.vcpu = running_->vcpu->id;
    o.address = LinearAddr(0);
    o.size = data.size();
  }
  o.bytes = {addr, data.size()};
  write_observed(o, data);
}

// --- breakpoints ----------------------------------------------------------------------------------------------------

void SoftEngine::arrive(SoftCpu& cpu, uint64_t from, bool transfer) {
  contexts_[cpu.vcpu->id.value]->arrival = {true, transfer, from};
}

// All of `block`, which began at `begin`, has been executed: did its last instruction decide where to go on?
void SoftEngine::note_transfer(SoftCpu& cpu, const Block& block, uint64_t begin) {
  const uint64_t behind = cpu.s.mode64() ? begin + block.size : (begin + block.size) & 0xffffffff;
  switch (block.flow) {
    case Flow::next:
    case Flow::repeat: return;
    case Flow::system:
      if (cpu.s.rip == behind) return;
      break;
    case Flow::conditional:
    case Flow::jump:
    case Flow::call:
    case Flow::indirect: break;
  }
  arrive(cpu, begin + block.last_offset, true);
}

// True: an observer asked to stop before the block that begins here, if one does.
bool SoftEngine::at_observed_block(SoftCpu& cpu, uint64_t position) {
  auto& arrival = contexts_[cpu.vcpu->id.value]->arrival;
  if (!arrival.begins) return false;
  arrival.begins = false;
  Observation o;
  o.kind = Observation::Kind::block;
  o.vcpu = cpu.vcpu->id;
  o.position = Position(position);
  o.address = cpu.s.linear_rip();
  o.rip = arrival.from;
  o.transfer = arrival.transfer;
  o.cpl = static_cast<uint8_t>(cpu.s.cpl());
  o.cr3 = cpu.s.cr3;
  return observers_->tell(o);
}

// The instruction at CS:RIP is about to run. True: an observer asked to stop before it.
bool SoftEngine::at_observed_code(SoftCpu& cpu, uint64_t position, bool on_arrival) {
  CpuState& s = cpu.s;
  const uint64_t linear = s.linear_rip().value;
  cpu.one_iteration = breakpoint_offset(linear);
  if (!cpu.one_iteration || !observers_->wants_code(linear, Position(position))) return false;
  platform_.clock.set_retired(Position(position));
  s.rflags = get_rflags(cpu);
  settle_shadow(cpu, position);
  Observation o;
  o.kind = Observation::Kind::breakpoint;
  o.vcpu = cpu.vcpu->id;
  o.position = Position(position);
  o.address = LinearAddr(linear);
  o.rip = s.rip;
  o.on_arrival = on_arrival;
  bool stop = observers_->tell(o);
  o.kind = Observation::Kind::instruction;
  if (every_instruction_) stop = observers_->tell(o) || stop;
  set_rflags(cpu, s.rflags);
  return stop;
}

void SoftEngine::track_touched(bool on) {
  if (on == (touched_ != nullptr)) return;
  touched_ = on ? std::make_unique<TouchedLog>() : nullptr;
  for (auto& c : contexts_) c->cpu.touched = touched_.get();
  if (on) take_touched();
}

TouchedPages SoftEngine::take_touched() {
  if (touched_ == nullptr) return {};
  // From here each page has to be looked at once more: data before it is found in the TLB, code before it is found in the
  // jump cache. (Direct links between blocks stay within a page.)
  hold_back_translations();
  forget_jumps();
  return {touched_->executed.take(), touched_->written.take(), touched_->accessed.take()};
}

}  // namespace retrovisor::soft
