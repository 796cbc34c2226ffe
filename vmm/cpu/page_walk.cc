#include "vmm/cpu/page_walk.h"

#include <cstring>

namespace retrovisor {
namespace {

constexpr unsigned kPhysBits = 40;  // MAXPHYADDR of the CPU model (CPUID 0x80000008)
constexpr uint64_t kPhysReserved = ((uint64_t{1} << 52) - 1) & ~((uint64_t{1} << kPhysBits) - 1);
constexpr uint64_t kFrameMask = ((uint64_t{1} << kPhysBits) - 1) & kPageMask;

// One entry used in a walk, so that its A and D flags can be set once the access is known to be allowed.
struct Entry {
  PhysAddr addr;
  uint64_t value = 0;
  unsigned size = 8;
};

class Walker {
 public:
  Walker(const CpuState& state, GuestMemory& memory, LinearAddr linear, PageAccess access, bool update)
      : s_(state), memory_(memory), linear_(linear.value), access_(access), update_(update) {}

  PageWalk run() {
    if (!s_.paging()) {
      const uint64_t phys = linear_ & 0xffffffff;
      PageWalk w;
      w.ok = w.writable = w.user_page = true;
      w.phys = PhysAddr(phys);
      return w;
    }
    if (s_.long_mode()) return four_level();
    return (s_.cr4 & cr4::PAE) != 0 ? pae() : legacy();
  }

 private:
  bool nx_on() const { return (s_.efer & efer::NXE) != 0; }

  PageWalk fail(uint32_t why) const {
    uint32_t error = why;
    if (access_.write) error |= pf::W;
    if (access_.user) error |= pf::U;
    // SDM 3A 4.7: the I/D bit is set only where the paging mode can tell fetches apart.
    const bool tells_fetch = (s_.cr4 & cr4::SMEP) != 0 || ((s_.cr4 & cr4::PAE) != 0 && nx_on());
    if (access_.fetch && tells_fetch) error |= pf::I;
    PageWalk w;
    w.error = error;
    return w;
  }

  // Reads an entry and accumulates its rights. Page tables outside RAM read as all ones, as the bus answers.
  Entry read(uint64_t addr, unsigned size) {
    Entry e{PhysAddr(addr), ~uint64_t{0}, size};
    if (memory_.is_ram(e.addr)) {
      e.value = 0;
      std::memcpy(&e.value, memory_.host(e.addr), size);
    } else if (size == 4) {
      e.value = 0xffffffff;
    }
    return e;
  }
  void take_rights(uint64_t entry) {
    rw_ = rw_ && (entry & pte::RW) != 0;
    us_ = us_ && (entry & pte::US) != 0;
    if (nx_on() && (entry & pte::NX) != 0) nx_ = true;
  }
  void push(const Entry& e) { used_[count_++] = e; }

  PageWalk four_level() {
    uint64_t table = s_.cr3 & kFrameMask;
    const uint64_t always_reserved = kPhysReserved | (nx_on() ? 0 : pte::NX);
    for (unsigned level = 4; level >= 1; --level) {
      const unsigned shift = 12 + 9 * (level - 1);
      const Entry e = read(table + ((linear_ >> shift) & 0x1ff) * 8, 8);
      if ((e.value & pte::P) == 0) return fail(0);
      uint64_t reserved = always_reserved;
      const bool large = level > 1 && (e.value & pte::PS) != 0;
      if (large) reserved |= level == 4 ? pte::PS : (((uint64_t{1} << shift) - 1) & kPageMask & ~(uint64_t{1} << 12));
      if ((e.value & reserved) != 0) return fail(pf::P | pf::RSVD);
      take_rights(e.value);
      push(e);
      if (large || level == 1) return leaf(e.value, shift);
      table = e.value & kFrameMask;
    }
    return fail(0);  // not reached
  }

