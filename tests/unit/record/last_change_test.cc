// Who wrote bytes, whichever of their addresses was used: compared with what memory held before and after each instruction.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <map>
#include <random>

#include "tests/unit/record/alias_guest.h"
#include "tests/unit/record/timelines.h"
#include "vmm/cpu/page_walk.h"

namespace retrovisor {
namespace {

using Reason = TimelineStop::Reason;

BootImages alias_images() {
  BootImages images;
  images.kernel = alias_guest();
  images.flat_address = kGuestAddress;
  images.flat_mode = FlatMode::protected32;
  return images;
}

class LastChangeOf : public testing::Test {
 protected:
  // Long stretches are passed over, short ones hold several checkpoints.
  static constexpr uint64_t kSpacing = 2'000;
  static constexpr uint64_t kData = 0x8000;  // bytes looked at from kPageA on

  static void SetUpTestSuite() {
    file_ = new TempFile;
    SessionSetup setup;
    setup.images = alias_images();
    setup.keys.clear();
    record_guest(file_->path(), setup);
    changes_ = new std::map<uint64_t, std::vector<uint64_t>>;
    auto session = ReplaySession::open(file_->path(), alias_images(), {});
    ASSERT_TRUE(session.ok());
    Machine& m = (*session)->machine();
    std::vector<uint8_t> before = memory(m);
    end_ = (*session)->end();
    for (Position p{0}; p < end_; p += 1) {
      while (m.position() < p + 1 && m.run_until(p + 1).reason == StopReason::position) continue;
      const std::vector<uint8_t> after = memory(m);
      if (std::memcmp(before.data(), after.data(), after.size()) == 0) continue;
      for (size_t i = 0; i < after.size(); ++i)
        if (before[i] != after[i]) (*changes_)[address_of(i)].push_back(p.value);
      before = after;
    }
  }
  static void TearDownTestSuite() {
    delete file_;
    delete changes_;
  }

  void SetUp() override {
    TimelineOptions options;
    options.checkpoint_spacing = kSpacing;
    auto opened = Timeline::open(file_->path(), alias_images(), std::move(options));
    ASSERT_TRUE(opened.ok()) << opened.error().text();
    t_ = std::move(*opened);
  }

  // Pages A to D and all tables.
  static std::vector<uint8_t> memory(Machine& m) {
    std::vector<uint8_t> out(kData + 0x5000);
    EXPECT_TRUE(m.memory().read(PhysAddr(kPageA), std::span(out).first(kData)));
    EXPECT_TRUE(m.memory().read(PhysAddr(kTables), std::span(out).subspan(kData)));
    return out;
  }
  static uint64_t address_of(uint64_t index) { return index < kData ? kPageA + index : kTables + (index - kData); }

  // Before which position the bytes changed last, before `p`.
  static std::optional<uint64_t> oracle(const std::vector<ByteWatch>& bytes, uint64_t p) {
    std::optional<uint64_t> last;
    for (const ByteWatch& w : bytes) {
      for (uint64_t i = 0; i < w.bytes.size; ++i) {
        const auto at = changes_->find(w.bytes.begin.value + i);
        if (at == changes_->end()) continue;
        const auto behind = std::lower_bound(at->second.begin(), at->second.end(), p);
        if (behind != at->second.begin()) last = std::max(last.value_or(0), *std::prev(behind));
      }
    }
    return last;
  }

  // What `size` bytes at `linear` lead to here.
  std::vector<ByteWatch> led_to(uint64_t linear, uint64_t size) {
    std::vector<ByteWatch> out;
    Machine& m = t_->machine();
    for (uint64_t done = 0; done < size;) {
      const PageWalk walk = walk_page(m.vcpu(VcpuId(0)).state, m.memory(), LinearAddr(linear + done), {}, false);
      EXPECT_TRUE(walk.ok);
      const uint64_t n = std::min(size - done, kPageSize - ((linear + done) & ~kPageMask));
      out.push_back({{walk.phys, n}, LinearAddr(linear + done)});
      done += n;
    }
    return out;
  }

  LastChange last_change(const std::vector<ByteWatch>& bytes) {
    const Position here = t_->position();
    const auto found = t_->last_change(bytes, VcpuId(0));
    EXPECT_TRUE(found.ok()) << (found ? "" : found.error().text());
    EXPECT_EQ(t_->position(), here);
    return found ? *found : LastChange{};
  }

  // Behind the `n`th of the writes to kPageA + 0xf00 (0: before the first).
  Position behind(unsigned n) {
    const auto& all = changes_->at(kPageA + 0xf00);
    EXPECT_EQ(all.size(), 3u);
    return n == 0 ? Position(all.at(0)) : Position(all.at(n - 1) + 1);
  }

