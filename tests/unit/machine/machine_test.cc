// The machine as a whole: ends, snapshots, digests. Guests are a few bytes of flat code in real mode.
#include "vmm/machine/machine.h"

#include <gtest/gtest.h>

#include <cstring>

#include "vmm/boot/loader.h"
#include "vmm/quiet_boundary.h"

namespace retrovisor {
namespace {

class Console : public QuietBoundary {
 public:
  void transmit(Moment, EndpointId, std::span<const uint8_t> bytes) override { console.append(bytes.begin(), bytes.end()); }
  std::string console;
};

struct Guest {
  explicit Guest(std::vector<uint8_t> code, MachineConfig config = {}) { start(std::move(code), boundary, config); }
  Guest(std::vector<uint8_t> code, Boundary& other, MachineConfig config) { start(std::move(code), other, config); }
  Console boundary;
  std::unique_ptr<Machine> machine;

 private:
  void start(std::vector<uint8_t> code, Boundary& to, MachineConfig config) {
    config.memory_size = kMinRam;
    auto created = Machine::create(config, to);
    RV_ASSERT(created.ok());
    machine = std::move(created).value();
    BootImages images;
    images.kernel = std::move(code);
    images.flat_address = 0x7c00;
    images.flat_mode = FlatMode::real16;
    RV_ASSERT(machine->load(images).ok());
  }
};

// mov di, 0x1000; again: inc ax; mov [di], ax; add di, 2; in al, 0x40; jmp again: registers, memory and the PIT all change.
const std::vector<uint8_t> kBusy = {0xbf, 0x00, 0x10, 0x40, 0x89, 0x05, 0x83, 0xc7, 0x02, 0xe4, 0x40, 0xeb, 0xf6};

TEST(Machine, a_run_does_not_depend_on_how_it_is_cut) {
  Guest whole(kBusy), cut(kBusy);
  EXPECT_EQ(whole.machine->run_until(Position(50'000)).reason, StopReason::position);
  uint64_t step = 1;
  while (cut.machine->position() < Position(50'000)) {
    cut.machine->run_until(std::min(Position(50'000), cut.machine->position() + step));
    step = step * 7 % 997 + 1;
  }
  EXPECT_EQ(whole.machine->digest(), cut.machine->digest());
}

TEST(Machine, a_snapshot_goes_on_like_the_original) {
  Guest first(kBusy), second({0xf4});
  first.machine->run_until(Position(12'345));
  const auto cpu = first.machine->save_cpu_state();
  const auto devices = first.machine->save_device_state();
  std::vector<uint8_t> page(kPageSize);
  for (uint64_t at = 0; at < kMinRam; at += kPageSize) {
    if (!first.machine->memory().read(PhysAddr(at), page)) continue;
    second.machine->memory().write(PhysAddr(at), page);
  }
  second.machine->memory_changed();
  ASSERT_TRUE(second.machine->restore_state(cpu, devices).ok());
  EXPECT_EQ(first.machine->digest(), second.machine->digest());
  first.machine->run_until(Position(40'000));
  second.machine->run_until(Position(40'000));
  EXPECT_EQ(first.machine->digest(), second.machine->digest());
}

TEST(Machine, a_state_of_another_kind_is_refused_with_the_field_named) {
  Guest guest(kBusy);
  const auto cpu = guest.machine->save_cpu_state();
  const auto devices = guest.machine->save_device_state();
  const auto swapped = guest.machine->restore_state(devices, cpu);
  ASSERT_FALSE(swapped.ok());
  EXPECT_NE(swapped.error().message.find("clock.position"), std::string::npos);
  auto longer = devices;
  longer.insert(longer.end(), cpu.begin(), cpu.end());
  EXPECT_FALSE(guest.machine->restore_state(cpu, longer).ok());
}

TEST(Machine, digests_tell_memory_registers_and_devices_apart) {
  Guest guest(kBusy);
  const StateDigest before = guest.machine->digest();
  const uint8_t byte = 9;
  guest.machine->memory().write(PhysAddr(0x9000), std::span(&byte, 1));
  const StateDigest written = guest.machine->digest();
  EXPECT_EQ(before.cpu, written.cpu);
  EXPECT_EQ(before.devices, written.devices);
  EXPECT_NE(before.memory, written.memory);
  const uint8_t zero = 0;
  guest.machine->memory().write(PhysAddr(0x9000), std::span(&zero, 1));
  EXPECT_EQ(guest.machine->digest(), before);
}

TEST(Machine, halted_with_interrupts_off_ends_the_run) {
  Guest guest({0xfa, 0xf4});  // cli; hlt
  EXPECT_EQ(guest.machine->run_until(Position(1'000'000)).reason, StopReason::halted_forever);
  EXPECT_EQ(guest.machine->position(), Position(2));
}

TEST(Machine, stops_on_the_end_of_a_panic_message_only_if_asked) {
  // mov si, text; mov dx, 0x3f8; next: lodsb; out dx, al; test al, al; jnz next; hlt
  std::vector<uint8_t> code = {0xbe, 0x0e, 0x7c, 0xba, 0xf8, 0x03, 0xac, 0xee, 0x84, 0xc0, 0x75, 0xfa, 0xfa, 0xf4};
  const std::string text = "----[ end Kernel panic - not syncing: test ]---\nmore";
  code.insert(code.end(), text.begin(), text.end());
  code.push_back(0);
  Guest plain(code);
  EXPECT_EQ(plain.machine->run_until(Position(10'000)).reason, StopReason::halted_forever);
  MachineConfig config;
  config.stop_on_panic = true;
  Guest watched(code, config);
  EXPECT_EQ(watched.machine->run_until(Position(10'000)).reason, StopReason::guest_panic);
  EXPECT_EQ(watched.boundary.console, text.substr(0, text.find('\n') + 1));
}

// Wants the machine to land, before its first event, where it never comes.
class NowhereBoundary final : public QuietBoundary {
 public:
  std::optional<Landing> next_landing(Moment) override {
    Landing landing;
    landing.position = Position(1);
    landing.by_state = true;
    landing.linear_rip = 0x7c03;
    landing.gpr[RAX] = uint64_t{1} << 40;
    return landing;
  }
  bool search_ends(const Landing&, uint64_t instructions) override {
    searched = instructions;
    return instructions > 10'000'000;
  }
  void landing_missed(Moment, const Landing&) override {
    ++missed;
    machine->request_stop({StopReason::host_request, 0});
  }
  Machine* machine = nullptr;
  uint64_t searched = 0;
  int missed = 0;
};

TEST(Machine, search_for_a_landing_ends_when_the_boundary_says_so) {
  NowhereBoundary boundary;
  MachineConfig config;
  config.positions = PositionUnit::events;
  config.time = TimeSource::events;
  Guest guest({0xeb, 0x01, 0x90, 0x40, 0xeb, 0xfd}, boundary, config);  // jmp next; nop; next: inc ax; jmp next
  boundary.machine = guest.machine.get();
  EXPECT_EQ(guest.machine->run_until(Position(1'000)).reason, StopReason::host_request);
  EXPECT_EQ(boundary.missed, 1);
  EXPECT_GT(boundary.searched, 10'000'000u);
  EXPECT_LT(boundary.searched, 100'000'000u);
  EXPECT_EQ(guest.machine->position(), Position(0));
}

TEST(Machine, refuses_impossible_configurations) {
  Console boundary;
  MachineConfig config;
  config.vcpus = kMaxVcpus + 1;
  EXPECT_FALSE(Machine::create(config, boundary).ok());
  config.vcpus = 1;
  config.memory_size = 12345;
  EXPECT_FALSE(Machine::create(config, boundary).ok());
}

}  // namespace
}  // namespace retrovisor
