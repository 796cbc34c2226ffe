// Which engine `--engine=auto` is. One decision: live runs take it, and `retrovisor doctor` tells it.
#pragma once

#include <functional>
#include <string>

#include "cli/options.h"
#include "vmm/kvm/probe.h"

namespace retrovisor::cli {

// Whom to ask what the host can do, and what the engine makes of it.
struct EngineAdvice {
  std::function<kvm::KvmProbe()> probe = [] { return kvm::probe_kvm(); };
  kvm::EngineAbilities abilities = kvm::kEngineAbilities;
};

// The name that --engine=NAME stands for: NAME itself, unless it is auto. Auto is what kvm::choose_engine() says; but soft, without
// asking the host, where that is known already: for runs that want something only the soft engine has (a debugger, determinism, a
// processor model, several vCPUs; `needs_soft`: another thing), and while nobody has tried this engine on hardware.
std::string engine_named(const GuestOptions& guest, const LiveRunOptions& live, bool needs_soft = false,
                         const EngineAdvice& advice = {});

// "kvm" or "soft".
std::string name_of_choice(const kvm::EngineChoice& choice);

}  // namespace retrovisor::cli
