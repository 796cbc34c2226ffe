#include "traces/writer.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "traces/fields.h"
#include "traces/payloads.h"

namespace retrovisor {
namespace {

// Every so many digests one lists all fields, so that a reader which starts in the middle knows them soon.
constexpr uint64_t kFullFieldsEvery = 64;

}  // namespace

Result<std::unique_ptr<TraceWriter>> TraceWriter::create(const std::string& path, const TraceHeader& header) {
  const int fd = ::open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOCTTY, 0666);
  if (fd < 0) return Error{ErrorCode::io, fmt::format("cannot create the trace: {}", std::strerror(errno)), path};
  std::unique_ptr<TraceWriter> out(new TraceWriter(path, fd, header));
  std::vector<uint8_t> prefix(kFileMagic.begin(), kFileMagic.end());
  for (unsigned i = 0; i < 4; ++i) prefix.push_back(static_cast<uint8_t>(kTraceFormatVersion >> (8 * i)));
  const std::vector<uint8_t> payload = encode_header(header);
  if (payload.size() > kMaxRawSize) return Error{ErrorCode::bad_argument, "the trace's header would be too large", path};
  out->write_chunk(ChunkKind::header, payload, std::move(prefix));
  if (out->failed()) return out->error();
  return out;
}

TraceWriter::~TraceWriter() {
  if (fd_ < 0) return;
  write_log(log_.last_position());
  close_file();
}

void TraceWriter::fail(const std::string& what, int error_number) {
  if (error_) return;
  // Back to the last whole chunk. Where this fails (a device, a pipe) the reader finds a torn chunk and drops it.
  if (fd_ >= 0 && ::ftruncate(fd_, static_cast<off_t>(committed_)) != 0) errno = 0;
  error_ = Error{ErrorCode::io,
                 fmt::format("{}: {}; the trace holds the run up to position {}", what, std::strerror(error_number),
                             kept_through_.value),
                 path_};
}

void TraceWriter::close_file() {
  // Network file systems report a full disk only here.
  if (fd_ >= 0 && ::close(fd_) != 0 && errno != EINTR) {
    const int error_number = errno;
    fd_ = -1;
    fail("cannot write the trace", error_number);
  }
  fd_ = -1;
}

void TraceWriter::commit(std::span<const uint8_t> bytes) {
  size_t done = 0;
  while (done < bytes.size()) {
    const ssize_t n = ::write(fd_, bytes.data() + done, bytes.size() - done);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return fail("cannot write the trace", n < 0 ? errno : EIO);
    done += static_cast<size_t>(n);
  }
  committed_ += bytes.size();
}

void TraceWriter::write_chunk(ChunkKind kind, std::span<const uint8_t> payload, std::vector<uint8_t> prefix) {
  if (failed() || fd_ < 0) return;
  std::vector<uint8_t> bytes = std::move(prefix);
  const auto checksum = codec_.encode(kind, sequence_, seed_, payload, bytes);
  if (!checksum) {
    fail(checksum.error().message, ENOMEM);
    return;
  }
  commit(bytes);
  if (failed()) return;
  if (sequence_ == 0) seed_ = *checksum;
  ++sequence_;
}

void TraceWriter::write_log(Position through) {
  if (log_.empty()) return;
  write_chunk(ChunkKind::log, log_.finish(through));
  if (!failed()) kept_through_ = through;
}

void TraceWriter::event(const JournalEvent& e) {
  if (failed()) return;
  log_.event(e, {});
  ++events_;
  if (log_.raw_size() >= kLogChunkTarget) write_log(e.position);
}

void TraceWriter::boundary_event(EventKind kind, Position at, uint64_t a, uint64_t b, uint64_t c,
                                 std::span<const uint8_t> data) {
  RV_ASSERT(is_boundary(kind));
  if (failed()) return;
  log_.event({kind, VcpuId(0), at, a, b, c}, data);
  ++events_;
  if (log_.raw_size() >= kLogChunkTarget) write_log(at);
}

void TraceWriter::digest(const DigestRecord& d) {
  if (failed()) return;
  std::vector<uint8_t> coded;
  bool self_contained = false;
  if (d.detail != DigestDetail::sums) {
    RV_ASSERT(d.names != nullptr && d.fields.size() == d.names->size());
    if (names_ != d.names && (names_ == nullptr || *names_ != *d.names)) {
      write_log(log_.last_position());
      write_chunk(ChunkKind::field_names, encode_field_names(*d.names));
      fields_.clear();
    }
    names_ = d.names;
    self_contained = fields_.empty() || digests_since_full_ >= kFullFieldsEvery;
    if (self_contained) digests_since_full_ = 0;
    ++digests_since_full_;
    coded = encode_fields(self_contained ? std::span<const FieldValue>() : fields_, d.fields);
    fields_ = d.fields;
  }
  log_.digest(d, std::move(coded), self_contained);
  ++digests_;
  if (log_.raw_size() >= kLogChunkTarget) write_log(d.position);
}

void TraceWriter::key_frame(KeyFrame frame) {
  if (failed()) return;
  write_log(frame.position);
  if (frame.part == 0) {
    frame.events = events_;
    frame.digests = digests_;
  }
  const std::vector<uint8_t> payload = encode_key_frame(frame);
  RV_ASSERT(payload.size() <= kMaxRawSize);
  write_chunk(ChunkKind::key_frame, payload);
  if (!failed()) kept_through_ = std::max(kept_through_, frame.position);
  names_.reset();
  fields_.clear();
}

Result<void> TraceWriter::flush(Position through) {
  write_log(through);
  if (failed()) return error();
  return {};
}

Result<void> TraceWriter::end(Position at, Stop stop, const StateDigest& state, bool sync,
                               const std::vector<ChainedFault>& faults) {
  RV_ASSERT(fd_ >= 0);
  write_log(at);
  write_chunk(ChunkKind::end, encode_end({at, stop, state, events_, digests_, faults}));
  if (!failed()) kept_through_ = at;
  // Devices and pipes cannot be synced; that is no failure.
  if (!failed() && sync && ::fsync(fd_) != 0 && errno != EINVAL && errno != EROFS) fail("cannot write the trace", errno);
  close_file();
  if (failed()) return error();
  return {};
}

}  // namespace retrovisor
