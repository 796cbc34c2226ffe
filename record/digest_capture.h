// Digests of a running machine, with the detail that a divergence report needs.
#pragma once

#include <array>
#include <memory>
#include <span>
#include <vector>

#include "traces/format.h"
#include "vmm/machine/machine.h"

namespace retrovisor {

// What page `page` with hash `hash` (Machine::page_hash; 0 for a page of zeroes) adds, by exclusive or, to its bucket.
uint32_t bucket_share(uint64_t page, uint64_t hash);

// Hashes over groups of pages of the whole memory, and which pages changed, digest by digest.
class MemorySketch {
 public:
  explicit MemorySketch(Machine& machine);
  // After each Machine::digest().
  void update();
  const MemoryBuckets& buckets() const { return buckets_; }
  // Pages whose hash is another than at the update before, ascending; the first time, all that are not zero.
  const std::vector<uint64_t>& changed() const { return changed_; }

 private:
  static constexpr uint64_t kTablePages = 512;
  using Table = std::array<uint64_t, kTablePages>;
  void update(uint64_t page);

  Machine& machine_;
  std::vector<std::unique_ptr<Table>> tables_;  // hashes by page; none: all zero
  MemoryBuckets buckets_{};
  std::vector<uint64_t> changed_;
  bool started_ = false;
};

// The fields of a machine's CPU and device state, in order.
struct NamedFields {
  std::vector<std::string> names;
  std::vector<FieldValue> values;
};
NamedFields machine_fields(const Machine& machine);

// Takes digests of one machine. Between two of them nobody else calls Machine::digest().
class DigestCapture {
 public:
  DigestCapture(Machine& machine, DigestDetail detail) : machine_(machine), detail_(detail), sketch_(machine) {}
  // `at_stop`: as in DigestRecord.
  DigestRecord take(bool at_stop = false);

 private:
  Machine& machine_;
  DigestDetail detail_;
  FieldNames names_;
  MemorySketch sketch_;
};

}  // namespace retrovisor
