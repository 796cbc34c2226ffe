// The account that a search for the last change of bytes keeps of them: what was seen to be written must be what memory holds.
#pragma once

#include <optional>
#include <utility>
#include <vector>

#include "replay/checkpoint_set.h"
#include "replay/timeline_impl.h"

namespace retrovisor {

class TimelineImpl::ByteCheck {
 public:
  // The machine stands where the search begins; `asker` says with which tables seen_at is meant.
  ByteCheck(Machine& machine, const std::vector<ByteWatch>& bytes, const CpuState& asker);

  // Around a run from the machine's position to where what is known so far begins. False: the bytes changed unseen, between
  // `last` and `below`.
  void begin() { before_ = now_ = read(); }
  bool end(Position last, Position below);
  // During the run: memory holds what was written.
  void wrote(const Observation& o);
  // The stretch from `from` to `below` is passed over. False: the bytes changed there all the same.
  bool agrees(const PageStore& store, const Checkpoint& from, Position below);

  bool led_there(const Observation& o) const;
  const std::optional<std::pair<Position, Position>>& unseen() const { return unseen_; }

 private:
  using Values = std::vector<std::vector<uint8_t>>;  // of each range
  Values read() const;

  Machine& m_;
  const std::vector<ByteWatch>& bytes_;
  CpuState asker_;
  Values known_;   // where what is known of so far begins
  Values before_;  // where the run began
  Values now_;     // of the run, as seen
  std::optional<std::pair<Position, Position>> unseen_;
};

}  // namespace retrovisor
