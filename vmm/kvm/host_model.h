// Which processor model the guests that run natively on this host see.
#pragma once

#include <string_view>

#include "vmm/processor_model.h"

namespace retrovisor::kvm {

// The way of this host's processor. `model` where none is known that describes it: a run in the soft engine may then differ
// from one on the processor in flags that the manuals leave undefined.
ProcessorModel host_processor_model();

// The same by the vendor's name as CPUID leaf 0 gives it, and whether BSF and BSR change no flag but ZF.
ProcessorModel processor_model_of(std::string_view vendor, bool scans_keep_flags);

}  // namespace retrovisor::kvm
