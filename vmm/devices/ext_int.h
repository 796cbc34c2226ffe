// The interrupt acknowledge cycle of an 8259A-compatible controller, as local APICs see it for ExtINT (SDM 3A 10.5.1).
#pragma once

#include <cstdint>
#include <string_view>

namespace retrovisor {

class ExtIntController {
 public:
  static constexpr std::string_view kShared = "ExtINT";  // DeviceContext::offered()
  virtual ~ExtIntController() = default;
  // Two INTA pulses: the vector of the highest-priority request, which goes into service; a spurious one if there is none.
  virtual uint8_t acknowledge() = 0;
};

}  // namespace retrovisor
