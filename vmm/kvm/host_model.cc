#include "vmm/kvm/host_model.h"

#include "vmm/kvm/progress_counter.h"

namespace retrovisor::kvm {

ProcessorModel host_processor_model() { return processor_model_of(host_processor().vendor); }

ProcessorModel processor_model_of(std::string_view vendor) {
  // Hygon's processors have Zen cores.
  if (vendor == "AuthenticAMD" || vendor == "HygonGenuine") return ProcessorModel::amd;
  if (vendor == "GenuineIntel") return ProcessorModel::intel;
  return ProcessorModel::model;
}

}  // namespace retrovisor::kvm
