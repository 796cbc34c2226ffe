#include "vmm/devices/io_apic.h"

#include "vmm/board/device_context.h"

namespace retrovisor {
namespace {

constexpr uint64_t kSelect = 0x00, kWindow = 0x10;
enum Register : uint8_t { IOAPICID = 0, IOAPICVER = 1, IOAPICARB = 2, IOREDTBL = 0x10 };
constexpr uint32_t kVersion = 0x11 | (IoApic::kPins - 1) << 16;

namespace redir {
constexpr uint64_t vector = 0xff, logical = 1 << 11, remote_irr = 1 << 14, level = 1 << 15, mask = 1 << 16;
constexpr unsigned mode_shift = 8, destination_shift = 56;
// Delivery status (bit 12) reads as idle: messages take no time.
constexpr uint64_t writable_low = 0x1afff, writable_high = uint64_t{0xff} << destination_shift;
}  // namespace redir

constexpr DeliveryMode mode_of(uint64_t entry) { return static_cast<DeliveryMode>(entry >> redir::mode_shift & 7); }

// Only these modes can be level triggered; the others are always edges (3.2.4).
constexpr bool is_level(uint64_t entry) {
  const DeliveryMode mode = mode_of(entry);
  return (entry & redir::level) != 0 && (mode == DeliveryMode::fixed || mode == DeliveryMode::lowest_priority);
}

}  // namespace

void IoApic::reset(const PowerOn&) {
  select_ = 0;
  id_ = machine_map::kIoApicId;
  pins_ = 0;
  redirection_.fill(redir::mask);
}

bool IoApic::send(unsigned pin) {
  const uint64_t entry = redirection_[pin];
  ApicMessage message;
  message.destination = static_cast<uint8_t>(entry >> redir::destination_shift);
  message.logical = (entry & redir::logical) != 0;
  message.mode = mode_of(entry);
  message.vector = static_cast<uint8_t>(entry & redir::vector);
  message.level = is_level(entry);
  // Start-up is no mode of a redirection entry.
  return message.mode != DeliveryMode::start_up && bus_.deliver(message);
}

void IoApic::service_level(unsigned pin) {
  uint64_t& entry = redirection_[pin];
  if ((pins_ >> pin & 1) == 0 || !is_level(entry) || (entry & (redir::mask | redir::remote_irr)) != 0) return;
  // Nobody there to take it: it stays pending, to be tried again when something changes.
  if (send(pin)) entry |= redir::remote_irr;
}

void IoApic::set_irq(unsigned line, bool level) {
  if (line >= kPins) return;
  const uint32_t bit = 1u << line;
  if (((pins_ & bit) != 0) == level) return;
  pins_ ^= bit;
  if (!level) return;
  const uint64_t entry = redirection_[line];
  if (is_level(entry)) {
    service_level(line);
  } else if ((entry & redir::mask) == 0) {
    send(line);  // an edge at a masked pin is lost (3.2.4, interrupt mask)
  }
}

void IoApic::end_of_interrupt(uint8_t vector) {
  for (unsigned pin = 0; pin < kPins; ++pin) {
    uint64_t& entry = redirection_[pin];
    if ((entry & redir::remote_irr) == 0 || (entry & redir::vector) != vector) continue;
    entry &= ~redir::remote_irr;
    service_level(pin);
  }
}

uint32_t IoApic::read_register(uint8_t index) const {
  if (index == IOAPICID || index == IOAPICARB) return static_cast<uint32_t>(id_) << 24;
  if (index == IOAPICVER) return kVersion;
  const unsigned half = index - IOREDTBL;
  if (index < IOREDTBL || half >= 2 * kPins) return 0;
  return static_cast<uint32_t>(redirection_[half / 2] >> (half & 1) * 32);
}

void IoApic::write_register(uint8_t index, uint32_t value) {
  if (index == IOAPICID) {
    id_ = value >> 24 & 0xf;
    return;
  }
  const unsigned half = index - IOREDTBL;
  if (index < IOREDTBL || half >= 2 * kPins) return;
  uint64_t& entry = redirection_[half / 2];
  if ((half & 1) != 0) {
    entry = (entry & ~redir::writable_high) | (uint64_t{value} << 32 & redir::writable_high);
  } else {
    entry = (entry & ~redir::writable_low) | (value & redir::writable_low);
    // Remote IRR is for level triggering; guests clear a stuck one by a change to edge and back.
    if (!is_level(entry)) entry &= ~redir::remote_irr;
  }
  service_level(half / 2);
}

uint64_t IoApic::read(const BusAccess& access) {
  const uint64_t base = access.offset & ~uint64_t{3};
  const uint32_t value = base == kSelect ? select_ : base == kWindow ? read_register(select_) : 0;
  return value >> (access.offset & 3) * 8;
}

void IoApic::write(const BusAccess& access, uint64_t value) {
  if (access.offset == kSelect) {
    select_ = static_cast<uint8_t>(value);
  } else if (access.offset == kWindow && access.size >= 4) {
    write_register(select_, static_cast<uint32_t>(value));
  }
}

void IoApic::save(StateWriter& out) const {
  out.section(name());
  out.u8("IOREGSEL", select_);
  out.u8("IOAPICID", id_);
  out.u32("pins", pins_);
  for (unsigned pin = 0; pin < kPins; ++pin) out.u64("IOREDTBL" + std::to_string(pin), redirection_[pin]);
}

void IoApic::restore(StateReader& in) {
  in.section(name());
  in.u8("IOREGSEL", select_);
  in.u8("IOAPICID", id_);
  in.check("IOAPICID", id_ <= 0xf);
  in.u32("pins", pins_);
  in.check("pins", pins_ < 1u << kPins);
  for (unsigned pin = 0; pin < kPins; ++pin) {
    uint64_t& entry = redirection_[pin];
    const std::string field = "IOREDTBL" + std::to_string(pin);
    in.u64(field, entry);
    constexpr uint64_t kAll = redir::writable_low | redir::writable_high | redir::remote_irr;
    in.check(field, (entry & ~kAll) == 0 && ((entry & redir::remote_irr) == 0 || is_level(entry)));
  }
}

constinit const DeviceType kIoApicDevice{
    .name = "ioapic",
    .help = "82093AA: interrupt lines to messages for the local APICs",
    .make =
        [](DeviceContext& c) {
          auto& io_apic = c.add<IoApic>(c.shared<ApicBus>());
          c.claim_memory({.first = machine_map::kIoApicBase, .count = machine_map::kIoApicSize, .device = &io_apic});
          c.wiring().isa.add(io_apic.isa_pins());
          c.wiring().gsi.add(io_apic);
          // Its pin may be set up to send the same request as an ExtINT message.
          c.wiring().pic_intr.add_last(io_apic.pic_pin());
        },
    .firmware =
        [](const DeviceOptions&, FirmwareTables& tables) {
          using namespace machine_map;
          tables.io_apics.push_back({.id = kIoApicId, .address = kIoApicBase, .gsi_base = kGsiBase, .pic_pin = kPicGsi});
          tables.reserved.push_back({PhysAddr(kIoApicBase), kIoApicSize});
        },
    .single = true,
};

}  // namespace retrovisor
