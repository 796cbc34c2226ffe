// The monitor commands, through a session.
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/unit/gdbstub/client.h"

namespace retrovisor::gdb {
namespace {

using testing::AllOf;
using testing::HasSubstr;

const std::string kHere = "T05thread:1;";

std::string monitor(const std::string& command) { return "qRcmd," + hex_bytes(command); }

std::string text_of(const std::vector<std::string>& answers) {
  std::string out;
  for (const std::string& a : answers)
    if (a.size() > 1 && a[0] == '(') out += a.substr(1, a.size() - 2);
  return out;
}

TEST(Monitor, help_lists_every_command) {
  Client client;
  const std::string text = text_of(client.say({monitor("help")}));
  for (const char* name :
       {"position", "seek", "events", "last-write", "checkpoints", "go-live", "break-on", "regs", "pt", "phys", "info"})
    EXPECT_THAT(text, HasSubstr(fmt::format("{} ", name)));
}

TEST(Monitor, wrong_commands_and_arguments_are_told) {
  Client client;
  for (const char* line : {"nonsense",
                           "seek",
                           "seek x",
                           "seek 1 2",
                           "seek event",
                           "last-write",
                           "last-write zz",
                           "last-write 0 0",
                           "last-write 0 99999999999999",
                           "pt",
                           "pt 1 2",
                           "phys",
                           "phys ffffffffff",
                           "info",
                           "info devices nothing",
                           "regs 7",
                           "break-on x",
                           "break-on io 70000",
                           "break-on cr3 1",
                           "checkpoints x",
                           "go-live x",
                           "position 1"}) {
    const auto answers = client.say({monitor(line)});
    EXPECT_THAT(answers.back(), "OK") << line;
    EXPECT_FALSE(text_of(answers).empty()) << line;
  }
}

TEST(Monitor, seeks_and_tells_the_position) {
  Client client;
  EXPECT_THAT(text_of(client.say({monitor("seek 1'00")})), HasSubstr("position 100 of 0..805"));
  EXPECT_THAT(text_of(client.say({monitor("seek +20"), monitor("seek -10")})), HasSubstr("position 110 of"));
  EXPECT_THAT(text_of(client.say({monitor("seek end")})), HasSubstr("position 805 of"));
  EXPECT_THAT(text_of(client.say({monitor("seek begin"), monitor("position")})), HasSubstr("position 0 of"));
}

TEST(Monitor, last_write_tells_who_it_was_without_moving) {
  Client client;
  ASSERT_TRUE(client.timeline().seek(Position(100)).ok());
  const std::string text = text_of(client.say({monitor("last-write 0x180000 4")}));
  EXPECT_THAT(text, HasSubstr("position 92: vCPU 0 at 0x10000e wrote 4 bytes to 0x180000"));
  EXPECT_THAT(text, HasSubstr("0x0000000b -> 0x0000000c"));
  EXPECT_EQ(client.timeline().position(), Position(100));
  EXPECT_THAT(text_of(client.say({monitor("last-write $rbx 4"), monitor("last-write 0x190000 4")})),
              HasSubstr("nothing before"));
}

TEST(Monitor, numbers_are_read_alike_everywhere) {
  Client client;
  ASSERT_TRUE(client.timeline().seek(Position(100)).ok());
  const auto first = [&](const std::string& command) { return text_of(client.say({monitor(command)})); };
  for (const char* address : {"0x180000", "1572864", "1'572'864", "$rbx", "rbx", "$rbx+0", "0x17fff0+16", "$ebx", "1572k+864"})
    EXPECT_THAT(first(fmt::format("last-write {} 4", address)), HasSubstr("wrote 4 bytes to 0x180000")) << address;
  for (const char* size : {"4", "0x4", "$rcx-8", "$rcx-0x8"})
    EXPECT_THAT(first(fmt::format("last-write 0x180000 {}", size)), HasSubstr("wrote 4 bytes to 0x180000")) << size;
  for (const char* address : {"0x100000", "1048576", "$pc-14", "$rip-0xe"})
    EXPECT_THAT(first(fmt::format("phys {} 4", address)), HasSubstr("000000100000  bc 00 00 08")) << address;
  EXPECT_THAT(first("phys 10000c 4"), HasSubstr("00000010000c  ff c1 89 0b")) << "with a letter";
  for (const char* port : {"0xf4", "244", "0xf0+4"})
    EXPECT_EQ(first(fmt::format("break-on io {}", port)), "stops on io 0xf4\n") << port;
  EXPECT_EQ(first("break-on mmio 4276092928"), "stops on mmio 0xfee00000\n");
  EXPECT_EQ(first("break-on irq 32"), "stops on irq 0x20\n");
  EXPECT_EQ(first("break-on exception 0xe"), "stops on exception 14\n");
  for (const char* vcpu : {"0", "0x0", "0-0"})
    EXPECT_THAT(first(fmt::format("regs {}", vcpu)), HasSubstr("rip 00000000001000")) << vcpu;
  for (const char* position : {"200", "0xc8", "2'00", "+100", "100+100", "+0x64"}) {
    ASSERT_TRUE(client.timeline().seek(Position(100)).ok());
    EXPECT_THAT(first(fmt::format("seek {}", position)), HasSubstr("position 200 of")) << position;
  }
  for (const char* wrong : {"12x", "0x", "0xg", "$nothing", "1+", "+", "k", "1kk", "99999999999999999999", "1 + 1"})
    EXPECT_THAT(first(fmt::format("phys {} 1", wrong)), HasSubstr("usage")) << wrong;
}

TEST(Monitor, going_past_the_end_is_told) {
  Client client;
  EXPECT_THAT(text_of(client.say({monitor("seek 5000")})),
              AllOf(HasSubstr("the recording ends at 805: there is no position 5'000"), HasSubstr("position 805 of")));
  EXPECT_THAT(text_of(client.say({monitor("seek end")})), testing::Not(HasSubstr("there is no")));
}

TEST(Monitor, going_before_the_beginning_is_told) {
  Client client;
  ASSERT_TRUE(client.timeline().seek(Position(100)).ok());
  EXPECT_THAT(text_of(client.say({monitor("seek -99999M")})),
              AllOf(HasSubstr("the recording begins at 0: there is no position 99'999'000'000 before 100\n"), HasSubstr("position 0 of")));
  ASSERT_TRUE(client.timeline().seek(Position(100)).ok());
  EXPECT_THAT(text_of(client.say({monitor("seek -100")})), AllOf(testing::Not(HasSubstr("there is no")), HasSubstr("position 0 of")));
}

TEST(Monitor, checkpoints_that_were_interrupted_say_so) {
  struct Slow final : FakeTimeline {
    Result<void> warm() override {
      while (!interrupted()) continue;
      return {};
    }
  };
  Client slow(new Slow);
  slow.while_running = "\3";
  EXPECT_THAT(text_of(slow.say({monitor("checkpoints make")})), HasSubstr("interrupted on the way"));
  Client quick;
  EXPECT_THAT(text_of(quick.say({monitor("checkpoints make")})), testing::Not(HasSubstr("interrupted")));
}

TEST(Monitor, checkpoints_are_summed_up_and_listed_on_demand) {
  struct Many final : FakeTimeline {
    std::vector<Position> checkpoint_positions() const override {
      std::vector<Position> out;
      for (uint64_t i = 0; i < 300; ++i) out.emplace_back(2 * i);
      return out;
    }
  };
  Client client(new Many);
  const auto lines = [&](const char* command) {
    const std::string text = text_of(client.say({monitor(command)}));
    return std::count(text.begin(), text.end(), '\n');
  };
  EXPECT_LE(lines("checkpoints"), 3);
  EXPECT_GE(lines("checkpoints list"), 301);
  EXPECT_THAT(text_of(client.say({monitor("checkpoints")})), HasSubstr("the widest gap is 207 instructions"));
}

TEST(Monitor, last_write_of_what_is_no_memory_says_so) {
  Client client;
  EXPECT_THAT(text_of(client.say({monitor("last-write 0xf0000000 4")})), HasSubstr("0xf0000000 is not mapped to memory here"));
  EXPECT_THAT(text_of(client.say({monitor("last-write 0xf0000000 4 --phys")})), HasSubstr("is no memory"));
  EXPECT_THAT(text_of(client.say({monitor("last-write 0xf0000000 4 --linear")})), HasSubstr("nothing before"));
}

// Where what was found does not add up with what memory holds, that is said, and no writer is named.
TEST(Monitor, last_write_that_nobody_made_names_nobody) {
  struct Liar final : FakeTimeline {
    Result<LastChange> last_change(const std::vector<ByteWatch>& bytes, VcpuId asker) override {
      auto answer = FakeTimeline::last_change(bytes, asker);
      answer->unseen.emplace(Position(64), Position(96));
      return answer;
    }
  };
  Client client(new Liar);
  ASSERT_TRUE(client.timeline().seek(Position(100)).ok());
  const std::string text = text_of(client.say({monitor("last-write 0x180000 4")}));
  EXPECT_EQ(text, "the 4 bytes at 0x180000 changed between position 64 and 96, and no vCPU was seen to write them\n");
}

TEST(Monitor, watchpoint_that_explains_only_a_part_of_the_change_says_so) {
  struct Liar final : FakeTimeline {
    Result<TimelineStop> backward(const StopConditions& conditions, Position limit) override {
      return told(FakeTimeline::backward(conditions, limit), false);
    }
    Result<TimelineStop> forward(const StopConditions& conditions, Position limit) override {
      return told(FakeTimeline::forward(conditions, limit), true);
    }
    // A store through the watched address, and as much as `off` away from what memory held where the run came from.
    Result<TimelineStop> told(Result<TimelineStop> stop, bool ahead) const {
      if (!stop || !stop->observation) return stop;
      stop->observation->kind = Observation::Kind::write;
      stop->observation->index = 0;
      (ahead ? stop->observation->old_value : stop->observation->new_value) += off;
      return stop;
    }
    uint64_t off = 0;
  };
  for (const bool back : {true, false}) {
    for (const uint64_t off : {uint64_t{0}, uint64_t{5}}) {
      auto* liar = new Liar;
      liar->off = off;
      Client client(liar);
      ASSERT_TRUE(client.timeline().seek(Position(100)).ok());
      const std::string text = text_of(client.say({"Z2,180000,4", back ? "bc" : "c"}));
      if (off == 0) {
        EXPECT_EQ(text, "");
      } else {
        EXPECT_THAT(text, AllOf(HasSubstr("not all of the change is this store's"),
                                HasSubstr(back ? "it made 0x00000011 of 0x0000000b" : "it made 0x0000000d of 0x00000011"),
                                HasSubstr("at position 100 it was 0x0000000c"), HasSubstr("'monitor last-write 0x180000'")));
      }
    }
  }
}

TEST(Monitor, watches_bytes_forwards_and_backwards) {
  Client client;
  ASSERT_TRUE(client.timeline().seek(Position(93)).ok());
  const auto answers = client.say({monitor("watch phys 0x180000 4"), "bc"});
  EXPECT_THAT(text_of(answers), HasSubstr("the 4 bytes at physical 0x180000"));
  EXPECT_THAT(text_of(answers), HasSubstr("vCPU 0 at 0x10000e wrote 4 bytes to 0x180000"));
  EXPECT_THAT(text_of(answers), HasSubstr("0x0000000b -> 0x0000000c"));
  EXPECT_EQ(answers.back(), kHere);
  EXPECT_EQ(client.timeline().position(), Position(92));
  EXPECT_EQ(client.say({monitor("watch bytes 0x180000 4"), "c"}).back(), kHere);
  EXPECT_EQ(client.timeline().position(), Position(93));
  const auto off = client.say({monitor("watch phys 0x180000 4"), monitor("watch off"), "bc"});
  EXPECT_THAT(text_of(off), HasSubstr("no bytes are watched"));
  EXPECT_EQ(off.back(), kHere + "replaylog:begin;");
  for (const char* line : {"watch phys", "watch phys 0xf0000000", "watch bytes 0xf0000000 4", "watch x", "watch phys 0 0"})
    EXPECT_THAT(text_of(client.say({monitor(line)})), HasSubstr("usage: monitor watch")) << line;
}

TEST(Monitor, breaks_on_port_access_forwards_and_backwards) {
  Client client;
  const auto answers = client.say({monitor("break-on io 0xf4"), "c"});
  EXPECT_THAT(text_of(answers), HasSubstr("port-write 0xf4"));
  EXPECT_EQ(answers.back(), kHere);
  const auto back = client.say({monitor("seek end"), monitor("break-on io"), "bc"});
  EXPECT_EQ(back.back(), kHere);
  EXPECT_EQ(client.timeline().position(), Position(804));
}

TEST(Monitor, shows_registers_page_tables_memory_and_devices) {
  Client client;
  EXPECT_THAT(text_of(client.say({monitor("regs")})), HasSubstr("rip 0000000000100000"));
  const std::string pt = text_of(client.say({monitor("pt 0x100000")}));
  EXPECT_THAT(pt, HasSubstr("PML4E"));
  EXPECT_THAT(pt, HasSubstr("physical 0x100000"));
  EXPECT_THAT(text_of(client.say({monitor("pt ffff800000000000")})), HasSubstr("would fault"));
  EXPECT_THAT(text_of(client.say({monitor("phys 0x100000 4")})), HasSubstr("bc 00 00 08"));
  EXPECT_THAT(text_of(client.say({monitor("info devices pit")})), HasSubstr("pit8254."));
}

TEST(Monitor, live_machine_leaves_history_and_comes_back) {
  Client client;
  ASSERT_TRUE(client.timeline().seek(Position(102)).ok());
  const auto answers = client.say({monitor("go-live"), "M180000,4:00000000", "s", "m180000,4", "bs", "m180000,4"});
  EXPECT_EQ(answers[4], "00000000");
  EXPECT_EQ(answers.back(), "0d000000");
  EXPECT_EQ(client.timeline().position(), Position(101));
}

}  // namespace
}  // namespace retrovisor::gdb
