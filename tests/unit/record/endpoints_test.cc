// Devices from outside in recorded machines: what enters at endpoints of each kind is recorded and replayed, and the trace tells of
// the board.
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cstring>

#include "tests/unit/board/led.h"
#include "tests/unit/record/sessions.h"
#include "vmm/board/board.h"
#include "vmm/quiet_boundary.h"

namespace retrovisor {
namespace {

constexpr uint64_t kGadget = 0xfd800000;

// Endpoints of every kind. Registers: 0 the last byte of its stream, 8 size and first byte of the last packet, 16 (write) reads a
// block at the offset written, 24 what was read, or all ones.
class Gadget final : public Device {
 public:
  struct Stream final : EndpointReceiver {
    size_t room() const override { return 4; }
    void receive(std::span<const uint8_t> bytes) override { last = bytes.back(); }
    uint8_t last = 0;
  };
  struct Packets final : EndpointReceiver {
    size_t room() const override { return 1500; }
    void receive(std::span<const uint8_t> bytes) override { last = static_cast<uint32_t>(bytes.size()) << 8 | bytes[0]; }
    uint32_t last = 0;
  };
  std::string_view name() const override { return "gadget"; }
  void reset(const PowerOn&) override {
    stream.last = 0;
    packets.last = block_ = 0;
  }
  void save(StateWriter& out) const override {
    out.section(name());
    out.u8("stream", stream.last);
    out.u32("packet", packets.last);
    out.u32("block", block_);
    out.u32("file", file_);
  }
  void restore(StateReader& in) override {
    in.section(name());
    in.u8("stream", stream.last);
    in.u32("packet", packets.last);
    in.u32("block", block_);
    in.u32("file", file_);
  }
  uint64_t read(const BusAccess& a) override { return a.offset == 0 ? stream.last : a.offset == 8 ? packets.last : block_; }
  void write(const BusAccess& a, uint64_t value) override {
    if (a.offset != 16) return;
    std::array<uint8_t, 4> bytes{};
    block_ = 0xffffffff;
    if (blocks(value * 512, bytes)) std::memcpy(&block_, bytes.data(), sizeof block_);
    const auto answer = directory({DirectoryQuestion::What::contents, "a/" + std::to_string(value % 3), value, 3});
    file_ = answer ? static_cast<uint32_t>(answer->size()) * 1000 : 0xffff;
    if (answer)
      for (const uint8_t b : *answer) file_ += b;
    block_ += file_;
  }
  Stream stream;
  Packets packets;
  EndpointBlocks blocks;
  EndpointDirectory directory;

