// All checkpoints of a timeline, and which of them go when memory runs short.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <vector>

#include "replay/checkpoint_pages.h"
#include "replay/checkpoint_touched.h"
#include "replay/replay_boundary.h"

namespace retrovisor {

// The whole state of a machine on arrival at a position, and what is known of the stretch that begins there.
struct Checkpoint {
  explicit Checkpoint(PageMap map) : pages(std::move(map)) {}

  Position position;
  // Made near the present position, to be dropped first. Stretches reach from one lasting checkpoint to the next.
  bool temporary = false;
  std::vector<uint8_t> cpu;
  std::vector<uint8_t> devices;
  ReplayBoundary::Mark boundary;
  PageMap pages;
  // Of the positions from here to `known_to`. Nothing is known of temporary ones.
  std::unique_ptr<Touched> touched;
  Position known_to;

  // Without the pages and their map.
  uint64_t memory() const;
};

class CheckpointSet {
 public:
  // `budget`: bytes of everything together. The machine has pages below `page_limit`.
  CheckpointSet(uint64_t budget, uint64_t page_limit) : budget_(budget), maps_(store_, page_limit) {}

  PageStore& store() { return store_; }
  const PageStore& store() const { return store_; }
  PageMaps& maps() { return maps_; }
  uint64_t memory() const { return store_.memory() + maps_.memory() + states_; }
  uint64_t budget() const { return budget_; }
  size_t size() const { return all_.size(); }
  std::vector<Position> positions() const;

  // The last checkpoint at or before `p`; there is one at the beginning.
  const Checkpoint& before(Position p) const;
  // The same of those that last.
  const Checkpoint& lasting_before(Position p) const;
  // The first lasting one behind `p`, or kNoPosition.
  Position lasting_after(Position p) const;
  bool has(Position p) const { return all_.contains(p.value); }
  // Makes the checkpoint at `p` a lasting one, if there is any. False: there is none.
  bool keep(Position p);

  // Makes room for a checkpoint for which `pages` pages of memory and `state` bytes of other state have to be kept, by
  // dropping those that are missed least: where the gap that they leave is smallest for their distance from `focus`.
  // False: there is no room.
  bool make_room(uint64_t pages, uint64_t state, Position focus);
  // Adds a checkpoint where there is none. A lasting one takes over its part of what is known of the stretch it divides.
  void add(Checkpoint checkpoint);
  // Takes the checkpoint at `p` away, which is not the first.
  void remove(Position p);
  // The stretch that begins with the lasting checkpoint at `begin` touched this, from at most its known_to on up to `to`.
  void extend(Position begin, const StretchPages& pages, EventMask events, Position to);

 private:
  using Map = std::map<uint64_t, Checkpoint>;
  void drop(Map::iterator it);
  void divide_stretch(Checkpoint& at);
  Checkpoint& lasting(Position p);
  Map::iterator least_missed(Position focus, bool only_temporary);

  // More than this many would make looking for the least missed one slow.
  static constexpr size_t kMost = 4096;
  static constexpr size_t kMostTemporary = 512;

  uint64_t budget_;
  PageStore store_;
  PageMaps maps_;
  Map all_;
  size_t temporary_ = 0;
  uint64_t states_ = 0;  // the sum of Checkpoint::memory()
};

}  // namespace retrovisor
