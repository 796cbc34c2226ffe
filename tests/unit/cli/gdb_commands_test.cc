// The monitor commands that need the kernel's symbols, over a guest that has none.
#include "cli/gdb_commands.h"

#include <gtest/gtest.h>

#include "tests/unit/gdbstub/client.h"

namespace retrovisor::cli {
namespace {

using gdb::Client;
using gdb::FakeTimeline;

std::string answer(Client& client, const std::string& command) {
  gdb::SessionOptions options;
  options.arch = gdb::Arch::x86_64;
  options.commands = kernel_commands();
  std::string out;
  for (const std::string& a : client.raw({"+", gdb::frame("QStartNoAckMode") + "+", gdb::frame("qRcmd," + gdb::hex_bytes(command))}, options))
    if (a.size() > 1 && a[0] == '(') out += a.substr(1, a.size() - 2);
  return out;
}

bool has(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }

TEST(KernelCommands, disassemble_takes_registers_and_numbers_as_all_commands_do) {
  for (const char* address : {"", "$pc", "rip", "0x10000c", "1048588", "10000c"}) {
    Client client;
    ASSERT_TRUE(client.timeline().seek(Position(3)).ok());
    const std::string text = answer(client, std::string("disassemble ") + address);
    EXPECT_TRUE(text.starts_with("0x10000c:  inc ecx\n")) << address << ": " << text;
    if (*address == '\0') continue;
    const std::string one = answer(client, std::string("disassemble ") + address + " 0x1");
    EXPECT_EQ(one, "0x10000c:  inc ecx\n") << address;
  }
}

TEST(KernelCommands, symbols_of_what_is_no_linux_kernel_are_not_there) {
  Client client;
  ASSERT_TRUE(client.timeline().seek(Position(3)).ok());
  for (const char* command : {"kaslr", "symbol $pc", "symbol panic"}) EXPECT_FALSE(has(answer(client, command), "interrupted")) << command;
  EXPECT_EQ(client.timeline().position(), Position(3));
}

TEST(KernelCommands, search_for_symbols_that_was_interrupted_says_so_and_does_not_move) {
  struct Slow final : FakeTimeline {
    Result<TimelineStop> seek(Position target) override {
      if (!interrupted || !interrupted()) return FakeTimeline::seek(target);
      TimelineStop stop;
      stop.reason = Reason::interrupted;
      stop.position = position();
      return stop;
    }
  };
  for (const char* command : {"kaslr", "symbol $pc"}) {
    Client client(new Slow);
    ASSERT_TRUE(client.timeline().seek(Position(3)).ok());
    client.while_running = "\3";
    const std::string text = answer(client, command);
    EXPECT_TRUE(has(text, "interrupted: no Linux kernel was found up to position")) << text;
    EXPECT_FALSE(has(text, "usage")) << text;
    EXPECT_EQ(client.timeline().position(), Position(3));
  }
}

}  // namespace
}  // namespace retrovisor::cli
