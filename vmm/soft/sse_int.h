// Integer arithmetic and logic of MMX and SSE2 in map 0F.
#pragma once

#include "vmm/soft/sse_common.h"

namespace retrovisor::soft {

// Emit::unknown for what is not of this group.
Emit emit_sse_int(const SseForm& f);

}  // namespace retrovisor::soft
