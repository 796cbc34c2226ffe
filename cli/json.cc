#include "cli/json.h"

#include <fmt/format.h>

#include <nlohmann/json.hpp>

namespace retrovisor::cli {
namespace {

constexpr auto kReplace = Json::error_handler_t::replace;  // the others throw, or drop bytes unseen

}  // namespace

std::string json_hex(uint64_t value) { return fmt::format("0x{:016x}", value); }

std::string json_text(const Json& document) { return document.dump(2, ' ', false, kReplace) + "\n"; }

std::string json_line(const Json& document) { return document.dump(-1, ' ', false, kReplace) + "\n"; }

}  // namespace retrovisor::cli
