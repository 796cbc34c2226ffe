#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "gdbstub/target_xml.h"
#include "tests/unit/gdbstub/client.h"

namespace retrovisor::gdb {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::StartsWith;

const std::string kHere = "T05thread:1;";

// The 64-bit register with this number, of an answer to g.
uint64_t gpr(const std::string& g, size_t number) {
  const auto bytes = bytes_of_hex(g.substr(16 * number, 16));
  uint64_t value = 0;
  for (size_t i = 0; bytes && i < 8; ++i) value |= uint64_t{(*bytes)[i]} << 8 * i;
  return value;
}
constexpr size_t kRcx = 2, kRip = 16;

std::string monitor(const std::string& command) { return "qRcmd," + hex_bytes(command); }

TEST(Session, tells_what_it_supports) {
  Client client;
  const std::string answer = client.say1("qSupported:multiprocess+;swbreak+");
  for (const char* feature : {"PacketSize=10000", "ReverseStep+", "ReverseContinue+", "swbreak+", "hwbreak+",
                              "vContSupported+", "QStartNoAckMode+", "qXfer:features:read+", "qXfer:memory-map:read+"})
    EXPECT_THAT(answer, HasSubstr(feature));
}

TEST(Session, acknowledges_until_asked_not_to) {
  Client client;
  EXPECT_THAT(client.raw({frame("?"), "+", frame("QStartNoAckMode"), "+", frame("?")}),
              ElementsAre("+", kHere, "+", "OK", kHere));
}

TEST(Session, answers_damaged_packet_with_nack_and_nack_with_the_last_packet) {
  Client client;
  EXPECT_THAT(client.raw({"$?#00", frame("?"), "-", "-"}), ElementsAre("-", "+", kHere, kHere, kHere));
}

TEST(Session, unknown_packets_get_an_empty_answer) {
  Client client;
  EXPECT_THAT(client.say({"vMustReplyEmpty", "qNoSuchThing", "QNoSuchThing", "jThreadsInfo", "x0,10", "vFile:open:00", ""}),
              ElementsAre("", "", "", "", "", "", ""));
}

TEST(Session, steps_count_single_instructions) {
  Client client;
  EXPECT_THAT(client.say({"vCont;s:1", "vCont;s:1;c", "s"}), ElementsAre(kHere, kHere, kHere));
  EXPECT_EQ(client.timeline().position(), Position(3));
}

TEST(Session, steps_back_and_forth_are_the_identity) {
  Client client;
  ASSERT_TRUE(client.timeline().seek(Position(100)).ok());
  const auto answers = client.say({"g", "bs", "s", "g", "s", "bs", "g"});
  EXPECT_EQ(answers[0], answers[3]);
  EXPECT_EQ(answers[0], answers[6]);
}

TEST(Session, stepping_back_at_the_beginning_says_so) {
  Client client;
  EXPECT_THAT(client.say({"s", "bs", "bs", "bc"}),
              ElementsAre(kHere, kHere, kHere + "replaylog:begin;", kHere + "replaylog:begin;"));
}

TEST(Session, runs_to_a_breakpoint_forwards_and_backwards) {
  Client client;
  const auto answers = client.say({"Z0,10000e,1", "c", "g", "vCont;c", "g", "bc", "g", "bc", "z0,10000e,1", "bc"});
  EXPECT_EQ(answers[1], kHere + "swbreak:;");
  EXPECT_EQ(gpr(answers[2], kRip), kStore);
  EXPECT_EQ(gpr(answers[2], kRcx), 1u);
  EXPECT_EQ(gpr(answers[4], kRcx), 2u);
  EXPECT_EQ(answers[5], kHere + "swbreak:;");
  EXPECT_EQ(gpr(answers[6], kRcx), 1u);
  EXPECT_EQ(gpr(answers[6], kRip), kStore);
  EXPECT_EQ(answers[7], kHere + "replaylog:begin;");
  EXPECT_EQ(answers[9], kHere + "replaylog:begin;");
}

TEST(Session, breakpoints_do_not_change_memory) {
  Client client;
  EXPECT_THAT(client.say({"m10000c,4", "Z0,10000c,1", "Z0,10000e,1", "m10000c,4", "c", "m10000c,4"}),
              ElementsAre("ffc1890b", "OK", "OK", "ffc1890b", kHere + "swbreak:;", "ffc1890b"));
}

TEST(Session, hardware_breakpoint_is_reported_as_such) {
  Client client;
  EXPECT_THAT(client.say({"Z1,100023,1", "c"}), ElementsAre("OK", kHere + "hwbreak:;"));
}

TEST(Session, client_that_knows_no_swbreak_is_told_of_a_trap) {
  Client client;
  EXPECT_THAT(client.raw({frame("Z0,10000e,1"), "+", frame("c")}), ElementsAre("+", "OK", "+", kHere));
}

TEST(Session, write_watchpoint_stops_behind_the_write_forwards_and_before_it_backwards) {
  Client client;
  const auto answers =
      client.say({"Z2,180000,4", "c", "m180000,4", "c", "m180000,4", "g", "bc", "m180000,4", "g", "bc", "m180000,4"});
  EXPECT_EQ(answers[1], kHere + "watch:180000;");
  EXPECT_EQ(answers[2], "01000000");
  EXPECT_EQ(answers[4], "02000000");
  EXPECT_EQ(gpr(answers[5], kRip), kStore + 2);
  EXPECT_EQ(answers[6], kHere + "watch:180000;");
  EXPECT_EQ(answers[7], "01000000");  // the old value
  EXPECT_EQ(gpr(answers[8], kRip), kStore);
  EXPECT_EQ(answers[10], "00000000");
}

TEST(Session, step_over_a_write_reports_the_watchpoint) {
  Client client;
  EXPECT_THAT(client.say({"Z2,180000,4", "Z0,10000e,1", "c", "s", "bs"}),
              ElementsAre("OK", "OK", kHere + "swbreak:;", kHere + "watch:180000;", kHere + "watch:180000;"));
}

TEST(Session, read_and_access_watchpoints_are_named) {
  Client client;
  // RET reads the return address that CALL has written below the stack's top.
  EXPECT_THAT(client.say({"Z3,7fff8,8", "c"}), ElementsAre("OK", kHere + "rwatch:7fff8;"));
  EXPECT_THAT(client.say({"Z4,7fff8,8", "bc"}), ElementsAre("OK", kHere + "awatch:7fff8;"));
}

TEST(Session, history_ends_with_replaylog_end) {
  Client client;
  const auto answers = client.say({"c", "c", "bs"});
  EXPECT_THAT(answers.back(), kHere);
  EXPECT_EQ(std::count(answers.begin(), answers.end(), kHere + "replaylog:end;"), 2);
  EXPECT_EQ(client.timeline().position(), Position(kEnd - 1));
}

// gdb hangs if a step over a breakpoint is answered by the end of history.
TEST(Session, step_at_the_end_is_quiet_for_gdb_until_it_goes_on_by_itself) {
  const auto stops = [](const std::vector<std::string>& packets) {
    Client client;
    EXPECT_TRUE(client.timeline().seek(Position(kEnd)).ok());
    auto answers = client.say(packets);
    std::erase_if(answers, [](const std::string& a) { return !a.starts_with("T"); });
    return answers;
  };
  const std::string end = kHere + "replaylog:end;", gdb = "qSupported:vContSupported+", shown = "qfThreadInfo";
  EXPECT_THAT(stops({gdb, "vCont;s:1"}), ElementsAre(kHere));
  EXPECT_THAT(stops({gdb, "vCont;s:1", "vCont;s:1", "vCont;s:1"}), ElementsAre(kHere, end, kHere));
  EXPECT_THAT(stops({gdb, "vCont;s:1", shown, "s", shown, "vCont;s:1"}), ElementsAre(kHere, kHere, kHere));
  EXPECT_THAT(stops({gdb, "vCont;s:1", "vCont;c"}), ElementsAre(kHere, end));
  EXPECT_THAT(stops({gdb, "vCont;s:1", "vCont;r10000c,100015:1"}), ElementsAre(kHere, end));
  EXPECT_THAT(stops({gdb, "s", "bs", "s", "s"}), ElementsAre(kHere, kHere, kHere, end)) << "arriving there is the same";
  EXPECT_THAT(stops({"vCont;s:1", "s"}), ElementsAre(end, end)) << "others are told at once";
}

TEST(Session, range_step_goes_on_to_the_end_of_the_range) {
  Client client;
  ASSERT_TRUE(client.timeline().seek(Position(kFirstTurn)).ok());
  const auto answers = client.say({"vCont;r10000c,100015:1", "g"});
  EXPECT_EQ(answers[0], kHere);
  EXPECT_EQ(gpr(answers[1], kRip), kTwice);
}

TEST(Session, range_step_stops_at_a_breakpoint_inside) {
  Client client;
  ASSERT_TRUE(client.timeline().seek(Position(kFirstTurn)).ok());
  EXPECT_THAT(client.say({"Z0,10000e,1", "vCont;r100000,100100:1;c"}), ElementsAre("OK", kHere + "swbreak:;"));
}

TEST(Session, reads_and_writes_one_register) {
  Client client;
  const auto answers = client.say({"p10", "P2=8877665544332211", "p2", "pff", "P2=88", "P10=0000000000800000"});
  EXPECT_EQ(answers[0], "0000100000000000");
  EXPECT_EQ(answers[1], "OK");
  EXPECT_EQ(answers[2], "8877665544332211");
  EXPECT_THAT(answers[3], StartsWith("E"));
  EXPECT_THAT(answers[4], StartsWith("E"));
  EXPECT_THAT(answers[5], StartsWith("E"));  // not canonical
}

TEST(Session, written_registers_and_memory_are_dropped_on_resume_with_a_note) {
  Client client;
  ASSERT_TRUE(client.timeline().seek(Position(20)).ok());
  const auto answers = client.say({"g", "P2=8877665544332211", "M180000,2:abcd", "m180000,2", "s", "bs", "g", "m180000,2"});
  EXPECT_EQ(answers[3], "abcd");
  EXPECT_THAT(answers[4], HasSubstr("dropped"));
  EXPECT_EQ(answers[5], kHere);
  EXPECT_EQ(answers[7], answers[0]);
  EXPECT_EQ(answers[8], "0200");
}

TEST(Session, binary_write_is_the_same_as_hexadecimal_one) {
  Client client;
  EXPECT_THAT(client.say({"X180000,0:", "X180000,3:" + escape("#a}"), "m180000,3"}), ElementsAre("OK", "OK", "23617d"));
}

// As gdb calls a function of the debugged program: a breakpoint on the stack, its address on top, a new program counter.
TEST(Session, called_function_runs_beside_history) {
  Client client;
  ASSERT_TRUE(client.timeline().seek(Position(20)).ok());
  const auto answers = client.say({"g",
                                   "M7ff00,8:e0ff070000000000",  // return address 7ffe0
                                   "P7=00ff070000000000",        // rsp
                                   "P2=0500000000000000",        // rcx: the argument
                                   "P10=2300100000000000",       // rip: twice
                                   "Z0,7ffe0,1", "vCont;c", "p0", "z0,7ffe0,1", "p7"});
  EXPECT_EQ(answers[6], kHere + "swbreak:;");
  EXPECT_EQ(answers[7], "0a00000000000000");
  EXPECT_EQ(answers[9], "08ff070000000000");
}

TEST(Session, history_goes_on_once_registers_are_restored_after_a_call) {
  Client client;
  ASSERT_TRUE(client.timeline().seek(Position(20)).ok());
  const std::string before = client.say1("g");
  const auto answers = client.say({"M7ff00,8:e0ff070000000000", "P7=00ff070000000000", "P2=0500000000000000",
                                   "P10=2300100000000000", "Z0,7ffe0,1", "c", "z0,7ffe0,1", "G" + before, "g", "s"});
  EXPECT_EQ(answers[5], kHere + "swbreak:;");
  EXPECT_EQ(answers[8], before);
  EXPECT_THAT(answers[9], HasSubstr("dropped"));
  EXPECT_EQ(client.timeline().position(), Position(21));
  EXPECT_FALSE(client.timeline().diverted());
}

TEST(Session, breakpoint_inside_a_called_function_stops_and_goes_on_in_it) {
  Client client;
  ASSERT_TRUE(client.timeline().seek(Position(20)).ok());
  const auto answers = client.say({"M7ff00,8:e0ff070000000000", "P7=00ff070000000000", "P10=2300100000000000", "Z0,7ffe0,1",
                                   "Z0,100025,1", "c", "p10", "s", "p10", "c", "p10"});
  EXPECT_EQ(answers[6], "2500100000000000");
  EXPECT_EQ(answers[8], "2800100000000000");
  EXPECT_EQ(answers[10], "e0ff070000000000");
}

TEST(Session, memory_that_is_not_there_is_an_error) {
  Client client;
  EXPECT_THAT(client.say({"m8000000000000000,8", "mfffffffffffffff0,8", "M8000000000000000,1:00"}),
              ElementsAre("E0e", "E0e", "E0e"));
}

TEST(Session, reads_what_there_is_before_the_end_of_memory) {
  Client client;
  const std::string all = client.say1("qqemu.PhyMemMode");
  EXPECT_EQ(all, "0");
  EXPECT_THAT(client.say({"Qqemu.PhyMemMode:1", "qqemu.PhyMemMode", "mfffff0,40", "m1000000,10", "Qqemu.PhyMemMode:2"}),
              ElementsAre("OK", "1", std::string(32, '0'), "E0e", StartsWith("E")));
}

TEST(Session, hostile_lengths_and_numbers_are_errors) {
  Client client;
  for (const char* packet : {"m0,40000000",
                             "mffffffffffffffff,ffffffffffffffff",
                             "m",
                             "m,",
                             "m0",
                             "m0,",
                             "m0,1z",
                             "M0,40000000:00",
                             "M0,1:0",
                             "M0,1",
                             "X0,ffffffff:a",
                             "G0",
                             "Gzz",
                             "P",
                             "P0",
                             "P0=",
                             "Pffffffffffffffff=00",
                             "p",
                             "p-1",
                             "Z0",
                             "Z0,",
                             "Z2,0,0",
                             "Z2,ffffffffffffffff,8",
                             "Z2,0,40000000",
                             "vCont;",
                             "vCont;x",
                             "vCont;s:9",
                             "vCont;r:1",
                             "vCont;r1:1",
                             "Hg99",
                             "Hx",
                             "T",
                             "T0x",
                             "qRcmd,0",
                             "qRcmd,zz",
                             "qXfer:features:read:target.xml:",
                             "qXfer:features:read:target.xml:ffffff,10",
                             "qXfer:features:read:nothing:0,10",
                             "qThreadExtraInfo,",
                             "c1234"}) {
    const auto answers = client.say({packet, "?"});
    if (std::string_view(packet) == "vCont;") continue;  // nothing asked for: continues
    ASSERT_EQ(answers.size(), 2u) << packet;
    EXPECT_THAT(answers[0], StartsWith("E")) << packet;
  }
}

TEST(Session, lives_on_too_many_breakpoints) {
  Client client;
  std::vector<std::string> packets;
  for (size_t i = 0; i < Breakpoints::kMaxPoints + 2; ++i) packets.push_back(fmt::format("Z0,{:x},1", i));
  const auto answers = client.say(packets);
  EXPECT_EQ(answers[Breakpoints::kMaxPoints - 1], "OK");
  EXPECT_EQ(answers[Breakpoints::kMaxPoints], "E1c");
}

TEST(Session, half_a_packet_ends_the_session) {
  Client client;
  EXPECT_THAT(client.raw({"$m1000"}), ElementsAre());
  EXPECT_EQ(client.end, SessionEnd::vanished);
}

TEST(Session, garbage_ends_the_session) {
  Client client;
  client.raw({std::string(kMaxGarbage, '\xa5'), frame("?")});
  EXPECT_EQ(client.end, SessionEnd::vanished);
}

TEST(Session, detaching_leaves_the_run_where_it_is_and_forgets_breakpoints) {
  Client client;
  client.say({"Z0,10000e,1", "c", "P0=0000000000000000", "D"});
  EXPECT_EQ(client.end, SessionEnd::detached);
  EXPECT_EQ(client.timeline().position(), Position(4));
  EXPECT_FALSE(client.timeline().diverted());
  EXPECT_THAT(client.say({"bc"}), ElementsAre(kHere + "replaylog:begin;"));
}

TEST(Session, killing_goes_back_to_the_beginning) {
  for (const char* packet : {"k", "vKill;1"}) {
    Client client;
    client.say({"Z0,10000e,1", "c", packet});
    EXPECT_EQ(client.end, SessionEnd::killed);
    EXPECT_EQ(client.timeline().position(), Position(0));
  }
}

TEST(Session, run_restarts_at_the_beginning) {
  Client client;
  EXPECT_THAT(client.say({"Z0,10000e,1", "c", "vRun;"}), ElementsAre("OK", kHere + "swbreak:;", kHere));
  EXPECT_EQ(client.timeline().position(), Position(0));
  EXPECT_THAT(client.say({"!", "s", "R00"}), ElementsAre("OK", kHere));
  EXPECT_EQ(client.timeline().position(), Position(0));
}

TEST(Session, vcpus_are_threads) {
  Client client;
  const auto answers =
      client.say({"qfThreadInfo", "qsThreadInfo", "qC", "T1", "T2", "Hg1", "Hc-1", "Hg0", "qThreadExtraInfo,1"});
  EXPECT_THAT(std::vector(answers.begin(), answers.end() - 1), ElementsAre("m1", "l", "QC1", "OK", "E16", "OK", "OK", "OK"));
  const auto text = bytes_of_hex(answers.back());
  ASSERT_TRUE(text);
  EXPECT_EQ(std::string(text->begin(), text->end()), "vCPU 0 (64-bit, CPL 0)");
}

TEST(Session, tells_lldb_what_host_and_process_are) {
  Client client;
  EXPECT_THAT(client.say1("qHostInfo"), HasSubstr("ptrsize:8;endian:little;"));
  EXPECT_THAT(client.say1("qProcessInfo"), StartsWith("pid:1;"));
  EXPECT_THAT(client.say({"qAttached", "vCont?", "qSymbol::"}), ElementsAre("1", "vCont;c;C;s;S;r", "OK"));
}

// What gdb is told the CPU is: the machine's mode, then what the kernel is, unless the user says it.
TEST(Session, description_fits_the_code) {
  const auto told = [](FlatMode mode, std::optional<Arch> wish, std::optional<Arch> kernel) {
    SessionOptions options;
    options.arch = wish;
    options.kernel = kernel;
    BootImages images = counting_guest();
    images.flat_mode = mode;
    Client client(new FakeTimeline(images));
    const auto answers = client.raw({frame("qXfer:features:read:target.xml:0,200") + "+", frame("g")}, options);
    const bool wide = answers[1].find("<architecture>i386:x86-64<") != std::string::npos;
    EXPECT_NE(wide, answers[1].find("<architecture>i386<") != std::string::npos);
    EXPECT_EQ(answers[3].size(), 2 * registers_size(wide ? Arch::x86_64 : Arch::i386));
    return wide ? Arch::x86_64 : Arch::i386;
  };
  EXPECT_EQ(told(FlatMode::long64, {}, {}), Arch::x86_64);
  EXPECT_EQ(told(FlatMode::protected32, {}, {}), Arch::i386);
  EXPECT_EQ(told(FlatMode::real16, {}, {}), Arch::x86_64);
  EXPECT_EQ(told(FlatMode::protected32, {}, Arch::x86_64), Arch::x86_64);
  EXPECT_EQ(told(FlatMode::real16, {}, Arch::i386), Arch::i386);
  EXPECT_EQ(told(FlatMode::long64, {}, Arch::i386), Arch::x86_64);
  EXPECT_EQ(told(FlatMode::protected32, Arch::x86_64, {}), Arch::x86_64);
  EXPECT_EQ(told(FlatMode::long64, Arch::i386, {}), Arch::i386);
}

TEST(Session, kernel_that_is_an_elf_file_says_what_it_is_for) {
  std::vector<uint8_t> elf(64);
  std::copy_n("\x7f" "ELF", 4, elf.begin());
  EXPECT_EQ(arch_of_elf(elf), std::nullopt);
  elf[4] = 1;
  elf[18] = 3;
  EXPECT_EQ(arch_of_elf(elf), Arch::i386);
  elf[4] = 2;
  elf[18] = 62;
  EXPECT_EQ(arch_of_elf(elf), Arch::x86_64);
  elf.resize(19);
  EXPECT_EQ(arch_of_elf(elf), std::nullopt);
  EXPECT_EQ(arch_of_elf({}), std::nullopt);
}

TEST(Session, transfers_the_description_in_pieces) {
  Client client;
  std::string whole;
  for (size_t offset = 0;;) {
    const std::string part = client.say1(fmt::format("qXfer:features:read:target.xml:{:x},100", offset));
    ASSERT_FALSE(part.empty());
    whole += part.substr(1);
    offset += 0x100;
    if (part[0] == 'l') break;
    ASSERT_EQ(part[0], 'm');
  }
  EXPECT_THAT(whole, StartsWith("<?xml"));
  EXPECT_THAT(whole, HasSubstr("</target>"));
  for (const char* name : {"rip", "st7", "fop", "xmm15", "mxcsr", "fs_base", "k_gs_base", "cr3", "efer"})
    EXPECT_THAT(whole, HasSubstr(fmt::format("name=\"{}\"", name)));
  EXPECT_THAT(client.say1("qXfer:memory-map:read::0,1000"), StartsWith("l<?xml"));
}

// --- monitor ----------------------------------------------------------------------------------------------------------

// --- live machines ----------------------------------------------------------------------------------------------------

struct LiveMachine {
  explicit LiveMachine(bool may_change)
      : target(
            fake.machine(),
            [this](Position limit, std::function<bool()> stop) {
              RunOptions options;
              options.stop_at = limit;
              options.stop_requested = std::move(stop);
              return run_machine(fake.machine(), options);
            },
            [this](JournalSink* sink, EventMask mask) { fake.machine().journal().connect(sink, mask); }, may_change) {}

