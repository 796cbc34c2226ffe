// Console scripts: what is typed into the guest, and when (docs/console-scripts.md). Playing one depends on the guest's
// output, on positions and on guest time only, so the same script in the same machine gives the same run.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "vmm/boundary.h"
#include "vmm/result.h"

namespace retrovisor {

struct ScriptStep {
  enum class Kind : uint8_t {
    after,          // wait until the guest has printed `text`, counted from the end of the previous match
    at_position,    // wait until `number` instructions are retired
    at_time,        // wait until guest time is `number` ns
    wait_position,  // wait `number` instructions from the end of the step before
    wait_time,      // wait `number` ns of guest time from the end of the step before
    send,           // type `text`
  };
  Kind kind{};
  std::string text;
  uint64_t number = 0;
  unsigned line = 0;
  bool operator==(const ScriptStep&) const = default;
};

inline constexpr size_t kMaxScriptBytes = size_t{4} << 20;
inline constexpr size_t kMaxScriptPattern = 4096;  // longest text of an `after`

// The text is hostile; errors are bad_argument and name `file` and the line.
Result<std::vector<ScriptStep>> parse_script(std::string_view text, const std::string& file);

class ScriptPlayer {
 public:
  explicit ScriptPlayer(std::vector<ScriptStep> steps);

  // The guest printed `bytes`.
  void output(std::span<const uint8_t> bytes);
  // Next bytes to type at this moment, at most out.size().
  size_t read(Moment at, std::span<uint8_t> out);
  // When read() gives bytes without any more output or instructions: a time <= at.time: already; nothing: unknown or never.
  std::optional<VirtualTime> next_time(Moment at);

  bool finished() const { return step_ == steps_.size(); }
  // The step that is waited for; null when finished.
  const ScriptStep* current() const { return finished() ? nullptr : &steps_[step_]; }

 private:
  void advance(Moment at);
  void next_step(Moment at);
  void next_pattern();

  std::vector<ScriptStep> steps_;
  size_t step_ = 0;
  size_t sent_ = 0;  // bytes of the current `send` that are typed
  Moment began_;     // when the current step began
  // Output is matched as it comes, ahead of the steps: the first `after` step that has not matched yet, and how much of it
  // has (Knuth-Morris-Pratt).
  size_t pattern_step_ = 0;
  size_t matched_ = 0;
  std::vector<size_t> borders_;
};

}  // namespace retrovisor
