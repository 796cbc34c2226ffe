#include "vmm/assert.h"

#include <cstdio>
#include <cstdlib>

namespace retrovisor {

constinit thread_local DescribeMachine assertion_context = nullptr;
constinit thread_local void* assertion_cookie = nullptr;

void assertion_failed(const char* expression, const char* file, int line) {
  std::fprintf(stderr, "retrovisor: internal error: %s (%s:%d)\n", expression, file, line);
  if (assertion_context != nullptr) assertion_context(assertion_cookie);
  std::fputs("retrovisor: this is a bug in retrovisor; the trace, if one was being recorded, is whole up to its last chunk\n",
             stderr);
  std::abort();
}

}  // namespace retrovisor
