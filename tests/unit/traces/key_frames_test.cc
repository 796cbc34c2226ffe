// Key frames in the file: how they are passed, found and read again, and what is refused.
#include "tests/unit/traces/trace_files.h"
#include "traces/payloads.h"
#include "traces/verify.h"

namespace retrovisor {
namespace {

using KeyFrames = TraceReader::KeyFrames;

constexpr KeyFrames kWays[] = {KeyFrames::decode, KeyFrames::check, KeyFrames::skip};

KeyFrame part_of(Position at, uint32_t part, uint32_t parts, bool delta = false) {
  KeyFrame frame;
  frame.position = at;
  frame.part = part;
  frame.parts = parts;
  frame.delta = delta;
  if (part == 0) {
    frame.cpu = {1, 2, 3};
    frame.devices = {4};
    frame.state = {at.value, 2, 3};
  } else {
    frame.pages = {part, part + 100};
    for (size_t i = 0; i < 2 * kPageSize; ++i) frame.contents.push_back(static_cast<uint8_t>(i * at.value * part));
  }
  return frame;
}

// Three frames of four parts, with events and digests before, between and after.
std::vector<TraceItem> write_frames(const std::string& path) {
  auto writer = TraceWriter::create(path, test_header());
  EXPECT_TRUE(writer.ok());
  TraceWriter& w = **writer;
  const FieldNames names = test_names();
  for (uint64_t at = 1000; at <= 4000; at += 1000) {
    w.event({EventKind::timer, VcpuId(0), Position(at - 10), 1, 2, 3});
    DigestRecord digest = test_digest(Position(at), at, names);
    digest.state = {at, 2, 3};
    w.digest(digest);
    if (at == 4000) break;
    for (uint32_t part = 0; part < 4; ++part) w.key_frame(part_of(Position(at), part, 4, at != 1000));
  }
  EXPECT_TRUE(w.end(Position(4000), {}, {}).ok());
  auto items = read_all(path);
  EXPECT_TRUE(items.ok());
  return *items;
}

// The error of reading it all in some way, or nothing.
std::string error_of(const std::string& path, KeyFrames how) {
  const auto summary = verify_trace(path, {.key_frames = how});
  return summary ? std::string() : summary.error().text();
}

// A trace of nothing but a header and key frames.
class Frames {
 public:
  Frames() {
    auto writer = TraceWriter::create(file_.path(), test_header());
    EXPECT_TRUE(writer.ok());
    writer_ = std::move(*writer);
  }
  Frames& add(const KeyFrame& frame) {
    writer_->key_frame(frame);
    return *this;
  }
  Frames& digest(Position at, StateDigest state) {
    DigestRecord d;
    d.position = at;
    d.state = state;
    writer_->digest(d);
    return *this;
  }
  std::string error(KeyFrames how) {
    EXPECT_TRUE(writer_->end(Position(100'000), {}, {}).ok());
    return error_of(file_.path(), how);
  }
  void expect(std::string_view part) {
    EXPECT_TRUE(writer_->end(Position(100'000), {}, {}).ok());
    for (const KeyFrames how : kWays) {
      const std::string error = error_of(file_.path(), how);
      EXPECT_NE(error.find(part), std::string::npos) << "error: " << error;
      EXPECT_NE(error.find("file offset"), std::string::npos) << "error: " << error;
    }
  }

 private:
  TempFile file_;
  std::unique_ptr<TraceWriter> writer_;
};

TEST(TraceKeyFrames, are_listed_with_where_they_are_however_they_are_passed) {
  const TempFile file;
  write_frames(file.path());
  const auto all = verify_trace(file.path());
  ASSERT_TRUE(all.ok()) << all.error().text();
  ASSERT_EQ(all->key_frames.size(), 3u);
  uint64_t bytes = 0;
  for (size_t i = 0; i < 3; ++i) {
    const KeyFramePlace& k = all->key_frames[i];
    EXPECT_EQ(k.position, Position(1000 * i + 1000));
    EXPECT_EQ(k.delta, i != 0);
    EXPECT_EQ(k.parts, 4u);
    EXPECT_EQ(k.events, i + 1);
    EXPECT_EQ(k.digests, i + 1);
    EXPECT_EQ(k.state, (StateDigest{1000 * i + 1000, 2, 3}));
    EXPECT_GT(k.extent.raw_bytes, 6 * kPageSize);
    bytes += k.file_bytes();
  }
  EXPECT_EQ(all->key_frame_bytes(), bytes);
  for (const KeyFrames how : {KeyFrames::check, KeyFrames::skip}) {
    const auto other = verify_trace(file.path(), {.key_frames = how});
    ASSERT_TRUE(other.ok()) << other.error().text();
    EXPECT_TRUE(other->complete());
    EXPECT_EQ(other->chunks, all->chunks);
    EXPECT_EQ(other->digests, all->digests);
    ASSERT_EQ(other->key_frames.size(), 3u);
    for (size_t i = 0; i < 3; ++i) {
      EXPECT_EQ(other->key_frames[i].extent.begin, all->key_frames[i].extent.begin);
      EXPECT_EQ(other->key_frames[i].extent.end, all->key_frames[i].extent.end);
      EXPECT_EQ(other->key_frames[i].extent.raw_bytes, all->key_frames[i].extent.raw_bytes);
      EXPECT_EQ(other->key_frames[i].events, all->key_frames[i].events);
    }
  }
}

TEST(TraceKeyFrames, places_lead_to_their_parts_and_behind_them) {
  const TempFile file;
  const auto items = write_frames(file.path());
  const auto summary = verify_trace(file.path(), {.key_frames = KeyFrames::skip});
  ASSERT_TRUE(summary.ok());
  auto reader = TraceReader::open(file.path());
  ASSERT_TRUE(reader.ok());
  for (size_t i = summary->key_frames.size(); i-- > 0;) {
    const KeyFramePlace& place = summary->key_frames[i];
    size_t next = 0;
    const auto here = [&] {
      const auto* k = std::get_if<KeyFrame>(&items[next]);
      return k != nullptr && k->position == place.position;
    };
    while (!here()) ++next;
    ASSERT_TRUE((*reader)->seek(place.begin()).ok());
    for (size_t k = next; k < items.size(); ++k) {
      const auto item = (*reader)->next();
      ASSERT_TRUE(item.ok()) << item.error().text();
      ASSERT_TRUE(item->has_value() && same_item(**item, items[k])) << i << " item " << k;
    }
    ASSERT_TRUE((*reader)->seek(place.behind()).ok());
    // Digests that follow need nothing of before: all their fields are known.
    for (size_t k = next + place.parts; k < items.size(); ++k) {
      const auto item = (*reader)->next();
      ASSERT_TRUE(item.ok()) << item.error().text();
      ASSERT_TRUE(item->has_value() && same_item(**item, items[k])) << i << " item " << k;
    }
  }
}

TEST(TraceKeyFrames, damage_is_seen_where_the_part_is_looked_at) {
  const TempFile file;
  write_frames(file.path());
  const auto summary = verify_trace(file.path());
  ASSERT_TRUE(summary.ok());
  const auto bytes = file.read();
  const TempFile damaged;
  const TraceReader::Extent& second = summary->key_frames[1].extent;
  for (uint64_t at = second.begin; at < second.end; at += 7) {
    auto copy = bytes;
    copy[at] ^= 0x20;
    damaged.write(copy);
    EXPECT_NE(error_of(damaged.path(), KeyFrames::decode), "") << at;
    EXPECT_NE(error_of(damaged.path(), KeyFrames::check), "") << at;
  }
  // In the last payload: for who skips it, it is not there; for who reads it, it is.
  auto copy = bytes;
  copy[second.end - 1] ^= 1;
  damaged.write(copy);
  EXPECT_EQ(error_of(damaged.path(), KeyFrames::skip), "");
  auto reader = TraceReader::open(damaged.path());
  ASSERT_TRUE(reader.ok());
  ASSERT_TRUE((*reader)->seek(summary->key_frames[1].begin()).ok());
  for (int part = 0; part < 3; ++part) EXPECT_TRUE((*reader)->next().ok());
  const auto last = (*reader)->next();
  ASSERT_FALSE(last.ok());
  EXPECT_NE(last.error().text().find("damaged chunk"), std::string::npos);
  EXPECT_NE(last.error().text().find("file offset"), std::string::npos);
}

TEST(TraceKeyFrames, one_that_is_cut_off_is_not_listed_and_the_rest_is_an_incomplete_trace) {
  const TempFile file;
  write_frames(file.path());
  const auto summary = verify_trace(file.path());
  ASSERT_TRUE(summary.ok());
  const auto bytes = file.read();
  const TempFile cut;
  const TraceReader::Extent& second = summary->key_frames[1].extent;
  for (uint64_t size = second.begin; size <= second.end; ++size) {
    cut.write({bytes.begin(), bytes.begin() + static_cast<std::ptrdiff_t>(size)});
    for (const KeyFrames how : kWays) {
      const auto read = verify_trace(cut.path(), {.key_frames = how});
      ASSERT_TRUE(read.ok()) << read.error().text();
      ASSERT_FALSE(read->complete());
      ASSERT_EQ(read->key_frames.size(), size == second.end ? 2u : 1u) << size;
      ASSERT_EQ(read->through, Position(2000));
      ASSERT_EQ(read->whole_size + read->torn_bytes, size);
    }
  }
}

TEST(TraceKeyFrames, refuses_what_cannot_be) {
  Frames().add(part_of(Position(5), 0, 1, true)).expect("has no key frame before it");
  Frames().add(part_of(Position(5), 0, 1)).add(part_of(Position(5), 0, 1)).expect("two key frames are at one position");
  Frames().add(part_of(Position(5), 0, 1)).add(part_of(Position(4), 0, 1)).expect("goes back in position");
  Frames().add(part_of(Position(5), 0, 3)).add(part_of(Position(5), 1, 3)).expect("lacks its last parts");
  Frames().digest(Position(5), {5, 2, 4}).add(part_of(Position(5), 0, 1)).expect("other sums than the digest");
  EXPECT_EQ(Frames().digest(Position(5), {5, 2, 3}).add(part_of(Position(5), 0, 1)).error(KeyFrames::skip), "");
  // Parts of another frame are seen by who reads them.
  const auto mixed = [] {
    Frames frames;
    frames.add(part_of(Position(5), 0, 2)).add(part_of(Position(6), 1, 2));
    return frames.error(KeyFrames::decode);
  };
  EXPECT_NE(mixed().find("part 1 of another key frame"), std::string::npos) << mixed();
}

TEST(TraceKeyFrames, refuses_counts_that_are_not_those_of_the_trace) {
  for (const auto& [events, digests] : {std::pair<uint64_t, uint64_t>{1, 0}, {0, 1}, {UINT64_MAX, 0}}) {
    const TempFile file;
    {
      auto writer = TraceWriter::create(file.path(), test_header());
      ASSERT_TRUE(writer.ok());
    }
    auto bytes = file.read();
    KeyFrame frame = part_of(Position(5), 0, 1);
    frame.events = events;
    frame.digests = digests;
    uint64_t seed = 0;
    std::copy_n(bytes.begin() + kFileHeaderSize + 16, 8, reinterpret_cast<uint8_t*>(&seed));
    ChunkCodec codec;
    ASSERT_TRUE(codec.encode(ChunkKind::key_frame, 1, seed, encode_key_frame(frame), bytes).ok());
    file.write(bytes);
    for (const KeyFrames how : kWays)
      EXPECT_NE(error_of(file.path(), how).find("a key frame counts"), std::string::npos) << error_of(file.path(), how);
  }
}

}  // namespace
}  // namespace retrovisor
