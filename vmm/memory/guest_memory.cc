#include "vmm/memory/guest_memory.h"

#include <sys/mman.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

namespace retrovisor {
namespace {

uint8_t* reserve(uint64_t size) {
  void* p = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  return p == MAP_FAILED ? nullptr : static_cast<uint8_t*>(p);
}

}  // namespace

Result<std::unique_ptr<GuestMemory>> GuestMemory::create(uint64_t size) {
  if (size < kMinRam || size > kMaxRam || size % kPageSize != 0)
    return Error{ErrorCode::bad_argument, "guest memory must be 16M to 64G in whole pages", "memory"};
  std::unique_ptr<GuestMemory> m(new GuestMemory);
  m->size_ = size;
  m->low_end_ = std::min(size, kLowRamEnd);
  m->high_end_ = kHighRamBegin + (size - m->low_end_);
  m->page_limit_ = (size > m->low_end_ ? m->high_end_ : m->low_end_) >> kPageShift;
  m->base_ = reserve(m->page_limit_ << kPageShift);
  m->flags_ = reserve(((m->page_limit_ + 7) & ~uint64_t{7}));
  if (m->base_ == nullptr || m->flags_ == nullptr)
    return Error{ErrorCode::io, std::string("cannot reserve guest memory: ") + std::strerror(errno), "memory"};
  return m;
}

GuestMemory::~GuestMemory() {
  if (base_ != nullptr) munmap(base_, page_limit_ << kPageShift);
  if (flags_ != nullptr) munmap(flags_, (page_limit_ + 7) & ~uint64_t{7});
}

bool GuestMemory::read(PhysAddr addr, std::span<uint8_t> out) const {
  for (size_t done = 0; done < out.size();) {
    const PhysAddr at = addr + done;
    if (!is_ram(at)) return false;
    const size_t n = std::min<size_t>(out.size() - done, kPageSize - (at.value & (kPageSize - 1)));
    std::memcpy(out.data() + done, host(at), n);
    done += n;
  }
  return true;
}

bool GuestMemory::write(PhysAddr addr, std::span<const uint8_t> data) { return write(addr, data, page_flag::guarded); }

bool GuestMemory::write(PhysAddr addr, std::span<const uint8_t> data, uint8_t guarded) {
  for (size_t done = 0; done < data.size();) {
    const PhysAddr at = addr + done;
    if (!is_ram(at)) return false;
    const size_t n = std::min<size_t>(data.size() - done, kPageSize - (at.value & (kPageSize - 1)));
    const uint8_t flag = flags(at.value >> kPageShift) & guarded;
    if (flag != 0 && observer_ != nullptr) observer_->guarded_write({at, n});
    if ((flag & page_flag::watched) != 0 && observer_ != nullptr)
      observer_->watched_write(at, data.subspan(done, n), guarded != page_flag::guarded);
    else
      std::memcpy(host(at), data.data() + done, n);
    mark_dirty(at);
    done += n;
  }
  return true;
}

}  // namespace retrovisor
