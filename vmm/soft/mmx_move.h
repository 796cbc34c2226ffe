// Moves of MMX registers, masked stores, EMMS.
#pragma once

#include "vmm/soft/sse_common.h"

namespace retrovisor::soft {

// Emit::unknown for what is not of this group.
Emit emit_mmx_move(const SseForm& f);

}  // namespace retrovisor::soft
