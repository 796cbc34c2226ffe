#include "vmm/devices/uart16550.h"

#include "vmm/board/device_context.h"
#include "vmm/devices/ticks.h"

namespace retrovisor {
namespace {

enum Register : unsigned { RBR_THR = 0, IER = 1, IIR_FCR = 2, LCR = 3, MCR = 4, LSR = 5, MSR = 6, SCR = 7 };

namespace ier {
constexpr uint8_t ERBFI = 1, ETBEI = 2, ELSI = 4, EDSSI = 8, all = 0x0f;
}
namespace iir {  // bits 3-0, in order of priority
constexpr uint8_t line_status = 6, data_available = 4, time_out = 0xc, thr_empty = 2, modem_status = 0, none = 1,
                  fifos = 0xc0;
}
namespace fcr {
constexpr uint8_t enable = 1, receiver_reset = 2, trigger = 0xc0;
}
namespace lcr {
constexpr uint8_t WLS = 3, STB = 4, PEN = 8, DLAB = 0x80;
}
namespace mcr {
constexpr uint8_t DTR = 1, RTS = 2, OUT1 = 4, OUT2 = 8, LOOP = 0x10, all = 0x1f;
}
namespace lsr {
constexpr uint8_t DR = 1, OE = 2, THRE = 0x20, TEMT = 0x40;
}
namespace line {  // MSR: the modem lines, not a model-specific register
constexpr uint8_t CTS = 0x10, DSR = 0x20, RI = 0x40, DCD = 0x80, DCTS = 1, DDSR = 2, TERI = 4, DDCD = 8;
}

constexpr uint64_t kInputHz = 1'843'200;  // PC: 1.8432 MHz; a bit takes 16 cycles times the divisor
constexpr unsigned kTriggers[4] = {1, 4, 8, 14};

}  // namespace

Uart16550::Uart16550(std::string name, const Clock& clock, Deadlines& deadlines, IrqLine irq)
    : name_(std::move(name)),
      clock_(clock),
      deadlines_(deadlines),
      irq_(irq),
      timeout_(deadlines.add(name_ + ".rx_timeout", [this](VirtualTime) { update(); })) {}

void Uart16550::reset(const PowerOn&) {
  ier_ = fcr_ = lcr_ = mcr_ = scr_ = 0;
  divisor_ = 12;  // 9600 baud; the chip leaves it undefined
  msr_delta_ = 0;
  overrun_ = thre_pending_ = false;
  fifo_.fill(0);
  last_rbr_ = 0;
  last_activity_ = 0;
  clear_receiver();
  update();
}

bool Uart16550::fifo_enabled() const { return (fcr_ & fcr::enable) != 0; }
bool Uart16550::loopback() const { return (mcr_ & mcr::LOOP) != 0; }
unsigned Uart16550::trigger() const { return fifo_enabled() ? kTriggers[fcr_ >> 6] : 1; }

// Four character times (data sheet 8.4.1): start bit, 5-8 data bits, parity, 1, 1.5 or 2 stop bits.
uint64_t Uart16550::timeout_ns() const {
  const unsigned data = 5u + (lcr_ & lcr::WLS);
  const unsigned stop_halves = (lcr_ & lcr::STB) == 0 ? 2 : data == 5 ? 3 : 4;
  const uint64_t half_bits = 2 * (1 + data + ((lcr_ & lcr::PEN) != 0 ? 1u : 0u)) + stop_halves;
  const uint64_t divisor = divisor_ == 0 ? 1 : divisor_;
  return 4 * half_bits * divisor * 8 * kNsPerSecond / kInputHz;
}

bool Uart16550::timed_out() const {
  return fifo_enabled() && fifo_count_ != 0 && clock_.now().value >= last_activity_ + timeout_ns();
}

uint8_t Uart16550::pending() const {
  if ((ier_ & ier::ELSI) != 0 && overrun_) return iir::line_status;
  if ((ier_ & ier::ERBFI) != 0) {
    if (fifo_count_ >= trigger()) return iir::data_available;
    if (timed_out()) return iir::time_out;
  }
  if ((ier_ & ier::ETBEI) != 0 && thre_pending_) return iir::thr_empty;
  if ((ier_ & ier::EDSSI) != 0 && msr_delta_ != 0) return iir::modem_status;
  return iir::none;
}

// Brings the interrupt line and the time-out's deadline up to date.
void Uart16550::update() {
  irq_.set(pending() != iir::none && (mcr_ & mcr::OUT2) != 0 && !loopback());
  VirtualTime when = kNever;
  if (fifo_enabled() && (ier_ & ier::ERBFI) != 0 && fifo_count_ != 0 && fifo_count_ < trigger() && !timed_out())
    when = VirtualTime(last_activity_ + timeout_ns());
  if (deadlines_.deadline(timeout_) != when) deadlines_.arm(timeout_, when);
}

void Uart16550::clear_receiver() { fifo_head_ = fifo_count_ = 0; }

size_t Uart16550::room() const { return loopback() ? 0 : depth() - fifo_count_; }

void Uart16550::receive(std::span<const uint8_t> bytes) {
  if (loopback()) return;
  for (const uint8_t byte : bytes) take(byte);
  update();
}

void Uart16550::take(uint8_t byte) {
  if (fifo_count_ == depth()) {
    overrun_ = true;
    if (!fifo_enabled()) fifo_[fifo_head_] = byte;  // without FIFOs the new character replaces the old one
    return;
  }
  fifo_[(fifo_head_ + fifo_count_) % kFifoSize] = byte;
  ++fifo_count_;
  last_activity_ = clock_.now().value;
}

void Uart16550::transmit(uint8_t byte) {
  thre_pending_ = true;  // cleared by the write, and due again as the byte leaves THR at once
  if (loopback()) {
    take(byte);
  } else {
    output_(std::span<const uint8_t>(&byte, 1));
  }
}

uint8_t Uart16550::read_rbr() {
  if (fifo_count_ != 0) {
    last_rbr_ = fifo_[fifo_head_];
    fifo_head_ = static_cast<uint8_t>((fifo_head_ + 1) % kFifoSize);
    --fifo_count_;
    last_activity_ = clock_.now().value;
  }
  return last_rbr_;
}

uint8_t Uart16550::modem_lines() const {
  if (!loopback()) return line::CTS | line::DSR | line::DCD;
  uint8_t lines = 0;
  if ((mcr_ & mcr::RTS) != 0) lines |= line::CTS;
  if ((mcr_ & mcr::DTR) != 0) lines |= line::DSR;
  if ((mcr_ & mcr::OUT1) != 0) lines |= line::RI;
  if ((mcr_ & mcr::OUT2) != 0) lines |= line::DCD;
  return lines;
}

void Uart16550::write_mcr(uint8_t value) {
  const uint8_t before = modem_lines();
  mcr_ = value & mcr::all;
  const uint8_t after = modem_lines();
  const uint8_t changed = before ^ after;
  if ((changed & line::CTS) != 0) msr_delta_ |= line::DCTS;
  if ((changed & line::DSR) != 0) msr_delta_ |= line::DDSR;
  if ((changed & line::DCD) != 0) msr_delta_ |= line::DDCD;
  if ((changed & before & line::RI) != 0) msr_delta_ |= line::TERI;  // trailing edge only
}

void Uart16550::write_fcr(uint8_t value) {
  // Changing bit 0 empties the FIFOs; the other bits count only while it is written as 1 (8.4).
  if (((value ^ fcr_) & fcr::enable) != 0) clear_receiver();
  if ((value & fcr::enable) == 0) {
    fcr_ = 0;
    return;
  }
  fcr_ = value & (fcr::enable | fcr::trigger);
  if ((value & fcr::receiver_reset) != 0) clear_receiver();
}

uint64_t Uart16550::read(const BusAccess& access) {
  uint8_t value = 0;
  const bool dlab = (lcr_ & lcr::DLAB) != 0;
  switch (access.offset) {
    case RBR_THR: value = dlab ? static_cast<uint8_t>(divisor_) : read_rbr(); break;
    case IER: value = dlab ? static_cast<uint8_t>(divisor_ >> 8) : ier_; break;
    case IIR_FCR:
      value = static_cast<uint8_t>(pending() | (fifo_enabled() ? iir::fifos : 0));
      if ((value & 0xf) == iir::thr_empty) thre_pending_ = false;  // the read that reports it also clears it (8.6)
      break;
    case LCR: value = lcr_; break;
    case MCR: value = mcr_; break;
    case LSR:
      value = static_cast<uint8_t>(lsr::THRE | lsr::TEMT | (fifo_count_ != 0 ? lsr::DR : 0) | (overrun_ ? lsr::OE : 0));
      overrun_ = false;
      break;
    case MSR:
      value = modem_lines() | msr_delta_;
      msr_delta_ = 0;
      break;
    case SCR: value = scr_; break;
    default: value = 0xff; break;
  }
  update();
  return value;
}

void Uart16550::write(const BusAccess& access, uint64_t wide) {
  const auto value = static_cast<uint8_t>(wide);
  const bool dlab = (lcr_ & lcr::DLAB) != 0;
  switch (access.offset) {
    case RBR_THR:
      if (dlab) {
        divisor_ = static_cast<uint16_t>((divisor_ & 0xff00) | value);
      } else {
        transmit(value);
      }
      break;
    case IER:
      if (dlab) {
        divisor_ = static_cast<uint16_t>((divisor_ & 0xff) | value << 8);
      } else {
        // THR is always empty, so enabling the interrupt raises it (8.7).
        if ((value & ~ier_ & ier::ETBEI) != 0) thre_pending_ = true;
        ier_ = value & ier::all;
      }
      break;
    case IIR_FCR: write_fcr(value); break;
    case LCR: lcr_ = value; break;
    case MCR: write_mcr(value); break;
    case SCR: scr_ = value; break;
    default: break;  // LSR and MSR: writes are for factory tests
  }
  update();
}

void Uart16550::save(StateWriter& out) const {
  out.section(name());
  out.u8("IER", ier_);
  out.u8("FCR", fcr_);
  out.u8("LCR", lcr_);
  out.u8("MCR", mcr_);
  out.u8("SCR", scr_);
  out.u16("divisor", divisor_);
  out.u8("MSR_delta", msr_delta_);
  out.boolean("OE", overrun_);
  out.boolean("THRE_pending", thre_pending_);
  out.bytes("fifo", fifo_);
  out.u8("fifo_head", fifo_head_);
  out.u8("fifo_count", fifo_count_);
  out.u8("last_RBR", last_rbr_);
  out.u64("last_activity", last_activity_);
}

void Uart16550::restore(StateReader& in) {
  in.section(name());
  in.u8("IER", ier_);
  in.check("IER", (ier_ & ~ier::all) == 0);
  in.u8("FCR", fcr_);
  in.check("FCR", (fcr_ & ~(fcr::enable | fcr::trigger)) == 0 && (fifo_enabled() || fcr_ == 0));
  in.u8("LCR", lcr_);
  in.u8("MCR", mcr_);
  in.check("MCR", (mcr_ & ~mcr::all) == 0);
  in.u8("SCR", scr_);
  in.u16("divisor", divisor_);
  in.u8("MSR_delta", msr_delta_);
  in.check("MSR_delta", msr_delta_ <= 0xf);
  in.boolean("OE", overrun_);
  in.boolean("THRE_pending", thre_pending_);
  in.bytes("fifo", fifo_);
  in.u8("fifo_head", fifo_head_);
  in.check("fifo_head", fifo_head_ < kFifoSize);
  in.u8("fifo_count", fifo_count_);
  in.check("fifo_count", fifo_count_ <= depth());
  in.u8("last_RBR", last_rbr_);
  in.u64("last_activity", last_activity_);
  in.check("last_activity", last_activity_ < kMaxRestoredTime);
  if (!in.ok()) clear_receiver();  // no index may stay out of range
}

namespace {

constexpr OptionType kOptions[] = {
    {.name = "index", .standard = "0", .help = "its number: uart0 is COM1", .most = 3},
    {.name = "port", .standard = "0x3f8", .help = "the first of its eight ports", .most = 0xfff8},
    {.name = "irq", .standard = "4", .help = "its line of the ISA bus", .most = 15},
    {.name = "console", .kind = OptionKind::flag, .standard = "on", .help = "whether a kernel's messages are looked for here"},
};

}  // namespace

constinit const DeviceType kUart16550Device{
    .name = "uart16550",
    .help = "16550A serial port",
    .options = kOptions,
    .make =
        [](DeviceContext& c) {
          const std::string name = "uart" + std::to_string(c.options().number("index"));
          auto& uart = c.add<Uart16550>(name, c.guest_clock(), c.deadlines(), c.irq(static_cast<unsigned>(c.options().number("irq"))));
          uart.connect(c.output(c.endpoint({.name = name, .console = c.options().flag("console")}, &uart)));
          c.claim_ports({.first = c.options().number("port"), .count = Uart16550::kPorts, .device = &uart});
        },
    .firmware =
        [](const DeviceOptions& options, FirmwareTables& tables) {
          using namespace aml;
          const uint64_t number = options.number("index") + 1;
          const auto port = static_cast<uint16_t>(options.number("port"));
          const auto line = static_cast<unsigned>(options.number("irq"));
          tables.legacy_devices = true;
          tables.serial_ports.push_back(port);
          tables.devices["COM" + std::to_string(number)] =
              join({name("_HID", eisa_id("PNP0501")), name("_UID", integer(number)), name("_STA", integer(0xf)),
                    name("_CRS", resources(join({io(port, Uart16550::kPorts), irq(line)})))});
        },
};

}  // namespace retrovisor
