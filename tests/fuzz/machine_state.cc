// Restoring a machine from a hostile state. The first byte says how the rest becomes one: two states as they are, or changes
// to single fields of a good one, which get past the framing.
#include <memory>

#include "tests/fuzz/brief_boundary.h"
#include "tests/fuzz/target.h"
#include "vmm/machine/machine.h"
#include "vmm/state_io.h"

namespace retrovisor::fuzz {
namespace {

constexpr uint64_t kInstructions = 500;
constexpr unsigned kIdleWaits = 50;
constexpr size_t kMostChanges = 32;

enum Form : uint8_t { as_it_is, changed };

// Programs the PIT, the PICs and the serial port, takes interrupts, sleeps. In 16-bit code, at 0x7c00.
constexpr uint8_t kGuest[] = {
    0xfa, 0x31, 0xc0, 0x8e, 0xd8, 0x8e, 0xd0, 0xbc, 0x00, 0x7c,  // cli; ds = ss = 0; sp = 0x7c00
    0xc7, 0x06, 0x80, 0x00, 0x50, 0x7c, 0xa3, 0x82, 0x00,        // vector 0x20 -> 0:0x7c50
    0xb0, 0x11, 0xe6, 0x20, 0xb0, 0x20, 0xe6, 0x21, 0xb0, 0x04, 0xe6, 0x21, 0xb0, 0x01, 0xe6, 0x21, 0xb0, 0xfe, 0xe6, 0x21,
    0xb0, 0x34, 0xe6, 0x43, 0xb0, 0x40, 0xe6, 0x40, 0xb0, 0x00, 0xe6, 0x40,  // PIT: rate generator, every
                                                                             // 64 ticks
    0xba, 0xf9, 0x03, 0xb0, 0x0f, 0xee, 0xfb, 0xf4, 0xeb, 0xfd};             // UART: all interrupts; sti; hlt; jmp
constexpr uint8_t kHandler[] = {0x50, 0xb0, 0x20, 0xe6, 0x20, 0xe4, 0x40, 0x58, 0xcf};

std::unique_ptr<Machine> make_machine(BriefBoundary& boundary, uint32_t vcpus) {
  MachineConfig config;
  config.memory_size = kMinRam;
  config.vcpus = vcpus;
  auto created = Machine::create(config, boundary);
  FUZZ_CHECK(created.ok());
  Machine& m = **created;
  FUZZ_CHECK(m.memory().write(PhysAddr(0x7c00), kGuest) && m.memory().write(PhysAddr(0x7c50), kHandler));
  CpuState& s = m.vcpu(VcpuId(0)).state;
  s.segment[CS].base = 0;
  s.segment[CS].selector = 0;
  s.rip = 0x7c00;
  m.engine().state_changed(m.vcpu(VcpuId(0)));
  return std::move(*created);
}

struct State {
  Bytes cpu, devices;
};
State save(const Machine& m) { return {m.save_cpu_state(), m.save_device_state()}; }

const State& good_state(uint32_t vcpus) {
  static std::array<std::unique_ptr<const State>, 3> all;
  auto& state = all[vcpus];
  if (state == nullptr) {
    BriefBoundary boundary(kIdleWaits);
    const auto m = make_machine(boundary, vcpus);
    m->run_until(Position(200));
    state = std::make_unique<const State>(save(*m));
  }
  return *state;
}

// The format of state_io.h.
Bytes encode(const std::vector<StateField>& fields) {
  Bytes out;
  for (const StateField& f : fields) {
    out.insert(out.end(), {0xf1, static_cast<uint8_t>(f.name.size())});
    out.insert(out.end(), f.name.begin(), f.name.end());
    append(out, static_cast<uint32_t>(f.value.size()));
    append(out, f.value);
  }
  return out;
}

// Per change: which field, what to do, a number.
State change(const State& good, Input& in) {
  std::vector<StateField> cpu = state_fields(good.cpu);
  std::vector<StateField> devices = state_fields(good.devices);
  FUZZ_CHECK(encode(cpu) == good.cpu && encode(devices) == good.devices);
  for (size_t n = 0; n < kMostChanges && !in.empty(); ++n) {
    const uint16_t which = in.number<uint16_t>();
    const uint8_t what = in.byte();
    const uint64_t number = in.number<uint64_t>();
    std::vector<StateField>& fields = (which & 1) != 0 ? devices : cpu;
    StateField& f = fields[(which >> 1) % fields.size()];
    if (f.value.empty()) continue;
    const size_t at = (what >> 2) % f.value.size();
    switch (what & 3) {
      case 0: std::memcpy(f.value.data() + at, &number, std::min<size_t>(8, f.value.size() - at)); break;
      case 1: f.value[at] = static_cast<uint8_t>(f.value[at] ^ 1u << (number & 7)); break;
      case 2: f.value[at] = static_cast<uint8_t>(number); break;
      default:
        if (number % 64 == 0)
          f.value.resize((number >> 8) % 64);
        else
          f.value[at] = static_cast<uint8_t>(f.value[at] + number);
        break;
    }
  }
  return {encode(cpu), encode(devices)};
}

// Which field it is, if the two differ.
void report_difference(const Bytes& a, const Bytes& b) {
  const auto fields_a = state_fields(a), fields_b = state_fields(b);
  for (size_t i = 0; i < fields_a.size() && i < fields_b.size(); ++i)
    if (fields_a[i].name != fields_b[i].name || fields_a[i].value != fields_b[i].value)
      std::fprintf(stderr, "%s differs\n", fields_a[i].name.c_str());
}

}  // namespace

size_t max_input() { return 32768; }

void run(std::span<const uint8_t> data) {
  Input in(data);
  const Form form = in.byte() % 4 == 0 ? as_it_is : changed;
  const uint32_t vcpus = 1 + in.byte() % 2;
  State state;
  if (form == as_it_is) {
    const auto cpu = in.bytes(in.number<uint16_t>());
    state.cpu.assign(cpu.begin(), cpu.end());
    const auto devices = in.rest();
    state.devices.assign(devices.begin(), devices.end());
  } else {
    state = change(good_state(vcpus), in);
  }
  BriefBoundary boundary1(kIdleWaits), boundary2(kIdleWaits);
  const auto first = make_machine(boundary1, vcpus);
  const auto restored = first->restore_state(state.cpu, state.devices);
  if (!restored) {
    FUZZ_CHECK(!restored.error().message.empty());
    return;
  }
  first->memory_changed();
  // What was accepted can be saved, and restored to the same, over whatever was there before.
  const State saved = save(*first);
  const auto second = make_machine(boundary2, vcpus);
  second->run_until(Position(100));
  boundary2.start_again(kIdleWaits);
  FUZZ_CHECK(second->memory().write(PhysAddr(0), std::span(first->memory().host(PhysAddr(0)), 0xa0000)));
  const auto again = second->restore_state(saved.cpu, saved.devices);
  if (!again) std::fprintf(stderr, "%s\n", again.error().text().c_str());
  FUZZ_CHECK(again.ok());
  second->memory_changed();
  const State saved_again = save(*second);
  FUZZ_CHECK(saved.cpu == saved_again.cpu && saved.devices == saved_again.devices);
  // And it runs.
  const Position target(std::min(first->position().value + kInstructions, (uint64_t{1} << 62) - 1));
  const Stop stop1 = first->run_until(target);
  const Stop stop2 = second->run_until(target);
  FUZZ_CHECK(stop1.reason == stop2.reason && stop1.detail == stop2.detail);
  const State end1 = save(*first), end2 = save(*second);
  report_difference(end1.cpu, end2.cpu);
  report_difference(end1.devices, end2.devices);
  FUZZ_CHECK(first->digest() == second->digest());
}

std::vector<Bytes> seeds() {
  std::vector<Bytes> out;
  for (uint8_t vcpus = 1; vcpus <= 2; ++vcpus) {
    const State& good = good_state(vcpus);
    Bytes whole{as_it_is, static_cast<uint8_t>(vcpus - 1)};
    append(whole, static_cast<uint16_t>(good.cpu.size()));
    append(whole, good.cpu);
    append(whole, good.devices);
    out.push_back(std::move(whole));
    out.push_back({changed, static_cast<uint8_t>(vcpus - 1)});
    // Guest time far ahead of every deadline: devices must not work through all that they missed.
    Bytes late{changed, static_cast<uint8_t>(vcpus - 1)};
    const auto change_field = [&](size_t which, uint64_t number) {
      append(late, static_cast<uint16_t>(which));
      late.push_back(0);
      append(late, number);
    };
    const std::vector<StateField> cpu = state_fields(good.cpu), devices = state_fields(good.devices);
    for (size_t i = 0; i < cpu.size(); ++i)
      if (cpu[i].name == "clock.idle_ns") change_field(2 * i, uint64_t{1} << 60);
    for (size_t i = 0; i < devices.size(); ++i)
      if (devices[i].name.starts_with("deadlines.")) change_field(2 * i + 1, 1000 + i);
    out.push_back(std::move(late));
    // Each field once, with numbers that some checks should refuse.
    const size_t fields = 2 * std::max(cpu.size(), devices.size());
    for (size_t first = 0; first < fields; first += kMostChanges / 4) {
      for (const uint64_t number : {uint64_t{1}, uint64_t{0xffffffffffffffff}, uint64_t{0x8000000000000000}}) {
        Bytes b{changed, static_cast<uint8_t>(vcpus - 1)};
        for (size_t i = first; i < first + kMostChanges / 4; ++i) {
          append(b, static_cast<uint16_t>(i));
          b.push_back(number == 1 ? 1 : 0);
          append(b, number == 1 ? i : number);
        }
        out.push_back(std::move(b));
      }
    }
  }
  return out;
}

}  // namespace retrovisor::fuzz
