// Keeps what is remembered of page tables true to the tables.
//
// A real CPU may go on using a translation after its table entry has changed, until the guest invalidates it. A machine whose
// state can be saved and restored at any instruction must not: what happens to be in the TLB is no part of that state. So
// every access behaves as if it walked the tables. (Forgetting a translation early is always allowed: SDM 3A 4.10.2.)
//
// Only entries with P and A set can have been used, so a write to any other cannot matter.
#include <cstring>

#include "vmm/soft/memory.h"
#include "vmm/soft/soft_engine.h"

namespace retrovisor::soft {
namespace {

// Pages that once held tables and now hold something else make stores to them slow. After this many, all is forgotten, which
// costs about as much.
constexpr uint64_t kIdleTableWrites = 20'000;

}  // namespace

void SoftEngine::guard_tables(const PageWalk& walk) {
  for (unsigned i = 0; i < walk.entries; ++i) {
    const uint64_t page = walk.entry[i].value >> kPageShift;
    // Only the last tables of four-level paging get the exact treatment; a write to any other is rare.
    const bool leaf = i + 1 == walk.entries && walk.page_size == kPageSize && walk.entries > 2;
    const uint8_t flag = leaf ? page_flag::table : page_flag::table_upper;
    uint8_t& flags = platform_.memory.flags(page);
    if ((flags & flag) != 0) continue;
    if ((flags & (page_flag::table | page_flag::table_upper)) == 0) tables_.push_back(page);
    const bool guarded = (flags & page_flag::guarded) != 0;
    flags |= flag;
    if (!guarded && (flags & page_flag::dirty) != 0) hold_back_writes(page << kPageShift);
  }
}

SoftEngine::TableWrite SoftEngine::table_write(uint64_t phys, const void* data, unsigned size) {
  const uint8_t* old = platform_.memory.host(PhysAddr(phys));
  if (std::memcmp(old, data, size) == 0) return TableWrite::harmless;
  const bool upper = (platform_.memory.flags(phys >> kPageShift) & page_flag::table_upper) != 0;
  TableWrite what = TableWrite::harmless;
  // 4-byte entries are looked at two at a time; the halves of an entry never hide a P or A flag of the other.
  const uint64_t first = phys & ~uint64_t{7};
  for (uint64_t at = first; at < phys + size; at += 8) {
    uint64_t entry = 0;
    std::memcpy(&entry, platform_.memory.host(PhysAddr(at)), 8);
    constexpr uint64_t used = pte::P | pte::A;
    if ((entry & used) != used && (!upper || (entry >> 32 & used) != used)) continue;
    if (upper || (entry & pte::NX) == 0) return TableWrite::code;
    what = TableWrite::data;
  }
  if (what == TableWrite::harmless && ++idle_table_writes_ > kIdleTableWrites) forget_tables();
  return what;
}

void SoftEngine::drop_translations(SoftCpu& cpu, uint64_t phys, unsigned size, TableWrite what) {
  const bool upper = (platform_.memory.flags(phys >> kPageShift) & page_flag::table_upper) != 0;
  for (auto& c : contexts_) {
    if (upper) {
      tlb_flush(c->cpu);
      continue;
    }
    for (uint64_t at = phys & ~uint64_t{7}; at < phys + size; at += 8) tlb_drop_index(c->cpu, static_cast<unsigned>(at >> 3 & 511));
    if (what == TableWrite::code)
      for (unsigned half = 0; half < 2; ++half) soft::forget_jumps(c->cpu, half);
  }
  // The next instruction may come from elsewhere now.
  if (what == TableWrite::code) leave_after_block(cpu);
}

void SoftEngine::forget_tables() {
  for (const uint64_t page : tables_) {
    uint8_t& flags = platform_.memory.flags(page);
    flags = static_cast<uint8_t>(flags & ~(page_flag::table | page_flag::table_upper));
  }
  tables_.clear();
  idle_table_writes_ = 0;
  for (auto& c : contexts_) tlb_flush(c->cpu);
}

void SoftEngine::cr3_loaded(SoftCpu& cpu, uint64_t old) {
  constexpr uint64_t kHalf = kPageSize / 2;
  const uint64_t from = old & kPageMask, to = cpu.s.cr3 & kPageMask;
  const GuestMemory& memory = platform_.memory;
  // Kernels use the same tables for their own half of every address space: then what was read through the old one is what
  // the new one says.
  const bool same = cpu.s.long_mode() && memory.is_ram(PhysAddr(from)) && memory.is_ram(PhysAddr(to)) &&
                    std::memcmp(memory.host(PhysAddr(from)) + kHalf, memory.host(PhysAddr(to)) + kHalf, kHalf) == 0;
  if (same) {
    PageWalk top;
    top.entry[0] = PhysAddr(to);
    top.entries = 1;
    guard_tables(top);
  }
  tlb_flush(cpu, same ? TlbPart::lower_half : TlbPart::all);
}

}  // namespace retrovisor::soft
