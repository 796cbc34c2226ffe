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
  std::string where;    // file offset, position, option name; may be empty

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

// Returns the error of `expression` (a Result) from the enclosing function, if it has one.
#define RV_TRY(expression) \
  do { \
    if (auto rv_result_ = (expression); !rv_result_.ok()) return std::move(rv_result_).error(); \
  } while (false)
