// Chooses the Execs of the system group (system.h) and packs what they need into the Op.
#include "vmm/soft/emit_system.h"

#include "vmm/soft/control.h"
#include "vmm/soft/far_transfer.h"
#include "vmm/soft/fast_calls.h"
#include "vmm/soft/flag_ops.h"
#include "vmm/soft/model_ops.h"
#include "vmm/soft/port_io.h"
#include "vmm/soft/segment_ops.h"
#include "vmm/soft/system.h"

namespace retrovisor::soft {

namespace {

class SystemEmitter {
 public:
  SystemEmitter(const Insn& insn, Op& op) : insn_(insn), op_(op) {}

  Emit run() {
    if (insn_.map == OpMap::one_byte) return one_byte();
    if (insn_.map == OpMap::map_0f) return map_0f();
    return Emit::unknown;
  }

 private:
  bool code64() const { return insn_.mode == block_mode::code64; }

  template <Exec F>
  Emit next() {
    op_.fn = op_call<F>;
    return Emit::next;
  }
  template <Exec F>
  Emit end() {
    // In op_call_end RIP is the instruction's, not the block's: a RIP-relative operand has to follow.
    if (insn_.base == kRipBase) {
      const int64_t disp = insn_.disp + insn_.length;
      op_.disp = static_cast<int32_t>(static_cast<uint32_t>(disp));
      op_.ea = static_cast<uint8_t>(disp == op_.disp ? op_.ea & ~ea::wide : op_.ea | ea::wide);
    }
    op_.fn = op_call_end<F>;
    return Emit::end;
  }

  void size(unsigned bytes) { op_.r0 = static_cast<uint8_t>(bytes); }
  void operand_size() { size(insn_.operand_size); }
  // 64-bit mode does not widen these without REX.W, whatever the default size of the opcode's neighbours.
  void far_size() { size(!code64() ? insn_.operand_size : (insn_.rex & 8) != 0 ? 8 : insn_.prefix66 ? 2 : 4); }
  void register_or_memory() {
    if (!insn_.memory) op_.ea |= kRegisterOperand;
    op_.r1 = slot_of(insn_.rm);
  }

  template <Exec F>
  Emit sreg(SegReg reg) {
    op_.imm = reg;
    operand_size();
    return next<F>();
  }
  template <Exec F>
  Emit sreg_end(SegReg reg) {
    op_.imm = reg;
    operand_size();
    return end<F>();
  }
  template <Exec F>
  Emit far_direct() {
    const uint64_t mask = insn_.operand_size == 2 ? 0xffff : 0xffffffff;
    op_.imm = static_cast<int64_t>((static_cast<uint64_t>(insn_.imm) & mask) | uint64_t{insn_.imm2} << 32);
    operand_size();
    return end<F>();
  }
  template <Exec F>
  Emit far_memory() {
    if (!insn_.memory) return Emit::unknown;
    far_size();
    return end<F>();
  }
  Emit far_pointer(SegReg reg) {
    if (!insn_.memory) return Emit::unknown;
    op_.imm = reg;
    op_.r1 = slot_of(insn_.reg);
    operand_size();
    return end<exec_load_far_pointer>();
  }

  // IN and OUT: even opcodes move a byte; REX.W does not count.
  void port_size() { size((insn_.opcode & 1) == 0 ? 1 : insn_.operand_size == 2 ? 2 : 4); }
  template <Exec F>
  Emit port_io(bool immediate) {
    port_size();
    op_.imm = immediate ? insn_.imm & 0xff : -1;
    return end<F>();
  }
  unsigned source_segment() const {
    return insn_.segment_override != kNoRegister ? unsigned{insn_.segment_override} : unsigned{DS};
  }
  template <Exec F>
  Emit string_io(unsigned segment) {
    port_size();
    op_.imm = static_cast<int64_t>(insn_.address_size | segment << 8);
    op_.r1 = insn_.rep != 0 ? 1 : 0;
    return end<F>();
  }

