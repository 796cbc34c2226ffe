// Runs sequences on the host CPU, in a child process that can do nothing but that.
#pragma once

#include <sys/types.h>

#include <memory>
#include <string>

#include "tests/conformance/state.h"
#include "vmm/result.h"

namespace retrovisor::conformance {

class NativeRunner {
 public:
  static Result<std::unique_ptr<NativeRunner>> create();
  ~NativeRunner();
  NativeRunner(const NativeRunner&) = delete;
  NativeRunner& operator=(const NativeRunner&) = delete;

  // Outcomes of the batch's sequences, valid until the next call. A sequence that hangs or kills the child is kLost; the
  // child is then started anew.
  Result<const Outcome*> run(const Batch& batch);

  unsigned children_lost() const { return children_lost_; }
  // Why there is no local descriptor table; empty if there is one.
  const std::string& ldt_missing() const { return ldt_missing_; }

 private:
  struct Shared;
  NativeRunner() = default;
  Result<void> start_child();
  void stop_child();
  // Waits until the child has finished or `ms` have passed without one sequence finishing.
  bool wait_for_child();
  [[noreturn]] void child_main();

  Shared* shared_ = nullptr;
  int code_fd_ = -1;
  int arena_fd_ = -1;
  uint8_t* code_ = nullptr;   // writable views of what the child maps at fixed addresses
  uint8_t* arena_ = nullptr;
  pid_t child_ = -1;
  unsigned children_lost_ = 0;
  std::string ldt_missing_;
};

// RDFSBASE and its like can be used on this host.
bool host_has_fsgsbase();

}  // namespace retrovisor::conformance