 private:
  uint32_t block_ = 0;
  uint32_t file_ = 0;
};

constinit const DeviceType kGadgetDevice{
    .name = "gadget",
    .help = "endpoints of every kind",
    .make =
        [](DeviceContext& c) {
          auto& gadget = c.add<Gadget>();
          c.endpoint({.name = "gadget-stream"}, &gadget.stream);
          c.endpoint({.name = "gadget-packets", .kind = EndpointKind::packets}, &gadget.packets);
          gadget.blocks = c.blocks(c.endpoint({.name = "gadget-blocks", .kind = EndpointKind::blocks}));
          gadget.directory = c.directory(c.endpoint({.name = "gadget-files", .kind = EndpointKind::directory}));
          c.claim_memory({.first = kGadget, .count = 32, .device = &gadget});
        },
};
const DeviceRegistration kRegistered(kGadgetDevice);

// Sums up what the gadget shows, 4,000 times; the block's offset is the count. The sum goes to 0x5000.
BootImages gadget_guest() {
  BootImages images;
  images.kernel = {0xbb, 0x00, 0x00, 0x80, 0xfd,                                // mov ebx, kGadget
                   0xb9, 0xa0, 0x0f, 0x00, 0x00,                                // mov ecx, 4000
                   0x8b, 0x03, 0x01, 0xc2, 0xd1, 0xc2,                          // top: mov eax, [ebx]; add edx, eax; rol edx, 1
                   0x8b, 0x43, 0x08, 0x01, 0xc2, 0xd1, 0xc2,                    // mov eax, [ebx + 8]; add edx, eax; rol edx, 1
                   0x89, 0x4b, 0x10,                                            // mov [ebx + 16], ecx
                   0x8b, 0x43, 0x18, 0x01, 0xc2, 0xd1, 0xc2,                    // mov eax, [ebx + 24]; add edx, eax; rol edx, 1
                   0xbe, 0xe8, 0x03, 0x00, 0x00, 0x4e, 0x75, 0xfd,              // mov esi, 1000; dec esi; jnz
                   0x49, 0x75, 0xde,                                            // dec ecx; jnz top
                   0x89, 0x15, 0x00, 0x50, 0x00, 0x00,                          // mov [0x5000], edx
                   0xb0, 0x00, 0xe6, 0xf4, 0xf4};                               // mov al, 0; out 0xf4, al; hlt
  images.flat_address = 0x100000;
  images.flat_mode = FlatMode::protected32;
  return images;
}

// Everything is made of how often it was asked.
class Busy final : public QuietBoundary {
 public:
  std::vector<Endpoint> endpoints;
  uint32_t asked = 0, blocks = 0, files = 0;
  void connect(std::span<const Endpoint> all) override { endpoints.assign(all.begin(), all.end()); }
  size_t receive(Moment, EndpointId id, std::span<uint8_t> out) override {
    const size_t n = ++asked % 5 == 0 ? 0 : endpoints[id.value].kind == EndpointKind::packets ? 60 + asked % 900 : 1 + asked % 3;
    if (endpoints[id.value].console || n > out.size()) return 0;
    std::fill_n(out.begin(), n, static_cast<uint8_t>(asked * 37));
    return n;
  }
  Result<void> read_blocks(Moment, EndpointId id, uint64_t offset, std::span<uint8_t> out) override {
    EXPECT_EQ(endpoints[id.value].name, "gadget-blocks");
    EXPECT_EQ(offset % 512, 0u);
    if (++blocks % 11 == 0) return Error{ErrorCode::io, "a bad block", ""};
    std::fill(out.begin(), out.end(), static_cast<uint8_t>(blocks));
    return {};
  }
  Result<std::vector<uint8_t>> ask_directory(Moment, EndpointId id, const DirectoryQuestion& question) override {
    EXPECT_EQ(endpoints[id.value].name, "gadget-files");
    if (++files % 7 == 0) return Error{ErrorCode::io, "no such file", ""};
    return std::vector<uint8_t>(files % 4, static_cast<uint8_t>(files + static_cast<uint8_t>(question.path.back())));
  }
};

struct Recorded {
  TempFile file;
  uint32_t sum = 0;
  StateDigest state;
};

std::unique_ptr<Recorded> record_with(const DeviceList& devices) {
  auto out = std::make_unique<Recorded>();
  MachineConfig config;
  config.memory_size = kMinRam;
  config.devices = devices;
  const BootImages images = gadget_guest();
  TraceHeader header = make_header(config, images, {.kernel = "guest", .initrd = {}, .modules = {}});
  header.digest_interval = 100'000;
  auto writer = TraceWriter::create(out->file.path(), header);
  EXPECT_TRUE(writer.ok());
  Busy busy;
  RecordingBoundary boundary(busy, **writer);
  auto machine = Machine::create(config, boundary);
  EXPECT_TRUE(machine.ok()) << machine.error().text();
  EXPECT_TRUE((*machine)->load(images).ok());
  const auto result = record(**machine, **writer, {});
  EXPECT_TRUE(result.ok() && result->run.stop.reason == StopReason::debug_exit);
  EXPECT_GT(busy.blocks, 3900u);
  std::memcpy(&out->sum, (*machine)->memory().host(PhysAddr(0x5000)), sizeof out->sum);
  out->state = (*machine)->digest();
  return out;
}

DeviceList pc_with(const char* device) {
  DeviceList list = pc_devices();
  list.push_back(parse_device(device).value());
  return list;
}

TEST(Endpoints, what_enters_at_each_kind_is_recorded_and_replayed) {
  const auto recorded = record_with(pc_with("gadget"));
  const auto summary = verify_trace(recorded->file.path(), {});
  ASSERT_TRUE(summary.ok());
  EXPECT_GT(summary->events[static_cast<size_t>(EventKind::packet)], 1u);
  EXPECT_GT(summary->events[static_cast<size_t>(EventKind::console_input)], 1u);
  EXPECT_GT(summary->events[static_cast<size_t>(EventKind::disk_read)], 3000u);
  EXPECT_GT(summary->events[static_cast<size_t>(EventKind::directory_read)], 3000u);
  for (const uint64_t piece : {uint64_t{0}, uint64_t{7'919}, uint64_t{250'001}}) {
    auto session = ReplaySession::open(recorded->file.path(), gadget_guest());
    ASSERT_TRUE(session.ok()) << session.error().text();
    ReplayOptions options;
    if (piece != 0) options.slice = piece;
    const auto result = (*session)->run(options);
    ASSERT_TRUE(result.ok()) << result.error().text();
    EXPECT_FALSE(result->divergence.has_value());
    uint32_t sum = 0;
    std::memcpy(&sum, (*session)->machine().memory().host(PhysAddr(0x5000)), sizeof sum);
    EXPECT_EQ(sum, recorded->sum);
    EXPECT_EQ((*session)->machine().digest(), recorded->state);
  }
}

TEST(Endpoints, the_trace_names_the_board_and_another_version_is_refused) {
  const auto recorded = record_with([] {
    DeviceList list = pc_with("gadget");
    list.push_back(parse_device("led,irq=6").value());
    return list;
  }());
  auto reader = TraceReader::open(recorded->file.path());
  ASSERT_TRUE(reader.ok());
  const auto& devices = (*reader)->header().devices;
  ASSERT_EQ(devices.size(), pc_devices().size() + 2);
  EXPECT_EQ(devices.back().version, 4u);
  EXPECT_EQ(to_string(devices.back().device), "led,irq=6");
  // Its state is among the digests' fields.
  auto session = ReplaySession::open(recorded->file.path(), gadget_guest());
  ASSERT_TRUE(session.ok());
  const auto fields = state_fields((*session)->machine().save_device_state());
  EXPECT_TRUE(std::any_of(fields.begin(), fields.end(), [](const StateField& f) { return f.name == "led0.blinks"; }));
  TraceHeader header = (*reader)->header();
  header.devices.back().version = 3;
  auto config = machine_config(header);
  ASSERT_FALSE(config.ok());
  EXPECT_EQ(config.error().message, "the recorded machine has version 3 of device led, this build has version 4");
  header.devices.back().device.type = "lamp";
  config = machine_config(header);
  ASSERT_FALSE(config.ok());
  EXPECT_EQ(config.error().message, "the recorded machine has a device that this build does not know: lamp");
  header.devices.clear();  // as traces were before boards
  config = machine_config(header);
  ASSERT_TRUE(config.ok());
  EXPECT_EQ(config->devices, pc_devices());
}

TEST(Endpoints, a_device_changes_nothing_of_the_others_state) {
  MachineConfig plain, more;
  plain.memory_size = more.memory_size = kMinRam;
  more.devices.push_back(parse_device("led").value());
  Busy outside;
  auto one = Machine::create(plain, outside);
  Busy outside_too;
  auto two = Machine::create(more, outside_too);
  ASSERT_TRUE(one.ok() && two.ok());
  const auto without = state_fields((*one)->save_device_state()), with = state_fields((*two)->save_device_state());
  size_t at = 0;
  for (const StateField& f : with) {
    if (f.name.starts_with("led0") || f.name.find("led0") != std::string::npos) continue;
    ASSERT_LT(at, without.size());
    EXPECT_EQ(f.name, without[at].name);
    EXPECT_EQ(f.value, without[at].value) << f.name;
    ++at;
  }
  EXPECT_EQ(at, without.size());
}

}  // namespace
}  // namespace retrovisor
