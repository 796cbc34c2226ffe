// From a decoded block to the interpreter's ops.
#pragma once

#include "vmm/soft/code_cache.h"
#include "vmm/soft/decoded_block.h"
#include "vmm/soft/op.h"

namespace retrovisor::soft {

// An instruction may take two, and one more goes on with the next block.
inline constexpr unsigned kMaxBlockOps = 2 * kMaxBlockInsns + 1;

// Makes the ops of `decoded`, which is not empty; returns how many. `block`: phys, phys2 and mode are set, the rest of what it says
// about its code is filled. An instruction that no emitter knows ends both blocks (DecodedBlock::end_undefined). `in_ram`: the
// code does not come from where no memory is, so #UD may be the guest's own doing.
unsigned make_ops(DecodedBlock& decoded, bool in_ram, Block& block, Op* ops);

}  // namespace retrovisor::soft
