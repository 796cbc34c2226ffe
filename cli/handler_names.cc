#include "cli/handler_names.h"

#include <cxxabi.h>
#include <elf.h>
#include <fmt/format.h>
#include <link.h>

#include <array>
#include <cstdint>
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

// Enumerators that handlers are templates of, whose names no symbol has: "(Alu)0". In the order of their definitions in vmm/soft
// (arith.h, alu.cc, bits.cc, multiply.cc, string.cc, move.cc, emit.h, sse_common.h) and vmm/processor_model.h.
constexpr struct {
  std::string_view type;
  std::array<std::string_view, 9> names;
} kEnums[] = {
    {"Alu", {"add", "or", "adc", "sbb", "and", "sub", "xor", "cmp", "test"}},
    {"Shift", {"rol", "ror", "rcl", "rcr", "shl", "shr", "sal", "sar"}},
    {"Unary", {"inc", "dec", "not", "neg"}},
    {"Bit", {"test", "set", "reset", "complement"}},
    {"Group3", {"mul", "imul", "div", "idiv"}},
    {"Str", {"movs", "cmps", "stos", "lods", "scas"}},
    {"Rep", {"none", "rep", "repe", "repne"}},
    {"FlagOp", {"clc", "stc", "cmc", "cld", "std"}},
    {"FpuClass", {"none", "x87", "wait", "mmx", "sse", "fxsave"}},
    {"Align", {"any", "natural"}},
    {"Heat", {"cold", "hot"}},
    {"ProcessorModel", {"model", "amd", "intel", "amd_zen3"}},
};

void name_enumerators(std::string& text) {
  for (const auto& e : kEnums) {
    const std::string before = "(" + std::string(e.type) + ")";
    for (size_t at = text.find(before); at != std::string::npos; at = text.find(before, at + 1)) {
      const size_t digit = at + before.size();
      const size_t number = digit < text.size() ? static_cast<size_t>(text[digit] - '0') : SIZE_MAX;  // none has ten
      if (number < e.names.size() && !e.names[number].empty()) text.replace(at, before.size() + 1, e.names[number]);
    }
  }
}

// Takes away each "(...)" that holds parameters, and parentheses around names.
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
  name_enumerators(out);
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

std::vector<std::string> HandlerNames::all() const {
  std::vector<std::string> out;
  for (const auto& [place, symbol] : symbols_) out.push_back(short_function_name(symbol));
  return out;
}

std::string HandlerNames::name(uintptr_t function) const {
  const uintptr_t place = function - base_;
  const auto found = symbols_.find(place);
  return found == symbols_.end() ? fmt::format("function at {:#x}", place) : short_function_name(found->second);
}

}  // namespace retrovisor::cli
