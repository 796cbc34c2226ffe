#include "cli/progress.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>

namespace retrovisor::cli {

Progress::Progress(std::string what, uint64_t total, bool wanted)
    : what_(std::move(what)), total_(total), shown_(wanted && isatty(STDERR_FILENO) != 0) {}

void Progress::update(uint64_t position) {
  if (!shown_) return;
  const auto now = Clock::now();
  if (now - last_ < std::chrono::milliseconds(200)) return;
  last_ = now;
  const double seconds = std::chrono::duration<double>(now - begin_).count();
  if (seconds < 0.5) return;  // what is over in a moment needs no progress
  const double speed = static_cast<double>(position) / seconds;
  std::string line = fmt::format("{}: {}", what_, grouped(position));
  if (total_ != 0)
    line += fmt::format(", {:.1f} %", 100.0 * static_cast<double>(std::min(position, total_)) / static_cast<double>(total_));
  line += fmt::format(", {:.0f} M/s", speed / 1e6);
  if (total_ > position && speed > 0)
    line += fmt::format(", {} left", duration_text(static_cast<double>(total_ - position) / speed));
  fmt::print(stderr, "\r\x1b[K{}", line);
  std::fflush(stderr);
  on_screen_ = true;
}

void Progress::clear() {
  if (!on_screen_) return;
  fmt::print(stderr, "\r\x1b[K");
  std::fflush(stderr);
  on_screen_ = false;
}

std::string duration_text(double seconds) {
  if (seconds < 10) return fmt::format("{:.1f} s", seconds);
  const auto whole = static_cast<uint64_t>(seconds);
  if (whole < 120) return fmt::format("{} s", whole);
  if (whole < 7200) return fmt::format("{} min {} s", whole / 60, whole % 60);
  return fmt::format("{} h {} min", whole / 3600, whole % 3600 / 60);
}

std::string grouped(uint64_t number) {
  std::string text = std::to_string(number);
  for (size_t i = text.size(); i > 3; i -= 3) text.insert(i - 3, " ");
  return text;
}

std::string bytes_text(uint64_t bytes) {
  if (bytes < 1024) return fmt::format("{} bytes", bytes);
  if (bytes < 1024 * 1024) return fmt::format("{:.1f} KiB", static_cast<double>(bytes) / 1024);
  if (bytes < uint64_t{1024} * 1024 * 1024) return fmt::format("{:.1f} MiB", static_cast<double>(bytes) / (1024 * 1024));
  return fmt::format("{:.2f} GiB", static_cast<double>(bytes) / (1024.0 * 1024 * 1024));
}

}  // namespace retrovisor::cli