  PageWalk pae() {
    const uint64_t always_reserved = kPhysReserved | (uint64_t{0x7ff} << 52) | (nx_on() ? 0 : pte::NX);
    const uint64_t pdpte = s_.pdpte[(linear_ >> 30) & 3];
    if ((pdpte & pte::P) == 0) return fail(0);
    const Entry pde = read((pdpte & kFrameMask) + ((linear_ >> 21) & 0x1ff) * 8, 8);
    if ((pde.value & pte::P) == 0) return fail(0);
    const bool large = (pde.value & pte::PS) != 0;
    if ((pde.value & (always_reserved | (large ? uint64_t{0x1fe000} : 0))) != 0) return fail(pf::P | pf::RSVD);
    take_rights(pde.value);
    push(pde);
    if (large) return leaf(pde.value, 21);
    const Entry entry = read((pde.value & kFrameMask) + ((linear_ >> 12) & 0x1ff) * 8, 8);
    if ((entry.value & pte::P) == 0) return fail(0);
    if ((entry.value & always_reserved) != 0) return fail(pf::P | pf::RSVD);
    take_rights(entry.value);
    push(entry);
    return leaf(entry.value, 12);
  }

  PageWalk legacy() {
    const Entry pde = read((s_.cr3 & 0xfffff000) + ((linear_ >> 22) & 0x3ff) * 4, 4);
    if ((pde.value & pte::P) == 0) return fail(0);
    const bool large = (pde.value & pte::PS) != 0 && (s_.cr4 & cr4::PSE) != 0;
    // PSE-36: bits 20-13 are address bits 39-32, bit 21 is reserved (SDM 3A table 4-4).
    if (large && (pde.value & (1 << 21)) != 0) return fail(pf::P | pf::RSVD);
    take_rights(pde.value);
    push(pde);
    if (large) return leaf((pde.value & 0xffc00000) | ((pde.value >> 13 & 0xff) << 32) | (pde.value & 0x1fff), 22);
    const Entry entry = read((pde.value & 0xfffff000) + ((linear_ >> 12) & 0x3ff) * 4, 4);
    if ((entry.value & pte::P) == 0) return fail(0);
    take_rights(entry.value);
    push(entry);
    return leaf(entry.value & 0xffffffff, 12);
  }

  // Checks the rights (SDM 3A 4.6) and sets A and D. `entry` is the leaf, mapping 1 << shift bytes.
  PageWalk leaf(uint64_t entry, unsigned shift) {
    const uint64_t page_size = uint64_t{1} << shift;
    PageWalk w;
    w.phys = PhysAddr((entry & ((uint64_t{1} << kPhysBits) - 1) & ~(page_size - 1)) | (linear_ & (page_size - 1)));
    w.page_size = page_size;
    w.user_page = us_;
    w.executable = !nx_;
    if (!update_) {
      w.ok = true;
      w.writable = rw_;
      return w;
    }
    const bool wp = (s_.cr0 & cr0::WP) != 0;
    const bool may_write = rw_ || (!access_.user && !wp);
    bool allowed = true;
    if (access_.user) {
      allowed = us_;
    } else if (us_) {
      if (access_.fetch) {
        allowed = (s_.cr4 & cr4::SMEP) == 0;
      } else {
        allowed = (s_.cr4 & cr4::SMAP) == 0 || (!access_.implicit && (s_.rflags & flag::AC) != 0);
      }
    }
    if (access_.write) allowed = allowed && may_write;
    if (access_.fetch) allowed = allowed && !nx_;
    if (!allowed) return fail(pf::P);

    for (unsigned i = 0; i < count_; ++i) {
      const bool is_leaf = i + 1 == count_;
      const uint64_t want = pte::A | (is_leaf && access_.write ? pte::D : 0);
      if ((used_[i].value & want) == want) continue;
      used_[i].value |= want;
      uint8_t raw[8];
      std::memcpy(raw, &used_[i].value, 8);
      memory_.write_flags(used_[i].addr, std::span<const uint8_t>(raw, used_[i].size));
    }
    for (unsigned i = 0; i < count_; ++i) w.entry[i] = used_[i].addr;
    w.entries = count_;
    w.ok = true;
    w.writable = may_write && (used_[count_ - 1].value & pte::D) != 0;
    return w;
  }

  const CpuState& s_;
  GuestMemory& memory_;
  uint64_t linear_;
  PageAccess access_;
  bool update_;
  bool rw_ = true, us_ = true, nx_ = false;
  Entry used_[4];
  unsigned count_ = 0;
};

}  // namespace

PageWalk walk_page(const CpuState& state, GuestMemory& memory, LinearAddr linear, PageAccess access, bool update) {
  return Walker(state, memory, linear, access, update).run();
}

}  // namespace retrovisor
