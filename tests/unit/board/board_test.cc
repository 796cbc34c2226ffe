// Boards made from lists, and a device type that comes from outside.
#include "vmm/board/board.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <random>

#include "tests/fuzz/target.h"
#include "tests/unit/board/led.h"
#include "tests/unit/devices/board.h"
#include "vmm/board/device_context.h"

namespace retrovisor::test {
namespace {

DeviceList with(std::initializer_list<const char*> more) {
  DeviceList list = pc_devices();
  for (const char* text : more) list.push_back(parse_device(text).value());
  return list;
}

std::string error_of(const DeviceList& devices) {
  BareBoard bare;
  auto memory = GuestMemory::create(kMinRam).value();
  Entropy entropy;
  std::vector<std::unique_ptr<Vcpu>> vcpus;
  vcpus.push_back(std::make_unique<Vcpu>(VcpuId(0)));
  const Platform platform{*memory, bare.ports, bare.mmio, bare.clock, bare.deadlines, bare.journal, entropy, bare.control, bare.observers};
  const auto board = retrovisor::Board::create(devices, platform, vcpus, {});
  return board.ok() ? "" : board.error().text();
}

TEST(DeviceOptions, are_read_checked_and_written_as_they_were_given) {
  const auto device = parse_device("led,port=0x330,irq=7");
  ASSERT_TRUE(device.ok());
  EXPECT_EQ(to_string(*device), "led,port=0x330,irq=7");
  const auto options = DeviceOptions::check(kLedDevice.options, *device);
  ASSERT_TRUE(options.ok()) << options.error().text();
  EXPECT_EQ(options->number("port"), 0x330u);
  EXPECT_EQ(options->number("index"), 0u);
  for (const auto& [text, problem] : std::initializer_list<std::pair<const char*, const char*>>{
           {"led,port=x", "port=x: expected a number"},
           {"led,port=0x10000", "port=0x10000: at most 0xffff"},
           {"led,port=0X10000", "port=0X10000: at most 0xffff"},
           {"led,port=65536", "port=65536: at most 65535"},
           {"led,index=8", "index=8: at most 7"},
           {"led,port=1,port=2", "option port is given twice: 1 and 2"},
           {"led,colour=red", "no option colour; it has index, port, irq"},
           {"led,port=18446744073709551616", "expected a number"}}) {
    const auto parsed = parse_device(text);
    ASSERT_TRUE(parsed.ok()) << text;
    const auto checked = DeviceOptions::check(kLedDevice.options, *parsed);
    ASSERT_FALSE(checked.ok()) << text;
    EXPECT_NE(checked.error().text().find(problem), std::string::npos) << checked.error().text();
  }
  for (const auto& [text, problem] : std::initializer_list<std::pair<const char*, const char*>>{
           {"", "an empty text: a device begins with its type"},
           {",port=1", "a device begins with its type"},
           {",", "a device begins with its type"},
           {"led,", "ends with a comma"},
           {"led,irq=1,", "ends with a comma"},
           {"led,,irq=1", "\"\" is no option=value"},
           {"led,=1", "\"=1\" is no option=value"},
           {"led, irq=1", "\" irq=1\" has a blank"},
           {" led,irq=1", "\" led\" has a blank"},
           {"led,irq =1", "has a blank"}}) {
    const auto parsed = parse_device(text);
    ASSERT_FALSE(parsed.ok()) << text;
    EXPECT_NE(parsed.error().text().find(problem), std::string::npos) << parsed.error().text();
  }
  EXPECT_TRUE(parse_device("led,name=a b").ok()) << "values are whatever they are";
  EXPECT_FALSE(parse_device(std::string(5000, 'x')).ok());
}

TEST(Board, a_type_from_outside_is_everywhere_by_its_registration) {
  EXPECT_NE(device_help().find("led              a lamp"), std::string::npos);
  EXPECT_NE(device_help(kLedDevice).find("port=NUMBER"), std::string::npos);
  const DeviceList devices = with({"led", "led,index=1,port=0x330,irq=7"});
  const auto tables = firmware_tables(devices);
  ASSERT_TRUE(tables.ok());
  EXPECT_EQ(tables->devices.count("LED0") + tables->devices.count("LED1"), 2u);
  Board board(2, 0, devices);
  const std::string said = describe(*board.board);
  EXPECT_NE(said.find("led1             led,index=1,port=0x330,irq=7"), std::string::npos) << said;
  EXPECT_NE(said.find("version 4, port 0x330, memory 0xfd001000-0xfd00100f"), std::string::npos) << said;
  EXPECT_NE(said.find("endpoint 3       led1 (stream)"), std::string::npos) << said;

  // It sees who asks, blinks on time, interrupts, prints and is fed.
  board.init_pics(1 << 5 | 1 << 7);
  board.on(1);
  board.out(kLedPort, 0x42);
  EXPECT_EQ(Led::last_vcpu, VcpuId(1));
  EXPECT_EQ(board.in(kLedPort), 0x42);
  board.mmio.write(board.running, PhysAddr(kLedMemory), 8, 5000);
  board.run_to(12'000);
  EXPECT_EQ(board.debug, "**");
  EXPECT_EQ(board.take(), 0x25);
  EXPECT_EQ(board.mmio.read(board.running, PhysAddr(kLedMemory + 8), 8), 2u);
  const uint8_t dim = 9;
  board.board->receive(EndpointId(3), {&dim, 1});
  EXPECT_EQ(board.in(0x330), 9);

  const auto state = board.save();
  Board other(2, 0, devices);
  ASSERT_TRUE(other.restore(state).ok());
  EXPECT_EQ(other.save(), state);
  other.run_to(20'000);
  EXPECT_EQ(other.mmio.read(other.running, PhysAddr(kLedMemory + 8), 8), 4u) << "it goes on blinking";
  Board without(2);
  EXPECT_FALSE(without.restore(state).ok()) << "another machine's state";
}

TEST(Board, refusals_name_the_device_and_both_claimants) {
  EXPECT_EQ(error_of(pc_devices()), "");
  EXPECT_EQ(error_of(with({"led,port=0x3f9"})), "led0 wants port 0x3f9, of which uart0 has ports 0x3f8 to 0x3ff (device led,port=0x3f9)");
  EXPECT_NE(error_of(with({"led", "led"})).find("two endpoints are called led0; give one another number by index="), std::string::npos);
  EXPECT_NE(error_of(with({"uart16550"})).find("two endpoints are called uart0; give one another number by index="), std::string::npos);
  EXPECT_NE(error_of(with({"lamp"})).find("there is no device lamp; there are acpi-pm, "), std::string::npos);
  EXPECT_NE(error_of({{"lapic", {}}}).find("there is no 8259A pair before it"), std::string::npos);
  EXPECT_NE(error_of({{"i8042", {}}, {"i8042", {}}}).find("i8042 wants port 0x60, of which i8042 has port 0x60"), std::string::npos);
}

TEST(Board, options_of_a_single_device_do_not_contradict_each_other) {
  const auto add = [](std::initializer_list<const char*> texts) {
    DeviceList list = pc_devices();
    for (const char* text : texts)
      if (const auto added = add_device(list, parse_device(text).value()); !added) return added.error().text();
    const auto& pm = *std::find_if(list.begin(), list.end(), [](const DeviceSpec& d) { return d.type == "acpi-pm"; });
    return to_string(pm);
  };
  EXPECT_EQ(add({"acpi-pm,s3=on", "acpi-pm"}), "acpi-pm,s3=on");
  EXPECT_EQ(add({"acpi-pm,s3=on", "acpi-pm,s3"}), "acpi-pm,s3=on");
  EXPECT_EQ(add({"acpi-pm,s3=on", "acpi-pm,s3=off"}),
            "s3=on and s3=off contradict each other: a machine has one acpi-pm (device acpi-pm)");
  const auto numbers = [](const char* a, const char* b) {
    return DeviceOptions::check(kLedDevice.options, parse_device(a).value())
        ->same("port", *DeviceOptions::check(kLedDevice.options, parse_device(b).value()));
  };
  EXPECT_TRUE(numbers("led,port=0x10", "led,port=16"));
  EXPECT_FALSE(numbers("led,port=0x10", "led,port=10"));
}

// A device that remembers how it was asked.
class Probe final : public Device {
 public:
  explicit Probe(std::string name) : name_(std::move(name)) {}
  std::string_view name() const override { return name_; }
  void reset(const PowerOn&) override {}
  void save(StateWriter&) const override {}
  void restore(StateReader&) override {}
  uint64_t read(const BusAccess& access) override {
    last = access;
    return access.offset + 0x10;
  }
  void write(const BusAccess& access, uint64_t) override { last = access; }
  BusAccess last;

 private:
  std::string name_;
};

TEST(Board, a_line_of_the_isa_bus_is_one_devices) {
  EXPECT_EQ(error_of(with({"led,irq=4"})), "led wants line 4 of the ISA bus, which uart16550 has (device led,irq=4)");
  EXPECT_EQ(error_of(with({"led,irq=7", "uart16550,index=1,port=0x2f8,irq=7"})),
            "uart16550 wants line 7 of the ISA bus, which led,irq=7 has (device uart16550,index=1,port=0x2f8,irq=7)");
  for (const auto& [line, owner] : std::initializer_list<std::pair<int, const char*>>{
           {0, "pit8254"}, {1, "i8042"}, {2, "pic8259"}, {8, "rtc"}, {9, "acpi-pm"}, {12, "i8042"}}) {
    const std::string text = fmt::format("led,irq={}", line);
    EXPECT_NE(error_of(with({text.c_str()})).find(fmt::format("which {} has", owner)), std::string::npos) << line;
  }
  EXPECT_EQ(error_of(with({"led,irq=3", "led,index=1,port=0x330,irq=7"})), "");

  // Unless the types of both say that they share.
  static constexpr OptionType kOptions[] = {{.name = "index", .standard = "0", .help = ""}, {.name = "irq", .standard = "10", .help = ""}};
  static const DeviceType kShared{.name = "line-sharer",
                                  .help = "drives a line with others",
                                  .options = kOptions,
                                  .make =
                                      [](DeviceContext& c) {
                                        c.add<Probe>("sharer" + std::to_string(c.options().number("index")));
                                        c.irq(static_cast<unsigned>(c.options().number("irq")));
                                      },
                                  .shares_irqs = true};
  static const DeviceRegistration kRegistered(kShared);
  EXPECT_EQ(error_of(with({"line-sharer,irq=3", "line-sharer,index=1,irq=3"})), "");
  EXPECT_EQ(error_of(with({"led,irq=3", "line-sharer,irq=3"})),
            "line-sharer wants line 3 of the ISA bus, which led,irq=3 has (device line-sharer,irq=3)");
  EXPECT_NE(error_of(with({"line-sharer,irq=3", "led,irq=3"})), "");
}

TEST(Buses, exact_claims_take_whole_accesses_of_their_width_alone) {
  BareBoard b;
  Probe address("pci"), reset("reset"), data("data");
  ASSERT_TRUE(b.ports.map({.first = 0xcf8, .count = 4, .device = &address, .width = 4, .exact = true}).ok());
  ASSERT_TRUE(b.ports.map({.first = 0xcf9, .count = 1, .device = &reset, .exact = true}).ok());
  ASSERT_TRUE(b.ports.map({.first = 0xcfc, .count = 4, .device = &data, .width = 4}).ok());
  EXPECT_FALSE(b.ports.map({.first = 0xcf8, .count = 1, .device = &data}).ok());
  EXPECT_EQ(b.ports.read(VcpuId(0), 0xcf8, 4), 0x10u);
  EXPECT_EQ(b.ports.read(VcpuId(0), 0xcf9, 1), 0x10u);
  EXPECT_EQ(reset.last.address, 0xcf9u);
  EXPECT_EQ(b.ports.read(VcpuId(0), 0xcf9, 2), 0xffffu);
  EXPECT_EQ(b.ports.read(VcpuId(0), 0xcf8, 1), 0xffu);
  EXPECT_EQ(b.ports.read(VcpuId(0), 0xcfd, 2), 0x11u);
  EXPECT_EQ(data.last.size, 2u);
  EXPECT_EQ(b.ports.read(VcpuId(0), 0xcfe, 4) >> 16, 0xffffu) << "two bytes of it are nobody's";
  EXPECT_EQ(b.ports.read(VcpuId(0), 0xffff, 4), 0xffffffffu) << "ports wrap at 64 KiB";
  EXPECT_FALSE(b.ports.map({.first = 0xffff, .count = 2, .device = &data}).ok());
  EXPECT_FALSE(b.ports.map({.first = 0x100, .count = 0, .device = &data}).ok());
}

TEST(Buses, ranges_move_anywhere_and_who_answers_depends_on_where_they_are_alone) {
  BareBoard b;
  Probe first("first"), second("second"), own("own");
  const auto one = b.mmio.map({.first = 0xe0000000, .count = 0x1000, .device = &first});
  const auto two = b.mmio.map({.first = 0xe0001000, .count = 0x1000, .device = &second});
  ASSERT_TRUE(one.ok() && two.ok());
  EXPECT_FALSE(b.mmio.map({.first = UINT64_MAX - 4, .count = 8, .device = &own}).ok());
  ASSERT_TRUE(b.mmio.map({.first = 0xe0002000, .count = 0x1000, .device = &own, .vcpu = VcpuId(1)}).ok());
  ASSERT_TRUE(b.mmio.map({.first = 0xe0002000, .count = 0x1000, .device = &second, .vcpu = VcpuId(2)}).ok());
  EXPECT_EQ(b.mmio.read(VcpuId(0), PhysAddr(0xe0002000), 4), 0xffffffffu);
  EXPECT_EQ(b.mmio.read(VcpuId(1), PhysAddr(0xe0002004), 4), 0x14u);
  EXPECT_EQ(own.last.vcpu, VcpuId(1));
  b.mmio.move(*two, {PhysAddr(0xe0000800), 0x1000});
  b.mmio.read(VcpuId(0), PhysAddr(0xe0000900), 4);
  EXPECT_EQ(first.last.offset, 0x900u) << "the one claimed first";
  b.mmio.read(VcpuId(0), PhysAddr(0xe0001000), 4);
  EXPECT_EQ(second.last.offset, 0x800u);
  b.mmio.unmap(*one);
  b.mmio.read(VcpuId(0), PhysAddr(0xe0000900), 4);
  EXPECT_EQ(second.last.offset, 0x100u);
  EXPECT_EQ(b.mmio.read(VcpuId(0), PhysAddr(0xe0000000), 4), 0xffffffffu);
  b.mmio.move(*one, {PhysAddr(0xe0000000), 0x1000});
  b.mmio.read(VcpuId(0), PhysAddr(0xe0000900), 4);
  EXPECT_EQ(first.last.offset, 0x900u) << "as before it went";
}

TEST(Dma, reaches_ram_alone_marks_pages_and_is_told) {
  BareBoard b;
  auto memory = GuestMemory::create(kMinRam).value();
  struct Sink final : JournalSink {
    void event(const JournalEvent& e) override { events.push_back(e); }
    std::vector<JournalEvent> events;
  } sink;
  b.journal.connect(&sink, kJournalFull);
  Entropy entropy;
  const Platform platform{*memory, b.ports, b.mmio, b.clock, b.deadlines, b.journal, entropy, b.control, b.observers};
  DmaPort dma(platform);
  const std::vector<uint8_t> bytes(6000, 7);
  ASSERT_TRUE(dma.write(PhysAddr(0x1800), bytes));
  std::vector<uint64_t> dirty;
  memory->take_dirty([&](uint64_t page) { dirty.push_back(page); });
  EXPECT_EQ(dirty, (std::vector<uint64_t>{1, 2}));
  ASSERT_EQ(sink.events.size(), 1u);
  EXPECT_EQ(sink.events[0].kind, EventKind::dma);
  EXPECT_EQ(sink.events[0].b, 6000u);
  std::vector<uint8_t> back(6000);
  ASSERT_TRUE(dma.read(PhysAddr(0x1800), back));
  EXPECT_EQ(back, bytes);
  for (const uint64_t at : {uint64_t{kMinRam - 100}, uint64_t{0x9f000}, uint64_t{0xfee00000}, UINT64_MAX - 100})
    EXPECT_FALSE(dma.write(PhysAddr(at), bytes)) << std::hex << at;
  memory->take_dirty([&](uint64_t page) { ADD_FAILURE() << "page " << page << " of a refused transfer"; });
}

// tests/fuzz/devices.cc, linked with this: it drives what is registered.
TEST(Board, the_fuzz_target_of_devices_finds_the_type_from_outside) {
  const uint64_t before = Led::accesses;
  std::mt19937_64 random(5);
  for (int i = 0; i < 60; ++i) {
    std::vector<uint8_t> input(2000);
    for (uint8_t& byte : input) byte = static_cast<uint8_t>(random());
    fuzz::run(input);
  }
  EXPECT_GT(Led::accesses, before + 50);
}

}  // namespace
}  // namespace retrovisor::test
