#include "cli/host_memory.h"

#include <sys/resource.h>

#include <charconv>
#include <fstream>
#include <string>

namespace retrovisor::cli {
namespace {

// Resident bytes of the mappings that hold part of [begin, end). (mincore(2) would count reads of pages that were never
// written, for which the kernel shows one shared page of zeroes.) Guest RAM is mapped without reservation and so never
// shares a mapping with other memory of ours, but for the page flags beside it.
uint64_t resident_bytes(uint64_t begin, uint64_t end) {
  std::ifstream smaps("/proc/self/smaps");
  uint64_t bytes = 0;
  bool inside = false;
  for (std::string line; std::getline(smaps, line);) {
    const char* const last = line.data() + line.size();
    uint64_t from = 0;
    uint64_t to = 0;
    // A mapping begins with "7f0000000000-7f0000001000 rw-p ...", its figures follow as "Rss:   4 kB".
    if (const auto first = std::from_chars(line.data(), last, from, 16);
        first.ec == std::errc() && first.ptr != last && *first.ptr == '-') {
      std::from_chars(first.ptr + 1, last, to, 16);
      inside = from < end && to > begin;
    } else if (inside && line.starts_with("Rss:")) {
      uint64_t kib = 0;
      std::from_chars(line.data() + line.find_first_not_of(' ', 4), last, kib);
      bytes += kib * 1024;
    }
  }
  return bytes;
}

}  // namespace

HostMemory measure_host_memory(const GuestMemory& memory) {
  HostMemory result;
  rusage usage{};
  if (getrusage(RUSAGE_SELF, &usage) == 0) result.peak_bytes = static_cast<uint64_t>(usage.ru_maxrss) * 1024;
  const auto base = reinterpret_cast<uint64_t>(memory.host(PhysAddr(0)));
  result.guest_bytes = resident_bytes(base, base + (memory.page_limit() << kPageShift));
  return result;
}

}  // namespace retrovisor::cli
