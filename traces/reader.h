// Reads a trace front to back, one chunk at a time. The file is hostile: every byte is under a checksum, every buffer is
// verified before use, and memory does not grow with the file.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "traces/chunk.h"
#include "traces/format.h"
#include "traces/log_codec.h"
#include "vmm/result.h"

namespace retrovisor {

class TraceReader {
 public:
  // What is made of key frames, by far the largest part of a trace that has them. In any case next() gives part 0 of each
  // whole one.
  enum class KeyFrames : uint8_t {
    decode,  // all parts, also those of one that was cut off
    check,   // of the other parts the checksums are looked at
    skip,    // of the other parts only the chunks' headers are read
  };
  struct Options {
    // Also open traces of a machine model that this build does not have: to show them, not to replay them.
    bool any_machine_model = false;
    KeyFrames key_frames = KeyFrames::decode;
  };
  // Opens a regular file and reads its header. Errors carry the file offset.
  static Result<std::unique_ptr<TraceReader>> open(const std::string& path, Options options);
  static Result<std::unique_ptr<TraceReader>> open(const std::string& path) { return open(path, Options{}); }
  ~TraceReader();
  TraceReader(const TraceReader&) = delete;
  TraceReader& operator=(const TraceReader&) = delete;

  const TraceHeader& header() const { return header_; }
  const std::string& path() const { return path_; }
  // The next event, digest, key frame or end, in the order of the recording; nothing after the last whole chunk. Positions
  // never decrease. After an error every call returns it again.
  Result<std::optional<TraceItem>> next();

  // Once next() has returned nothing: whether the end marker was there.
  bool complete() const { return ended_; }
  // Position up to which the chunks read so far tell everything.
  Position through() const { return through_; }
  // Offset after the last whole chunk read so far, and the bytes of a torn chunk after it (known at the end).
  uint64_t end_offset() const { return chunk_end_; }
  uint64_t torn_bytes() const { return torn_bytes_; }
  uint64_t file_size() const { return file_size_; }
  // What the last chunk read was, and how many have been.
  ChunkKind chunk_kind() const { return chunk_kind_; }
  uint32_t chunks() const { return sequence_; }

  // Where chunks lie in the file. Valid for other readers of the same file.
  struct Extent {
    uint64_t begin = 0;  // offsets
    uint64_t end = 0;
    uint32_t first_sequence = 0;
    uint32_t end_sequence = 0;
    uint64_t raw_bytes = 0;  // of all payloads, decompressed
  };
  // All chunks of the key frame that next() has just given, as far as they have been passed.
  const Extent& key_frame_extent() const { return key_frame_extent_; }

  // A place between two items, to come back to with seek(). Valid for other readers of the same file.
  // After a seek, digests lack their fields up to the next one that lists all of them.
  struct Mark {
    uint64_t chunk_offset = 0;  // of the next chunk, or of the one being read
    uint32_t sequence = 0;
    uint32_t items = 0;  // already taken from that chunk
    Position last;
    Position through;
    uint64_t events = 0;
    uint64_t digests = 0;
    uint32_t key_frame_part = 0;
    uint32_t key_frame_parts = 0;
    FieldNames names;
    bool ended = false;
  };
  Mark mark() const;
  Result<void> seek(const Mark& mark);

 private:
  TraceReader(std::string path, int fd, uint64_t file_size) : path_(std::move(path)), fd_(fd), file_size_(file_size) {}
  enum class Payload : uint8_t { decode, check, skip };
  // Reads the next chunk, and its payload into `payload`, if that is wanted; false at the end of the file.
  Result<bool> read_chunk(Payload what, std::vector<uint8_t>& payload);
  Result<void> read_bytes(uint64_t offset, std::span<uint8_t> out) const;
  Result<std::optional<TraceItem>> advance();
  Result<TraceItem> log_item();
  Result<TraceItem> key_frame(std::span<const uint8_t> payload);
  void extend_key_frame();
  // Passes the parts of a key frame that follow its first; false: the file ends before its last.
  Result<bool> pass_key_frame();
  Result<TraceItem> end(std::span<const uint8_t> payload);
  Error at(Error error, uint64_t offset) const;

  std::string path_;
  int fd_ = -1;
  uint64_t file_size_ = 0;
  KeyFrames key_frames_ = KeyFrames::decode;
  TraceHeader header_;
  ChunkCodec codec_;
  ChecksumSeed seed_ = 0;
  uint64_t chunk_begin_ = 0;  // of the chunk being read
  uint64_t chunk_end_ = 0;
  uint32_t chunk_raw_size_ = 0;
  ChunkKind chunk_kind_ = ChunkKind::header;
  uint32_t sequence_ = 0;  // of the next chunk
  uint64_t torn_bytes_ = 0;
  std::unique_ptr<LogDecoder> log_;
  LogDecoder::Item item_;
  uint32_t items_ = 0;   // taken from log_
  Position chunk_last_;  // last position before log_
  Position last_;
  Position through_;
  FieldNames names_;
  std::vector<FieldValue> fields_;
  bool fields_known_ = false;
  uint32_t key_frame_part_ = 0;  // expected next, of key_frame_parts_ (0: none is open)
  uint32_t key_frame_parts_ = 0;
  Extent key_frame_extent_;
  std::optional<std::pair<Position, StateDigest>> last_digest_;
  uint64_t events_ = 0;
  uint64_t digests_ = 0;
  bool ended_ = false;
  std::optional<Error> error_;
};

}  // namespace retrovisor
