// Guest RAM: one lazily touched host mapping, and a byte of flags per page.
#pragma once

#include <algorithm>
#include <memory>
#include <span>
#include <vector>

#include "vmm/result.h"
#include "vmm/types.h"

namespace retrovisor {

// Physical memory map (machine model). RAM below kLowRamEnd, the rest from 4 GiB up; the legacy video hole is no RAM.
inline constexpr uint64_t kVideoHoleBegin = 0xa0000;
inline constexpr uint64_t kVideoHoleEnd = 0xc0000;
inline constexpr uint64_t kLowRamEnd = 0xc0000000;     // 3 GiB: MMIO (APICs) lies between here and 4 GiB
inline constexpr uint64_t kHighRamBegin = 0x100000000;
inline constexpr uint64_t kMinRam = uint64_t{16} << 20;
inline constexpr uint64_t kMaxRam = uint64_t{64} << 30;

// Flags of one guest page.
namespace page_flag {
inline constexpr uint8_t dirty = 1;  // written since take_dirty()
inline constexpr uint8_t code = 2;   // holds decoded code: writes must be reported to the engine
// Of the engine: translations in use were read from this page. `table`: from entries that map 4 KiB pages; `table_upper`: from others.
inline constexpr uint8_t table = 16;
inline constexpr uint8_t table_upper = 32;
// Of the engine: somebody wants to know of writes to this page (Interest::physical).
inline constexpr uint8_t watched = 64;
// Writes by others than the engine must be reported to it.
inline constexpr uint8_t guarded = code | table | table_upper | watched;
}  // namespace page_flag

// Told of writes that happen behind an engine's back to guarded pages, before they happen.
class GuardedWriteObserver {
 public:
  virtual ~GuardedWriteObserver() = default;
  virtual void guarded_write(PhysRange range) = 0;
  // Does the write itself, to one page of page_flag::watched. `walk`: a page walk sets A and D flags.
  virtual void watched_write(PhysAddr addr, std::span<const uint8_t> data, bool walk) = 0;
};

class GuestMemory {
 public:
  // `size` in bytes: a multiple of the page size, kMinRam..kMaxRam.
  static Result<std::unique_ptr<GuestMemory>> create(uint64_t size);
  ~GuestMemory();
  GuestMemory(const GuestMemory&) = delete;
  GuestMemory& operator=(const GuestMemory&) = delete;

  uint64_t size() const { return size_; }
  uint64_t low_end() const { return low_end_; }    // end of RAM below 4 GiB
  uint64_t high_end() const { return high_end_; }  // end of RAM above 4 GiB; kHighRamBegin if none
  // One past the highest guest-physical page number that can be RAM.
  uint64_t page_limit() const { return page_limit_; }

  bool is_ram(PhysAddr addr) const {
    const uint64_t a = addr.value;
    return a < low_end_ ? (a < kVideoHoleBegin || a >= kVideoHoleEnd) : (a >= kHighRamBegin && a < high_end_);
  }
  // Host address of a guest byte; only for addresses for which is_ram() holds, valid to the end of that page.
  uint8_t* host(PhysAddr addr) const { return base_ + addr.value; }
  uint8_t& flags(uint64_t page) const { return flags_[page]; }

  // Copies that may cross pages; false (and nothing guaranteed about the part before) if any byte is no RAM.
  bool read(PhysAddr addr, std::span<uint8_t> out) const;
  // Marks pages dirty and reports writes to guarded pages. For loaders, DMA, debuggers.
  bool write(PhysAddr addr, std::span<const uint8_t> data);
  // The same for the A and D flags that a page walk sets: no translation depends on them being clear.
  bool write_flags(PhysAddr addr, std::span<const uint8_t> data) {
    return write(addr, data, page_flag::code | page_flag::watched);
  }

  void mark_dirty(PhysAddr addr) {
    const uint64_t page = addr.value >> kPageShift;
    if ((flags_[page] & page_flag::dirty) != 0) return;
    flags_[page] |= page_flag::dirty;
    dirty_.push_back(page);
  }
  void set_observer(GuardedWriteObserver* observer) { observer_ = observer; }

  // Calls `visit(page)` for every dirty page in ascending order and clears the flag.
  // After this engines must drop their write permissions (SoftEngine::memory_protected).
  template <class Visit>
  void take_dirty(Visit&& visit) {
    std::sort(dirty_.begin(), dirty_.end());
    for (const uint64_t page : dirty_) {
      flags_[page] = static_cast<uint8_t>(flags_[page] & ~page_flag::dirty);
      visit(page);
    }
    dirty_.clear();
  }

 private:
  GuestMemory() = default;
  bool write(PhysAddr addr, std::span<const uint8_t> data, uint8_t guarded);
  uint8_t* base_ = nullptr;
  uint8_t* flags_ = nullptr;
  uint64_t size_ = 0;
  uint64_t low_end_ = 0;
  uint64_t high_end_ = 0;
  uint64_t page_limit_ = 0;
  GuardedWriteObserver* observer_ = nullptr;
  std::vector<uint64_t> dirty_;  // pages flagged page_flag::dirty, in no order
};

}  // namespace retrovisor
