// Debugging several vCPUs, which run in turns.
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/unit/gdbstub/client.h"
#include "tests/unit/record/two_processors.h"

namespace retrovisor::gdb {
namespace {

using testing::ElementsAre;

using namespace two_processors;

class At : public testing::Test {
 protected:
  explicit At(FakeTimeline* timeline) : client(timeline) {}
  // Goes to `position`, where the debugger selects thread `thread`, and says `packets`.
  std::vector<std::string> at(uint64_t position, unsigned thread, std::vector<std::string> packets) {
    EXPECT_TRUE(client.timeline().seek(Position(position)).ok());
    packets.insert(packets.begin(), "Hg" + std::to_string(thread));
    auto answers = client.say(packets);
    if (!answers.empty()) answers.erase(answers.begin());
    return answers;
  }
  uint64_t position() { return client.timeline().position().value; }
  const CpuState& vcpu(uint32_t n) { return client.timeline().machine().vcpu(VcpuId(n)).state; }
  static std::string stop(unsigned thread, const std::string& why = "") {
    return "T05thread:" + std::to_string(thread) + ";" + why;
  }

  Client client;
};

class Smp : public At {
 protected:
  Smp() : At(new FakeTimeline(two_processors::images(), 2, 900'000)) {}
};

TEST_F(Smp, threads_are_told_and_the_one_that_runs_next_is_the_current_one) {
  EXPECT_THAT(at(0, 1, {"qfThreadInfo", "qsThreadInfo", "T2", "T3"}), ElementsAre("m1,2", "l", "OK", "E16"));
  const std::vector<std::pair<uint64_t, unsigned>> places{{0, 1},       {50'000, 1},  {100'000, 2},
                                                          {150'000, 2}, {199'999, 2}, {200'000, 1}};
  for (const auto& [where, thread] : places) {
    ASSERT_TRUE(client.timeline().seek(Position(where)).ok());
    EXPECT_THAT(client.say({"?", "qC"}), ElementsAre(stop(thread), "QC" + std::to_string(thread))) << where;
    // Arriving from behind, too.
    ASSERT_TRUE(client.timeline().seek(Position(300'000)).ok());
    ASSERT_TRUE(client.timeline().seek(Position(where)).ok());
    EXPECT_EQ(client.say1("?"), stop(thread)) << where;
  }
  const auto text = bytes_of_hex(at(50'000, 1, {"qThreadExtraInfo,2"}).at(0));
  ASSERT_TRUE(text);
  EXPECT_EQ(std::string(text->begin(), text->end()), "vCPU 1 (not started)");
}

TEST_F(Smp, monitor_seek_leaves_the_selected_thread_but_a_question_for_the_stop_tells_the_next) {
  const std::string to_first = "qRcmd," + hex_bytes("seek 50000");
  const auto answers = at(150'000, 2, {to_first, "qC", "?", "qC"});
  ASSERT_EQ(answers.size(), 5u);
  EXPECT_THAT(std::vector(answers.begin() + 1, answers.end()), ElementsAre("OK", "QC2", stop(1), "QC1"));
}

TEST_F(Smp, breakpoints_are_of_the_thread_that_meets_them) {
  EXPECT_THAT(at(0, 1, {"Z0,10005a,1", "c", "c"}), ElementsAre("OK", stop(2, "swbreak:;"), stop(2, "swbreak:;")));
  EXPECT_EQ(position(), kSecondStart + 3);
  EXPECT_THAT(at(150'000, 2, {"Z0,100047,1", "c"}), ElementsAre("OK", stop(1, "swbreak:;")));
  EXPECT_GE(position(), 200'000u);
  EXPECT_EQ(vcpu(0).rip, kFirst);
  EXPECT_THAT(at(150'000, 2, {"Z0,100047,1", "bc"}), ElementsAre("OK", stop(1, "swbreak:;")));
  EXPECT_GE(position(), 99'996u);
  EXPECT_LT(position(), 100'000u);
}

TEST_F(Smp, stepping_a_thread_in_anothers_turn_runs_until_it_has_stepped) {
  ASSERT_TRUE(client.timeline().seek(Position(150'000)).ok());
  const CpuState before = vcpu(0);
  for (const char* step : {"vCont;s:1;c", "vCont;s:1"}) {
    EXPECT_THAT(at(150'000, 2, {step}), ElementsAre(stop(1)));
    EXPECT_EQ(position(), 200'001u);
    EXPECT_NE(vcpu(0).rip, before.rip);
  }
  // The selected one, where none is named, or that of Hc.
  EXPECT_THAT(at(150'000, 1, {"s"}), ElementsAre(stop(1)));
  EXPECT_EQ(position(), 200'001u);
  EXPECT_THAT(at(150'000, 2, {"Hc1", "s"}), ElementsAre("OK", stop(1)));
  EXPECT_EQ(position(), 200'001u);
  EXPECT_THAT(at(150'000, 2, {"s"}), ElementsAre(stop(2)));
  EXPECT_EQ(position(), 150'001u);
}

TEST_F(Smp, a_step_back_leads_before_the_last_instruction_of_the_thread) {
  EXPECT_THAT(at(150'000, 1, {"bs"}), ElementsAre(stop(1)));
  EXPECT_EQ(position(), 99'999u);
  EXPECT_THAT(at(150'000, 2, {"bs"}), ElementsAre(stop(2)));
  EXPECT_EQ(position(), 149'999u);
  EXPECT_THAT(at(200'000, 1, {"bs"}), ElementsAre(stop(1)));
  EXPECT_EQ(position(), 99'999u);
  EXPECT_THAT(at(200'001, 2, {"bs"}), ElementsAre(stop(2)));
  EXPECT_EQ(position(), 199'999u);
}

TEST_F(Smp, a_step_back_of_a_thread_that_has_never_run_ends_at_the_beginning) {
  EXPECT_THAT(at(50'000, 2, {"bs"}), ElementsAre(stop(1, "replaylog:begin;")));
  EXPECT_EQ(position(), 0u);
}

TEST_F(Smp, steps_back_and_forth_are_the_identity_for_each_thread) {
  for (const uint64_t where :
       std::vector<uint64_t>{100'000, 100'001, 100'012, 150'001, 199'999, 200'000, 200'001, 299'999, 300'000, 300'001}) {
    for (const unsigned thread : {1u, 2u}) {
      ASSERT_TRUE(client.timeline().seek(Position(where)).ok());
      const bool next = client.timeline().machine().next_vcpu().value + 1 == thread;
      const auto state = [&] { return std::pair(vcpu(thread - 1).gpr, vcpu(thread - 1).rip); };
      const auto before = state();
      const StateDigest digest = client.timeline().machine().digest();
      EXPECT_THAT(at(where, thread, {"s", "bs"}), ElementsAre(stop(thread), stop(thread)));
      EXPECT_EQ(state(), before) << where << " thread " << thread;
      if (!next) continue;
      EXPECT_EQ(position(), where);
      EXPECT_EQ(client.timeline().machine().digest(), digest) << where;
    }
  }
}

TEST_F(Smp, breakpoints_stop_the_others_while_one_is_stepped) {
  EXPECT_THAT(at(150'000, 1, {"Z0,10005b,1", "vCont;s:1;c"}), ElementsAre("OK", stop(2, "swbreak:;")));
  EXPECT_EQ(vcpu(1).rip, kSecondStore);
  EXPECT_LE(position(), 150'003u);
  EXPECT_THAT(at(150'000, 1, {"Z0,10005b,1", "bs"}), ElementsAre("OK", stop(2, "swbreak:;")));
  EXPECT_EQ(vcpu(1).rip, kSecondStore);
  EXPECT_GE(position(), 149'997u);
}

TEST_F(Smp, its_own_breakpoint_does_not_stop_a_step_that_begins_there) {
  ASSERT_TRUE(client.timeline().seek(Position(150'000)).ok());
  const uint64_t pc = vcpu(0).rip;
  EXPECT_THAT(at(150'000, 1, {"Z0," + fmt::format("{:x}", pc) + ",1", "vCont;s:1;c"}), ElementsAre("OK", stop(1)));
  EXPECT_EQ(position(), 200'001u);
}

TEST_F(Smp, a_breakpoint_of_the_other_where_a_step_has_ended_is_not_passed_over) {
  // The last instruction of the first one's turn; the second one's next instruction has a breakpoint.
  ASSERT_TRUE(client.timeline().seek(Position(300'000)).ok());
  const std::string set = fmt::format("Z0,{:x},1", vcpu(1).rip);
  EXPECT_THAT(at(299'999, 1, {set, "s", "c"}), ElementsAre("OK", stop(1), stop(2, "swbreak:;")));
  EXPECT_EQ(position(), 300'000u);
  EXPECT_THAT(at(299'999, 1, {set, "s", "c", "c"}), ElementsAre("OK", stop(1), stop(2, "swbreak:;"), stop(2, "swbreak:;")));
  EXPECT_EQ(position(), 300'003u);
}

TEST_F(Smp, a_watchpoint_met_by_a_step_in_anothers_turn_is_told) {
  uint64_t where = 200'000;  // of the first one's store, at the beginning of its second turn
  for (;; ++where) {
    ASSERT_TRUE(client.timeline().seek(Position(where)).ok());
    if (vcpu(0).rip == kFirstStore) break;
  }
  const std::string watch = fmt::format("Z2,{:x},4", kFirstCount);
  std::vector<std::string> packets{watch};
  for (uint64_t at = 200'000; at <= where; ++at) packets.push_back("vCont;s:1;c");
  const auto answers = at(150'000, 1, packets);
  EXPECT_EQ(answers.back(), stop(1, fmt::format("watch:{:x};", kFirstCount)));
  EXPECT_EQ(position(), where + 1);
}

TEST_F(Smp, range_step_follows_its_thread) {
  // The whole loop of the first one: it never leaves it, and a breakpoint in the other's code ends it.
  EXPECT_THAT(at(190'000, 1, {"vCont;r100047,10004e:1;c"}), ElementsAre(stop(1)));
  EXPECT_EQ(vcpu(0).rip, 0x10004eu);
  EXPECT_EQ(vcpu(1).rip == kSecond || vcpu(1).rip == kSecondStore || vcpu(1).rip == 0x100061, true);
}

TEST_F(Smp, a_turn_of_another_vcpu_can_be_broken_on) {
  const std::string on = "qRcmd," + hex_bytes("break-on vcpu");
  const auto forward = at(150'000, 2, {on, "c"});
  EXPECT_EQ(forward.back(), stop(1));
  EXPECT_GE(position(), 200'000u);
  EXPECT_LE(position(), 200'001u);
  const auto back = at(150'000, 2, {on, "bc"});
  EXPECT_EQ(back.back(), stop(2));
  EXPECT_EQ(position(), 100'000u);
  at(150'000, 2, {"qRcmd," + hex_bytes("break-on vcpu 1"), "c"});
  EXPECT_GE(position(), 300'000u);
  EXPECT_LE(position(), 300'001u);
}

TEST_F(Smp, registers_are_those_of_the_selected_thread) {
  const auto answers = at(150'000, 1, {"p10", "Hg2", "p10"});
  ASSERT_EQ(answers.size(), 3u);
  EXPECT_NE(answers[0], answers[2]);
  const auto monitor = at(150'000, 1, {"qRcmd," + hex_bytes("regs")});
  EXPECT_TRUE(monitor.at(0).starts_with("(vCPU 0,")) << monitor.at(0);
}

// Executes UD2 again and again: at positions 7, 11, 15, ... The handler goes on behind it.
constexpr uint64_t kBad = 0x100024, kHandler = 0x100028, kAfterHandler = 0x10002c, kFirstBad = 7;

BootImages faulting_guest() {
  BootImages images;
  images.kernel = {0xbc, 0x00, 0x00, 0x08, 0x00,                                // 100000  mov esp, 0x80000
                   0xc7, 0x05, 0x30, 0x50, 0x00, 0x00, 0x28, 0x00, 0x10, 0x00,  // 100005  gate of #UD: 0x10:kHandler
                   0xc7, 0x05, 0x34, 0x50, 0x00, 0x00, 0x00, 0x8e, 0x10, 0x00,  // 10000f
                   0x0f, 0x01, 0x1d, 0x2d, 0x00, 0x10, 0x00,                    // 100019  lidt [0x10002d]
                   0x31, 0xc9,                                                  // 100020  xor ecx, ecx
                   0x90,                                                        // 100022  nop
                   0x41,                                                        // 100023  inc ecx
                   0x0f, 0x0b,                                                  // 100024  ud2
                   0xeb, 0xfb,                                                  // 100026  jmp 0x100023
                   0x83, 0x04, 0x24, 0x02,                                      // 100028  add dword [esp], 2
                   0xcf,                                                        // 10002c  iret
                   0xff, 0x07, 0x00, 0x50, 0x00, 0x00};                         // 10002d  limit and base of the IDT
  images.flat_address = kStart;
  images.flat_mode = FlatMode::protected32;
  return images;
}

class Handlers : public At {
 protected:
  Handlers() : At(new FakeTimeline(faulting_guest(), 1, 1000)) {}
  std::vector<std::string> here(std::vector<std::string> packets) { return at(where, 1, std::move(packets)); }
  static std::string pc(uint64_t value) {
    std::string out;
    for (unsigned i = 0; i < 8; ++i) out += fmt::format("{:02x}", value >> (8 * i) & 0xff);
    return out;
  }
  static constexpr uint64_t where = kFirstBad;
  const std::string set = fmt::format("Z0,{:x},1", kHandler);
  const std::string hit = "T05thread:1;swbreak:;";
  const std::string stepped = "T05thread:1;";
};

TEST_F(Handlers, a_breakpoint_on_a_handler_stops_whatever_leads_there) {
  ASSERT_TRUE(client.timeline().seek(Position(where)).ok());
  ASSERT_EQ(vcpu(0).rip, kBad);
  EXPECT_THAT(here({set, "c", "p10"}), ElementsAre("OK", hit, pc(kHandler))) << "going on from the faulting instruction";
  EXPECT_THAT(here({set, "s", "p10"}), ElementsAre("OK", hit, pc(kHandler))) << "stepping it";
  EXPECT_THAT(here({set, "s", "s", "p10"}), ElementsAre("OK", hit, stepped, pc(kAfterHandler)));
  EXPECT_THAT(here({set, "s", "s", "bs", "p10"}), ElementsAre("OK", hit, stepped, hit, pc(kHandler)));
  EXPECT_THAT(here({set, "s", "s", "bs", "bs", "p10"}), ElementsAre("OK", hit, stepped, hit, stepped, pc(kBad)));
  EXPECT_THAT(here({set, "s", "s", "bc", "p10"}), ElementsAre("OK", hit, stepped, hit, pc(kHandler)));
  EXPECT_EQ(position(), where);
  EXPECT_THAT(here({set, "c", "c", "p10"}), ElementsAre("OK", hit, hit, pc(kHandler)));
  EXPECT_EQ(position(), where + 4);
  EXPECT_THAT(here({set, "c", "c", "bc", "p10"}), ElementsAre("OK", hit, hit, hit, pc(kHandler)));
  EXPECT_EQ(position(), where);
  EXPECT_THAT(here({set, fmt::format("Z0,{:x},1", kBad), "c", "c", "p10"}), ElementsAre("OK", "OK", hit, hit, pc(kBad)));
}

TEST_F(Handlers, without_a_breakpoint_a_step_leads_behind_the_handlers_first_instruction) {
  EXPECT_THAT(here({"s", "p10", "bs", "p10"}), ElementsAre(stepped, pc(kAfterHandler), stepped, pc(kBad)));
  EXPECT_EQ(position(), where);
}

// The second vCPU waits for a start-up IPI that never comes; the machine has gone on as one of its own.
TEST(StepRange, of_a_vcpu_that_does_not_run_ends_once_that_is_told) {
  Client client(new FakeTimeline(counting_guest(), 2));
  ASSERT_TRUE(client.timeline().seek(Position(kEnd - 1)).ok());
  const auto answers = client.say({"qRcmd," + hex_bytes("go-live"), "vCont;r0,ffffffffffffffff:2"});
  EXPECT_LT(client.timeline().machine().position(), Position(3'000'000)) << "one step's patience, not that of a thousand";
  bool told = false;
  for (const std::string& a : answers) told = told || a.find("has not run") != a.npos;
  EXPECT_TRUE(told);
}

}  // namespace
}  // namespace retrovisor::gdb
