// An ELF file that holds nothing but symbols, and types. Source: System V ABI, chapter 4 (Object Files), and its x86-64 supplement.
#include <elf.h>
#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <string>
#include <tuple>

#include "analysis/linux/dwarf.h"
#include "analysis/linux/kallsyms.h"

namespace retrovisor {
namespace {


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

// A section without contents, so that gdb can move the symbols in it, and takes a symbol for a function if it lies in code.
struct Area {
  std::string name;
  uint64_t begin = 0;
  uint64_t end = 0;
  bool code = false;
};

// Linux has about five: .text, data, .init.text, data, .exit.text, data. A table that a guest has made up may want any number.
constexpr size_t kMostAreas = 64;

enum class Kind : uint8_t { code, data, neither };

Kind kind_of(const KernelSymbol& s) {
  switch (s.type) {
    case 't': case 'T': return Kind::code;
    case 'w': case 'W':            // weak: a function or a variable, as what lies around it
    case 'v': case 'V':
    case 'a': case 'A': return Kind::neither;
    default: return Kind::data;
  }
}

// Linked at 0, and copied to an area of each CPU: the symbols are offsets in it, which gdb must not move with all the rest. What
// the kernel's own file calls that section. Ours is empty: gdb names what an address in a section belongs to, and would print each
// null pointer as <fixed_percpu_data>.
constexpr const char* kPerCpuSection = ".data..percpu";
constexpr uint64_t kMostPerCpu = uint64_t{16} << 20;

bool in_image(const KernelSymbol& s) { return s.address >= kKernelMap; }

// The kernel's image, from `begin` to `end`, cut wherever functions give way to data and back. The linker's marks at such a
// place (_etext, __init_begin) have either's type: what differs from the area so far begins the next. `sorted` by address.
std::vector<Area> areas_of(const std::vector<const KernelSymbol*>& sorted, uint64_t begin, uint64_t end) {
  std::vector<Area> out{{"", begin, end, true}};
  for (size_t i = 0; i < sorted.size();) {
    const uint64_t at = sorted[i]->address;
    bool other = false;
    for (; i < sorted.size() && sorted[i]->address == at; ++i) {
      const Kind kind = kind_of(*sorted[i]);
      other = other || (kind != Kind::neither && (kind == Kind::code) != out.back().code);
    }
    if (!other || at <= begin || at >= end || out.size() == kMostAreas) continue;
    out.back().end = at;
    out.push_back({"", at, end, !out.back().code});
  }
  return out;
}

// As the kernel's own file calls them, where that is known by a symbol.
void name_areas(std::vector<Area>& areas, const KernelSymbols& symbols) {
  const KernelSymbol* init = symbols.find("_sinittext");
  for (size_t i = 0; i < areas.size(); ++i) {
    Area& a = areas[i];
    a.name = a.code ? ".text" : ".data";
    if (a.code && init != nullptr && init->address >= a.begin && init->address < a.end) {
      a.name = ".init.text";
    } else if (i > 1) {
      a.name += fmt::format(".{}", i / 2);
    }
  }
}

}  // namespace

std::vector<uint8_t> symbols_elf(const KernelSymbols& symbols, uint64_t offset, const DebugSections* debug) {
  uint64_t lowest = UINT64_MAX, highest = kKernelMap;
  std::vector<const KernelSymbol*> sorted;
  for (const KernelSymbol& s : symbols.symbols) {
    sorted.push_back(&s);
    if (!in_image(s)) continue;
    lowest = std::min(lowest, s.address);
    highest = std::max(highest, s.address);
  }
  std::sort(sorted.begin(), sorted.end(), [](const KernelSymbol* a, const KernelSymbol* b) {
    return std::tie(a->address, a->name) < std::tie(b->address, b->name);
  });
  const auto address = [&](std::string_view name, uint64_t otherwise) {
    const KernelSymbol* s = symbols.find(name);
    return s != nullptr ? s->address : otherwise;
  };
  const uint64_t text = address("_text", lowest), end = std::max(address("_end", highest), text);
  std::vector<Area> areas = areas_of(sorted, text, end);
  name_areas(areas, symbols);
  // The section of an address of the image, from 1; behind the end it is the last one's.
  const auto section_of = [&](uint64_t at) {
    const auto next = std::upper_bound(areas.begin(), areas.end(), at, [](uint64_t x, const Area& a) { return x < a.begin; });
    return static_cast<uint16_t>(next - areas.begin());
  };

  // Behind those of the image.
  const uint64_t per_cpu = std::min(address("__per_cpu_start", 0) == 0 ? address("__per_cpu_end", 0) : 0, kMostPerCpu);
  const auto sections = areas.size() + (per_cpu != 0 ? 1 : 0);
  const auto home_of = [&](const KernelSymbol& s) -> uint16_t {
    if (in_image(s)) return s.address >= text && s.address <= end ? section_of(s.address) : uint16_t{SHN_ABS};
    return per_cpu != 0 && s.address <= per_cpu ? static_cast<uint16_t>(sections) : uint16_t{SHN_ABS};
  };

  std::vector<uint8_t> strings{0}, names{0}, table;
  append(table, Elf64_Sym{});
  uint32_t locals = 1;
  for (const bool local : {true, false}) {
    for (size_t i = 0; i < sorted.size(); ++i) {
      const KernelSymbol& s = *sorted[i];
      const bool is_local = s.type >= 'a' && s.type <= 'z' && s.type != 'w' && s.type != 'v';
      if (is_local != local) continue;
      Elf64_Sym e{};
      e.st_name = intern(strings, s.name);
      e.st_value = s.address + (in_image(s) ? offset : 0);
      e.st_shndx = home_of(s);
      const Kind kind = kind_of(s);
      const bool weak_code = (s.type == 'w' || s.type == 'W') && in_image(s) && e.st_shndx != SHN_ABS && areas[e.st_shndx - 1U].code;
      const bool weak = s.type == 'w' || s.type == 'W' || s.type == 'v' || s.type == 'V';
      e.st_info = static_cast<unsigned char>(ELF64_ST_INFO(local  ? STB_LOCAL
                                                           : weak ? STB_WEAK
                                                                  : STB_GLOBAL,
                                                           kind == Kind::code || weak_code ? STT_FUNC : STT_OBJECT));
      size_t next = i + 1;  // aliases share their size
      while (next < sorted.size() && sorted[next]->address == s.address) ++next;
      if (next < sorted.size() && e.st_shndx != SHN_ABS && (in_image(s) || sorted[next]->address <= per_cpu)) e.st_size = sorted[next]->address - s.address;
      append(table, e);
      if (local) ++locals;
    }
  }

  // Header, section headers, then what is in the sections.
  struct Contents {
    const char* name;
    uint32_t type;
    const std::vector<uint8_t>* bytes;
  };
  std::vector<Contents> contents;
  if (debug != nullptr) {
    contents = {{".debug_info", SHT_PROGBITS, &debug->info},
                {".debug_abbrev", SHT_PROGBITS, &debug->abbrev},
                {".debug_str", SHT_PROGBITS, &debug->str},
                {".debug_loclists", SHT_PROGBITS, &debug->loclists}};
  }
  contents.insert(contents.end(), {{".symtab", SHT_SYMTAB, &table}, {".strtab", SHT_STRTAB, &strings}, {".shstrtab", SHT_STRTAB, &names}});
  std::vector<Elf64_Shdr> headers(1 + sections + contents.size());
  intern(names, "");
  for (size_t i = 0; i < sections; ++i) {
    const bool image = i < areas.size();
    Elf64_Shdr& h = headers[1 + i];
    h.sh_name = intern(names, image ? areas[i].name : kPerCpuSection);
    h.sh_type = SHT_NOBITS;
    h.sh_flags = SHF_ALLOC | (image && areas[i].code ? SHF_EXECINSTR : SHF_WRITE);
    h.sh_addr = image ? areas[i].begin + offset : 0;
    h.sh_offset = sizeof(Elf64_Ehdr);
    h.sh_size = image ? areas[i].end - areas[i].begin : 0;
    h.sh_addralign = 16;
  }
  for (size_t i = 0; i < contents.size(); ++i) {
    Elf64_Shdr& h = headers[1 + sections + i];
    h.sh_name = intern(names, contents[i].name);
    h.sh_type = contents[i].type;
    h.sh_addralign = h.sh_type == SHT_SYMTAB ? 8 : 1;
  }
  uint64_t at = sizeof(Elf64_Ehdr) + headers.size() * sizeof(Elf64_Shdr);
  for (size_t i = 0; i < contents.size(); ++i) {
    Elf64_Shdr& h = headers[1 + sections + i];
    at = (at + 7) / 8 * 8;
    h.sh_offset = at;
    h.sh_size = contents[i].bytes->size();
    at += h.sh_size;
  }
  const size_t shstrtab = headers.size() - 1, strtab = shstrtab - 1;
  headers[strtab - 1].sh_link = static_cast<uint32_t>(strtab);
  headers[strtab - 1].sh_info = locals;
  headers[strtab - 1].sh_entsize = sizeof(Elf64_Sym);

  Elf64_Ehdr e{};
  std::memcpy(e.e_ident, ELFMAG, SELFMAG);
  e.e_ident[EI_CLASS] = ELFCLASS64;
  e.e_ident[EI_DATA] = ELFDATA2LSB;
  e.e_ident[EI_VERSION] = EV_CURRENT;
  e.e_type = ET_EXEC;
  e.e_machine = EM_X86_64;
  e.e_version = EV_CURRENT;
  e.e_entry = text + offset;
  e.e_shoff = sizeof e;
  e.e_ehsize = sizeof e;
  e.e_shentsize = sizeof(Elf64_Shdr);
  e.e_shnum = static_cast<uint16_t>(headers.size());
  e.e_shstrndx = static_cast<uint16_t>(shstrtab);
  std::vector<uint8_t> out;
  append(out, e);
  for (const Elf64_Shdr& h : headers) append(out, h);
  for (size_t i = 0; i < contents.size(); ++i) {
    out.resize(headers[1 + sections + i].sh_offset);
    out.insert(out.end(), contents[i].bytes->begin(), contents[i].bytes->end());
  }
  return out;
}

}  // namespace retrovisor
