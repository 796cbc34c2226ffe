// What a replay says when it is not the recorded run.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "vmm/result.h"
#include "vmm/types.h"

namespace retrovisor {

struct FieldDifference {
  std::string name;  // "cpu0.rip"
  std::string recorded;
  std::string replayed;
};

struct Divergence {
  enum class Found : uint8_t {
    digest,    // the states differ at a digest
    journal,   // an interrupt, timer, access... is another than the recorded one, or missing, or too many
    boundary,  // the machine asks the outside for something else than it did
    end,       // the run ends in another way, or elsewhere
  };
  Found found{};
  // The last position at which the replay was seen to be the recorded run, and the first at which it was not: the cause
  // is an instruction after the first and not after the second.
  Position good;
  Position bad;
  // Found::digest: what differs.
  bool cpu = false;
  bool memory = false;
  bool devices = false;
  std::vector<FieldDifference> fields;
  // Pages that differ (exact), or the pages among which a differing one was written by the replay (not exact).
  std::vector<uint64_t> pages;
  bool pages_exact = false;
  // Otherwise: the two events or ends.
  std::string recorded;
  std::string replayed;

  // Several lines, for people.
  std::string text() const;
  // One line.
  Error error() const;
};

}  // namespace retrovisor
