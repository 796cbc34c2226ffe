// Instructions with more than one thing wrong with them, or whose accesses lie on several pages: which exception comes, CR2,
// and what has been done before it differ between processors.
#pragma once

#include <string>
#include <vector>

#include "tests/conformance/sequence.h"

namespace retrovisor::conformance {

struct FaultCase {
  std::string name;
  Sequence sequence;
};
std::vector<FaultCase> fault_cases();

// What the arena holds before each: every 8 bytes another value.
void fill_fault_arena(ArenaBytes& out);

// What came of a case, on one line: the exception, then registers and words of memory that are other than before.
std::string describe_fault(const FaultCase& c, const ArenaBytes& before, const Outcome& outcome);

}  // namespace retrovisor::conformance
