// Sections of an ELF file that lie in memory, for the tools of this folder.
#pragma once

#include <elf.h>

#include <cstdint>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <iterator>
#include <optional>
#include <string>
#include <vector>

namespace retrovisor::tools {

struct Section {
  std::string name;
  uint64_t address = 0;
  bool executable = false;
  const uint8_t* bytes = nullptr;  // in ElfFile::bytes
  size_t size = 0;
};

struct ElfFile {
  std::vector<uint8_t> bytes;
  bool wide = false;  // 64 bits
  std::vector<Section> sections;
};

// The headers are untrusted: every offset is checked against the file's size.
template <class Ehdr, class Shdr>
bool find_sections(const std::vector<uint8_t>& file, std::vector<Section>& out) {
  Ehdr header;
  if (file.size() < sizeof header) return false;
  std::memcpy(&header, file.data(), sizeof header);
  if (header.e_shentsize != sizeof(Shdr) || header.e_shoff > file.size() ||
      (file.size() - header.e_shoff) / sizeof(Shdr) < header.e_shnum) {
    return false;
  }
  std::vector<Shdr> sections(header.e_shnum);
  if (!sections.empty()) std::memcpy(sections.data(), file.data() + header.e_shoff, sections.size() * sizeof(Shdr));
  const auto inside = [&](const Shdr& s) { return s.sh_offset <= file.size() && s.sh_size <= file.size() - s.sh_offset; };
  const Shdr* names = header.e_shstrndx < sections.size() ? &sections[header.e_shstrndx] : nullptr;
  if (names != nullptr && !inside(*names)) return false;
  for (const Shdr& s : sections) {
    if (s.sh_type == SHT_NOBITS || (s.sh_flags & SHF_ALLOC) == 0) continue;
    if (!inside(s)) return false;
    Section section;
    if (names != nullptr && s.sh_name < names->sh_size) {
      const char* text = reinterpret_cast<const char*>(file.data() + names->sh_offset + s.sh_name);
      section.name.assign(text, strnlen(text, names->sh_size - s.sh_name));
    }
    section.address = s.sh_addr;
    section.executable = (s.sh_flags & SHF_EXECINSTR) != 0;
    section.bytes = file.data() + s.sh_offset;
    section.size = s.sh_size;
    out.push_back(section);
  }
  return true;
}

// Nothing, and a message, if `path` is no ELF file or a damaged one.
inline std::optional<ElfFile> read_elf(const char* path) {
  std::ifstream in(path, std::ios::binary);
  ElfFile elf;
  elf.bytes.assign(std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>());
  if (elf.bytes.size() < EI_NIDENT || std::memcmp(elf.bytes.data(), ELFMAG, SELFMAG) != 0) {
    std::fprintf(stderr, "%s is no ELF file\n", path);
    return std::nullopt;
  }
  elf.wide = elf.bytes[EI_CLASS] == ELFCLASS64;
  const bool readable = elf.wide ? find_sections<Elf64_Ehdr, Elf64_Shdr>(elf.bytes, elf.sections)
                                 : find_sections<Elf32_Ehdr, Elf32_Shdr>(elf.bytes, elf.sections);
  if (!readable) {
    std::fprintf(stderr, "%s: section headers are damaged\n", path);
    return std::nullopt;
  }
  return elf;
}

}  // namespace retrovisor::tools
