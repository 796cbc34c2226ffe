#include "cli/auto_engine.h"

namespace retrovisor::cli {

std::string name_of_choice(const kvm::EngineChoice& choice) { return choice.kvm ? "kvm" : "soft"; }

std::string engine_named(const GuestOptions& guest, const LiveRunOptions& live, bool needs_soft, const EngineAdvice& advice) {
  if (guest.engine != "auto") return guest.engine;
  needs_soft = needs_soft || live.deterministic || !live.gdb.empty() || !guest.processor_model.empty() || guest.vcpus > 1;
  if (needs_soft || !advice.abilities.tried_on_hardware) return "soft";
  return name_of_choice(kvm::choose_engine(advice.probe(), advice.abilities));
}

}  // namespace retrovisor::cli
