// Watches console output for the line with which a Linux kernel ends its panic message.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>

#include "vmm/state_io.h"

namespace retrovisor {

class PanicWatch {
 public:
  // True when the last byte of the message's last line has gone by.
  bool see(std::span<const uint8_t> bytes);
  void save(StateWriter& out) const;
  void restore(StateReader& in);

 private:
  static constexpr std::string_view kText = "---[ end Kernel panic";
  uint32_t matched_ = 0;
  bool in_line_ = false;  // the text has been seen, its line has not ended
};

}  // namespace retrovisor