  Emit one_byte() {
    switch (insn_.opcode) {
      case 0x06: return sreg<exec_push_sreg>(ES);
      case 0x07: return sreg_end<exec_pop_sreg>(ES);
      case 0x0e: return sreg<exec_push_sreg>(CS);
      case 0x16: return sreg<exec_push_sreg>(SS);
      case 0x17: return sreg_end<exec_pop_sreg>(SS);
      case 0x1e: return sreg<exec_push_sreg>(DS);
      case 0x1f: return sreg_end<exec_pop_sreg>(DS);
      case 0x63:
        if (code64()) return Emit::unknown;  // MOVSXD
        register_or_memory();
        op_.imm = slot_of(insn_.reg);
        return next<exec_arpl>();
      case 0x6c: case 0x6d: return string_io<exec_ins>(ES);
      case 0x6e: case 0x6f: return string_io<exec_outs>(source_segment());
      case 0x8c:
        if (insn_.reg_field() > GS) return Emit::unknown;
        register_or_memory();
        return sreg<exec_mov_from_sreg>(static_cast<SegReg>(insn_.reg_field()));
      case 0x8e:
        if (insn_.reg_field() > GS || insn_.reg_field() == CS) return Emit::unknown;
        register_or_memory();
        return sreg_end<exec_mov_to_sreg>(static_cast<SegReg>(insn_.reg_field()));
      case 0x9a: return far_direct<exec_far_call_direct>();
      case 0xea: return far_direct<exec_far_jump_direct>();
      case 0x9c: operand_size(); return next<exec_pushf>();
      case 0x9d: operand_size(); return end<exec_popf>();
      case 0xc4: return far_pointer(ES);
      case 0xc5: return far_pointer(DS);
      case 0xca: far_size(); op_.imm = insn_.imm & 0xffff; return end<exec_far_return>();
      case 0xcb: far_size(); op_.imm = 0; return end<exec_far_return>();
      case 0xcc: return end<exec_int3>();
      case 0xcd: op_.imm = insn_.imm & 0xff; return end<exec_int>();
      case 0xce: return end<exec_into>();
      case 0xcf: far_size(); return end<exec_iret>();
      case 0xe4: case 0xe5: return port_io<exec_in>(true);
      case 0xe6: case 0xe7: return port_io<exec_out>(true);
      case 0xec: case 0xed: return port_io<exec_in>(false);
      case 0xee: case 0xef: return port_io<exec_out>(false);
      case 0xf1: return end<exec_int1>();
      case 0xf4: return end<exec_hlt>();
      case 0xfa: return end<exec_cli>();
      case 0xfb: return end<exec_sti>();
      case 0xff:
        if (insn_.reg_field() == 3) return far_memory<exec_far_call_memory>();
        if (insn_.reg_field() == 5) return far_memory<exec_far_jump_memory>();
        return Emit::unknown;
      default: return Emit::unknown;
    }
  }

  Emit group6() {  // 0F 00
    register_or_memory();
    operand_size();
    switch (insn_.reg_field()) {
      case 0: return next<exec_sldt>();
      case 1: return next<exec_str>();
      case 2: return end<exec_lldt>();
      case 3: return end<exec_ltr>();
      case 4: return next<exec_verr>();
      case 5: return next<exec_verw>();
      default: return Emit::unknown;
    }
  }

