// Damaged, cut off and forged traces: an error with an offset or an incomplete trace, never another content.
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <xxhash.h>

#include <algorithm>
#include <csignal>
#include <cstring>
#include <random>

#include "tests/unit/traces/trace_files.h"
#include "traces/chunk.h"
#include "traces/payloads.h"
#include "traces/verify.h"

namespace retrovisor {
namespace {

// Whether `part` is how `whole` begins.
bool is_prefix(const std::vector<TraceItem>& part, const std::vector<TraceItem>& whole) {
  if (part.size() > whole.size()) return false;
  for (size_t i = 0; i < part.size(); ++i)
    if (!same_item(part[i], whole[i])) return false;
  return true;
}

// A file made of hand-written chunks, with right checksums.
class Forge {
 public:
  Forge() {
    bytes_.resize(kFileHeaderSize);
    std::copy(kFileMagic.begin(), kFileMagic.end(), bytes_.begin());
    bytes_[kFileMagic.size()] = 1;
  }
  Forge& chunk(ChunkKind kind, const std::vector<uint8_t>& payload) { return chunk(kind, payload, sequence_); }
  Forge& chunk(ChunkKind kind, const std::vector<uint8_t>& payload, uint32_t sequence) {
    const auto sum = codec_.encode(kind, sequence, seed_, payload, bytes_);
    EXPECT_TRUE(sum.ok());
    if (sequence_++ == 0) seed_ = *sum;
    return *this;
  }
  Forge& header() { return chunk(ChunkKind::header, encode_header(test_header())); }
  Forge& raw(std::initializer_list<uint8_t> bytes) {
    bytes_.insert(bytes_.end(), bytes);
    return *this;
  }
  std::vector<uint8_t>& bytes() { return bytes_; }
  std::string error() const {
    const TempFile file;
    file.write(bytes_);
    const auto summary = verify_trace(file.path());
    return summary ? std::string() : summary.error().text();
  }
  Result<std::vector<TraceItem>> items() const {
    const TempFile file;
    file.write(bytes_);
    return read_all(file.path());
  }

