// Files packed by gzip (RFC 1952), as boot loaders unpack kernels.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "vmm/result.h"

namespace retrovisor {

bool is_gzip(std::span<const uint8_t> file);
// The first member's contents, `limit` bytes at most; what follows it is ignored, as boot loaders do.
Result<std::vector<uint8_t>> gunzip(std::span<const uint8_t> file, uint64_t limit);

}  // namespace retrovisor
