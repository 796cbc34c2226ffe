// Where guest output goes: a file descriptor behind a small buffer. If it is a terminal, and nobody reads its answers for the
// guest, it is not asked anything.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "vmm/host/stop_source.h"
#include "vmm/host/terminal_queries.h"

namespace retrovisor {

// Does the guest get what a terminal answers?
enum class Answers : uint8_t { reach_guest, reach_nobody };

class OutputStream {
 public:
  // Writes to `fd` (not owned; -1 drops everything). If nobody reads it any more, or it cannot be written, output is dropped
  // from there on; a reader that went away (EPIPE) also asks `stop` (may be null) for a stop.
  OutputStream(int fd, StopSource* stop, Answers answers);
  ~OutputStream() { flush(); }
  OutputStream(const OutputStream&) = delete;
  OutputStream& operator=(const OutputStream&) = delete;

  void write(std::span<const uint8_t> bytes);
  // Writes out what is buffered. Waits for a slow reader, but not once a stop was requested.
  void flush();
  // The host's reason why output was dropped; empty if none was, or if the reader just went away.
  const std::string& error() const { return error_; }

 private:
  void give_up(int error);

  int fd_;
  StopSource* stop_;
  std::vector<uint8_t> buffer_;
  std::string error_;
  std::optional<TerminalQueries> queries_;  // taken out, if there
};

}  // namespace retrovisor