  std::vector<std::string> say(const std::vector<std::string>& packets) {
    std::vector<std::string> pieces;
    for (const std::string& p : packets) pieces.push_back(frame(p) + "+");
    ScriptedConnection connection(std::move(pieces));
    end = serve(target, connection, {});
    std::vector<std::string> answers;
    while (auto item = connection.sent.next())
      if (item->kind == PacketReader::Item::Kind::packet) answers.push_back(item->payload);
    return answers;
  }

  FakeTimeline fake;
  LiveTarget target;
  SessionEnd end{};
};

TEST(Live, runs_forward_only_and_ends_with_the_machine) {
  LiveMachine live(true);
  const auto answers =
      live.say({"Z0,10000e,1", "c", "z0,10000e,1", "Z2,180000,4", "c", "c", "bs", "bc", "z2,180000,4", "c"});
  EXPECT_THAT(std::vector(answers.begin(), answers.begin() + 9),
              ElementsAre("OK", kHere, "OK", "OK", kHere + "watch:180000;", kHere + "watch:180000;", "", "", "OK"));
  EXPECT_EQ(answers.back(), "W01");
  EXPECT_EQ(live.end, SessionEnd::exited);
}

TEST(Live, offers_no_way_back) {
  LiveMachine live(true);
  EXPECT_THAT(live.say({"qSupported"})[0], testing::Not(HasSubstr("Reverse")));
}

TEST(Live, changes_stay) {
  LiveMachine live(true);
  EXPECT_THAT(live.say({"Z0,10000e,1", "c", "P2=5a00000000000000", "s", "m180000,4"}),
              ElementsAre("OK", kHere, "OK", kHere, "5a000000"));
}

TEST(Live, recorded_run_cannot_be_changed) {
  LiveMachine live(false);
  EXPECT_THAT(live.say({"P2=5a00000000000000", "M180000,1:00", "X180000,1:a"}),
              ElementsAre(StartsWith("E"), StartsWith("E"), StartsWith("E")));
}

TEST(Live, stops_on_events) {
  LiveMachine live(true);
  const auto answers = live.say({monitor("break-on io 0xf4"), "c"});
  EXPECT_EQ(answers.back(), kHere);
  EXPECT_EQ(live.fake.machine().position(), Position(kEnd));
}

}  // namespace
}  // namespace retrovisor::gdb
