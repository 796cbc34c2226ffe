#include "analysis/linux/symbol_file.h"

#include <elf.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <filesystem>
#include <fstream>

#include "tests/unit/linux/kallsyms_tables.h"

namespace retrovisor {
namespace {

using testing::HasSubstr;

KernelSymbols recorded() {
  auto found = decode_kallsyms(some_tables().build(Tables::Layout::from_6_4));
  RV_ASSERT(found.ok());
  return std::move(found).value();
}

class SymbolFile : public testing::Test {
 protected:
  std::string write(const std::vector<uint8_t>& bytes) {
    std::ofstream(path_, std::ios::binary).write(reinterpret_cast<const char*>(bytes.data()), static_cast<std::streamsize>(bytes.size()));
    return path_;
  }
  void TearDown() override { std::filesystem::remove(path_); }
  const std::string path_ = testing::TempDir() + "symbol_file_" + std::to_string(getpid());
};

TEST_F(SymbolFile, symbols_as_they_were_linked_are_moved_to_the_run) {
  const auto where = symbol_file_arguments(write(symbols_elf(recorded(), kLinkedText - kBase)), recorded());
  ASSERT_TRUE(where.ok()) << where.error().text();
  EXPECT_EQ(*where, "-o 0x12600000");
}

TEST_F(SymbolFile, symbols_of_the_run_are_not_moved_again) {
  const auto where = symbol_file_arguments(write(symbols_elf(recorded(), 0)), recorded());
  ASSERT_TRUE(where.ok()) << where.error().text();
  EXPECT_EQ(*where, "-o 0x0");
}

TEST_F(SymbolFile, symbols_of_another_run_of_the_kernel_are_moved_by_the_difference) {
  const auto where = symbol_file_arguments(write(symbols_elf(recorded(), 0x200000)), recorded());
  ASSERT_TRUE(where.ok()) << where.error().text();
  EXPECT_EQ(*where, "-o 0xffffffffffe00000");
}

TEST_F(SymbolFile, another_kernels_symbols_are_refused) {
  Tables tables = some_tables();
  tables.add(kBase + 0x20010, "B_end");  // the later one counts
  auto other = decode_kallsyms(tables.build(Tables::Layout::from_6_4));
  ASSERT_TRUE(other.ok());
  const auto where = symbol_file_arguments(write(symbols_elf(*other, 0)), recorded());
  ASSERT_FALSE(where.ok());
  EXPECT_THAT(where.error().text(), HasSubstr("another kernel's symbols: _end is 0x20010 behind _text there, 0x20000"));
}

TEST_F(SymbolFile, what_is_no_kernel_is_refused_by_name) {
  EXPECT_THAT(symbol_file_arguments(path_ + ".none", recorded()).error().text(), HasSubstr("cannot be read"));
  EXPECT_THAT(symbol_file_arguments(write({1, 2, 3}), recorded()).error().text(), HasSubstr("not an ELF file"));
  auto elf = symbols_elf(recorded(), 0);
  elf[offsetof(Elf64_Ehdr, e_type)] = ET_REL;
  EXPECT_THAT(symbol_file_arguments(write(elf), recorded()).error().text(), HasSubstr("a module, not a kernel"));
  elf = symbols_elf(recorded(), 0);
  elf[offsetof(Elf64_Ehdr, e_machine)] = EM_386;
  EXPECT_THAT(symbol_file_arguments(write(elf), recorded()).error().text(), HasSubstr("not for x86-64"));
}

TEST_F(SymbolFile, per_cpu_variables_of_ours_are_not_moved) {
  auto kernel = recorded();
  kernel.symbols.push_back({0, 'A', "__per_cpu_start"});
  kernel.symbols.push_back({0x40, 'A', "current_task"});
  kernel.symbols.push_back({0x34000, 'A', "__per_cpu_end"});
  const auto where = symbol_file_arguments(write(symbols_elf(kernel, kLinkedText - kBase)), kernel);
  ASSERT_TRUE(where.ok()) << where.error().text();
  EXPECT_EQ(*where, "-o 0x12600000 -s .data..percpu 0");
}

// The file is the user's, and may be cut off or damaged: an error or an answer, never a crash.
TEST_F(SymbolFile, every_truncation_is_answered) {
  const auto elf = symbols_elf(recorded(), 0);
  for (size_t size = 0; size < elf.size(); size += 97) {
    const auto where = symbol_file_arguments(write({elf.begin(), elf.begin() + static_cast<std::ptrdiff_t>(size)}), recorded());
    if (where.ok()) {
      EXPECT_EQ(*where, "-o 0x0") << size;
    }
  }
}

TEST_F(SymbolFile, per_cpu_variables_are_not_moved_where_the_file_has_them) {
  EXPECT_EQ(linked_symbol_arguments(recorded()), "-o 0x12600000 -s .data..percpu 0");
  auto elf = symbols_elf(recorded(), 0);
  // Rename a section: ".data.1" to something as long is not enough, so give the last data area the name by a table of its own.
  Elf64_Ehdr header;
  std::memcpy(&header, elf.data(), sizeof header);
  const std::string names = std::string(1, '\0') + ".text" + '\0' + ".data..percpu" + '\0';
  const auto section = [&](size_t i) { return header.e_shoff + i * sizeof(Elf64_Shdr); };
  Elf64_Shdr s;
  std::memcpy(&s, elf.data() + section(2), sizeof s);
  s.sh_name = 7;
  std::memcpy(elf.data() + section(2), &s, sizeof s);
  std::memcpy(&s, elf.data() + section(1), sizeof s);
  s.sh_name = 1;
  std::memcpy(elf.data() + section(1), &s, sizeof s);
  std::memcpy(&s, elf.data() + section(header.e_shstrndx), sizeof s);
  s.sh_offset = elf.size();
  s.sh_size = names.size();
  std::memcpy(elf.data() + section(header.e_shstrndx), &s, sizeof s);
  elf.insert(elf.end(), names.begin(), names.end());
  const auto where = symbol_file_arguments(write(elf), recorded());
  ASSERT_TRUE(where.ok()) << where.error().text();
  EXPECT_EQ(*where, "-o 0x0 -s .data..percpu 0");
}

}  // namespace
}  // namespace retrovisor
