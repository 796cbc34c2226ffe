#include "gdbstub/target_xml.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <bit>
#include <initializer_list>
#include <utility>

namespace retrovisor::gdb {
namespace {

using Bits = std::initializer_list<std::pair<std::string_view, uint64_t>>;

// A register whose bits have names.
std::string flags_type(std::string_view id, unsigned bytes, const Bits& bits) {
  std::string out = fmt::format("    <flags id=\"{}\" size=\"{}\">\n", id, bytes);
  for (const auto& [name, mask] : bits) {
    const int low = std::countr_zero(mask), high = 63 - std::countl_zero(mask);
    out += fmt::format("      <field name=\"{}\" start=\"{}\" end=\"{}\"{}/>\n", name, low, high,
                       low == high ? "" : " type=\"uint32\"");
  }
  return out + "    </flags>\n";
}

std::string eflags_type() {
  // gdb names bit 1 "", which is always set.
  return flags_type("eflags", 4,
                    {{"", flag::fixed},
                     {"CF", flag::CF},
                     {"PF", flag::PF},
                     {"AF", flag::AF},
                     {"ZF", flag::ZF},
                     {"SF", flag::SF},
                     {"TF", flag::TF},
                     {"IF", flag::IF},
                     {"DF", flag::DF},
                     {"OF", flag::OF},
                     {"IOPL", flag::IOPL},
                     {"NT", flag::NT},
                     {"RF", flag::RF},
                     {"VM", flag::VM},
                     {"AC", flag::AC},
                     {"VIF", flag::VIF},
                     {"VIP", flag::VIP},
                     {"ID", flag::ID}});
}

std::string sse_types() {
  std::string out;
  constexpr std::array<std::array<std::string_view, 3>, 6> kVectors{{{"v4f", "ieee_single", "4"},
                                                                     {"v2d", "ieee_double", "2"},
                                                                     {"v16i8", "int8", "16"},
                                                                     {"v8i16", "int16", "8"},
                                                                     {"v4i32", "int32", "4"},
                                                                     {"v2i64", "int64", "2"}}};
  for (const auto& [id, type, count] : kVectors)
    out += fmt::format("    <vector id=\"{}\" type=\"{}\" count=\"{}\"/>\n", id, type, count);
  out += "    <union id=\"vec128\">\n";
  constexpr std::array<std::pair<std::string_view, std::string_view>, 7> kFields{{{"v4_float", "v4f"},
                                                                                  {"v2_double", "v2d"},
                                                                                  {"v16_int8", "v16i8"},
                                                                                  {"v8_int16", "v8i16"},
                                                                                  {"v4_int32", "v4i32"},
                                                                                  {"v2_int64", "v2i64"},
                                                                                  {"uint128", "uint128"}}};
  for (const auto& [name, type] : kFields) out += fmt::format("      <field name=\"{}\" type=\"{}\"/>\n", name, type);
  out += "    </union>\n";
  out += flags_type("mxcsr", 4,
                    {{"IE", 1},
                     {"DE", 2},
                     {"ZE", 4},
                     {"OE", 8},
                     {"UE", 16},
                     {"PE", 32},
                     {"DAZ", 64},
                     {"IM", 128},
                     {"DM", 256},
                     {"ZM", 512},
                     {"OM", 1024},
                     {"UM", 2048},
                     {"PM", 4096},
                     {"FZ", 1 << 15}});
  return out;
}

std::string system_types(unsigned word) {
  return flags_type("cr0", word,
                    {{"PE", cr0::PE},
                     {"MP", cr0::MP},
                     {"EM", cr0::EM},
                     {"TS", cr0::TS},
                     {"ET", cr0::ET},
                     {"NE", cr0::NE},
                     {"WP", cr0::WP},
                     {"AM", cr0::AM},
                     {"NW", cr0::NW},
                     {"CD", cr0::CD},
                     {"PG", cr0::PG}}) +
         flags_type("cr4", word,
                    {{"VME", cr4::VME},
                     {"PVI", cr4::PVI},
                     {"TSD", cr4::TSD},
                     {"DE", cr4::DE},
                     {"PSE", cr4::PSE},
                     {"PAE", cr4::PAE},
                     {"MCE", cr4::MCE},
                     {"PGE", cr4::PGE},
                     {"PCE", cr4::PCE},
                     {"OSFXSR", cr4::OSFXSR},
                     {"OSXMMEXCPT", cr4::OSXMMEXCPT},
                     {"UMIP", cr4::UMIP},
                     {"FSGSBASE", cr4::FSGSBASE},
                     {"PCIDE", cr4::PCIDE},
                     {"OSXSAVE", cr4::OSXSAVE},
                     {"SMEP", cr4::SMEP},
                     {"SMAP", cr4::SMAP}}) +
         flags_type(
             "efer", word,
             {{"SCE", efer::SCE}, {"LME", efer::LME}, {"LMA", efer::LMA}, {"NXE", efer::NXE}, {"FFXSR", efer::FFXSR}});
}

std::string register_line(const Register& r, size_t number) {
  return fmt::format("    <reg name=\"{}\" bitsize=\"{}\" type=\"{}\" regnum=\"{}\"{}/>\n", r.name, r.bytes * 8, r.type,
                     number, r.group.empty() ? "" : fmt::format(" group=\"{}\"", r.group));
}

}  // namespace

std::string target_xml(Arch arch) {
  const bool wide = arch == Arch::x86_64;
  std::string out = "<?xml version=\"1.0\"?>\n<!DOCTYPE target SYSTEM \"gdb-target.dtd\">\n<target version=\"1.0\">\n";
  out += fmt::format("  <architecture>{}</architecture>\n", wide ? "i386:x86-64" : "i386");
  const std::array<std::pair<std::string_view, std::string>, 4> features{
      {{"org.gnu.gdb.i386.core", eflags_type()},
       {"org.gnu.gdb.i386.sse", sse_types()},
       {"org.gnu.gdb.i386.segments", ""},
       {"org.gnu.gdb.i386.system", system_types(wide ? 8 : 4)}}};
  const auto all = registers(arch);
  for (size_t f = 0; f < features.size(); ++f) {
    const auto in_it = [f](const Register& r) { return static_cast<size_t>(r.feature) == f; };
    if (std::none_of(all.begin(), all.end(), in_it)) continue;
    out += fmt::format("  <feature name=\"{}\">\n{}", features[f].first, features[f].second);
    for (size_t i = 0; i < all.size(); ++i)
      if (in_it(all[i])) out += register_line(all[i], i);
    out += "  </feature>\n";
  }
  return out + "</target>\n";
}

std::optional<Arch> arch_of_elf(std::span<const uint8_t> image) {
  // System V ABI, "ELF Header": magic, EI_CLASS, e_machine.
  constexpr std::array<uint8_t, 4> kMagic{0x7f, 'E', 'L', 'F'};
  constexpr size_t kClass = 4, kMachine = 18;
  if (image.size() < kMachine + 2 || !std::equal(kMagic.begin(), kMagic.end(), image.begin())) return std::nullopt;
  const unsigned machine = image[kMachine] + 256u * image[kMachine + 1];
  if (image[kClass] == 1 && machine == 3) return Arch::i386;
  if (image[kClass] == 2 && machine == 62) return Arch::x86_64;
  return std::nullopt;
}

Arch arch_of(const CpuState& s, std::optional<Arch> kernel) {
  if (s.long_mode()) return Arch::x86_64;
  if (kernel) return *kernel;
  const bool code32 = s.protected_mode() && !s.vm86() && s.code_bits() == 32;
  return code32 ? Arch::i386 : Arch::x86_64;
}

std::string memory_map_xml() {
  // Two halves: a length of 2^64 has no number.
  return "<?xml version=\"1.0\"?>\n"
         "<!DOCTYPE memory-map PUBLIC \"+//IDN gnu.org//DTD GDB Memory Map V1.0//EN\" "
         "\"http://sourceware.org/gdb/gdb-memory-map.dtd\">\n"
         "<memory-map>\n"
         "  <memory type=\"ram\" start=\"0x0\" length=\"0x8000000000000000\"/>\n"
         "  <memory type=\"ram\" start=\"0x8000000000000000\" length=\"0x8000000000000000\"/>\n"
         "</memory-map>\n";
}

}  // namespace retrovisor::gdb
