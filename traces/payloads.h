// Payloads of the small chunks: header, field names, end. Decoders take hostile bytes; their errors have no `where`.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "traces/format.h"
#include "vmm/result.h"

namespace retrovisor {

std::vector<uint8_t> encode_header(const TraceHeader& header);
// Also checks that the payload repeats `format_version`.
Result<TraceHeader> decode_header(std::span<const uint8_t> payload, uint32_t format_version);

std::vector<uint8_t> encode_field_names(const std::vector<std::string>& names);
Result<std::vector<std::string>> decode_field_names(std::span<const uint8_t> payload);

std::vector<uint8_t> encode_key_frame(const KeyFrame& frame);
Result<KeyFrame> decode_key_frame(std::span<const uint8_t> payload);

std::vector<uint8_t> encode_end(const EndRecord& end);
Result<EndRecord> decode_end(std::span<const uint8_t> payload);

}  // namespace retrovisor
