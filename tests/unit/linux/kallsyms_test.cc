
#include <elf.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <map>

#include "tests/unit/linux/kallsyms_tables.h"

namespace retrovisor {
namespace {

TEST(Kallsyms, decodes_both_layouts) {
  for (const auto layout : {Tables::Layout::before_6_4, Tables::Layout::from_6_4}) {
    const auto found = decode_kallsyms(some_tables().build(layout));
    ASSERT_TRUE(found.ok()) << found.error().text();
    EXPECT_EQ(found->symbols.size(), 1017u);
    EXPECT_EQ(found->kaslr_offset(), 0x12600000u);
    ASSERT_NE(found->find("sys_read"), nullptr);
    EXPECT_EQ(found->find("sys_read")->address, kBase + 0x40);
    EXPECT_EQ(found->find("sys_read")->type, 'T');
    EXPECT_EQ(found->find("sysrq_handle_crash")->type, 't');
    EXPECT_EQ(found->find("cpu_info")->address, 0x1f000u);
    EXPECT_EQ(found->find("function_999")->address, kBase + 0x1000 + 16 * 999);
    EXPECT_NE(found->find(std::string(200, 'n')), nullptr);
    EXPECT_EQ(found->find("no_such_thing"), nullptr);
  }
}

TEST(Kallsyms, rejects_memory_without_tables) {
  EXPECT_FALSE(decode_kallsyms({}).ok());
  EXPECT_FALSE(decode_kallsyms(std::vector<uint8_t>(100000, 0)).ok());
  std::vector<uint8_t> digits;
  for (char c = '0'; c <= '9'; ++c) digits.insert(digits.end(), {static_cast<uint8_t>(c), 0});
  EXPECT_FALSE(decode_kallsyms(digits).ok());
  digits.insert(digits.end(), 100000, 'a');
  EXPECT_FALSE(decode_kallsyms(digits).ok());
}

TEST(Kallsyms, finds_the_true_table_behind_a_decoy) {
  auto image = some_tables().build(Tables::Layout::before_6_4);
  for (char c = '9'; c >= '0'; --c) image.insert(image.begin(), {static_cast<uint8_t>(c), 0});
  image.insert(image.begin(), 4, 0);  // keep what follows aligned
  EXPECT_TRUE(decode_kallsyms(image).ok());
}

TEST(Kallsyms, rejects_damage_in_what_ties_the_tables_together) {
  Tables tables = some_tables();
  const auto good = tables.build(Tables::Layout::before_6_4);
  auto bad = good;
  bad[tables.token_table - 8] ^= 0x40;  // the last marker
  EXPECT_FALSE(decode_kallsyms(bad).ok());
  bad = good;
  bad[tables.token_table + 2 * '0' + 1] = 'q';  // a token that is longer than the index says
  EXPECT_FALSE(decode_kallsyms(bad).ok());
}

TEST(Kallsyms, every_truncation_is_an_error_or_whole) {
  const auto good = some_tables().build(Tables::Layout::from_6_4);
  for (size_t size = 0; size < good.size(); size += 61) {
    const auto found = decode_kallsyms(std::span(good).first(size));
    if (found.ok()) {
      EXPECT_EQ(found->symbols.size(), 1017u) << size;
    }
  }
}

// What symbols_elf() has made, read as a debugger reads it.
struct Made {
  explicit Made(const std::vector<uint8_t>& elf) {
    std::memcpy(&header, elf.data(), sizeof header);
    sections.resize(header.e_shnum);
    std::memcpy(sections.data(), elf.data() + header.e_shoff, sections.size() * sizeof(Elf64_Shdr));
    const auto string = [&](size_t table, size_t at) {
      return std::string(reinterpret_cast<const char*>(elf.data()) + sections[table].sh_offset + at);
    };
    for (size_t i = 0; i < sections.size(); ++i) {
      names.push_back(string(header.e_shstrndx, sections[i].sh_name));
      if (sections[i].sh_type != SHT_SYMTAB) continue;
      for (size_t at = 0; at < sections[i].sh_size; at += sizeof(Elf64_Sym)) {
        Elf64_Sym s;
        std::memcpy(&s, elf.data() + sections[i].sh_offset + at, sizeof s);
        symbols[string(sections[i].sh_link, s.st_name)] = s;
        EXPECT_EQ(at / sizeof(Elf64_Sym) < sections[i].sh_info, ELF64_ST_BIND(s.st_info) == STB_LOCAL);
      }
    }
  }
  // Where a symbol is: "ABS", or its section's name, with "x" if that is executable.
  std::string place(const std::string& symbol) {
    const uint16_t index = symbols.at(symbol).st_shndx;
    return index == SHN_ABS ? "ABS" : names[index] + ((sections[index].sh_flags & SHF_EXECINSTR) != 0 ? " x" : "");
  }
  unsigned type(const std::string& symbol) { return ELF64_ST_TYPE(symbols.at(symbol).st_info); }

