#include "analysis/linux/unwind.h"

#include <utility>

#include "vmm/cpu/registers.h"

namespace retrovisor {
namespace {


// struct pt_regs: fifteen registers, the error code or number of the system call, and the five that IRET takes.
constexpr std::array kSaved = {R15, R14, R13, R12, RBP, RBX, R11, R10, R9, R8, RAX, RCX, RDX, RSI, RDI};
constexpr uint64_t kIretFrame = 16 * 8;

// A call of the null pointer: the return address is on top of the stack.
constexpr OrcEntry kNull{8, 0, OrcRegister::sp, OrcRegister::undefined, OrcType::call};
// push rbp; mov rbp, rsp.
constexpr OrcEntry kFramePointer{16, -16, OrcRegister::bp, OrcRegister::prev_sp, OrcType::call};

std::optional<unsigned> number_of(OrcRegister r) {
  switch (r) {
    case OrcRegister::dx: return RDX;
    case OrcRegister::di: return RDI;
    case OrcRegister::bp: case OrcRegister::bp_indirect: return RBP;
    case OrcRegister::sp: case OrcRegister::sp_indirect: return RSP;
    case OrcRegister::r10: return R10;
    case OrcRegister::r13: return R13;
    case OrcRegister::undefined: case OrcRegister::prev_sp: break;
  }
  return std::nullopt;
}

uint64_t add(uint64_t base, int16_t offset) { return base + static_cast<uint64_t>(int64_t{offset}); }

}  // namespace

FrameRegisters FrameRegisters::of(const CpuState& state) {
  FrameRegisters out;
  out.ip = state.rip;
  for (unsigned i = 0; i < out.gpr.size(); ++i) out.gpr[i] = state.gpr[i];
  out.user = state.cpl() == 3;
  return out;
}

// A struct pt_regs at `at`, or its last five fields alone.
UnwindStep Unwinder::by_registers(const FrameRegisters& frame, uint64_t at, bool all) const {
  UnwindStep out;
  const uint64_t iret = all ? at + kIretFrame : at;
  const auto ip = memory_.get<uint64_t>(iret), cs = memory_.get<uint64_t>(iret + 8), sp = memory_.get<uint64_t>(iret + 24);
  if (!ip || !cs || !sp) {
    out.end = UnwindEnd::unreadable;
    return out;
  }
  out.cfa = iret + 40;
  // Behind an interrupt's own frame the interrupted function's registers are as they are, but for those that are saved.
  out.caller.gpr = frame.gpr;
  if (all) {
    for (size_t i = 0; i < kSaved.size(); ++i) out.caller.gpr[kSaved[i]] = memory_.get<uint64_t>(at + 8 * i);
  }
  out.caller.gpr[RSP] = *sp;
  out.caller.ip = *ip;
  out.caller.exact = true;
  out.caller.user = (*cs & 3) == 3;
  out.end = out.caller.user ? UnwindEnd::user : UnwindEnd::none;
  return out;
}

UnwindStep Unwinder::step(const FrameRegisters& frame) const {
  UnwindStep out;
  const auto ends = [&out](UnwindEnd end) {
    out.end = end;
    return out;
  };
  if (frame.user) return ends(UnwindEnd::unknown);
  const auto found = frame.ip == 0 ? kNull : find_(frame.code());
  out.by_frame_pointer = !found;
  const OrcEntry orc = found.value_or(kFramePointer);
  if (orc.type == OrcType::end_of_stack) return ends(UnwindEnd::outermost);
  if (orc.type == OrcType::undefined) return ends(UnwindEnd::unknown);

  const auto number = number_of(orc.sp_reg);
  if (!number || !frame.gpr[*number]) return ends(UnwindEnd::unknown);
  uint64_t sp = *frame.gpr[*number];
  const bool indirect = orc.sp_reg == OrcRegister::sp_indirect || orc.sp_reg == OrcRegister::bp_indirect;
  // Only the offsets of SP and BP are used; behind an indirection it counts from what is found there where SP led to it.
  if (orc.sp_reg == OrcRegister::sp || orc.sp_reg == OrcRegister::bp || orc.sp_reg == OrcRegister::bp_indirect) sp = add(sp, orc.sp_offset);
  if (indirect) {
    const auto there = memory_.get<uint64_t>(sp);
    if (!there) return ends(UnwindEnd::unreadable);
    sp = *there;
    if (orc.sp_reg == OrcRegister::sp_indirect) sp = add(sp, orc.sp_offset);
  }

  if (orc.type != OrcType::call) {
    out = by_registers(frame, sp, orc.type == OrcType::regs);
    return out;
  }
  const auto ip = memory_.get<uint64_t>(sp - 8);
  if (!ip) return ends(UnwindEnd::unreadable);
  out.cfa = sp;
  out.caller.ip = *ip;
  out.caller.exact = false;
  out.caller.gpr[RSP] = sp;
  switch (orc.bp_reg) {
    case OrcRegister::prev_sp: out.caller.gpr[RBP] = memory_.get<uint64_t>(add(sp, orc.bp_offset)); break;
    case OrcRegister::bp:
      if (frame.gpr[RBP]) out.caller.gpr[RBP] = memory_.get<uint64_t>(add(*frame.gpr[RBP], orc.bp_offset));
      break;
    default: out.caller.gpr[RBP] = frame.gpr[RBP]; break;  // not touched
  }
  // Through this the stack grows towards its beginning; only a stack switch leads elsewhere, and that is indirect.
  if (!indirect && sp <= frame.sp() && frame.sp() != 0) return ends(UnwindEnd::unreadable);
  return out;
}

std::vector<FrameRegisters> Unwinder::frames(const FrameRegisters& frame, size_t most, UnwindEnd* end) const {
  std::vector<FrameRegisters> out{frame};
  UnwindEnd last = UnwindEnd::none;
  while (out.size() < most) {
    UnwindStep s = step(out.back());
    last = s.end;
    if (s.end == UnwindEnd::none || s.end == UnwindEnd::user) {
      out.back().cfa = s.cfa;
      out.push_back(s.caller);
    }
    if (s.end != UnwindEnd::none) break;
  }
  if (end != nullptr) *end = last;
  return out;
}

}  // namespace retrovisor
