#include "record/digest_capture.h"

#include "traces/fields.h"

namespace retrovisor {

// The finaliser of MurmurHash3 (Appleby) over both numbers; part of the trace format (docs/trace-format.md).
uint32_t bucket_share(uint64_t page, uint64_t hash) {
  if (hash == 0) return 0;
  uint64_t x = hash ^ (page * 0x9e3779b97f4a7c15);
  x = (x ^ (x >> 33)) * 0xff51afd7ed558ccd;
  x = (x ^ (x >> 33)) * 0xc4ceb9fe1a85ec53;
  return static_cast<uint32_t>(x ^ (x >> 33));
}

MemorySketch::MemorySketch(Machine& machine)
    : machine_(machine), tables_((machine.memory().page_limit() + kTablePages - 1) / kTablePages) {}

void MemorySketch::update(uint64_t page) {
  const uint64_t hash = machine_.page_hash(page);
  auto& table = tables_[page / kTablePages];
  if (table == nullptr) {
    if (hash == 0) return;
    table = std::make_unique<Table>();
  }
  uint64_t& old = (*table)[page % kTablePages];
  if (old == hash) return;
  buckets_[page % kMemoryBuckets] ^= bucket_share(page, old) ^ bucket_share(page, hash);
  old = hash;
  changed_.push_back(page);
}

void MemorySketch::update() {
  changed_.clear();
  if (started_) {
    for (const uint64_t page : machine_.last_dirty_pages()) update(page);
    return;
  }
  // The first time covers all of memory, whatever was loaded into it, and hashed, before.
  started_ = true;
  const uint64_t limit = machine_.memory().page_limit();
  for (uint64_t page = 0; page < limit; ++page)
    if (machine_.memory().is_ram(PhysAddr(page << kPageShift))) update(page);
}

NamedFields machine_fields(const Machine& machine) {
  NamedFields out;
  for (const auto& state : {machine.save_cpu_state(), machine.save_device_state()}) {
    for (StateField& f : state_fields(state)) {
      if (out.names.size() == kMaxFields) break;
      out.values.push_back(field_value(f.value));
      out.names.push_back(std::move(f.name));
    }
  }
  return out;
}

DigestRecord DigestCapture::take(bool at_stop) {
  DigestRecord out;
  out.position = machine_.position();
  out.state = machine_.digest();
  out.detail = detail_;
  out.at_stop = at_stop;
  if (detail_ == DigestDetail::sums) return out;

  NamedFields fields = machine_fields(machine_);
  if (names_ == nullptr || *names_ != fields.names)
    names_ = std::make_shared<const std::vector<std::string>>(std::move(fields.names));
  out.names = names_;
  out.fields = std::move(fields.values);

  sketch_.update();
  if (detail_ == DigestDetail::full)
    for (const uint64_t page : sketch_.changed())
      out.pages.push_back({page, static_cast<uint32_t>(machine_.page_hash(page))});
  out.buckets = sketch_.buckets();
  return out;
}

}  // namespace retrovisor
