// Result<T>: a value, or an Error that says what went wrong outside of us and where.
#pragma once

#include <string>
#include <utility>
#include <variant>

#include "vmm/assert.h"

namespace retrovisor {

enum class ErrorCode {
  bad_argument,     // the user asked for something that makes no sense
  bad_image,        // kernel, initrd or disk image is malformed
  bad_trace,        // trace file is malformed, damaged or of an unknown version
  divergence,       // a replay is not the recorded run
  io,               // the host said no: open, read, write, mmap
  unsupported,      // a valid request that this build or host cannot serve
};

struct Error {
  ErrorCode code;
  std::string message;  // a sentence without a full stop
  std::string where;    // file offset, position, a word of the domain ("memory"), which cli shows as its option; may be empty

  // "message (where)"
  std::string text() const { return where.empty() ? message : message + " (" + where + ")"; }
};

template <class T>
class [[nodiscard]] Result {
 public:
  Result(T value) : state_(std::in_place_index<0>, std::move(value)) {}
  Result(Error error) : state_(std::in_place_index<1>, std::move(error)) {}

  bool ok() const { return state_.index() == 0; }
  explicit operator bool() const { return ok(); }
  T& value() & { RV_ASSERT(ok()); return *std::get_if<0>(&state_); }
  const T& value() const& { RV_ASSERT(ok()); return *std::get_if<0>(&state_); }
  T&& value() && { RV_ASSERT(ok()); return std::move(*std::get_if<0>(&state_)); }
  T& operator*() & { return value(); }
  const T& operator*() const& { return value(); }
  T* operator->() { return &value(); }
  const T* operator->() const { return &value(); }
  const Error& error() const& { RV_ASSERT(!ok()); return *std::get_if<1>(&state_); }
  Error&& error() && { RV_ASSERT(!ok()); return std::move(*std::get_if<1>(&state_)); }

 private:
  std::variant<T, Error> state_;
};

template <>
class [[nodiscard]] Result<void> {
 public:
  Result() = default;
  Result(Error error) : error_(std::move(error)), ok_(false) {}

  bool ok() const { return ok_; }
  explicit operator bool() const { return ok_; }
  const Error& error() const& { RV_ASSERT(!ok_); return error_; }
  Error&& error() && { RV_ASSERT(!ok_); return std::move(error_); }

 private:
  Error error_{};
  bool ok_ = true;
};

}  // namespace retrovisor

// RV_TRY(f());          returns the error of f() (a Result) from the enclosing function, if it has one.
// RV_TRY(auto x, f());  the same, and otherwise x is f()'s value, moved out of the Result.
// RV_TRY(x, f());       the same for an x that there is.
// With a target it is several statements: it stands in a row of statements, never alone behind an `if`. The expression may then
// hold any commas, the target none.
#define RV_TRY(first, ...) RV_TRY_CHECK##__VA_OPT__(_AND_ASSIGN)(RV_TRY_NAME(__COUNTER__), first __VA_OPT__(, ) __VA_ARGS__)
// Each expansion's Result has a name of its own, which is put together before these see it.
#define RV_TRY_CHECK(...) RV_TRY_CHECK_AS(__VA_ARGS__)
#define RV_TRY_CHECK_AND_ASSIGN(...) RV_TRY_ASSIGN_AS(__VA_ARGS__)
#define RV_TRY_CHECK_AS(result, expression) \
  do { \
    if (auto result = (expression); !result.ok()) return std::move(result).error(); \
  } while (false)
#define RV_TRY_ASSIGN_AS(result, target, ...) \
  auto result = (__VA_ARGS__); \
  if (!result.ok()) return std::move(result).error(); \
  target = std::move(result).value()
#define RV_TRY_NAME(number) RV_TRY_PASTE(rv_result_, number)
#define RV_TRY_PASTE(a, b) a##b
