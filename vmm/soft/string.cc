// MOVS CMPS STOS LODS SCAS with and without REP. Each iteration of a REP is one position: one retired instruction.
#include "vmm/soft/string.h"

#include <algorithm>

#include "vmm/soft/pick.h"
#include "vmm/soft/soft_engine.h"

namespace retrovisor::soft {
namespace {

enum class Str : uint8_t { movs, cmps, stos, lods, scas };
enum class Rep : uint8_t { none, rep, repe, repne };

// How registers wrap, and where the source is.
struct Form {
  uint64_t mask;   // of the address size
  SegReg segment;  // of the source
  int64_t step;    // +size or -size, by DF
};

template <class T>
Form form_of(const SoftCpu& cpu, const Op& op) {
  static constexpr uint64_t kMasks[3] = {0xffff, 0xffffffff, ~uint64_t{0}};
  const int64_t step = (cpu.s.rflags & flag::DF) != 0 ? -static_cast<int64_t>(sizeof(T)) : static_cast<int64_t>(sizeof(T));
  return {kMasks[op.ea >> ea::size_shift & ea::size_mask], static_cast<SegReg>(op.ea & ea::seg_mask), step};
}

// Changes an index or count register: 16-bit addresses keep the upper bits, 32-bit ones clear them (SDM 1 3.4.1.1).
void set_masked(uint64_t& r, uint64_t v, uint64_t mask) { r = mask == 0xffff ? (r & ~mask) | (v & mask) : v & mask; }

// One iteration; registers move only if it succeeds.
template <Str S, class T>
bool iterate(SoftCpu& cpu, const Op& op, const Form& f) {
  uint64_t& rsi = cpu.s.gpr[RSI];
  uint64_t& rdi = cpu.s.gpr[RDI];
  T v;
  const auto source = [&](T& out) {
    return load(&cpu, &op, segment_address(cpu, f.segment, rsi & f.mask, sizeof(T), Access::read), out);
  };
  Op dest_op = op;
  dest_op.ea = static_cast<uint8_t>((op.ea & ~ea::seg_mask) | ES);
  if constexpr (S == Str::movs) {
    if (!source(v)) return false;
    if (!store(&cpu, &dest_op, segment_address(cpu, ES, rdi & f.mask, sizeof(T), Access::write), v)) return false;
  } else if constexpr (S == Str::stos) {
    v = get<T>(&cpu, slot_of(RAX));
    if (!store(&cpu, &dest_op, segment_address(cpu, ES, rdi & f.mask, sizeof(T), Access::write), v)) return false;
  } else if constexpr (S == Str::lods) {
    if (!source(v)) return false;
    set<T>(&cpu, slot_of(RAX), v);
  } else {
    // CMPS reads its destination first (measured: AMD and Intel alike).
    T a;
    if (!load(&cpu, &dest_op, segment_address(cpu, ES, rdi & f.mask, sizeof(T), Access::read), v)) return false;
    if constexpr (S == Str::cmps) {
      if (!source(a)) return false;
    } else {
      a = get<T>(&cpu, slot_of(RAX));
    }
    cpu.cc = alu<Alu::cmp>(a, v, 0);
  }
  if constexpr (S != Str::stos && S != Str::scas) set_masked(rsi, rsi + static_cast<uint64_t>(f.step), f.mask);
  if constexpr (S != Str::lods) set_masked(rdi, rdi + static_cast<uint64_t>(f.step), f.mask);
  return true;
}

template <Str S, class T>
bool exec_string(SoftCpu& cpu, const Op& op) {
  return iterate<S, T>(cpu, op, form_of<T>(cpu, op));
}

// The longest forward run of MOVS or STOS that stays within pages the TLB allows: done at once. Returns iterations done.
template <Str S, class T>
uint64_t bulk(SoftCpu& cpu, const Form& f, uint64_t most) {
  if (f.step < 0 || f.mask != ~uint64_t{0} || f.segment >= FS) return 0;
  const uint64_t dst = cpu.s.gpr[RDI];
  const TlbEntry& d = cpu.tlb->entry[(dst >> kPageShift) % kTlbEntries];
  if (d.write_tag != (dst & kPageMask)) return 0;
  uint64_t n = std::min(most, (kPageSize - (dst & ~kPageMask)) / sizeof(T));
  auto* to = reinterpret_cast<uint8_t*>(dst + d.addend);
  if constexpr (S == Str::movs) {
    const uint64_t src = cpu.s.gpr[RSI];
    const TlbEntry& s = cpu.tlb->entry[(src >> kPageShift) % kTlbEntries];
    if (s.read_tag != (src & kPageMask)) return 0;
    n = std::min(n, (kPageSize - (src & ~kPageMask)) / sizeof(T));
    const auto* from = reinterpret_cast<const uint8_t*>(src + s.addend);
    const size_t bytes = n * sizeof(T);
    // A destination just above the source repeats what was written: element by element.
    if (to > from && to < from + bytes) {
      for (uint64_t i = 0; i < n; ++i) {
        T v;
        std::memcpy(&v, from + i * sizeof(T), sizeof(T));
        std::memcpy(to + i * sizeof(T), &v, sizeof(T));
      }
    } else {
      std::memmove(to, from, bytes);
    }
    cpu.s.gpr[RSI] += bytes;
  } else {
    const T v = get<T>(&cpu, slot_of(RAX));
    if constexpr (sizeof(T) == 1) {
      std::memset(to, v, n);
    } else {
      for (uint64_t i = 0; i < n; ++i) std::memcpy(to + i * sizeof(T), &v, sizeof(T));
    }
  }
  cpu.s.gpr[RDI] += n * sizeof(T);
  cpu.s.gpr[RCX] -= n;
  return n;
}

// Iterations are left when the instruction is left, for an interrupt, a trap, or a run that ends here. What shows of that:
//   RF     set, so that the instruction's own breakpoint does not hit again (SDM 3B 17.3.1.1; measured: Intel 0xcf). AMD's processors
//          leave RF as it was before the instruction until the last iteration is done (measured: Zen 3). But what interrupts a guest
//          under KVM comes behind an iteration that the soft engine has done, or KVM's emulator, which sets it on any host; so
//          ProcessorModel::amd differs in traps alone (SoftEngine::step_slowly).
//   flags  of CMPS and SCAS: those of the iteration (measured: Zen 3; the operation of SDM 2 says the same, so it is the
//          model's), but on Intel's those of before the instruction, until the last iteration is done (measured: 0xcf).
void leave_unfinished(SoftCpu& cpu, uint32_t flags_before) {
  cpu.s.rflags |= flag::RF;
  cpu.slow = true;
  if (cpu.processor_model == ProcessorModel::intel) cpu.cc = flags_before;
}

// Runs as many iterations as the limit allows. s.rip stays at the instruction while iterations are left.
template <Str S, class T, Rep R>
bool exec_rep(SoftCpu& cpu, const Op& op) {
  const Form f = form_of<T>(cpu, op);
  uint64_t& rcx = cpu.s.gpr[RCX];
  if ((rcx & f.mask) == 0) {
    set_masked(rcx, 0, f.mask);
    return advance_rip(cpu, op);
  }
  // The first iteration was charged on entry of the block; each further one is charged before it runs, so that the clock
  // is right if it reaches a device. (A device access takes the budget away, see mmio(): then this stops, too.)
  const uint64_t code_changes = cpu.engine->code_changes();
  const uint32_t flags_before = cpu.cc;
  const auto unfinished = [&] { leave_unfinished(cpu, flags_before); };
  for (bool first = true;; first = false) {
    const uint64_t room = (cpu.one_iteration ? 0 : static_cast<uint64_t>(cpu.budget)) + (first ? 1 : 0);
    if (room == 0) {
      unfinished();
      return true;
    }
    uint64_t n = 0;
    if constexpr (S == Str::movs || S == Str::stos) n = bulk<S, T>(cpu, f, std::min(rcx & f.mask, room));
    if (n != 0) {
      cpu.budget -= static_cast<int64_t>(n) - (first ? 1 : 0);
    } else {
      if (!first) --cpu.budget;
      if (!iterate<S, T>(cpu, op, f)) {  // call_end() takes back the charge of this iteration
        if (!first) unfinished();
        return false;
      }
      set_masked(rcx, rcx - 1, f.mask);
    }
    bool finished = (rcx & f.mask) == 0;
    if constexpr (S == Str::cmps || S == Str::scas) finished = finished || ((cpu.cc & cc::ZF) != 0) != (R == Rep::repe);
    if (finished) return advance_rip(cpu, op);
    // The iteration may have written this very instruction: it is fetched again then, as if the run had been cut here.
    if (cpu.engine->code_changes() != code_changes) {
      unfinished();
      return true;
    }
  }
}

template <Str S>
Emit string_op(const Insn& insn, Op& op, unsigned size) {
  if (insn.rep == 0) return emit_as(op, pick_size(size, []<class T>() -> Handler { return op_call<exec_string<S, T>>; }));
  const bool repe = insn.rep == 0xf3;
  return emit_as(op, pick_size(size, [&]<class T>() -> Handler {
    if constexpr (S == Str::cmps || S == Str::scas)
      return repe ? op_call_end<exec_rep<S, T, Rep::repe>> : op_call_end<exec_rep<S, T, Rep::repne>>;
    else
      return op_call_end<exec_rep<S, T, Rep::rep>>;
  }), Emit::end);
}

}  // namespace

Emit emit_string(const Insn& insn, Op& op) {
  if (insn.map != OpMap::one_byte || insn.lock) return Emit::unknown;
  const unsigned size = pair_size(insn);
  // The source is DS:rSI unless overridden; the decoder knows of no memory operand here.
  const unsigned segment = insn.segment_override == kNoRegister ? static_cast<unsigned>(DS) : insn.segment_override;
  op.ea = static_cast<uint8_t>((op.ea & ~ea::seg_mask) | segment);
  switch (insn.opcode) {
    case 0xa4: case 0xa5: return string_op<Str::movs>(insn, op, size);
    case 0xa6: case 0xa7: return string_op<Str::cmps>(insn, op, size);
    case 0xaa: case 0xab: return string_op<Str::stos>(insn, op, size);
    case 0xac: case 0xad: return string_op<Str::lods>(insn, op, size);
    case 0xae: case 0xaf: return string_op<Str::scas>(insn, op, size);
    default: return Emit::unknown;
  }
}

}  // namespace retrovisor::soft
