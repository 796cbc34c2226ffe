#include "vmm/kvm/host_flags.h"

#include "vmm/kvm/progress_counter.h"

namespace retrovisor::kvm {

UndefinedFlags host_undefined_flags() { return undefined_flags_of(host_processor().vendor); }

UndefinedFlags undefined_flags_of(std::string_view vendor) {
  // Hygon's processors have Zen cores.
  return vendor == "AuthenticAMD" || vendor == "HygonGenuine" ? UndefinedFlags::amd : UndefinedFlags::model;
}

}  // namespace retrovisor::kvm
