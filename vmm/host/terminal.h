// The user's terminal in raw mode, so that every key reaches the guest, and given back as it was on every way out.
#pragma once

#include <memory>

#include "vmm/result.h"

namespace retrovisor {

class Terminal {
 public:
  // Puts the terminal `fd` into raw mode: no echo, no line editing, no signals from keys. Output processing stays on, so
  // that our own lines begin at the left. From here the terminal is given back by the destructor, and before the process
  // dies of a fatal signal or is stopped by SIGTSTP. At most one exists at a time.
  static Result<std::unique_ptr<Terminal>> make_raw(int fd);
  ~Terminal();
  Terminal(const Terminal&) = delete;
  Terminal& operator=(const Terminal&) = delete;

  // Drops what was typed and not read yet; nothing if `fd` is no terminal.
  static void discard_input(int fd);
  // For signal handlers that end the process: gives the terminal back if one is raw. Async-signal-safe.
  static void restore_from_signal() noexcept;

 private:
  Terminal() = default;
};

}  // namespace retrovisor
