#include "replay/byte_check.h"

#include <algorithm>
#include <cstring>

#include "vmm/cpu/page_walk.h"

namespace retrovisor {

bool is_hit(const StopConditions& conditions, const Observation& o, Machine& machine) {
  switch (o.kind) {
    case Observation::Kind::breakpoint:
    case Observation::Kind::read: return true;
    // One that watches reads, too, stops at every access.
    case Observation::Kind::write: return o.changed || conditions.watches[o.index].on_read;
    case Observation::Kind::physical_write: break;
    default: return true;  // nobody asked for others
  }
  const ByteWatch& w = conditions.bytes[o.index];
  return o.changed && (!w.seen_at || leads_to(machine.vcpu(o.vcpu).state, machine.memory(), *w.seen_at, w.bytes.begin));
}

bool leads_to(const CpuState& state, GuestMemory& memory, LinearAddr linear, PhysAddr phys) {
  const PageWalk walk = walk_page(state, memory, linear, {}, false);
  return walk.ok && walk.phys == phys;
}

TimelineImpl::ByteCheck::ByteCheck(Machine& machine, const std::vector<ByteWatch>& bytes, const CpuState& asker)
    : m_(machine), bytes_(bytes), asker_(asker), known_(read()) {}

TimelineImpl::ByteCheck::Values TimelineImpl::ByteCheck::read() const {
  Values out;
  for (const ByteWatch& w : bytes_) {
    out.emplace_back(w.bytes.size);
    if (!m_.memory().read(w.bytes.begin, out.back())) std::fill(out.back().begin(), out.back().end(), uint8_t{0});
  }
  return out;
}

void TimelineImpl::ByteCheck::wrote(const Observation& o) {
  const PhysRange& range = bytes_[o.index].bytes;
  const uint64_t first = std::max(range.begin.value, o.bytes.begin.value);
  const uint64_t end = std::min(range.begin.value + range.size, o.bytes.begin.value + o.bytes.size);
  for (uint64_t at = first; at < end; ++at) now_[o.index][at - range.begin.value] = *m_.memory().host(PhysAddr(at));
}

bool TimelineImpl::ByteCheck::end(Position last, Position below) {
  // What was seen, what memory holds now, and what it held where the search had come to: all the same.
  if (now_ == known_ && read() == known_) {
    known_ = before_;
    return true;
  }
  unseen_.emplace(last, below);
  return false;
}

bool TimelineImpl::ByteCheck::agrees(const PageStore& store, const Checkpoint& from, Position below) {
  for (size_t i = 0; i < bytes_.size(); ++i) {
    const uint64_t begin = bytes_[i].bytes.begin.value;
    for (size_t done = 0; done < known_[i].size();) {
      const uint64_t at = begin + done;
      const size_t n = std::min<size_t>(known_[i].size() - done, kPageSize - (at & ~kPageMask));
      const uint8_t* page = store.bytes(from.pages.get(at >> kPageShift));
      if (m_.memory().is_ram(PhysAddr(at)) && std::memcmp(page + (at & ~kPageMask), known_[i].data() + done, n) != 0) {
        unseen_.emplace(from.position, below);
        return false;
      }
      done += n;
    }
  }
  return true;
}

bool TimelineImpl::ByteCheck::led_there(const Observation& o) const {
  const ByteWatch& w = bytes_[o.index];
  if (!w.seen_at || leads_to(asker_, m_.memory(), *w.seen_at, w.bytes.begin)) return true;
  // A kernel's half is the same in all address spaces, but the tables asked about may not have existed yet.
  const bool upper = w.seen_at->value >> 63 != 0;
  return upper && leads_to(m_.vcpu(o.vcpu).state, m_.memory(), *w.seen_at, w.bytes.begin);
}

}  // namespace retrovisor
