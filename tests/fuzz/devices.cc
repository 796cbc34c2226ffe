// The devices, driven as a guest could: ports, MMIO, MSRs, interrupt acknowledges, time, console input. In the middle the
// state moves to a second board; from there on both must do the same.
#include <array>

#include "tests/fuzz/board.h"
#include "vmm/devices/machine_map.h"

namespace retrovisor::fuzz {
namespace {

using namespace machine_map;

constexpr size_t kMostSteps = 400;
constexpr unsigned kMostDeadlines = 500;  // in one advance of time

enum Step : uint8_t {
  port_in,
  port_out,
  mmio_read,
  mmio_write,
  pass_time,
  acknowledge,
  input,
  read_msr,
  write_msr,
  set_cr8,
  switch_vcpu,
  set_tsc,
  steps
};

constexpr uint32_t kMsrs[] = {msr::APIC_BASE, msr::TSC_DEADLINE, msr::X2APIC_FIRST, msr::X2APIC_FIRST + 0x30, msr::TSC};

// Where devices answer, by what the board says: those of every registered type are here by themselves.
struct Places {
  std::vector<uint16_t> ports;
  std::vector<PhysRange> memory;
};

Places places_of(const Board& b) {
  Places out;
  for (const auto& device : b.board->info()) {
    for (const Claim& c : device.ports)
      for (uint64_t i = 0; i < c.count; ++i) out.ports.push_back(static_cast<uint16_t>(c.first + i));
    for (const Claim& c : device.memory) out.memory.push_back({PhysAddr(c.first), c.count});
  }
  for (const uint16_t nobody : {uint16_t{0x80}, uint16_t{0xcf8}, uint16_t{0xffff}}) out.ports.push_back(nobody);
  return out;
}

uint16_t take_port(Input& in, const Places& places) {
  const uint8_t n = in.byte();
  return n == 0xff ? in.number<uint16_t>() : places.ports[n % places.ports.size()];
}

uint64_t take_address(Input& in, const Places& places) {
  const uint8_t n = in.byte();
  const uint64_t offset = in.number<uint16_t>() & 0xfff;
  switch (n % 8) {
    case 7: {
      const PhysRange& range = places.memory[offset % places.memory.size()];
      return range.begin.value + in.number<uint32_t>() % range.size;
    }
    case 0: return kIoApicBase + (offset & 0xf0);
    case 1: return kIoApicBase + offset;
    case 2: return kLocalApicBase + offset;
    case 3: return in.number<uint64_t>() & ((uint64_t{1} << 40) - 1);
    default: return kLocalApicBase + (offset & 0xff0);
  }
}

// One step on each of `boards`, which must all answer alike.
void step(std::span<Board* const> boards, const Places& places, Input& in) {
  const auto what = static_cast<Step>(in.byte() % steps);
  const auto same = [&](auto&& act) {
    const auto first = act(*boards[0]);
    for (Board* b : boards.subspan(1)) FUZZ_CHECK(act(*b) == first);
  };
  switch (what) {
    case port_in: {
      const uint16_t port = take_port(in, places);
      const unsigned size = 1u << in.byte() % 3;
      same([&](Board& b) { return b.ports.read(b.running, port, size); });
      break;
    }
    case port_out: {
      const uint16_t port = take_port(in, places);
      const unsigned size = 1u << in.byte() % 3;
      const uint32_t value = size == 1 ? in.byte() : size == 2 ? in.number<uint16_t>() : in.number<uint32_t>();
      same([&](Board& b) { return b.ports.write(b.running, port, size, value), 0; });
      break;
    }
    case mmio_read: {
      const PhysAddr at(take_address(in, places));
      const unsigned size = 1u << (in.byte() + 2) % 4;
      same([&](Board& b) { return b.mmio.read(b.running, at, size); });
      break;
    }
    case mmio_write: {
      const PhysAddr at(take_address(in, places));
      const unsigned size = 1u << (in.byte() + 2) % 4;
      const uint64_t value = size == 8 ? in.number<uint64_t>() : in.number<uint32_t>();
      same([&](Board& b) { return b.mmio.write(b.running, at, size, value), 0; });
      break;
    }
    case pass_time: {
      const unsigned scale = in.byte() % 40;
      const uint64_t ns = uint64_t{in.number<uint16_t>()} << scale;
      same([&](Board& b) { return b.run_to(b.now() + ns, kMostDeadlines), b.now(); });
      break;
    }
    case acknowledge: {
      const uint8_t n = in.byte();
      same([&](Board& b) {
        Vcpu& v = *b.vcpus[n % b.vcpus.size()];
        return v.intr ? 256 * static_cast<int>(v.interrupts->source()) + v.interrupts->acknowledge() : -1;
      });
      break;
    }
    case input: {
      const auto bytes = in.bytes(1 + in.byte() % 16);
      same([&](Board& b) {
        const size_t room = b.board->room(kPcConsole);
        b.board->receive(kPcConsole, bytes.first(std::min(room, bytes.size())));
        return room;
      });
      break;
    }
    case read_msr: {
      const uint32_t index = kMsrs[in.byte() % std::size(kMsrs)];
      same([&](Board& b) {
        uint64_t value = 0;
        const bool known = b.vcpus[b.running.value]->interrupts->read_msr(index, value);
        return std::pair(known, value);
      });
      break;
    }
    case write_msr: {
      const uint32_t index = kMsrs[in.byte() % std::size(kMsrs)];
      const uint8_t form = in.byte();
      const uint64_t value = in.number<uint64_t>();
      same([&](Board& b) {
        // A deadline near now is more interesting than any other.
        const uint64_t v = index == msr::TSC_DEADLINE && form % 2 == 0 ? b.now() + (value & 0xffff) : value;
        return b.vcpus[b.running.value]->interrupts->write_msr(index, v);
      });
      break;
    }
    case set_cr8: {
      const uint8_t value = in.byte() & 15;
      same([&](Board& b) {
        VcpuInterrupts& i = *b.vcpus[b.running.value]->interrupts;
        i.set_cr8(value);
        return i.cr8();
      });
      break;
    }
    case switch_vcpu: {
      const uint8_t n = in.byte();
      same([&](Board& b) { return b.running = VcpuId(static_cast<uint32_t>(n % b.vcpus.size())), 0; });
      break;
    }
    default: {
      const uint64_t value = in.number<uint64_t>();
      same([&](Board& b) {
        Vcpu& v = *b.vcpus[b.running.value];
        v.state.tsc_offset = value;
        v.interrupts->tsc_changed();
        return 0;
      });
      break;
    }
  }
  same([](Board& b) {
    uint32_t intr = 0;
    for (const auto& v : b.vcpus) intr = intr << 1 | (v->intr ? 1 : 0);
    return std::tuple(intr, b.deadlines.next());
  });
}

void put_out(Bytes& b, uint16_t port, uint8_t value) {
  b.insert(b.end(), {port_out, 0xff});
  append(b, port);
  b.insert(b.end(), {0, value});
}
void put_mmio(Bytes& b, uint64_t address, uint32_t value) {
  b.insert(b.end(), {mmio_write, 3, 0, 0});
  append(b, address);
  b.push_back(0);
  append(b, value);
}
void put_time(Bytes& b, uint16_t amount, uint8_t scale) {
  b.insert(b.end(), {pass_time, scale});
  append(b, amount);
}

}  // namespace

size_t max_input() { return 4096; }

void run(std::span<const uint8_t> data) {
  Input in(data);
  const uint32_t vcpus = 1 + in.byte() % 3;
  const size_t move_at = in.number<uint16_t>() % kMostSteps;
  Board first(vcpus);
  const Places places = places_of(first);
  std::unique_ptr<Board> second;
  std::array<Board*, 2> boards{&first, nullptr};
  size_t count = 1;
  for (size_t n = 0; n < kMostSteps && !in.empty(); ++n) {
    if (n == move_at) {
      // A board that has been used: nothing of what it was may be left.
      second = std::make_unique<Board>(vcpus);
      second->ports.write(second->running, kPit + 3, 1, 0x34);
      second->ports.write(second->running, kPit, 1, 0x10);
      second->ports.write(second->running, kPit, 1, 0x27);
      second->ports.write(second->running, kSerialPort + 1, 1, 0xf);
      second->mmio.write(second->running, PhysAddr(kLocalApicBase + 0xf0), 4, 0x1ff);
      second->run_to(12'345'678, kMostDeadlines);
      const Bytes state = first.save();
      const auto restored = second->restore(state);
      if (!restored) std::fprintf(stderr, "%s\n", restored.error().text().c_str());
      FUZZ_CHECK(restored.ok());
      FUZZ_CHECK(second->save() == state);
      second->running = first.running;
      first.output.clear();
      second->output.clear();
      boards[1] = second.get();
      count = 2;
    }
    step(std::span(boards).first(count), places, in);
  }
  if (count == 1) return;
  FUZZ_CHECK(first.save() == second->save());
  FUZZ_CHECK(first.output == second->output);
}

std::vector<Bytes> seeds() {
  // PICs and PIT set up, the timer runs and its interrupts are taken.
  Bytes pit{0, 12, 0};
  for (const uint16_t base : {uint16_t{0x20}, uint16_t{0xa0}}) {
    put_out(pit, base, 0x11);
    put_out(pit, static_cast<uint16_t>(base + 1), base == 0x20 ? 0x20 : 0x28);
    put_out(pit, static_cast<uint16_t>(base + 1), base == 0x20 ? 4 : 2);
    put_out(pit, static_cast<uint16_t>(base + 1), 1);
    put_out(pit, static_cast<uint16_t>(base + 1), 0);
  }
  for (const uint8_t v : {uint8_t{0x34}, uint8_t{0x74}, uint8_t{0xb6}}) put_out(pit, 0x43, v);
  for (const uint16_t port : {uint16_t{0x40}, uint16_t{0x41}, uint16_t{0x42}})
    for (const uint8_t v : {uint8_t{0xa9}, uint8_t{4}}) put_out(pit, port, v);
  for (unsigned i = 0; i < 3; ++i) {
    put_time(pit, 1000, 10);
    pit.insert(pit.end(), {acknowledge, 0});
    put_out(pit, 0x20, 0x20);
  }
  // The local APIC's timer, an inter-processor interrupt, the IO-APIC's redirection of the serial port.
  Bytes apic{1, 6, 0};
  for (const auto& [offset, value] : std::initializer_list<std::pair<uint64_t, uint32_t>>{{0xf0, 0x1ff},
                                                                                          {0x320, 0x20040},
                                                                                          {0x3e0, 0xb},
                                                                                          {0x380, 1000},
                                                                                          {0x310, 1 << 24},
                                                                                          {0x300, 0x4500},
                                                                                          {0x300, 0x4608},
                                                                                          {0x80, 0x20}})
    put_mmio(apic, kLocalApicBase + offset, value);
  for (const auto& [index, value] :
       std::initializer_list<std::pair<uint32_t, uint32_t>>{{0x18, 0x51}, {0x19, 0}, {0x14, 0x52}, {0x20, 0xa053}}) {
    put_mmio(apic, kIoApicBase, index);
    put_mmio(apic, kIoApicBase + 0x10, value);
  }
  put_time(apic, 5000, 0);
  apic.insert(apic.end(), {acknowledge, 0, acknowledge, 1});
  put_mmio(apic, kLocalApicBase + 0xb0, 0);
  // Serial port with FIFOs and interrupts; RTC with periodic and alarm interrupts; keyboard controller; PM timer.
  Bytes serial{0, 9, 0};
  for (const auto& [port, value] : std::initializer_list<std::pair<uint16_t, uint8_t>>{
           {0x3fb, 0x80}, {0x3f8, 1}, {0x3fb, 3}, {0x3fa, 0xc7}, {0x3f9, 0xf}, {0x3fc, 0xb}, {0x3f8, 'a'}, {0x3f8, 'b'}})
    put_out(serial, port, value);
  serial.insert(serial.end(), {input, 4, 'h', 'e', 'l', 'l', 'o', port_in, 19, 0, port_in, 21, 0});
  put_time(serial, 1000, 8);
  for (const auto& [port, value] : std::initializer_list<std::pair<uint16_t, uint8_t>>{{0x70, 0x0b},
                                                                                       {0x71, 0x72},
                                                                                       {0x70, 0x0a},
                                                                                       {0x71, 0x26},
                                                                                       {0x70, 1},
                                                                                       {0x71, 0xff},
                                                                                       {0x64, 0x60},
                                                                                       {0x60, 1},
                                                                                       {0x64, 0xd2},
                                                                                       {0x60, 0x1c}})
    put_out(serial, port, value);
  put_time(serial, 1000, 20);
  serial.insert(serial.end(), {port_in,   32, 2, port_out, 30,   1, 0x00, 0x20, port_in, 15, 0,
                               write_msr, 1,  0, 0x40,     0x1f, 0, 0,    0,    0,       0,  0});
  return {pit, apic, serial};
}

}  // namespace retrovisor::fuzz
