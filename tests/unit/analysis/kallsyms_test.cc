
#include <elf.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <map>

#include "analysis/disassemble.h"
#include "tests/unit/analysis/kallsyms_tables.h"

namespace retrovisor {
namespace {

TEST(Kallsyms, decodes_both_layouts) {
  for (const auto layout : {Tables::Layout::before_6_4, Tables::Layout::from_6_4}) {
    const auto found = decode_kallsyms(some_tables().build(layout));
    ASSERT_TRUE(found.ok()) << found.error().text();
    EXPECT_EQ(found->symbols.size(), 1008u);
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
      EXPECT_EQ(found->symbols.size(), 1008u) << size;
    }
  }
}

TEST(Kallsyms, elf_has_the_symbols_where_they_are) {
  const auto found = decode_kallsyms(some_tables().build(Tables::Layout::before_6_4));
  ASSERT_TRUE(found.ok());
  const std::vector<uint8_t> elf = symbols_elf(*found, 0x1000);
  Elf64_Ehdr header;
  ASSERT_GT(elf.size(), sizeof header);
  std::memcpy(&header, elf.data(), sizeof header);
  EXPECT_EQ(std::memcmp(header.e_ident, ELFMAG, SELFMAG), 0);
  std::vector<Elf64_Shdr> sections(header.e_shnum);
  ASSERT_LE(header.e_shoff + sections.size() * sizeof(Elf64_Shdr), elf.size());
  std::memcpy(sections.data(), elf.data() + header.e_shoff, sections.size() * sizeof(Elf64_Shdr));
  EXPECT_EQ(sections[1].sh_addr, kBase + 0x1000);
  EXPECT_EQ(sections[1].sh_size, 0x10000u);
  const Elf64_Shdr& table = sections[3];
  ASSERT_LE(table.sh_offset + table.sh_size, elf.size());
  std::map<std::string, Elf64_Sym> symbols;
  for (size_t at = 0; at < table.sh_size; at += sizeof(Elf64_Sym)) {
    Elf64_Sym s;
    std::memcpy(&s, elf.data() + table.sh_offset + at, sizeof s);
    symbols[reinterpret_cast<const char*>(elf.data()) + sections[table.sh_link].sh_offset + s.st_name] = s;
    EXPECT_EQ(at / sizeof(Elf64_Sym) < table.sh_info, ELF64_ST_BIND(s.st_info) == STB_LOCAL);
  }
  EXPECT_EQ(symbols["sys_read"].st_value, kBase + 0x1040);
  EXPECT_EQ(symbols["sys_read"].st_size, 0x40u);
  EXPECT_EQ(ELF64_ST_TYPE(symbols["sys_read"].st_info), STT_FUNC);
  EXPECT_EQ(symbols["cpu_info"].st_value, 0x1f000u);
  EXPECT_EQ(symbols["cpu_info"].st_shndx, SHN_ABS);
}

TEST(Disassemble, follows_the_mode) {
  const std::vector<uint8_t> bytes{0xb8, 0x34, 0x12, 0x00, 0x00};
  EXPECT_EQ(disassemble(bytes, 0, CodeMode::bits16).size, 3u);
  EXPECT_EQ(disassemble(bytes, 0, CodeMode::bits32).size, 5u);
  EXPECT_EQ(disassemble(bytes, 0, CodeMode::bits64).text, "mov eax, 0x1234");
  EXPECT_EQ(disassemble(std::span(bytes).first(1), 0, CodeMode::bits64).size, 0u);
  EXPECT_EQ(disassemble({}, 0, CodeMode::bits64).size, 0u);
}

}  // namespace
}  // namespace retrovisor
