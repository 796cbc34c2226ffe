// What depends on the CPU model: MSRs, CPUID, the time stamp counter, random numbers; and HLT.
#include "vmm/soft/model_ops.h"

#include "vmm/cpu/cpuid.h"
#include "vmm/cpu/msr.h"
#include "vmm/soft/exceptions.h"
#include "vmm/soft/system.h"

namespace retrovisor::soft {

namespace {

void set_edx_eax(SoftCpu& cpu, uint64_t value) {
  set<uint32_t>(&cpu, slot_of(RAX), static_cast<uint32_t>(value));
  set<uint32_t>(&cpu, slot_of(RDX), static_cast<uint32_t>(value >> 32));
}

uint64_t read_tsc(SoftCpu& cpu) {
  const uint64_t value = cpu.s.tsc(cpu.platform->clock.now());
  cpu.platform->journal.log(EventKind::tsc_read, value);
  return value;
}

// False: #GP. Where programs read the TSC by an exception, that is over behind this.
bool tsc_allowed(SoftCpu& cpu) {
  const CpuState& s = cpu.s;
  if ((s.cr4 & cr4::TSD) != 0 && s.cpl() != 0) return raise_gp(cpu, 0);
  if (cpu.user_tsc == UserTsc::by_exception && s.cpl() == 3 && s.long_mode()) raise_and_take_back(cpu, vec::GP, 0);
  return true;
}

uint32_t msr_index(const SoftCpu& cpu) { return static_cast<uint32_t>(cpu.s.gpr[RCX]); }

}  // namespace

bool exec_rdmsr(SoftCpu& cpu, const Op& op) {
  if (!require_ring0(cpu)) return false;
  const uint32_t index = msr_index(cpu);
  uint64_t value = 0;
  if (!msr_kept_by_cpu(index)) synchronous_event(cpu);
  if (index == msr::TSC) value = read_tsc(cpu);
  else if (!read_msr(*cpu.vcpu, cpu.platform->clock.now(), index, value)) return raise_gp(cpu, 0);
  set_edx_eax(cpu, value);
  return advance_rip(cpu, op);
}

bool exec_wrmsr(SoftCpu& cpu, const Op& op) {
  if (!require_ring0(cpu)) return false;
  const uint32_t index = msr_index(cpu);
  const uint64_t value = (cpu.s.gpr[RDX] << 32) | (cpu.s.gpr[RAX] & 0xffffffff);
  const uint64_t old_efer = cpu.s.efer;
  if (!msr_kept_by_cpu(index)) synchronous_event(cpu);
  if (!write_msr(*cpu.vcpu, cpu.platform->clock.now(), index, value)) return raise_gp(cpu, 0);
  if (cpu.s.efer != old_efer) {
    tlb_flush(cpu);
    mode_changed(cpu);
  }
  return advance_rip(cpu, op);
}

bool exec_rdtsc(SoftCpu& cpu, const Op& op) {
  if (!tsc_allowed(cpu)) return false;
  synchronous_event(cpu);
  set_edx_eax(cpu, read_tsc(cpu));
  return advance_rip(cpu, op);
}

bool exec_rdtscp(SoftCpu& cpu, const Op& op) {
  if (!tsc_allowed(cpu)) return false;
  synchronous_event(cpu);
  set_edx_eax(cpu, read_tsc(cpu));
  set<uint32_t>(&cpu, slot_of(RCX), static_cast<uint32_t>(cpu.s.tsc_aux));
  return advance_rip(cpu, op);
}

// The model has no performance counters, so every counter number is invalid.
bool exec_rdpmc(SoftCpu& cpu, const Op&) { return raise_gp(cpu, 0); }

bool exec_cpuid(SoftCpu& cpu, const Op& op) {
  const bool apic = cpu.vcpu->interrupts == nullptr || cpu.vcpu->interrupts->apic_enabled();
  const CpuidResult r =
      cpuid(static_cast<uint32_t>(cpu.s.gpr[RAX]), static_cast<uint32_t>(cpu.s.gpr[RCX]), cpu.s, cpu.vcpu->id, cpu.vcpus, apic);
  set<uint32_t>(&cpu, slot_of(RAX), r.eax);
  set<uint32_t>(&cpu, slot_of(RBX), r.ebx);
  set<uint32_t>(&cpu, slot_of(RCX), r.ecx);
  set<uint32_t>(&cpu, slot_of(RDX), r.edx);
  return advance_rip(cpu, op);
}

bool exec_rdrand(SoftCpu& cpu, const Op& op) {
  synchronous_event(cpu);
  uint64_t value = cpu.platform->entropy.next();
  if (op.r0 < 8) value &= (uint64_t{1} << op.r0 * 8) - 1;
  cpu.platform->journal.log(EventKind::rdrand, value, op.r0);
  set_sized(cpu, op.r1, op.r0, value);
  cpu.cc = cc_of_flags(flag::CF);  // a value was there; the other arithmetic flags are cleared
  return advance_rip(cpu, op);
}

bool exec_hlt(SoftCpu& cpu, const Op& op) {
  if (!require_ring0(cpu)) return false;
  synchronous_event(cpu);
  cpu.s.activity = Activity::halted;
  return advance_rip(cpu, op);
}

}  // namespace retrovisor::soft
