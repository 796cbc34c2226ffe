// Fixed sequences that are run before the random ones: what was once wrong, and corners that random draws seldom reach.
#pragma once

#include <vector>

#include "tests/conformance/sequence.h"

namespace retrovisor::conformance {

struct Regression {
  const char* name;
  Sequence sequence;
  bool needs_ldt = false;
};
std::vector<Regression> regressions();

}  // namespace retrovisor::conformance
