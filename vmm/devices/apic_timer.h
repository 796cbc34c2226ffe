// Count-down timer of a local APIC as a function of guest time. Source: SDM 3A 10.5.4. The bus clock has a cycle of 1 ns.
#pragma once

#include <cstdint>

#include "vmm/state_io.h"

namespace retrovisor {

// One-shot and periodic modes. Times are guest time in ns. The count reaches 0 and is reloaded at the same instant.
class ApicTimer {
 public:
  void reset() { *this = ApicTimer{}; }
  void set_periodic(bool periodic, uint64_t now);
  void set_initial(uint32_t count, uint64_t now);  // starts it; 0 stops it
  void set_divide(uint32_t configuration, uint64_t now);
  uint32_t initial() const { return initial_; }
  uint32_t divide() const { return divide_; }
  uint32_t current(uint64_t now) const;
  // When it next reaches 0, after `now`; UINT64_MAX: never.
  uint64_t next_expiry(uint64_t now) const;

  void save(StateWriter& out) const;
  void restore(StateReader& in);

 private:
  unsigned shift() const;  // log2 of the divisor
  uint64_t elapsed(uint64_t now) const { return now > start_ ? (now - start_) >> shift() : 0; }
  // Makes the present count the starting point, keeping the phase of the divider.
  void rebase(uint64_t now);

  bool periodic_ = false;
  uint32_t initial_ = 0;
  uint32_t divide_ = 0;   // DCR: bits 0, 1, 3
  uint64_t start_ = 0;    // when the count was `from_`
  uint32_t from_ = 0;     // 0: stopped
};

}  // namespace retrovisor
