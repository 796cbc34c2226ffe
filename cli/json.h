// What the tool says as JSON: values of nlohmann-json whose keys stay in the order in which they were added.
#pragma once

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <string>

namespace retrovisor::cli {

using Json = nlohmann::ordered_json;

// 64-bit values that are no counts (digests, registers) as "0x…": readers lose precision beyond 53 bits.
std::string json_hex(uint64_t value);

// The document: indented, one value per line; or on one line of its own (JSON Lines). Strings of traces and images are hostile:
// what is no UTF-8 in them becomes U+FFFD.
std::string json_text(const Json& document);
std::string json_line(const Json& document);

}  // namespace retrovisor::cli
