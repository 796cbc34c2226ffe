#include "cli/say.h"

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <iterator>

#include "cli/exit_codes.h"

namespace retrovisor::cli {
namespace {

// Places of errors (Error::where) that a user sets, and by which option: what runs knows no command line.
constexpr std::pair<std::string_view, std::string_view> kOptions[] = {
    {"checkpoint memory", "--checkpoint-memory"},
    {"console", "--console"},
    {"engine", "--engine"},
    {"flat address", "--flat-address"},
    {"memory", "--memory"},
    {"time limit", "--timeout"},
    {"vcpus", "--vcpus"},
};

}  // namespace

std::string error_text(const Error& error) {
  const auto* option = std::find_if(std::begin(kOptions), std::end(kOptions), [&](const auto& o) { return o.first == error.where; });
  if (option == std::end(kOptions)) return error.text();
  return Error{error.code, error.message, std::string(option->second)}.text();
}

std::string printable(std::string text) {
  std::replace_if(
      text.begin(), text.end(),
      [](char c) { return (static_cast<uint8_t>(c) < 0x20 && c != '\n' && c != '\t') || c == 0x7f; }, '?');
  return text;
}

int fail(const Error& error) {
  say("error: {}", error_text(error));
  return exit_code(error.code);
}

int print_report(std::string_view text) {
  const bool written = std::fwrite(text.data(), 1, text.size(), stdout) == text.size() && std::fflush(stdout) == 0;
  // A reader that has seen enough (head, less) is no failure.
  if (written || errno == EPIPE) return kFine;
  return fail({ErrorCode::io, std::string("cannot write the report: ") + std::strerror(errno), "standard output"});
}

}  // namespace retrovisor::cli
