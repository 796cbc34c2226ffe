// Entering a recording in the middle: key frames as checkpoints.
#include <algorithm>

#include "replay/timeline_impl.h"

namespace retrovisor {
namespace {

// One instruction is run in about the time in which so much of a key frame is read, decompressed and put into place.
constexpr uint64_t kBytesPerInstruction = 2;

}  // namespace

Result<void> TimelineImpl::bring_key_frame(Position target, Position from) {
  KeyFrames& frames = session_->key_frames();
  const auto number = frames.before(target);
  if (!number) return {};
  const Position there = frames[*number].position;
  const uint64_t reach = options_.key_frame_reach.value_or(frames.cost(*number) / kBytesPerInstruction);
  if (there <= from || there - from <= reach) return {};
  const Position here = position_;
  const auto loaded = load_key_frame(*number);
  if (loaded && !*loaded) return {};
  Result<void> good = loaded ? Result<void>() : Result<void>(loaded.error());
  if (good) {
    ++key_frames_restored_;
    if (auto restored = restore(set_.before(there)); !restored)
      good = frames.error(*number, restored.error().text());
    else
      good = frames.check(*number, m_);
    if (!good) set_.remove(there);
  }
  if (good) return {};
  frames.give_up(*number);
  RV_TRY(restore(set_.before(here)));
  RunOptions all_the_way;
  all_the_way.interruptible = false;
  RV_TRY(run_to(here, nullptr, all_the_way));
  return good.error();
}

// Makes a checkpoint of a key frame, without looking at the machine; false if there is no room for it.
Result<bool> TimelineImpl::load_key_frame(size_t number) {
  const KeyFrames& frames = session_->key_frames();
  const KeyFramePlace& place = frames[number];
  if (!set_.make_room(frames.cost(number) / kPageSize, sizeof(Checkpoint), place.position)) return false;
  Checkpoint c{PageMap(set_.maps())};
  const auto keep_page = [&](uint64_t page, const uint8_t* bytes) { c.pages.set(page, set_.store().intern(bytes)); };
  RV_TRY(auto state, frames.read(number, m_.memory(), keep_page));
  c.position = c.known_to = place.position;
  c.cpu = std::move(state.cpu);
  c.devices = std::move(state.devices);
  c.boundary = ReplayBoundary::Mark::at(place.behind());
  if (!set_.make_room(0, c.memory(), place.position)) return false;
  set_.add(std::move(c));
  return true;
}

Result<void> TimelineImpl::compare_around(Position p) {
  const KeyFrames& frames = session_->key_frames();
  const size_t part = frames.count_to(p);
  if (part == part_) return {};
  other_parts_[part_] = {compared_, checker_->mark(), digests_->mark(), std::move(next_digest_)};
  next_digest_.reset();
  part_ = part;
  if (const auto known = other_parts_.find(part); known != other_parts_.end()) {
    Compared& c = known->second;
    compared_ = c.to;
    next_digest_ = std::move(c.next_digest);
    RV_TRY(checker_->seek(c.journal));
    return digests_->seek(c.digests);
  }
  const TraceReader::Mark begin = frames[part - 1].behind();
  compared_ = {begin.last, 0};
  RV_TRY(checker_->seek(JournalChecker::Mark::at(begin)));
  return digests_->seek(begin);
}

}  // namespace retrovisor
