// Our own words: to standard error, so that standard output is the guest's or the report's alone.
#pragma once

#include <fmt/format.h>

#include <string>
#include <string_view>
#include <utility>

#include "vmm/result.h"

namespace retrovisor::cli {

// `text` without control characters but newline and tab: names in traces are hostile, and terminals obey what they are
// shown.
std::string printable(std::string text);

template <class... Args>
void say(fmt::format_string<Args...> format, Args&&... args) {
  fmt::print(stderr, "retrovisor: {}\n", printable(fmt::format(format, std::forward<Args>(args)...)));
}

// "message (where)", where a place that the command line has an option for is shown by the option's name.
std::string error_text(const Error& error);
// Tells the error; returns its exit code.
int fail(const Error& error);
// Writes a report to standard output; returns the exit code.
int print_report(std::string_view text);

}  // namespace retrovisor::cli
