// Runs a fuzz target without libFuzzer: over its seeds, then over inputs made from them by a fixed pseudo-random sequence.
//   fuzz_smoke_X [--seconds N] [--runs N] [--random N] [--corpus FOLDER]
//                                      seeds (and the files of FOLDER), then mutations until the time or the count is up;
//                                      --random begins another sequence
//   fuzz_smoke_X FILE...               each file once
//   fuzz_smoke_X --write-seeds FOLDER  writes the seeds there
// An input that crashes, or takes more than 20 s, is written to fuzz_smoke_X.crash in the working directory.
#include <fcntl.h>
#include <unistd.h>

#include <chrono>
#include <csignal>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string_view>

#include "tests/fuzz/target.h"

// Called by sanitizers before they end the process; absent without them.
extern "C" void __sanitizer_set_death_callback(void (*callback)()) __attribute__((weak));

namespace retrovisor::fuzz {
namespace {

constexpr unsigned kInputSeconds = 20;

// For the signal handler.
std::span<const uint8_t> current;
char crash_file[4096] = "fuzz_smoke.crash";

void save_current() {
  const int fd = ::open(crash_file, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
  if (fd < 0) return;
  [[maybe_unused]] ssize_t n = ::write(fd, current.data(), current.size());
  n = ::write(2, "the input is in ", 16);
  n = ::write(2, crash_file, std::strlen(crash_file));
  n = ::write(2, "\n", 1);
  ::close(fd);
}

extern "C" void on_signal(int number) {
  save_current();
  if (number == SIGALRM) [[maybe_unused]]
    const ssize_t n = ::write(2, "it took too long\n", 17);
  std::signal(number == SIGALRM ? SIGABRT : number, SIG_DFL);
  std::raise(number == SIGALRM ? SIGABRT : number);
}

// splitmix64 (Steele, Lea, Flood 2014).
class Random {
 public:
  explicit Random(uint64_t seed) : state_(seed) {}
  uint64_t next() {
    uint64_t z = (state_ += 0x9e3779b97f4a7c15);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
    z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
    return z ^ (z >> 31);
  }
  size_t below(size_t n) { return n == 0 ? 0 : static_cast<size_t>(next() % n); }

 private:
  uint64_t state_;
};

void mutate_once(Bytes& b, const std::vector<Bytes>& seeds, Random& random) {
  static constexpr uint64_t kEdges[] = {0,          1,          0x7f,        0x80,       0xff,           0x100,
                                        0x7fff,     0x8000,     0xffff,      4096,       65536,          0x7fffffff,
                                        0x80000000, 0xffffffff, 0x100000000, UINT64_MAX, UINT64_MAX >> 1};
  const size_t at = random.below(b.size());
  switch (random.below(9)) {
    case 0:
      if (!b.empty()) b[at] = static_cast<uint8_t>(b[at] ^ 1u << random.below(8));
      break;
    case 1:
      if (!b.empty()) b[at] = static_cast<uint8_t>(random.next());
      break;
    case 2:
      if (!b.empty()) b[at] = static_cast<uint8_t>(b[at] + random.below(33) - 16);
      break;
    case 3: {  // a number at the edge of something
      const uint64_t v = kEdges[random.below(std::size(kEdges))];
      const size_t n = std::min(size_t{1} << random.below(4), b.size() - std::min(at, b.size()));
      for (size_t i = 0; i < n; ++i) b[at + i] = static_cast<uint8_t>(v >> 8 * i);
      break;
    }
    case 4: b.insert(b.begin() + static_cast<ptrdiff_t>(at), static_cast<uint8_t>(random.next())); break;
    case 5: {  // take something out
      const size_t n = std::min(1 + random.below(16), b.size() - at);
      b.erase(b.begin() + static_cast<ptrdiff_t>(at), b.begin() + static_cast<ptrdiff_t>(at + n));
      break;
    }
    case 6: b.resize(at); break;
    case 7: {  // a piece of another seed
      const Bytes& other = seeds[random.below(seeds.size())];
      const size_t from = random.below(other.size());
      const size_t n = std::min(1 + random.below(64), other.size() - from);
      b.insert(b.begin() + static_cast<ptrdiff_t>(at), other.begin() + static_cast<ptrdiff_t>(from),
               other.begin() + static_cast<ptrdiff_t>(from + n));
      break;
    }
    default:
      for (size_t i = 0, n = 1 + random.below(32); i < n; ++i) b.push_back(static_cast<uint8_t>(random.next()));
      break;
  }
}

void run_one(std::span<const uint8_t> input) {
  current = input;
  ::alarm(kInputSeconds);
  run(input);
  ::alarm(0);
  current = {};
}

Bytes read_file(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>()};
}

int main(int argc, char** argv) {
  double seconds = 3;
  uint64_t runs = UINT64_MAX;
  uint64_t sequence = 1;
  std::string corpus;
  std::vector<std::string> files;
  const std::string name = argv[0];
  std::snprintf(crash_file, sizeof crash_file, "%s.crash", name.substr(name.rfind('/') + 1).c_str());
  for (int i = 1; i < argc; ++i) {
    const std::string_view a = argv[i];
    if (a == "--seconds" && i + 1 < argc) {
      seconds = std::atof(argv[++i]);
    } else if (a == "--runs" && i + 1 < argc) {
      runs = std::strtoull(argv[++i], nullptr, 10);
    } else if (a == "--random" && i + 1 < argc) {
      sequence = std::strtoull(argv[++i], nullptr, 10);
    } else if (a == "--corpus" && i + 1 < argc) {
      corpus = argv[++i];
    } else if (a == "--write-seeds" && i + 1 < argc) {
      const std::string folder = argv[++i];
      unsigned count = 0;
      for (const Bytes& seed : seeds()) {
        std::ofstream out(folder + "/seed" + std::to_string(count++), std::ios::binary);
        out.write(reinterpret_cast<const char*>(seed.data()), static_cast<std::streamsize>(seed.size()));
        if (!out.flush()) return 1;
      }
      return 0;
    } else {
      files.emplace_back(a);
    }
  }
  for (const int s : {SIGABRT, SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGALRM}) std::signal(s, on_signal);
  if (__sanitizer_set_death_callback != nullptr) __sanitizer_set_death_callback(save_current);

  for (const std::string& file : files) run_one(read_file(file));
  if (!files.empty()) return 0;
  std::vector<Bytes> all = seeds();
  if (all.empty()) return 1;
  if (!corpus.empty())
    for (const auto& entry : std::filesystem::directory_iterator(corpus)) all.push_back(read_file(entry.path().string()));
  run_one({});
  for (const Bytes& seed : all) run_one(seed);
  using HostClock = std::chrono::steady_clock;
  const auto end = HostClock::now() + std::chrono::duration<double>(seconds);
  Random random(sequence);
  uint64_t done = 0;
  for (; done < runs && HostClock::now() < end; ++done) {
    Bytes b = all[random.below(all.size())];
    for (size_t i = 0, n = 1 + random.below(8); i < n; ++i) mutate_once(b, all, random);
    if (b.size() > max_input()) b.resize(max_input());
    run_one(b);
  }
  std::printf("%zu seeds, %llu mutations\n", all.size(), static_cast<unsigned long long>(done));
  return 0;
}

}  // namespace
}  // namespace retrovisor::fuzz

int main(int argc, char** argv) { return retrovisor::fuzz::main(argc, argv); }
