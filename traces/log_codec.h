// Payload of log chunks: events and digests by columns, delta coded.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "traces/format.h"
#include "traces/varint.h"
#include "vmm/result.h"

namespace retrovisor {

namespace fb {
struct Log;
struct Digest;
}  // namespace fb

inline constexpr uint8_t kDigestMark = 255;  // in the column of kinds
inline constexpr uint32_t kMaxLogItems = uint32_t{1} << 22;
inline constexpr size_t kMaxDigestPages = size_t{1} << 20;  // more pages than this are left out of a digest

// Values that follow guest time are coded relative to the position, which runs with it: deadlines of timers and TSC
// values then differ from one event to the next only by idle time.
struct LogPredictor {
  std::array<std::array<uint64_t, 3>, kEventKinds> last{};
  static uint64_t bias(EventKind kind, size_t column, Position at) {
    const bool follows_time = (kind == EventKind::timer && column == 1) || (kind == EventKind::tsc_read && column == 0);
    return follows_time ? at.value : 0;
  }
  std::array<uint64_t, 3>& of(EventKind kind) { return last[static_cast<size_t>(kind)]; }
};

// Collects events and digests until they are made into a payload.
class LogEncoder {
 public:
  // Positions must not decrease (RV_ASSERT); `data` only with boundary events, at most kMaxEventData bytes.
  void event(const JournalEvent& e, std::span<const uint8_t> data);
  // `fields`: coded by encode_fields; `self_contained`: against nothing.
  void digest(const DigestRecord& d, std::vector<uint8_t> fields, bool self_contained);

  bool empty() const { return count_ == 0; }
  uint32_t count() const { return count_; }
  // Bytes collected; the payload will be a little larger.
  size_t raw_size() const { return raw_size_; }
  // Position of the last event or digest ever given.
  Position last_position() const { return last_; }
  // The payload; what was collected is gone. `through`: position up to which nothing is missing.
  std::vector<uint8_t> finish(Position through);

 private:
  struct CodedDigest {
    StateDigest state;
    DigestDetail detail{};
    bool at_stop = false;
    bool self_contained = false;
    std::vector<uint8_t> fields;
    MemoryBuckets buckets{};
    std::vector<uint8_t> pages;
    std::vector<uint32_t> page_hashes;
  };
  void advance(Position to);

  LogPredictor predictor_;
  Position base_;
  Position last_;
  uint32_t count_ = 0;
  size_t raw_size_ = 0;
  std::vector<uint8_t> kinds_, positions_, vcpus_, data_sizes_, data_;
  std::array<std::vector<uint8_t>, 3> values_;
  std::vector<CodedDigest> digests_;
};

// Reads a payload back, item by item. The payload is hostile; errors have no `where`.
class LogDecoder {
 public:
  // What next() found. Of a digest, fields are still coded.
  struct Item {
    bool is_digest = false;
    TraceEvent event;
    DigestRecord digest;
    std::span<const uint8_t> coded_fields;
    bool self_contained = false;
  };

  // `payload` is kept. `last`: position of the item before. `mask`: journal kinds that the trace may hold.
  static Result<std::unique_ptr<LogDecoder>> open(std::vector<uint8_t> payload, Position last, EventMask mask);

  Position through() const { return through_; }
  bool at_end() const { return index_ == count_; }
  // Only while !at_end(). After the last item, checks that nothing is left over.
  Result<void> next(Item& out);

 private:
  LogDecoder() = default;
  Result<void> read_digest(const fb::Digest* in, Item& out) const;

  std::vector<uint8_t> payload_;
  const fb::Log* log_ = nullptr;
  EventMask mask_ = 0;
  LogPredictor predictor_;
  Position position_;
  Position through_;
  uint32_t index_ = 0;
  uint32_t count_ = 0;
  uint32_t next_digest_ = 0;
  ByteCursor kinds_, positions_, vcpus_, data_sizes_, data_;
  std::array<ByteCursor, 3> values_;
  std::array<bool, 3> has_values_{};
  bool has_vcpus_ = false;
};

}  // namespace retrovisor