 private:
  ChunkCodec codec_;
  std::vector<uint8_t> bytes_;
  ChecksumSeed seed_ = 0;
  uint32_t sequence_ = 0;
};

std::vector<uint8_t> log_payload(Position at, Position through) {
  LogEncoder log;
  log.event({EventKind::timer, VcpuId(0), at, 1, 2, 3}, {});
  return log.finish(through);
}

void expect_says(const std::string& error, const std::string& part) {
  EXPECT_NE(error.find(part), std::string::npos) << "error: " << error;
  EXPECT_NE(error.find("file offset"), std::string::npos) << "error: " << error;
}

TEST(TraceDamage, rejects_a_flipped_bit_in_every_byte) {
  const TempFile file;
  write_sample(file.path());
  const auto bytes = file.read();
  const TempFile damaged;
  for (size_t i = 0; i < bytes.size(); ++i) {
    auto copy = bytes;
    copy[i] = static_cast<uint8_t>(copy[i] ^ 1u << (i % 8));
    damaged.write(copy);
    const auto summary = verify_trace(damaged.path());
    ASSERT_FALSE(summary.ok()) << "byte " << i;
    ASSERT_EQ(summary.error().code, ErrorCode::bad_trace);
    ASSERT_NE(summary.error().where.find("file offset"), std::string::npos);
  }
}

TEST(TraceDamage, every_truncation_reads_as_incomplete_prefix_or_error) {
  const TempFile file;
  const auto written = write_sample(file.path());
  const auto bytes = file.read();
  const TempFile cut;
  bool read_something = false;
  size_t most = 0;
  for (size_t size = 0; size < bytes.size(); ++size) {
    cut.write({bytes.begin(), bytes.begin() + static_cast<std::ptrdiff_t>(size)});
    const auto summary = verify_trace(cut.path());
    if (!summary.ok()) {
      // Only before the header is whole.
      ASSERT_FALSE(read_something) << "size " << size << ": " << summary.error().text();
      continue;
    }
    read_something = true;
    ASSERT_FALSE(summary->complete());
    ASSERT_EQ(summary->whole_size + summary->torn_bytes, size);
    ASSERT_NE(summary->completeness().find("incomplete (no end marker)"), std::string::npos);
    const auto items = read_all(cut.path());
    ASSERT_TRUE(items.ok());
    ASSERT_TRUE(is_prefix(*items, written));
    ASSERT_GE(items->size(), most);
    most = items->size();
  }
  EXPECT_EQ(most, written.size() - 1);
}

TEST(TraceDamage, flip_in_a_truncated_trace_is_never_another_content) {
  const TempFile file;
  const auto written = write_sample(file.path());
  const auto bytes = file.read();
  const TempFile damaged;
  for (size_t size = bytes.size() - 200; size < bytes.size(); size += 19) {
    for (size_t i = 0; i < size; i += 13) {
      std::vector<uint8_t> copy(bytes.begin(), bytes.begin() + static_cast<std::ptrdiff_t>(size));
      copy[i] ^= 4;
      damaged.write(copy);
      const auto items = read_all(damaged.path());
      if (items.ok()) {
        ASSERT_TRUE(is_prefix(*items, written)) << "size " << size << " byte " << i;
      }
    }
  }
}

TEST(TraceDamage, says_what_is_wrong_with_the_start_of_a_file) {
  const TempFile file;
  const auto error = [&](std::vector<uint8_t> bytes) {
    file.write(bytes);
    const auto reader = TraceReader::open(file.path());
    return reader ? std::string() : reader.error().text();
  };
  expect_says(error({}), "the file is empty");
  expect_says(error({'E', 'L', 'F'}), "not a Retrovisor trace");
  expect_says(error({0x89, 'R', 'E'}), "ends within its header");
  std::vector<uint8_t> newer(kFileMagic.begin(), kFileMagic.end());
  newer.insert(newer.end(), {2, 0, 0, 0});
  expect_says(error(newer), "trace format version 2 is newer than this build, which reads version 1");
  newer[12] = 1;
  expect_says(error(newer), "ends within its header chunk");
  newer[12] = 0;
  expect_says(error(newer), "version 0 does not exist");
  EXPECT_NE(TraceReader::open("/nonexistent/trace").error().text().find("No such file"), std::string::npos);
  EXPECT_NE(TraceReader::open("/dev/null").error().text().find("not a regular file"), std::string::npos);
  EXPECT_NE(TraceReader::open("/tmp").error().text().find("not a regular file"), std::string::npos);
}

TEST(TraceDamage, refuses_unknown_machine_model_by_name_and_still_shows_it) {
  const TempFile file;
  TraceHeader header = test_header();
  header.machine_model = 4711;
  {
    auto writer = TraceWriter::create(file.path(), header);
    ASSERT_TRUE(writer.ok());
    ASSERT_TRUE((*writer)->end(Position(0), {}, {}).ok());
  }
  const auto refused = TraceReader::open(file.path());
  ASSERT_FALSE(refused.ok());
  expect_says(refused.error().text(), "machine model 4711");
  const auto shown = verify_trace(file.path(), {.any_machine_model = true});
  ASSERT_TRUE(shown.ok());
  EXPECT_EQ(shown->header.machine_model, 4711u);
}

TEST(TraceForged, rejects_chunks_out_of_order_or_of_wrong_kind) {
  const auto end = encode_end({Position(9), {}, {}, 0, 0});
  EXPECT_EQ(Forge().header().chunk(ChunkKind::end, end).error(), "");
  expect_says(Forge().header().chunk(ChunkKind::end, end, 2).error(), "chunk 2 where chunk 1 is expected");
  expect_says(Forge().header().chunk(ChunkKind::end, end, 0).error(), "chunk 0 where chunk 1 is expected");
  expect_says(Forge().header().header().error(), "a second header chunk");
  expect_says(Forge().chunk(ChunkKind::end, end).error(), "the first chunk is of kind end");
  expect_says(Forge().header().chunk(static_cast<ChunkKind>(6), end).error(), "unknown chunk kind 6");
  expect_says(Forge().header().chunk(ChunkKind::end, end).raw({0}).error(), "1 bytes follow the end marker");
  expect_says(Forge().header().chunk(ChunkKind::end, end).chunk(ChunkKind::end, end).error(), "follow the end marker");
}

TEST(TraceForged, rejects_chunk_of_another_trace) {
  TraceHeader other = test_header();
  other.command_line = "quiet";
  const auto end = encode_end({Position(9), {}, {}, 0, 0});
  Forge a;
  a.chunk(ChunkKind::header, encode_header(other)).chunk(ChunkKind::end, end);
  Forge b;
  b.header();
  const size_t tail = 32 + 40;
  b.bytes().insert(b.bytes().end(), a.bytes().end() - tail, a.bytes().end());
  EXPECT_NE(b.error(), "");
}

TEST(TraceForged, rejects_positions_that_go_back) {
  expect_says(Forge()
                  .header()
                  .chunk(ChunkKind::log, log_payload(Position(100), Position(200)))
                  .chunk(ChunkKind::log, log_payload(Position(199), Position(300)))
                  .error(),
              "goes back from position 200 to 199");
  expect_says(Forge()
                  .header()
                  .chunk(ChunkKind::log, log_payload(Position(100), Position(200)))
                  .chunk(ChunkKind::end, encode_end({Position(150), {}, {}, 1, 0}))
                  .error(),
              "end marker goes back");
}

TEST(TraceForged, rejects_payloads_that_are_no_flatbuffer) {
  const std::vector<uint8_t> noise(100, 0xee);
  expect_says(Forge().chunk(ChunkKind::header, noise).error(), "header chunk is not a valid FlatBuffer");
  expect_says(Forge().header().chunk(ChunkKind::log, noise).error(), "log chunk is not a valid FlatBuffer");
  expect_says(Forge().header().chunk(ChunkKind::end, noise).error(), "end chunk is not a valid FlatBuffer");
  expect_says(Forge().header().chunk(ChunkKind::key_frame, noise).error(), "key-frame chunk is not a valid FlatBuffer");
  expect_says(Forge().header().chunk(ChunkKind::field_names, noise).error(), "field-names chunk is not a valid FlatBuffer");
  expect_says(Forge().header().chunk(ChunkKind::log, {}).error(), "log chunk is not a valid FlatBuffer");
}

Position position_of(const TraceItem& item) {
  if (const auto* event = std::get_if<TraceEvent>(&item)) return event->event.position;
  const auto* digest = std::get_if<DigestRecord>(&item);
  EXPECT_NE(digest, nullptr) << "neither an event nor a digest";
  return digest != nullptr ? digest->position : kNoPosition;
}

// Every byte of a log payload changed, with right checksums. Either an error with its offset; or as many items as were written, in
// order, none beyond where the log ends, each of a kind and a vCPU that there is. Run under ASan, too.
TEST(TraceForged, reads_every_changed_byte_of_a_log_payload_as_an_error_or_as_items_in_bounds) {
  LogEncoder log;
  const FieldNames names = test_names(5);
  const DigestRecord d = test_digest(Position(3), 1, names);
  log.event({EventKind::timer, VcpuId(1), Position(1), 1, 2, 3}, {});
  log.event({EventKind::console_input, VcpuId(0), Position(2), 0, 0, 0}, std::vector<uint8_t>(5, 1));
  log.digest(d, encode_fields({}, d.fields), true);
  const auto payload = log.finish(Position(9));
  unsigned read = 0, refused = 0;
  for (size_t i = 0; i < payload.size(); ++i) {
    for (const uint8_t value : {uint8_t{0}, uint8_t{1}, uint8_t{0x7f}, uint8_t{0x80}, uint8_t{0xff}}) {
      auto changed = payload;
      changed[i] = value;
      Forge forge;
      forge.header().chunk(ChunkKind::field_names, encode_field_names(*names)).chunk(ChunkKind::log, changed);
      const auto items = forge.items();
      const std::string error = forge.error();
      ASSERT_EQ(error.empty(), items.ok()) << "byte " << i;
      if (!items) {
        ++refused;
        EXPECT_NE(changed, payload);
        EXPECT_NE(error.find("file offset"), std::string::npos) << error;
        continue;
      }
      ++read;
      ASSERT_LE(items->size(), 3u) << "byte " << i;
      Position last{0};
      for (const TraceItem& item : *items) {
        EXPECT_GE(position_of(item), last);
        last = position_of(item);
        if (const auto* event = std::get_if<TraceEvent>(&item)) {
          EXPECT_LT(event->event.vcpu.value, kMaxVcpus);
          EXPECT_NE(to_string(event->event.kind), "unknown");
        }
      }
    }
  }
  EXPECT_GT(read, 100u);
  EXPECT_GT(refused, 100u);
}

TEST(TraceForged, rejects_events_beyond_their_journal_and_wrong_counts) {
  TraceHeader header = test_header();
  header.journal_mask = mask_of(EventKind::interrupt);
  expect_says(Forge()
                  .chunk(ChunkKind::header, encode_header(header))
                  .chunk(ChunkKind::log, log_payload(Position(1), Position(2)))
                  .error(),
              "no journal of this trace");
  expect_says(Forge()
                  .header()
                  .chunk(ChunkKind::log, log_payload(Position(1), Position(2)))
                  .chunk(ChunkKind::end, encode_end({Position(2), {}, {}, 2, 0}))
                  .error(),
              "the end marker counts 2 events");
}

TEST(TraceForged, rejects_digest_fields_without_names_and_with_wrong_coding) {
  const DigestRecord d = test_digest(Position(3), 1, test_names(3));
  const auto digest_log = [&](std::vector<uint8_t> fields) {
    LogEncoder log;
    log.digest(d, std::move(fields), true);
    return log.finish(Position(3));
  };
  expect_says(Forge().header().chunk(ChunkKind::log, digest_log(encode_fields({}, d.fields))).error(), "before their names");
  const auto names = encode_field_names(*test_names(3));
  const auto with = [&](std::vector<uint8_t> fields) {
    return Forge()
        .header()
        .chunk(ChunkKind::field_names, names)
        .chunk(ChunkKind::log, digest_log(std::move(fields)))
        .error();
  };
  EXPECT_EQ(with(encode_fields({}, d.fields)), "");
  expect_says(with({}), "wrong number of fields");
  expect_says(with({3, 5}), "names a field that does not exist");
  expect_says(with({3, 0, 2 * 33}), "impossible size");
  expect_says(with({3, 0, 2 * 1, 0x80, 0x04}), "does not fit its size");
  expect_says(with({3, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}), "wrong length");
  expect_says(with({0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f}), "wrong number of fields");
}

TEST(TraceForged, rejects_key_frames_whose_parts_do_not_fit) {
  KeyFrame frame;
  frame.position = Position(5);
  frame.parts = 2;
  const auto first = encode_key_frame(frame);
  frame.part = 1;
  const auto second = encode_key_frame(frame);
  EXPECT_EQ(Forge().header().chunk(ChunkKind::key_frame, first).chunk(ChunkKind::key_frame, second).error(), "");
  expect_says(Forge().header().chunk(ChunkKind::key_frame, second).error(), "part 1 of a key frame where part 0");
  expect_says(Forge().header().chunk(ChunkKind::key_frame, first).chunk(ChunkKind::key_frame, first).error(),
              "where part 1");
  expect_says(Forge()
                  .header()
                  .chunk(ChunkKind::key_frame, first)
                  .chunk(ChunkKind::log, log_payload(Position(6), Position(6)))
                  .error(),
              "lacks its last parts");
  frame.part = 0;
  frame.parts = 1;
  frame.pages = {1, 2};
  frame.contents.assign(kPageSize, 0);
  expect_says(Forge().header().chunk(ChunkKind::key_frame, encode_key_frame(frame)).error(), "4096 bytes for each");
}

TEST(TraceForged, does_not_allocate_what_a_chunk_claims) {
  // A length beyond the limit, under a right header checksum.
  Forge forge;
  forge.header();
  std::vector<uint8_t> head(kChunkHeaderSize, 0);
  const uint32_t huge = kMaxRawSize + 1;
  std::memcpy(head.data() + 4, &huge, 4);
  head[8] = 1;
  head[12] = static_cast<uint8_t>(ChunkKind::log);
  head[13] = 1;
  uint64_t seed = 0;
  std::memcpy(&seed, forge.bytes().data() + kFileHeaderSize + 16, 8);
  const uint64_t sum = XXH3_64bits_withSeed(head.data(), 24, seed);
  std::memcpy(head.data() + 24, &sum, 8);
  forge.bytes().insert(forge.bytes().end(), head.begin(), head.end());
  expect_says(forge.error(), "larger than the format allows");
}

TEST(TraceWriterFailure, reports_a_full_device) {
  const auto writer = TraceWriter::create("/dev/full", test_header());
  ASSERT_FALSE(writer.ok());
  EXPECT_NE(writer.error().text().find("No space left on device"), std::string::npos) << writer.error().text();
  EXPECT_EQ(writer.error().code, ErrorCode::io);
}

TEST(TraceWriterFailure, reports_a_directory_that_does_not_exist) {
  EXPECT_NE(TraceWriter::create("/nonexistent/x", test_header()).error().text().find("cannot create the trace"),
            std::string::npos);
}

// Fills a file up to a size limit, in a process of its own; returns the child's verdict.
TEST(TraceWriterFailure, leaves_a_trace_whole_up_to_its_last_chunk_when_space_runs_out) {
  for (const rlim_t limit : {rlim_t{3000}, rlim_t{20000}, rlim_t{100000}}) {
    const TempFile file;
    const pid_t child = fork();
    ASSERT_GE(child, 0);
    if (child == 0) {
      signal(SIGXFSZ, SIG_IGN);
      const rlimit r{limit, limit};
      setrlimit(RLIMIT_FSIZE, &r);
      auto writer = TraceWriter::create(file.path(), test_header());
      if (!writer) _exit(2);
      std::mt19937_64 random(3);
      uint64_t position = 0;
      while (!(*writer)->failed() && position < 10'000'000) {
        (*writer)->event({EventKind::mmio_write, VcpuId(0), Position(position += 10), random(), 4, random()});
        if (position % 1000 == 0) static_cast<void>((*writer)->flush(Position(position)));
      }
      const auto flushed = (*writer)->flush(Position(position));
      const auto ended = (*writer)->end(Position(position), {}, {});
      const bool said =
          !flushed && !ended && ended.error().text().find("the trace holds the run up to position") != std::string::npos;
      struct stat info {};
      stat(file.path().c_str(), &info);
      _exit(said && static_cast<uint64_t>(info.st_size) == (*writer)->size() ? 0 : 1);
    }
    int status = 0;
    ASSERT_EQ(waitpid(child, &status, 0), child);
    ASSERT_TRUE(WIFEXITED(status));
    ASSERT_EQ(WEXITSTATUS(status), 0) << "limit " << limit;
    const auto summary = verify_trace(file.path());
    ASSERT_TRUE(summary.ok()) << summary.error().text();
    EXPECT_FALSE(summary->complete());
    EXPECT_EQ(summary->torn_bytes, 0u);
    EXPECT_GT(summary->total_events, 0u);
  }
}

TEST(TraceWriterFailure, killed_writer_leaves_what_it_flushed) {
  const TempFile file;
  const pid_t child = fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    auto writer = TraceWriter::create(file.path(), test_header());
    (*writer)->event({EventKind::timer, VcpuId(0), Position(5), 1, 2, 0});
    static_cast<void>((*writer)->flush(Position(70)));
    (*writer)->event({EventKind::timer, VcpuId(0), Position(80), 1, 2, 0});
    raise(SIGKILL);
  }
  int status = 0;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  const auto summary = verify_trace(file.path());
  ASSERT_TRUE(summary.ok()) << summary.error().text();
  EXPECT_FALSE(summary->complete());
  EXPECT_EQ(summary->total_events, 1u);
  EXPECT_EQ(summary->through, Position(70));
}

}  // namespace
}  // namespace retrovisor
