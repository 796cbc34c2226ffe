// Entry to the MMX and SSE groups.
#include "vmm/soft/emit_sse.h"

#include "vmm/cpu/canonical.h"
#include "vmm/soft/mmx_move.h"
#include "vmm/soft/sse_common.h"
#include "vmm/soft/sse_convert.h"
#include "vmm/soft/sse_fp.h"
#include "vmm/soft/sse_fp_misc.h"
#include "vmm/soft/sse_int.h"
#include "vmm/soft/sse_int38.h"
#include "vmm/soft/sse_move.h"
#include "vmm/soft/sse_shuffle.h"
#include "vmm/soft/sse_state.h"
#include "vmm/soft/sse_string.h"

namespace retrovisor::soft {

void sse_misaligned(SoftCpu& cpu, const Op& op, uint64_t linear, Access access) {
  if (!is_canonical(linear)) {
    // Not canonical, or kFaultAddress: mem_access raises (or keeps) the fault of the address.
    Xmm none;
    if (!mem_access(cpu, op, linear, &none, sizeof none, access)) return;
  }
  raise_gp(cpu, 0);
}

Emit emit_sse(const Insn& insn, Op& op, FpuClass& fpu) {
  if (insn.lock || insn.map == OpMap::one_byte) return Emit::unknown;
  SsePrefix prefix = insn.prefix66 ? SsePrefix::p66 : SsePrefix::none;
  if (insn.rep == 0xf3) prefix = SsePrefix::f3;
  if (insn.rep == 0xf2) prefix = SsePrefix::f2;
  const SseForm form{insn, op, fpu, prefix};

  using Group = Emit (*)(const SseForm&);
  static constexpr Group kGroups[] = {
      emit_sse_move,    emit_sse_int,     emit_sse_int38, emit_sse_shuffle, emit_sse_fp,
      emit_sse_convert, emit_sse_fp_misc, emit_mmx_move,  emit_sse_string,  emit_sse_state,
  };
  for (const Group group : kGroups) {
    const Emit result = group(form);
    if (result != Emit::unknown) return result;
  }
  return Emit::unknown;
}

}  // namespace retrovisor::soft
