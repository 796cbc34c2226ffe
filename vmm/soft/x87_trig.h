// FSIN FCOS FPTAN FSINCOS: computed as x87_functions.h says.
#pragma once

#include "vmm/soft/x87_state.h"

namespace retrovisor::soft {

// Flags hold C2 if |x| is 2^63 or more: then nothing was computed.
X87Result x87_fsin(const X87Register& x, uint16_t control);
X87Result x87_fcos(const X87Register& x, uint16_t control);
X87Result x87_fptan(const X87Register& x, uint16_t control);
struct X87SinCos {
  X87Register sine;
  X87Register cosine;
  uint16_t flags;  // of both; C1 is that of the cosine
};
X87SinCos x87_fsincos(const X87Register& x, uint16_t control);

}  // namespace retrovisor::soft
