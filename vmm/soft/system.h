// The instructions of the system group (far transfers, segments, control registers, I/O, ...), as Execs.
//
// What emit_system packs into an Op beside its addressing fields:
//   r0   the operand size in bytes (2, 4, 8), or what the Exec's comment says
//   r1   byte offset of a general register, or what the comment says
//   imm  see the comment
// "end": runs through op_call_end; all others through op_call.
#pragma once

#include "vmm/soft/segments.h"

namespace retrovisor::soft {

// In op.ea, where an Exec takes a register or memory: the operand is register r1. Bit 3 is free in namespace ea.
inline constexpr uint8_t kRegisterOperand = 1 << 3;

// far_transfer.cc. All end. imm of direct forms: offset | selector << 32.
bool exec_far_jump_direct(SoftCpu& cpu, const Op& op);
bool exec_far_jump_memory(SoftCpu& cpu, const Op& op);
bool exec_far_call_direct(SoftCpu& cpu, const Op& op);
bool exec_far_call_memory(SoftCpu& cpu, const Op& op);
bool exec_far_return(SoftCpu& cpu, const Op& op);  // imm: bytes to release
bool exec_iret(SoftCpu& cpu, const Op& op);

// segment_ops.cc.
bool exec_mov_from_sreg(SoftCpu& cpu, const Op& op);   // imm: SegReg
bool exec_mov_to_sreg(SoftCpu& cpu, const Op& op);     // end. imm: SegReg
bool exec_push_sreg(SoftCpu& cpu, const Op& op);       // imm: SegReg
bool exec_pop_sreg(SoftCpu& cpu, const Op& op);        // end. imm: SegReg
bool exec_load_far_pointer(SoftCpu& cpu, const Op& op);  // end. imm: SegReg; r1: destination
bool exec_sldt(SoftCpu& cpu, const Op& op);
bool exec_str(SoftCpu& cpu, const Op& op);
bool exec_lldt(SoftCpu& cpu, const Op& op);            // end
bool exec_ltr(SoftCpu& cpu, const Op& op);             // end
bool exec_verr(SoftCpu& cpu, const Op& op);
bool exec_verw(SoftCpu& cpu, const Op& op);
bool exec_lar(SoftCpu& cpu, const Op& op);             // imm: byte offset of the destination; r1: the source, if a register
bool exec_lsl(SoftCpu& cpu, const Op& op);             // the same
bool exec_arpl(SoftCpu& cpu, const Op& op);            // imm: byte offset of the register operand
bool exec_sgdt(SoftCpu& cpu, const Op& op);
bool exec_sidt(SoftCpu& cpu, const Op& op);
bool exec_lgdt(SoftCpu& cpu, const Op& op);            // end
bool exec_lidt(SoftCpu& cpu, const Op& op);            // end

// control.cc: control and debug registers. imm: register number; r1: the general register.
bool exec_smsw(SoftCpu& cpu, const Op& op);
bool exec_lmsw(SoftCpu& cpu, const Op& op);            // end
bool exec_clts(SoftCpu& cpu, const Op& op);            // end
bool exec_mov_from_cr(SoftCpu& cpu, const Op& op);     // end
bool exec_mov_to_cr(SoftCpu& cpu, const Op& op);       // end
bool exec_mov_from_dr(SoftCpu& cpu, const Op& op);     // end
bool exec_mov_to_dr(SoftCpu& cpu, const Op& op);       // end
bool exec_invlpg(SoftCpu& cpu, const Op& op);          // end
bool exec_invd(SoftCpu& cpu, const Op& op);            // INVD, WBINVD
bool exec_xgetbv(SoftCpu& cpu, const Op& op);
bool exec_xsetbv(SoftCpu& cpu, const Op& op);          // end

// Reads the PAE page directory pointers that `cr3` leads to into s.pdpte (SDM 3A 4.4.1). False: #GP(0), nothing changed.
bool load_pdptes(SoftCpu& cpu, uint64_t cr3);

// model_ops.cc: MSRs, CPUID, time, entropy. All end.
bool exec_rdmsr(SoftCpu& cpu, const Op& op);
bool exec_wrmsr(SoftCpu& cpu, const Op& op);
bool exec_rdtsc(SoftCpu& cpu, const Op& op);
bool exec_rdtscp(SoftCpu& cpu, const Op& op);
bool exec_rdpmc(SoftCpu& cpu, const Op& op);
bool exec_cpuid(SoftCpu& cpu, const Op& op);
bool exec_rdrand(SoftCpu& cpu, const Op& op);          // RDRAND, RDSEED; r1: destination
bool exec_hlt(SoftCpu& cpu, const Op& op);

// flag_ops.cc.
bool exec_cli(SoftCpu& cpu, const Op& op);             // end
bool exec_sti(SoftCpu& cpu, const Op& op);             // end
bool exec_pushf(SoftCpu& cpu, const Op& op);
bool exec_popf(SoftCpu& cpu, const Op& op);            // end
bool exec_clac(SoftCpu& cpu, const Op& op);            // end
bool exec_stac(SoftCpu& cpu, const Op& op);            // end
bool exec_int(SoftCpu& cpu, const Op& op);             // end. imm: vector
bool exec_int3(SoftCpu& cpu, const Op& op);            // end
bool exec_into(SoftCpu& cpu, const Op& op);            // end
bool exec_int1(SoftCpu& cpu, const Op& op);            // end

// fast_calls.cc. All end. imm of the RD/WR..BASE forms: SegReg; r1: the general register.
bool exec_syscall(SoftCpu& cpu, const Op& op);
bool exec_sysret(SoftCpu& cpu, const Op& op);
bool exec_sysenter(SoftCpu& cpu, const Op& op);
bool exec_sysexit(SoftCpu& cpu, const Op& op);
bool exec_swapgs(SoftCpu& cpu, const Op& op);
bool exec_read_base(SoftCpu& cpu, const Op& op);
bool exec_write_base(SoftCpu& cpu, const Op& op);

// port_io.cc. All end. r0: operand size (1, 2, 4); imm of IN and OUT: port, or -1 for DX. INS and OUTS: r1: 1 with a
// REP prefix; imm: address size | SegReg << 8.
bool exec_in(SoftCpu& cpu, const Op& op);
bool exec_out(SoftCpu& cpu, const Op& op);
bool exec_ins(SoftCpu& cpu, const Op& op);
bool exec_outs(SoftCpu& cpu, const Op& op);

// Privilege checks that most of them begin with: #GP(0) unless CPL is 0.
inline bool require_ring0(SoftCpu& cpu) { return cpu.s.cpl() == 0 || raise_gp(cpu, 0); }

// Virtual-8086 mode in which IF is not the program's: it is VIF with CR4.VME, and a fault without.
inline bool vm86_below_iopl(const SoftCpu& cpu) { return cpu.s.vm86() && cpu.s.iopl() != 3; }
// Flags that POPF and IRET pop there: IF goes to VIF (SDM 3B 20.3.3.6). False: #GP(0), for TF, or because an interrupt waits (VIP).
inline bool virtual_flags(uint64_t& image, uint64_t old) {
  if ((image & flag::TF) != 0 || ((image & flag::IF) != 0 && (old & flag::VIP) != 0)) return false;
  image = (image & ~flag::VIF) | ((image & flag::IF) != 0 ? flag::VIF : 0);
  return true;
}

// The segment register an Op names in imm.
inline Segment& segment_of(SoftCpu& cpu, const Op& op) { return cpu.s.segment[static_cast<size_t>(op.imm)]; }

// Address of the instruction behind this one, in an Exec that ends a block.
inline uint64_t next_rip(const SoftCpu& cpu, const Op& op) { return (cpu.s.rip + op.length) & ip_mask(cpu); }

// A general register by byte offset with an operand size: 32-bit writes clear the upper half, 16-bit writes keep it.
inline uint64_t get_sized(const SoftCpu& cpu, unsigned offset, unsigned size) {
  const uint64_t v = get<uint64_t>(&cpu, offset);
  return size == 8 ? v : size == 4 ? v & 0xffffffff : v & 0xffff;
}
inline void set_sized(SoftCpu& cpu, unsigned offset, unsigned size, uint64_t v) {
  if (size == 8) set<uint64_t>(&cpu, offset, v);
  else if (size == 4) set<uint32_t>(&cpu, offset, static_cast<uint32_t>(v));
  else set<uint16_t>(&cpu, offset, static_cast<uint16_t>(v));
}

}  // namespace retrovisor::soft
