// From run-time properties of an instruction to instances of handler templates.
#pragma once

#include "vmm/soft/arith.h"
#include "vmm/soft/insn.h"
#include "vmm/soft/memory.h"

namespace retrovisor::soft {

// pick_size(4, []<class T>() -> Handler { return op_x<T>; })
template <class F>
inline Handler pick_size(unsigned size, F f) {
  switch (size) {
    case 1: return f.template operator()<uint8_t>();
    case 2: return f.template operator()<uint16_t>();
    case 4: return f.template operator()<uint32_t>();
    default: return f.template operator()<uint64_t>();
  }
}

// pick_ea(op, []<class Ea>() -> Handler { return op_x<Ea>; })
template <class F>
inline Handler pick_ea(const Op& op, F f) {
  switch (ea_form(op)) {
    case EaForm::base: return f.template operator()<EaBase>();
    case EaForm::general: return f.template operator()<EaGeneral>();
    default: return f.template operator()<EaSlow>();
  }
}

// pick_flags(insn, []<ProcessorModel U>() -> Handler { return op_x<U>; })
template <class F>
inline Handler pick_flags(const Insn& insn, F f) {
  if (insn.processor_model == ProcessorModel::amd) return f.template operator()<ProcessorModel::amd>();
  if (insn.processor_model == ProcessorModel::intel) return f.template operator()<ProcessorModel::intel>();
  return f.template operator()<ProcessorModel::model>();
}

// pick_condition(insn.opcode & 15, []<unsigned C>() -> Handler { return op_x<C>; })
template <unsigned First = 0, class F>
inline Handler pick_condition(unsigned c, F f) {
  if constexpr (First < 15) {
    if (c != First) return pick_condition<First + 1>(c, f);
  }
  return f.template operator()<First>();
}

// Byte offset of an 8-bit register: without a REX prefix 4-7 are AH, CH, DH, BH.
constexpr uint8_t byte_slot(unsigned reg, uint8_t rex) {
  return rex == 0 && reg >= 4 && reg < 8 ? static_cast<uint8_t>((reg - 4) * 8 + 1) : slot_of(reg);
}
constexpr uint8_t sized_slot(unsigned reg, unsigned size, uint8_t rex) { return size == 1 ? byte_slot(reg, rex) : slot_of(reg); }

// Operand size of the common opcode pairs: bit 0 clear means 8 bits.
inline unsigned pair_size(const Insn& insn) { return (insn.opcode & 1) == 0 ? 1 : insn.operand_size; }

}  // namespace retrovisor::soft
