// A target as libFuzzer wants it.
#include <algorithm>

#include "tests/fuzz/target.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  retrovisor::fuzz::run({data, std::min(size, retrovisor::fuzz::max_input())});
  return 0;
}
