#include "replay/checkpoint_set.h"

#include <algorithm>
#include <iterator>

#include "vmm/assert.h"

namespace retrovisor {
namespace {

constexpr uint64_t kMapNode = 48;  // what std::map adds to each element, about

}  // namespace

uint64_t Checkpoint::memory() const {
  const uint64_t events = boundary.feed.pending ? boundary.feed.pending->data.capacity() : 0;
  return sizeof *this + kMapNode + cpu.capacity() + devices.capacity() + events +
         (touched != nullptr ? sizeof *touched + touched->memory() : 0);
}

std::vector<Position> CheckpointSet::positions() const {
  std::vector<Position> out;
  for (const auto& [position, unused] : all_) out.push_back(Position(position));
  return out;
}

const Checkpoint& CheckpointSet::before(Position p) const {
  auto it = all_.upper_bound(p.value);
  RV_ASSERT(it != all_.begin());
  return std::prev(it)->second;
}

Checkpoint& CheckpointSet::lasting(Position p) {
  auto it = all_.upper_bound(p.value);
  do {
    RV_ASSERT(it != all_.begin());
    --it;
  } while (it->second.temporary);
  return it->second;
}

const Checkpoint& CheckpointSet::lasting_before(Position p) const {
  auto it = all_.upper_bound(p.value);
  do {
    RV_ASSERT(it != all_.begin());
    --it;
  } while (it->second.temporary);
  return it->second;
}

Position CheckpointSet::lasting_after(Position p) const {
  for (auto it = all_.upper_bound(p.value); it != all_.end(); ++it)
    if (!it->second.temporary) return it->second.position;
  return kNoPosition;
}

CheckpointSet::Map::iterator CheckpointSet::least_missed(Position focus, bool only_temporary) {
  auto best = all_.end();
  double best_score = 0;
  if (all_.size() < 3) return best;
  // The first stays, and the last: behind it nothing is known.
  for (auto it = std::next(all_.begin()); std::next(it) != all_.end(); ++it) {
    if (only_temporary && !it->second.temporary) continue;
    const double gap = static_cast<double>(std::next(it)->first - std::prev(it)->first);
    const uint64_t distance = it->first > focus.value ? it->first - focus.value : focus.value - it->first;
    const double score = gap / static_cast<double>(std::max<uint64_t>(distance, 1));
    if (best != all_.end() && score >= best_score) continue;
    best = it;
    best_score = score;
  }
  return best;
}

void CheckpointSet::drop(Map::iterator it) {
  states_ -= it->second.memory();
  if (it->second.temporary) {
    --temporary_;
  } else {
    Checkpoint& p = lasting(it->second.position - 1);
    states_ -= p.memory();
    if (it->second.touched != nullptr && p.known_to >= it->second.position) {
      if (p.touched == nullptr) p.touched = std::make_unique<Touched>();
      p.touched->add(*it->second.touched);
      p.known_to = std::max(p.known_to, it->second.known_to);
    }
    states_ += p.memory();
  }
  all_.erase(it);
}

void CheckpointSet::remove(Position p) {
  const auto it = all_.find(p.value);
  RV_ASSERT(it != all_.end() && it != all_.begin());
  drop(it);
}

bool CheckpointSet::make_room(uint64_t pages, uint64_t state, Position focus) {
  const uint64_t most = pages * (PageStore::kBytesPerPage + maps_.most_per_page()) + state;
  if (most > budget_) return false;
  while (memory() + most > budget_ || all_.size() >= kMost || temporary_ >= kMostTemporary) {
    const auto it = least_missed(focus, temporary_ >= kMostTemporary);
    if (it == all_.end()) return false;
    drop(it);
  }
  return true;
}

void CheckpointSet::add(Checkpoint checkpoint) {
  const Position at = checkpoint.position;
  if (checkpoint.temporary)
    ++temporary_;
  else
    divide_stretch(checkpoint);
  states_ += checkpoint.memory();
  const bool added = all_.emplace(at.value, std::move(checkpoint)).second;
  RV_ASSERT(added);
}

// `at` is about to be a lasting checkpoint: what is known of the stretch from the one before on holds for both parts.
void CheckpointSet::divide_stretch(Checkpoint& at) {
  at.known_to = at.position;
  if (all_.empty() || at.position <= all_.begin()->second.position) return;
  Checkpoint& p = lasting(at.position - 1);
  if (p.known_to <= at.position) return;
  at.touched = std::make_unique<Touched>(*p.touched);
  at.known_to = std::exchange(p.known_to, at.position);
}

bool CheckpointSet::keep(Position p) {
  const auto it = all_.find(p.value);
  if (it == all_.end()) return false;
  Checkpoint& c = it->second;
  if (!c.temporary) return true;
  states_ -= c.memory();
  divide_stretch(c);
  c.temporary = false;
  --temporary_;
  states_ += c.memory();
  return true;
}

void CheckpointSet::extend(Position begin, const StretchPages& pages, EventMask events, Position to) {
  const auto it = all_.find(begin.value);
  RV_ASSERT(it != all_.end());
  Checkpoint& c = it->second;
  states_ -= c.memory();
  if (c.touched == nullptr) c.touched = std::make_unique<Touched>();
  c.touched->add(pages, events);
  c.known_to = std::max(c.known_to, to);
  states_ += c.memory();
}

}  // namespace retrovisor
