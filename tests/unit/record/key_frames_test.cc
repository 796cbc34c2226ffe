// Key frames: recorded, replays that start at them, timelines that enter in the middle, and frames that lie.
#include <gtest/gtest.h>

#include <algorithm>
#include <set>

#include "record/digest_capture.h"
#include "record/key_frame_writer.h"
#include "replay/key_frames.h"
#include "tests/unit/record/timelines.h"

namespace retrovisor {
namespace {

using Reason = TimelineStop::Reason;

constexpr uint64_t kInterval = 23'000;

SessionSetup with_key_frames(uint64_t interval = kInterval) {
  SessionSetup setup;
  setup.options.key_frame_interval = interval;
  return setup;
}

// For a timeline that takes every key frame it can.
TimelineOptions cold(uint64_t spacing = 0, uint64_t memory = 0) {
  TimelineOptions options;
  options.checkpoint_spacing = spacing;
  options.checkpoint_memory = memory;
  options.key_frame_reach = 0;
  return options;
}

TraceSummary summary_of(const std::string& path) {
  const auto summary = verify_trace(path);
  EXPECT_TRUE(summary.ok()) << (summary ? "" : summary.error().text());
  return summary ? *summary : TraceSummary{};
}

StateDigest end_state(const std::string& path) {
  const auto session = open_replay(path);
  const auto result = session->run({});
  EXPECT_TRUE(result.ok() && result->end == ReplayResult::End::complete);
  return session->machine().digest();
}

TEST(KeyFrames, stand_at_each_multiple_and_are_found_by_every_way_of_reading) {
  const TempFile file;
  record_guest(file.path(), with_key_frames());
  const TraceSummary summary = summary_of(file.path());
  ASSERT_GT(summary.key_frames.size(), 4u);
  EXPECT_EQ(summary.key_frames.size(), (summary.through.value) / kInterval);
  for (size_t i = 0; i < summary.key_frames.size(); ++i)
    EXPECT_EQ(summary.key_frames[i].position, Position((i + 1) * kInterval));
  EXPECT_FALSE(summary.key_frames[0].delta);
  EXPECT_TRUE(summary.key_frames[1].delta);
  for (const auto how : {TraceReader::KeyFrames::check, TraceReader::KeyFrames::skip}) {
    const auto other = verify_trace(file.path(), {.key_frames = how});
    ASSERT_TRUE(other.ok()) << other.error().text();
    ASSERT_EQ(other->key_frames.size(), summary.key_frames.size());
    EXPECT_EQ(other->key_frame_bytes(), summary.key_frame_bytes());
    for (size_t i = 0; i < summary.key_frames.size(); ++i) {
      EXPECT_EQ(other->key_frames[i].extent.begin, summary.key_frames[i].extent.begin);
      EXPECT_EQ(other->key_frames[i].extent.raw_bytes, summary.key_frames[i].extent.raw_bytes);
    }
  }
}

TEST(KeyFrames, change_nothing_but_themselves_and_their_digests) {
  const TempFile plain, framed, zero;
  record_guest(plain.path(), {});
  record_guest(framed.path(), with_key_frames());
  record_guest(zero.path(), with_key_frames(0));
  const auto expected = read_all(plain.path());
  auto items = read_all(framed.path());
  const auto none = read_all(zero.path());
  ASSERT_TRUE(expected.ok() && items.ok() && none.ok());
  std::erase_if(*items, [](const TraceItem& item) {
    const auto* digest = std::get_if<DigestRecord>(&item);
    return std::holds_alternative<KeyFrame>(item) ||
           (digest != nullptr && digest->position.value % kInterval == 0 && digest->position.value % 50'000 != 0);
  });
  ASSERT_EQ(items->size(), expected->size());
  ASSERT_EQ(none->size(), expected->size());
  for (size_t i = 0; i + 1 < expected->size(); ++i) {  // the end counts digests
    EXPECT_TRUE(same_item((*expected)[i], (*items)[i])) << i;
    EXPECT_TRUE(same_item((*expected)[i], (*none)[i])) << i;
  }
}

TEST(KeyFrames, do_not_depend_on_how_the_run_is_cut) {
  std::vector<std::vector<TraceItem>> runs;
  for (const uint64_t slice : {uint64_t{1} << 20, uint64_t{777}, kInterval}) {
    const TempFile file;
    SessionSetup setup = with_key_frames();
    setup.options.run.slice = slice;
    record_guest(file.path(), setup);
    auto items = read_all(file.path());
    ASSERT_TRUE(items.ok());
    runs.push_back(std::move(*items));
  }
  for (size_t i = 1; i < runs.size(); ++i) {
    ASSERT_EQ(runs[i].size(), runs[0].size());
    for (size_t k = 0; k < runs[0].size(); ++k) ASSERT_TRUE(same_item(runs[0][k], runs[i][k])) << i << " " << k;
  }
}

// A debugger's watch stops the machine where it has just come to the position of a key frame.
TEST(KeyFrames, stops_of_a_debugger_do_not_make_them_wrong) {
  const LinearAddr ticks(0x190000);  // tests/unit/record/session_guest.cc
  Position behind_write;
  {
    const Recorded t;
    check(t->seek(Position(30'000)));
    const auto write = t->last_write(ticks, 4);
    ASSERT_TRUE(write.ok() && write->has_value());
    behind_write = (*write)->position + 1;
  }
  const TempFile file;
  SessionSetup setup = with_key_frames(behind_write.value);
  setup.digest_interval = behind_write.value;
  size_t stops = 0;
  setup.drive = [&](Machine& m, TraceWriter& writer) -> Result<RecordResult> {
    Interest interest;
    interest.watches.push_back({ticks, 4, false, true});
    interest.hit = [](const Observation&) { return true; };
    std::optional<Subscription> subscription = m.observers().subscribe(std::move(interest));
    auto recording = Recording::begin(m, writer, setup.options);
    if (!recording) return recording.error();
    for (;;) {
      auto run = (*recording)->run(setup.options.run);
      if (!run) return run.error();
      if (run->stop.reason == StopReason::observed) {
        ++stops;
        continue;
      }
      subscription.reset();
      return (*recording)->finish(*run);
    }
  };
  record_guest(file.path(), setup);
  EXPECT_GT(stops, 10u);
  const TraceSummary summary = summary_of(file.path());
  ASSERT_GT(summary.key_frames.size(), 2u);
  EXPECT_NE(summary.key_frames[0].position, behind_write) << "the stop did not come where it should";
  const StateDigest end = end_state(file.path());
  for (const KeyFramePlace& place : summary.key_frames) {
    const auto session = open_replay(file.path());
    ASSERT_TRUE(session->start_from(place.position).ok());
    const auto result = session->run({});
    ASSERT_TRUE(result.ok());
    EXPECT_EQ(result->end, ReplayResult::End::complete) << (result->divergence ? result->divergence->text() : "");
    EXPECT_EQ(session->machine().digest(), end);
  }
}

TEST(KeyFrames, replay_starts_at_each_and_ends_as_the_whole_one) {
  for (const DigestDetail detail : {DigestDetail::sums, DigestDetail::fields, DigestDetail::full}) {
    for (const EventMask journal : {EventMask{0}, kJournalDefault, kJournalFull}) {
      const TempFile file;
      SessionSetup setup = with_key_frames();
      setup.detail = detail;
      setup.journal = journal;
      std::string shown;
      const RecordResult recorded = record_guest(file.path(), setup, &shown);
      EXPECT_EQ(recorded.key_frames, recorded.run.end.value / kInterval);
      const StateDigest end = end_state(file.path());
      for (uint64_t p = 1; p <= recorded.run.end.value; p += kInterval - 1) {
        std::string again;
        const auto session = open_replay(
            file.path(), [&](Moment, EndpointId, std::span<const uint8_t> bytes) { again.append(bytes.begin(), bytes.end()); });
        const auto from = session->start_from(Position(p));
        ASSERT_TRUE(from.ok()) << from.error().text();
        EXPECT_EQ(*from, Position(p / kInterval * kInterval));
        EXPECT_EQ(session->machine().position(), *from);
        const auto result = session->run({});
        ASSERT_TRUE(result.ok()) << result.error().text();
        EXPECT_EQ(result->end, ReplayResult::End::complete) << (result->divergence ? result->divergence->text() : "");
        EXPECT_EQ(result->position, recorded.run.end);
        EXPECT_EQ(session->machine().digest(), end);
        EXPECT_EQ(session->machine().now(), recorded.run.guest_time);
        EXPECT_TRUE(shown.ends_with(again));
        EXPECT_GE(result->digests_compared, 2u);
      }
    }
  }
}

TEST(KeyFrames, replay_from_the_middle_names_a_difference_as_a_whole_one_does) {
  const TempFile file, changed;
  SessionSetup setup = with_key_frames();
  setup.detail = DigestDetail::full;
  record_guest(file.path(), setup);
  Position wrong;
  rewrite(file.path(), changed.path(), [&](TraceItem& item) {
    auto* digest = std::get_if<DigestRecord>(&item);
    if (digest == nullptr || digest->position <= Position(4 * kInterval) || digest->position.value % kInterval == 0 ||
        digest->at_stop || wrong.value != 0 || digest->pages.empty())
      return true;
    wrong = digest->position;
    digest->state.memory ^= 1;
    digest->pages[0].hash ^= 1;
    return true;
  });
  ASSERT_NE(wrong, Position(0));
  const auto whole = open_replay(changed.path());
  const auto expected = whole->run({});
  const auto middle = open_replay(changed.path());
  ASSERT_TRUE(middle->start_from(wrong).ok());
  const auto found = middle->run({});
  ASSERT_TRUE(expected.ok() && found.ok() && expected->divergence && found->divergence);
  EXPECT_EQ(found->divergence->bad, wrong);
  EXPECT_GE(found->divergence->good, Position(wrong.value / kInterval * kInterval));
  EXPECT_TRUE(found->divergence->memory);
  EXPECT_EQ(found->divergence->pages, expected->divergence->pages);
}

// Pages that the guest never touches, changed by hand between the frames.
TEST(KeyFrames, hold_pages_that_became_zero_in_changes_and_leave_them_out_of_whole_ones) {
  const TempFile file;
  MachineConfig config;
  config.memory_size = kMinRam;
  const BootImages images = guest_images();
  TraceHeader header = make_header(config, images, {.kernel = "guest", .initrd = {}, .modules = {}});
  auto writer = TraceWriter::create(file.path(), header);
  ASSERT_TRUE(writer.ok());
  TimedBoundary live;
  RecordingBoundary boundary(live, **writer);
  auto machine = Machine::create(config, boundary);
  ASSERT_TRUE(machine.ok());
  Machine& m = **machine;
  ASSERT_TRUE(m.load(images).ok());
  KeyFrameWriter frames(m, **writer);
  DigestCapture capture(m, header.digest_detail);
  std::mt19937_64 random(3);
  std::vector<StateDigest> states;
  for (uint64_t i = 0; i < 12; ++i) {
    m.run_until(Position(1000 * i + 1000));
    for (int k = 0; k < 200; ++k) {
      const PhysAddr page(0x800000 + (random() % 600) * kPageSize);
      std::vector<uint8_t> bytes(kPageSize);
      if (random() % 2 == 0)
        for (uint8_t& b : bytes) b = static_cast<uint8_t>(random());
      ASSERT_TRUE(m.memory().write(page, bytes));
    }
    const DigestRecord digest = capture.take();
    (*writer)->digest(digest);
    ASSERT_TRUE(frames.write(digest.state));
    states.push_back(digest.state);
  }
  ASSERT_TRUE((*writer)->end(m.position(), {StopReason::host_request, 0}, states.back()).ok());

  const TraceSummary summary = summary_of(file.path());
  ASSERT_EQ(summary.key_frames.size(), states.size());
  const auto whole =
      std::count_if(summary.key_frames.begin(), summary.key_frames.end(), [](const auto& k) { return !k.delta; });
  EXPECT_GT(whole, 1);
  EXPECT_LT(whole, 12);
  for (size_t i = 0; i < states.size(); ++i) {
    const auto session = open_replay(file.path());
    const auto from = session->start_from(summary.key_frames[i].position);
    ASSERT_TRUE(from.ok()) << from.error().text();
    EXPECT_EQ(session->machine().digest(), states[i]);
    EXPECT_LE(session->key_frames().cost(i), 5 * 600 * kPageSize);
  }
}

TEST(KeyFrames, a_reader_that_begins_behind_one_reads_all_that_follows) {
  const TempFile file;
  SessionSetup setup = with_key_frames();
  setup.journal = kJournalFull;
  record_guest(file.path(), setup);
  const auto all = read_all(file.path());
  ASSERT_TRUE(all.ok());
  for (const KeyFramePlace& place : summary_of(file.path()).key_frames) {
    size_t next = 0;
    for (size_t i = 0; i < all->size(); ++i)
      if (const auto* k = std::get_if<KeyFrame>(&(*all)[i]); k != nullptr && k->position == place.position) next = i + 1;
    auto reader = TraceReader::open(file.path());
    ASSERT_TRUE(reader.ok());
    ASSERT_TRUE((*reader)->seek(place.behind()).ok());
    for (; next < all->size(); ++next) {
      const auto item = (*reader)->next();
      ASSERT_TRUE(item.ok()) << item.error().text();
      ASSERT_TRUE(item->has_value());
      ASSERT_TRUE(same_item(**item, (*all)[next])) << place.position.value << " item " << next;
    }
    EXPECT_FALSE((*reader)->next()->has_value());
    EXPECT_TRUE((*reader)->complete());
  }
}

TEST(KeyFrames, a_trace_that_is_cut_off_anywhere_in_one_replays_and_starts_at_those_before) {
  const TempFile file;
  record_guest(file.path(), with_key_frames());
  const TraceSummary summary = summary_of(file.path());
  const auto bytes = file.read();
  const TraceReader::Extent& third = summary.key_frames[2].extent;
  const TempFile cut;
  for (uint64_t size = third.begin; size <= third.end; size += std::max<uint64_t>((third.end - third.begin) / 9, 1)) {
    cut.write({bytes.begin(), bytes.begin() + static_cast<std::ptrdiff_t>(size)});
    const auto session = open_replay(cut.path());
    ASSERT_NE(session, nullptr);
    EXPECT_EQ(session->key_frames().size(), size == third.end ? 3u : 2u);
    EXPECT_EQ(session->end(), summary.key_frames[2].position);
    ASSERT_EQ(*session->start_from(session->end()), summary.key_frames[size == third.end ? 2 : 1].position);
    const auto result = session->run({});
    ASSERT_TRUE(result.ok());
    EXPECT_EQ(result->end, ReplayResult::End::incomplete) << (result->divergence ? result->divergence->text() : "");
    EXPECT_EQ(session->machine().digest(), summary.key_frames[2].state);
    const auto timeline = open_timeline(cut.path(), cold());
    check(timeline->seek(kNoPosition));
    EXPECT_EQ(timeline->machine().digest(), summary.key_frames[2].state);
  }
}

// A trace with a lie in its third key frame, well formed in every other way.
void forge(const std::string& from, const std::string& to, const std::function<void(KeyFrame&)>& lie) {
  rewrite(from, to, [&](TraceItem& item) {
    auto* frame = std::get_if<KeyFrame>(&item);
    if (frame != nullptr && frame->position == Position(3 * kInterval)) lie(*frame);
    return true;
  });
}

TEST(KeyFrames, a_damaged_one_is_an_error_with_its_offset_before_anything_is_replayed) {
  const TempFile file;
  record_guest(file.path(), with_key_frames());
  const TraceReader::Extent third = summary_of(file.path()).key_frames[2].extent;
  auto bytes = file.read();
  bytes[third.end - 3] ^= 4;  // in its last part
  const TempFile damaged;
  damaged.write(bytes);
  for (const auto& error : {ReplaySession::open(damaged.path(), guest_images()).error(),
                            Timeline::open(damaged.path(), guest_images(), {}).error()}) {
    EXPECT_EQ(error.code, ErrorCode::bad_trace);
    EXPECT_NE(error.text().find("damaged chunk"), std::string::npos) << error.text();
    EXPECT_NE(error.text().find("file offset"), std::string::npos) << error.text();
  }
}

TEST(KeyFrames, one_that_lies_is_an_error_and_what_does_not_need_it_stays_reachable) {
  const TempFile file;
  record_guest(file.path(), with_key_frames());
  const uint64_t ram_end = kMinRam >> kPageShift;
  struct Lie {
    std::string says;
    std::function<void(KeyFrame&)> tell;
  };
  const std::vector<Lie> lies = {
      {"not the one whose digest was recorded (memory)", [](KeyFrame& k) { if (!k.contents.empty()) k.contents[100] ^= 1; }},
      {"is no RAM", [=](KeyFrame& k) { if (!k.pages.empty()) k.pages.back() = ram_end; }},
      {"is no RAM", [](KeyFrame& k) { if (!k.pages.empty()) k.pages.back() = UINT64_MAX; }},
      {"is no RAM", [](KeyFrame& k) { if (!k.pages.empty()) k.pages.back() = UINT64_MAX >> kPageShift; }},
      {"key frame at position", [](KeyFrame& k) { if (!k.cpu.empty()) k.cpu.pop_back(); }},
      {"key frame at position", [](KeyFrame& k) { k.devices.clear(); }},
      {"key frame at position", [](KeyFrame& k) { if (!k.devices.empty()) k.devices[k.devices.size() / 2] ^= 0x40; }},
      {"its state is that of position",  // the clock's position is the first field
       [](KeyFrame& k) { if (k.part == 0) k.cpu[k.cpu[1] + 6u] ^= 1; }},
  };
  PlainRun plain(file.path());
  const Position between(3 * kInterval + 17), end(4 * kInterval + 500);
  const StateDigest expected = plain.digest_at(between), later = plain.digest_at(end);
  for (const Lie& lie : lies) {
    const TempFile forged;
    forge(file.path(), forged.path(), lie.tell);
    const auto session = open_replay(forged.path());
    ASSERT_NE(session, nullptr);
    const auto from = session->start_from(between);
    ASSERT_FALSE(from.ok()) << lie.says;
    EXPECT_EQ(from.error().code, ErrorCode::bad_trace);
    EXPECT_NE(from.error().text().find(lie.says), std::string::npos) << from.error().text();
    EXPECT_NE(from.error().text().find("file offset"), std::string::npos) << from.error().text();

    const auto timeline = open_timeline(forged.path(), cold());
    check(timeline->seek(Position(100)));
    const auto sought = timeline->seek(between);
    ASSERT_FALSE(sought.ok());
    EXPECT_NE(sought.error().text().find(lie.says), std::string::npos) << sought.error().text();
    EXPECT_EQ(timeline->position(), Position(100));
    // Said once; from now on the way leads from the one before.
    check(timeline->seek(between));
    EXPECT_EQ(timeline->machine().digest(), expected);
    // A changed one stands in the way of those that build on it.
    const auto next = timeline->seek(end);
    if (!next) check(timeline->seek(end));
    EXPECT_EQ(timeline->machine().digest(), later);
  }
}

TEST(KeyFrames, timeline_enters_cold_and_gives_the_states_of_a_plain_run) {
  std::mt19937_64 random(11);
  const TempFile file;
  record_guest(file.path(), with_key_frames());
  std::map<uint64_t, StateDigest> expected;
  {
    PlainRun plain(file.path());
    const uint64_t end = summary_of(file.path()).through.value;
    std::set<uint64_t> positions{0, 1, kInterval - 1, kInterval, kInterval + 1, 2 * kInterval, end - 1, end};
    while (positions.size() < 50) positions.insert(random() % end);
    for (const uint64_t p : positions) expected[p] = plain.digest_at(Position(p));
  }
  std::vector<uint64_t> order;
  for (const auto& [p, unused] : expected) order.push_back(p);
  for (int round = 0; round < 6; ++round) {
    const auto t = open_timeline(file.path(), cold(9'000));
    std::shuffle(order.begin(), order.end(), random);
    for (const uint64_t p : order) {
      check(t->seek(Position(p)));
      ASSERT_EQ(t->position(), Position(p));
      ASSERT_EQ(t->machine().digest(), expected.at(p)) << p;
      if (random() % 4 == 0) {
        ASSERT_EQ(check(t->forward({}, Position(p + 30'000))).position, std::min(Position(p + 30'000), t->end()));
      }
    }
    EXPECT_GT(t->checkpoints().key_frames_restored, 0u);
    check(t->seek(Position(order.front())));
    ASSERT_TRUE(t->warm().ok());
    EXPECT_EQ(t->position(), Position(order.front()));
    EXPECT_EQ(t->machine().digest(), expected.at(order.front()));
  }
}

TEST(KeyFrames, first_seek_to_the_end_runs_only_what_follows_the_last_one) {
  const TempFile file;
  record_guest(file.path(), with_key_frames());
  uint64_t halts = 0;
  Position lowest = kNoPosition;
  TimelineOptions options = cold();
  options.progress = [&](Position now, Position) {
    ++halts;
    lowest = std::min(lowest, now);
  };
  const auto t = open_timeline(file.path(), options);
  const Position last = summary_of(file.path()).key_frames.back().position;
  check(t->seek(t->end()));
  EXPECT_EQ(t->checkpoints().key_frames_restored, 1u);
  EXPECT_GT(halts, 0u);
  EXPECT_GT(lowest, last);
  // Where a key frame would save less than it costs, it is left alone.
  options = {};
  options.key_frame_reach = kNoPosition.value;
  const auto plain = open_timeline(file.path(), options);
  check(plain->seek(plain->end()));
  EXPECT_EQ(plain->checkpoints().key_frames_restored, 0u);
  EXPECT_EQ(plain->machine().digest(), t->machine().digest());
}

TEST(KeyFrames, cold_searches_stop_where_those_of_a_warm_timeline_without_them_do) {
  std::mt19937_64 random(12);
  const TempFile plain, framed;
  record_guest(plain.path(), {});
  record_guest(framed.path(), with_key_frames());
  const auto warm = open_timeline(plain.path());
  ASSERT_TRUE(warm->warm().ok());
  constexpr uint32_t kTicks = 0x190000;  // tests/unit/record/session_guest.cc
  for (int round = 0; round < 40; ++round) {
    const auto fresh = open_timeline(framed.path(), cold(7'000));
    for (int i = 0; i < 4; ++i) {
      StopConditions c;
      const uint64_t kinds = 1 + random() % 7;
      check(warm->seek(Position(random() % warm->end().value)));
      if ((kinds & 1) != 0) c.breakpoints.push_back(random() % 2 == 0 ? eip(warm->machine()) : 0xdead0000);
      if ((kinds & 2) != 0) c.watches.push_back({LinearAddr(0x200000 + random() % 256 * kPageSize), 4, false, true});
      if ((kinds & 4) != 0) c.watches.push_back({LinearAddr(random() % 3 == 0 ? 0x7000 : kTicks), 4, false, true});
      if (random() % 4 == 0) c.events = mask_of(EventKind::console_input);
      const Position start(random() % (warm->end().value + 1));
      const Position limit(random() % 3 == 0 ? random() % (start.value + 1) : 0);
      check(warm->seek(start));
      check(fresh->seek(start));
      const bool back = random() % 3 != 0;
      const TimelineStop a = check(back ? warm->backward(c, limit) : warm->forward(c, warm->end()));
      const TimelineStop b = check(back ? fresh->backward(c, limit) : fresh->forward(c, fresh->end()));
      ASSERT_EQ(a.reason, b.reason) << start.value;
      ASSERT_EQ(a.position, b.position) << start.value;
      ASSERT_EQ(warm->machine().digest(), fresh->machine().digest());
      const auto one = warm->last_write(LinearAddr(kTicks), 4);
      const auto other = fresh->last_write(LinearAddr(kTicks), 4);
      ASSERT_TRUE(one.ok() && other.ok());
      ASSERT_EQ(one->has_value(), other->has_value());
      if (*one) {
        ASSERT_EQ((*one)->position, (*other)->position);
      }
    }
  }
}

TEST(KeyFrames, timeline_compares_what_it_jumped_over_once_it_runs_it) {
  const TempFile file, changed;
  record_guest(file.path(), with_key_frames());
  Position wrong, event;
  rewrite(file.path(), changed.path(), [&](TraceItem& item) {
    auto* e = std::get_if<TraceEvent>(&item);
    auto* digest = std::get_if<DigestRecord>(&item);
    if (e != nullptr && e->event.kind == EventKind::interrupt && e->event.position > Position(2 * kInterval + 100) &&
        event.value == 0) {
      event = e->event.position;
      e->event.a ^= 1;
    }
    if (digest != nullptr && digest->position > Position(4 * kInterval) && digest->position.value % kInterval != 0 &&
        !digest->at_stop && wrong.value == 0) {
      wrong = digest->position;
      digest->state.memory ^= 1;
    }
    return true;
  });
  ASSERT_NE(wrong, Position(0));
  ASSERT_NE(event, Position(0));
  ASSERT_LT(event, Position(3 * kInterval));
  const auto t = open_timeline(changed.path(), cold());
  check(t->seek(t->end()));  // from the last key frame, which knows nothing of either
  const auto digest = t->seek(wrong + 1);
  ASSERT_FALSE(digest.ok());
  EXPECT_EQ(digest.error().code, ErrorCode::divergence);
  const auto interrupt = t->seek(event + 1);
  ASSERT_FALSE(interrupt.ok());
  EXPECT_EQ(interrupt.error().code, ErrorCode::divergence);
  // Again, and what is sound stays reachable.
  EXPECT_FALSE(t->seek(wrong + 1).ok());
  EXPECT_FALSE(t->warm().ok());
  PlainRun plain(file.path());
  for (const Position p : {Position(5), event - 1, Position(3 * kInterval + 5), wrong - 1, t->end()}) {
    check(t->seek(p));
    EXPECT_EQ(t->machine().digest(), plain.digest_at(p)) << p.value;
  }
}

TEST(KeyFrames, little_memory_makes_a_timeline_slower_and_nothing_else) {
  std::mt19937_64 random(13);
  const TempFile file;
  record_guest(file.path(), with_key_frames());
  PlainRun plain(file.path());
  const auto t = open_timeline(file.path(), cold(5'000, uint64_t{2} << 20));
  std::map<uint64_t, StateDigest> expected;
  for (int i = 0; i < 40; ++i) expected[random() % t->end().value] = {};
  for (auto& [p, digest] : expected) digest = plain.digest_at(Position(p));
  std::vector<uint64_t> order;
  for (const auto& [p, unused] : expected) order.push_back(p);
  std::shuffle(order.begin(), order.end(), random);
  StopConditions c;
  c.watches.push_back({LinearAddr(0x190000), 4, false, true});
  for (const uint64_t p : order) {
    check(t->seek(Position(p)));
    ASSERT_EQ(t->machine().digest(), expected.at(p)) << p;
    const uint32_t ticks = word_at(t->machine(), 0x190000);
    const TimelineStop back = check(t->backward(c, t->begin()));
    if (ticks != 0) {
      ASSERT_EQ(word_at(t->machine(), 0x190000), ticks - 1) << p;
    } else {
      ASSERT_EQ(back.reason, Reason::begin);
    }
    ASSERT_LE(t->checkpoints().bytes, uint64_t{2} << 20);
  }
}

}  // namespace
}  // namespace retrovisor
