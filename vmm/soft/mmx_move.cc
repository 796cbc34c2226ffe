// MMX data movement, EMMS, and the masked stores. Source: SDM 2B: MOVD, MOVQ, MASKMOVQ, EMMS; SDM 3A 12.
#include "vmm/soft/mmx_move.h"

#include <bit>

#include "vmm/cpu/canonical.h"

namespace retrovisor::soft {

namespace {

// The implied destination of the masked stores: DS (or the override) and rDI, of the address size.
void name_rdi_operand(const SseForm& f) {
  const bool mode64 = f.insn.mode == block_mode::code64;
  const uint8_t segment = f.insn.segment_override == kNoRegister ? static_cast<uint8_t>(DS) : f.insn.segment_override;
  const unsigned size_code = f.insn.address_size == 8 ? 2 : f.insn.address_size == 4 ? 1 : 0;
  f.op.base = slot_of(RDI);
  f.op.index = kZeroSlot;
  f.op.scale = 0;
  f.op.disp = 0;
  f.op.ea = static_cast<uint8_t>(segment | size_code << ea::size_shift | (mode64 ? 0 : ea::legacy));
  f.op.seg_off = kZeroSlot;
  if (mode64 && (segment == FS || segment == GS)) {
    f.op.seg_off = static_cast<uint16_t>(offsetof(CpuState, segment) + segment * sizeof(Segment) + offsetof(Segment, base));
  }
}

// Stores the bytes of `data` whose bit in `mask` is set. A segment is checked as if all `size` bytes were written; pages
// only from the first to the last byte that is.
bool masked_store(SoftCpu& cpu, const Op& op, const void* data, unsigned size, unsigned mask) {
  const uint64_t linear = operand_address(cpu, op, size, Access::write);
  if (cpu.address_fault) {
    cpu.address_fault = false;
    return false;
  }
  if (mask == 0) return true;
  const auto first = static_cast<unsigned>(std::countr_zero(mask));
  const auto last = static_cast<unsigned>(std::bit_width(mask)) - 1;
  if (!probe_write(cpu, op, linear + first, last - first + 1, cpu.s.cpl() == 3)) return false;
  // Bytes between are left alone: they may be device registers. Should a later byte ask for a split (mem_access), the
  // instruction runs again and stores the same bytes.
  for (unsigned i = first; i <= last; ++i) {
    if ((mask >> i & 1) != 0 && !store(&cpu, &op, linear + i, static_cast<const uint8_t*>(data)[i])) return false;
  }
  return true;
}

// ---- Moves ----

bool exec_movq_reg(SoftCpu& cpu, const Op& op) {
  if (!x87_check_pending(cpu)) return false;
  set_mmx(cpu, op.r0, get_mmx(cpu, op.r1));
  return true;
}
bool exec_movq_reg_reverse(SoftCpu& cpu, const Op& op) {
  if (!x87_check_pending(cpu)) return false;
  set_mmx(cpu, op.r1, get_mmx(cpu, op.r0));
  return true;
}
template <class T>
bool exec_load(SoftCpu& cpu, const Op& op) {
  T value = 0;
  if (!x87_check_pending(cpu) || !load_scalar<T, EaAny>(cpu, op, value)) return false;
  set_mmx(cpu, op.r0, value);
  return true;
}
template <class T>
bool exec_store(SoftCpu& cpu, const Op& op) {
  if (!x87_check_pending(cpu)) return false;
  const auto value = static_cast<T>(get_mmx(cpu, op.r0));
  // On Intel's processors TOP is zero already when the store faults (measured).
  if (cpu.processor_model == ProcessorModel::intel) x87_clear_top(cpu.s.x87);
  if (!store_scalar<T, EaAny>(cpu, op, value)) return false;
  mmx_touch(cpu);
  return true;
}
template <class T>
bool exec_from_gpr(SoftCpu& cpu, const Op& op) {
  if (!x87_check_pending(cpu)) return false;
  set_mmx(cpu, op.r0, get<T>(&cpu, op.r1));
  return true;
}
template <class T>
bool exec_to_gpr(SoftCpu& cpu, const Op& op) {
  if (!x87_check_pending(cpu)) return false;
  set<T>(&cpu, op.r1, static_cast<T>(get_mmx(cpu, op.r0)));
  mmx_touch(cpu);
  return true;
}

template <class T>
Emit emit_gpr(const SseForm& f, bool is_store) {
  f.op.r0 = f.insn.reg & 7;
  f.op.r1 = slot_of(f.insn.rm);
  if (f.memory()) return f.mmx(is_store ? &op_call<exec_store<T>> : &op_call<exec_load<T>>);
  return f.mmx(is_store ? &op_call<exec_to_gpr<T>> : &op_call<exec_from_gpr<T>>);
}

bool exec_movq2dq(SoftCpu& cpu, const Op& op) {
  if (!x87_check_pending(cpu)) return false;
  cpu.s.xmm[op.r0] = {{get_mmx(cpu, op.r1), 0}};
  mmx_touch(cpu);
  return true;
}
bool exec_movdq2q(SoftCpu& cpu, const Op& op) {
  if (!x87_check_pending(cpu)) return false;
  set_mmx(cpu, op.r0, cpu.s.xmm[op.r1].q[0]);
  return true;
}

// Processors look whether all 16 bytes can be written, whatever the mask (measured): AMD's from the first, and #AC if they are not
// at a multiple of 8; Intel's the upper half first. SDM 2B, MASKMOVDQU, leaves it open; the model asks for the selected bytes alone.
bool probe_masked(SoftCpu& cpu, const Op& op) {
  const bool user = cpu.s.cpl() == 3;
  const uint64_t linear = operand_address(cpu, op, 16, Access::write);
  if (cpu.processor_model == ProcessorModel::intel) {
    if (cpu.address_fault) return probe_write(cpu, op, linear, 16, user);
    const uint64_t last = linear + 15;
    const bool one_piece = !cpu.s.mode64() || is_canonical(last);
    return (!one_piece || probe_write(cpu, op, linear + 8, 8, user)) && probe_write(cpu, op, linear, 16, user);
  }
  uint64_t half = 0;
  // The first half's bytes are not needed, but its alignment and rights are asked for.
  if (cpu.s.checks_alignment() && !cpu.address_fault && !mem_access(cpu, op, linear, &half, sizeof half, Access::read_for_write)) return false;
  return probe_write(cpu, op, linear, 16, user);
}

bool exec_maskmovq(SoftCpu& cpu, const Op& op) {
  if (!x87_check_pending(cpu)) return false;
  mmx_touch(cpu);  // before the store faults, if it does (measured, both vendors)
  const auto mask = static_cast<unsigned>(_mm_movemask_epi8(vec_of(get_mmx(cpu, op.r1))));
  return masked_store(cpu, op, &cpu.s.x87.r[op.r0].mantissa, 8, mask);
}
bool exec_maskmovdqu(SoftCpu& cpu, const Op& op) {
  if (cpu.processor_model != ProcessorModel::model && !probe_masked(cpu, op)) return false;
  const auto mask = static_cast<unsigned>(_mm_movemask_epi8(get_xmm(cpu, op.r1)));
  return masked_store(cpu, op, &cpu.s.xmm[op.r0], 16, mask);
}

bool exec_emms(SoftCpu& cpu, const Op&) {
  if (!x87_check_pending(cpu)) return false;
  mmx_touch(cpu);
  cpu.s.x87.tag = 0;
  return true;
}

}  // namespace

Emit emit_mmx_move(const SseForm& f) {
  if (f.insn.map != OpMap::map_0f) return Emit::unknown;
  const bool plain = f.is(SsePrefix::none);
  switch (f.insn.opcode) {
    case 0x6e:
    case 0x7e:
      if (!plain) return Emit::unknown;
      return f.rex_w() ? emit_gpr<uint64_t>(f, f.insn.opcode == 0x7e) : emit_gpr<uint32_t>(f, f.insn.opcode == 0x7e);
    case 0x6f:
      f.mmx_registers();
      if (!plain) return Emit::unknown;
      return f.mmx(f.memory() ? &op_call<exec_load<uint64_t>> : &op_call<exec_movq_reg>);
    case 0x77: return plain ? f.mmx(&op_call<exec_emms>) : Emit::unknown;
    case 0x7f:
      f.mmx_registers();
      if (!plain) return Emit::unknown;
      return f.mmx(f.memory() ? &op_call<exec_store<uint64_t>> : &op_call<exec_movq_reg_reverse>);
    case 0xd6:
      if (f.memory()) return Emit::unknown;
      f.op.r0 = f.insn.reg;
      f.op.r1 = f.insn.rm;
      if (f.is(SsePrefix::f3)) {
        f.op.r1 &= 7;
        return f.mmx(&op_call<exec_movq2dq>);
      }
      f.op.r0 &= 7;
      return f.is(SsePrefix::f2) ? f.mmx(&op_call<exec_movdq2q>) : Emit::unknown;
    case 0xe7:  // MOVNTQ
      f.mmx_registers();
      return plain && f.memory() ? f.mmx(&op_call<exec_store<uint64_t>>) : Emit::unknown;
    case 0xf7:
      if (f.memory()) return Emit::unknown;
      if (plain) {
        f.mmx_registers();
        name_rdi_operand(f);
        return f.mmx(&op_call<exec_maskmovq>);
      }
      if (f.is(SsePrefix::p66)) {
        f.xmm_registers();
        name_rdi_operand(f);
        return f.sse(&op_call<exec_maskmovdqu>);
      }
      return Emit::unknown;
    default: return Emit::unknown;
  }
}

}  // namespace retrovisor::soft
