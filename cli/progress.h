// A progress line on a terminal: position, percent, speed, time left. Nothing at all in a pipe.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>

namespace retrovisor::cli {

class Progress {
 public:
  // `total` positions (0: not known). Shows itself only if standard error is a terminal and `wanted`.
  Progress(std::string what, uint64_t total, bool wanted);
  ~Progress() { clear(); }
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;

  void update(uint64_t position);
  // Takes the line away, so that other words can be printed.
  void clear();

 private:
  using Clock = std::chrono::steady_clock;
  std::string what_;
  uint64_t total_;
  bool shown_;
  bool on_screen_ = false;
  Clock::time_point begin_ = Clock::now();
  Clock::time_point last_{};
};

// "90 s", "2 min 5 s", "1 h 2 min"
std::string duration_text(double seconds);
// "1 234 567 890"
std::string grouped(uint64_t number);
// "12.5 MiB"
std::string bytes_text(uint64_t bytes);

}  // namespace retrovisor::cli
