#include "traces/chunk.h"

#include <fmt/format.h>
#include <xxhash.h>
#include <zstd.h>

#include <cstring>

namespace retrovisor {
namespace {

constexpr uint8_t kEncodingZstd = 1;
// Small chunks gain little from higher levels, and a full journal is written at millions of events a second.
constexpr int kZstdLevel = 3;
constexpr size_t kPrefixSize = 16;  // header bytes under the payload checksum
constexpr size_t kHeaderSumAt = 24;

template <class T>
void put(uint8_t* at, T v) {
  std::memcpy(at, &v, sizeof v);  // the host is little endian (x86-64)
}
template <class T>
T get(const uint8_t* at) {
  T v;
  std::memcpy(&v, at, sizeof v);
  return v;
}

struct XxhStateDeleter {
  void operator()(XXH3_state_t* s) const { XXH3_freeState(s); }
};

uint64_t payload_sum(std::span<const uint8_t> header_bytes, std::span<const uint8_t> stored, ChecksumSeed seed) {
  const std::unique_ptr<XXH3_state_t, XxhStateDeleter> state(XXH3_createState());
  RV_ASSERT(state != nullptr);
  XXH3_64bits_reset_withSeed(state.get(), seed);
  XXH3_64bits_update(state.get(), header_bytes.data(), kPrefixSize);
  XXH3_64bits_update(state.get(), stored.data(), stored.size());
  return XXH3_64bits_digest(state.get());
}

Error bad(std::string message) { return {ErrorCode::bad_trace, std::move(message), {}}; }

}  // namespace

std::string_view to_string(ChunkKind kind) {
  switch (kind) {
    case ChunkKind::header: return "header";
    case ChunkKind::log: return "log";
    case ChunkKind::field_names: return "field-names";
    case ChunkKind::key_frame: return "key-frame";
    case ChunkKind::end: return "end";
  }
  return "unknown";
}

struct ChunkCodec::Contexts {
  ZSTD_CCtx* compress = nullptr;
  ZSTD_DCtx* decompress = nullptr;
  Contexts() = default;
  Contexts(const Contexts&) = delete;
  Contexts& operator=(const Contexts&) = delete;
  ~Contexts() {
    ZSTD_freeCCtx(compress);
    ZSTD_freeDCtx(decompress);
  }
};

ChunkCodec::ChunkCodec() : contexts_(std::make_unique<Contexts>()) {}
ChunkCodec::~ChunkCodec() = default;

Result<uint64_t> ChunkCodec::encode(ChunkKind kind, uint32_t sequence, ChecksumSeed seed, std::span<const uint8_t> raw,
                                    std::vector<uint8_t>& out) {
  RV_ASSERT(raw.size() <= kMaxRawSize);
  if (contexts_->compress == nullptr) contexts_->compress = ZSTD_createCCtx();
  const size_t begin = out.size();
  out.resize(begin + kChunkHeaderSize + ZSTD_compressBound(raw.size()));
  uint8_t* header = out.data() + begin;
  const size_t room = out.size() - begin - kChunkHeaderSize;
  const size_t stored = contexts_->compress == nullptr ? 0
                                                       : ZSTD_compressCCtx(contexts_->compress, header + kChunkHeaderSize,
                                                                           room, raw.data(), raw.size(), kZstdLevel);
  if (contexts_->compress == nullptr || ZSTD_isError(stored) != 0) {
    out.resize(begin);
    return Error{ErrorCode::io, "the trace's compressor ran out of memory", {}};
  }
  out.resize(begin + kChunkHeaderSize + stored);
  header = out.data() + begin;
  put(header + 0, static_cast<uint32_t>(stored));
  put(header + 4, static_cast<uint32_t>(raw.size()));
  put(header + 8, sequence);
  put(header + 12, static_cast<uint8_t>(kind));
  put(header + 13, kEncodingZstd);
  put(header + 14, uint16_t{0});
  const uint64_t checksum = payload_sum({header, kChunkHeaderSize}, {header + kChunkHeaderSize, stored}, seed);
  put(header + 16, checksum);
  put(header + kHeaderSumAt, XXH3_64bits_withSeed(header, kHeaderSumAt, seed));
  return checksum;
}

Result<ChunkHeader> ChunkCodec::decode_header(std::span<const uint8_t> bytes, ChecksumSeed seed) {
  RV_ASSERT(bytes.size() == kChunkHeaderSize);
  const uint8_t* p = bytes.data();
  if (get<uint64_t>(p + kHeaderSumAt) != XXH3_64bits_withSeed(p, kHeaderSumAt, seed))
    return bad("damaged chunk header: its checksum does not match");
  ChunkHeader out;
  out.stored_size = get<uint32_t>(p + 0);
  out.raw_size = get<uint32_t>(p + 4);
  out.sequence = get<uint32_t>(p + 8);
  out.kind = static_cast<ChunkKind>(p[12]);
  out.checksum = get<uint64_t>(p + 16);
  if (p[12] < 1 || p[12] > static_cast<uint8_t>(ChunkKind::end)) return bad(fmt::format("unknown chunk kind {}", p[12]));
  if (p[13] != kEncodingZstd) return bad(fmt::format("unknown chunk encoding {}", p[13]));
  if (get<uint16_t>(p + 14) != 0) return bad("reserved bytes of a chunk header are not zero");
  if (out.raw_size > kMaxRawSize || out.stored_size > kMaxStoredSize)
    return bad(fmt::format("chunk of {} bytes ({} stored) is larger than the format allows", out.raw_size, out.stored_size));
  return out;
}

Result<void> ChunkCodec::check_payload(const ChunkHeader& header, std::span<const uint8_t> header_bytes,
                                       std::span<const uint8_t> stored, ChecksumSeed seed) {
  RV_ASSERT(stored.size() == header.stored_size);
  if (payload_sum(header_bytes, stored, seed) != header.checksum) return bad("damaged chunk: its checksum does not match");
  return {};
}

Result<std::vector<uint8_t>> ChunkCodec::decode_payload(const ChunkHeader& header, std::span<const uint8_t> header_bytes,
                                                        std::span<const uint8_t> stored, ChecksumSeed seed) {
  RV_ASSERT(header.raw_size <= kMaxRawSize);
  RV_TRY(check_payload(header, header_bytes, stored, seed));
  // One frame, whose size is that of the header: nothing is allocated by what the frame says.
  if (ZSTD_getFrameContentSize(stored.data(), stored.size()) != header.raw_size)
    return bad("size of the compressed chunk differs from its header");
  if (ZSTD_findFrameCompressedSize(stored.data(), stored.size()) != stored.size())
    return bad("the chunk is not one compressed frame");
  if (contexts_->decompress == nullptr) contexts_->decompress = ZSTD_createDCtx();
  if (contexts_->decompress == nullptr) return Error{ErrorCode::io, "the trace's decompressor ran out of memory", {}};
  std::vector<uint8_t> raw(header.raw_size);
  const size_t size = ZSTD_decompressDCtx(contexts_->decompress, raw.data(), raw.size(), stored.data(), stored.size());
  if (ZSTD_isError(size) != 0) return bad(fmt::format("chunk does not decompress: {}", ZSTD_getErrorName(size)));
  if (size != raw.size()) return bad("chunk decompresses to another size than its header says");
  return raw;
}

}  // namespace retrovisor
