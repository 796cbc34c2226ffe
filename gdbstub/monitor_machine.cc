// Monitor commands about the machine as it stands.
#include <fmt/format.h>

#include <algorithm>
#include <cstring>

#include "vmm/machine/memory_view.h"
#include "gdbstub/monitor.h"
#include "gdbstub/registers.h"
#include "vmm/board/board.h"
#include "vmm/cpu/canonical.h"

namespace retrovisor::gdb {
namespace {

using Words = MonitorCommand::Words;

constexpr size_t kMaxDump = 4096;
constexpr size_t kShownField = 32;

Error bad(std::string message) { return {ErrorCode::bad_argument, std::move(message), ""}; }

const CpuState& state_of(Execution& e) { return e.machine().vcpu(e.selected()).state; }

Result<std::string> info(Execution& e, Words words) {
  if (words.size() == 1 && words[0] == "board") return describe(e.machine().board());
  if (words.empty() || words[0] != "devices" || words.size() > 2) return bad("not understood");
  std::string out;
  for (const StateField& field : state_fields(e.machine().save_device_state())) {
    if (words.size() == 2 && !field.name.starts_with(words[1])) continue;
    out += field.name + " = ";
    if (field.value.size() <= 8) {
      uint64_t value = 0;
      std::memcpy(&value, field.value.data(), field.value.size());
      out += fmt::format("{:#x}\n", value);
      continue;
    }
    for (size_t i = 0; i < std::min(field.value.size(), kShownField); ++i) out += fmt::format("{:02x}", field.value[i]);
    if (field.value.size() > kShownField) out += fmt::format("... ({} bytes)", field.value.size());
    out += '\n';
  }
  if (out.empty()) return bad(fmt::format("no device's state begins with '{}'", words[1]));
  return out;
}

std::string segment_line(std::string_view name, const Segment& s) {
  return fmt::format("{:<4} {:04x}  base {:016x}  limit {:08x}  attributes {:05x}{}\n", name, s.selector, s.base, s.limit,
                     s.attributes, (s.attributes & seg::unusable) != 0 ? "  unusable" : "");
}

Result<std::string> regs(Execution& e, Words words) {
  VcpuId vcpu = e.selected();
  if (!words.empty()) {
    RV_TRY(const auto number, parse_number(e, words[0], e.machine().config().vcpus - 1));
    vcpu = VcpuId(static_cast<uint32_t>(number));
  }
  const CpuState& s = e.machine().vcpu(vcpu).state;
  constexpr const char* kNames[] = {"rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi",
                                    "r8",  "r9",  "r10", "r11", "r12", "r13", "r14", "r15"};
  std::string out = fmt::format("vCPU {}, CPL {}, {}\n", vcpu.value, s.cpl(),
                                s.mode64()            ? "64-bit code"
                                : s.long_mode()       ? "compatibility mode"
                                : !s.protected_mode() ? "real mode"
                                : s.vm86()            ? "virtual-8086 mode"
                                                      : "protected mode");
  for (unsigned i = 0; i < 16; ++i) out += fmt::format("{:<4}{:016x}{}", kNames[i], s.gpr[i], i % 4 == 3 ? "\n" : "  ");
  out += fmt::format("rip {:016x}  (linear {:016x})  rflags {:08x}\n", s.rip, s.linear_rip().value, s.rflags);
  constexpr const char* kSegments[] = {"es", "cs", "ss", "ds", "fs", "gs"};
  for (const unsigned i : {CS, SS, DS, ES, FS, GS}) out += segment_line(kSegments[i], s.segment[i]);
  out += segment_line("ldtr", s.ldtr) + segment_line("tr", s.tr);
  out += fmt::format("gdtr {:016x} {:04x}   idtr {:016x} {:04x}\n", s.gdtr.base, s.gdtr.limit, s.idtr.base, s.idtr.limit);
  const Vcpu& v = e.machine().vcpu(vcpu);
  out += fmt::format("cr0 {:08x}  cr2 {:016x}  cr3 {:016x}  cr4 {:08x}  cr8 {:x}\n", s.cr0, s.cr2, s.cr3, s.cr4,
                     v.interrupts != nullptr ? v.interrupts->cr8() : 0);
  out += fmt::format("efer {:04x}  xcr0 {:x}  kernel_gs_base {:016x}  star {:016x}  lstar {:016x}  sfmask {:08x}\n", s.efer,
                     s.xcr0, s.kernel_gs_base, s.star, s.lstar, s.sfmask);
  out += fmt::format("dr0 {:016x}  dr1 {:016x}  dr2 {:016x}  dr3 {:016x}  dr6 {:08x}  dr7 {:08x}\n", s.dr[0], s.dr[1],
                     s.dr[2], s.dr[3], s.dr6, s.dr7);
  return out;
}

std::string entry_line(const char* name, uint64_t at, uint64_t entry) {
  std::string flags;
  constexpr std::pair<uint64_t, const char*> kFlags[] = {{pte::P, "P"}, {pte::RW, "RW"}, {pte::US, "US"}, {pte::A, "A"},
                                                         {pte::D, "D"}, {pte::PS, "PS"}, {pte::G, "G"},   {pte::NX, "NX"}};
  for (const auto& [bit, text] : kFlags)
    if ((entry & bit) != 0) flags += fmt::format(" {}", text);
  return fmt::format("{:<6} at {:#x}: {:016x}{}\n", name, at, entry, flags.empty() ? " not present" : flags);
}

// The entries on the way to `linear`, as far as they lead.
std::string walk_lines(const CpuState& s, const GuestMemory& memory, uint64_t linear) {
  struct Level {
    const char* name;
    unsigned shift;
    unsigned bits;
    bool may_be_page;
  };
  std::vector<Level> levels;
  unsigned size = 8;
  uint64_t table = s.cr3 & 0xfffffff000;
  std::string out;
  if (s.long_mode()) {
    levels = {{"PML4E", 39, 9, false}, {"PDPTE", 30, 9, true}, {"PDE", 21, 9, true}, {"PTE", 12, 9, true}};
  } else if ((s.cr4 & cr4::PAE) != 0) {
    const uint64_t pdpte = s.pdpte[linear >> 30 & 3];
    out += fmt::format("PDPTE {}: {:016x}{}\n", linear >> 30 & 3, pdpte, (pdpte & pte::P) != 0 ? " P" : " not present");
    if ((pdpte & pte::P) == 0) return out;
    table = pdpte & 0xfffffff000;
    levels = {{"PDE", 21, 9, true}, {"PTE", 12, 9, true}};
  } else {
    size = 4;
    levels = {{"PDE", 22, 10, (s.cr4 & cr4::PSE) != 0}, {"PTE", 12, 10, true}};
  }
  for (const Level& level : levels) {
    const uint64_t at = table + (linear >> level.shift & ((uint64_t{1} << level.bits) - 1)) * size;
    uint8_t raw[8] = {};
    if (!memory.read(PhysAddr(at), std::span(raw, size)))
      return out + fmt::format("{:<6} at {:#x}: no RAM\n", level.name, at);
    uint64_t entry = 0;
    std::memcpy(&entry, raw, size);
    out += entry_line(level.name, at, entry);
    if ((entry & pte::P) == 0 || (level.may_be_page && level.shift > 12 && (entry & pte::PS) != 0)) break;
    table = entry & (size == 4 ? 0xfffff000 : 0xfffffff000);
  }
  return out;
}

Result<std::string> pt(Execution& e, Words words) {
  if (words.size() != 1) return bad("which address?");
  RV_TRY(const auto address, parse_address(e, words[0]));
  const CpuState& s = state_of(e);
  const uint64_t linear = linear_address(s, address);
  std::string out = fmt::format("linear {:#x}", linear);
  if (!s.paging()) return out + ": paging is off, physical is the same\n";
  out += fmt::format(", CR3 {:#x}\n", s.cr3);
  if (s.long_mode() && !is_canonical(linear))
    return out + "not canonical\n";
  out += walk_lines(s, e.machine().memory(), linear);
  const PageWalk walk = walk_page(s, e.machine().memory(), LinearAddr(linear), {}, false);
  if (!walk.ok)
    return out + fmt::format("an access would fault ({})\n", (walk.error & pf::RSVD) != 0 ? "reserved bit" : "not present");
  return out + fmt::format("physical {:#x}{}, page of {:#x} bytes:{}{}{}\n", walk.phys.value,
                           e.machine().memory().is_ram(walk.phys) ? "" : " (no RAM)", walk.page_size,
                           walk.user_page ? " user" : " supervisor", walk.writable ? " writable" : " read-only",
                           walk.executable ? " executable" : " no-execute");
}

Result<std::string> phys(Execution& e, Words words) {
  if (words.empty() || words.size() > 2) return bad("which address?");
  RV_TRY(const auto address, parse_address(e, words[0]));
  uint64_t size = 64;
  if (words.size() == 2) {
    RV_TRY(size, parse_number(e, words[1], kMaxDump));
  }
  std::vector<uint8_t> bytes(size);
  bytes.resize(MemoryView(e.machine().memory(), state_of(e), true).read(address, bytes));
  if (bytes.empty()) return bad(fmt::format("there is no RAM at {:#x}", address));
  std::string out;
  for (size_t row = 0; row < bytes.size(); row += 16) {
    out += fmt::format("{:012x} ", address + row);
    std::string text;
    for (size_t i = row; i < row + 16; ++i) {
      out += i < bytes.size() ? fmt::format(" {:02x}", bytes[i]) : "   ";
      if (i < bytes.size()) text += bytes[i] >= 0x20 && bytes[i] < 0x7f ? static_cast<char>(bytes[i]) : '.';
    }
    out += "  " + text + "\n";
  }
  return out;
}

}  // namespace

void add_machine_commands(std::vector<MonitorCommand>& out) {
  out.push_back({"regs", "[VCPU]", "all registers, segments with their bases, system registers", regs});
  out.push_back({"pt", "ADDR", "the page table entries on the way to a linear address", pt});
  out.push_back({"phys", "ADDR [LEN]", "physical memory", phys});
  out.push_back({"info", "devices [NAME] | board", "the state of all devices, or of those whose name begins so; which there are and where they answer", info});
}

}  // namespace retrovisor::gdb
