// Compares what the two sides made of a sequence.
#pragma once

#include <string>

#include "tests/conformance/sequence.h"

namespace retrovisor::conformance {

// Empty if the outcomes agree in everything the architecture defines; else the fields that differ, one per line.
std::string differences(const Sequence& sequence, const Outcome& native, const Outcome& soft);

// The item that caused the exception; null if none did, or if it was a trap.
const Item* stopped_at(const Sequence& sequence, const Outcome& outcome);

// "ended", "#PF(0x6) at 0x20000fff", ...
std::string describe_end(const Outcome& outcome);
const char* vector_name(uint8_t vector);

}  // namespace retrovisor::conformance
