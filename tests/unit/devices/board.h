// A machine's buses and devices without an engine: tests drive the devices as a guest would, through ports and MMIO, and let
// guest time pass.
#pragma once

#include <gtest/gtest.h>

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "vmm/board/board.h"
#include "vmm/devices/machine_map.h"
#include "vmm/devices/pc.h"

namespace retrovisor::test {

class FakeControl final : public MachineControl {
 public:
  void request_stop(Stop stop) override { stops.push_back(stop); }
  bool stop_requested() const override { return !stops.empty(); }
  std::vector<Stop> stops;
};

// Time, buses and a record of output. `Board` adds the devices of a PC.
class BareBoard {
 public:
  uint8_t in(uint16_t port) { return static_cast<uint8_t>(ports.read(running, port, 1)); }
  void out(uint16_t port, unsigned value) { ports.write(running, port, 1, value); }
  uint64_t now() const { return clock.now().value; }
  // Lets time pass, firing deadlines exactly when they are due.
  void run_to(uint64_t time) {
    for (;;) {
      const uint64_t next = std::min(deadlines.next().value, time);
      if (next > now()) clock.pass(next - now());
      deadlines.run_due(clock.now());
      if (next == time) return;
    }
  }
  void run_for(uint64_t ns) { run_to(now() + ns); }

  VcpuId running;  // who makes the accesses
  Clock clock;
  Deadlines deadlines;
  Journal journal{clock};
  PortBus ports{journal};
  MmioBus mmio{journal};
  FakeControl control;
  Observers observers;
};

// Remembers the level of each line and counts rising edges.
class LineRecorder final : public IrqSink {
 public:
  void set_irq(unsigned line, bool level) override {
    if (level && !levels[line]) ++rises[line];
    levels[line] = level;
  }
  bool levels[32] = {};
  unsigned rises[32] = {};
};

class Board : public BareBoard {
 public:
  explicit Board(uint32_t vcpu_count = 1, uint64_t wall_clock = 0, const DeviceList& devices = pc_devices()) : memory_(GuestMemory::create(kMinRam)) {
    for (uint32_t i = 0; i < vcpu_count; ++i) {
      vcpus.push_back(std::make_unique<Vcpu>(VcpuId(i)));
      if (i != 0) vcpus[i]->state.activity = Activity::wait_for_sipi;
    }
    platform_.emplace(Platform{*memory_.value(), ports, mmio, clock, deadlines, journal, entropy_, control, observers});
    auto made = retrovisor::Board::create(devices, *platform_, vcpus, {.transmit = [this](EndpointId endpoint, std::span<const uint8_t> bytes) {
      (endpoint == kPcConsole ? serial : debug).append(bytes.begin(), bytes.end());
    }, .read_blocks = {}, .ask_directory = {}});
    RV_ASSERT(made.ok());
    board = std::move(*made);
    board->reset({.wall_clock = wall_clock});
  }

  // As vCPU `id` from here on.
  void on(uint32_t id) { running = VcpuId(id); }
  Vcpu& vcpu(uint32_t id = 0) { return *vcpus[id]; }
  GuestMemory& memory() { return *memory_.value(); }
  uint32_t apic(uint64_t offset) {
    return static_cast<uint32_t>(mmio.read(running, PhysAddr(machine_map::kLocalApicBase + offset), 4));
  }
  void apic(uint64_t offset, uint32_t value) { mmio.write(running, PhysAddr(machine_map::kLocalApicBase + offset), 4, value); }
  uint32_t io_apic(uint32_t index) {
    mmio.write(running, PhysAddr(machine_map::kIoApicBase), 4, index);
    return static_cast<uint32_t>(mmio.read(running, PhysAddr(machine_map::kIoApicBase + 0x10), 4));
  }
  void io_apic(uint32_t index, uint32_t value) {
    mmio.write(running, PhysAddr(machine_map::kIoApicBase), 4, index);
    mmio.write(running, PhysAddr(machine_map::kIoApicBase + 0x10), 4, value);
  }
  void redirect(unsigned pin, uint32_t low, uint32_t destination = 0) {
    io_apic(0x11 + 2 * pin, destination << 24);
    io_apic(0x10 + 2 * pin, low);
  }
  // The usual PC set-up of both PICs, vectors 0x20-0x2f, all lines masked but `unmasked`.
  void init_pics(unsigned unmasked = 0) {
    for (const uint16_t base : {machine_map::kPic0, machine_map::kPic1}) {
      const bool master = base == machine_map::kPic0;
      out(base, 0x11);
      out(static_cast<uint16_t>(base + 1), master ? 0x20 : 0x28);
      out(static_cast<uint16_t>(base + 1), master ? 4 : 2);
      out(static_cast<uint16_t>(base + 1), 1);
      out(static_cast<uint16_t>(base + 1), ~unmasked >> (master ? 0 : 8) & 0xff);
    }
  }
  // What the CPU would do with an interrupt now; -1: none.
  int take(uint32_t id = 0) { return vcpus[id]->intr ? vcpus[id]->interrupts->acknowledge() : -1; }

  // As Machine does it: deadlines before the devices and again behind them, which may arm timers while they restore.
  std::vector<uint8_t> save() const {
    StateWriter out;
    clock.save(out);
    deadlines.save(out);
    board->save(out);
    return out.take();
  }
  Result<void> restore(std::span<const uint8_t> state) {
    StateReader in(state);
    clock.restore(in);
    StateReader deadlines_in = in;
    deadlines.restore(in);
    board->restore(in);
    deadlines.restore(deadlines_in);
    return in.finish();
  }

  std::string serial, debug;
  std::vector<std::unique_ptr<Vcpu>> vcpus;
  std::unique_ptr<retrovisor::Board> board;

 private:
  Result<std::unique_ptr<GuestMemory>> memory_;
  Entropy entropy_;
  std::optional<Platform> platform_;
};

}  // namespace retrovisor::test