  static TempFile* file_;
  static std::map<uint64_t, std::vector<uint64_t>>* changes_;
  static Position end_;
  std::unique_ptr<Timeline> t_;
};

TempFile* LastChangeOf::file_ = nullptr;
std::map<uint64_t, std::vector<uint64_t>>* LastChangeOf::changes_ = nullptr;
Position LastChangeOf::end_;

TEST_F(LastChangeOf, bytes_with_several_addresses_is_the_same_whichever_is_asked) {
  const uint64_t through[] = {kAliases + 0xf00, kAliases + 0x1f00, kPageA + 0xf00};
  for (unsigned n = 1; n <= 3; ++n) {
    for (const uint64_t asked : through) {
      check(t_->seek(n == 3 ? end_ : behind(n + 1) - 1));
      const LastChange found = last_change(led_to(asked, 4));
      ASSERT_TRUE(found.write);
      EXPECT_EQ(found.write->position, behind(n) - 1);
      EXPECT_EQ(found.write->address, LinearAddr(through[n - 1]));
      EXPECT_EQ(found.write->through, LinearAddr(through[n - 1]));
      EXPECT_EQ(found.write->bytes.begin, PhysAddr(kPageA + 0xf00));
      EXPECT_EQ(found.write->new_value, kThrough[n - 1]);
      EXPECT_EQ(found.write->old_value, n == 1 ? 0 : kThrough[n - 2]);
      EXPECT_EQ(found.write->writer, Writer::instruction);
      EXPECT_EQ(found.write->cr3, kTables);
      EXPECT_TRUE(found.led_there);
    }
  }
}

TEST_F(LastChangeOf, a_page_is_not_that_of_the_same_address_in_another_address_space) {
  check(t_->seek(end_));
  const auto bytes = std::vector<ByteWatch>{{{PhysAddr(kPageA + 0xf10), 4}, LinearAddr(kAliases + 0xf10)}};
  const auto linear = t_->last_write(LinearAddr(kAliases + 0xf10), 4);
  ASSERT_TRUE(linear.ok() && *linear);
  EXPECT_EQ((*linear)->new_value, kSecondSpace);
  const LastChange found = last_change(bytes);
  ASSERT_TRUE(found.write);
  EXPECT_EQ(found.write->new_value, kFirstSpace);
  const LastChange other = last_change({{{PhysAddr(kPageC + 0xf10), 4}, LinearAddr(kAliases + 0x1f10)}});
  ASSERT_TRUE(other.write);
  EXPECT_EQ(other.write->new_value, kSecondSpace);
  EXPECT_EQ(other.write->cr3, kTables + 0x3000);
  EXPECT_FALSE(other.led_there);  // the second page of aliases is A in both
}

TEST_F(LastChangeOf, bytes_never_written_is_none) {
  check(t_->seek(end_));
  const LastChange found = last_change({{{PhysAddr(0x280000), 64}, std::nullopt}});
  EXPECT_FALSE(found.write);
  EXPECT_FALSE(found.unseen);
}

TEST_F(LastChangeOf, a_table_entry_may_be_the_page_walks) {
  unsigned walks = 0, stores = 0;
  for (const uint64_t entry : {kTables + 0x2000, kTables + 0x4008}) {
    for (const uint64_t p : changes_->at(entry)) {
      check(t_->seek(Position(p + 1)));
      const LastChange found = last_change({{{PhysAddr(entry), 4}, std::nullopt}});
      ASSERT_TRUE(found.write);
      ASSERT_EQ(found.write->position, Position(p));
      ++(found.write->writer == Writer::page_walk ? walks : stores);
    }
  }
  EXPECT_GT(walks, 20u);
  EXPECT_GT(stores, 20u);
}

TEST_F(LastChangeOf, random_bytes_at_random_positions_agrees_with_memory) {
  std::mt19937_64 random(1);
  unsigned none = 0, some = 0;
  for (unsigned i = 0; i < 400; ++i) {
    const Position p(end_.value / 4 + random() % (end_.value / 4 * 3));
    check(t_->seek(p));
    const uint64_t offset = random() % 4 * kPageSize + 0xf00 + random() % 0x180;
    uint64_t linear = kAliases + offset;
    const uint64_t kind = random() % 4;
    if (kind == 0) linear = kPageA + offset % 0x3000;
    if (kind == 1) linear = kTables + 0x2000 + random() % 2 * 0x2000 + random() % 24;
    const uint64_t size = 1 + random() % (i % 8 == 0 ? 600 : 8);
    if ((t_->machine().vcpu(VcpuId(0)).state.cr0 & cr0::PG) == 0 && kind > 1) continue;
    auto bytes = led_to(linear, size);
    const auto expected = oracle(bytes, p.value);
    const LastChange found = last_change(bytes);
    ASSERT_FALSE(found.unseen) << "position " << p.value << ", address " << std::hex << linear;
    ASSERT_EQ(found.write.has_value(), expected.has_value()) << "position " << p.value << ", address " << std::hex << linear;
    ++(expected ? some : none);
    if (expected) ASSERT_EQ(found.write->position.value, *expected) << "position " << p.value << ", address " << std::hex << linear;
  }
  EXPECT_GT(some, 200u);
  EXPECT_GT(none, 5u);
}

// No writer is named for what does not add up.
TEST_F(LastChangeOf, bytes_that_changed_behind_the_engines_back_is_unseen) {
  // Where they were written before, and where nothing writes; each in a stretch that is run and in one that is passed over.
  for (const uint64_t at : {kPageA + 0xf00, uint64_t{0x280000}}) {
    for (const bool warm : {false, true}) {
      if (warm) ASSERT_TRUE(t_->warm().ok());
      check(t_->seek(Position(behind(3).value + 1)));
      const Position here = t_->position();
      *t_->machine().memory().host(PhysAddr(at)) ^= warm ? 0x40 : 0x80;  // what nobody knows of is not put back
      const LastChange found = last_change({{{PhysAddr(at), 4}, std::nullopt}});
      ASSERT_TRUE(found.unseen) << std::hex << at;
      EXPECT_LT(found.unseen->first, found.unseen->second);
      EXPECT_LE(found.unseen->second, here);
      check(t_->seek(t_->begin()));
    }
  }
}

TEST_F(LastChangeOf, bytes_is_where_runs_stop_forwards_and_backwards) {
  StopConditions conditions;
  conditions.bytes.push_back({{PhysAddr(kPageA + 0xf00), 4}, std::nullopt});
  for (unsigned n = 1; n <= 3; ++n) {
    const TimelineStop stop = check(t_->forward(conditions, t_->end()));
    ASSERT_EQ(stop.reason, Reason::watch);
    EXPECT_EQ(t_->position(), behind(n));
    EXPECT_EQ(word_at(t_->machine(), kPageA + 0xf00), kThrough[n - 1]);
  }
  EXPECT_EQ(check(t_->forward(conditions, t_->end())).reason, Reason::end);
  for (unsigned n = 3; n >= 1; --n) {
    const TimelineStop stop = check(t_->backward(conditions, t_->begin()));
    ASSERT_EQ(stop.reason, Reason::watch);
    EXPECT_EQ(t_->position(), behind(n) - 1);
    EXPECT_EQ(stop.observation->new_value, kThrough[n - 1]);
    EXPECT_EQ(word_at(t_->machine(), kPageA + 0xf00), n == 1 ? 0 : kThrough[n - 2]);
  }
  EXPECT_EQ(check(t_->backward(conditions, t_->begin())).reason, Reason::begin);
}

TEST_F(LastChangeOf, random_stops_at_bytes_are_all_of_their_changes_in_both_directions) {
  const uint64_t at = kPageA + 0xfa3;
  const std::vector<uint64_t>& all = changes_->at(at);
  ASSERT_GT(all.size(), 5u);
  StopConditions conditions;
  conditions.bytes.push_back({{PhysAddr(at), 1}, std::nullopt});
  std::vector<uint64_t> seen;
  while (check(t_->forward(conditions, t_->end())).reason == Reason::watch) seen.push_back(t_->position().value - 1);
  EXPECT_EQ(seen, all);
  seen.clear();
  while (check(t_->backward(conditions, t_->begin())).reason == Reason::watch) seen.push_back(t_->position().value);
  std::reverse(seen.begin(), seen.end());
  EXPECT_EQ(seen, all);
}

TEST_F(LastChangeOf, a_watched_address_counts_only_while_it_leads_there) {
  StopConditions conditions;  // what kAliases leads to in the first address space, written as page A
  conditions.watches.push_back({LinearAddr(kAliases + 0xf00), 4, false, true});
  conditions.bytes.push_back({{PhysAddr(kPageA + 0xf00), 4}, LinearAddr(kAliases + 0xf00)});
  conditions.bytes.push_back({{PhysAddr(kPageC + 0xf10), 4}, LinearAddr(kAliases + 0x1f10)});  // never leads there
  check(t_->seek(end_));
  for (unsigned n = 3; n >= 1; --n) {
    const TimelineStop stop = check(t_->backward(conditions, t_->begin()));
    ASSERT_EQ(stop.reason, Reason::watch);
    EXPECT_EQ(t_->position(), behind(n) - 1);
    // The first is a store through the watched address, and told as one.
    EXPECT_EQ(stop.observation->kind, n == 1 ? Observation::Kind::write : Observation::Kind::physical_write);
  }
  EXPECT_EQ(check(t_->backward(conditions, t_->begin())).reason, Reason::begin);
  const TimelineStop first = check(t_->forward(conditions, t_->end()));
  EXPECT_EQ(t_->position(), behind(1));
  EXPECT_EQ(first.observation->kind, Observation::Kind::write);
}

}  // namespace
}  // namespace retrovisor
