// An ELF file that holds nothing but symbols. Source: System V ABI, chapter 4 (Object Files), and its x86-64 supplement.
#include <elf.h>

#include <algorithm>
#include <cstring>
#include <tuple>

#include "analysis/kallsyms.h"

namespace retrovisor {
namespace {

constexpr uint64_t kImageBegin = 0xffffffff80000000;

template <class T>
void append(std::vector<uint8_t>& out, const T& value) {
  const size_t at = out.size();
  out.resize(at + sizeof value);
  std::memcpy(out.data() + at, &value, sizeof value);
}

// Adds `text` to a string table.
uint32_t intern(std::vector<uint8_t>& table, std::string_view text) {
  const auto at = static_cast<uint32_t>(table.size());
  table.insert(table.end(), text.begin(), text.end());
  table.push_back(0);
  return at;
}

// Sections without contents, so that gdb can move the symbols in them.
struct Area {
  const char* name;
  uint64_t begin;
  uint64_t end;
  uint64_t flags;
};

}  // namespace

std::vector<uint8_t> symbols_elf(const KernelSymbols& symbols, uint64_t offset) {
  const auto address = [&](std::string_view name, uint64_t otherwise) {
    const KernelSymbol* s = symbols.find(name);
    return (s != nullptr ? s->address : otherwise) + offset;
  };
  uint64_t lowest = UINT64_MAX, highest = kImageBegin;
  std::vector<const KernelSymbol*> sorted;
  for (const KernelSymbol& s : symbols.symbols) {
    sorted.push_back(&s);
    if (s.address < kImageBegin) continue;
    lowest = std::min(lowest, s.address);
    highest = std::max(highest, s.address);
  }
  std::sort(sorted.begin(), sorted.end(), [](const KernelSymbol* a, const KernelSymbol* b) {
    return std::tie(a->address, a->name) < std::tie(b->address, b->name);
  });
  const uint64_t text = address("_text", lowest), etext = address("_etext", highest);
  const uint64_t end = std::max(address("_end", highest), etext);
  const Area areas[] = {{".text", text, etext, SHF_ALLOC | SHF_EXECINSTR}, {".data", etext, end, SHF_ALLOC | SHF_WRITE}};

  std::vector<uint8_t> strings{0}, names{0}, table;
  append(table, Elf64_Sym{});
  uint32_t locals = 1;
  for (const bool local : {true, false}) {
    for (size_t i = 0; i < sorted.size(); ++i) {
      const KernelSymbol& s = *sorted[i];
      const bool is_local = s.type >= 'a' && s.type <= 'z' && s.type != 'w' && s.type != 'v';
      if (is_local != local) continue;
      const bool in_image = s.address >= kImageBegin;
      const uint64_t at = s.address + (in_image ? offset : 0);
      Elf64_Sym e{};
      e.st_name = intern(strings, s.name);
      e.st_value = at;
      const bool code = s.type == 't' || s.type == 'T';
      const bool weak = s.type == 'w' || s.type == 'W' || s.type == 'v' || s.type == 'V';
      e.st_info = static_cast<unsigned char>(ELF64_ST_INFO(local  ? STB_LOCAL
                                                           : weak ? STB_WEAK
                                                                  : STB_GLOBAL,
                                                           code || s.type == 'W' ? STT_FUNC : STT_OBJECT));
      e.st_shndx = !in_image || at < text || at > end ? static_cast<uint16_t>(SHN_ABS)
                   : at < etext                       ? uint16_t{1}
                                                      : uint16_t{2};
      size_t next = i + 1;  // aliases share their size
      while (next < sorted.size() && sorted[next]->address == s.address) ++next;
      if (next < sorted.size() && e.st_shndx != SHN_ABS) e.st_size = sorted[next]->address - s.address;
      append(table, e);
      if (local) ++locals;
    }
  }

  // Header, section headers, then the three tables.
  constexpr uint16_t kSections = 6;
  std::vector<uint8_t> out;
  std::vector<Elf64_Shdr> headers(kSections);
  uint64_t at = sizeof(Elf64_Ehdr) + kSections * sizeof(Elf64_Shdr);
  for (size_t i = 0; i < 2; ++i) {
    Elf64_Shdr& h = headers[1 + i];
    h.sh_name = intern(names, areas[i].name);
    h.sh_type = SHT_NOBITS;
    h.sh_flags = areas[i].flags;
    h.sh_addr = areas[i].begin;
    h.sh_offset = at;
    h.sh_size = areas[i].end - areas[i].begin;
    h.sh_addralign = 16;
  }
  const auto place = [&](size_t index, const char* name, uint32_t type, const std::vector<uint8_t>& contents) {
    Elf64_Shdr& h = headers[index];
    h.sh_name = intern(names, name);
    h.sh_type = type;
    h.sh_offset = at;
    h.sh_size = contents.size();
    h.sh_addralign = 8;
    at += contents.size();
  };
  intern(names, "");
  place(3, ".symtab", SHT_SYMTAB, table);
  headers[3].sh_link = 4;
  headers[3].sh_info = locals;
  headers[3].sh_entsize = sizeof(Elf64_Sym);
  place(4, ".strtab", SHT_STRTAB, strings);
  headers[5].sh_name = intern(names, ".shstrtab");
  headers[5].sh_type = SHT_STRTAB;
  headers[5].sh_offset = at;
  headers[5].sh_size = names.size();
  headers[5].sh_addralign = 1;

  Elf64_Ehdr e{};
  std::memcpy(e.e_ident, ELFMAG, SELFMAG);
  e.e_ident[EI_CLASS] = ELFCLASS64;
  e.e_ident[EI_DATA] = ELFDATA2LSB;
  e.e_ident[EI_VERSION] = EV_CURRENT;
  e.e_type = ET_EXEC;
  e.e_machine = EM_X86_64;
  e.e_version = EV_CURRENT;
  e.e_entry = text;
  e.e_shoff = sizeof e;
  e.e_ehsize = sizeof e;
  e.e_shentsize = sizeof(Elf64_Shdr);
  e.e_shnum = kSections;
  e.e_shstrndx = 5;
  append(out, e);
  for (const Elf64_Shdr& h : headers) append(out, h);
  out.insert(out.end(), table.begin(), table.end());
  out.insert(out.end(), strings.begin(), strings.end());
  out.insert(out.end(), names.begin(), names.end());
  return out;
}

}  // namespace retrovisor
