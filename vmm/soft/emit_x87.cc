// Chooses the handlers of D8-DF and 9B. Source: SDM 2 appendix A.5 (escape opcodes), AMD APM 3 appendix A.4.
// Encodings that the manuals leave out but that all processors since the 387 execute as aliases are here, too:
// FCOM2, FCOMP3, FCOMP5, FXCH4, FXCH7, FSTP1, FSTP8, FSTP9 and FFREEP.
#include "vmm/soft/emit_x87.h"

#include "vmm/soft/x87_arith.h"
#include "vmm/soft/x87_compare.h"
#include "vmm/soft/x87_env.h"
#include "vmm/soft/x87_move.h"

namespace retrovisor::soft {
namespace {

constexpr unsigned kCompare = 2, kComparePop = 3;

// D8, DA, DC, DE with memory: eight operations on one type of operand.
Handler memory_arithmetic(X87Form form, unsigned reg) {
  if (reg == kCompare || reg == kComparePop) return x87_compare_handler(form, false, reg == kComparePop ? 1 : 0);
  return x87_arith_handler(form, reg);
}

Handler memory_form(uint8_t opcode, unsigned reg) {
  switch (opcode) {
    case 0xd8: return memory_arithmetic(X87Form::float32, reg);
    case 0xda: return memory_arithmetic(X87Form::int32, reg);
    case 0xdc: return memory_arithmetic(X87Form::float64, reg);
    case 0xde: return memory_arithmetic(X87Form::int16, reg);
    case 0xd9:
      switch (reg) {
        case 0: return x87_load_handler(X87Memory::float32);
        case 2: return x87_store_handler(X87Memory::float32, false);
        case 3: return x87_store_handler(X87Memory::float32, true);
        case 4: return x87_control_handler(X87Control::load_environment);
        case 5: return x87_control_handler(X87Control::load_control);
        case 6: return x87_control_handler(X87Control::store_environment);
        case 7: return x87_control_handler(X87Control::store_control);
        default: return nullptr;
      }
    case 0xdb:
      switch (reg) {
        case 0: return x87_load_handler(X87Memory::int32);
        case 1: return x87_store_truncating_handler(X87Memory::int32);
        case 2: return x87_store_handler(X87Memory::int32, false);
        case 3: return x87_store_handler(X87Memory::int32, true);
        case 5: return x87_load_handler(X87Memory::float80);
        case 7: return x87_store_handler(X87Memory::float80, true);
        default: return nullptr;
      }
    case 0xdd:
      switch (reg) {
        case 0: return x87_load_handler(X87Memory::float64);
        case 1: return x87_store_truncating_handler(X87Memory::int64);
        case 2: return x87_store_handler(X87Memory::float64, false);
        case 3: return x87_store_handler(X87Memory::float64, true);
        case 4: return x87_control_handler(X87Control::restore);
        case 6: return x87_control_handler(X87Control::save);
        case 7: return x87_control_handler(X87Control::store_status);
        default: return nullptr;
      }
    default:  // 0xdf
      switch (reg) {
        case 0: return x87_load_handler(X87Memory::int16);
        case 1: return x87_store_truncating_handler(X87Memory::int16);
        case 2: return x87_store_handler(X87Memory::int16, false);
        case 3: return x87_store_handler(X87Memory::int16, true);
        case 4: return x87_load_handler(X87Memory::bcd);
        case 5: return x87_load_handler(X87Memory::int64);
        case 6: return x87_store_handler(X87Memory::bcd, true);
        default: return x87_store_handler(X87Memory::int64, true);
      }
  }
}

Handler register_d9(unsigned reg, unsigned i, uint8_t modrm) {
  switch (reg) {
    case 0: return x87_load_register_handler();
    case 1: return x87_exchange_handler();
    case 2: return i == 0 ? x87_control_handler(X87Control::nop) : nullptr;
    case 3: return x87_store_quiet_handler();
    case 4:
      switch (i) {
        case 0: return x87_sign_handler(false);
        case 1: return x87_sign_handler(true);
        case 4: return x87_test_handler();
        case 5: return x87_examine_handler();
        default: return nullptr;
      }
    case 5: return x87_constant_handler(i);
    default:
      if (modrm == 0xf6) return x87_control_handler(X87Control::decrement_top);
      if (modrm == 0xf7) return x87_control_handler(X87Control::increment_top);
      return x87_d9_handler(modrm & 15u);
  }
}

Handler register_db(unsigned reg, unsigned i) {
  if (reg < 4) return x87_conditional_move_handler(4 + reg);
  if (reg == 5) return x87_compare_flags_handler(true, false);
  if (reg == 6) return x87_compare_flags_handler(false, false);
  if (reg == 7) return nullptr;
  switch (i) {
    case 0: case 1: case 4: return x87_control_handler(X87Control::ignored);
    case 2: return x87_control_handler(X87Control::clear_exceptions);
    case 3: return x87_control_handler(X87Control::initialize);
    default: return nullptr;
  }
}

Handler register_form(uint8_t opcode, unsigned reg, unsigned i, uint8_t modrm) {
  switch (opcode) {
    case 0xd8:
      if (reg == kCompare || reg == kComparePop) return x87_compare_handler(X87Form::st0_sti, false, reg - kCompare);
      return x87_arith_handler(X87Form::st0_sti, reg);
    case 0xd9: return register_d9(reg, i, modrm);
    case 0xda:
      if (reg < 4) return x87_conditional_move_handler(reg);
      return modrm == 0xe9 ? x87_compare_handler(X87Form::st0_sti, true, 2) : nullptr;
    case 0xdb: return register_db(reg, i);
    case 0xdc:
      if (reg == kCompare || reg == kComparePop) return x87_compare_handler(X87Form::st0_sti, false, reg - kCompare);
      return x87_arith_handler(X87Form::sti_st0, reg);
    case 0xdd:
      switch (reg) {
        case 0: return x87_control_handler(X87Control::free);
        case 1: return x87_exchange_handler();
        case 2: return x87_store_register_handler(false);
        case 3: return x87_store_register_handler(true);
        case 4: return x87_compare_handler(X87Form::st0_sti, true, 0);
        case 5: return x87_compare_handler(X87Form::st0_sti, true, 1);
        default: return nullptr;
      }
    case 0xde:
      if (reg == kCompare) return x87_compare_handler(X87Form::st0_sti, false, 1);
      if (reg == kComparePop) return i == 1 ? x87_compare_handler(X87Form::st0_sti, false, 2) : nullptr;
      return x87_arith_handler(X87Form::sti_st0_pop, reg);
    default:  // 0xdf
      switch (reg) {
        case 0: return x87_control_handler(X87Control::free_pop);
        case 1: return x87_exchange_handler();
        case 2: case 3: return x87_store_register_handler(true);
        case 4: return i == 0 ? x87_control_handler(X87Control::store_status_ax) : nullptr;
        case 5: return x87_compare_flags_handler(true, true);
        case 6: return x87_compare_flags_handler(false, true);
        default: return nullptr;
      }
  }
}

}  // namespace

Emit emit_x87(const Insn& insn, Op& op, FpuClass& fpu) {
  if (insn.map != OpMap::one_byte || insn.lock) return Emit::unknown;
  if (insn.opcode == 0x9b) {
    op.fn = x87_control_handler(X87Control::wait);
    fpu = FpuClass::wait;
    return Emit::next;
  }
  if (insn.opcode < 0xd8 || insn.opcode > 0xdf) return Emit::unknown;
  const unsigned reg = insn.reg_field(), i = insn.rm_field();
  const Handler handler =
      insn.memory ? memory_form(insn.opcode, reg) : register_form(insn.opcode, reg, i, insn.modrm);
  if (handler == nullptr) return Emit::unknown;
  op.fn = handler;
  op.imm = (insn.opcode & 7) << 8 | insn.modrm;  // FOP (SDM 1 8.1.9)
  op.r0 = static_cast<uint8_t>(i);
  op.r1 = insn.operand_size == 2 ? 1 : 0;
  fpu = FpuClass::x87;
  return Emit::next;
}

}  // namespace retrovisor::soft
