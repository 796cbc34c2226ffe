#include "vmm/devices/pit8254.h"

#include "vmm/board/device_context.h"
#include "vmm/devices/machine_map.h"

namespace retrovisor {
namespace {

constexpr uint16_t kControlPort = machine_map::kPit + 3;
// The PC refreshes memory every 18 ticks (counter 1 as the firmware sets it up); port 0x61 bit 4 toggles each time.
constexpr uint64_t kRefreshTicks = 18;
constexpr uint64_t kMaxLag = 1 << 17;

namespace port61 {
constexpr uint8_t gate2 = 1, writable = 0xf, refresh = 0x10, out2 = 0x20;
}
namespace read_back {
constexpr uint8_t no_count = 0x20, no_status = 0x10;
}

}  // namespace

Pit8254::Pit8254(const Clock& clock, Deadlines& deadlines, IrqLine irq0)
    : clock_(clock),
      deadlines_(deadlines),
      irq0_(irq0),
      timer_(deadlines.add("pit0", [this](VirtualTime deadline) { edge_due(ticks_.ticks(deadline)); })) {}

void Pit8254::reset(const PowerOn&) {
  for (unsigned i = 0; i < 3; ++i) counters_[i].reset(i != 2);  // GATE 0 and 1 are tied high
  control_b_ = 0;
  update(0);
}

// Every edge is made, also when the call comes late; but a restored state cannot ask for an endless number of them.
void Pit8254::edge_due(uint64_t due) {
  const uint64_t now = tick();
  update(now > due && now - due > kMaxLag ? now : due);
}

void Pit8254::update(uint64_t now) {
  PitCounter& counter = counters_[0];
  counter.advance(now);
  irq0_.set(counter.out(now));
  const uint64_t edge = counter.next_edge(now);
  const VirtualTime when = edge == UINT64_MAX ? kNever : ticks_.time_of(edge);
  if (deadlines_.deadline(timer_) != when) deadlines_.arm(timer_, when);
}

uint64_t Pit8254::read(const BusAccess& access) {
  const auto port = static_cast<uint16_t>(access.address);
  const uint64_t now = tick();
  if (port == machine_map::kSystemControlB) {
    const bool refresh = (now / kRefreshTicks & 1) != 0;
    return control_b_ | (refresh ? port61::refresh : 0u) | (counters_[2].out(now) ? port61::out2 : 0u);
  }
  if (port == kControlPort) return 0xff;  // write only
  return counters_[(port - machine_map::kPit) % 3].read(now);
}

void Pit8254::write(const BusAccess& access, uint64_t wide) {
  const auto port = static_cast<uint16_t>(access.address);
  const auto value = static_cast<uint8_t>(wide);
  const uint64_t now = tick();
  if (port == machine_map::kSystemControlB) {
    control_b_ = value & port61::writable;
    counters_[2].set_gate((value & port61::gate2) != 0, now);
    return;
  }
  if (port == kControlPort) {
    write_control(value, now);
  } else {
    counters_[(port - machine_map::kPit) % 3].write(value, now);
  }
  update(now);
}

void Pit8254::write_control(uint8_t value, uint64_t now) {
  const unsigned select = value >> 6;
  if (select == 3) {  // read-back command
    for (unsigned i = 0; i < 3; ++i) {
      if ((value >> (i + 1) & 1) == 0) continue;
      if ((value & read_back::no_count) == 0) counters_[i].latch_count(now);
      if ((value & read_back::no_status) == 0) counters_[i].latch_status(now);
    }
  } else if ((value & 0x30) == 0) {
    counters_[select].latch_count(now);
  } else {
    counters_[select].write_control(value, now);
  }
}

void Pit8254::save(StateWriter& out) const {
  out.section(name());
  counters_[0].save(out, "counter0.");
  counters_[1].save(out, "counter1.");
  counters_[2].save(out, "counter2.");
  out.u8("control_b", control_b_);
}

void Pit8254::restore(StateReader& in) {
  in.section(name());
  counters_[0].restore(in, "counter0.");
  counters_[1].restore(in, "counter1.");
  counters_[2].restore(in, "counter2.");
  in.u8("control_b", control_b_);
  in.check("control_b", (control_b_ & ~port61::writable) == 0);
}

constinit const DeviceType kPit8254Device{
    .name = "pit8254",
    .help = "8254 interval timer and port 0x61",
    .make =
        [](DeviceContext& c) {
          auto& pit = c.add<Pit8254>(c.guest_clock(), c.deadlines(), c.irq(machine_map::kPitIrq));
          c.claim_ports({.first = machine_map::kPit, .count = 4, .device = &pit});
          c.claim_ports({.first = machine_map::kSystemControlB, .count = 1, .device = &pit});
        },
    .firmware =
        [](const DeviceOptions&, FirmwareTables& tables) {
          tables.overrides.push_back({.line = machine_map::kPitIrq, .gsi = machine_map::kPitGsi});
        },
    .single = true,
};

}  // namespace retrovisor
