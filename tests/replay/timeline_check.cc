// Checks a timeline against plain replays of the same recording: states at random positions reached in different ways,
// and where it stops for random breakpoints, watches and events, forwards and backwards, against all hits in order. Of a
// recording without key frames the timeline first runs all; one with key frames is entered cold, so that most of it is
// unknown at first.
// Usage: timeline_check TRACE KERNEL INITRD POSITIONS SETS [SEED [MEMORY_MIB]]
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <map>
#include <random>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "replay/replay_session.h"
#include "tests/replay/check_tool.h"
#include "replay/timeline.h"

namespace retrovisor {
namespace {

using Random = std::mt19937_64;
using Reason = TimelineStop::Reason;

// A plain replay that only goes forward.
class Plain {
 public:
  Plain(const std::string& trace, const BootImages& images) : session_(take(ReplaySession::open(trace, images))) {}
  Machine& machine() { return session_->machine(); }
  Position end() const { return session_->end(); }
  void run_to(Position p) {
    while (machine().position() < p) {
      const Stop stop = machine().run_until(p);
      if (stop.reason != StopReason::position && machine().position() != p)
        fail(fmt::format("the plain replay stops at {}", machine().position().value));
    }
  }

 private:
  std::unique_ptr<ReplaySession> session_;
};

// What can hold at a position, in the order of the machine.
struct Hit {
  Position position;
  Reason reason{};
  uint64_t address = 0;
};

// All hits of a set of conditions between two positions, from a machine that watches and never stops.
class Listener final : public JournalSink {
 public:
  Listener(Machine& machine, const StopConditions& conditions) : machine_(machine), conditions_(conditions) {
    Interest interest;
    interest.breakpoints = conditions.breakpoints;
    interest.watches = conditions.watches;
    interest.hit = [this](const Observation& o) {
      const bool breakpoint = o.kind == Observation::Kind::breakpoint;
      if (o.kind == Observation::Kind::write && !o.changed && !conditions_.watches[o.index].on_read) return false;
      add({o.position, breakpoint ? Reason::breakpoint : Reason::watch, o.address.value});
      return false;
    };
    subscription_ = machine.observers().subscribe(std::move(interest));
    machine.journal().connect(this, conditions.events);
  }
  ~Listener() override {
    machine_.journal().connect(nullptr, 0);
  }
  void event(const JournalEvent& e) override {
    if (!conditions_.event_filter || conditions_.event_filter(e)) add({e.position, Reason::event, e.a});
  }

  std::vector<Hit> hits;
  bool too_many = false;

 private:
  void add(const Hit& hit) {
    if (hits.size() < kMost) hits.push_back(hit);
    else too_many = true;
  }

