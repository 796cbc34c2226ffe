#include "cli/handler_names.h"

#include <cxxabi.h>
#include <elf.h>
#include <fmt/format.h>
#include <link.h>

#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iterator>
#include <memory>
#include <vector>

namespace retrovisor::cli {
namespace {

// The first object listed is the program itself (dl_iterate_phdr(3)).
int take_base(dl_phdr_info* info, size_t, void* out) {
  *static_cast<uintptr_t*>(out) = info->dlpi_addr;
  return 1;
}

template <class T>
bool read_at(const std::vector<char>& file, uint64_t at, T& out) {
  if (at > file.size() || file.size() - at < sizeof out) return false;
  std::memcpy(&out, file.data() + at, sizeof out);
  return true;
}

void remove_all(std::string& text, std::string_view what) {
  for (size_t at = text.find(what); at != std::string::npos; at = text.find(what, at)) text.erase(at, what.size());
}

// Takes away each "(...)" that holds parameters, and parentheses around names; keeps those of enumerators: "(Alu)0".
void remove_parameters(std::string& text) {
  for (size_t at = text.find("(SoftCpu"); at != std::string::npos; at = text.find("(SoftCpu", at)) {
    const size_t end = text.find(')', at);
    if (end == std::string::npos) return;
    text.erase(at, end - at + 1);
  }
}

}  // namespace

std::string short_function_name(const std::string& mangled) {
  int status = 0;
  const std::unique_ptr<char, void (*)(void*)> plain(abi::__cxa_demangle(mangled.c_str(), nullptr, nullptr, &status), std::free);
  if (status != 0 || plain == nullptr) return mangled;
  std::string out = plain.get();
  for (const std::string_view what : {"retrovisor::soft::", "(anonymous namespace)::", "retrovisor::"}) remove_all(out, what);
  remove_parameters(out);
  // "void op_call<&(exec_x)>", "op_call<bool exec_x<int>>": results of templates, and how the address of a function is written.
  for (const std::string_view result : {"void ", "Op const* "})
    if (out.starts_with(result)) out.erase(0, result.size());
  for (size_t at = out.find("<bool exec_"); at != std::string::npos; at = out.find("<bool exec_", at)) out.erase(at + 1, 5);
  for (size_t at = out.find("&("); at != std::string::npos; at = out.find("&(", at)) {
    size_t depth = 1, end = at + 2;
    for (; end < out.size() && depth > 0; ++end) depth += out[end] == '(' ? 1u : out[end] == ')' ? ~size_t{0} : 0u;
    if (depth != 0) break;
    out.erase(end - 1, 1);
    out.erase(at, 2);
  }
  remove_all(out, "&");
  return out;
}

HandlerNames::HandlerNames() {
  dl_iterate_phdr(take_base, &base_);
  std::ifstream in("/proc/self/exe", std::ios::binary);
  const std::vector<char> file{std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>()};
  Elf64_Ehdr header{};
  if (!read_at(file, 0, header) || std::memcmp(header.e_ident, ELFMAG, SELFMAG) != 0) return;
  const auto section = [&](unsigned index, Elf64_Shdr& out) {
    return index < header.e_shnum && read_at(file, header.e_shoff + uint64_t{index} * sizeof out, out);
  };
  for (unsigned i = 0; i < header.e_shnum; ++i) {
    Elf64_Shdr symbols{}, strings{};
    if (!section(i, symbols) || symbols.sh_type != SHT_SYMTAB || !section(symbols.sh_link, strings)) continue;
    for (uint64_t at = 0; at + sizeof(Elf64_Sym) <= symbols.sh_size; at += sizeof(Elf64_Sym)) {
      Elf64_Sym symbol{};
      if (!read_at(file, symbols.sh_offset + at, symbol)) return;
      const uint64_t name = strings.sh_offset + symbol.st_name;
      if (ELF64_ST_TYPE(symbol.st_info) != STT_FUNC || symbol.st_value == 0 || name >= file.size()) continue;
      symbols_.emplace(symbol.st_value, std::string(file.data() + name, strnlen(file.data() + name, file.size() - name)));
    }
  }
}

std::string HandlerNames::name(uintptr_t function) const {
  const uintptr_t place = function - base_;
  const auto found = symbols_.find(place);
  return found == symbols_.end() ? fmt::format("function at {:#x}", place) : short_function_name(found->second);
}

}  // namespace retrovisor::cli
