// Says how a machine's state differs from a recorded digest.
#pragma once

#include "record/digest_capture.h"
#include "replay/divergence.h"
#include "traces/format.h"
#include "vmm/machine/machine.h"

namespace retrovisor {

// `now` is the machine's digest, just taken, and differs from the recorded one. `sketch`, updated for it, also saw the
// digest before, which was the recorded one. Sets everything in the result but `good`.
Divergence compare_states(Machine& machine, const StateDigest& now, const MemorySketch& sketch,
                          const DigestRecord& recorded);

}  // namespace retrovisor
