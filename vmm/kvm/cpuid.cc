#include "vmm/kvm/cpuid.h"

#include <cstdio>

namespace retrovisor::kvm {

namespace {

constexpr uint32_t kBasic = 0, kHypervisor = 0x40000000, kHypervisorEnd = 0x4fffffff, kExtended = 0x80000000,
                   kCentaur = 0xc0000000;
// Leaves with subleaves, and how many of those say something (SDM 2A "CPUID"). KVM answers others with zeros, which ends
// the lists of leaf 4 and leaf Bh as it should.
struct Subleaves {
  uint32_t leaf;
  uint32_t count;
};
constexpr Subleaves kSubleaves[] = {{4, 4}, {7, 1}, {0xb, 3}, {0xd, 2}};

// The state that shows all of the model: 64-bit mode for SYSCALL, all leaves.
CpuState showing_all() {
  CpuState s = CpuState::at_reset(VcpuId(0));
  s.efer |= efer::LMA | efer::LME;
  s.segment[CS].attributes |= seg::L;
  return s;
}

const kvm_cpuid_entry2* find(std::span<const kvm_cpuid_entry2> table, uint32_t leaf, uint32_t subleaf) {
  for (const kvm_cpuid_entry2& e : table) {
    if (e.function == leaf && ((e.flags & KVM_CPUID_FLAG_SIGNIFCANT_INDEX) == 0 || e.index == subleaf)) return &e;
  }
  return nullptr;
}

uint32_t CpuidResult::*const kEax = &CpuidResult::eax;
uint32_t CpuidResult::*const kEbx = &CpuidResult::ebx;
uint32_t CpuidResult::*const kEcx = &CpuidResult::ecx;
uint32_t CpuidResult::*const kEdx = &CpuidResult::edx;

struct FeatureWord {
  uint32_t leaf, subleaf;
  uint32_t CpuidResult::*reg;
  // Bits that need no help of the processor: user space emulates them, or they only describe.
  uint32_t ours;
};
const FeatureWord kFeatureWords[] = {
    {1, 0, kEcx, 1u << 24 /* TSC deadline: our local APIC */ | 1u << 31 /* hypervisor */},
    {1, 0, kEdx, 1u << 9 /* APIC: ours */ | 1u << 27 /* self-snoop: about caches */ | 1u << 28 /* HTT: about topology */},
    {7, 0, kEbx, 0},
    {7, 0, kEcx, 0},
    {0xd, 0, kEax, 0},
    {0x80000001, 0, kEcx, 0},
    {0x80000001, 0, kEdx, 0},
};

struct FeatureName {
  uint32_t leaf;
  uint32_t CpuidResult::*reg;
  unsigned bit;
  const char* name;
};
const FeatureName kFeatureNames[] = {
    {1, kEcx, 0, "SSE3"},      {1, kEcx, 9, "SSSE3"},      {1, kEcx, 13, "CMPXCHG16B"}, {1, kEcx, 19, "SSE4.1"},
    {1, kEcx, 20, "SSE4.2"},   {1, kEcx, 23, "POPCNT"},    {1, kEcx, 26, "XSAVE"},      {1, kEcx, 30, "RDRAND"},
    {1, kEdx, 0, "FPU"},       {1, kEdx, 1, "VME"},        {1, kEdx, 2, "DE"},          {1, kEdx, 3, "PSE"},
    {1, kEdx, 4, "TSC"},       {1, kEdx, 5, "MSR"},        {1, kEdx, 6, "PAE"},         {1, kEdx, 7, "MCE"},
    {1, kEdx, 8, "CMPXCHG8B"}, {1, kEdx, 11, "SYSENTER"},  {1, kEdx, 12, "MTRR"},       {1, kEdx, 13, "PGE"},
    {1, kEdx, 14, "MCA"},      {1, kEdx, 15, "CMOV"},      {1, kEdx, 16, "PAT"},        {1, kEdx, 17, "PSE-36"},
    {1, kEdx, 19, "CLFLUSH"},  {1, kEdx, 23, "MMX"},       {1, kEdx, 24, "FXSR"},       {1, kEdx, 25, "SSE"},
    {1, kEdx, 26, "SSE2"},     {7, kEbx, 0, "FSGSBASE"},   {7, kEbx, 1, "TSC_ADJUST"},  {7, kEbx, 7, "SMEP"},
    {7, kEbx, 18, "RDSEED"},   {7, kEbx, 20, "SMAP"},      {7, kEcx, 2, "UMIP"},        {0xd, kEax, 0, "XCR0.x87"},
    {0xd, kEax, 1, "XCR0.SSE"}, {0x80000001, kEcx, 0, "LAHF64"}, {0x80000001, kEdx, 11, "SYSCALL"},
    {0x80000001, kEdx, 20, "NX"}, {0x80000001, kEdx, 26, "1 GiB pages"}, {0x80000001, kEdx, 27, "RDTSCP"},
    {0x80000001, kEdx, 29, "LM"},
};

std::string feature_name(const FeatureWord& word, unsigned bit) {
  for (const FeatureName& n : kFeatureNames) {
    if (n.leaf == word.leaf && n.reg == word.reg && n.bit == bit) return n.name;
  }
  char text[48];
  std::snprintf(text, sizeof text, "CPUID leaf %xh bit %u", word.leaf, bit);
  return text;
}

CpuidResult result(const kvm_cpuid_entry2& e) { return {e.eax, e.ebx, e.ecx, e.edx}; }

}  // namespace

std::vector<kvm_cpuid_entry2> cpuid_table(VcpuId id, uint32_t vcpus) {
  const CpuState state = showing_all();
  std::vector<kvm_cpuid_entry2> table;
  const auto add = [&](uint32_t leaf, uint32_t subleaf, bool indexed) {
    const CpuidResult r = cpuid(leaf, subleaf, state, id, vcpus);
    kvm_cpuid_entry2 e{};
    e.function = leaf;
    e.index = subleaf;
    e.flags = indexed ? KVM_CPUID_FLAG_SIGNIFCANT_INDEX : 0;
    e.eax = r.eax;
    e.ebx = r.ebx;
    e.ecx = r.ecx;
    e.edx = r.edx;
    table.push_back(e);
  };
  for (const uint32_t base : {kBasic, kHypervisor, kExtended}) {
    const uint32_t last = cpuid(base, 0, state, id, vcpus).eax;
    for (uint32_t leaf = base; leaf <= last; ++leaf) {
      uint32_t subleaves = 0;
      for (const Subleaves& s : kSubleaves) {
        if (s.leaf == leaf) subleaves = s.count;
      }
      if (subleaves == 0) add(leaf, 0, false);
      for (uint32_t i = 0; i < subleaves; ++i) add(leaf, i, true);
    }
  }
  return table;
}

Result<std::vector<kvm_cpuid_entry2>> install_cpuid(const KvmVcpu& vcpu, std::span<const kvm_cpuid_entry2> table) {
  RV_TRY(vcpu.set_cpuid(table));
  return vcpu.get_cpuid();
}

CpuidResult lookup_cpuid(std::span<const kvm_cpuid_entry2> table, uint32_t leaf, uint32_t subleaf) {
  const kvm_cpuid_entry2* e = find(table, leaf, subleaf);
  if (e == nullptr) {
    const kvm_cpuid_entry2* basic = find(table, kBasic, 0);
    if (basic == nullptr) return {};
    const uint32_t base = leaf >= kHypervisor && leaf <= kHypervisorEnd ? leaf & 0xffffff00
                          : leaf >= kCentaur                            ? kCentaur
                                                                        : leaf & kExtended;
    const kvm_cpuid_entry2* first = find(table, base, 0);
    if (first == nullptr || leaf > first->eax) {  // beyond the last leaf of its range
      leaf = basic->eax;
      e = find(table, leaf, subleaf);
    }
  }
  if (e != nullptr) return result(*e);
  CpuidResult r;
  // Topology: the number asked for and the APIC id come back for every level (SDM 2A "CPUID", leaf Bh).
  if (const kvm_cpuid_entry2* level = find(table, leaf, 1); leaf == 0xb && level != nullptr) {
    r.ecx = subleaf & 0xff;
    r.edx = level->edx;
  }
  return r;
}

std::vector<std::string> missing_features(std::span<const kvm_cpuid_entry2> supported) {
  std::vector<std::string> missing;
  const CpuState state = showing_all();
  for (const FeatureWord& word : kFeatureWords) {
    const kvm_cpuid_entry2* e = find(supported, word.leaf, word.subleaf);
    const uint32_t offered = e != nullptr ? result(*e).*word.reg : 0;
    const uint32_t lacking = cpuid(word.leaf, word.subleaf, state, VcpuId(0), 1).*word.reg & ~word.ours & ~offered;
    for (unsigned bit = 0; bit < 32; ++bit) {
      if ((lacking >> bit & 1) != 0) missing.push_back(feature_name(word, bit));
    }
  }
  return missing;
}

}  // namespace retrovisor::kvm
