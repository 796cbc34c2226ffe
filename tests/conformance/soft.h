// Runs sequences in the soft engine: user mode of long mode, the same linear addresses and
// segments as the native side, and an IDT whose handlers halt.
#pragma once

#include <memory>

#include "tests/conformance/state.h"
#include "vmm/processor_model.h"
#include "vmm/engine.h"

namespace retrovisor::conformance {

class SoftRunner {
 public:
  // `ldt`: with the local descriptor table of segments.h.
  static Result<std::unique_ptr<SoftRunner>> create(bool ldt, ProcessorModel processor_model);
  ~SoftRunner();

  // Runs sequence `i` of the batch given to load(). A sequence that comes to no end is kLost.
  void load(const Batch& batch);
  void run(const State& start, Outcome& out);

  // Instructions retired so far by all sequences.
  uint64_t instructions() const { return instructions_; }

 private:
  struct Parts;
  SoftRunner();
  void build_guest();
  void read_state(State& out) const;

  std::unique_ptr<Parts> parts_;
  CpuState base_;  // what every sequence's state has in common
  ArenaBytes pristine_{};
  uint64_t instructions_ = 0;
};

}  // namespace retrovisor::conformance
