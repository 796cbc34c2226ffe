// PCMPxSTRx, CRC32, POPCNT.
#pragma once

#include "vmm/soft/sse_common.h"

namespace retrovisor::soft {

// Emit::unknown for what is not of this group.
Emit emit_sse_string(const SseForm& f);

}  // namespace retrovisor::soft
