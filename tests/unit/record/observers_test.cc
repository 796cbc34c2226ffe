// The soft engine's observers, and its account of touched pages, over whole machines.
#include "vmm/observer.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <map>
#include <set>
#include <utility>

#include "tests/unit/record/timelines.h"

namespace retrovisor {
namespace {

constexpr uint64_t kCode = 0x100000;
constexpr uint64_t kData = 0x200000;

// A machine in 32-bit protected mode with this code at kCode.
class Bare {
 public:
  explicit Bare(std::vector<uint8_t> code) {
    MachineConfig config;
    config.memory_size = kMinRam;
    auto made = Machine::create(config, boundary_);
    EXPECT_TRUE(made.ok());
    machine_ = std::move(*made);
    BootImages images;
    images.kernel = std::move(code);
    images.flat_address = kCode;
    images.flat_mode = FlatMode::protected32;
    EXPECT_TRUE(m().load(images).ok());
    interest.hit = [this](const Observation& o) {
      seen.push_back(o);
      return stop;
    };
  }
  Machine& m() { return *machine_; }
  CpuState& cpu() { return m().vcpu(VcpuId(0)).state; }
  void run(uint64_t to) { last = m().run_until(Position(to)); }
  void install() { subscription_ = m().observers().subscribe(interest); }
  void remove() { subscription_ = {}; }

  Interest interest;
  std::vector<Observation> seen;
  bool stop = false;
  Stop last;

