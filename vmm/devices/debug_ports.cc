#include "vmm/devices/debug_ports.h"

namespace retrovisor {

void DebugExit::write(uint16_t, unsigned, uint32_t value) {
  control_.request_stop({StopReason::debug_exit, uint64_t{value} << 1 | 1});
}

void DebugConsole::write(uint16_t, unsigned, uint32_t value) {
  const auto byte = static_cast<uint8_t>(value);
  output_(std::span<const uint8_t>(&byte, 1));
}

}  // namespace retrovisor
