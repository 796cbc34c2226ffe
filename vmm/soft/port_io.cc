// IN, OUT, INS, OUTS.
#include "vmm/soft/port_io.h"

#include "vmm/cpu/debug_registers.h"
#include "vmm/soft/memory.h"
#include "vmm/soft/system.h"

namespace retrovisor::soft {

namespace {

// May the program touch ports port .. port + size - 1? (SDM 1 19.5)
bool check_port(SoftCpu& cpu, const Op& op, uint16_t port, unsigned size) {
  const CpuState& s = cpu.s;
  if (!s.protected_mode() || (s.cpl() <= s.iopl() && !s.vm86())) return true;
  // The I/O permission bitmap of a 32- or 64-bit TSS; its last byte may lie just beyond the limit of the bits wanted,
  // which is why two bytes are read.
  const uint64_t wrap = s.long_mode() ? UINT64_MAX : 0xffffffff;
  if ((s.tr.attributes & 8) == 0 || s.tr.limit < 0x67) return raise_gp(cpu, 0);
  uint16_t map_base = 0;
  if (!system_access(cpu, op, (s.tr.base + 0x66) & wrap, &map_base, 2, Access::read)) return false;
  const uint32_t offset = uint32_t{map_base} + port / 8;
  if (offset + 1 > s.tr.limit) return raise_gp(cpu, 0);
  uint16_t bits = 0;
  if (!system_access(cpu, op, (s.tr.base + offset) & wrap, &bits, 2, Access::read)) return false;
  const unsigned wanted = ((1u << size) - 1) << (port % 8);
  return (bits & wanted) == 0 || raise_gp(cpu, 0);
}

// I/O breakpoints: R/W = 10 in DR7 with CR4.DE (SDM 3B 17.2.4).
void match_io_breakpoints(SoftCpu& cpu, uint16_t port, unsigned size) {
  const CpuState& s = cpu.s;
  if (!breakpoints_armed(s.dr7) || (s.cr4 & cr4::DE) == 0) return;
  for (unsigned i = 0; i < 4; ++i) {
    const BreakpointControl b = breakpoint_control(s.dr7, i);
    if (b.on && b.what == BreakOn::port && b.touches(s.dr[i], port, size)) cpu.debug_hits |= 1u << i;
  }
}

uint32_t read_port(SoftCpu& cpu, uint16_t port, unsigned size) {
  match_io_breakpoints(cpu, port, size);
  synchronous_event(cpu);
  return cpu.platform->ports.read(cpu.vcpu->id, port, size);
}

void write_port(SoftCpu& cpu, uint16_t port, unsigned size, uint32_t value) {
  match_io_breakpoints(cpu, port, size);
  synchronous_event(cpu);
  cpu.platform->ports.write(cpu.vcpu->id, port, size, value);
}

uint16_t port_of(const SoftCpu& cpu, const Op& op) {
  return op.imm >= 0 ? static_cast<uint16_t>(op.imm) : static_cast<uint16_t>(cpu.s.gpr[RDX]);
}

// INS and OUTS: one iteration.
struct StringIo {
  SoftCpu& cpu;
  const Op& op;
  unsigned size = op.r0;
  unsigned address_size = static_cast<unsigned>(op.imm) & 0xff;
  SegReg segment = static_cast<SegReg>(op.imm >> 8);
  bool rep = op.r1 != 0;

  uint64_t reg(Gpr r) const { return get_sized(cpu, slot_of(r), address_size); }
  bool finished() const { return rep && reg(RCX) == 0; }
  // Moves the index register on, counts, and goes on or stays at the instruction.
  bool advance(Gpr index) {
    const uint64_t step = (cpu.s.rflags & flag::DF) != 0 ? uint64_t{0} - size : size;
    set_sized(cpu, slot_of(index), address_size, reg(index) + step);
    if (!rep) return advance_rip(cpu, op);
    set_sized(cpu, slot_of(RCX), address_size, reg(RCX) - 1);
    if (reg(RCX) == 0) return advance_rip(cpu, op);
    cpu.s.rflags |= flag::RF;  // string.cc: leave_unfinished()
    cpu.slow = true;
    return true;
  }
};

}  // namespace

bool exec_in(SoftCpu& cpu, const Op& op) {
  const uint16_t port = port_of(cpu, op);
  if (!check_port(cpu, op, port, op.r0)) return false;
  const uint32_t value = read_port(cpu, port, op.r0);
  if (op.r0 == 1) set<uint8_t>(&cpu, slot_of(RAX), static_cast<uint8_t>(value));
  else set_sized(cpu, slot_of(RAX), op.r0, value);
  return advance_rip(cpu, op);
}

bool exec_out(SoftCpu& cpu, const Op& op) {
  const uint16_t port = port_of(cpu, op);
  if (!check_port(cpu, op, port, op.r0)) return false;
  const auto value = static_cast<uint32_t>(cpu.s.gpr[RAX]);
  write_port(cpu, port, op.r0, op.r0 == 4 ? value : value & ((1u << op.r0 * 8) - 1));
  return advance_rip(cpu, op);
}

bool exec_ins(SoftCpu& cpu, const Op& op) {
  StringIo io{cpu, op};
  const auto port = static_cast<uint16_t>(cpu.s.gpr[RDX]);
  if (io.finished()) return advance_rip(cpu, op);
  if (!check_port(cpu, op, port, io.size)) return false;
  // The destination is checked before the port is read: reading can have side effects.
  const uint64_t linear = segment_address(cpu, ES, io.reg(RDI), io.size, Access::write);
  if (!probe_write(cpu, op, linear, io.size, cpu.s.cpl() == 3)) return false;
  uint32_t value = read_port(cpu, port, io.size);
  if (!mem_access(cpu, op, linear, &value, io.size, Access::write)) return false;
  return io.advance(RDI);
}

bool exec_outs(SoftCpu& cpu, const Op& op) {
  StringIo io{cpu, op};
  const auto port = static_cast<uint16_t>(cpu.s.gpr[RDX]);
  if (io.finished()) return advance_rip(cpu, op);
  if (!check_port(cpu, op, port, io.size)) return false;
  uint32_t value = 0;
  const uint64_t linear = segment_address(cpu, io.segment, io.reg(RSI), io.size, Access::read);
  if (!mem_access(cpu, op, linear, &value, io.size, Access::read)) return false;
  write_port(cpu, port, io.size, value);
  return io.advance(RSI);
}

}  // namespace retrovisor::soft
