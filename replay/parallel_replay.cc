#include "replay/parallel_replay.h"

#include <fmt/format.h>
#include <pthread.h>

#include <algorithm>
#include <atomic>
#include <mutex>
#include <optional>
#include <vector>

#include "traces/verify.h"

namespace retrovisor {
namespace {

// More parts than jobs, so that none waits long for the last; not many more, since each costs a restored key frame.
constexpr size_t kPartsPerJob = 4;

// Where parts begin: the beginning, and key frames about equally far from each other.
std::vector<Position> part_begins(const TraceSummary& summary, unsigned jobs) {
  std::vector<Position> out{Position(0)};
  const uint64_t end = (summary.end ? summary.end->position : summary.through).value;
  const uint64_t apart = std::max<uint64_t>(end / (kPartsPerJob * jobs), 1);
  for (const KeyFramePlace& k : summary.key_frames)
    if (jobs > 1 && k.position - out.back() >= apart) out.push_back(k.position);
  return out;
}

class Parts {
 public:
  Parts(const std::string& trace, const BootImages& images, const ParallelOptions& options, std::vector<Position> begins)
      : trace_(trace), images_(images), options_(options), begins_(std::move(begins)), results_(begins_.size()) {}

  void work() {
    for (;;) {
      const size_t part = next_++;
      if (part >= begins_.size() || part > first_bad_) return;
      std::unique_ptr<ReplaySession> session;
      auto result = run(part, session);
      const bool last = part + 1 == begins_.size();
      const bool good = result && !result->divergence &&
                        (last ? result->end != ReplayResult::End::host : result->end == ReplayResult::End::stop_at);
      const std::lock_guard lock(mutex_);
      results_[part] = std::move(result);
      if (!good && part < first_bad_) first_bad_ = part;
      if (part == first_bad_ || (last && part < first_bad_)) kept_ = std::move(session);
    }
  }

  Result<ParallelResult> finish() {
    ParallelResult out;
    out.parts = begins_.size();
    const size_t reported = std::min(first_bad_.load(), begins_.size() - 1);
    if (!*results_[reported]) return results_[reported]->error();
    out.result = **results_[reported];
    out.session = std::move(kept_);
    for (size_t i = 0; i < reported; ++i) {
      out.result.digests_compared += (*results_[i])->digests_compared;
      out.result.events_compared += (*results_[i])->events_compared;
    }
    return out;
  }

 private:
  Result<ReplayResult> run(size_t part, std::unique_ptr<ReplaySession>& session) {
    RV_TRY(session, ReplaySession::open(trace_, images_));
    RV_TRY(const auto begin, session->start_from(begins_[part]));
    if (begin != begins_[part])
      return Error{ErrorCode::bad_trace, fmt::format("the key frame at position {} is gone", begins_[part].value), trace_};
    ReplayOptions how;
    how.check_digests = options_.check_digests;
    how.check_journal = options_.check_journal;
    if (part + 1 < begins_.size()) how.stop_at = begins_[part + 1];
    how.stop_requested = [this, part] {
      return part > first_bad_ || (options_.stop_requested && options_.stop_requested());
    };
    uint64_t told = 0;
    how.progress = [this, &told](const ReplayProgress& p) {
      const std::lock_guard lock(mutex_);
      instructions_ += p.instructions - told;
      told = p.instructions;
      if (options_.progress) options_.progress(instructions_);
    };
    return session->run(how);
  }

  const std::string& trace_;
  const BootImages& images_;
  const ParallelOptions& options_;
  const std::vector<Position> begins_;
  std::atomic<size_t> next_{0};
  std::atomic<size_t> first_bad_{SIZE_MAX};  // of the parts that diverged, failed or were stopped
  std::mutex mutex_;                         // of what follows
  std::vector<std::optional<Result<ReplayResult>>> results_;
  std::unique_ptr<ReplaySession> kept_;
  uint64_t instructions_ = 0;
};

}  // namespace

Result<ParallelResult> replay_parts(const std::string& trace, const BootImages& images, const ParallelOptions& options) {
  const auto begin = std::chrono::steady_clock::now();
  RV_TRY(const auto summary, verify_trace(trace, {.key_frames = TraceReader::KeyFrames::check}));
  Parts parts(trace, images, options, part_begins(summary, options.jobs));
  const auto work = [](void* all) -> void* {
    static_cast<Parts*>(all)->work();
    return nullptr;
  };
  std::vector<pthread_t> threads;
  for (unsigned i = 1; i < options.jobs; ++i) {
    pthread_t thread{};
    if (pthread_create(&thread, nullptr, work, &parts) != 0) break;  // those that are there do it all
    threads.push_back(thread);
  }
  parts.work();
  for (const pthread_t thread : threads) pthread_join(thread, nullptr);
  auto out = parts.finish();
  if (out) out->result.host_time = std::chrono::steady_clock::now() - begin;
  return out;
}

}  // namespace retrovisor
