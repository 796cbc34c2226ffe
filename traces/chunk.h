// Framing of a trace: the file header, and chunks of compressed payload under checksums.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "vmm/result.h"

namespace retrovisor {

// The first 16 bytes of a file: 12 of magic, then the format version as u32. All numbers are little endian.
inline constexpr size_t kFileHeaderSize = 16;
inline constexpr std::array<uint8_t, 12> kFileMagic{0x89, 'R', 'E', 'T', 'R', 'O', 'V', 'I', 'S', 'O', 'R', '\n'};

enum class ChunkKind : uint8_t { header = 1, log = 2, field_names = 3, key_frame = 4, end = 5 };
std::string_view to_string(ChunkKind kind);

// Limits for what a reader allocates. The writer stays far below: it closes a chunk at 64 KiB of raw payload.
inline constexpr uint32_t kMaxRawSize = uint32_t{16} << 20;
inline constexpr uint32_t kMaxStoredSize = kMaxRawSize + (kMaxRawSize >> 7);

// On disk, 32 bytes: u32 stored size, u32 raw size, u32 sequence number, u8 kind, u8 encoding (1: zstd), u16 zero,
// u64 XXH3-64 of the 16 bytes before and the stored payload, u64 XXH3-64 of the 24 bytes before.
// The last one tells a damaged length from a file that was cut off.
inline constexpr size_t kChunkHeaderSize = 32;
struct ChunkHeader {
  uint32_t stored_size = 0;
  uint32_t raw_size = 0;
  uint32_t sequence = 0;  // 0 for the header chunk, one more for each
  ChunkKind kind{};
  uint64_t checksum = 0;
};

// Both checksums are seeded: with 0 in the header chunk, with the header chunk's payload checksum in all others, so that
// chunks of different traces cannot be mixed.
using ChecksumSeed = uint64_t;

// Encodes and decodes chunks; holds the compressor's memory.
class ChunkCodec {
 public:
  ChunkCodec();
  ~ChunkCodec();
  ChunkCodec(const ChunkCodec&) = delete;
  ChunkCodec& operator=(const ChunkCodec&) = delete;

  // Appends a whole chunk to `out`. `raw` is at most kMaxRawSize bytes. Returns the payload checksum.
  Result<uint64_t> encode(ChunkKind kind, uint32_t sequence, ChecksumSeed seed, std::span<const uint8_t> raw,
                          std::vector<uint8_t>& out);
  // Parses and checks a chunk header (kChunkHeaderSize bytes): its own checksum first, then every field.
  // Errors have no `where`.
  static Result<ChunkHeader> decode_header(std::span<const uint8_t> bytes, ChecksumSeed seed);
  // Only the check of decode_payload().
  static Result<void> check_payload(const ChunkHeader& header, std::span<const uint8_t> header_bytes,
                                    std::span<const uint8_t> stored, ChecksumSeed seed);
  // Checks and decompresses the payload of a chunk. `header_bytes` are the bytes `header` came from.
  Result<std::vector<uint8_t>> decode_payload(const ChunkHeader& header, std::span<const uint8_t> header_bytes,
                                              std::span<const uint8_t> stored, ChecksumSeed seed);

 private:
  struct Contexts;
  std::unique_ptr<Contexts> contexts_;
};

}  // namespace retrovisor
