// A fuzz target: a function over hostile bytes, and seeds to start from. Each is built twice: with libFuzzer (RV_FUZZERS),
// and with a small driver of our own (smoke_main.cc) that every build's tests run.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <span>
#include <string>
#include <type_traits>
#include <vector>

namespace retrovisor::fuzz {

using Bytes = std::vector<uint8_t>;

// Defined by each target. It must depend on `data` alone and leave nothing behind.
void run(std::span<const uint8_t> data);
// Inputs worth starting from: small, and valid as far as that makes sense.
std::vector<Bytes> seeds();
// Inputs longer than this teach nothing.
size_t max_input();

// What must hold whatever the input is.
#define FUZZ_CHECK(expression) \
  do { \
    if (!(expression)) { \
      std::fprintf(stderr, "%s:%d: does not hold: %s\n", __FILE__, __LINE__, #expression); \
      std::abort(); \
    } \
  } while (false)

// Takes numbers from the front of an input; zeroes when it has run out.
class Input {
 public:
  explicit Input(std::span<const uint8_t> data) : data_(data) {}

  bool empty() const { return data_.empty(); }
  size_t left() const { return data_.size(); }
  template <class T>
  T number() {
    T v{};
    const size_t n = data_.size() < sizeof(T) ? data_.size() : sizeof(T);
    if (n != 0) std::memcpy(&v, data_.data(), n);
    data_ = data_.subspan(n);
    return v;
  }
  uint8_t byte() { return number<uint8_t>(); }
  std::span<const uint8_t> bytes(size_t n) {
    const auto out = data_.first(n < data_.size() ? n : data_.size());
    data_ = data_.subspan(out.size());
    return out;
  }
  std::span<const uint8_t> rest() { return bytes(data_.size()); }

 private:
  std::span<const uint8_t> data_;
};

template <class T>
  requires std::is_arithmetic_v<T>
void append(Bytes& out, T v) {
  const size_t at = out.size();
  out.resize(at + sizeof v);
  std::memcpy(out.data() + at, &v, sizeof v);
}
inline void append(Bytes& out, std::span<const uint8_t> v) { out.insert(out.end(), v.begin(), v.end()); }

}  // namespace retrovisor::fuzz
