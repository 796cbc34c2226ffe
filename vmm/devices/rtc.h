// MC146818A real-time clock with 128 bytes of CMOS memory. Source: Motorola MC146818A data sheet (register names are its
// own); century byte at 0x32 and memory size bytes as PC firmware leaves them.
//
// The time is wall clock at reset plus guest time since. Flags, count and update cycle are functions of guest time;
// deadlines are armed only while an interrupt is enabled and not yet signalled.
#pragma once

#include <array>

#include "vmm/board/device_type.h"
#include "vmm/bus.h"
#include "vmm/clock.h"
#include "vmm/devices/restart.h"

namespace retrovisor {

class Rtc final : public Device, public ShutdownCode {
 public:
  static constexpr unsigned kSize = 128;

  // `memory_size`: bytes of RAM, told to the guest in CMOS memory.
  Rtc(const Clock& clock, Deadlines& deadlines, IrqLine irq8, uint64_t memory_size);

  std::string_view name() const override { return "rtc"; }
  void reset(const PowerOn& at) override;
  // Sets date and time; seconds since 1970. A second begins now.
  void set_time(uint64_t wall_clock);
  void save(StateWriter& out) const override;
  void restore(StateReader& in) override;
  // Ports 0x70 (index and NMI mask, write only) and 0x71.
  uint64_t read(const BusAccess& access) override;
  void write(const BusAccess& access, uint64_t value) override;
  uint8_t shutdown_code() const override;
  void clear_shutdown_code() override;
  // Bit 7 of port 0x70. The machine has no source of NMI but interprocessor interrupts, which it does not mask.
  bool nmi_masked() const { return nmi_masked_; }

 private:
  bool dividing() const;  // the divider chain runs (DV = 010)
  bool counting() const;  // and the time advances (not SET)
  uint64_t period_ticks() const;
  // Whole seconds of the divider chain up to `t`.
  uint64_t chain_seconds(uint64_t t) const;
  uint64_t chain_ticks(uint64_t t) const;

  uint8_t encode(unsigned value) const;
  unsigned decode(uint8_t raw) const;
  uint8_t encode_hour(unsigned hour) const;
  unsigned decode_hour(uint8_t raw) const;
  // Time of day and date → registers and back.
  void to_registers();
  void from_registers();
  // Seconds from `second_` to the next match, at least 1; 0: never.
  uint64_t seconds_to_alarm() const;

  // Brings time and flags up to now.
  void sync(uint64_t now);
  // IRQ line and deadlines.
  void update();
  void fire();
  void arm(Deadlines::Timer timer, uint64_t when, bool wanted);
  uint8_t read_register(unsigned index);
  void write_register(unsigned index, uint8_t value);
  void write_a(uint8_t value);
  void write_b(uint8_t value);
  void fill_memory_size();

  const Clock& clock_;
  Deadlines& deadlines_;
  const IrqLine irq_;
  const uint64_t memory_size_;
  const Deadlines::Timer periodic_, alarm_, update_ended_;

  std::array<uint8_t, kSize> ram_{};  // registers 0-9 and 0x32 are what the guest reads after sync()
  uint8_t index_ = 0;
  bool nmi_masked_ = false;
  uint64_t second_ = 0;     // seconds since 0000-01-01 (proleptic Gregorian) at `synced_`
  uint8_t weekday_ = 0;     // 0-6 of that day, as set by the guest
  uint64_t origin_ = 0;     // guest time at which the divider chain stood at zero
  uint64_t synced_ = 0;     // up to when flags are known
};

extern const DeviceType kRtcDevice;

}  // namespace retrovisor
