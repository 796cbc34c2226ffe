// FXSAVE, FXRSTOR, XSAVE, XRSTOR, LDMXCSR, STMXCSR, the fences (0F AE). Source: SDM 2A, 2B, 2C; SDM 1 13.
#include "vmm/soft/sse_state.h"

#include "vmm/cpu/canonical.h"
#include "vmm/soft/sse_fp.h"
#include "vmm/soft/x87_state.h"

namespace retrovisor::soft {

void FpuArea::put_x87(ProcessorModel model, const X87State& f, bool wide) {
  const bool pointers = x87_pointers_saved(model, f);
  put(0, f.fcw);
  put(2, f.fsw);
  put(4, uint16_t{f.tag});
  put(6, pointers ? f.fop : uint16_t{0});
  if (!pointers) {
    put(8, uint64_t{0});
    put(16, uint64_t{0});
  } else if (wide) {
    put(8, f.fip);
    put(16, f.fdp);
  } else {
    put(8, uint64_t{static_cast<uint32_t>(f.fip)} | uint64_t{f.fcs} << 32);
    put(16, uint64_t{static_cast<uint32_t>(f.fdp)} | uint64_t{f.fds} << 32);
  }
  for (unsigned i = 0; i < 8; ++i) {
    const X87Register& r = f.r[x87_physical(f, i)];
    put(st + 16 * i, r.mantissa);
    put(st + 16 * i + 8, uint64_t{r.sign_exponent});
  }
}

void FpuArea::put_sse(const CpuState& s, uint32_t mxcsr_mask, unsigned registers) {
  put(mxcsr, s.mxcsr);
  put(mxcsr + 4, mxcsr_mask);
  for (unsigned i = 0; i < registers; ++i) put(xmm + 16 * i, s.xmm[i]);
}

void FpuArea::get_x87(ProcessorModel model, X87State& f, bool wide) const {
  f.fcw = x87_control(at<uint16_t>(0));
  f.fsw = at<uint16_t>(2);
  f.tag = at<uint8_t>(4);
  f.fop = at<uint16_t>(6) & 0x7ff;
  f.fip = wide ? at<uint64_t>(8) : at<uint32_t>(8);
  f.fcs = wide ? uint16_t{0} : at<uint16_t>(12);
  f.fdp = wide ? at<uint64_t>(16) : at<uint32_t>(16);
  f.fds = wide ? uint16_t{0} : at<uint16_t>(20);
  if (model == ProcessorModel::amd) {
    f.fip = sign_extended(f.fip);
    f.fdp = sign_extended(f.fdp);
  } else if (model == ProcessorModel::intel) {
    f.fcs = f.fds = 0;
  }
  for (unsigned i = 0; i < 8; ++i) {
    f.r[x87_physical(f, i)] = {at<uint64_t>(st + 16 * i), at<uint16_t>(st + 16 * i + 8)};
  }
  x87_update_summary(f);  // ES and B follow from the flags and their masks
}

void FpuArea::get_xmm(CpuState& s, unsigned registers) const {
  for (unsigned i = 0; i < registers; ++i) s.xmm[i] = at<Xmm>(xmm + 16 * i);
}

namespace {

bool code64(const SoftCpu& cpu) { return (cpu.mode & block_mode::code_mask) == block_mode::code64; }
unsigned xmm_count(const SoftCpu& cpu) { return code64(cpu) ? 16 : 8; }

// Linear address of the area. False: not aligned, or not in its segment.
bool area_address(SoftCpu& cpu, const Op& op, unsigned size, unsigned alignment, Access access, uint64_t& linear) {
  linear = operand_address(cpu, op, size, access);
  if ((linear & (alignment - 1)) == 0) return true;
  // FXSAVE and FXRSTOR: which misalignments are #AC, where that is checked, SDM 2A leaves to the processor (measured: odd addresses on
  // Intel's, those that are not multiples of 4 on AMD's; the model has none).
  const uint64_t checked = alignment != 16 ? 0 : cpu.processor_model == ProcessorModel::amd ? 3 : cpu.processor_model == ProcessorModel::intel ? 1 : 0;
  if (cpu.s.checks_alignment() && (linear & checked) != 0 && !cpu.address_fault && is_canonical(linear)) return raise(cpu, vec::AC, 0);
  sse_misaligned(cpu, op, linear, access);
  return false;
}

// Copies bytes [begin, end) of the area; both are multiples of 8, and the area is aligned to 16.
bool store_area(SoftCpu& cpu, const Op& op, uint64_t linear, const FpuArea& area, unsigned begin, unsigned end) {
  for (unsigned i = begin; i < end;) {
    if (i % 16 == 0 && end - i >= 16) {
      if (!store(&cpu, &op, linear + i, area.at<Xmm>(i))) return false;
      i += 16;
    } else {
      if (!store(&cpu, &op, linear + i, area.at<uint64_t>(i))) return false;
      i += 8;
    }
  }
  return true;
}
bool load_area(SoftCpu& cpu, const Op& op, uint64_t linear, FpuArea& area, unsigned begin, unsigned end) {
  for (unsigned i = begin; i < end; i += 8) {
    uint64_t value = 0;
    if (!load(&cpu, &op, linear + i, value)) return false;
    area.put(i, value);
  }
  return true;
}

// What of an area is looked at first. FXSAVE and FXRSTOR: the last byte (measured, both vendors); XSAVE: the first, then the
// last (measured: AMD). Nothing is written before all of it can be.
constexpr std::initializer_list<ProbedPart> kLegacyOrder = {{FpuArea::legacy_size - 1, 1}};
constexpr std::initializer_list<ProbedPart> kXsaveOrder = {{0, 1}, {FpuArea::size - 1, 1}};

// In all four, op.imm says whether REX.W was given.

bool exec_fxsave(SoftCpu& cpu, const Op& op) {
  uint64_t linear;
  if (!area_address(cpu, op, FpuArea::legacy_size, 16, Access::write, linear) ||
      !probe_in_order(cpu, op, linear, FpuArea::legacy_size, Access::write, kLegacyOrder)) {
    return false;
  }
  FpuArea area;
  area.put_x87(cpu.processor_model, cpu.s.x87, op.imm != 0);
  area.put_sse(cpu.s, cpu.mxcsr_mask, xmm_count(cpu));
  return store_area(cpu, op, linear, area, 0, FpuArea::xmm + 16 * xmm_count(cpu));
}

bool exec_fxrstor(SoftCpu& cpu, const Op& op) {
  uint64_t linear;
  FpuArea area;
  if (!area_address(cpu, op, FpuArea::legacy_size, 16, Access::read, linear) ||
      !probe_in_order(cpu, op, linear, FpuArea::legacy_size, Access::read, kLegacyOrder) ||
      !load_area(cpu, op, linear, area, 0, FpuArea::xmm + 16 * xmm_count(cpu))) {
    return false;
  }
  const auto mxcsr_value = area.at<uint32_t>(FpuArea::mxcsr);
  if ((mxcsr_value & ~mxcsr::writable) != 0) return raise_gp(cpu, 0);
  area.get_x87(cpu.processor_model, cpu.s.x87, op.imm != 0);
  area.get_xmm(cpu.s, xmm_count(cpu));
  cpu.s.mxcsr = mxcsr_value;
  return true;
}

// What XSAVE and XRSTOR check first; CR0.EM does not matter to them (SDM 2C XSAVE, exceptions).
bool xsave_allowed(SoftCpu& cpu) {
  if ((cpu.s.cr4 & cr4::OSXSAVE) == 0) return raise_ud(cpu);
  if ((cpu.s.cr0 & cr0::TS) != 0) return raise(cpu, vec::NM);
  return true;
}
// The requested-feature bitmap (SDM 1 13.3).
uint64_t requested(const SoftCpu& cpu) {
  const uint64_t instruction_mask = uint64_t{get<uint32_t>(&cpu, slot_of(RDX))} << 32 | get<uint32_t>(&cpu, slot_of(RAX));
  return instruction_mask & cpu.s.xcr0 & xcr0::all;
}

bool exec_xsave(SoftCpu& cpu, const Op& op) {
  uint64_t linear;
  uint64_t present = 0;
  if (!xsave_allowed(cpu) || !area_address(cpu, op, FpuArea::size, 64, Access::write, linear) ||
      !probe_in_order(cpu, op, linear, FpuArea::size, Access::write, kXsaveOrder) ||
      !load(&cpu, &op, linear + FpuArea::header, present)) {
    return false;
  }
  const uint64_t features = requested(cpu);
  FpuArea area;
  if ((features & xcr0::x87) != 0) {
    area.put_x87(cpu.processor_model, cpu.s.x87, op.imm != 0);
    if (!store_area(cpu, op, linear, area, 0, FpuArea::mxcsr) ||
        !store_area(cpu, op, linear, area, FpuArea::st, FpuArea::xmm)) {
      return false;
    }
  }
  if ((features & xcr0::sse) != 0) {
    area.put_sse(cpu.s, cpu.mxcsr_mask, xmm_count(cpu));
    if (!store_area(cpu, op, linear, area, FpuArea::mxcsr, FpuArea::st) ||
        !store_area(cpu, op, linear, area, FpuArea::xmm, FpuArea::xmm + 16 * xmm_count(cpu))) {
      return false;
    }
  }
  // Of the header only XSTATE_BV is written, and in it only the requested bits (SDM 1 13.7).
  return store(&cpu, &op, linear + FpuArea::header, present | features);
}

bool exec_xrstor(SoftCpu& cpu, const Op& op) {
  uint64_t linear;
  FpuArea area;
  if (!xsave_allowed(cpu) || !area_address(cpu, op, FpuArea::size, 64, Access::read, linear) ||
      !load_area(cpu, op, linear, area, FpuArea::header, FpuArea::header + FpuArea::header_checked)) {
    return false;
  }
  // Standard form only: XCOMP_BV and the eight bytes behind it are zero (SDM 1 13.8.1).
  const auto present = area.at<uint64_t>(FpuArea::header);
  if ((present & ~cpu.s.xcr0) != 0 || area.at<uint64_t>(FpuArea::header + 8) != 0 ||
      area.at<uint64_t>(FpuArea::header + 16) != 0) {
    return raise_gp(cpu, 0);
  }
  const uint64_t features = requested(cpu);
  const bool x87 = (features & xcr0::x87) != 0;
  const bool sse = (features & xcr0::sse) != 0;
  const bool load_x87 = x87 && (present & xcr0::x87) != 0;
  const bool load_xmm = sse && (present & xcr0::sse) != 0;
  const unsigned registers = xmm_count(cpu);
  // MXCSR comes from memory whether or not XSTATE_BV has SSE.
  if ((load_x87 && (!load_area(cpu, op, linear, area, 0, FpuArea::mxcsr) ||
                    !load_area(cpu, op, linear, area, FpuArea::st, FpuArea::xmm))) ||
      (sse && !load_area(cpu, op, linear, area, FpuArea::mxcsr, FpuArea::st)) ||
      (load_xmm && !load_area(cpu, op, linear, area, FpuArea::xmm, FpuArea::xmm + 16 * registers))) {
    return false;
  }
  const auto mxcsr_value = area.at<uint32_t>(FpuArea::mxcsr);
  if (sse && (mxcsr_value & ~mxcsr::writable) != 0) return raise_gp(cpu, 0);

  if (load_x87) {
    area.get_x87(cpu.processor_model, cpu.s.x87, op.imm != 0);
  } else if (x87) {
    cpu.s.x87 = X87State{};  // the initial configuration: as FNINIT, with zeros in the registers (SDM 1 13.6)
  }
  if (sse) {
    cpu.s.mxcsr = mxcsr_value;
    area.get_xmm(cpu.s, registers);  // zeros if they were not loaded
  }
  return true;
}

bool exec_ldmxcsr(SoftCpu& cpu, const Op& op) {
  uint32_t value = 0;
  if (!load_scalar<uint32_t, EaAny>(cpu, op, value)) return false;
  if ((value & ~mxcsr::writable) != 0) return raise_gp(cpu, 0);
  cpu.s.mxcsr = value;
  return true;
}
bool exec_stmxcsr(SoftCpu& cpu, const Op& op) { return store_scalar<uint32_t, EaAny>(cpu, op, cpu.s.mxcsr); }

// One thing runs at a time, and memory is always coherent.
bool exec_fence(SoftCpu&, const Op&) { return true; }

}  // namespace

Emit emit_sse_state(const SseForm& f) {
  if (f.insn.map != OpMap::map_0f || f.insn.opcode != 0xae || !f.is(SsePrefix::none)) return Emit::unknown;
  if (!f.memory()) {
    // LFENCE, MFENCE, SFENCE
    return f.insn.reg_field() >= 5 ? f.use(FpuClass::none, &op_call<exec_fence>) : Emit::unknown;
  }
  f.op.imm = f.rex_w() ? 1 : 0;
  switch (f.insn.reg_field()) {
    case 0: return f.use(FpuClass::fxsave, &op_call<exec_fxsave>);
    case 1: return f.use(FpuClass::fxsave, &op_call<exec_fxrstor>);
    case 2: return f.sse(&op_call<exec_ldmxcsr>);
    case 3: return f.sse(&op_call<exec_stmxcsr>);
    case 4: return f.use(FpuClass::none, &op_call<exec_xsave>);
    case 5: return f.use(FpuClass::none, &op_call<exec_xrstor>);
    default: return Emit::unknown;  // XSAVEOPT is not in the CPU model; CLFLUSH is no business of the FPU
  }
}

}  // namespace retrovisor::soft
