// Guest RAM as KVM memory slots, with the log of written pages. Source: Documentation/virt/kvm/api.rst,
// KVM_SET_USER_MEMORY_REGION and KVM_GET_DIRTY_LOG.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <vector>

#include "vmm/kvm/kvm_api.h"
#include "vmm/memory/guest_memory.h"

namespace retrovisor::kvm {

struct MemorySlot {
  uint32_t number = 0;
  uint64_t first_page = 0;  // guest-physical page number
  uint64_t pages = 0;
};

// The slots of a machine's RAM: below the video hole, from there to the end of low RAM, and above 4 GiB. The hole has none,
// so accesses to it are MMIO exits.
std::vector<MemorySlot> plan_slots(const GuestMemory& memory);

// Calls `visit(page)` for every set bit, in ascending order. Bits at or above `pages` are ignored.
template <class Visit>
void for_each_dirty(std::span<const uint64_t> bitmap, uint64_t first_page, uint64_t pages, Visit&& visit) {
  for (size_t word = 0; word < bitmap.size(); ++word) {
    for (uint64_t bits = bitmap[word]; bits != 0; bits &= bits - 1) {
      const uint64_t page = word * 64 + static_cast<uint64_t>(__builtin_ctzll(bits));
      if (page < pages) visit(first_page + page);
    }
  }
}

class MemorySlots {
 public:
  // Makes the slots, all with KVM_MEM_LOG_DIRTY_PAGES. `vm` and `memory` must outlive the object.
  static Result<MemorySlots> create(const KvmVm& vm, GuestMemory& memory);

  std::span<const MemorySlot> slots() const { return slots_; }

  // Takes what guests wrote through KVM since the last call (since creation, the first time): marks the pages dirty in
  // GuestMemory and calls `visit(page)` for each in ascending order, dirty before or not. KVM's log is empty afterwards and
  // the pages are write-protected again, so the next write to each is seen. Includes accessed and dirty bits that the
  // processor sets in page tables. What the host writes (DMA, loaders, debuggers) is not in it: GuestMemory knows that.
  //
  // Only between runs: no vCPU may be inside KVM_RUN. Pages flagged page_flag::code: the caller tells its soft engine.
  // If it fails, pages of earlier slots are marked, and the rest is still in the log.
  template <class Visit>
  Result<void> collect_dirty(Visit&& visit) {
    for (const MemorySlot& slot : slots_) {
      RV_TRY(fetch(slot));
      for_each_dirty(std::span(bitmap_).first(words(slot)), slot.first_page, slot.pages, [&](uint64_t page) {
        memory_->mark_dirty(PhysAddr(page << kPageShift));
        visit(page);
      });
    }
    return {};
  }
  Result<void> collect_dirty() {
    return collect_dirty([](uint64_t) {});
  }

 private:
  MemorySlots(const KvmVm& vm, GuestMemory& memory) : vm_(&vm), memory_(&memory) {}
  static size_t words(const MemorySlot& slot) { return static_cast<size_t>((slot.pages + 63) / 64); }
  Result<void> fetch(const MemorySlot& slot);

  const KvmVm* vm_;
  GuestMemory* memory_;
  std::vector<MemorySlot> slots_;
  std::vector<uint64_t> bitmap_;  // of the largest slot
};

}  // namespace retrovisor::kvm