 private:
  TimedBoundary boundary_;
  std::unique_ptr<Machine> machine_;
  Subscription subscription_;
};

TEST(Observers, breakpoint_in_the_middle_of_straight_code_is_seen_before_its_instruction) {
  Bare g({0x40, 0x40, 0x40, 0x40, 0xeb, 0xfa});  // four times INC EAX, JMP
  g.run(100);  // as one block, linked to itself
  g.interest.breakpoints = {kCode + 2};
  g.install();
  g.stop = true;
  g.run(200);
  EXPECT_EQ(g.last.reason, StopReason::observed);
  EXPECT_EQ(g.cpu().rip, kCode + 2);
  EXPECT_EQ(g.m().position(), Position(102));
  ASSERT_EQ(g.seen.size(), 1u);
  EXPECT_EQ(g.seen[0].position, Position(102));
  EXPECT_TRUE(g.seen[0].on_arrival);
  g.interest.resume_from = Position(102);
  g.install();
  g.run(200);
  EXPECT_EQ(g.m().position(), Position(107));
  g.remove();
  g.run(200);
  EXPECT_EQ(g.last.reason, StopReason::position);
}

TEST(Observers, breakpoint_on_a_string_operation_is_seen_at_each_iteration_however_the_run_is_cut) {
  for (const uint64_t cut : {uint64_t{1000}, uint64_t{7}}) {
    // MOV EDI, kData; MOV ECX, 20; MOV AL, 1; REP STOSB; JMP $
    Bare g({0xbf, 0, 0, 0x20, 0, 0xb9, 20, 0, 0, 0, 0xb0, 1, 0xf3, 0xaa, 0xeb, 0xfe});
    g.interest.breakpoints = {kCode + 12};
    g.install();
    while (g.m().position() < Position(60)) g.run(std::min<uint64_t>(60, g.m().position().value + cut));
    ASSERT_EQ(g.seen.size(), 20u);
    for (size_t i = 0; i < 20; ++i) EXPECT_EQ(g.seen[i].position, Position(3 + i));
  }
}

TEST(Observers, watch_sees_each_iteration_of_a_string_operation_that_touches_it) {
  Bare g({0xbf, 0, 0, 0x20, 0, 0xb9, 20, 0, 0, 0, 0xb0, 1, 0xf3, 0xaa, 0xeb, 0xfe});
  g.interest.watches = {{LinearAddr(kData + 5), 3, false, true}};
  g.install();
  g.run(60);
  ASSERT_EQ(g.seen.size(), 3u);
  for (size_t i = 0; i < 3; ++i) {
    EXPECT_EQ(g.seen[i].position, Position(3 + 5 + i));
    EXPECT_EQ(g.seen[i].address, LinearAddr(kData + 5 + i));
    EXPECT_EQ(g.seen[i].rip, kCode + 12);
    EXPECT_TRUE(g.seen[i].changed);
  }
  EXPECT_EQ(g.seen[2].old_value, 0x000101u);
  EXPECT_EQ(g.seen[2].new_value, 0x010101u);
}

TEST(Observers, watch_tells_reads_writes_and_writes_of_the_same_value_apart) {
  // MOV EBX, kData; then MOV [EBX], 5; MOV EAX, [EBX]; MOV [EBX], 5; ADD [EBX], 1; JMP $
  Bare g({0xbb, 0, 0, 0x20, 0, 0xc7, 0x03, 5, 0, 0, 0, 0x8b, 0x03, 0xc7, 0x03, 5, 0, 0, 0, 0x83, 0x03, 1, 0xeb, 0xfe});
  g.interest.watches = {{LinearAddr(kData), 4, true, true}, {LinearAddr(kData + 3), 1, false, true}};
  g.install();
  g.run(20);
  using Kind = Observation::Kind;
  struct Expected {
    Kind kind;
    size_t index;
    uint64_t position;
    bool changed;
  };
  const std::vector<Expected> expected = {
      {Kind::write, 0, 1, true},  {Kind::write, 1, 1, false}, {Kind::read, 0, 2, false},  {Kind::write, 0, 3, false},
      {Kind::write, 1, 3, false}, {Kind::read, 0, 4, false},  {Kind::write, 0, 4, true},  {Kind::write, 1, 4, false}};
  ASSERT_EQ(g.seen.size(), expected.size());
  for (size_t i = 0; i < expected.size(); ++i) {
    EXPECT_EQ(g.seen[i].kind, expected[i].kind) << i;
    EXPECT_EQ(g.seen[i].index, expected[i].index) << i;
    EXPECT_EQ(g.seen[i].position, Position(expected[i].position)) << i;
    EXPECT_EQ(g.seen[i].changed, expected[i].changed) << i;
  }
}

TEST(Observers, watch_stop_comes_right_behind_the_instruction) {
  // MOV EBX, kData; NOP; MOV [EBX], 5; NOP; NOP; JMP $
  Bare g({0xbb, 0, 0, 0x20, 0, 0x90, 0xc7, 0x03, 5, 0, 0, 0, 0x90, 0x90, 0xeb, 0xfe});
  g.interest.watches = {{LinearAddr(kData), 1, false, true}};
  g.stop = true;
  g.install();
  g.run(20);
  EXPECT_EQ(g.last.reason, StopReason::observed);
  EXPECT_EQ(g.m().position(), Position(3));
  EXPECT_EQ(g.cpu().rip, kCode + 12);
}

TEST(Observers, long_and_many_watches_see_changes_anywhere_in_them) {
  // MOV EBX, kData + 0x123; MOV BYTE [EBX], 7; JMP $
  Bare g({0xbb, 0x23, 1, 0x20, 0, 0xc6, 0x03, 7, 0xeb, 0xfe});
  for (uint64_t i = 0; i < 100; ++i) g.interest.watches.push_back({LinearAddr(kData - i), 0x2000, false, true});
  g.interest.watches.push_back({LinearAddr(kData + 0x124), UINT64_MAX - kData - 0x124, false, true});
  g.interest.watches.push_back({LinearAddr(kData + 0x123), 0, false, true});
  g.install();
  g.run(5);
  ASSERT_EQ(g.seen.size(), 100u);
  for (const Observation& o : g.seen) EXPECT_TRUE(o.changed);
}

// Observers do not change what the machine does.
TEST(Observers, a_watched_run_is_the_same_run) {
  const TempFile file;
  record_guest(file.path(), {});
  PlainRun plain(file.path()), watched(file.path());
  Interest observers;
  uint64_t hits = 0;
  observers.hit = [&](const Observation&) {
    ++hits;
    return false;
  };
  observers.watches = {{LinearAddr(0x190000), 4, true, true}, {LinearAddr(0x200000), 0x8000, true, true},
                       {LinearAddr(0x9e000), 0x1000, true, true}};
  for (uint64_t a = kCode; a < kCode + 0x100; a += 3) observers.breakpoints.push_back(a);
  watched.machine().engine().stepper().track_touched(true);
  for (uint64_t p = 0; p < 200'000; p += 20'000) {
    Subscription subscription;
    if (p % 40'000 == 0) subscription = watched.machine().observers().subscribe(observers);
    watched.machine().engine().stepper().take_touched();
    ASSERT_EQ(watched.digest_at(Position(p)), plain.digest_at(Position(p))) << p;
  }
  EXPECT_GT(hits, 1000u);
}

TEST(Observers, two_at_once_are_told_what_each_wants) {
  // INC EAX; MOV [kData], EAX; JMP
  Bare g({0x40, 0xa3, 0, 0, 0x20, 0, 0xeb, 0xf8});
  struct Log {
    std::vector<Observation> seen;
    Interest interest(Interest i, bool stop = false) {
      i.hit = [this, stop](const Observation& o) { return seen.push_back(o), stop; };
      return i;
    }
  } debugger, coverage;
  Interest watch, count;
  watch.watches = {{LinearAddr(kData), 4, false, true}};
  count.breakpoints = {kCode};
  count.watches = {{LinearAddr(kData + 0x1000), 4, true, true}, {LinearAddr(kData + 2), 2, false, true}};
  {
    const Subscription second = g.m().observers().subscribe(coverage.interest(count));
    {
      const Subscription first = g.m().observers().subscribe(debugger.interest(watch, true));
      g.run(100);
      EXPECT_EQ(g.last.reason, StopReason::observed);
      EXPECT_EQ(g.m().position(), Position(2));
    }
    g.run(30);
  }
  g.run(60);
  ASSERT_EQ(debugger.seen.size(), 1u);
  EXPECT_EQ(debugger.seen[0].index, 0u);
  EXPECT_EQ(debugger.seen[0].new_value, 1u);
  ASSERT_EQ(coverage.seen.size(), 20u) << "breakpoint and write in each of ten rounds";
  EXPECT_EQ(coverage.seen[1].kind, Observation::Kind::write);
  EXPECT_EQ(coverage.seen[1].index, 1u);
  EXPECT_EQ(coverage.seen[1].new_value, 0u) << "of its own watch";
}

TEST(Observers, are_told_of_interrupts_exceptions_and_address_spaces) {
  // AND AX, F000H; MOV CR3, EAX; UD2, of which the handler counts: ADD EAX, 1000H; ADD [ESP], 2; IRET
  Bare g({0x66, 0x25, 0x00, 0xf0, 0x0f, 0x22, 0xd8, 0x0f, 0x0b, 0xeb, 0xf5,
          0x05, 0x00, 0x10, 0, 0, 0x83, 0x04, 0x24, 2, 0xcf});
  constexpr uint32_t kIdt = 0x1000, kHandler = kCode + 11;
  const std::array<uint16_t, 4> gate = {kHandler & 0xffff, g.cpu().segment[CS].selector, 0x8e00, kHandler >> 16};
  g.m().memory().write(PhysAddr(kIdt + 6 * 8), std::span(reinterpret_cast<const uint8_t*>(gate.data()), sizeof gate));
  g.cpu().idtr = {kIdt, 0x7ff};
  g.cpu().gpr[RSP] = 0x9000;
  g.m().memory_changed();
  g.m().engine().state_changed(g.m().vcpu(VcpuId(0)));
  using Kind = Observation::Kind;
  g.interest.events = mask_of(Kind::exception) | mask_of(Kind::address_space) | mask_of(Kind::interrupt);
  g.install();
  g.run(6 * 10);
  ASSERT_EQ(g.seen.size(), 20u);
  const uint64_t eax = g.seen[0].new_value;
  for (size_t i = 0; i < g.seen.size(); i += 2) {
    EXPECT_EQ(g.seen[i].kind, Kind::address_space);
    EXPECT_EQ(g.seen[i].new_value, eax + i / 2 * 0x1000);
    EXPECT_EQ(g.seen[i].rip, kCode + 4);
    EXPECT_EQ(g.seen[i].position, Position(i / 2 * 6 + 1));
    EXPECT_EQ(g.seen[i + 1].kind, Kind::exception);
    EXPECT_EQ(g.seen[i + 1].number, 6);
    EXPECT_EQ(g.seen[i + 1].rip, kCode + 7);
    EXPECT_EQ(g.seen[i + 1].position, Position(i / 2 * 6 + 2));
  }

  const TempFile file;
  record_guest(file.path(), {});
  struct Journaled final : JournalSink {
    void event(const JournalEvent& e) override { seen.emplace_back(e.position.value, e.a); }
    std::vector<std::pair<uint64_t, uint64_t>> seen;
  } journal, told;
  PlainRun run(file.path());
  Interest interest;
  interest.events = mask_of(Kind::interrupt);
  interest.hit = [&](const Observation& o) { return told.seen.emplace_back(o.position.value, o.number), false; };
  const Subscription subscription = run.machine().observers().subscribe(interest);
  run.machine().journal().connect(&journal, mask_of(EventKind::interrupt));
  run.run_to(Position(200'000));
  run.machine().journal().connect(nullptr, 0);
  EXPECT_GT(told.seen.size(), 5u);
  EXPECT_EQ(told.seen, journal.seen);
}

// The machine, one instruction at a time, says what the code is; memory as an array says what the accesses are: each read gives what
// the array has, and the writes make the array into memory.
TEST(Observers, a_trace_of_every_instruction_and_access_is_that_of_single_steps) {
  const TempFile file;
  record_guest(file.path(), {});
  PlainRun steps(file.path()), traced(file.path());
  constexpr uint64_t kEnd = 30'000;
  std::vector<uint64_t> stepped;
  for (uint64_t p = 0; p < kEnd; ++p) {
    steps.run_to(Position(p));
    stepped.push_back(steps.machine().vcpu(VcpuId(0)).state.rip);
  }

  std::vector<uint64_t> arrived;
  std::vector<uint8_t> shadow(kMinRam);
  GuestMemory& memory = traced.machine().memory();
  for (uint64_t a = 0; a < kMinRam; ++a) shadow[a] = memory.is_ram(PhysAddr(a)) ? *memory.host(PhysAddr(a)) : 0;
  uint64_t reads = 0, writes = 0, wrong = 0;
  Interest interest;
  interest.events = mask_of(Observation::Kind::instruction) | mask_of(Observation::Kind::interrupt);
  interest.watches = {{LinearAddr(0), UINT64_MAX, true, true}};
  interest.hit = [&](const Observation& o) {
    if (o.kind == Observation::Kind::instruction || o.kind == Observation::Kind::interrupt) {
      if (o.position.value == arrived.size()) arrived.push_back(o.rip);  // not the handler that is entered there
      return false;
    }
    const uint64_t at = o.address.value;  // no paging
    if (at + o.data.size() > kMinRam || !memory.is_ram(PhysAddr(at))) return false;
    if (o.kind == Observation::Kind::write) {
      std::copy(o.data.begin(), o.data.end(), shadow.begin() + static_cast<std::ptrdiff_t>(at));
      ++writes;
    } else {
      wrong += std::equal(o.data.begin(), o.data.end(), shadow.begin() + static_cast<std::ptrdiff_t>(at)) ? 0 : 1;
      ++reads;
    }
    return false;
  };
  const Subscription subscription = traced.machine().observers().subscribe(interest);
  traced.run_to(Position(kEnd));
  EXPECT_EQ(arrived, stepped);
  EXPECT_GT(reads, 1000u);
  EXPECT_GT(writes, 1000u);
  EXPECT_EQ(wrong, 0u);
  for (uint64_t a = 0; a < kMinRam; ++a) {
    if (memory.is_ram(PhysAddr(a)) && shadow[a] != *memory.host(PhysAddr(a))) FAIL() << "memory at " << std::hex << a;
  }
}

// Against the list of all instructions; and however the run is cut.
TEST(Observers, blocks_begin_behind_branches_and_nowhere_else) {
  const TempFile file;
  record_guest(file.path(), {});
  constexpr uint64_t kEnd = 20'000;
  struct Begin {
    uint64_t position, from, to;
    bool transfer;
    bool operator==(const Begin&) const = default;
  };
  std::vector<uint64_t> rip;
  const auto blocks = [&](uint64_t piece, bool instructions) {
    std::vector<Begin> begins;
    PlainRun run(file.path());
    Interest interest, every;
    interest.events = mask_of(Observation::Kind::block);
    interest.hit = [&](const Observation& o) {
      return begins.push_back({o.position.value, o.rip, o.address.value, o.transfer}), false;
    };
    every.events = mask_of(Observation::Kind::instruction) | mask_of(Observation::Kind::interrupt);
    every.hit = [&](const Observation& o) {
      if (o.position.value == rip.size()) rip.push_back(o.rip);
      return false;
    };
    const Subscription first = run.machine().observers().subscribe(interest);
    const Subscription second = instructions ? run.machine().observers().subscribe(every) : Subscription();
    for (uint64_t p = 0; p < kEnd; p += piece) run.run_to(Position(std::min(kEnd, p + piece)));
    return begins;
  };
  const std::vector<Begin> begins = blocks(kEnd, false);
  EXPECT_EQ(blocks(kEnd, true), begins);
  EXPECT_EQ(blocks(7, false), begins);
  EXPECT_EQ(blocks(1, false), begins);
  ASSERT_EQ(rip.size(), kEnd);
  std::map<uint64_t, const Begin*> at;
  std::set<uint64_t> interrupts;
  for (const Begin& b : begins) {
    if (b.transfer) {
      ASSERT_GT(b.position, 0u);
      EXPECT_EQ(b.from, rip[b.position - 1]);
      at[b.position] = &b;
    } else if (b.position != 0) {
      EXPECT_EQ(b.from, rip[b.position]) << "what was interrupted";
      interrupts.insert(b.position);
    }
  }
  EXPECT_FALSE(interrupts.empty());
  uint64_t jumps = 0;
  for (uint64_t p = 1; p < kEnd; ++p) {
    if (rip[p] > rip[p - 1] && rip[p] <= rip[p - 1] + 15) continue;
    if (interrupts.contains(p - 1)) continue;  // rip[p - 1] was not executed there
    ++jumps;
    ASSERT_TRUE(at.contains(p)) << std::hex << rip[p - 1] << " to " << rip[p];
    EXPECT_EQ(at[p]->to, rip[p]);
  }
  EXPECT_GT(jumps, 1000u);
  EXPECT_LT(begins.size(), kEnd / 2);
}

TEST(TouchedPages, hold_every_page_that_single_steps_and_digests_show) {
  const TempFile file;
  record_guest(file.path(), {});
  PlainRun steps(file.path()), tracked(file.path());
  constexpr uint64_t kBegin = 60'000;
  tracked.machine().engine().stepper().track_touched(true);
  for (uint64_t begin = kBegin; begin < kBegin + 40'000; begin += 4000) {
    tracked.run_to(Position(begin));
    tracked.machine().engine().stepper().take_touched();
    steps.digest_at(Position(begin));
    std::set<uint64_t> executed;
    for (uint64_t i = 0; i < 4000; ++i) {
      executed.insert(eip(steps.machine()) >> kPageShift);
      steps.run_to(Position(begin + i + 1));
    }
    steps.machine().digest();
    const auto written = steps.machine().last_dirty_pages();  // without paging, physical pages are linear ones
    tracked.run_to(Position(begin + 4000));
    const TouchedPages touched = tracked.machine().engine().stepper().take_touched();
    EXPECT_TRUE(std::includes(touched.executed.begin(), touched.executed.end(), executed.begin(), executed.end()));
    EXPECT_TRUE(std::includes(touched.written.begin(), touched.written.end(), written.begin(), written.end()));
    const auto& accessed = touched.accessed;
    EXPECT_TRUE(std::includes(accessed.begin(), accessed.end(), touched.written.begin(), touched.written.end()));
    // And not everything.
    EXPECT_LE(touched.executed.size(), 2u);
    EXPECT_LE(touched.written.size(), 270u);
  }
}

TEST(MachinePages, written_pages_and_digests_are_told_apart) {
  Bare g({0xc7, 0x05, 0, 0, 0x20, 0, 5, 0, 0, 0, 0xfe, 0x05, 0, 0x10, 0x20, 0, 0xeb, 0xf8});
  g.run(1);
  const auto pages = g.m().written_pages(), later = g.m().written_pages();
  const auto contains = [](const std::vector<uint64_t>& pages, uint64_t page) {
    return std::find(pages.begin(), pages.end(), page) != pages.end();
  };
  g.m().digest();
  EXPECT_TRUE(contains(g.m().last_dirty_pages(), kData >> kPageShift));
  EXPECT_TRUE(contains(pages->take(), kData >> kPageShift));
  EXPECT_TRUE(pages->take().empty());
  g.run(2);
  EXPECT_EQ(pages->take(), std::vector<uint64_t>{(kData >> kPageShift) + 1});
  g.m().digest();
  EXPECT_EQ(g.m().last_dirty_pages(), std::vector<uint64_t>{(kData >> kPageShift) + 1});
  const StateDigest before = g.m().digest();
  std::vector<uint8_t> page(kPageSize);
  ASSERT_TRUE(g.m().memory().read(PhysAddr(kData), page));
  std::vector<uint8_t> other = page;
  other[77] = 1;
  g.m().restore_page(kData >> kPageShift, other.data());
  EXPECT_NE(g.m().digest().memory, before.memory);
  EXPECT_EQ(pages->take(), std::vector<uint64_t>{kData >> kPageShift});
  const auto all = later->take();
  EXPECT_TRUE(contains(all, kCode >> kPageShift)) << "written before there was a reader";
  EXPECT_TRUE(contains(all, kData >> kPageShift) && contains(all, (kData >> kPageShift) + 1)) << "taken by another reader";
  EXPECT_TRUE(later->take().empty());
  g.m().restore_page(kData >> kPageShift, page.data());
  EXPECT_EQ(g.m().digest(), before);
}

TEST(MachinePages, restored_code_is_run_and_not_what_was_there_before) {
  Bare g({0x40, 0xeb, 0xfd});  // INC EAX, JMP
  g.run(100);
  const uint64_t eax = g.cpu().gpr[RAX];
  std::vector<uint8_t> page(kPageSize);
  ASSERT_TRUE(g.m().memory().read(PhysAddr(kCode), page));
  page[0] = 0x48;  // DEC EAX
  g.m().restore_page(kCode >> kPageShift, page.data());
  g.run(200);
  EXPECT_EQ(g.cpu().gpr[RAX], eax - 50);
}

}  // namespace
}  // namespace retrovisor