  Elf64_Ehdr header;
  std::vector<Elf64_Shdr> sections;
  std::vector<std::string> names;
  std::map<std::string, Elf64_Sym> symbols;
};

TEST(Kallsyms, elf_has_the_symbols_where_they_are) {
  const auto found = decode_kallsyms(some_tables().build(Tables::Layout::before_6_4));
  ASSERT_TRUE(found.ok());
  const std::vector<uint8_t> elf = symbols_elf(*found, 0x1000);
  EXPECT_EQ(std::memcmp(elf.data(), ELFMAG, SELFMAG), 0);
  Made made(elf);
  EXPECT_EQ(made.sections[1].sh_addr, kBase + 0x1000);
  EXPECT_EQ(made.symbols["sys_read"].st_value, kBase + 0x1040);
  EXPECT_EQ(made.symbols["sys_read"].st_size, 0x40u);
  EXPECT_EQ(made.type("sys_read"), static_cast<unsigned>(STT_FUNC));
  EXPECT_EQ(made.symbols["cpu_info"].st_value, 0x1f000u);
  EXPECT_EQ(made.place("cpu_info"), "ABS");
}

TEST(Kallsyms, elf_has_every_function_in_a_section_with_code) {
  const auto found = decode_kallsyms(some_tables().build(Tables::Layout::from_6_4));
  ASSERT_TRUE(found.ok());
  Made made(symbols_elf(*found, 0x2000));
  EXPECT_EQ(made.place("sys_read"), ".text x");
  EXPECT_EQ(made.place(std::string(200, 'n')), ".data");
  EXPECT_EQ(made.place("start_kernel"), ".init.text x");
  EXPECT_EQ(made.type("start_kernel"), static_cast<unsigned>(STT_FUNC));
  EXPECT_EQ(made.place("early_hook"), ".init.text x");
  EXPECT_EQ(made.type("early_hook"), static_cast<unsigned>(STT_FUNC)) << "a weak symbol among functions is one";
  EXPECT_EQ(made.place("init_data"), ".data.1");
  EXPECT_EQ(made.place("maybe_there"), ".data.1");
  EXPECT_EQ(made.type("maybe_there"), static_cast<unsigned>(STT_OBJECT));
  EXPECT_EQ(made.place("module_exit"), ".text.2 x");
  EXPECT_EQ(made.place("data_again"), ".data.2");
  for (size_t i = 1; i < 7; ++i) {
    EXPECT_EQ(made.sections[i].sh_addr + made.sections[i].sh_size, i < 6 ? made.sections[i + 1].sh_addr : kBase + 0x22000) << i;
  }
}

TEST(Kallsyms, elf_of_a_table_that_changes_all_the_time_has_a_bounded_number_of_sections) {
  Tables tables;
  tables.add(kBase, "T_text");
  for (uint64_t i = 1; i < 5000; ++i) tables.add(kBase + 16 * i, (i % 2 == 0 ? "tf" : "dv") + std::to_string(i));
  const auto found = decode_kallsyms(tables.build(Tables::Layout::from_6_4));
  ASSERT_TRUE(found.ok()) << found.error().text();
  Made made(symbols_elf(*found, 0));
  EXPECT_LT(made.header.e_shnum, 100);
  EXPECT_EQ(made.symbols.size(), 5001u);
}

}  // namespace
}  // namespace retrovisor
