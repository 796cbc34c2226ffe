#include "vmm/soft/memory.h"

#include <algorithm>
#include <cstring>

#include "vmm/cpu/canonical.h"
#include "vmm/cpu/debug_registers.h"
#include "vmm/cpu/page_walk.h"
#include "vmm/mmio_split.h"
#include "vmm/soft/soft_engine.h"
#include "vmm/soft/touched.h"

namespace retrovisor::soft {
namespace {

bool raise_page_fault(SoftCpu& cpu, uint64_t linear, uint32_t error) {
  cpu.fault = {vec::PF, true, error, linear, false};
  cpu.exit = Exit::fault;
  return false;
}

// An access or fetch beyond the segment or the canonical range: #SS for the stack segment, else #GP.
bool raise_segment(SoftCpu& cpu, unsigned segment) { return raise(cpu, segment == SS ? vec::SS : vec::GP, 0); }

Translations::Kind privilege_of(const SoftCpu& cpu, bool user) {
  if (user) return Translations::user;
  return (cpu.s.rflags & flag::AC) != 0 && (cpu.s.cr4 & cr4::SMAP) != 0 ? Translations::supervisor_ac : Translations::supervisor;
}

// Do two ranges of linear addresses meet? They may end at the very top.
bool overlap(uint64_t a, uint64_t a_size, uint64_t b, uint64_t b_size) {
  return a_size != 0 && b_size != 0 && (a - b < b_size || b - a < a_size);
}

// Is any byte of the page watched by an observer? Such pages are held back in the TLB.
bool page_watched(const SoftCpu& cpu, uint64_t page) {
  if (cpu.observers == nullptr) return false;
  for (const Watch& w : cpu.observers->wanted().watches)
    if (overlap(page, kPageSize, w.begin.value, w.size)) return true;
  return false;
}

// Where an access goes: a host address, or a guest-physical address of no RAM.
struct Target {
  uint8_t* host = nullptr;
  uint64_t phys = 0;
};

// Translates one access that does not cross a page. Fills the TLB of `kind`.
bool translate(SoftCpu& cpu, uint64_t linear, bool write, Translations::Kind kind, bool implicit, Target& out) {
  TlbEntry& e = cpu.translations->tlb[kind].entry[(linear >> kPageShift) % kTlbEntries];
  const uint64_t page = linear & kPageMask;
  GuestMemory& memory = cpu.platform->memory;
  if (cpu.touched != nullptr) {
    cpu.touched->accessed.note(page >> kPageShift);
    if (write) cpu.touched->written.note(page >> kPageShift);
  }
  const bool known = (e.read_tag & ~kHeldBack) == page;
  if (known && (!write || (e.flags & tlb_flag::writable) != 0)) {
    out.host = reinterpret_cast<uint8_t*>(linear + e.addend);
    out.phys = static_cast<uint64_t>(out.host - memory.host(PhysAddr(0)));
  } else {
    const PageAccess access{.write = write, .user = kind == Translations::user, .fetch = false, .implicit = implicit};
    const PageWalk walk = walk_page(cpu.s, memory, LinearAddr(linear), access);
    if (!walk.ok) return raise_page_fault(cpu, linear, walk.error);
    out.phys = walk.phys.value;
    if (!memory.is_ram(walk.phys)) {
      out.host = nullptr;
      return true;
    }
    out.host = memory.host(walk.phys);
    e.write_tag = kNoTag;
    e.addend = reinterpret_cast<uint64_t>(out.host) - linear;
    e.flags = walk.writable ? tlb_flag::writable : 0;
    cpu.engine->guard_tables(walk);
  }
  const bool watched = page_watched(cpu, page);
  e.read_tag = watched ? page | kHeldBack : page;
  const uint8_t flags = memory.flags(out.phys >> kPageShift);
  if (!watched && (flags & page_flag::guarded) == 0 && (e.flags & tlb_flag::writable) != 0) {
    if (write) memory.mark_dirty(PhysAddr(out.phys));
    if (write || (flags & page_flag::dirty) != 0) {
      e.write_tag = page;
      if (cpu.touched != nullptr) cpu.touched->written.note(page >> kPageShift);
    }
  }
  return true;
}

bool mmio(SoftCpu& cpu, const Op& op, uint64_t phys, void* data, unsigned size, bool write) {
  if (op.remaining != 1) {
    cpu.exit = Exit::split;
    return false;
  }
  sync_clock(cpu, op);
  auto* bytes = static_cast<uint8_t*>(data);
  split_mmio(phys, size, [&](unsigned offset, unsigned piece) {
    uint64_t value = 0;
    synchronous_event(cpu);
    if (write) {
      std::memcpy(&value, bytes + offset, piece);
      cpu.platform->mmio.write(cpu.vcpu->id, PhysAddr(phys + offset), piece, value);
    } else {
      value = cpu.platform->mmio.read(cpu.vcpu->id, PhysAddr(phys + offset), piece);
      std::memcpy(bytes + offset, &value, piece);
    }
  });
  // The access may have raised an interrupt or moved a deadline: leave at the next block border.
  leave_after_block(cpu);
  return true;
}

// The first (at most 8) bytes of a watch as they are now; bytes that cannot be read count as zero.
uint64_t watched_value(const SoftCpu& cpu, const Watch& watch) {
  uint64_t value = 0;
  auto* bytes = reinterpret_cast<uint8_t*>(&value);
  for (uint64_t i = 0; i < std::min<uint64_t>(watch.size, 8); ++i) {
    const PageWalk walk = walk_page(cpu.s, cpu.platform->memory, LinearAddr(watch.begin.value + i), {}, false);
    if (walk.ok && cpu.platform->memory.is_ram(walk.phys)) bytes[i] = *cpu.platform->memory.host(walk.phys);
  }
  return value;
}

// Would writing `data` at `linear` change a byte of the watch? A write to a device always counts.
bool changes_watched(const SoftCpu& cpu, const Watch& watch, uint64_t linear, const void* data, unsigned size) {
  const auto* bytes = static_cast<const uint8_t*>(data);
  for (unsigned i = 0; i < size; ++i) {
    if (linear + i - watch.begin.value >= watch.size) continue;
    const PageWalk walk = walk_page(cpu.s, cpu.platform->memory, LinearAddr(linear + i), {}, false);
    if (!walk.ok || !cpu.platform->memory.is_ram(walk.phys)) return true;
    if (*cpu.platform->memory.host(walk.phys) != bytes[i]) return true;
  }
  return false;
}

// Does the access hit a data breakpoint? (SDM 3B 17.2.5)
void match_breakpoints(SoftCpu& cpu, uint64_t linear, unsigned size, bool write) {
  for (unsigned i = 0; i < 4; ++i) {
    const BreakpointControl b = breakpoint_control(cpu.s.dr7, i);
    if (!b.on || !(b.what == BreakOn::access || (b.what == BreakOn::write && write))) continue;
    if (b.touches(cpu.s.dr[i], linear, size)) cpu.debug_hits |= 1u << i;
  }
}

// The part of an access that lies in one page, already translated.
bool perform(SoftCpu& cpu, const Op& op, uint64_t linear, const Target& target, void* data, unsigned size, bool write) {
  if (target.host == nullptr) return mmio(cpu, op, target.phys, data, size, write);
  if (write) {
    GuestMemory& memory = cpu.platform->memory;
    if ((memory.flags(target.phys >> kPageShift) & page_flag::guarded) != 0 &&
        !cpu.engine->before_guarded_write(cpu, op, target.phys, data, size)) {
      cpu.exit = Exit::split;
      return false;
    }
    memory.mark_dirty(PhysAddr(target.phys));
    if ((memory.flags(target.phys >> kPageShift) & page_flag::watched) != 0) [[unlikely]]
      cpu.engine->watched_store(cpu, linear, PhysAddr(target.phys), {static_cast<const uint8_t*>(data), size});
    else
      std::memcpy(target.host, data, size);
  } else {
    std::memcpy(data, target.host, size);
  }
  return true;
}

// Does perform() ask for a split at this part?
bool needs_split(SoftCpu& cpu, const Op& op, const Target& target, const void* data, unsigned size, bool write) {
  if (op.remaining == 1) return false;
  if (target.host == nullptr) return true;
  return write && (cpu.platform->memory.flags(target.phys >> kPageShift) & page_flag::guarded) != 0 &&
         !cpu.engine->before_guarded_write(cpu, op, target.phys, data, size);
}

// Outside 64-bit mode linear addresses have 32 bits; but those of long mode's tables have 64 in compatibility mode, too.
bool wraps_at_4g(const SoftCpu& cpu, bool implicit) { return implicit ? !cpu.s.long_mode() : !cpu.s.mode64(); }

bool access_parts(SoftCpu& cpu, const Op& op, uint64_t linear, void* data, unsigned size, Access access, Translations::Kind kind,
                 bool implicit) {
  const bool write_rights = access != Access::read;
  const bool write = access == Access::write;
  if (wraps_at_4g(cpu, implicit)) linear &= 0xffffffff;
  else if (!is_canonical(linear, size)) return raise_segment(cpu, op.ea & ea::seg_mask);
  const unsigned first = static_cast<unsigned>(std::min<uint64_t>(size, kPageSize - (linear & ~kPageMask)));
  Target head, tail;
  if (!translate(cpu, linear, write_rights, kind, implicit, head)) return false;
  if (first == size) return perform(cpu, op, linear, head, data, size, write);
  uint64_t next = linear + first;
  if (wraps_at_4g(cpu, implicit)) next &= 0xffffffff;
  if (!translate(cpu, next, write_rights, kind, implicit, tail)) return false;
  // Neither part or both: a read-modify-write that is split must not find its own first part when it runs again.
  auto* bytes = static_cast<uint8_t*>(data);
  if (needs_split(cpu, op, head, bytes, first, write) || needs_split(cpu, op, tail, bytes + first, size - first, write)) {
    cpu.exit = Exit::split;
    return false;
  }
  return perform(cpu, op, linear, head, bytes, first, write) &&
         perform(cpu, op, next, tail, bytes + first, size - first, write);
}

// The watches that an access touches, told to the observers around it.
bool access_watched(SoftCpu& cpu, const Op& op, uint64_t linear, void* data, unsigned size, Access access, Translations::Kind kind,
                    bool implicit) {
  const auto& watches = cpu.observers->wanted().watches;
  const bool write = access == Access::write;
  const auto touched = [&](const Watch& w) {
    return (write ? w.on_write : w.on_read) && overlap(linear, size, w.begin.value, w.size);
  };
  if (std::none_of(watches.begin(), watches.end(), touched)) return access_parts(cpu, op, linear, data, size, access, kind, implicit);
  if (op.remaining > 1) {  // the stop has to come right behind this instruction
    cpu.exit = Exit::split;
    return false;
  }
  struct Touch {
    size_t index;
    uint64_t before;
    bool changes;
  };
  std::vector<Touch> touches;
  for (size_t i = 0; i < watches.size(); ++i)
    if (touched(watches[i]))
      touches.push_back({i, watched_value(cpu, watches[i]), write && changes_watched(cpu, watches[i], linear, data, size)});
  // Delivery of an event (kNoOp) comes between instructions: none has been taken from the budget.
  const Position position = op.fn == nullptr ? Position(cpu.limit - static_cast<uint64_t>(cpu.budget)) : position_before(cpu, op);
  const uint64_t rip = cpu.in_end ? cpu.end_rip : instruction_rip(cpu, op);
  if (!access_parts(cpu, op, linear, data, size, access, kind, implicit)) return false;
  for (const Touch& touch : touches) {
    Observation o;
    o.kind = write ? Observation::Kind::write : Observation::Kind::read;
    o.vcpu = cpu.vcpu == nullptr ? VcpuId{} : cpu.vcpu->id;
    o.position = position;
    o.address = LinearAddr(linear);
    o.size = size;
    o.index = touch.index;
    o.rip = rip;
    o.old_value = touch.before;
    o.new_value = watched_value(cpu, watches[touch.index]);
    o.changed = touch.changes;
    o.data = {static_cast<const uint8_t*>(data), size};
    if (cpu.observers->tell(o)) {
      cpu.observed_stop = true;
      leave_after_block(cpu);
    }
  }
  return true;
}

bool access_with(SoftCpu& cpu, const Op& op, uint64_t linear, void* data, unsigned size, Access access, Translations::Kind kind,
                 bool implicit) {
  if (cpu.observers != nullptr) [[unlikely]] {
    const ObservedAccess observed{op, linear, size};
    cpu.observed = &observed;
    const bool done = access_watched(cpu, op, linear, data, size, access, kind, implicit);
    cpu.observed = nullptr;
    return done;
  }
  return access_parts(cpu, op, linear, data, size, access, kind, implicit);
}

}  // namespace

bool mem_access(SoftCpu& cpu, const Op& op, uint64_t linear, void* data, unsigned size, Access access) {
  if (cpu.address_fault) {
    cpu.address_fault = false;
    return false;
  }
  const bool user = cpu.s.cpl() == 3;
  if (cpu.tlb == &cpu.translations->tlb[Translations::none]) {
    // What is not canonical, in whole or in part, goes before (measured: AMD and Intel alike). Of 16 bytes, SDM 3A table 6-7 leaves
    // it to the processor; AMD's checks them.
    const unsigned checked = cpu.processor_model == ProcessorModel::amd ? 16 : 8;
    if (cpu.s.checks_alignment() && size <= checked && (linear & (size - 1)) != 0 &&
        (!cpu.s.long_mode() || is_canonical(linear, size)))
      return raise(cpu, vec::AC, 0);
    if (!access_with(cpu, op, linear, data, size, access, privilege_of(cpu, user), false)) return false;
    match_breakpoints(cpu, linear, size, access != Access::read);
    return true;
  }
  return access_with(cpu, op, linear, data, size, access, privilege_of(cpu, user), false);
}

bool system_access(SoftCpu& cpu, const Op& op, uint64_t linear, void* data, unsigned size, Access access) {
  if (cpu.address_fault) {
    cpu.address_fault = false;
    return false;
  }
  return access_with(cpu, op, linear, data, size, access, Translations::supervisor, true);
}

namespace {

bool probe(SoftCpu& cpu, const Op& op, uint64_t linear, unsigned size, bool user, bool write,
           std::initializer_list<ProbedPart> first) {
  if (cpu.address_fault) {
    cpu.address_fault = false;
    return false;
  }
  if (size == 0) return true;
  const bool wraps = wraps_at_4g(cpu, false);
  if (wraps) linear &= 0xffffffff;
  else if (!is_canonical(linear, size)) return raise_segment(cpu, op.ea & ea::seg_mask);
  const Translations::Kind kind = privilege_of(cpu, user);
  Target target;
  const auto pages = [&](uint64_t done, uint64_t end) {
    while (done < end) {
      uint64_t at = linear + done;
      if (wraps) at &= 0xffffffff;
      if (!translate(cpu, at, write, kind, false, target)) return false;
      // Code and MMIO would hold the parts back: better before the first of them.
      const uint64_t part = std::min<uint64_t>(end - done, kPageSize - (at & ~kPageMask));
      if (op.remaining != 1 && (target.host == nullptr ||
                                (write && (cpu.platform->memory.flags(target.phys >> kPageShift) & page_flag::guarded) != 0))) {
        cpu.exit = Exit::split;
        return false;
      }
      done += part;
    }
    return true;
  };
  const ObservedAccess observed{op, linear, size};
  cpu.observed = &observed;
  bool good = true;
  for (const ProbedPart& part : first) good = good && pages(part.offset, part.offset + part.size);
  good = good && pages(0, size);
  cpu.observed = nullptr;
  return good;
}

}  // namespace

bool probe_write(SoftCpu& cpu, const Op& op, uint64_t linear, unsigned size, bool user) {
  return probe(cpu, op, linear, size, user, true, {});
}

bool probe_in_order(SoftCpu& cpu, const Op& op, uint64_t linear, unsigned size, Access access,
                    std::initializer_list<ProbedPart> first) {
  return probe(cpu, op, linear, size, cpu.s.cpl() == 3, access != Access::read, first);
}

namespace {

// An offset cut to the address size of an operand.
uint64_t cut_offset(const Op& op, uint64_t offset) {
  switch (op.ea >> ea::size_shift & ea::size_mask) {
    case 0: return offset & 0xffff;
    case 1: return offset & 0xffffffff;
    default: return offset;
  }
}

}  // namespace

uint64_t effective_offset(const SoftCpu& cpu, const Op& op) {
  return cut_offset(op, get<uint64_t>(&cpu, op.base) + (get<uint64_t>(&cpu, op.index) << op.scale) +
                            static_cast<uint64_t>(static_cast<int64_t>(op.disp)) +
                            ((op.ea & ea::wide) != 0 ? uint64_t{1} << 32 : 0));
}

uint64_t segment_address(SoftCpu& cpu, SegReg segment, uint64_t offset, unsigned size, Access access) {
  const Segment& s = cpu.s.segment[segment];
  if (cpu.s.mode64()) return segment >= FS ? s.base + offset : offset;
  // Protected mode, real mode and vm86 alike check the cached descriptor (SDM 3A 5.3, 5.4).
  bool ok = (s.attributes & seg::unusable) == 0;
  const uint32_t type = s.attributes & seg::type_mask;
  if (cpu.s.protected_mode() && !cpu.s.vm86()) {
    if (access != Access::read) ok = ok && (type & seg::code) == 0 && (type & seg::readable_or_writable) != 0;
    else ok = ok && ((type & seg::code) == 0 || (type & seg::readable_or_writable) != 0);
  }
  const uint64_t last = offset + size - 1;
  if ((type & seg::code) == 0 && (type & seg::conforming_or_down) != 0 && cpu.s.protected_mode() && !cpu.s.vm86()) {
    const uint64_t top = (s.attributes & seg::DB) != 0 ? 0xffffffff : 0xffff;
    ok = ok && offset > s.limit && last <= top && last >= offset;
  } else {
    ok = ok && last <= s.limit && last >= offset;
  }
  if (!ok) {
    raise(cpu, segment == SS ? vec::SS : vec::GP, 0);
    cpu.address_fault = true;
    return kFaultAddress;
  }
  return (s.base + offset) & 0xffffffff;
}

uint64_t ea_slow(SoftCpu& cpu, const Op& op, unsigned size, Access access) {
  return segment_address(cpu, static_cast<SegReg>(op.ea & ea::seg_mask), effective_offset(cpu, op), size, access);
}

uint64_t operand_address(SoftCpu& cpu, const Op& op, unsigned size, Access access) { return ea_slow(cpu, op, size, access); }

uint64_t part_address(SoftCpu& cpu, const Op& op, unsigned at, unsigned size, Access access) {
  return segment_address(cpu, static_cast<SegReg>(op.ea & ea::seg_mask), cut_offset(op, effective_offset(cpu, op) + at), size, access);
}

uint64_t ip_mask(const SoftCpu& cpu) {
  return (cpu.mode & block_mode::code_mask) == block_mode::code64 ? ~uint64_t{0} : 0xffffffff;
}

void forget_jumps(SoftCpu& cpu, unsigned half) {
  Translations& t = *cpu.translations;
  ++t.generation[half];
  cpu.jump_stamp[half] = t.generation[half] << 8 | (cpu.s.cpl() == 3 ? 0x80u : 0u) | cpu.mode;
}

uint8_t block_mode_of(const CpuState& s) {
  uint8_t mode;
  if (s.mode64()) {
    mode = block_mode::code64 | block_mode::flat;
  } else {
    const Segment& cs = s.segment[CS];
    mode = (cs.attributes & seg::DB) != 0 ? block_mode::code32 : block_mode::code16;
    if ((s.segment[SS].attributes & seg::DB) != 0) mode |= block_mode::stack32;
    if (mode % 4 == block_mode::code32 && cs.base == 0 && cs.limit == 0xffffffff) mode |= block_mode::flat;
  }
  if ((s.cr0 & (cr0::EM | cr0::TS)) != 0 || (s.cr4 & cr4::OSFXSR) == 0) mode |= block_mode::fpu_trap;
  return mode;
}

void mode_changed(SoftCpu& cpu) {
  const CpuState& s = cpu.s;
  const uint8_t mode = block_mode_of(s);
  cpu.mode = mode;

  const bool user = s.cpl() == 3;
  const bool breakpoints = breakpoints_armed(s.dr7);
  cpu.tlb = &cpu.translations->tlb[breakpoints || s.checks_alignment() ? Translations::none : privilege_of(cpu, user)];
  cpu.slow = breakpoints || (s.rflags & (flag::TF | flag::RF)) != 0 || s.pending_debug != 0;
  for (unsigned half = 0; half < 2; ++half)
    cpu.jump_stamp[half] = cpu.translations->generation[half] << 8 | (user ? 0x80u : 0u) | mode;
}

void tlb_flush(SoftCpu& cpu, TlbPart part) {
  Translations& t = *cpu.translations;
  const bool all = part == TlbPart::all;
  for (unsigned kind = 0; kind < Translations::none; ++kind) {
    for (TlbEntry& e : t.tlb[kind].entry) {
      const bool keep = !all && (e.read_tag >> 63) != 0;
      e.read_tag = keep ? e.read_tag : kNoTag;
      e.write_tag = keep ? e.write_tag : kNoTag;
    }
  }
  for (CodeTlbEntry& e : t.code)
    if (all || (e.tag >> 63) == 0) e.tag = kNoTag;
  forget_jumps(cpu, 0);
  if (all) forget_jumps(cpu, 1);
}

void tlb_drop_index(SoftCpu& cpu, unsigned index) {
  Translations& t = *cpu.translations;
  for (unsigned kind = 0; kind < Translations::none; ++kind)
    for (size_t i = index; i < kTlbEntries; i += 512) t.tlb[kind].entry[i].read_tag = t.tlb[kind].entry[i].write_tag = kNoTag;
  t.code[index % kCodeTlbEntries].tag = kNoTag;
}

}  // namespace retrovisor::soft
