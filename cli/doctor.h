// `retrovisor doctor` with the host's answers from elsewhere, for tests.
#pragma once

#include "cli/auto_engine.h"

namespace retrovisor::cli {

// Prints the report; returns the exit code.
int doctor(bool json, const EngineAdvice& advice = {});

}  // namespace retrovisor::cli
