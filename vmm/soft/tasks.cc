#include "vmm/soft/tasks.h"

#include <array>

#include "vmm/soft/control.h"
#include "vmm/soft/memory.h"
#include "vmm/soft/soft_engine.h"
#include "vmm/soft/system.h"

namespace retrovisor::soft {

namespace {

// Offsets into a TSS (SDM 3A figures 7-2 and 7-10).
struct Layout {
  unsigned size;        // bytes of one register slot
  unsigned min_limit;
  unsigned cr3;         // 0: none
  unsigned ip, flags, gpr, segments, ldt;
  unsigned segment_count;
};
constexpr Layout layout32{4, 0x67, 0x1c, 0x20, 0x24, 0x28, 0x48, 0x60, 6};
constexpr Layout layout16{2, 0x2b, 0, 0x0e, 0x10, 0x12, 0x22, 0x2a, 4};

const Layout& layout_of(uint32_t type) { return (type & 8) != 0 ? layout32 : layout16; }

struct Tss {
  SoftCpu& cpu;
  const Op& op;
  uint64_t base;

  bool read(unsigned offset, unsigned size, uint64_t& value) const {
    value = 0;
    return system_access(cpu, op, (base + offset) & 0xffffffff, &value, size, Access::read);
  }
  bool write(unsigned offset, unsigned size, uint64_t value) const {
    return system_access(cpu, op, (base + offset) & 0xffffffff, &value, size, Access::write);
  }
};

// The new task's registers as its TSS holds them.
struct Image {
  uint64_t cr3 = 0, rip = 0, rflags = 0, ldt = 0, trap = 0;
  std::array<uint64_t, 8> gpr{};
  std::array<uint64_t, 6> segment{};
};

bool read_image(const Tss& tss, const Layout& l, Image& image) {
  bool ok = tss.read(l.ip, l.size, image.rip) && tss.read(l.flags, l.size, image.rflags) && tss.read(l.ldt, 2, image.ldt);
  if (l.cr3 != 0) ok = ok && tss.read(l.cr3, 4, image.cr3) && tss.read(0x64, 2, image.trap);
  for (unsigned i = 0; i < 8 && ok; ++i) ok = tss.read(l.gpr + i * l.size, l.size, image.gpr[i]);
  for (unsigned i = 0; i < l.segment_count && ok; ++i) ok = tss.read(l.segments + i * l.size, 2, image.segment[i]);
  return ok;
}

bool write_image(SoftCpu& cpu, const Tss& tss, const Layout& l, uint64_t rip, uint64_t rflags) {
  bool ok = tss.write(l.ip, l.size, rip) && tss.write(l.flags, l.size, rflags);
  for (unsigned i = 0; i < 8 && ok; ++i) ok = tss.write(l.gpr + i * l.size, l.size, cpu.s.gpr[i]);
  for (unsigned i = 0; i < l.segment_count && ok; ++i) ok = tss.write(l.segments + i * l.size, 2, cpu.s.segment[i].selector);
  return ok;
}

// Makes sure the state of the old task can be written before anything is.
bool probe_tss(SoftCpu& cpu, const Op& op, uint64_t base, const Layout& l) {
  return probe_write(cpu, op, base, l.min_limit + 1, false);
}

// Loads the LDT of the new task: #TS on all that is wrong with it.
bool load_task_ldt(SoftCpu& cpu, const Op& op, uint16_t selector) {
  if (is_null(selector)) return true;
  Descriptor d;
  if ((selector & 4) != 0) return raise(cpu, vec::TS, selector_error(selector));
  if (!read_descriptor(cpu, op, selector, vec::TS, d)) return false;
  if (!d.system() || d.type() != sys::ldt || !d.present()) return raise(cpu, vec::TS, selector_error(selector));
  cpu.s.ldtr = d.segment(selector);
  return true;
}

bool load_task_cs(SoftCpu& cpu, const Op& op, uint16_t selector) {
  if (is_null(selector)) return raise(cpu, vec::TS, 0);
  Descriptor d;
  if (!read_descriptor(cpu, op, selector, vec::TS, d)) return false;
  const unsigned rpl = selector & 3;
  if (!d.code() || (d.conforming() ? d.dpl() > rpl : d.dpl() != rpl)) return raise(cpu, vec::TS, selector_error(selector));
  if (!d.present()) return raise(cpu, vec::NP, selector_error(selector));
  if (!set_accessed(cpu, op, d)) return false;
  cpu.s.segment[CS] = d.segment(selector);
  return true;
}

// Segment registers of the new task, in the order the manual checks them. A fault belongs to the new task.
bool load_task_segments(SoftCpu& cpu, const Op& op, const Image& image) {
  CpuState& s = cpu.s;
  const auto selector = [&](SegReg reg) { return static_cast<uint16_t>(image.segment[reg]); };
  if (!load_task_ldt(cpu, op, static_cast<uint16_t>(image.ldt))) return false;
  if (s.vm86()) {
    for (const SegReg reg : {ES, CS, SS, DS, FS, GS}) s.segment[reg] = real_segment(cpu, reg, selector(reg));
    return true;
  }
  const unsigned cpl = selector(CS) & 3;
  Segment ss;
  if (!load_task_cs(cpu, op, selector(CS)) || !check_stack_segment(cpu, op, selector(SS), cpl, vec::TS, ss)) return false;
  s.segment[SS] = ss;
  for (const SegReg reg : {ES, DS, FS, GS}) {
    Segment g;
    if (!check_data_segment(cpu, op, selector(reg), vec::TS, g)) return false;
    s.segment[reg] = g;
  }
  return true;
}

}  // namespace

bool task_switch(SoftCpu& cpu, const Op& op, uint16_t selector, Descriptor tss, TaskSwitch why, uint64_t return_rip,
                 uint64_t rflags) {
  CpuState& s = cpu.s;
  const Layout& new_layout = layout_of(tss.type());
  const Layout& old_layout = layout_of(s.tr.attributes);
  if (tss.limit() < new_layout.min_limit) return raise(cpu, vec::TS, selector_error(selector));
  if (s.tr.limit < old_layout.min_limit) return raise(cpu, vec::TS, selector_error(s.tr.selector));

  const Tss incoming{cpu, op, tss.base()};
  const Tss outgoing{cpu, op, s.tr.base};
  Image image;
  if (!probe_tss(cpu, op, outgoing.base, old_layout) || !probe_tss(cpu, op, incoming.base, new_layout)) return false;

  // The old task's busy bit falls unless it is nested under the new one (SDM 3A table 7-2).
  if (why != TaskSwitch::call) {
    Descriptor old;
    if (!read_descriptor(cpu, op, s.tr.selector, vec::TS, old) || !set_busy(cpu, op, old, false)) return false;
  }
  const uint64_t saved = why == TaskSwitch::iret ? rflags & ~flag::NT : rflags;
  if (!write_image(cpu, outgoing, old_layout, return_rip, saved)) return false;
  if (!read_image(incoming, new_layout, image)) return false;
  if (why == TaskSwitch::call && !incoming.write(0, 2, s.tr.selector)) return false;
  if (why != TaskSwitch::iret && !set_busy(cpu, op, tss, true)) return false;

  // From here on the new task is current.
  s.tr = tss.segment(selector);
  s.tr.attributes |= sys::busy;
  s.cr0 |= cr0::TS;
  s.dr7 &= ~uint64_t{0x155};  // local breakpoints (SDM 3B 17.2.4)
  if (new_layout.cr3 != 0 && s.paging()) {
    cpu.platform->journal.log(EventKind::cr3_write, image.cr3, s.cr3);
    cpu.engine->tell(cpu, Observation::Kind::address_space, s.rip, 0, s.cr3, image.cr3);
    s.cr3 = image.cr3;
    if (s.pae_paging() && !load_pdptes(cpu, s.cr3)) return raise(cpu, vec::TS, selector_error(selector));
    tlb_flush(cpu);
  }
  const bool wide = new_layout.size == 4;
  for (unsigned i = 0; i < 8; ++i) s.gpr[i] = wide ? image.gpr[i] : image.gpr[i] | 0xffff0000;
  s.rip = image.rip;
  uint64_t new_flags = image.rflags & (wide ? flag::all : flag::all & 0xffff);
  if (why == TaskSwitch::call) new_flags |= flag::NT;
  set_rflags(cpu, new_flags);

  // Selectors are loaded before their descriptors are checked, so that a fault's handler sees them (SDM 3A 7.3, 12-13).
  const bool vm86 = s.vm86();
  const unsigned cpl = vm86 ? 3 : static_cast<unsigned>(image.segment[CS] & 3);
  for (unsigned i = 0; i < 6; ++i) {
    Segment& g = s.segment[i];
    if (i == CS) {
      g.selector = static_cast<uint16_t>(image.segment[i]);
    } else {
      g = null_segment(static_cast<uint16_t>(image.segment[i]), i == SS ? cpl : 0);
    }
  }
  s.ldtr = null_segment(static_cast<uint16_t>(image.ldt));
  const bool loaded = load_task_segments(cpu, op, image);
  mode_changed(cpu);
  if (!loaded) return false;
  if (s.rip > s.segment[CS].limit) return raise_gp(cpu, 0);
  // T flag of the new TSS: #DB with BT before its first instruction (SDM 3B 17.3.1.5).
  if ((image.trap & 1) != 0) s.pending_debug |= dr6::BT;
  return true;
}

bool task_gate(SoftCpu& cpu, const Op& op, const Descriptor& gate, TaskSwitch why, uint64_t return_rip, uint64_t rflags) {
  const uint16_t selector = gate.gate_selector();
  if ((selector & 4) != 0 || is_null(selector)) return raise_gp(cpu, selector_error(selector));
  Descriptor tss;
  if (!read_descriptor(cpu, op, selector, vec::GP, tss)) return false;
  if (!tss.tss() || (tss.type() & sys::busy) != 0) return raise_gp(cpu, selector_error(selector));
  if (!tss.present()) return raise(cpu, vec::NP, selector_error(selector));
  return task_switch(cpu, op, selector, tss, why, return_rip, rflags);
}

bool push_task_error(SoftCpu& cpu, const Op& op, uint32_t error) {
  Stack stack(cpu, op);
  if (!stack.push(error, (cpu.s.tr.attributes & 8) != 0 ? 4 : 2)) return false;
  stack.commit();
  return true;
}

bool report_task_trap(SoftCpu& cpu) {
  if ((cpu.s.pending_debug & dr6::BT) == 0) return true;
  cpu.s.pending_debug &= ~dr6::BT;
  mode_changed(cpu);
  cpu.fault = {vec::DB, false, 0, dr6::BT, true};
  cpu.exit = Exit::fault;
  return false;
}

bool read_inner_stack(SoftCpu& cpu, const Op& op, unsigned dpl, uint16_t& ss, uint64_t& esp) {
  const CpuState& s = cpu.s;
  const bool tss32 = (s.tr.attributes & 8) != 0;
  const unsigned size = tss32 ? 4 : 2;
  const unsigned offset = tss32 ? 4 + dpl * 8 : 2 + dpl * 4;
  if (offset + size + 1 > s.tr.limit) return raise(cpu, vec::TS, selector_error(s.tr.selector));
  const Tss tss{cpu, op, s.tr.base};
  uint64_t selector = 0;
  if (!tss.read(offset, size, esp) || !tss.read(offset + size, 2, selector)) return false;
  ss = static_cast<uint16_t>(selector);
  return true;
}

bool read_long_stack(SoftCpu& cpu, const Op& op, unsigned offset, uint64_t& rsp) {
  const CpuState& s = cpu.s;
  if (offset + 7 > s.tr.limit) return raise(cpu, vec::TS, selector_error(s.tr.selector));
  if (!system_access(cpu, op, s.tr.base + offset, &rsp, 8, Access::read)) return false;
  return is_canonical(rsp) || raise(cpu, vec::SS, 0);
}

}  // namespace retrovisor::soft
