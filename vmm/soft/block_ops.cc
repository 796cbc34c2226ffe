#include "vmm/soft/block_ops.h"

#include "vmm/soft/branch.h"
#include "vmm/soft/emit.h"
#include "vmm/soft/soft_engine.h"

namespace retrovisor::soft {
namespace {

// Not implemented, or nothing that there is: counted in the statistics.
bool exec_undefined(SoftCpu& cpu, const Op& op) {
  cpu.engine->count_unknown(cpu, instruction_rip(cpu, op));
  return raise_ud(cpu);
}
bool exec_invalid(SoftCpu& cpu, const Op&) { return raise_ud(cpu); }

// What the block says about the code in it.
void describe(const DecodedBlock& decoded, Emit last, Block& block) {
  const bool branches = last == Emit::branch;
  block.size = static_cast<uint16_t>(decoded.size());
  block.count = static_cast<uint16_t>(decoded.count());
  block.bound = branches || last == Emit::next;
  block.flow = decoded.last().flow;
  block.last_offset = decoded.last().offset;
  if (branches) block.target = decoded.last().target();
  if ((block.mode & block_mode::flat) == 0 || block.phys2 != Block::kOnePage) return;
  const auto in_page = static_cast<int64_t>(block.phys & ~kPageMask);
  if (branches && static_cast<uint64_t>(in_page + block.target) < kPageSize) block.linkable |= 1;
  if (static_cast<uint64_t>(in_page) + decoded.size() < kPageSize) block.linkable |= 2;
}

}  // namespace

unsigned make_ops(DecodedBlock& decoded, bool in_ram, Block& block, Op* ops) {
  const bool check_fpu = (block.mode & block_mode::fpu_trap) != 0;
  unsigned n = 0;
  Emit kind = Emit::next;
  for (unsigned i = 0; i < decoded.count(); ++i) {
    const DecodedInsn& d = decoded.instructions()[i];
    if (i > 0 && d.status == DecodeStatus::ok && fuses(decoded.instructions()[i - 1].insn, d.insn)) {
      fuse_compare_branch(decoded.instructions()[i - 1].insn, d.insn, ops[n - 1]);
      kind = Emit::branch;
      continue;
    }
    Op& op = ops[n++];
    prepare_op(d.insn, d.offset, op);
    op.remaining = static_cast<uint8_t>(i);  // turned round below
    FpuClass fpu = FpuClass::none;
    kind = d.status == DecodeStatus::ok ? emit(d.insn, fpu, op) : Emit::unknown;
    if (kind == Emit::unknown) {
      op.fn = in_ram && undefined_everywhere(d.insn) ? op_call<exec_invalid> : op_call<exec_undefined>;
      decoded.end_undefined(i);
      break;
    }
    RV_ASSERT((kind == Emit::next) == (d.flow == Flow::next));
    if (fpu != FpuClass::none && check_fpu) {  // the check goes first
      ops[n++] = op;
      op.fn = fpu_check_handler(fpu);
    }
  }
  for (unsigned i = 0; i < n; ++i) ops[i].remaining = static_cast<uint8_t>(decoded.count() - ops[i].remaining);
  if (kind == Emit::next) {
    Op& last = ops[n++];
    last = Op{};
    last.fn = op_fallthrough;
    last.ip_offset = static_cast<uint16_t>(decoded.size());
  }
  block.ops_count = static_cast<uint8_t>(n);
  describe(decoded, kind, block);
  return n;
}

}  // namespace retrovisor::soft
