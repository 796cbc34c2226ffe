#include "cli/say.h"

#include <gtest/gtest.h>

#include "vmm/host/stop_source.h"
#include "vmm/memory/guest_memory.h"

namespace retrovisor::cli {
namespace {

TEST(Say, hostile_names_cannot_drive_the_terminal) {
  EXPECT_EQ(printable("a\x1b[2Jb\r\x7f\n\tc\xc3\xbc"), "a?[2Jb??\n\tc\xc3\xbc");
  EXPECT_EQ(printable(""), "");
}

TEST(Say, places_of_errors_are_shown_by_the_options_that_set_them) {
  const auto text = [](const char* where) { return error_text({ErrorCode::bad_argument, "no", where}); };
  EXPECT_EQ(text("vcpus"), "no (--vcpus)");
  EXPECT_EQ(text("time limit"), "no (--timeout)");
  EXPECT_EQ(text("file offset 3"), "no (file offset 3)");
  EXPECT_EQ(text("--seed"), "no (--seed)");
  EXPECT_EQ(text(""), "no");
}

// What runs gives errors places of its own; the user reads the option's name.
TEST(Say, errors_of_what_runs_name_the_option_to_change) {
  const auto memory = GuestMemory::create(1);
  ASSERT_FALSE(memory.ok());
  EXPECT_EQ(memory.error().where, "memory");
  EXPECT_TRUE(error_text(memory.error()).ends_with(" (--memory)")) << error_text(memory.error());
  auto stop = StopSource::create();
  ASSERT_TRUE(stop.ok());
  const auto signals = StopSignals::install(**stop, 0.0);
  ASSERT_FALSE(signals.ok());
  EXPECT_EQ(signals.error().where, "time limit");
  EXPECT_TRUE(error_text(signals.error()).ends_with(" (--timeout)")) << error_text(signals.error());
}

}  // namespace
}  // namespace retrovisor::cli
