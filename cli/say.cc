#include "cli/say.h"

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <cstdio>
#include <cstring>

#include "cli/exit_codes.h"

namespace retrovisor::cli {

std::string printable(std::string text) {
  std::replace_if(
      text.begin(), text.end(),
      [](char c) { return (static_cast<uint8_t>(c) < 0x20 && c != '\n' && c != '\t') || c == 0x7f; }, '?');
  return text;
}

int fail(const Error& error) {
  say("error: {}", error.text());
  return exit_code(error.code);
}

int print_report(std::string_view text) {
  const bool written = std::fwrite(text.data(), 1, text.size(), stdout) == text.size() && std::fflush(stdout) == 0;
  // A reader that has seen enough (head, less) is no failure.
  if (written || errno == EPIPE) return kFine;
  return fail({ErrorCode::io, std::string("cannot write the report: ") + std::strerror(errno), "standard output"});
}

}  // namespace retrovisor::cli
