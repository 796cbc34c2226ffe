// How a processor sets the arithmetic flags that the manuals leave undefined.
#pragma once

#include <cstdint>

namespace retrovisor {

enum class UndefinedFlags : uint8_t {
  model,  // in one fixed way, the same on every host; what the soft engine does by itself
  amd,    // as AMD's Zen processors do (measured: Zen 5), so that what such a processor has pushed into memory is met again
};

}  // namespace retrovisor
