// RV_ASSERT: for what only a bug in Retrovisor can cause. Stays on in release builds; what the outside can
// cause (guest, trace, image, user) is a Result instead (result.h).
#pragma once

namespace retrovisor {

// Prints the message and, when a machine is running, its position and engine; then aborts.
[[noreturn]] void assertion_failed(const char* expression, const char* file, int line);

// Something that can describe where the running machine is, for the message of a failed assertion.
// Set by Machine while it runs; null otherwise. The function must not allocate.
using DescribeMachine = void (*)(void* cookie);
extern constinit thread_local DescribeMachine assertion_context;
extern constinit thread_local void* assertion_cookie;

}  // namespace retrovisor

#define RV_ASSERT(expression) \
  (__builtin_expect(static_cast<bool>(expression), 1) \
       ? static_cast<void>(0) \
       : ::retrovisor::assertion_failed(#expression, __FILE__, __LINE__))
