// What the process tells its caller. Documented in the help of every command and in README.md: append only.
#pragma once

#include "vmm/result.h"

namespace retrovisor::cli {

enum ExitCode : int {
  kFine = 0,
  kFailed = 1,  // the host said no: a file, memory, a full disk
  kBadArguments = 2,
  kDivergence = 3,   // a replay is not the recorded run
  kBadTrace = 4,     // a trace is damaged, not a trace, or of an unknown version
  kGuestCrash = 5,   // with --fail-on-crash: panic, triple fault, or stuck in exceptions
  kBadImage = 6,     // kernel, initrd or module is malformed or does not fit
  kUnsupported = 7,  // this build or host cannot do it
  kIdle = 8,         // run or record: the guest only waits, and no input can come (--idle-limit)
  kTimeLimit = 124,  // --timeout was reached (as timeout(1) says it)
};

inline constexpr char kExitCodeHelp[] =
    "Exit codes: 0 fine, 1 host error (file, memory, disk), 2 bad arguments, 3 replay diverged, 4 bad trace,\n"
    "5 guest crashed (with --fail-on-crash), 6 bad kernel or initrd, 7 not supported here,\n"
    "8 the guest waits and no input can come (--idle-limit), 124 --timeout reached.";

constexpr int exit_code(ErrorCode code) {
  switch (code) {
    case ErrorCode::bad_argument: return kBadArguments;
    case ErrorCode::bad_image: return kBadImage;
    case ErrorCode::bad_trace: return kBadTrace;
    case ErrorCode::divergence: return kDivergence;
    case ErrorCode::io: return kFailed;
    case ErrorCode::unsupported: return kUnsupported;
  }
  return kFailed;
}

}  // namespace retrovisor::cli
