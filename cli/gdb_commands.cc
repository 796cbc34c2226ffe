#include "cli/gdb_commands.h"

#include <fmt/format.h>

#include <algorithm>

#include "analysis/disassemble.h"
#include "analysis/linux/kallsyms.h"
#include "analysis/linux/symbol_file.h"
#include "vmm/machine/memory_view.h"
#include "gdbstub/registers.h"

namespace retrovisor::cli {
namespace {

using gdb::Execution;
using gdb::MonitorCommand;
using Words = MonitorCommand::Words;

Result<KernelSymbols> symbols_of(Execution& e) {
  if (e.timeline() == nullptr) return find_kernel_symbols(e.machine());
  if (auto found = find_kernel_symbols(e.machine())) return found;
  RV_TRY(e.leave_diversion());
  return recorded_symbols(*e.timeline());
}

Result<std::string> kaslr(Execution& e, Words) {
  RV_TRY(const auto symbols, symbols_of(e));
  const uint64_t offset = symbols.kaslr_offset();
  return fmt::format(
      "_text at {:#x}: offset {:#x} from where the kernel was linked to ({} symbols)\n"
      "(add-symbol-file vmlinux {})\n",
      kLinkedText + offset, offset, symbols.symbols.size(), linked_symbol_arguments(symbols));
}

Result<std::string> symbol(Execution& e, Words words) {
  if (words.size() != 1) return Error{ErrorCode::bad_argument, "which symbol or address?", ""};
  RV_TRY(auto symbols, symbols_of(e));
  if (const KernelSymbol* found = symbols.find(words[0]))
    return fmt::format("{:#x} {} {}\n", found->address, found->type, found->name);
  const auto address = gdb::parse_address(e, words[0]);
  if (!address) return Error{ErrorCode::bad_argument, fmt::format("the kernel has no symbol '{}'", words[0]), ""};
  const KernelSymbol* best = nullptr;
  for (const KernelSymbol& s : symbols.symbols)
    if (s.address <= *address && (best == nullptr || s.address > best->address)) best = &s;
  if (best == nullptr) return Error{ErrorCode::bad_argument, "no symbol is that low", ""};
  return fmt::format("{:#x} {} {}+{:#x}\n", *address, best->type, best->name, *address - best->address);
}

Result<std::string> disassemble_command(Execution& e, Words words) {
  if (words.size() > 2) return Error{ErrorCode::bad_argument, "not understood", ""};
  const CpuState& s = e.machine().vcpu(e.selected()).state;
  uint64_t address = s.linear_rip().value, count = 10;
  if (!words.empty()) {
    RV_TRY(address, gdb::parse_address(e, words[0]));
  }
  if (words.size() == 2) {
    RV_TRY(count, gdb::parse_number(e, words[1], 1000));
  }
  const unsigned bits = s.code_bits();
  const CodeMode mode = bits == 64 ? CodeMode::bits64 : bits == 32 ? CodeMode::bits32 : CodeMode::bits16;
  const MemoryView view(e.machine().memory(), s, false);
  std::string out;
  for (uint64_t i = 0; i < count; ++i) {
    uint8_t bytes[15] = {};
    const size_t size = view.read(address, bytes);
    const Instruction insn = disassemble(std::span(bytes, size), address, mode);
    out += fmt::format("{:#x}:  {}\n", address, insn.text);
    if (insn.size == 0) break;
    address += insn.size;
  }
  return out;
}

}  // namespace

Result<KernelSymbols> recorded_symbols(Timeline& timeline) {
  constexpr uint64_t kStep = 50'000'000;
  const Position here = timeline.position();
  auto found = find_kernel_symbols(timeline.machine());
  for (Position at = timeline.begin() + kStep; !found; at += kStep) {
    RV_TRY(const auto moved, timeline.seek(at));
    if (moved.reason == TimelineStop::Reason::interrupted) {
      found = Error{ErrorCode::bad_argument,
                    fmt::format("interrupted: no Linux kernel was found up to position {}", gdb::grouped(timeline.position().value)), ""};
      break;
    }
    found = find_kernel_symbols(timeline.machine());
    if (at >= timeline.end()) break;
  }
  if (timeline.position() != here) RV_TRY(timeline.seek(here));
  return found;
}

std::vector<MonitorCommand> kernel_commands() {
  std::vector<MonitorCommand> out;
  out.push_back(
      {"disassemble", "[ADDR] [COUNT]", "instructions, as the CPU takes them in its present mode", disassemble_command});
  out.push_back({"kaslr", "", "where the kernel is, against where it was linked to", kaslr});
  out.push_back({"symbol", "NAME|ADDR", "look up in the kernel's own symbol table", symbol});
  return out;
}

}  // namespace retrovisor::cli
