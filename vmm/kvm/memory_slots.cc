#include "vmm/kvm/memory_slots.h"

#include <algorithm>

namespace retrovisor::kvm {

std::vector<MemorySlot> plan_slots(const GuestMemory& memory) {
  std::vector<MemorySlot> slots;
  const auto add = [&](uint64_t begin, uint64_t end) {
    if (begin >= end) return;
    slots.push_back({static_cast<uint32_t>(slots.size()), begin >> kPageShift, (end - begin) >> kPageShift});
  };
  add(0, kVideoHoleBegin);
  add(kVideoHoleEnd, memory.low_end());
  add(kHighRamBegin, memory.high_end());
  return slots;
}

Result<MemorySlots> MemorySlots::create(const KvmVm& vm, GuestMemory& memory) {
  MemorySlots made(vm, memory);
  made.slots_ = plan_slots(memory);
  size_t most = 0;
  for (const MemorySlot& slot : made.slots_) {
    kvm_userspace_memory_region region{};
    region.slot = slot.number;
    region.flags = KVM_MEM_LOG_DIRTY_PAGES;
    region.guest_phys_addr = slot.first_page << kPageShift;
    region.memory_size = slot.pages << kPageShift;
    // KVM wants the host address as a number; it goes nowhere else.
    region.userspace_addr = reinterpret_cast<uintptr_t>(memory.host(PhysAddr(region.guest_phys_addr)));
    RV_TRY(vm.set_memory_region(region));
    most = std::max(most, words(slot));
  }
  made.bitmap_.resize(most);
  return made;
}

Result<void> MemorySlots::fetch(const MemorySlot& slot) {
  const std::span<uint64_t> bitmap = std::span(bitmap_).first(words(slot));
  // KVM leaves the buffer alone where it knows that nothing was written.
  std::fill(bitmap.begin(), bitmap.end(), 0);
  return vm_->get_dirty_log(slot.number, bitmap);
}

}  // namespace retrovisor::kvm
