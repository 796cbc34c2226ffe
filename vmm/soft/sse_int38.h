// Integer instructions in map 0F38.
#pragma once

#include "vmm/soft/sse_common.h"

namespace retrovisor::soft {

// Emit::unknown for what is not of this group.
Emit emit_sse_int38(const SseForm& f);

}  // namespace retrovisor::soft
