// The two 8259A interrupt controllers of a PC, cascaded on IR2, with the edge/level control registers.
// Source: Intel 8259A data sheet (231468); ELCR: Intel 82371AB (PIIX4) data sheet 4.2.4.
//
// After reset all lines are masked (a machine without firmware has nobody to do it) and IRQ 9, the SCI, is level triggered.
#pragma once

#include <array>

#include "vmm/board/device_type.h"
#include "vmm/bus.h"
#include "vmm/devices/ext_int.h"

namespace retrovisor {

class Pic8259 final : public Device, public IrqSink, public ExtIntController {
 public:
  // `intr`: the INTR output of the master. `by_bios`: after reset it is as a BIOS leaves it, for kernels that expect one.
  explicit Pic8259(IrqLine intr, bool by_bios = false) : intr_line_(intr), by_bios_(by_bios) {}

  std::string_view name() const override { return "pic8259"; }
  void reset(const PowerOn& at) override;
  void save(StateWriter& out) const override;
  void restore(StateReader& in) override;
  // Ports 0x20-0x21, 0xa0-0xa1, 0x4d0-0x4d1.
  uint64_t read(const BusAccess& access) override;
  void write(const BusAccess& access, uint64_t value) override;
  // Lines 0-15; line 2 is the cascade and cannot be driven from outside.
  void set_irq(unsigned line, bool level) override;
  uint8_t acknowledge() override;
  bool intr() const { return intr_; }

 private:
  struct Chip {
    uint8_t lines = 0;         // levels of IR0-IR7
    uint8_t irr = 0;           // edge requests not yet acknowledged; level requests are in `lines`
    uint8_t imr = 0;
    uint8_t isr = 0;
    uint8_t elcr = 0;          // 1: level
    uint8_t vector_base = 0;   // ICW2
    uint8_t cascade = 0;       // ICW3
    uint8_t icw1 = 0;          // LTIM, SNGL, IC4
    uint8_t icw4 = 0;
    uint8_t next_icw = 0;      // 2, 3, 4: the ICW expected at the odd port; 0: initialised
    uint8_t lowest = 7;        // the line with the lowest priority
    bool rotate_in_aeoi = false;
    bool special_mask = false;
    bool read_isr = false;
    bool poll = false;

    uint8_t level_mask() const;
    uint8_t requests() const;  // IRR as the guest reads it
    void set_line(unsigned line, bool level);
    // The request that would be served now, or -1.
    int candidate(bool master) const;
    // INTA: puts `line` into service.
    void serve(unsigned line);
    void end_of_interrupt(unsigned line, bool rotate);
    // Highest-priority line of `set`, or -1.
    int highest(uint8_t set) const;
    void write_icw1(uint8_t value);
    void write_ocw2(uint8_t value);
    void write_odd(uint8_t value);
  };

  uint8_t poll_read(unsigned chip);
  // Passes the slave's output to the master and the master's to the INTR line. `pulse`: after an acknowledge the outputs
  // go low first, so that whoever looks for edges sees the next request.
  void update(bool pulse);
  uint8_t serve_slave();

  std::array<Chip, 2> chips_;
  bool intr_ = false;
  const IrqLine intr_line_;
  const bool by_bios_;
};

extern const DeviceType kPic8259Device;

}  // namespace retrovisor
