#include "vmm/devices/reset_control.h"

#include "vmm/board/device_context.h"
#include "vmm/devices/machine_map.h"

namespace retrovisor {
namespace {

// SRST: a hard (1) or soft (0) reset follows; RCPU: its rising edge is the reset; FRST: with a power cycle. A hard one ends this run of
// the machine; a soft one is of the processors (INIT) alone, behind which firmware may go on.
constexpr uint8_t SRST = 2, RCPU = 4, FRST = 8, kWritable = SRST | RCPU | FRST;

}  // namespace

uint64_t ResetControl::read(const BusAccess&) { return value_; }

void ResetControl::write(const BusAccess&, uint64_t value) {
  const bool was_set = (value_ & RCPU) != 0;
  value_ = static_cast<uint8_t>(value & kWritable);
  if (was_set || (value_ & RCPU) == 0) return;
  if ((value_ & SRST) == 0) return restart_.reset_processors(value_);
  control_.request_stop({StopReason::reset, value_});
}

void ResetControl::save(StateWriter& out) const {
  out.section(name());
  out.u8("RC", value_);
}

void ResetControl::restore(StateReader& in) {
  in.section(name());
  in.u8("RC", value_);
  in.check("RC", (value_ & ~kWritable) == 0);
}

constinit const DeviceType kResetControlDevice{
    .name = "reset-control",
    .help = "reset control register, port 0xcf9",
    .make =
        [](DeviceContext& c) {
          c.claim_ports({.first = machine_map::kResetControl, .count = 1, .device = &c.add<ResetControl>(c.control(), Restart(c)), .exact = true});
        },
    .firmware =
        [](const DeviceOptions&, FirmwareTables& tables) {
          tables.reset_register = {.port = machine_map::kResetControl, .value = machine_map::kResetValue};
        },
    .single = true,
};

}  // namespace retrovisor
