#include "vmm/devices/chipset.h"

#include <ranges>

#include "vmm/devices/acpi_pm.h"
#include "vmm/devices/apic_bus.h"
#include "vmm/devices/debug_ports.h"
#include "vmm/devices/i8042.h"
#include "vmm/devices/io_apic.h"
#include "vmm/devices/local_apic.h"
#include "vmm/devices/machine_map.h"
#include "vmm/devices/pic8259.h"
#include "vmm/devices/pit8254.h"
#include "vmm/devices/reset_control.h"
#include "vmm/devices/rtc.h"
#include "vmm/devices/uart16550.h"

namespace retrovisor {
namespace {

using namespace machine_map;

// INTR of the PICs. The IO-APIC is told last: its pin may be set up to send the same request as an ExtINT message.
class PicOutput final : public IrqSink {
 public:
  explicit PicOutput(ApicBus& bus) : bus_(bus) {}
  void connect(IoApic& io_apic) { io_apic_ = &io_apic; }
  void set_irq(unsigned, bool level) override {
    for (LocalApic* apic : bus_.apics()) apic->set_lint0(level);
    if (io_apic_ != nullptr) io_apic_->set_irq(kPicGsi, level);
  }

 private:
  ApicBus& bus_;
  IoApic* io_apic_ = nullptr;
};

// An ISA line goes to both controllers; the guest masks it in the one it does not use.
class IsaIrqs final : public IrqSink {
 public:
  IsaIrqs(Pic8259& pic, IoApic& io_apic) : pic_(pic), io_apic_(io_apic) {}
  void set_irq(unsigned line, bool level) override {
    pic_.set_irq(line, level);
    io_apic_.set_irq(line == kPitIrq ? kPitGsi : line, level);
  }

 private:
  Pic8259& pic_;
  IoApic& io_apic_;
};

}  // namespace

template <class D, class... Args>
D& Chipset::add(Args&&... args) {
  auto device = std::make_unique<D>(std::forward<Args>(args)...);
  D& reference = *device;
  devices_.push_back(std::move(device));
  return reference;
}

Chipset::Chipset(const Platform& platform, std::span<const std::unique_ptr<Vcpu>> vcpus, Output output) {
  PortBus& ports = platform.ports;
  const auto to = [output = std::move(output)](Channel channel) {
    return [output, channel](std::span<const uint8_t> bytes) {
      if (output) output(channel, bytes);
    };
  };

  apic_bus_ = std::make_unique<ApicBus>(platform.journal);
  auto pic_output = std::make_unique<PicOutput>(*apic_bus_);
  auto& pic = add<Pic8259>(IrqLine(*pic_output, 0));
  ports.map(kPic0, 2, pic);
  ports.map(kPic1, 2, pic);
  ports.map(kElcr, 2, pic);
  auto& io_apic = add<IoApic>(*apic_bus_);
  platform.mmio.map({PhysAddr(kIoApicBase), kIoApicSize}, io_apic);
  pic_output->connect(io_apic);
  pic_output_ = std::move(pic_output);
  for (const auto& vcpu : vcpus) add<LocalApic>(platform, *vcpu, *apic_bus_, pic);
  isa_irqs_ = std::make_unique<IsaIrqs>(pic, io_apic);
  const auto irq = [this](unsigned line) { return IrqLine(*isa_irqs_, line); };

  auto& pit = add<Pit8254>(platform.clock, platform.deadlines, irq(kPitIrq));
  ports.map(kPit, 4, pit);
  ports.map(kSystemControlB, 1, pit);
  rtc_ = &add<Rtc>(platform.clock, platform.deadlines, irq(kRtcIrq), platform.memory.size());
  ports.map(kRtcIndex, 2, *rtc_);
  serial_ = &add<Uart16550>(kSerialPort, platform.clock, platform.deadlines, irq(kSerialIrq), to(Channel::serial0));
  ports.map(kSerialPort, Uart16550::kPorts, *serial_);
  auto& keyboard = add<I8042>(platform.control, irq(kKeyboardIrq), irq(kAuxIrq));
  ports.map(kI8042Data, 1, keyboard);
  ports.map(kI8042Command, 1, keyboard);
  ports.map(kSystemControlA, 1, keyboard);
  auto& pm = add<AcpiPm>(platform.clock, platform.deadlines, platform.control, irq(kSciIrq));
  ports.map(kPm1aEvent, 6, pm);
  ports.map(kPmTimer, 4, pm);
  ports.map(ResetControl::kFirstPort, ResetControl::kPorts, add<ResetControl>(platform.control));
  ports.map(kDebugExit, DebugExit::kPorts, add<DebugExit>(platform.control));
  auto& console = add<DebugConsole>(to(Channel::debug));
  ports.map(kDebugConsoleE9, 1, console);
  ports.map(kDebugConsole402, 1, console);
}

Chipset::~Chipset() = default;

void Chipset::reset(uint64_t wall_clock) {
  // From the last to the first: the interrupt controllers forget what the lines of devices did while they were reset.
  for (const auto& device : std::views::reverse(devices_)) device->reset();
  rtc_->set_time(wall_clock);
}

size_t Chipset::input_room(Channel channel) const { return channel == Channel::serial0 ? serial_->input_room() : 0; }

void Chipset::input(Channel channel, std::span<const uint8_t> bytes) {
  if (channel == Channel::serial0) serial_->input(bytes);
}

void Chipset::save(StateWriter& out) const {
  for (const auto& device : devices_) device->save(out);
}

void Chipset::restore(StateReader& in) {
  for (const auto& device : devices_) device->restore(in);
}

}  // namespace retrovisor