  static constexpr size_t kMost = 20'000'000;
  Machine& machine_;
  const StopConditions& conditions_;
  Subscription subscription_;
};

void check_positions(Timeline& t, const std::string& trace, const BootImages& images, size_t count, Random& random) {
  std::map<uint64_t, StateDigest> expected;
  while (expected.size() < count) expected[1 + random() % t.end().value] = {};
  expected[0] = {};
  expected[t.end().value] = {};
  {
    Plain plain(trace, images);
    for (auto& [position, digest] : expected) {
      plain.run_to(Position(position));
      digest = plain.machine().digest();
    }
  }
  std::vector<uint64_t> order;
  for (const auto& [position, digest] : expected) order.push_back(position);
  std::shuffle(order.begin(), order.end(), random);
  const auto check = [&](uint64_t p, std::string_view way) {
    if (t.position().value != p || t.machine().position().value != p) fail(fmt::format("{}: not at {}", way, p));
    if (t.machine().digest() != expected[p]) fail(fmt::format("the state at {} is another one when arriving {}", p, way));
  };
  for (const uint64_t p : order) {
    take(t.seek(Position(p)));
    check(p, "from a checkpoint");
    const uint64_t k = 1 + random() % (random() % 2 == 0 ? 100 : 3'000'000);
    take(t.seek(Position(p + k)));
    take(t.seek(Position(p)));
    check(p, "from behind");
    if (p == 0) continue;
    take(t.seek(Position(p - 1)));
    if (t.position() < t.end()) take(t.forward({}, Position(p)));
    check(p, "by a step back and one forward");
    const uint64_t before = random() % std::min<uint64_t>(p, 2'000'000);
    take(t.seek(Position(p - before)));
    take(t.forward({}, Position(p)));
    check(p, "from before");
  }
  fmt::print("{} positions, each the same state in four ways\n", order.size());
}

// Breakpoints where code runs, watches where registers point to.
StopConditions random_conditions(Timeline& t, Position begin, uint64_t length, Random& random) {
  StopConditions c;
  const auto visit = [&] { take(t.seek(begin + random() % length)); };
  const uint64_t kinds = 1 + random() % 7;
  if ((kinds & 1) != 0) {
    for (size_t n = 1 + random() % 4; n != 0; --n) {
      visit();
      c.breakpoints.push_back(t.machine().vcpu(VcpuId(0)).state.linear_rip().value);
    }
    if (random() % 4 == 0) c.breakpoints.push_back(random());
  }
  if ((kinds & 2) != 0) {
    for (size_t n = 1 + random() % 4; n != 0; --n) {
      visit();
      const CpuState& s = t.machine().vcpu(VcpuId(0)).state;
      const uint64_t base = s.gpr[random() % 2 == 0 ? size_t{RSP} : random() % 16];
      Watch w{LinearAddr(base + (random() % 256 - 128)), 1 + random() % (random() % 4 == 0 ? 5000 : 16), false, true};
      if (random() % 3 == 0) w.on_read = true;
      if (random() % 6 == 0) w = {w.begin, w.size, true, false};
      c.watches.push_back(w);
    }
  }
  if ((kinds & 4) != 0 && random() % 2 == 0) {
    constexpr EventKind kKinds[] = {EventKind::interrupt, EventKind::exception,  EventKind::timer, EventKind::port_write,
                                    EventKind::port_read, EventKind::mmio_write, EventKind::tsc_read};
    c.events = mask_of(kKinds[random() % std::size(kKinds)]);
    if (random() % 2 == 0) c.event_filter = [odd = random() % 2](const JournalEvent& e) { return e.a % 2 == odd; };
  }
  return c;
}

void check_backward(Timeline& t, const StopConditions& c, const std::vector<Hit>& hits, Position lowest, Position start) {
  // The last hit before `start`: of those at one position the last.
  const Hit* last = nullptr;
  for (const Hit& h : hits)
    if (h.position < start && h.position >= lowest) last = &h;
  take(t.seek(start));
  const TimelineStop stop = take(t.backward(c, lowest));
  if (last == nullptr) {
    const bool begin = lowest == t.begin();
    if (stop.reason != (begin ? Reason::begin : Reason::position) || stop.position != lowest)
      fail(fmt::format("backward from {}: stops at {} for nothing", start.value, stop.position.value));
  } else if (stop.reason != last->reason || stop.position != last->position || t.position() != last->position) {
    fail(fmt::format("backward from {}: stops at {} (reason {}) instead of {} (reason {})", start.value, stop.position.value,
                     static_cast<int>(stop.reason), last->position.value, static_cast<int>(last->reason)));
  }
}

void check_forward(Timeline& t, const StopConditions& c, const std::vector<Hit>& hits, Position start, Position limit) {
  const Hit* first = nullptr;
  for (const Hit& h : hits) {
    if (h.position < start || (h.reason == Reason::breakpoint && h.position == start) || h.position >= limit) continue;
    first = &h;
    break;
  }
  take(t.seek(start));
  const TimelineStop stop = take(t.forward(c, limit));
  const Position where = first == nullptr ? limit : first->position + (first->reason == Reason::breakpoint ? 0 : 1);
  const Reason why = first != nullptr ? first->reason : limit == t.end() ? Reason::end : Reason::position;
  if (stop.reason != why || stop.position != where || t.position() != where)
    fail(fmt::format("forward from {}: stops at {} (reason {}) instead of {} (reason {})", start.value, stop.position.value,
                     static_cast<int>(stop.reason), where.value, static_cast<int>(why)));
  const StateDigest there = t.machine().digest();
  take(t.seek(where.value > 5000 ? where - 5000 : Position(0)));
  take(t.seek(where));
  if (t.machine().digest() != there)
    fail(fmt::format("forward from {}: the state at {} is not exact", start.value, where.value));
}

void check_sets(Timeline& t, const std::string& trace, const BootImages& images, size_t count, Random& random) {
  constexpr uint64_t kWindow = 1'500'000;
  struct Set {
    StopConditions conditions;
    Position begin;
    uint64_t length;
    std::vector<Hit> hits;
  };
  std::vector<Set> sets(count);
  for (Set& s : sets) {
    s.length = std::min(kWindow, t.end().value);
    s.begin = Position(random() % (t.end().value - s.length + 1));
  }
  std::sort(sets.begin(), sets.end(), [](const Set& a, const Set& b) { return a.begin < b.begin; });
  for (Set& s : sets) s.conditions = random_conditions(t, s.begin, s.length, random);
  size_t hits = 0;
  {
    // One pass for all windows; those that overlap wait for a machine of their own.
    std::vector<Set*> left;
    for (Set& s : sets) left.push_back(&s);
    while (!left.empty()) {
      Plain plain(trace, images);
      std::vector<Set*> next;
      for (Set* s : left) {
        if (s->begin < plain.machine().position()) {
          next.push_back(s);
          continue;
        }
        plain.run_to(s->begin);
        Listener listener(plain.machine(), s->conditions);
        plain.run_to(s->begin + s->length);
        s->hits = std::move(listener.hits);
        hits += s->hits.size();
      }
      left = std::move(next);
    }
  }
  std::shuffle(sets.begin(), sets.end(), random);
  for (const Set& s : sets) {
    for (int i = 0; i < 4; ++i) {
      check_backward(t, s.conditions, s.hits, s.begin, s.begin + random() % (s.length + 1));
      check_forward(t, s.conditions, s.hits, s.begin + random() % s.length, s.begin + s.length);
    }
    // From one hit to the one before.
    take(t.seek(s.begin + s.length));
    for (int i = 0; i < 4 && t.position() > s.begin; ++i) check_backward(t, s.conditions, s.hits, s.begin, t.position());
  }
  fmt::print("{} sets of conditions with {} hits\n", count, hits);
}

// Over all of the recording, where intervals are skipped.
void check_far(Timeline& t, const std::string& trace, const BootImages& images, size_t count, Random& random) {
  size_t total = 0, done = 0;
  // Some sets hit nothing, or too much: others instead, but each costs a run of all of the recording.
  for (size_t tries = 0; done < count && tries < 3 * count; ++tries) {
    StopConditions c = random_conditions(t, t.begin(), t.end().value, random);
    for (Watch& w : c.watches) w.on_read = false, w.on_write = true;
    c.events &= mask_of(EventKind::exception);
    Plain plain(trace, images);
    Listener listener(plain.machine(), c);
    plain.run_to(t.end());
    if (listener.too_many || listener.hits.empty()) continue;
    ++done;
    total += listener.hits.size();
    Position start = t.end();
    for (int k = 0; k < 4; ++k) {
      check_backward(t, c, listener.hits, t.begin(), start);
      start = Position(random() % (t.end().value + 1));
    }
  }
  fmt::print("{} sets over all of the recording with {} hits\n", done, total);
}

int run_main(int argc, char** argv) {
  if (argc < 6) {
    fmt::print(stderr, "usage: timeline_check TRACE KERNEL INITRD POSITIONS SETS [SEED [MEMORY_MIB]]\n");
    return 2;
  }
  const std::string trace = argv[1];
  const BootImages images = guest_images(argv[2], argv[3]);
  const size_t positions = std::strtoull(argv[4], nullptr, 0);
  const size_t sets = std::strtoull(argv[5], nullptr, 0);
  const uint64_t seed = argc > 6 ? std::strtoull(argv[6], nullptr, 0) : std::random_device{}();
  fmt::print("seed {}\n", seed);
  Random random(seed);
  TimelineOptions options;
  if (argc > 7) options.checkpoint_memory = std::strtoull(argv[7], nullptr, 0) << 20;
  const auto t = take(Timeline::open(trace, images, options));
  const bool key_frames = t->checkpoints().key_frames != 0;
  auto begin = std::chrono::steady_clock::now();
  const auto done = [&](std::string_view phase) {
    const auto now = std::chrono::steady_clock::now();
    const std::chrono::duration<double> seconds = now - std::exchange(begin, now);
    const CheckpointFigures f = t->checkpoints();
    fmt::print("{}: {:.2f} s; now {} checkpoints, {} MiB, {} key frames restored\n", phase, seconds.count(), f.count, f.bytes >> 20,
               f.key_frames_restored);
  };
  take(t->seek(t->end()));
  done("first seek to the end");
  if (!key_frames) {
    if (auto warmed = t->warm(); !warmed) fail(warmed.error().text());
    done("what was not known yet");
  }
  if (positions != 0) check_positions(*t, trace, images, positions, random);
  done("positions");
  if (sets != 0) check_sets(*t, trace, images, sets, random);
  done("sets");
  if (sets != 0) check_far(*t, trace, images, std::max<size_t>(sets / 20, 1), random);
  done("far");
  const CheckpointFigures f = t->checkpoints();
  if (key_frames && f.key_frames_restored == 0) fail("no key frame was ever used");
  if (options.checkpoint_memory != 0 && f.bytes > options.checkpoint_memory) fail("more memory than allowed");
  return 0;
}

}  // namespace
}  // namespace retrovisor

int main(int argc, char** argv) { return retrovisor::run_main(argc, argv); }
