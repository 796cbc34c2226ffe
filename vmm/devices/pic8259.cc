#include "vmm/devices/pic8259.h"

#include <bit>
#include <string>

#include "vmm/board/device_context.h"
#include "vmm/devices/machine_map.h"

namespace retrovisor {
namespace {

constexpr unsigned kMaster = 0, kSlave = 1, kCascadeLine = 2, kSpuriousLine = 7;

namespace icw1 {
constexpr uint8_t IC4 = 1, SNGL = 2, LTIM = 8, select = 0x10, kept = IC4 | SNGL | LTIM;
}
namespace icw4 {
constexpr uint8_t AEOI = 2, SFNM = 0x10, kept = 0x1f;
}
namespace ocw3 {
constexpr uint8_t RIS = 1, RR = 2, P = 4, select = 8, SMM = 0x20, ESMM = 0x40;
}
// Lines whose trigger mode is fixed to edge: timer, keyboard, cascade; RTC, FERR.
constexpr uint8_t kElcrWritable[2] = {0xf8, 0xde};
constexpr uint8_t kElcrReset[2] = {0, 1 << (machine_map::kSciIrq - 8)};

// What the power-on test of a BIOS writes: ICW2 and ICW4 of the IBM PC/AT, whose interrupt vectors software found its way to; open are the
// lines that a BIOS serves: timer, keyboard, cascade; RTC, mouse, FERR (SeaBIOS, on a machine without disks).
struct BiosChip {
  uint8_t vector_base, icw4, imr;
};
constexpr BiosChip kBios[2] = {{0x08, 1, 0xf8}, {0x70, 1, 0xce}};

constexpr uint8_t bit(unsigned line) { return static_cast<uint8_t>(1u << (line & 7)); }

}  // namespace

uint8_t Pic8259::Chip::level_mask() const { return (icw1 & icw1::LTIM) != 0 ? 0xff : elcr; }

uint8_t Pic8259::Chip::requests() const {
  const uint8_t level = level_mask();
  return static_cast<uint8_t>((irr & ~level) | (lines & level));
}

void Pic8259::Chip::set_line(unsigned line, bool level) {
  const uint8_t mask = bit(line);
  if (level) {
    if ((lines & mask) == 0) irr |= mask;
    lines |= mask;
  } else {
    // An edge request needs its line high until it is acknowledged ("IR triggering timing requirements").
    irr &= static_cast<uint8_t>(~mask);
    lines &= static_cast<uint8_t>(~mask);
  }
}

int Pic8259::Chip::highest(uint8_t set) const {
  if (set == 0) return -1;
  const unsigned top = (lowest + 1u) & 7;
  const auto rotated = std::rotr(set, static_cast<int>(top));
  return static_cast<int>((top + static_cast<unsigned>(std::countr_zero(rotated))) & 7);
}

int Pic8259::Chip::candidate(bool master) const {
  if (next_icw != 0) return -1;
  const int line = highest(static_cast<uint8_t>(requests() & ~imr));
  if (line < 0) return -1;
  // In special mask mode levels in service that are masked hold nobody back.
  const int serving = highest(special_mask ? static_cast<uint8_t>(isr & ~imr) : isr);
  if (serving < 0) return line;
  const auto rank = [this](int l) { return (static_cast<unsigned>(l) - lowest - 1u) & 7; };
  if (rank(line) < rank(serving)) return line;
  // Special fully nested mode: a slave in service is not locked out (its own logic knows what is higher).
  if (master && (icw4 & icw4::SFNM) != 0 && line == serving && (cascade & bit(static_cast<unsigned>(line))) != 0)
    return line;
  return -1;
}

void Pic8259::Chip::serve(unsigned line) {
  irr &= static_cast<uint8_t>(~bit(line));
  if ((icw4 & icw4::AEOI) != 0) {
    if (rotate_in_aeoi) lowest = static_cast<uint8_t>(line);
  } else {
    isr |= bit(line);
  }
}

void Pic8259::Chip::end_of_interrupt(unsigned line, bool rotate) {
  isr &= static_cast<uint8_t>(~bit(line));
  if (rotate) lowest = static_cast<uint8_t>(line & 7);
}

void Pic8259::Chip::write_icw1(uint8_t value) {
  icw1 = value & icw1::kept;
  irr = imr = isr = 0;  // the edge sense is cleared: a line that is high must go low first
  if ((value & icw1::IC4) == 0) icw4 = 0;
  lowest = 7;
  rotate_in_aeoi = special_mask = read_isr = poll = false;
  next_icw = 2;
}

void Pic8259::Chip::write_ocw2(uint8_t value) {
  const unsigned level = value & 7;
  const int top = highest(special_mask ? static_cast<uint8_t>(isr & ~imr) : isr);
  switch (value >> 5) {  // R, SL, EOI
    case 0: rotate_in_aeoi = false; break;
    case 4: rotate_in_aeoi = true; break;
    case 1: case 5:
      if (top >= 0) end_of_interrupt(static_cast<unsigned>(top), (value & 0x80) != 0);
      break;
    case 3: case 7: end_of_interrupt(level, (value & 0x80) != 0); break;
    case 6: lowest = static_cast<uint8_t>(level); break;
    default: break;  // 2: no operation
  }
}

void Pic8259::Chip::write_odd(uint8_t value) {
  const auto after_icw3 = static_cast<uint8_t>((icw1 & icw1::IC4) != 0 ? 4 : 0);
  switch (next_icw) {
    case 2:
      vector_base = value & 0xf8;
      next_icw = (icw1 & icw1::SNGL) != 0 ? after_icw3 : 3;
      break;
    case 3:
      cascade = value;
      next_icw = after_icw3;
      break;
    case 4:
      icw4 = value & icw4::kept;
      next_icw = 0;
      break;
    default: imr = value; break;  // OCW1
  }
}

void Pic8259::reset(const PowerOn&) {
  for (unsigned i = 0; i < 2; ++i) {
    chips_[i] = Chip{};
    chips_[i].imr = 0xff;
    chips_[i].elcr = kElcrReset[i];
    chips_[i].cascade = i == kMaster ? bit(kCascadeLine) : kCascadeLine;
    if (!by_bios_) continue;
    chips_[i].icw1 = icw1::IC4;
    chips_[i].icw4 = kBios[i].icw4;
    chips_[i].vector_base = kBios[i].vector_base;
    chips_[i].imr = kBios[i].imr;
  }
  update(false);
}

void Pic8259::set_irq(unsigned line, bool level) {
  if (line >= 16 || line == kCascadeLine) return;
  Chip& chip = chips_[line >> 3];
  if (((chip.lines & bit(line)) != 0) == level) return;
  chip.set_line(line & 7, level);
  update(false);
}

void Pic8259::update(bool pulse) {
  Chip& master = chips_[kMaster];
  const bool slave_out = chips_[kSlave].candidate(false) >= 0;
  if (pulse || !slave_out) master.set_line(kCascadeLine, false);
  if (slave_out) master.set_line(kCascadeLine, true);
  const bool out = master.candidate(true) >= 0;
  if (intr_ && (pulse || !out)) {
    intr_ = false;
    intr_line_.set(false);
  }
  if (out && !intr_) {
    intr_ = true;
    intr_line_.set(true);
  }
}

uint8_t Pic8259::serve_slave() {
  Chip& slave = chips_[kSlave];
  const int line = slave.candidate(false);
  if (line < 0) return static_cast<uint8_t>(slave.vector_base + kSpuriousLine);  // IRQ 15, not in service
  slave.serve(static_cast<unsigned>(line));
  return static_cast<uint8_t>(slave.vector_base + line);
}

uint8_t Pic8259::acknowledge() {
  Chip& master = chips_[kMaster];
  const int line = master.candidate(true);
  uint8_t vector = 0;
  if (line < 0) {
    vector = static_cast<uint8_t>(master.vector_base + kSpuriousLine);  // IRQ 7, not in service
  } else {
    master.serve(static_cast<unsigned>(line));
    vector = line == kCascadeLine ? serve_slave() : static_cast<uint8_t>(master.vector_base + line);
  }
  update(true);
  return vector;
}

// Poll command: the next read is an acknowledge that tells the level instead of a vector.
uint8_t Pic8259::poll_read(unsigned index) {
  Chip& chip = chips_[index];
  chip.poll = false;
  const int line = chip.candidate(index == kMaster);
  if (line < 0) return 0;
  chip.serve(static_cast<unsigned>(line));
  update(true);
  return static_cast<uint8_t>(0x80 | line);
}

uint64_t Pic8259::read(const BusAccess& access) {
  const auto port = static_cast<uint16_t>(access.address);
  if (port == machine_map::kElcr || port == machine_map::kElcr + 1) return chips_[port - machine_map::kElcr].elcr;
  const unsigned index = (port & ~1) == machine_map::kPic1 ? kSlave : kMaster;
  const Chip& chip = chips_[index];
  if (chip.poll) return poll_read(index);
  if ((port & 1) != 0) return chip.imr;
  return chip.read_isr ? chip.isr : chip.requests();
}

void Pic8259::write(const BusAccess& access, uint64_t wide) {
  const auto port = static_cast<uint16_t>(access.address);
  const auto value = static_cast<uint8_t>(wide);
  if (port == machine_map::kElcr || port == machine_map::kElcr + 1) {
    const unsigned index = port - machine_map::kElcr;
    chips_[index].elcr = value & kElcrWritable[index];
    update(false);
    return;
  }
  Chip& chip = chips_[(port & ~1) == machine_map::kPic1 ? kSlave : kMaster];
  if ((port & 1) != 0) {
    chip.write_odd(value);
  } else if ((value & icw1::select) != 0) {
    chip.write_icw1(value);
  } else if ((value & ocw3::select) != 0) {
    if ((value & ocw3::P) != 0) {
      chip.poll = true;  // overrides a read command in the same byte
    } else if ((value & ocw3::RR) != 0) {
      chip.read_isr = (value & ocw3::RIS) != 0;
    }
    if ((value & ocw3::ESMM) != 0) chip.special_mask = (value & ocw3::SMM) != 0;
  } else {
    chip.write_ocw2(value);
  }
  update(false);
}

void Pic8259::save(StateWriter& out) const {
  out.section(name());
  for (unsigned i = 0; i < 2; ++i) {
    const Chip& chip = chips_[i];
    const std::string prefix = i == kMaster ? "master_" : "slave_";
    out.u8(prefix + "lines", chip.lines);
    out.u8(prefix + "IRR", chip.irr);
    out.u8(prefix + "IMR", chip.imr);
    out.u8(prefix + "ISR", chip.isr);
    out.u8(prefix + "ELCR", chip.elcr);
    out.u8(prefix + "ICW2", chip.vector_base);
    out.u8(prefix + "ICW3", chip.cascade);
    out.u8(prefix + "ICW1", chip.icw1);
    out.u8(prefix + "ICW4", chip.icw4);
    out.u8(prefix + "next_ICW", chip.next_icw);
    out.u8(prefix + "lowest", chip.lowest);
    out.boolean(prefix + "rotate_in_AEOI", chip.rotate_in_aeoi);
    out.boolean(prefix + "special_mask", chip.special_mask);
    out.boolean(prefix + "read_ISR", chip.read_isr);
    out.boolean(prefix + "poll", chip.poll);
  }
  out.boolean("INTR", intr_);
}

void Pic8259::restore(StateReader& in) {
  in.section(name());
  for (unsigned i = 0; i < 2; ++i) {
    Chip& chip = chips_[i];
    const std::string prefix = i == kMaster ? "master_" : "slave_";
    in.u8(prefix + "lines", chip.lines);
    in.u8(prefix + "IRR", chip.irr);
    in.check(prefix + "IRR", (chip.irr & ~chip.lines) == 0);
    in.u8(prefix + "IMR", chip.imr);
    in.u8(prefix + "ISR", chip.isr);
    in.u8(prefix + "ELCR", chip.elcr);
    in.check(prefix + "ELCR", (chip.elcr & ~kElcrWritable[i]) == 0);
    in.u8(prefix + "ICW2", chip.vector_base);
    in.check(prefix + "ICW2", (chip.vector_base & 7) == 0);
    in.u8(prefix + "ICW3", chip.cascade);
    in.u8(prefix + "ICW1", chip.icw1);
    in.check(prefix + "ICW1", (chip.icw1 & ~icw1::kept) == 0);
    in.u8(prefix + "ICW4", chip.icw4);
    in.check(prefix + "ICW4", (chip.icw4 & ~icw4::kept) == 0);
    in.u8(prefix + "next_ICW", chip.next_icw);
    in.check(prefix + "next_ICW", chip.next_icw == 0 || (chip.next_icw >= 2 && chip.next_icw <= 4));
    in.u8(prefix + "lowest", chip.lowest);
    in.check(prefix + "lowest", chip.lowest <= 7);
    chip.lowest &= 7;
    in.boolean(prefix + "rotate_in_AEOI", chip.rotate_in_aeoi);
    in.boolean(prefix + "special_mask", chip.special_mask);
    in.boolean(prefix + "read_ISR", chip.read_isr);
    in.boolean(prefix + "poll", chip.poll);
  }
  in.boolean("INTR", intr_);
}

namespace {

constexpr OptionType kOptions[] = {
    {.name = "bios", .kind = OptionKind::flag, .standard = "off",
     .help = "initialised as by a BIOS: vectors 8 and 70h, lines 0, 1, 2, 8, 12 and 13 open; else masked and not initialised"},
};

}  // namespace

constinit const DeviceType kPic8259Device{
    .name = "pic8259",
    .help = "the two 8259A interrupt controllers of a PC",
    .options = kOptions,
    .make =
        [](DeviceContext& c) {
          auto& pic = c.add<Pic8259>(IrqLine(c.wiring().pic_intr, 0), c.options().flag("bios"));
          for (const uint16_t base : {machine_map::kPic0, machine_map::kPic1, machine_map::kElcr})
            c.claim_ports({.first = base, .count = 2, .device = &pic});
          c.wiring().isa.add(pic);
          c.irq(kCascadeLine);
          c.offer<ExtIntController>(pic);
        },
    .firmware = [](const DeviceOptions&, FirmwareTables& tables) { tables.pics = true; },
    .single = true,
};

}  // namespace retrovisor
