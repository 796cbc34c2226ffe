// Shuffles, blends, insertions and extractions.
#pragma once

#include "vmm/soft/sse_common.h"

namespace retrovisor::soft {

// Emit::unknown for what is not of this group.
Emit emit_sse_shuffle(const SseForm& f);

}  // namespace retrovisor::soft
