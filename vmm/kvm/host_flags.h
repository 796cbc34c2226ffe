// What guests that run natively on this host see of undefined flags.
#pragma once

#include <string_view>

#include "vmm/undefined_flags.h"

namespace retrovisor::kvm {

// The way of this host's processor. `model` where none is known that describes it: a run in the soft engine may then differ
// from one on the processor in flags that the manuals leave undefined.
UndefinedFlags host_undefined_flags();

// The same by the vendor's name as CPUID leaf 0 gives it.
UndefinedFlags undefined_flags_of(std::string_view vendor);

}  // namespace retrovisor::kvm