  Emit group7() {  // 0F 01
    if (!insn_.memory) {
      switch (insn_.modrm) {
        case 0xca: return end<exec_clac>();
        case 0xcb: return end<exec_stac>();
        case 0xd0: return next<exec_xgetbv>();
        case 0xd1: return end<exec_xsetbv>();
        case 0xf8: return code64() ? end<exec_swapgs>() : Emit::unknown;
        case 0xf9: return end<exec_rdtscp>();
        default: break;
      }
    }
    register_or_memory();
    operand_size();
    switch (insn_.reg_field()) {
      case 0: return insn_.memory ? next<exec_sgdt>() : Emit::unknown;
      case 1: return insn_.memory ? next<exec_sidt>() : Emit::unknown;
      case 2: return insn_.memory ? end<exec_lgdt>() : Emit::unknown;
      case 3: return insn_.memory ? end<exec_lidt>() : Emit::unknown;
      case 4: return next<exec_smsw>();
      case 6: return end<exec_lmsw>();
      case 7: return insn_.memory ? end<exec_invlpg>() : Emit::unknown;
      default: return Emit::unknown;
    }
  }

  template <Exec F>
  Emit control_register(bool debug) {
    const unsigned number = insn_.reg;
    if (!debug && number != 0 && number != 2 && number != 3 && number != 4 && !(number == 8 && code64()))
      return Emit::unknown;
    op_.imm = number;
    op_.r1 = slot_of((insn_.modrm & 7u) | (insn_.rex & 1u) << 3);
    return end<F>();
  }

  // F3 0F AE with a register: RDFSBASE, RDGSBASE, WRFSBASE, WRGSBASE.
  Emit bases() {
    if (insn_.memory || insn_.rep != 0xf3 || !code64() || insn_.reg_field() > 3) return Emit::unknown;
    op_.r1 = slot_of(insn_.rm);
    op_.imm = (insn_.reg_field() & 1) != 0 ? GS : FS;
    size((insn_.rex & 8) != 0 ? 8 : 4);
    return insn_.reg_field() < 2 ? end<exec_read_base>() : end<exec_write_base>();
  }

  // 0F C7 with a register: RDRAND, RDSEED.
  Emit random() {
    if (insn_.memory || insn_.rep != 0 || insn_.reg_field() < 6) return Emit::unknown;
    op_.r1 = slot_of(insn_.rm);
    operand_size();
    return end<exec_rdrand>();
  }

  Emit map_0f() {
    switch (insn_.opcode) {
      case 0x00: return group6();
      case 0x01: return group7();
      case 0x02: case 0x03:
        register_or_memory();
        operand_size();
        op_.imm = slot_of(insn_.reg);
        return insn_.opcode == 0x02 ? next<exec_lar>() : next<exec_lsl>();
      case 0x05: return end<exec_syscall>();
      case 0x06: return end<exec_clts>();
      case 0x07: far_size(); return end<exec_sysret>();
      case 0x08: case 0x09: return next<exec_invd>();
      case 0x20: return control_register<exec_mov_from_cr>(false);
      case 0x21: return control_register<exec_mov_from_dr>(true);
      case 0x22: return control_register<exec_mov_to_cr>(false);
      case 0x23: return control_register<exec_mov_to_dr>(true);
      case 0x30: return end<exec_wrmsr>();
      case 0x31: return end<exec_rdtsc>();
      case 0x32: return end<exec_rdmsr>();
      case 0x33: return end<exec_rdpmc>();
      case 0x34: return end<exec_sysenter>();
      case 0x35: far_size(); return end<exec_sysexit>();
      case 0xa0: return sreg<exec_push_sreg>(FS);
      case 0xa1: return sreg_end<exec_pop_sreg>(FS);
      case 0xa2: return end<exec_cpuid>();
      case 0xa8: return sreg<exec_push_sreg>(GS);
      case 0xa9: return sreg_end<exec_pop_sreg>(GS);
      case 0xae: return bases();
      case 0xb2: return far_pointer(SS);
      case 0xb4: return far_pointer(FS);
      case 0xb5: return far_pointer(GS);
      case 0xc7: return random();
      default: return Emit::unknown;
    }
  }

  const Insn& insn_;
  Op& op_;
};

}  // namespace

Emit emit_system(const Insn& insn, Op& op) {
  if (insn.lock) return Emit::unknown;  // none of them can be locked
  return SystemEmitter(insn, op).run();
}

}  // namespace retrovisor::soft
