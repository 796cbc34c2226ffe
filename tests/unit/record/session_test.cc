// Whole sessions: a recorded run replays bit for bit, and what is not the recorded run is found and named.
#include <sys/resource.h>
#include <sys/wait.h>

#include <algorithm>
#include <csignal>

#include "replay/bisect.h"
#include "tests/unit/record/sessions.h"
#include "traces/describe.h"

namespace retrovisor {
namespace {

TEST(Sessions, replay_is_the_recorded_run_with_every_detail_and_journal) {
  for (const DigestDetail detail : {DigestDetail::sums, DigestDetail::fields, DigestDetail::full}) {
    for (const EventMask journal : {EventMask{0}, kJournalDefault, kJournalFull}) {
      const TempFile file;
      SessionSetup setup;
      setup.detail = detail;
      setup.journal = journal;
      std::string shown;
      const RecordResult recorded = record_guest(file.path(), setup, &shown);
      EXPECT_EQ(recorded.run.stop.reason, StopReason::debug_exit);
      EXPECT_EQ(recorded.run.stop.detail, 3u);
      EXPECT_EQ(shown, "abcd");
      EXPECT_GT(recorded.digests, 3u);

      std::string again;
      const auto session = open_replay(
          file.path(), [&](Moment, EndpointId, std::span<const uint8_t> bytes) { again.append(bytes.begin(), bytes.end()); });
      ASSERT_NE(session, nullptr);
      const auto result = session->run({});
      ASSERT_TRUE(result.ok());
      EXPECT_EQ(result->end, ReplayResult::End::complete) << (result->divergence ? result->divergence->text() : "");
      EXPECT_EQ(result->position, recorded.run.end);
      EXPECT_EQ(result->stop.reason, StopReason::debug_exit);
      EXPECT_EQ(result->digests_compared, recorded.digests);  // what the end marker says again is none
      EXPECT_EQ(again, shown);
      if (journal != 0) {
        EXPECT_GT(result->events_compared, 10u);
      }
      EXPECT_EQ(session->machine().now(), recorded.run.guest_time);
    }
  }
}

TEST(Sessions, slices_and_flushes_do_not_change_what_is_recorded) {
  std::vector<std::vector<TraceItem>> runs;
  for (const auto& [slice, flush_ms] :
       {std::pair(uint64_t{1} << 20, 10'000), std::pair(uint64_t{777}, 10'000), std::pair(uint64_t{5000}, 0)}) {
    const TempFile file;
    SessionSetup setup;
    setup.options.run.slice = slice;
    setup.options.flush_interval = std::chrono::milliseconds(flush_ms);
    record_guest(file.path(), setup);
    auto items = read_all(file.path());
    ASSERT_TRUE(items.ok());
    runs.push_back(std::move(*items));
  }
  for (size_t i = 1; i < runs.size(); ++i) {
    ASSERT_EQ(runs[i].size(), runs[0].size());
    for (size_t k = 0; k < runs[0].size(); ++k)
      EXPECT_TRUE(same_item(runs[0][k], runs[i][k])) << "run " << i << " item " << k;
  }
}

TEST(Sessions, every_way_to_end_replays) {
  for (const auto& [key, reason] :
       {std::pair(guest_key::exit, StopReason::debug_exit), std::pair(guest_key::halt, StopReason::halted_forever),
        std::pair(guest_key::triple, StopReason::triple_fault)}) {
    const TempFile file;
    SessionSetup setup;
    setup.keys = {{700'000, 'z'}, {1'500'000, key}};
    const RecordResult recorded = record_guest(file.path(), setup);
    EXPECT_EQ(recorded.run.stop.reason, reason);
    EXPECT_FALSE(recorded.run.on_arrival);
    const auto items = read_all(file.path());
    ASSERT_TRUE(items.ok());
    const auto& end = std::get<EndRecord>(items->back());
    EXPECT_EQ(end.faults.empty(), reason != StopReason::triple_fault);
    if (reason == StopReason::triple_fault) EXPECT_NE(describe(end.stop, end.faults).find(", then #DF (error code 0x0), then #"), std::string::npos);
    const ReplayResult result = replay(file.path());
    EXPECT_EQ(result.end, ReplayResult::End::complete)
        << to_string(reason) << (result.divergence ? result.divergence->text() : "");
    EXPECT_EQ(result.position, recorded.run.end);
  }
}

TEST(Sessions, recording_that_ends_at_a_position_replays) {
  for (const uint64_t stop_at : {uint64_t{1}, uint64_t{50'000}, uint64_t{123'456}}) {
    const TempFile file;
    SessionSetup setup;
    setup.options.run.stop_at = Position(stop_at);
    const RecordResult recorded = record_guest(file.path(), setup);
    EXPECT_EQ(recorded.run.end, Position(stop_at));
    EXPECT_TRUE(recorded.run.on_arrival);
    const ReplayResult result = replay(file.path());
    EXPECT_EQ(result.end, ReplayResult::End::complete) << (result.divergence ? result.divergence->text() : "");
    EXPECT_EQ(result.position, Position(stop_at));
  }
}

TEST(Sessions, recording_stopped_by_the_host_replays_from_any_call) {
  // Ctrl-C at the first call of the boundary after each of these guest times: in polls and in idle waits.
  for (uint64_t time = 500'000; time < 1'600'000; time += 73'000) {
    const TempFile file;
    SessionSetup setup;
    setup.wants_stop = [time](Moment at) { return at.time.value >= time; };
    const RecordResult recorded = record_guest(file.path(), setup);
    EXPECT_EQ(recorded.run.stop.reason, StopReason::host_request);
    const ReplayResult result = replay(file.path());
    EXPECT_EQ(result.end, ReplayResult::End::complete) << time << (result.divergence ? result.divergence->text() : "");
    EXPECT_EQ(result.position, recorded.run.end);
  }
}

TEST(Sessions, stop_flag_and_time_limit_end_a_run_between_slices) {
  const TempFile file;
  SessionSetup setup;
  setup.keys.clear();
  int asked = 0;
  setup.options.run.slice = 10'000;
  setup.options.run.stop_requested = [&] { return ++asked > 5; };
  const RecordResult recorded = record_guest(file.path(), setup);
  EXPECT_EQ(recorded.run.stop.reason, StopReason::host_request);
  EXPECT_EQ(recorded.run.end, Position(50'000));
  EXPECT_EQ(replay(file.path()).end, ReplayResult::End::complete);

  const TempFile limited;
  setup.options.run.stop_requested = {};
  setup.options.run.time_limit = std::chrono::milliseconds(20);
  const RecordResult result = record_guest(limited.path(), setup);
  EXPECT_TRUE(result.run.time_limit_reached);
  EXPECT_EQ(replay(limited.path()).end, ReplayResult::End::complete);
}

TEST(Sessions, truncated_trace_replays_to_its_last_whole_chunk) {
  const TempFile file;
  SessionSetup setup;
  setup.options.flush_interval = std::chrono::milliseconds(0);
  setup.options.run.slice = 10'000;
  record_guest(file.path(), setup);
  const auto bytes = file.read();
  Position furthest;
  for (size_t size = bytes.size() - 1; size > 2000; size -= std::min<size_t>(size, bytes.size() / 9)) {
    const TempFile cut;
    cut.write({bytes.begin(), bytes.begin() + static_cast<std::ptrdiff_t>(size)});
    const ReplayResult result = replay(cut.path());
    EXPECT_EQ(result.end, ReplayResult::End::incomplete) << (result.divergence ? result.divergence->text() : "");
    EXPECT_NE(result.note.find("incomplete (no end marker)"), std::string::npos);
    furthest = std::max(furthest, result.position);
  }
  EXPECT_GT(furthest, Position(100'000));
}

TEST(Sessions, replay_can_stop_and_go_on) {
  const TempFile file;
  record_guest(file.path(), {});
  const auto session = open_replay(file.path());
  ASSERT_NE(session, nullptr);
  for (uint64_t stop = 10'000; stop < 150'000; stop += 33'333) {
    ReplayOptions options;
    options.stop_at = Position(stop);
    const auto result = session->run(options);
    ASSERT_TRUE(result.ok());
    EXPECT_EQ(result->end, ReplayResult::End::stop_at);
    EXPECT_EQ(result->position, Position(stop));
  }
  const auto result = session->run({});
  ASSERT_TRUE(result.ok());
  EXPECT_EQ(result->end, ReplayResult::End::complete);
}

TEST(Sessions, refuses_another_kernel) {
  const TempFile file;
  record_guest(file.path(), {});
  BootImages other = guest_images();
  other.kernel.back() ^= 1;
  const auto session = ReplaySession::open(file.path(), other);
  ASSERT_FALSE(session.ok());
  EXPECT_NE(session.error().text().find("the trace does not belong to this kernel"), std::string::npos)
      << session.error().text();
  BootImages more = guest_images();
  more.initrd = {1};
  EXPECT_FALSE(ReplaySession::open(file.path(), more).ok());
}

// The disk fills up at `limit` bytes, in a process of its own.
TEST(Sessions, recording_on_a_full_disk_says_what_it_kept_and_that_replays) {
  for (const rlim_t limit : {rlim_t{6000}, rlim_t{9000}}) {
    const TempFile file;
    const pid_t child = fork();
    ASSERT_GE(child, 0);
    if (child == 0) {
      signal(SIGXFSZ, SIG_IGN);
      const rlimit r{limit, limit};
      setrlimit(RLIMIT_FSIZE, &r);
      SessionSetup setup;
      setup.options.run.slice = 10'000;
      setup.options.flush_interval = std::chrono::milliseconds(0);
      setup.digest_interval = 10'000;
      const auto result = try_record_guest(file.path(), setup);
      _exit(!result && result.error().text().find("the trace holds the run up to position") != std::string::npos ? 0 : 1);
    }
    int status = 0;
    ASSERT_EQ(waitpid(child, &status, 0), child);
    ASSERT_EQ(status, 0) << "limit " << limit;
    const ReplayResult result = replay(file.path());
    EXPECT_EQ(result.end, ReplayResult::End::incomplete) << (result.divergence ? result.divergence->text() : "");
    EXPECT_GT(result.position, Position(0));
    EXPECT_GT(result.digests_compared, 1u);
  }
}

TEST(Divergences, changed_input_is_named_by_field_and_page) {
  const TempFile file;
  SessionSetup setup;
  setup.detail = DigestDetail::full;
  setup.journal = 0;
  record_guest(file.path(), setup);
  const TempFile changed;
  Position input;
  rewrite(file.path(), changed.path(), [&](TraceItem& item) {
    auto* e = std::get_if<TraceEvent>(&item);
    if (e != nullptr && e->event.kind == EventKind::console_input && e->data[0] == 'a') {
      e->data[0] = 'A';
      input = e->event.position;
    }
    return true;
  });
  const ReplayResult result = replay(changed.path());
  ASSERT_EQ(result.end, ReplayResult::End::diverged);
  const Divergence& d = *result.divergence;
  EXPECT_EQ(d.found, Divergence::Found::digest);
  EXPECT_LE(d.good, input);
  EXPECT_GE(d.bad, input);
  EXPECT_LE(d.bad - d.good, setup.digest_interval);
  EXPECT_TRUE(d.cpu);
  EXPECT_TRUE(d.memory);
  bool rbx = false;
  for (const FieldDifference& f : d.fields) rbx = rbx || f.name.find("rbx") != std::string::npos;
  EXPECT_TRUE(rbx) << d.text();
  EXPECT_TRUE(d.pages_exact);
  ASSERT_FALSE(d.pages.empty());
  for (const uint64_t page : d.pages) EXPECT_TRUE(page >= 0x200 && page < 0x300) << page;  // the guest's table
}

TEST(Divergences, buckets_narrow_a_difference_of_memory) {
  const TempFile file;
  SessionSetup setup;
  setup.journal = 0;
  record_guest(file.path(), setup);
  const auto session = open_replay(file.path());
  ASSERT_NE(session, nullptr);
  ReplayOptions options;
  options.stop_at = Position(120'000);
  ASSERT_TRUE(session->run(options).ok());
  const uint8_t poison = 0x5a;
  ASSERT_TRUE(session->machine().memory().write(PhysAddr(0x555123), std::span(&poison, 1)));
  const auto result = session->run({});
  ASSERT_TRUE(result.ok());
  ASSERT_EQ(result->end, ReplayResult::End::diverged);
  EXPECT_TRUE(result->divergence->memory);
  EXPECT_FALSE(result->divergence->cpu);
  EXPECT_FALSE(result->divergence->pages_exact);
  const auto& pages = result->divergence->pages;
  EXPECT_NE(std::find(pages.begin(), pages.end(), 0x555), pages.end()) << result->divergence->text();
  for (const uint64_t page : pages) EXPECT_EQ(page % kMemoryBuckets, 0x555 % kMemoryBuckets);
  EXPECT_EQ(result->divergence->good, Position(100'000));
  EXPECT_EQ(result->divergence->bad, Position(150'000));
}

TEST(Divergences, changed_journal_event_is_shown_beside_the_replayed_one) {
  const TempFile file;
  record_guest(file.path(), {});
  const TempFile changed;
  int interrupts = 0;
  rewrite(file.path(), changed.path(), [&](TraceItem& item) {
    auto* e = std::get_if<TraceEvent>(&item);
    if (e != nullptr && e->event.kind == EventKind::interrupt && ++interrupts == 3) e->event.a = 0x77;
    return true;
  });
  const ReplayResult result = replay(changed.path());
  ASSERT_EQ(result.end, ReplayResult::End::diverged);
  EXPECT_EQ(result.divergence->found, Divergence::Found::journal);
  EXPECT_NE(result.divergence->recorded.find("vector 0x77"), std::string::npos) << result.divergence->text();
  EXPECT_NE(result.divergence->replayed.find("vector 0x20"), std::string::npos);
  EXPECT_EQ(result.position, result.divergence->bad);  // it stopped right there
}

TEST(Divergences, dropped_and_moved_events_are_found) {
  const TempFile file;
  record_guest(file.path(), {});
  const TempFile changed;
  int timers = 0;
  rewrite(file.path(), changed.path(), [&](TraceItem& item) {
    auto* e = std::get_if<TraceEvent>(&item);
    return e == nullptr || e->event.kind != EventKind::timer || ++timers != 4;
  });
  // One event fewer than the end marker counted: TraceWriter counts anew, so the trace itself is sound.
  EXPECT_EQ(replay(changed.path()).end, ReplayResult::End::diverged);

  const TempFile late;
  rewrite(file.path(), late.path(), [&](TraceItem& item) {
    auto* e = std::get_if<TraceEvent>(&item);
    if (e != nullptr && e->event.kind == EventKind::console_input && e->data[0] == 'b') e->event.c += 1;
    return true;
  });
  const ReplayResult result = replay(late.path());
  ASSERT_EQ(result.end, ReplayResult::End::diverged);
}

TEST(Divergences, another_end_is_found) {
  const TempFile file;
  record_guest(file.path(), {});
  for (int what = 0; what < 3; ++what) {
    const TempFile changed;
    rewrite(file.path(), changed.path(), [&](TraceItem& item) {
      if (auto* end = std::get_if<EndRecord>(&item)) {
        if (what == 0) end->stop.detail = 5;
        if (what == 1) end->position += 1000;
        if (what == 2) end->state.devices ^= 1;
      }
      return true;
    });
    const ReplayResult result = replay(changed.path());
    ASSERT_EQ(result.end, ReplayResult::End::diverged) << what;
    EXPECT_EQ(result.divergence->found, what == 2 ? Divergence::Found::digest : Divergence::Found::end) << what;
  }
}

TEST(Bisect, finds_the_instruction_at_which_two_replays_part) {
  const TempFile file;
  SessionSetup setup;
  record_guest(file.path(), setup);
  const TempFile changed;
  Position input;
  rewrite(file.path(), changed.path(), [&](TraceItem& item) {
    auto* e = std::get_if<TraceEvent>(&item);
    if (e != nullptr && e->event.kind == EventKind::console_input && e->data[0] == 'b') {
      e->data[0] = 'B';
      input = e->event.position;
    }
    return true;
  });
  const SessionFactory same = [&] { return ReplaySession::open(file.path(), guest_images()); };
  const SessionFactory other = [&] { return ReplaySession::open(changed.path(), guest_images()); };
  const auto found = bisect(same, other, {});
  ASSERT_TRUE(found.ok()) << found.error().text();
  EXPECT_EQ(found->finding, BisectReport::Finding::instruction) << found->text();
  EXPECT_EQ(found->low, input);
  EXPECT_EQ(found->high, input + 1);
  EXPECT_TRUE(found->devices);
  EXPECT_FALSE(found->fields.empty());
  EXPECT_GE(found->linear_rip, kGuestAddress);
  EXPECT_LT(found->linear_rip, kGuestAddress + session_guest().size());

  const auto none = bisect(same, same, {});
  ASSERT_TRUE(none.ok());
  EXPECT_EQ(none->finding, BisectReport::Finding::no_divergence);
}

TEST(Bisect, reports_the_interval_when_replays_agree_with_each_other_only) {
  const TempFile file;
  SessionSetup setup;
  setup.journal = 0;
  record_guest(file.path(), setup);
  const TempFile changed;
  rewrite(file.path(), changed.path(), [&](TraceItem& item) {
    auto* d = std::get_if<DigestRecord>(&item);
    if (d != nullptr && d->position == Position(100'000)) d->state.cpu ^= 1;
    return true;
  });
  const SessionFactory session = [&] { return ReplaySession::open(changed.path(), guest_images()); };
  const auto found = bisect(session, session, {});
  ASSERT_TRUE(found.ok());
  EXPECT_EQ(found->finding, BisectReport::Finding::interval) << found->text();
  EXPECT_EQ(found->low, Position(50'000));
  EXPECT_EQ(found->high, Position(100'000));
}

}  // namespace
}  // namespace retrovisor
