// Control and debug registers, and what hangs on them (SDM 3A 2.5, 2.6; 3B 17.2).
#include "vmm/soft/control.h"

#include <array>
#include <utility>

#include "vmm/cpu/control_registers.h"
#include "vmm/cpu/debug_registers.h"
#include "vmm/soft/memory.h"
#include "vmm/soft/soft_engine.h"
#include "vmm/soft/system.h"

namespace retrovisor::soft {

namespace {

bool write_cr0(SoftCpu& cpu, uint64_t value) {
  CpuState& s = cpu.s;
  if ((value >> 32) != 0) return raise_gp(cpu, 0);
  value = (value & cr0::all) | cr0::ET;  // reserved bits below 32 are ignored, ET is hardwired (SDM 3A 2.5)
  if (!valid_cr0(value)) return raise_gp(cpu, 0);
  const uint64_t changed = s.cr0 ^ value;
  uint64_t efer = s.efer;
  if ((changed & cr0::PG) != 0) {
    const bool on = (value & cr0::PG) != 0;
    if (on && (efer & efer::LME) != 0) {  // into IA-32e mode (SDM 3A 9.8.5)
      const bool tss16 = (s.tr.attributes & (seg::S | 8)) == 0;
      if ((s.cr4 & cr4::PAE) == 0 || (s.segment[CS].attributes & seg::L) != 0 || tss16) return raise_gp(cpu, 0);
      efer |= efer::LMA;
    }
    if (!on && (efer & efer::LMA) != 0) {
      if (s.mode64()) return raise_gp(cpu, 0);
      efer &= ~efer::LMA;
    }
  }
  const bool reload = (changed & (cr0::PG | cr0::CD | cr0::NW)) != 0;  // SDM 3A 4.4.1
  if (reload && pae_paging(value, s.cr4, s.efer) && !load_pdptes(cpu, s.cr3)) return false;
  s.cr0 = value;
  s.efer = efer;
  if ((changed & (cr0::PE | cr0::PG | cr0::WP)) != 0) tlb_flush(cpu);
  mode_changed(cpu);
  return true;
}

bool write_cr3(SoftCpu& cpu, uint64_t value) {
  CpuState& s = cpu.s;
  if (s.long_mode()) {
    if ((value >> kPhysicalBits) != 0) return raise_gp(cpu, 0);
  } else {
    value &= 0xffffffff;
    if (s.pae_paging() && !load_pdptes(cpu, value)) return false;
  }
  cpu.platform->journal.log(EventKind::cr3_write, value, s.cr3);
  const uint64_t old = std::exchange(s.cr3, value);
  cpu.engine->cr3_loaded(cpu, old);
  cpu.engine->tell(cpu, Observation::Kind::address_space, s.rip, 0, old, value);
  return true;
}

bool write_cr4(SoftCpu& cpu, uint64_t value) {
  CpuState& s = cpu.s;
  if (!valid_cr4(value)) return raise_gp(cpu, 0);
  const uint64_t changed = s.cr4 ^ value;
  if (s.long_mode() && (value & cr4::PAE) == 0) return raise_gp(cpu, 0);
  constexpr uint64_t paging = cr4::PAE | cr4::PSE | cr4::PGE | cr4::SMEP | cr4::SMAP;
  const bool reload = (changed & (cr4::PAE | cr4::PSE | cr4::PGE | cr4::SMEP)) != 0;  // SDM 3A 4.4.1
  if (reload && pae_paging(s.cr0, value, s.efer) && !load_pdptes(cpu, s.cr3)) return false;
  s.cr4 = value;
  if ((changed & paging) != 0) tlb_flush(cpu);
  mode_changed(cpu);
  return true;
}

bool write_cr8(SoftCpu& cpu, uint64_t value) {
  if (value > 15) return raise_gp(cpu, 0);
  if (cpu.vcpu->interrupts != nullptr) cpu.vcpu->interrupts->set_cr8(static_cast<uint8_t>(value));
  return true;
}

unsigned register_size(const SoftCpu& cpu) { return cpu.s.mode64() ? 8 : 4; }

// Which debug register `number` means (DR4 and DR5 are other names of DR6 and DR7 without CR4.DE), and whether the
// program may touch it: #UD, #GP, then #DB for general detect.
bool check_debug_register(SoftCpu& cpu, unsigned& number) {
  if (number > 7) return raise_ud(cpu);
  if (number == 4 || number == 5) {
    if ((cpu.s.cr4 & cr4::DE) != 0) return raise_ud(cpu);
    number += 2;
  }
  if (!require_ring0(cpu)) return false;
  if ((cpu.s.dr7 & dr7::GD) != 0) {
    cpu.fault = {vec::DB, false, 0, dr6::BD, false};
    cpu.exit = Exit::fault;
    return false;
  }
  return true;
}

}  // namespace

bool load_pdptes(SoftCpu& cpu, uint64_t cr3) {
  std::array<uint64_t, 4> entry{};
  std::array<uint8_t, 32> bytes{};
  if (!cpu.platform->memory.read(PhysAddr(cr3 & 0xffffffe0), bytes)) return raise_gp(cpu, 0);
  std::memcpy(entry.data(), bytes.data(), sizeof entry);
  for (const uint64_t e : entry)
    if (!valid_pdpte(e)) return raise_gp(cpu, 0);
  cpu.s.pdpte = entry;
  return true;
}

bool exec_smsw(SoftCpu& cpu, const Op& op) {
  if ((cpu.s.cr4 & cr4::UMIP) != 0 && cpu.s.cpl() != 0) return raise_gp(cpu, 0);
  if ((op.ea & kRegisterOperand) == 0) return store_operand(cpu, op, static_cast<uint16_t>(cpu.s.cr0));
  set_sized(cpu, op.r1, op.r0, cpu.s.cr0);
  return true;
}

bool exec_lmsw(SoftCpu& cpu, const Op& op) {
  if (!require_ring0(cpu)) return false;
  uint16_t value = 0;
  if ((op.ea & kRegisterOperand) != 0) value = get<uint16_t>(&cpu, op.r1);
  else if (!load_operand(cpu, op, value)) return false;
  // Bits 0-3 alone, and PE can be set but not cleared (SDM 2 "LMSW").
  const uint64_t cr0 = (cpu.s.cr0 & ~uint64_t{cr0::MP | cr0::EM | cr0::TS}) | (value & 15u);
  return write_cr0(cpu, cr0) && advance_rip(cpu, op);
}

bool exec_clts(SoftCpu& cpu, const Op& op) {
  if (!require_ring0(cpu)) return false;
  cpu.s.cr0 &= ~cr0::TS;
  mode_changed(cpu);
  return advance_rip(cpu, op);
}

bool exec_mov_from_cr(SoftCpu& cpu, const Op& op) {
  const CpuState& s = cpu.s;
  if (!require_ring0(cpu)) return false;
  uint64_t value = 0;
  switch (op.imm) {
    case 0: value = s.cr0; break;
    case 2: value = s.cr2; break;
    case 3: value = s.cr3; break;
    case 4: value = s.cr4; break;
    default: value = cpu.vcpu->interrupts != nullptr ? cpu.vcpu->interrupts->cr8() : 0; break;
  }
  set_sized(cpu, op.r1, register_size(cpu), value);
  return advance_rip(cpu, op);
}

bool exec_mov_to_cr(SoftCpu& cpu, const Op& op) {
  if (!require_ring0(cpu)) return false;
  const uint64_t value = get_sized(cpu, op.r1, register_size(cpu));
  // RIP first: the next instruction's address wraps in the mode this one runs in.
  const uint64_t next = next_rip(cpu, op);
  bool done = true;
  switch (op.imm) {
    case 0: done = write_cr0(cpu, value); break;
    case 2: cpu.s.cr2 = value; break;
    case 3: done = write_cr3(cpu, value); break;
    case 4: done = write_cr4(cpu, value); break;
    default: done = write_cr8(cpu, value); break;
  }
  if (done) cpu.s.rip = next;
  return done;
}

bool exec_mov_from_dr(SoftCpu& cpu, const Op& op) {
  auto number = static_cast<unsigned>(op.imm);
  if (!check_debug_register(cpu, number)) return false;
  const CpuState& s = cpu.s;
  set_sized(cpu, op.r1, register_size(cpu), number < 4 ? s.dr[number] : number == 6 ? s.dr6 : s.dr7);
  return advance_rip(cpu, op);
}

bool exec_mov_to_dr(SoftCpu& cpu, const Op& op) {
  CpuState& s = cpu.s;
  auto number = static_cast<unsigned>(op.imm);
  if (!check_debug_register(cpu, number)) return false;
  const uint64_t value = get_sized(cpu, op.r1, register_size(cpu));
  if (number < 4) {
    s.dr[number] = value;
  } else {
    if ((value >> 32) != 0) return raise_gp(cpu, 0);
    (number == 6 ? s.dr6 : s.dr7) = number == 6 ? stored_dr6(value) : stored_dr7(value);
  }
  mode_changed(cpu);
  return advance_rip(cpu, op);
}

// Nothing to invalidate: translations always agree with the tables (tables.cc). No fault, whatever the address (SDM 2 "INVLPG").
bool exec_invlpg(SoftCpu& cpu, const Op& op) {
  if (!require_ring0(cpu)) return false;
  return advance_rip(cpu, op);
}

// There is no cache to write back.
bool exec_invd(SoftCpu& cpu, const Op&) { return require_ring0(cpu); }

bool exec_xgetbv(SoftCpu& cpu, const Op&) {
  if ((cpu.s.cr4 & cr4::OSXSAVE) == 0) return raise_ud(cpu);
  if ((cpu.s.gpr[RCX] & 0xffffffff) != 0) return raise_gp(cpu, 0);
  set<uint32_t>(&cpu, slot_of(RAX), static_cast<uint32_t>(cpu.s.xcr0));
  set<uint32_t>(&cpu, slot_of(RDX), static_cast<uint32_t>(cpu.s.xcr0 >> 32));
  return true;
}

bool exec_xsetbv(SoftCpu& cpu, const Op& op) {
  if ((cpu.s.cr4 & cr4::OSXSAVE) == 0) return raise_ud(cpu);
  if (!require_ring0(cpu)) return false;
  const uint64_t value = (cpu.s.gpr[RDX] << 32) | (cpu.s.gpr[RAX] & 0xffffffff);
  if ((cpu.s.gpr[RCX] & 0xffffffff) != 0 || !valid_xcr0(value)) return raise_gp(cpu, 0);
  cpu.s.xcr0 = value;
  return advance_rip(cpu, op);
}

}  // namespace retrovisor::soft
