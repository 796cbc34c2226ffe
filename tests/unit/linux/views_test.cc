// Views of a kernel in memory made by hand; tests/linux/views.py has real ones.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "analysis/linux/dmesg.h"
#include "analysis/linux/modules.h"
#include "analysis/linux/objects.h"
#include "analysis/linux/tasks.h"
#include "tests/unit/linux/small_kernel.h"

namespace retrovisor {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

std::string log_of(const SmallKernel& small, std::string* trouble = nullptr) {
  const auto log = read_log(*small.kernel(), small.image());
  if (!log) return log.error().text();
  std::string out;
  for (const LogRecord& r : log->records) out += log_text(r);
  if (trouble != nullptr) *trouble = log->trouble;
  return out;
}
std::vector<std::string> names(const TaskList& list) {
  std::vector<std::string> out;
  for (const KernelTask& t : list.tasks) out.push_back(t.name);
  return out;
}
TaskList tasks_of(const SmallKernel& small) {
  auto list = read_tasks(*small.kernel(), small.image());
  RV_ASSERT(list.ok());
  return std::move(*list);
}

TEST(Views, the_log_is_shown_as_dmesg_does) {
  const SmallKernel small;
  std::string trouble = "none";
  EXPECT_EQ(log_of(small, &trouble),
            "[    7.407407] two\n[    7.407407] lines\n[    8.641975] one that begins at the buffer's beginning\n[    9.876543] \n"
            "[   11.111111] not yet\\x1b\n");
  EXPECT_EQ(trouble, "");
  const auto log = read_log(*small.kernel(), small.image());
  ASSERT_TRUE(log.ok());
  EXPECT_EQ(log->records[0].facility, 3u);
  EXPECT_EQ(log->records[0].level, 6u);
  EXPECT_EQ(log->records[0].sequence, SmallKernel::kFirstId - 4);
  EXPECT_TRUE(log->records[0].finished);
  EXPECT_FALSE(log->records[3].finished);
}

TEST(Views, records_without_text_that_are_written_or_that_have_gone_are_left_out) {
  SmallKernel small;
  small.record(SmallKernel::kFirstId, 2, 1, 1, "");  // FAILED_LPOS
  small.record(SmallKernel::kFirstId + 1, 0, 200, 224, "being written");
  small.record(SmallKernel::kFirstId + 2, 3, 200, 224, "reusable");
  std::string trouble;
  EXPECT_EQ(log_of(small, &trouble), "[   11.111111] not yet\\x1b\n");
  EXPECT_EQ(trouble, "1 record is being written");
  small.record(SmallKernel::kFirstId + 3 - 4, 2, 200, 224, "of another round");
  EXPECT_EQ(log_of(small), "");
}

TEST(Views, a_record_of_no_length_is_an_empty_line) {
  SmallKernel small;
  small.record(SmallKernel::kFirstId + 2, 2, 200, 224, "");  // it has a place for text: a null pointer is nothing to copy to (asan)
  EXPECT_THAT(log_of(small), HasSubstr("[    9.876543] \n"));
}

TEST(Views, a_log_that_makes_no_sense_ends_with_what_can_be_read) {
  SmallKernel small;
  std::string trouble;
  small.put(SmallKernel::kRing + 32, uint64_t{0});  // the first record
  EXPECT_THAT(log_of(small, &trouble), HasSubstr("not yet"));
  EXPECT_THAT(trouble, HasSubstr("do not belong together"));
  small = SmallKernel();
  small.record(SmallKernel::kFirstId, 2, 64, 1024, "");  // over many rounds of the buffer
  EXPECT_THAT(log_of(small, &trouble), HasSubstr("one that begins"));
  EXPECT_EQ(trouble, "1 record can not be read");
  small.put(SmallKernel::kRing + 8, uint64_t{0x1000});
  EXPECT_EQ(log_of(small, &trouble), "");
  EXPECT_THAT(trouble, HasSubstr("not in memory"));
  small.put(SmallKernel::kRing, uint32_t{60});
  EXPECT_THAT(log_of(small), HasSubstr("not where its symbols say"));
}

TEST(Views, tasks_are_named_as_ps_names_them) {
  const SmallKernel small;
  const TaskList list = tasks_of(small);
  EXPECT_EQ(list.trouble, "");
  EXPECT_EQ(tasks_text(list),
            "    PID    TGID    PPID CPU S COMMAND\n"
            "      1       1       1   0 S init\n"
            "      7       7       1   0 I [kworker/0:1-events]\n"
            "      9       9       1   0 Z gone\n"
            "     20      20       1   0 R shell\n"
            "     21      20       1   0 D thread\n");
  EXPECT_TRUE(list.tasks[3].running);
  ASSERT_EQ(list.idle.size(), 1u);
  EXPECT_EQ(list.idle[0].name, "swapper/0");
}

TEST(Views, lists_of_tasks_that_lead_back_or_nowhere_end) {
  SmallKernel small;
  small.put(SmallKernel::task(3) + 24, SmallKernel::task(1) + 24);  // not to the head
  TaskList list = tasks_of(small);
  EXPECT_THAT(list.trouble, HasSubstr("leads back to"));
  EXPECT_THAT(names(list), ElementsAre("init", "kworker/0:1-events", "shell", "thread"));
  small.put(SmallKernel::task(3) + 24, uint64_t{0xdead});
  list = tasks_of(small);
  EXPECT_THAT(list.trouble, HasSubstr("where no memory is"));
  EXPECT_THAT(names(list), ElementsAre("init", "kworker/0:1-events", "shell", "thread"));
  small.put(SmallKernel::kInit + 24, uint64_t{0});
  list = tasks_of(small);
  EXPECT_THAT(list.trouble, HasSubstr("where no memory is"));
  EXPECT_TRUE(list.tasks.empty());
}

TEST(Views, a_list_is_not_walked_without_end) {
  SmallKernel small;
  const ListWalk all = walk_list(small.image(), SmallKernel::kInit + 24, 4), some = walk_list(small.image(), SmallKernel::kInit + 24, 3);
  EXPECT_EQ(all.nodes.size(), 4u);
  EXPECT_EQ(all.trouble, "");
  EXPECT_EQ(some.nodes.size(), 3u);
  EXPECT_EQ(some.trouble, "a list has more than 3 entries");
}

TEST(Views, modules_are_shown_as_lsmod_does) {
  SmallKernel small;
  auto list = read_modules(*small.kernel(), small.image());
  ASSERT_TRUE(list.ok()) << list.error().text();
  EXPECT_EQ(list->trouble, "");
  EXPECT_EQ(modules_text(*list),
            "Module                  Size  Used by\n"
            "second                 20480  0 [permanent]\n"
            "first                  20481  1 second\n");
  EXPECT_EQ(list->modules[1].base, 0xffffffffc0010000);
  small.put(SmallKernel::module(0), uint32_t{3});  // unformed
  small.put(SmallKernel::kUse, SmallKernel::kUse);
  list = read_modules(*small.kernel(), small.image());
  ASSERT_TRUE(list.ok());
  ASSERT_EQ(list->modules.size(), 1u);
  EXPECT_THAT(list->trouble, HasSubstr("leads back to"));
}

TEST(Views, a_kernel_without_types_or_with_others_is_told) {
  SmallKernel small;
  for (KernelSymbol& s : small.symbols.symbols)
    if (s.name == "__start_BTF") s.name = "gone";
  const auto untyped = small.kernel();
  EXPECT_EQ(untyped->btf(), nullptr);
  for (const std::string& words : {read_log(*untyped, small.image()).error().message, read_tasks(*untyped, small.image()).error().message,
                                   read_modules(*untyped, small.image()).error().message})
    EXPECT_THAT(words, HasSubstr("CONFIG_DEBUG_INFO_BTF"));
  SmallKernel other;
  const auto bytes = some_btf();
  other.memory.resize(SmallKernel::kSize);
  other.memory.insert(other.memory.end(), bytes.begin(), bytes.end());
  for (KernelSymbol& s : other.symbols.symbols)
    if (s.name == "__stop_BTF") s.address = SmallKernel::kBase + other.memory.size();
  const auto strange = other.kernel();
  ASSERT_NE(strange->btf(), nullptr) << strange->btf_error();
  EXPECT_THAT(read_tasks(*strange, other.image()).error().message, HasSubstr("not those expected"));
}

}  // namespace
}  // namespace retrovisor
