#include "vmm/soft/segments.h"

#include "vmm/soft/memory.h"

namespace retrovisor::soft {

namespace {

// Linear addresses of the legacy modes wrap at 4 GiB.
uint64_t table_address(const SoftCpu& cpu, uint64_t base, uint64_t offset) {
  const uint64_t linear = base + offset;
  return cpu.s.long_mode() ? linear : linear & 0xffffffff;
}

constexpr uint32_t real_attributes = seg::P | seg::S | seg::readable_or_writable | seg::accessed;

}  // namespace

Lookup find_descriptor(SoftCpu& cpu, const Op& op, uint16_t selector, Descriptor& out) {
  uint64_t base = cpu.s.gdtr.base;
  uint64_t limit = cpu.s.gdtr.limit;
  if ((selector & 4) != 0) {
    if ((cpu.s.ldtr.attributes & seg::unusable) != 0) return Lookup::outside;
    base = cpu.s.ldtr.base;
    limit = cpu.s.ldtr.limit;
  }
  const uint64_t offset = selector & 0xfff8;
  if (offset + 7 > limit) return Lookup::outside;
  out = {};
  out.linear = table_address(cpu, base, offset);
  return system_access(cpu, op, out.linear, &out.low, 8, Access::read) ? Lookup::found : Lookup::fault;
}

bool read_descriptor(SoftCpu& cpu, const Op& op, uint16_t selector, uint8_t vector, Descriptor& out) {
  const Lookup result = find_descriptor(cpu, op, selector, out);
  if (result == Lookup::outside) return raise(cpu, vector, selector_error(selector));
  return result == Lookup::found;
}

Lookup find_upper_half(SoftCpu& cpu, const Op& op, uint16_t selector, Descriptor& out) {
  const uint64_t limit = (selector & 4) != 0 ? cpu.s.ldtr.limit : cpu.s.gdtr.limit;
  if ((selector & 0xfff8u) + 15 > limit) return Lookup::outside;
  return system_access(cpu, op, out.linear + 8, &out.high, 8, Access::read) ? Lookup::found : Lookup::fault;
}

bool read_upper_half(SoftCpu& cpu, const Op& op, uint16_t selector, uint8_t vector, Descriptor& out) {
  const Lookup result = find_upper_half(cpu, op, selector, out);
  if (result == Lookup::fault) return false;
  // Bits 8-12 of the last dword have to be zero, so that no half is taken for a descriptor of its own (SDM 3A 3.5.2).
  if (result == Lookup::outside || (out.high >> 40 & 0x1f) != 0) return raise(cpu, vector, selector_error(selector));
  return true;
}

bool set_accessed(SoftCpu& cpu, const Op& op, Descriptor& d) {
  if ((d.type() & seg::accessed) != 0) return true;
  uint8_t byte = static_cast<uint8_t>(d.low >> 40 | seg::accessed);
  if (!system_access(cpu, op, d.linear + 5, &byte, 1, Access::write)) return false;
  d.low |= uint64_t{seg::accessed} << 40;
  return true;
}

bool set_busy(SoftCpu& cpu, const Op& op, Descriptor& d, bool busy) {
  const uint64_t bit = uint64_t{sys::busy} << 40;
  const uint64_t low = busy ? d.low | bit : d.low & ~bit;
  uint8_t byte = static_cast<uint8_t>(low >> 40);
  if (!system_access(cpu, op, d.linear + 5, &byte, 1, Access::write)) return false;
  d.low = low;
  return true;
}

Segment null_segment(uint16_t selector, unsigned dpl) { return {0, 0, seg::unusable | dpl << 5, selector}; }

Segment flat_segment(uint16_t selector, uint32_t type, unsigned dpl, uint32_t size_bits) {
  return {0, 0xffffffff, type | seg::S | seg::P | seg::G | dpl << 5 | size_bits, selector};
}

Segment real_segment(const SoftCpu& cpu, SegReg reg, uint16_t selector) {
  const Segment& old = cpu.s.segment[reg];
  Segment out{uint64_t{selector} << 4, 0xffff, real_attributes, selector};
  if (cpu.s.vm86()) {
    out.attributes |= seg::DPL;  // everything in virtual-8086 mode has privilege level 3 (SDM 3B 20.2)
  } else if ((old.attributes & seg::unusable) == 0) {
    // Real mode loads the base alone: a limit and a size left over from protected mode stay ("big real mode", SDM 3A 9.9.2).
    out.limit = old.limit;
    out.attributes |= old.attributes & (seg::G | seg::DB | seg::AVL);
  }
  return out;
}

bool check_data_segment(SoftCpu& cpu, const Op& op, uint16_t selector, uint8_t vector, Segment& out) {
  if (is_null(selector)) {
    out = null_segment(selector);
    return true;
  }
  Descriptor d;
  if (!read_descriptor(cpu, op, selector, vector, d)) return false;
  if (!d.readable()) return raise(cpu, vector, selector_error(selector));
  const unsigned rpl = selector & 3;
  if (!d.conforming() && (d.dpl() < rpl || d.dpl() < cpu.s.cpl())) return raise(cpu, vector, selector_error(selector));
  if (!d.present()) return raise(cpu, vec::NP, selector_error(selector));
  if (!set_accessed(cpu, op, d)) return false;
  out = d.segment(selector);
  return true;
}

bool check_stack_segment(SoftCpu& cpu, const Op& op, uint16_t selector, unsigned cpl, uint8_t vector, Segment& out) {
  if (is_null(selector)) return raise(cpu, vector, 0);
  Descriptor d;
  if (!read_descriptor(cpu, op, selector, vector, d)) return false;
  if ((selector & 3u) != cpl || !d.writable_data() || d.dpl() != cpl) return raise(cpu, vector, selector_error(selector));
  if (!d.present()) return raise(cpu, vec::SS, selector_error(selector));
  if (!set_accessed(cpu, op, d)) return false;
  out = d.segment(selector);
  return true;
}

bool check_segment_load(SoftCpu& cpu, const Op& op, SegReg reg, uint16_t selector, Segment& out) {
  const CpuState& s = cpu.s;
  if (!s.protected_mode() || s.vm86()) {
    out = real_segment(cpu, reg, selector);
    return true;
  }
  if (reg != SS) return check_data_segment(cpu, op, selector, vec::GP, out);
  // 64-bit mode allows a null SS below privilege level 3 (SDM 3A 5.7.1).
  if (is_null(selector) && s.mode64() && s.cpl() != 3 && (selector & 3u) == s.cpl()) {
    out = null_segment(selector, s.cpl());
    return true;
  }
  return check_stack_segment(cpu, op, selector, s.cpl(), vec::GP, out);
}

void commit_segment(SoftCpu& cpu, SegReg reg, const Segment& segment) {
  cpu.s.segment[reg] = segment;
  if (reg == SS || reg == CS) mode_changed(cpu);
}

void drop_inner_segments(SoftCpu& cpu, unsigned new_cpl) {
  for (const SegReg reg : {ES, DS, FS, GS}) {
    Segment& g = cpu.s.segment[reg];
    if ((g.attributes & seg::unusable) != 0) continue;
    const bool conforming = (g.attributes & (seg::code | seg::conforming_or_down)) == (seg::code | seg::conforming_or_down);
    if (conforming || seg::dpl(g.attributes) >= new_cpl) continue;
    // Selector and access rights alone go: the base that 64-bit code sees in FS and GS stays.
    const uint64_t base = g.base;
    g = null_segment(0);
    if (reg >= FS) g.base = base;
  }
}

bool load_far_operand(SoftCpu& cpu, const Op& op, uint16_t& selector, uint64_t& offset) {
  const unsigned size = op.r0;
  offset = 0;
  return mem_access(cpu, op, part_address(cpu, op, 0, size, Access::read), &offset, size, Access::read) &&
         mem_access(cpu, op, part_address(cpu, op, size, 2, Access::read), &selector, 2, Access::read);
}

bool within_limit(const Segment& segment, uint64_t offset, unsigned size) {
  if ((segment.attributes & seg::unusable) != 0) return false;
  const uint64_t last = offset + size - 1;
  const bool expand_down =
      (segment.attributes & (seg::S | seg::code | seg::conforming_or_down)) == (seg::S | seg::conforming_or_down);
  if (!expand_down) return last <= segment.limit;
  return offset > segment.limit && last <= ((segment.attributes & seg::DB) != 0 ? 0xffffffffu : 0xffffu);
}

Stack::Stack(SoftCpu& cpu, const Op& op)
    : Stack(cpu, op, cpu.s.segment[SS], cpu.s.gpr[RSP], cpu.s.mode64(), false, 0) {}

Stack::Stack(SoftCpu& cpu, const Op& op, const Segment& ss, uint64_t sp, bool flat, bool supervisor, uint32_t error)
    : cpu_(cpu),
      op_(op),
      ss_(&ss),
      mask_(flat ? UINT64_MAX : (ss.attributes & seg::DB) != 0 ? 0xffffffff : 0xffff),
      flat_(flat),
      supervisor_(supervisor),
      error_(error) {
  sp_ = sp & mask_;
}

bool Stack::access(uint64_t offset, void* data, unsigned size, bool write) {
  uint64_t linear = offset;
  if (flat_) {
    if (!is_canonical(offset) || !is_canonical(offset + size - 1)) return raise(cpu_, vec::SS, error_);
  } else {
    if (!within_limit(*ss_, offset, size)) return raise(cpu_, vec::SS, error_);
    linear = (offset + ss_->base) & 0xffffffff;
  }
  const Access kind = write ? Access::write : Access::read;
  return supervisor_ ? system_access(cpu_, op_, linear, data, size, kind) : mem_access(cpu_, op_, linear, data, size, kind);
}

bool Stack::push(uint64_t value, unsigned size) {
  const uint64_t top = (sp_ - size) & mask_;
  if (!access(top, &value, size, true)) return false;
  sp_ = top;
  return true;
}

bool Stack::pop(uint64_t& value, unsigned size) {
  if (!peek(0, value, size)) return false;
  skip(size);
  return true;
}

bool Stack::peek(uint64_t offset, uint64_t& value, unsigned size) {
  value = 0;
  return access((sp_ + offset) & mask_, &value, size, false);
}

void Stack::commit() {
  uint64_t& rsp = cpu_.s.gpr[RSP];
  rsp = mask_ == 0xffff ? (rsp & ~uint64_t{0xffff}) | sp_ : sp_;
}

void start_shadow(SoftCpu& cpu, Shadow shadow) {
  cpu.shadow_position = cpu.platform->clock.retired().value + 1;
  cpu.s.shadow = shadow;
}

bool check_target(SoftCpu& cpu, const Segment& cs, uint64_t rip) {
  if (cpu.s.long_mode() && (cs.attributes & seg::L) != 0) return is_canonical(rip) || raise_gp(cpu, 0);
  return rip <= cs.limit || raise_gp(cpu, 0);
}

}  // namespace retrovisor::soft
