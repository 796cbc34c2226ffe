// The timeline over the small guests of tests/guests, which go through every mode, device and fault: states are the same
// however they are reached. (Restoring a machine is what most of this is about.)
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <iterator>

#include "record/recording_boundary.h"
#include "tests/unit/record/timelines.h"

namespace retrovisor {
namespace {

constexpr uint64_t kLimit = 30'000'000;

std::filesystem::path guest_folder() {
  std::error_code none;
  return std::filesystem::read_symlink("/proc/self/exe", none).parent_path() / "guests";
}

std::vector<std::string> guest_names() {
  std::vector<std::string> out;
  std::error_code none;
  for (const auto& entry : std::filesystem::directory_iterator(guest_folder(), none))
    if (entry.path().extension() == ".bin") out.push_back(entry.path().stem().string());
  std::sort(out.begin(), out.end());
  if (out.empty()) out.push_back("none");
  return out;
}

class Guests : public testing::TestWithParam<std::string> {};

struct RecordedGuest {
  TempFile file;
  BootImages images;
  uint64_t end = 0;
};

void record_small_guest(const std::string& name, uint64_t key_frame_interval, RecordedGuest& out) {
  std::ifstream in(guest_folder() / (name + ".bin"), std::ios::binary);
  out.images.kernel = {std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>()};
  out.images.flat_address = 0x7c00;
  out.images.flat_mode = FlatMode::real16;
  MachineConfig config;
  config.memory_size = uint64_t{64} << 20;
  config.vcpus = name == "smp_start" ? 2 : 1;
  TraceHeader header = make_header(config, out.images, {.kernel = "guest", .initrd = {}, .modules = {}});
  header.journal_mask = kJournalFull;
  header.digest_interval = 50'000;
  auto writer = TraceWriter::create(out.file.path(), header);
  ASSERT_TRUE(writer.ok());
  TimedBoundary live;
  for (uint64_t i = 0; i < 40; ++i) live.keys.push_back({i * 100'000, static_cast<char>('a' + i % 26)});
  RecordingBoundary boundary(live, **writer);
  auto machine = Machine::create(config, boundary);
  ASSERT_TRUE(machine.ok());
  Machine& m = **machine;
  ASSERT_TRUE(m.load(out.images).ok());
  RecordOptions options;
  options.run.stop_at = Position(kLimit);
  options.key_frame_interval = key_frame_interval;
  const auto recorded = record(m, **writer, options);
  ASSERT_TRUE(recorded.ok());
  out.end = recorded->run.end.value;
}

// States at random positions, by a plain run.
std::map<uint64_t, StateDigest> plain_states(const RecordedGuest& guest, size_t count, std::mt19937_64& random) {
  std::map<uint64_t, StateDigest> expected;
  for (size_t i = 0; i < count; ++i) expected[random() % (guest.end + 1)] = {};
  expected[guest.end] = {};
  auto session = ReplaySession::open(guest.file.path(), guest.images);
  EXPECT_TRUE(session.ok()) << (session ? "" : session.error().text());
  if (!session) return {};
  Machine& plain = (*session)->machine();
  for (auto& [position, digest] : expected) {
    while (plain.position() < Position(position)) plain.run_until(Position(position));
    digest = plain.digest();
  }
  return expected;
}

TEST_P(Guests, states_are_the_same_however_they_are_reached) {
  if (GetParam() == "none") GTEST_SKIP() << "the guests have not been assembled";
  RecordedGuest guest;
  ASSERT_NO_FATAL_FAILURE(record_small_guest(GetParam(), 0, guest));
  std::mt19937_64 random(1);
  auto expected = plain_states(guest, 60, random);
  TimelineOptions options;
  options.checkpoint_spacing = std::max<uint64_t>(guest.end / 50, 100);
  auto opened = Timeline::open(guest.file.path(), guest.images, options);
  ASSERT_TRUE(opened.ok()) << opened.error().text();
  Timeline& t = **opened;
  const auto warmed = t.warm();
  ASSERT_TRUE(warmed.ok()) << warmed.error().text();
  std::vector<uint64_t> order;
  for (const auto& [p, unused] : expected) order.push_back(p);
  for (int round = 0; round < 3; ++round) {
    std::shuffle(order.begin(), order.end(), random);
    for (const uint64_t p : order) {
      check(t.seek(Position(p)));
      ASSERT_EQ(t.machine().digest(), expected[p]) << p;
      if (p == 0) continue;
      check(t.seek(Position(p - 1)));
      check(t.forward({}, Position(p)));
      ASSERT_EQ(t.machine().digest(), expected[p]) << p << " by a step";
    }
  }
  const TimelineStop stop = check(t.forward({}, kNoPosition));
  EXPECT_EQ(stop.reason, TimelineStop::Reason::end);
}

TEST_P(Guests, key_frames_are_places_to_start_at) {
  if (GetParam() == "none") GTEST_SKIP() << "the guests have not been assembled";
  RecordedGuest guest;
  ASSERT_NO_FATAL_FAILURE(record_small_guest(GetParam(), 0, guest));
  const uint64_t interval = std::max<uint64_t>(guest.end / 9, 1);
  ASSERT_NO_FATAL_FAILURE(record_small_guest(GetParam(), interval, guest));
  std::mt19937_64 random(2);
  auto expected = plain_states(guest, 30, random);
  for (uint64_t p = 0; p < guest.end; p += interval) {
    auto session = ReplaySession::open(guest.file.path(), guest.images);
    ASSERT_TRUE(session.ok()) << session.error().text();
    const auto from = (*session)->start_from(Position(p));
    ASSERT_TRUE(from.ok()) << from.error().text();
    ASSERT_EQ(*from, Position(p));
    const auto result = (*session)->run({});
    ASSERT_TRUE(result.ok()) << result.error().text();
    ASSERT_EQ(result->end, ReplayResult::End::complete) << p << (result->divergence ? result->divergence->text() : "");
  }
  TimelineOptions options;
  options.checkpoint_spacing = std::max<uint64_t>(guest.end / 50, 100);
  options.key_frame_reach = 0;
  auto opened = Timeline::open(guest.file.path(), guest.images, options);
  ASSERT_TRUE(opened.ok()) << opened.error().text();
  Timeline& t = **opened;
  std::vector<uint64_t> order;
  for (const auto& [p, unused] : expected) order.push_back(p);
  std::shuffle(order.begin(), order.end(), random);
  for (const uint64_t p : order) {
    check(t.seek(Position(p)));
    ASSERT_EQ(t.machine().digest(), expected[p]) << p;
  }
  const TimelineStop stop = check(t.forward({}, kNoPosition));
  EXPECT_EQ(stop.reason, TimelineStop::Reason::end);
}

INSTANTIATE_TEST_SUITE_P(Timeline, Guests, testing::ValuesIn(guest_names()), [](const auto& p) { return p.param; });

}  // namespace
}  // namespace retrovisor
