// patch_sites VMLINUX [--list]: where the KVM engine would put breakpoints in a 64-bit kernel. Exit code 0: all of them in code,
// 1: some in data, which the kernel would read wrong, 2: cannot tell.
//
// Code is what lies in an executable section, or in a vDSO: an ELF file of its own, page-aligned among the kernel's data.
#include <cinttypes>
#include <cstdio>
#include <cstring>
#include <map>
#include <string>

#include "tools/elf_sections.h"
#include "vmm/kvm/code_patches.h"

namespace {

using retrovisor::GuestMemory;
using retrovisor::kPageSize;
using retrovisor::LinearAddr;
using retrovisor::PhysAddr;
using retrovisor::kvm::CodePatches;
using retrovisor::tools::Section;

constexpr uint64_t kMapping = 0xffffffff80000000;  // of a Linux kernel's image (Documentation/x86/x86_64/mm.rst)
constexpr uint64_t kMost = uint64_t{1} << 28;
constexpr uint64_t kVdsoPages = 4;  // no vDSO is larger

bool in_vdso(const GuestMemory& memory, uint64_t at) {
  for (uint64_t page = 0; page < kVdsoPages; ++page) {
    const uint64_t start = (at & retrovisor::kPageMask) - page * kPageSize;
    uint8_t magic[SELFMAG];
    if (memory.read(PhysAddr(start), magic) && std::memcmp(magic, ELFMAG, SELFMAG) == 0) return true;
  }
  return false;
}

const Section* section_of(const std::vector<Section>& sections, uint64_t address) {
  for (const Section& s : sections)
    if (address >= s.address && address - s.address < s.size) return &s;
  return nullptr;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 2 || argc > 3 || (argc == 3 && std::strcmp(argv[2], "--list") != 0)) {
    std::fprintf(stderr, "usage: patch_sites VMLINUX [--list]\n");
    return 2;
  }
  auto elf = retrovisor::tools::read_elf(argv[1]);
  if (!elf) return 2;
  uint64_t begin = UINT64_MAX, end = 0;
  std::erase_if(elf->sections, [](const Section& s) {
    return s.address < kMapping || s.address - kMapping > kMost || s.size > kMost;  // per-CPU data begins at 0
  });
  for (const Section& s : elf->sections) {
    begin = std::min(begin, s.address & retrovisor::kPageMask);
    end = std::max(end, s.address + s.size);
  }
  if (!elf->wide || begin >= end) {
    std::fprintf(stderr, "patch_sites: %s is no 64-bit kernel\n", argv[1]);
    return 2;
  }
  auto memory = GuestMemory::create(2 * kMost);
  if (!memory) return 2;
  for (const Section& s : elf->sections)
    if (!(*memory)->write(PhysAddr(s.address - kMapping), std::span(s.bytes, s.size))) return 2;

  CodePatches patches(**memory, {.returns = true, .cr4 = true});
  const LinearAddr start(begin);
  const auto report = patches.scan({{PhysAddr(begin - kMapping), end - begin}, start, 64, std::span(&start, 1)});
  if (!report) {
    std::fprintf(stderr, "patch_sites: %s\n", report.error().text().c_str());
    return 2;
  }
  std::map<std::string, uint64_t> kinds;
  size_t in_data = 0;
  for (const auto& [at, site] : patches.sites()) {
    const uint64_t address = kMapping + at;
    const Section* section = section_of(elf->sections, address);
    const std::string kind(to_string(site.instruction.kind));
    const bool code = section != nullptr && (section->executable || in_vdso(**memory, at));
    ++kinds[kind];
    if (!code) ++in_data;
    if (!code || argc == 3)
      std::printf("%#" PRIx64 " %-24s %s%s\n", address, section == nullptr ? "?" : section->name.c_str(), kind.c_str(),
                  code ? "" : ", in data");
  }
  for (const auto& [kind, count] : kinds) std::printf("%6" PRIu64 " %s\n", count, kind.c_str());
  std::printf("%zu sites, %zu in data; %zu doubtful places%s\n", patches.sites().size(), in_data, report->doubtful,
              report->complete ? "" : "; not all was looked at");
  if (patches.sites().empty() || !report->complete) return 2;
  return in_data == 0 ? 0 : 1;
}
