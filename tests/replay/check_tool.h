// What the programs share that check one recording of a kernel: what goes wrong ends them.
#pragma once

#include <errno.h>
#include <fmt/format.h>

#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <string>
#include <utility>
#include <vector>

#include "vmm/boot/loader.h"
#include "vmm/result.h"

namespace retrovisor {

[[noreturn]] inline void fail(const std::string& why) {
  fmt::print(stderr, "{}: {}\n", program_invocation_short_name, why);
  std::exit(1);
}

template <class T>
T take(Result<T> result) {
  if (!result) fail(result.error().text());
  return std::move(result).value();
}

inline std::vector<uint8_t> file(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>()};
}

inline BootImages guest_images(const std::string& kernel, const std::string& initrd) {
  BootImages out;
  out.kernel = file(kernel);
  out.initrd = file(initrd);
  return out;
}

}  // namespace retrovisor
