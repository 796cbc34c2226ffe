// A target as libFuzzer wants it.
#include "tests/fuzz/target.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size <= retrovisor::fuzz::max_input()) retrovisor::fuzz::run({data, size});
  return 0;
}
