#include "vmm/cpu/cpuid.h"

#include <array>
#include <bit>
#include <cstring>

#include "vmm/cpu/canonical.h"

namespace retrovisor {

namespace {

// Family 6, model 1Ch: an in-order Atom ("Bonnell"). Operating systems know that these processors do not speculate, so
// they leave out the mitigations against speculative execution (page table isolation, retpolines): nothing here
// speculates either, and each of them would only slow the guest down. Stepping 10 is free of the early errata.
constexpr uint32_t kSignature = 0x000106ca;

constexpr uint32_t kMaxBasic = 0x16;
constexpr uint32_t kMaxExtended = 0x80000008;
constexpr uint32_t kHypervisorBase = 0x40000000;

constexpr uint32_t bit(unsigned n) { return uint32_t{1} << n; }

// Leaf 1 (SDM 2 tables 3-10, 3-11).
constexpr uint32_t kFeaturesEdx =
    bit(0) /* FPU */ | bit(1) /* VME */ | bit(2) /* DE */ | bit(3) /* PSE */ | bit(4) /* TSC */ | bit(5) /* MSR */ |
    bit(6) /* PAE */ | bit(7) /* MCE */ | bit(8) /* CX8 */ | bit(11) /* SEP */ | bit(12) /* MTRR */ |
    bit(13) /* PGE */ | bit(14) /* MCA */ | bit(15) /* CMOV */ | bit(16) /* PAT */ | bit(17) /* PSE36 */ |
    bit(19) /* CLFSH */ | bit(23) /* MMX */ | bit(24) /* FXSR */ | bit(25) /* SSE */ | bit(26) /* SSE2 */ | bit(27) /* SS */;
constexpr uint32_t kApic = bit(9);
constexpr uint32_t kFeaturesEcx = bit(0) /* SSE3 */ | bit(9) /* SSSE3 */ | bit(13) /* CX16 */ | bit(19) /* SSE4.1 */ |
                                  bit(20) /* SSE4.2 */ | bit(23) /* POPCNT */ | bit(24) /* TSC-deadline */ |
                                  bit(26) /* XSAVE */ | bit(30) /* RDRAND */ | bit(31) /* hypervisor */;
constexpr uint32_t kOsxsave = bit(27);
// Leaf 7.
constexpr uint32_t kLeaf7Ebx =
    bit(0) /* FSGSBASE */ | bit(1) /* TSC_ADJUST */ | bit(7) /* SMEP */ | bit(18) /* RDSEED */ | bit(20) /* SMAP */;
constexpr uint32_t kLeaf7Ecx = bit(2) /* UMIP */;
// Leaf 80000001h.
constexpr uint32_t kExtendedEcx = bit(0) /* LAHF in 64-bit mode */;
constexpr uint32_t kExtendedEdx = bit(20) /* NX */ | bit(26) /* 1 GiB pages */ | bit(27) /* RDTSCP */ | bit(29) /* LM */;
constexpr uint32_t kSyscall = bit(11);

constexpr std::string_view kVendor = "GenuineIntel";
constexpr std::string_view kHypervisor = "RetrovisorVM";
constexpr std::string_view kBrand = "Retrovisor x86-64-v2 virtual CPU";
static_assert(kVendor.size() == 12 && kHypervisor.size() == 12 && kBrand.size() < 48);

uint32_t letters(std::string_view text, size_t at) {
  uint32_t v = 0;
  if (at < text.size()) std::memcpy(&v, text.data() + at, std::min<size_t>(4, text.size() - at));
  return v;
}

// Bits of the APIC id that number the processors of the one package.
unsigned core_bits(uint32_t vcpus) { return static_cast<unsigned>(std::bit_width(vcpus - 1)); }

// Leaf 4: type, level, KiB, ways; lines of 64 bytes. `shared` by how many APIC ids.
CpuidResult cache(uint32_t type, uint32_t level, uint32_t kib, uint32_t ways, uint32_t shared, unsigned cores) {
  CpuidResult r;
  r.eax = type | level << 5 | bit(8) /* self-initialising */ | (shared - 1) << 14 | ((uint32_t{1} << cores) - 1) << 26;
  r.ebx = 63 | (ways - 1) << 22;
  r.ecx = kib * 1024 / 64 / ways - 1;  // sets
  return r;
}

CpuidResult basic(uint32_t leaf, uint32_t subleaf, const CpuState& state, VcpuId id, uint32_t vcpus, bool apic) {
  const unsigned cores = core_bits(vcpus);
  CpuidResult r;
  switch (leaf) {
    case 0:
      // IA32_MISC_ENABLE bit 22 limits the leaves, for systems that cannot count to more.
      r.eax = (state.misc_enable & bit(22)) != 0 ? 3 : kMaxBasic;
      r.ebx = letters(kVendor, 0);
      r.edx = letters(kVendor, 4);
      r.ecx = letters(kVendor, 8);
      break;
    case 1:
      r.eax = kSignature;
      r.ebx = 8 << 8 /* CLFLUSH line of 64 bytes */ | (uint32_t{1} << cores) << 16 | id.value << 24;
      r.ecx = kFeaturesEcx | ((state.cr4 & cr4::OSXSAVE) != 0 ? kOsxsave : 0);
      r.edx = kFeaturesEdx | (apic ? kApic : 0) | (vcpus > 1 ? bit(28) /* HTT */ : 0);
      break;
    case 2: r.eax = 0x0000ff01; break;  // "see leaf 4"
    case 4:
      if (subleaf == 0) return cache(1, 1, 32, 8, 1, cores);
      if (subleaf == 1) return cache(2, 1, 32, 8, 1, cores);
      if (subleaf == 2) return cache(3, 2, 1024, 16, 1, cores);
      break;
    case 6: r.eax = bit(2); break;  // ARAT: the local APIC timer never stops
    case 7:
      if (subleaf == 0) {
        r.ebx = kLeaf7Ebx;
        r.ecx = kLeaf7Ecx;
      }
      break;
    case 0xb:  // topology: one thread a core, all cores in one package
      r.ecx = subleaf & 0xff;
      r.edx = id.value;
      if (subleaf == 0) {
        r.ebx = 1;
        r.ecx |= 1 << 8;
      } else if (subleaf == 1) {
        r.eax = cores;
        r.ebx = vcpus;
        r.ecx |= 2 << 8;
      }
      break;
    case 0xd:
      if (subleaf == 0) {
        r.eax = static_cast<uint32_t>(kXcr0Supported);
        r.ebx = r.ecx = kXsaveSize;
      }
      break;
    case 0x15:  // TSC = crystal * 1 / 1. The crystal is also the local APIC timer's clock.
      r.eax = r.ebx = 1;
      r.ecx = static_cast<uint32_t>(kTscHz);
      break;
    case 0x16:
      r.eax = r.ebx = static_cast<uint32_t>(kTscHz / 1'000'000);
      r.ecx = 100;
      break;
    default: break;  // 3 serial number, 5 MONITOR, 9 DCA, 0xa performance counters: there are none
  }
  return r;
}

CpuidResult extended(uint32_t leaf, const CpuState& state) {
  CpuidResult r;
  switch (leaf) {
    case 0x80000000: r.eax = kMaxExtended; break;
    case 0x80000001:
      r.ecx = kExtendedEcx;
      r.edx = kExtendedEdx | (state.mode64() ? kSyscall : 0);  // Intel shows SYSCALL in 64-bit mode alone
      break;
    case 0x80000002: case 0x80000003: case 0x80000004: {
      const size_t at = (leaf - 0x80000002) * 16;
      r = {letters(kBrand, at), letters(kBrand, at + 4), letters(kBrand, at + 8), letters(kBrand, at + 12)};
      break;
    }
    case 0x80000006: r.ecx = 1024 << 16 | 8 << 12 /* 16 ways */ | 64; break;
    case 0x80000007: r.edx = bit(8); break;  // invariant TSC
    case 0x80000008: r.eax = kPhysicalBits | kLinearBits << 8; break;
    default: break;
  }
  return r;
}

}  // namespace

CpuidResult cpuid(uint32_t leaf, uint32_t subleaf, const CpuState& state, VcpuId id, uint32_t vcpus, bool apic) {
  if (leaf >= 0x80000000 && leaf <= kMaxExtended) return extended(leaf, state);
  if (leaf >= kHypervisorBase && leaf < kHypervisorBase + 0x10000) {
    if (leaf != kHypervisorBase) return {};
    return {kHypervisorBase, letters(kHypervisor, 0), letters(kHypervisor, 4), letters(kHypervisor, 8)};
  }
  // Beyond the last leaf Intel processors answer with the highest basic one (SDM 2 "CPUID").
  return basic(leaf <= kMaxBasic ? leaf : kMaxBasic, subleaf, state, id, vcpus, apic);
}

}  // namespace retrovisor
