// What an engine can do that runs instruction by instruction: stop behind any one of them, and tell what they do.
#pragma once

#include <vector>

#include "vmm/engine.h"
#include "vmm/observer.h"

namespace retrovisor {

// What code has touched, as linear pages (address / kPageSize) in whatever address space was current; ascending.
struct TouchedPages {
  std::vector<uint64_t> executed;
  std::vector<uint64_t> written;   // and perhaps some that could have been written without a further look
  std::vector<uint64_t> accessed;  // read or written
};

class Stepper {
 public:
  virtual ~Stepper() = default;
  // Engine::run() for at most `count` instructions, whatever positions count.
  virtual EngineStop run_instructions(Vcpu& vcpu, uint64_t count) = 0;
  // Exceptions and interrupts delivered since the clock came to its position (traps of the instruction before are no part of
  // that). Forgotten by Engine::state_changed().
  virtual uint64_t deliveries() = 0;
  // Engine::run() also returns, with EngineStop::yield, once deliveries() is `count`; 0: it does not.
  virtual void yield_behind(uint64_t count) = 0;
  // From here on tells `observers` what they want: call again when that has changed. They outlive the engine, or are replaced.
  virtual void observe(Observers& observers) = 0;
  // Keeps account of the pages that code touches; off by default.
  virtual void track_touched(bool on) = 0;
  // The pages touched since the last call. Never fewer than were.
  virtual TouchedPages take_touched() = 0;
};

}  // namespace retrovisor
