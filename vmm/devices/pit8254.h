// 8254 programmable interval timer and port 0x61. Source: Intel 8254 data sheet (231164); port 61h: PIIX4 data sheet 4.2.6.
//
// Counters are functions of guest time: nothing happens per tick. Counter 0 drives IRQ 0, with a deadline per edge of its
// output; counter 1 only counts; counter 2's gate and output are in port 0x61.
#pragma once

#include <array>

#include "vmm/board/device_type.h"
#include "vmm/bus.h"
#include "vmm/clock.h"
#include "vmm/devices/ticks.h"

namespace retrovisor {

// One counter. Times are in ticks of its clock; an access at `tick` happens between that clock pulse and the next.
class PitCounter {
 public:
  void reset(bool gate);
  // Control word for this counter (not latch, not read-back).
  void write_control(uint8_t control, uint64_t tick);
  void write(uint8_t value, uint64_t tick);
  uint8_t read(uint64_t tick);
  void latch_count(uint64_t tick);
  void latch_status(uint64_t tick);
  void set_gate(bool gate, uint64_t tick);
  bool gate() const { return gate_; }
  // Level of OUT.
  bool out(uint64_t tick) const;
  // First tick after `tick` at which OUT changes if nobody interferes; UINT64_MAX: never.
  uint64_t next_edge(uint64_t tick) const;
  // Takes up a new count where the old period has ended.
  void advance(uint64_t tick);

  void save(StateWriter& out, std::string_view prefix) const;
  void restore(StateReader& in, std::string_view prefix);

 private:
  uint32_t wrap() const { return bcd_ ? 10000 : 65536; }
  uint32_t reload() const;
  uint16_t count(uint64_t tick) const;   // CE as the bus reads it
  uint64_t half(bool high) const;        // mode 3: length of a half cycle
  bool periodic() const { return mode_ == 2 || mode_ == 3; }
  bool gate_freezes() const { return mode_ == 0 || mode_ == 4; }
  void load(uint64_t tick);              // CR → CE at the next clock
  void freeze(uint64_t tick);
  uint8_t status(uint64_t tick) const;

  uint8_t mode_ = 0;              // 0-5
  uint8_t access_ = 3;            // 1: low byte, 2: high byte, 3: low then high
  bool bcd_ = false;
  bool gate_ = false;
  uint16_t cr_ = 0;               // count register as written
  bool null_count_ = true;        // CR has not reached CE yet
  bool written_ = false;          // a whole count has come since the control word
  bool active_ = false;           // CE counts, or waits for `base_` to start
  bool frozen_ = false;           // the gate holds it (modes 0 and 4)
  bool expired_ = false;          // modes 0, 1, 4, 5: the terminal count lies behind
  bool high_ = true;              // mode 3: which half cycle starts at `base_`
  uint64_t base_ = 0;             // tick at which CE is `start_`
  uint32_t start_ = 0;            // 0-65536; modes 2 and 3: the period
  uint16_t before_ = 0;           // what CE shows before `base_`
  bool before_out_ = false;       // and OUT
  bool write_high_ = false;       // access 3: the high byte comes next
  bool read_high_ = false;
  uint8_t low_byte_ = 0;          // first byte of a count being written
  uint8_t latched_bytes_ = 0;     // of the count latch, left to read
  uint16_t latched_count_ = 0;
  bool status_latched_ = false;
  uint8_t latched_status_ = 0;
};

class Pit8254 final : public Device {
 public:
  static constexpr uint64_t kHz = 1'193'182;

  Pit8254(const Clock& clock, Deadlines& deadlines, IrqLine irq0);

  std::string_view name() const override { return "pit8254"; }
  void reset(const PowerOn& at) override;
  void save(StateWriter& out) const override;
  void restore(StateReader& in) override;
  // Ports 0x40-0x43 and 0x61.
  uint64_t read(const BusAccess& access) override;
  void write(const BusAccess& access, uint64_t value) override;

 private:
  uint64_t tick() const { return ticks_.ticks(clock_.now()); }
  void write_control(uint8_t value, uint64_t now);
  void edge_due(uint64_t due);
  // Drives IRQ 0 and asks to be called at its next edge.
  void update(uint64_t now);

  static constexpr TickClock ticks_{kHz};
  const Clock& clock_;
  Deadlines& deadlines_;
  const IrqLine irq0_;
  const Deadlines::Timer timer_;
  std::array<PitCounter, 3> counters_;
  uint8_t control_b_ = 0;  // port 0x61 bits 3-0
};

extern const DeviceType kPit8254Device;

}  // namespace retrovisor
