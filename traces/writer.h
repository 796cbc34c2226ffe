// Writes a trace. The file is usable up to its last whole chunk whenever the writer dies.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "traces/chunk.h"
#include "traces/format.h"
#include "traces/log_codec.h"
#include "vmm/result.h"

namespace retrovisor {

// Raw bytes that are collected before they become a chunk, unless flush() comes first.
inline constexpr size_t kLogChunkTarget = size_t{64} << 10;

// After a failed write (disk full) the file is cut back to its last whole chunk, everything that follows is dropped, and
// every call that returns a Result returns the first error.
class TraceWriter {
 public:
  // Creates or replaces the file and writes its header. There is no end marker until end(), which is what tells an
  // unfinished trace from a whole one.
  static Result<std::unique_ptr<TraceWriter>> create(const std::string& path, const TraceHeader& header);
  // Writes what is still collected, as well as it can.
  ~TraceWriter();
  TraceWriter(const TraceWriter&) = delete;
  TraceWriter& operator=(const TraceWriter&) = delete;

  // Positions must not decrease from one call to the next, over all calls. Journal kinds must be in the header's mask.
  void event(const JournalEvent& e);
  void boundary_event(EventKind kind, Position at, uint64_t a, uint64_t b, uint64_t c, std::span<const uint8_t> data);
  void digest(const DigestRecord& d);
  // One part of a key frame; all its parts follow each other. Collected events come before it, and digests that come after
  // it lean on nothing before it, so that a reader can begin there. Its counts are filled in here.
  void key_frame(KeyFrame frame);

  // Makes a chunk of what is collected. `through`: position up to which the run is recorded.
  Result<void> flush(Position through);
  // Writes the end marker and closes the file. With `sync` the file is on disk when this returns.
  // `faults`: of a triple fault.
  Result<void> end(Position at, Stop stop, const StateDigest& state, bool sync = false,
                   const std::vector<ChainedFault>& faults = {});

  bool failed() const { return error_.has_value(); }
  // Only if failed().
  const Error& error() const { return *error_; }
  const TraceHeader& header() const { return header_; }
  // Bytes in the file: whole chunks.
  uint64_t size() const { return committed_; }
  // Position up to which the file tells everything.
  Position kept_through() const { return kept_through_; }
  uint64_t events() const { return events_; }
  uint64_t digests() const { return digests_; }
  bool pending() const { return !log_.empty(); }

 private:
  TraceWriter(std::string path, int fd, const TraceHeader& header) : path_(std::move(path)), fd_(fd), header_(header) {}
  void write_chunk(ChunkKind kind, std::span<const uint8_t> payload, std::vector<uint8_t> prefix = {});
  void write_log(Position through);
  void commit(std::span<const uint8_t> bytes);
  void fail(const std::string& what, int error_number);
  void close_file();

  std::string path_;
  int fd_ = -1;
  TraceHeader header_;
  ChunkCodec codec_;
  LogEncoder log_;
  FieldNames names_;
  std::vector<FieldValue> fields_;  // of the last digest
  uint64_t digests_since_full_ = 0;
  ChecksumSeed seed_ = 0;
  uint32_t sequence_ = 0;
  uint64_t committed_ = 0;
  Position kept_through_;
  uint64_t events_ = 0;
  uint64_t digests_ = 0;
  std::optional<Error> error_;
};

}  // namespace retrovisor
