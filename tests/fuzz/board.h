// The devices of a machine with their buses and their time, without an engine.
#pragma once

#include <algorithm>
#include <memory>
#include <optional>

#include "tests/fuzz/target.h"
#include "vmm/board/board.h"
#include "vmm/board/device_type.h"
#include "vmm/devices/pc.h"

namespace retrovisor::fuzz {

// A PC with one more of each type that is registered.
inline DeviceList all_devices() {
  DeviceList list = pc_devices();
  for (const DeviceType* type : device_types()) {
    const auto same = [&](const DeviceSpec& d) { return d.type == type->name; };
    if (std::none_of(list.begin(), list.end(), same)) list.push_back({std::string(type->name), {}});
  }
  return list;
}

class Board final : public MachineControl {
 public:
  explicit Board(uint32_t vcpu_count) : memory_(GuestMemory::create(kMinRam)) {
    FUZZ_CHECK(memory_.ok());
    for (uint32_t i = 0; i < vcpu_count; ++i) {
      vcpus.push_back(std::make_unique<Vcpu>(VcpuId(i)));
      if (i != 0) vcpus[i]->state.activity = Activity::wait_for_sipi;
    }
    platform_.emplace(Platform{**memory_, ports, mmio, clock, deadlines, journal, entropy_, *this, observers});
    auto made = retrovisor::Board::create(all_devices(), *platform_, vcpus, {.transmit = [this](EndpointId endpoint, std::span<const uint8_t> bytes) {
      output.push_back(static_cast<uint8_t>(endpoint.value));
      append(output, bytes);
    }, .read_blocks = {}, .ask_directory = {}});
    FUZZ_CHECK(made.ok());
    board = std::move(*made);
    board->reset({.wall_clock = 1'700'000'000});
  }

  void request_stop(Stop stop) override {
    output.push_back(static_cast<uint8_t>(0x80 | static_cast<uint8_t>(stop.reason)));
    append(output, stop.detail);
  }
  bool stop_requested() const override { return false; }

  // Lets time pass until `time`, or until `most` deadlines have been due.
  void run_to(uint64_t time, unsigned most) {
    for (unsigned i = 0; i < most; ++i) {
      const uint64_t next = std::min(deadlines.next().value, time);
      if (next > now()) clock.pass(next - now());
      deadlines.run_due(clock.now());
      if (next == time) return;
    }
  }
  uint64_t now() const { return clock.now().value; }

  // As Machine does it: vCPUs first, and deadlines before and after the devices, which may arm timers while they restore.
  Bytes save() const {
    StateWriter out;
    clock.save(out);
    for (const auto& v : vcpus) v->state.save(out, v->id);
    deadlines.save(out);
    board->save(out);
    return out.take();
  }
  Result<void> restore(std::span<const uint8_t> state) {
    StateReader in(state);
    clock.restore(in);
    for (const auto& v : vcpus) v->state.restore(in, v->id);
    StateReader deadlines_in = in;
    deadlines.restore(in);
    board->restore(in);
    deadlines.restore(deadlines_in);
    if (in.ok() && !in.at_end()) return Error{ErrorCode::bad_trace, "more fields than this board has", {}};
    return in.finish();
  }

  Clock clock;
  Deadlines deadlines;
  Journal journal{clock};
  PortBus ports{journal};
  MmioBus mmio{journal};
  std::vector<std::unique_ptr<Vcpu>> vcpus;
  std::unique_ptr<retrovisor::Board> board;
  VcpuId running;  // who makes the accesses
  Bytes output;  // of the consoles, and what stops were asked for

 private:
  Result<std::unique_ptr<GuestMemory>> memory_;
  Observers observers;
  Entropy entropy_;
  std::optional<Platform> platform_;
};

}  // namespace retrovisor::fuzz
