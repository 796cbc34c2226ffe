#include "traces/reader.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "traces/fields.h"
#include "traces/payloads.h"

namespace retrovisor {
namespace {

Error bad(std::string message) { return {ErrorCode::bad_trace, std::move(message), {}}; }

}  // namespace

Error TraceReader::at(Error error, uint64_t offset) const {
  if (error.where.empty()) error.where = fmt::format("{}, file offset {}", path_, offset);
  return error;
}

Result<std::unique_ptr<TraceReader>> TraceReader::open(const std::string& path, Options options) {
  // O_NONBLOCK: a FIFO must not hang us before we see what it is.
  const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
  if (fd < 0) return Error{ErrorCode::io, fmt::format("cannot open the trace: {}", std::strerror(errno)), path};
  struct stat info {};
  const bool known = ::fstat(fd, &info) == 0;
  const uint64_t size = known && S_ISREG(info.st_mode) ? static_cast<uint64_t>(info.st_size) : 0;
  std::unique_ptr<TraceReader> out(new TraceReader(path, fd, size));
  out->key_frames_ = options.key_frames;
  if (!known) return Error{ErrorCode::io, fmt::format("cannot open the trace: {}", std::strerror(errno)), path};
  if (!S_ISREG(info.st_mode)) return Error{ErrorCode::bad_trace, "not a regular file", path};
  if (size == 0) return out->at(bad("the file is empty"), 0);

  std::array<uint8_t, kFileHeaderSize> head{};
  const size_t have = static_cast<size_t>(std::min<uint64_t>(size, head.size()));
  RV_TRY(out->read_bytes(0, {head.data(), have}));
  if (std::memcmp(head.data(), kFileMagic.data(), std::min(have, kFileMagic.size())) != 0)
    return out->at(bad("not a Retrovisor trace: the magic number is wrong"), 0);
  if (have < head.size()) return out->at(bad("the file ends within its header"), size);
  uint32_t version = 0;
  std::memcpy(&version, head.data() + kFileMagic.size(), sizeof version);
  if (version > kTraceFormatVersion)
    return out->at(bad(fmt::format("trace format version {} is newer than this build, which reads version {}", version,
                                   kTraceFormatVersion)),
                   kFileMagic.size());
  if (version == 0) return out->at(bad("trace format version 0 does not exist"), kFileMagic.size());

  out->chunk_end_ = kFileHeaderSize;
  std::vector<uint8_t> payload;
  RV_TRY(auto more, out->read_chunk(Payload::decode, payload));
  if (!more) return out->at(bad("the trace ends within its header chunk: nothing was recorded"), size);
  auto header = decode_header(payload, version);
  if (!header) return out->at(header.error(), out->chunk_begin_);
  out->header_ = std::move(*header);
  if (out->header_.machine_model != kMachineModelVersion && !options.any_machine_model)
    return out->at(bad(fmt::format("the trace was recorded with machine model {}; this build has machine model {}",
                                   out->header_.machine_model, kMachineModelVersion)),
                   out->chunk_begin_);
  return out;
}

TraceReader::~TraceReader() {
  if (fd_ >= 0) ::close(fd_);
}

Result<void> TraceReader::read_bytes(uint64_t offset, std::span<uint8_t> out) const {
  size_t done = 0;
  while (done < out.size()) {
    const ssize_t n = ::pread(fd_, out.data() + done, out.size() - done, static_cast<off_t>(offset + done));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return at({ErrorCode::io, fmt::format("cannot read the trace: {}", std::strerror(errno)), {}}, offset + done);
    if (n == 0) return at({ErrorCode::io, "the trace became shorter while it was read", {}}, offset + done);
    done += static_cast<size_t>(n);
  }
  return {};
}

Result<bool> TraceReader::read_chunk(Payload what, std::vector<uint8_t>& payload) {
  const uint64_t offset = chunk_end_;
  const uint64_t left = file_size_ - offset;
  torn_bytes_ = 0;
  if (left == 0) return false;
  if (ended_) return at(bad(fmt::format("{} bytes follow the end marker", left)), offset);
  if (left < kChunkHeaderSize) {
    torn_bytes_ = left;
    return false;
  }
  std::array<uint8_t, kChunkHeaderSize> head{};
  RV_TRY(read_bytes(offset, head));
  const auto header = ChunkCodec::decode_header(head, seed_);
  if (!header) return at(header.error(), offset);
  if (header->sequence != sequence_)
    return at(bad(fmt::format("chunk {} where chunk {} is expected", header->sequence, sequence_)), offset);
  if ((sequence_ == 0) != (header->kind == ChunkKind::header))
    return at(bad(sequence_ == 0 ? fmt::format("the first chunk is of kind {}, not a header", to_string(header->kind))
                                 : "a second header chunk"),
              offset);
  // The header is sound, so the length is true and the file was cut off.
  if (left - kChunkHeaderSize < header->stored_size) {
    torn_bytes_ = left;
    return false;
  }
  if (what != Payload::skip) {
    std::vector<uint8_t> stored(header->stored_size);
    RV_TRY(read_bytes(offset + kChunkHeaderSize, stored));
    if (what == Payload::decode) {
      auto raw = codec_.decode_payload(*header, head, stored, seed_);
      if (!raw) return at(raw.error(), offset);
      payload = std::move(*raw);
    } else if (auto sound = ChunkCodec::check_payload(*header, head, stored, seed_); !sound) {
      return at(sound.error(), offset);
    }
  }
  if (sequence_ == 0) seed_ = header->checksum;
  chunk_begin_ = offset;
  chunk_end_ = offset + kChunkHeaderSize + header->stored_size;
  chunk_raw_size_ = header->raw_size;
  chunk_kind_ = header->kind;
  ++sequence_;
  return true;
}

Result<TraceItem> TraceReader::log_item() {
  RV_TRY(log_->next(item_));
  ++items_;
  if (!item_.is_digest) {
    last_ = item_.event.event.position;
    ++events_;
    return TraceItem(std::move(item_.event));
  }
  last_ = item_.digest.position;
  last_digest_ = {last_, item_.digest.state};
  ++digests_;
  if (item_.digest.detail != DigestDetail::sums) {
    if (names_ == nullptr) return bad("a digest has fields before their names are known");
    if (item_.self_contained) fields_.assign(names_->size(), FieldValue{});
    fields_known_ = fields_known_ || item_.self_contained;
    item_.digest.names = names_;
    if (fields_known_) {
      RV_TRY(decode_fields(item_.coded_fields, item_.self_contained, fields_));
      item_.digest.fields = fields_;
    }
  }
  return TraceItem(std::move(item_.digest));
}

Result<TraceItem> TraceReader::key_frame(std::span<const uint8_t> payload) {
  RV_TRY(auto frame, decode_key_frame(payload));
  if (frame.position < last_) return bad("a key frame goes back in position");
  if (frame.part != 0 && frame.part == key_frame_part_ && (frame.parts != key_frame_parts_ || frame.position != last_))
    return bad(fmt::format("part {} of another key frame", frame.part));
  if (frame.part != key_frame_part_)
    return bad(fmt::format("part {} of a key frame where part {} is expected", frame.part, key_frame_part_));
  if (frame.part == 0) {
    if (frame.events != events_ || frame.digests != digests_)
      return bad(fmt::format("a key frame counts {} events and {} digests before it, the trace has {} and {}", frame.events,
                             frame.digests, events_, digests_));
    if (last_digest_ && last_digest_->first == frame.position && last_digest_->second != frame.state)
      return bad("a key frame has other sums than the digest at its position");
    key_frame_extent_ = {chunk_begin_, chunk_end_, sequence_ - 1, sequence_, 0};
  }
  extend_key_frame();
  last_ = frame.position;
  through_ = std::max(through_, last_);
  key_frame_parts_ = frame.parts;
  key_frame_part_ = frame.part + 1 == frame.parts ? 0 : frame.part + 1;
  return TraceItem(std::move(frame));
}

// The last chunk read is one more of the key frame.
void TraceReader::extend_key_frame() {
  key_frame_extent_.end = chunk_end_;
  key_frame_extent_.end_sequence = sequence_;
  key_frame_extent_.raw_bytes += chunk_raw_size_;
}

Result<bool> TraceReader::pass_key_frame() {
  const Payload what = key_frames_ == KeyFrames::check ? Payload::check : Payload::skip;
  std::vector<uint8_t> unused;
  while (key_frame_part_ != 0) {
    RV_TRY(const auto more, read_chunk(what, unused));
    if (!more) return false;
    if (chunk_kind_ != ChunkKind::key_frame) return at(bad("a key frame lacks its last parts"), chunk_begin_);
    extend_key_frame();
    if (++key_frame_part_ == key_frame_parts_) key_frame_part_ = 0;
  }
  return true;
}

Result<TraceItem> TraceReader::end(std::span<const uint8_t> payload) {
  RV_TRY(const auto record, decode_end(payload));
  if (record.position < last_ || record.position < through_) return bad("the end marker goes back in position");
  if (record.events != events_ || record.digests != digests_)
    return bad(fmt::format("the end marker counts {} events and {} digests, the trace has {} and {}", record.events,
                           record.digests, events_, digests_));
  last_ = through_ = record.position;
  ended_ = true;
  return TraceItem(record);
}

Result<std::optional<TraceItem>> TraceReader::advance() {
  for (;;) {
    if (log_ != nullptr && !log_->at_end()) {
      auto item = log_item();
      if (!item) return at(item.error(), chunk_begin_);
      return std::optional<TraceItem>(std::move(*item));
    }
    log_.reset();
    std::vector<uint8_t> payload;
    RV_TRY(const auto more, read_chunk(Payload::decode, payload));
    if (!more) return std::optional<TraceItem>();
    if (key_frame_part_ != 0 && chunk_kind_ != ChunkKind::key_frame)
      return at(bad("a key frame lacks its last parts"), chunk_begin_);
    switch (chunk_kind_) {
      case ChunkKind::log: {
        // Not before what the log so far is said to be whole up to.
        auto log = LogDecoder::open(std::move(payload), std::max(last_, through_), header_.journal_mask);
        if (!log) return at(log.error(), chunk_begin_);
        log_ = std::move(*log);
        items_ = 0;
        chunk_last_ = last_;
        through_ = log_->through();
        break;
      }
      case ChunkKind::field_names: {
        auto names = decode_field_names(payload);
        if (!names) return at(names.error(), chunk_begin_);
        names_ = std::make_shared<const std::vector<std::string>>(std::move(*names));
        fields_known_ = false;
        break;
      }
      case ChunkKind::key_frame: {
        auto item = key_frame(payload);
        if (!item) return at(item.error(), chunk_begin_);
        if (key_frames_ != KeyFrames::decode) {
          RV_TRY(const auto whole, pass_key_frame());
          if (!whole) return std::optional<TraceItem>();
        }
        return std::optional<TraceItem>(std::move(*item));
      }
      case ChunkKind::end: {
        auto item = end(payload);
        if (!item) return at(item.error(), chunk_begin_);
        return std::optional<TraceItem>(std::move(*item));
      }
      case ChunkKind::header: return at(bad("a second header chunk"), chunk_begin_);
    }
  }
}

Result<std::optional<TraceItem>> TraceReader::next() {
  if (error_) return *error_;
  auto item = advance();
  if (!item) error_ = item.error();
  return item;
}

TraceReader::Mark TraceReader::mark() const {
  Mark m;
  const bool inside = log_ != nullptr && !log_->at_end();
  m.chunk_offset = inside ? chunk_begin_ : chunk_end_;
  m.sequence = inside ? sequence_ - 1 : sequence_;
  m.items = inside ? items_ : 0;
  m.last = inside ? chunk_last_ : last_;
  m.through = through_;
  m.events = events_;
  m.digests = digests_;
  m.key_frame_part = key_frame_part_;
  m.key_frame_parts = key_frame_parts_;
  m.names = names_;
  m.ended = ended_;
  return m;
}

Result<void> TraceReader::seek(const Mark& m) {
  error_.reset();
  log_.reset();
  chunk_end_ = m.chunk_offset;
  sequence_ = m.sequence;
  last_ = m.last;
  // Of the chunk that is read again; its own goes further.
  through_ = m.items != 0 ? m.last : m.through;
  key_frame_part_ = m.key_frame_part;
  key_frame_parts_ = m.key_frame_parts;
  names_ = m.names;
  fields_known_ = false;
  last_digest_.reset();
  events_ = m.events;
  digests_ = m.digests;
  ended_ = m.ended;
  for (uint32_t i = 0; i < m.items; ++i) {
    RV_TRY(auto item, next());
    if (!item.has_value()) return at(bad("the trace changed while it was read"), m.chunk_offset);
  }
  events_ = m.events;
  digests_ = m.digests;
  return {};
}

}  // namespace retrovisor
