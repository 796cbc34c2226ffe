#include "tests/unit/board/led.h"

namespace retrovisor::test {

Led::Led(std::string name, DeviceContext& context, unsigned irq)
    : name_(std::move(name)),
      deadlines_(context.deadlines()),
      clock_(context.guest_clock()),
      irq_(context.irq(irq)),
      timer_(deadlines_.add(name_ + ".blink", [this](VirtualTime when) { blink(when); })) {}

void Led::reset(const PowerOn&) {
  brightness_ = 0;
  period_ = blinks_ = 0;
  deadlines_.cancel(timer_);
}

void Led::blink(VirtualTime when) {
  ++blinks_;
  irq_.set(true);
  const uint8_t light = '*';
  if (output_) output_({&light, 1});
  if (period_ != 0) deadlines_.arm(timer_, when + period_);
}

uint64_t Led::read(const BusAccess& access) {
  ++accesses;
  last_vcpu = access.vcpu;
  last_position = access.position;
  if (access.space == AddressSpace::ports) return brightness_;
  if (access.offset != 8) return access.offset == 0 ? period_ : 0;
  irq_.set(false);
  return blinks_;
}

void Led::write(const BusAccess& access, uint64_t value) {
  ++accesses;
  last_vcpu = access.vcpu;
  last_position = access.position;
  if (access.space == AddressSpace::ports) {
    brightness_ = static_cast<uint8_t>(value);
  } else if (access.offset == 0) {
    period_ = value == 0 ? 0 : std::max<uint64_t>(value & 0xffffffff, 1000);
    if (period_ == 0)
      deadlines_.cancel(timer_);
    else
      deadlines_.arm(timer_, clock_.now() + period_);
  }
}

void Led::save(StateWriter& out) const {
  out.section(name());
  out.u8("brightness", brightness_);
  out.u64("period", period_);
  out.u64("blinks", blinks_);
}

void Led::restore(StateReader& in) {
  in.section(name());
  in.u8("brightness", brightness_);
  in.u64("period", period_);
  in.check("period", period_ == 0 || (period_ >= 1000 && period_ <= 0xffffffff));
  in.u64("blinks", blinks_);
}

namespace {

constexpr OptionType kOptions[] = {
    {.name = "index", .standard = "0", .help = "its number", .most = 7},
    {.name = "port", .standard = "0x320", .help = "its port", .most = 0xffff},
    {.name = "irq", .standard = "5", .help = "its line of the ISA bus", .most = 15},
};

}  // namespace

constinit const DeviceType kLedDevice{
    .name = "led",
    .version = 4,
    .help = "a lamp",
    .options = kOptions,
    .make =
        [](DeviceContext& c) {
          const uint64_t index = c.options().number("index");
          const std::string name = "led" + std::to_string(index);
          auto& led = c.add<Led>(name, c, static_cast<unsigned>(c.options().number("irq")));
          led.connect(c.output(c.endpoint({.name = name}, &led)));
          c.claim_ports({.first = c.options().number("port"), .count = 1, .device = &led});
          c.claim_memory({.first = kLedMemory + 0x1000 * index, .count = 16, .device = &led});
        },
    .firmware =
        [](const DeviceOptions& options, FirmwareTables& tables) {
          tables.devices["LED" + std::to_string(options.number("index"))] = aml::name("_HID", aml::eisa_id("RVT0001"));
        },
};

namespace {
const DeviceRegistration kRegistered(kLedDevice);
}  // namespace

}  // namespace retrovisor::test
