#include "replay/compare_states.h"

#include <algorithm>

#include "traces/fields.h"

namespace retrovisor {
namespace {

void compare_fields(const Machine& machine, const DigestRecord& recorded, Divergence& out) {
  if (recorded.names == nullptr || recorded.fields.size() != recorded.names->size()) return;
  const NamedFields now = machine_fields(machine);
  // Both sides have the same names in the same order, unless a device saves them by its state; then only the names tell.
  const size_t common = std::min(now.names.size(), recorded.names->size());
  for (size_t i = 0; i < common; ++i) {
    const std::string& name = (*recorded.names)[i];
    if (now.names[i] != name) {
      out.fields.push_back({name, to_string(recorded.fields[i]), "no such field, but " + now.names[i]});
      return;
    }
    if (now.values[i] != recorded.fields[i])
      out.fields.push_back({name, to_string(recorded.fields[i]), to_string(now.values[i])});
  }
  for (size_t i = common; i < recorded.names->size(); ++i)
    out.fields.push_back({(*recorded.names)[i], to_string(recorded.fields[i]), "no such field"});
  for (size_t i = common; i < now.names.size(); ++i)
    out.fields.push_back({now.names[i], "no such field", to_string(now.values[i])});
}

// Every page that changed was written down, so the pages that differ are known: those with another hash, and those that
// only one side changed since both were the same.
void compare_page_list(const Machine& machine, const MemorySketch& sketch, const DigestRecord& recorded, Divergence& out) {
  for (const PageHash& p : recorded.pages)
    if (static_cast<uint32_t>(machine.page_hash(p.page)) != p.hash) out.pages.push_back(p.page);
  for (const uint64_t page : sketch.changed()) {
    const bool listed = std::binary_search(recorded.pages.begin(), recorded.pages.end(), PageHash{page, 0},
                                           [](const PageHash& a, const PageHash& b) { return a.page < b.page; });
    if (!listed) out.pages.push_back(page);
  }
  std::sort(out.pages.begin(), out.pages.end());
  out.pages_exact = true;
}

void compare_buckets(const MemorySketch& sketch, const DigestRecord& recorded, Divergence& out) {
  for (const uint64_t page : sketch.changed())
    if (sketch.buckets()[page % kMemoryBuckets] != recorded.buckets[page % kMemoryBuckets]) out.pages.push_back(page);
}

}  // namespace

Divergence compare_states(Machine& machine, const StateDigest& now, const MemorySketch& sketch,
                          const DigestRecord& recorded) {
  Divergence out;
  out.found = Divergence::Found::digest;
  out.bad = recorded.position;
  out.cpu = now.cpu != recorded.state.cpu;
  out.memory = now.memory != recorded.state.memory;
  out.devices = now.devices != recorded.state.devices;
  if (recorded.detail == DigestDetail::sums) return out;
  compare_fields(machine, recorded, out);
  if (!out.memory) return out;
  if (recorded.detail == DigestDetail::full)
    compare_page_list(machine, sketch, recorded, out);
  else
    compare_buckets(sketch, recorded, out);
  return out;
}

}  // namespace retrovisor
