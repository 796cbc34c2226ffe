// The architectural state of one vCPU, in the form both engines share. It is complete and exact whenever no engine is
// inside run(). The soft engine works on it in place, which is why the general registers come first.
#pragma once

#include <array>
#include <cstdint>

#include "vmm/cpu/registers.h"
#include "vmm/state_io.h"
#include "vmm/types.h"

namespace retrovisor {

struct Segment {
  uint64_t base = 0;
  uint32_t limit = 0;       // in bytes, G already applied
  uint32_t attributes = 0;  // namespace seg
  uint16_t selector = 0;
};

struct DescriptorTable {
  uint64_t base = 0;
  uint16_t limit = 0;
};

struct X87Register {
  uint64_t mantissa = 0;
  uint16_t sign_exponent = 0;
};

struct X87State {
  std::array<X87Register, 8> r{};  // physical registers R0..R7; ST(i) is r[(TOP + i) & 7]; MMi is r[i].mantissa
  uint16_t fcw = 0x37f;
  uint16_t fsw = 0;                // with TOP in bits 11-13
  uint8_t tag = 0;                 // bit i set: Ri is in use (the abridged tag of FXSAVE)
  uint16_t fop = 0;
  uint64_t fip = 0;
  uint64_t fdp = 0;
  uint16_t fcs = 0;
  uint16_t fds = 0;
};

struct alignas(16) Xmm {
  uint64_t q[2] = {0, 0};
};

// Interrupt-related activity (what HLT, INIT and shutdown leave a vCPU in).
// The numbers are in saved states.
enum class Activity : uint8_t { running = 0, halted = 1, wait_for_sipi = 2, shutdown = 3 };

// After STI, MOV SS and POP SS interrupts stay out until the vCPU has retired one more instruction (SDM 3A 6.8.3); MOV SS and
// POP SS hold back debug traps as well. It is the vCPU's own: other vCPUs may run before its next instruction does.
enum class Shadow : uint8_t { none = 0, interrupts = 1, debug = 2 /* and interrupts */ };

// With these registers, is paging that of three levels, for which the processor keeps page directory pointers (SDM 3A 4.4)? LME and
// PG together are long mode, with four.
constexpr bool pae_paging(uint64_t cr0, uint64_t cr4, uint64_t efer) {
  return (cr0 & cr0::PG) != 0 && (cr4 & cr4::PAE) != 0 && (efer & efer::LME) == 0;
}

struct alignas(64) CpuState {
  // Register slots of the soft engine: 0-15 general registers, 16 always zero (absent base or index), 17 RIP.
  std::array<uint64_t, 16> gpr{};
  uint64_t zero = 0;
  uint64_t rip = 0;
  uint64_t rflags = flag::fixed;

  std::array<Segment, 6> segment{};  // indexed by SegReg
  Segment ldtr;
  Segment tr;
  DescriptorTable gdtr;
  DescriptorTable idtr;

  uint64_t cr0 = 0, cr2 = 0, cr3 = 0, cr4 = 0;
  uint64_t efer = 0;
  uint64_t xcr0 = 1;
  std::array<uint64_t, 4> dr{};
  uint64_t dr6 = dr6::fixed, dr7 = dr7::fixed;
  std::array<uint64_t, 4> pdpte{};  // PAE page directory pointers, loaded by writes of CR3 (SDM 3A 4.4.1)

  uint64_t star = 0, lstar = 0, cstar = 0, sfmask = 0, kernel_gs_base = 0, tsc_aux = 0;
  uint64_t sysenter_cs = 0, sysenter_esp = 0, sysenter_eip = 0;
  uint64_t pat = 0x0007040600070406;
  uint64_t misc_enable = 1;
  uint64_t tsc_offset = 0;  // guest TSC = clock now (ns) + tsc_offset
  uint64_t tsc_adjust = 0;
  uint64_t xss = 0;
  uint64_t mtrr_def_type = 0;
  std::array<uint64_t, 16> mtrr_var{};
  std::array<uint64_t, 11> mtrr_fixed{};
  uint64_t mcg_status = 0;

  X87State x87;
  std::array<Xmm, 16> xmm{};
  uint32_t mxcsr = 0x1f80;

  Activity activity = Activity::running;
  bool nmi_blocked = false;      // from NMI delivery to IRET
  bool nmi_pending = false;
  bool init_pending = false;
  bool sipi_pending = false;
  uint8_t sipi_vector = 0;
  // Of the instruction at RIP. While the soft engine runs it can be that of the instruction before: in_shadow() tells.
  Shadow shadow = Shadow::none;
  // Debug exceptions (DR6 bits) that a MOV SS shadow holds back.
  uint64_t pending_debug = 0;

  unsigned cpl() const { return segment[SS].attributes >> 5 & 3; }
  bool long_mode() const { return (efer & efer::LMA) != 0; }
  bool mode64() const { return long_mode() && (segment[CS].attributes & seg::L) != 0; }
  bool protected_mode() const { return (cr0 & cr0::PE) != 0; }
  bool vm86() const { return (rflags & flag::VM) != 0; }
  bool paging() const { return (cr0 & cr0::PG) != 0; }
  bool pae_paging() const { return retrovisor::pae_paging(cr0, cr4, efer); }
  unsigned iopl() const { return static_cast<unsigned>(rflags >> 12 & 3); }
  // In which an instruction is decoded: 16, 32 or 64.
  unsigned code_bits() const { return mode64() ? 64 : (segment[CS].attributes & seg::DB) != 0 ? 32 : 16; }
  // Are misaligned accesses #AC (SDM 3A 6.15, vector 17)?
  bool checks_alignment() const { return cpl() == 3 && (cr0 & cr0::AM) != 0 && (rflags & flag::AC) != 0; }
  // The guest's time stamp counter.
  uint64_t tsc(VirtualTime now) const { return now.value + tsc_offset; }
  // Does an NMI that waits get through?
  bool nmi_due() const { return nmi_pending && !nmi_blocked; }
  // Would an external interrupt be taken before the next instruction? (Between runs; within one, in_shadow() knows.)
  bool interruptible() const { return (rflags & flag::IF) != 0 && shadow == Shadow::none; }
  // Where the code at an offset in CS lies, and the instruction at RIP.
  LinearAddr linear_code(uint64_t offset) const {
    return LinearAddr(mode64() ? offset : (segment[CS].base + offset) & 0xffffffff);
  }
  LinearAddr linear_rip() const { return linear_code(rip); }

  // State after RESET# (SDM 3A 9.1.1, table 9-1).
  static CpuState at_reset(VcpuId id);
  // State after INIT (the same table), which leaves the FPU, caches, the TSC and the MSRs of memory types alone. Application
  // processors wait for a start-up IPI then.
  CpuState after_init(VcpuId id) const;
  // Takes the start-up IPI that waits (SDM 3A 8.4.4.1): the processor begins at 000VV000h.
  void start_up();
  void save(StateWriter& out, VcpuId id) const;
  void restore(StateReader& in, VcpuId id);
};

}  // namespace retrovisor
