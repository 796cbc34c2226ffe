// Near branches, and how a handler that ends a block goes on with the next one.
#pragma once

#include "vmm/cpu/canonical.h"
#include "vmm/soft/code_cache.h"
#include "vmm/soft/emit.h"
#include "vmm/soft/soft_engine.h"

namespace retrovisor::soft {

// Jcc JMP CALL RET LOOPcc JrCXZ.
Emit emit_branch(const Insn& insn, Op& op);

// Do these two, one behind the other, become one op? They do in 64-bit code if the first is a CMP or TEST that compare_of() knows
// and the second a Jcc.
bool fuses(const Insn& compare, const Insn& branch);
// Makes `op`, which was made of the comparison, into one of both.
void fuse_compare_branch(const Insn& compare, const Insn& branch, Op& op);

// Ends a block that does not end in a branch: moves RIP behind it and goes on with the next block (op.imm: the Block).
RV_HANDLER op_fallthrough(SoftCpu* cpu, const Op* op);

// Enters `block`, unless it has more instructions than the limit leaves.
#define RV_ENTER(block_) \
  do { \
    Block* rv_block_ = (block_); \
    const int64_t rv_left_ = cpu->budget - rv_block_->count; \
    if (__builtin_expect(rv_left_ < 0, 0)) RV_LEAVE; \
    cpu->budget = rv_left_; \
    RV_GOTO(rv_block_->ops()); \
  } while (false)

// Goes on at s.rip (flat modes only: RIP is the linear address), through the jump cache.
#define RV_DISPATCH \
  do { \
    const uint64_t rv_rip_ = cpu->s.rip; \
    const JumpCacheEntry& rv_entry_ = cpu->translations->jump[jump_index(rv_rip_)]; \
    if (__builtin_expect(rv_entry_.rip == rv_rip_ && rv_entry_.stamp == cpu->jump_stamp[rv_rip_ >> 63], 1)) RV_ENTER(rv_entry_.block); \
    RV_LEAVE; \
  } while (false)

// Leaves `self` through exit `slot` (0: branch target, 1: fall-through); s.rip has been moved already.
#define RV_FOLLOW(self_, slot_) \
  do { \
    Block* rv_self_ = (self_); \
    Block* rv_next_ = rv_self_->link[slot_]; \
    if (__builtin_expect(rv_next_ != nullptr, 1)) RV_ENTER(rv_next_); \
    if ((rv_self_->linkable & (1u << (slot_))) != 0) { \
      cpu->chain_from = rv_self_; \
      cpu->chain_slot = (slot_); \
      RV_LEAVE; \
    } \
    RV_DISPATCH; \
  } while (false)

[[gnu::always_inline]] inline Block* block_of(const Op* op) { return reinterpret_cast<Block*>(static_cast<intptr_t>(op->imm)); }

}  // namespace retrovisor::soft
