// The whole engine on a KVM that fails at some call, while a small guest is recorded: the error must come out, and the trace
// must not lie.
#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <vector>

#include "record/record_session.h"
#include "record/recording_boundary.h"
#include "replay/replay_session.h"
#include "tests/unit/kvm/fake_kvm.h"
#include "tests/unit/traces/trace_files.h"
#include "vmm/kvm/kvm_engine.h"
#include "vmm/quiet_boundary.h"

namespace retrovisor::kvm {
namespace {

// Real mode at 7C00h. Sets the PIC's base to 8 and the PIT to 1193 clocks, halts for 40 ticks, writes a page of its own after
// each, and ends with 3 to the debug exit port (which makes 7 of it).
constexpr uint8_t kGuest[] = {
    0xfa, 0x31, 0xc0, 0x8e, 0xd8, 0x8e, 0xc0, 0x8e, 0xd0, 0xbc, 0x00, 0x70,  // cli; segments and stack
    0xc7, 0x06, 0x20, 0x00, 0x57, 0x7c, 0xa3, 0x22, 0x00,                    // [20h] = tick
    0xb0, 0x11, 0xe6, 0x20, 0xb0, 0x08, 0xe6, 0x21, 0xb0, 0x04, 0xe6, 0x21, 0xb0, 0x01, 0xe6, 0x21, 0xb0, 0xfe, 0xe6, 0x21,  // PIC
    0xb0, 0x34, 0xe6, 0x43, 0xb0, 0xa9, 0xe6, 0x40, 0xb0, 0x04, 0xe6, 0x40,  // PIT
    0xfb,                                                                    // sti
    0xf4, 0xff, 0x06, 0x00, 0x05, 0x8b, 0x1e, 0x00, 0x05,                    // again: hlt; inc [500h]; mov bx, [500h]
    0x88, 0xdf, 0xb3, 0x00, 0x80, 0xc7, 0x90, 0x89, 0x1f, 0xe4, 0x61,        // [9000h + bx * 256] = ...; in al, 61h
    0x83, 0x3e, 0x00, 0x05, 0x28, 0x72, 0xe5,                                // cmp [500h], 40; jb again
    0xb0, 0x03, 0xe6, 0xf4, 0xfa, 0xf4,                                      // out f4h, 3; cli; hlt
    0x50, 0xb0, 0x20, 0xe6, 0x20, 0x58, 0xcf,                                // tick: end of interrupt; iret
};

BootImages guest_images() {
  BootImages images;
  images.kernel.assign(std::begin(kGuest), std::end(kGuest));
  images.flat_address = 0x7c00;
  images.flat_mode = FlatMode::real16;
  return images;
}

// The host's KVM, but that one call fails.
class FailingCalls final : public SystemCalls {
 public:
  unsigned long request = 0;
  uint64_t call = UINT64_MAX;  // which of this request's calls since the last reset()
  int error = EIO;
  std::map<unsigned long, uint64_t> counts;

  void reset() { counts.clear(); }
  int open(const char* path) override { return real_.open(path); }
  int ioctl(int fd, unsigned long which, void* arg) override {
    const uint64_t n = counts[which]++;
    if (which == request && n == call) return -error;
    return real_.ioctl(fd, which, arg);
  }
  int map(int fd, size_t size, void** address) override { return real_.map(fd, size, address); }
  long read_at(int fd, std::span<uint8_t> out, uint64_t offset) override { return real_.read_at(fd, out, offset); }
  void unmap(void* address, size_t size) override { real_.unmap(address, size); }
  void close(int fd) override { real_.close(fd); }

 private:
  SystemCalls& real_ = system_calls();
};

class FixedBoundary final : public QuietBoundary {
 public:
  uint64_t time_passed(Moment) override { return 20'000; }
};

constexpr auto kInTurns = KvmEngineOptions::Share::in_turns;

MachineConfig kvm_machine(SystemCalls* calls, KvmEngineOptions::Share share) {
  MachineConfig config;
  config.memory_size = kMinRam;
  KvmEngineOptions options;
  options.share = share;
  options.calls = calls;
  config.engine = kvm_engine(options);
  config.positions = PositionUnit::events;
  config.time = TimeSource::events;
  return config;
}

class FailingRecording : public ::testing::Test {
 protected:
  void SetUp() override {
    if (auto kvm = Kvm::open(); !kvm) GTEST_SKIP() << "no KVM here: " << kvm.error().text();
  }
  // Counts, and failures, begin once the machine stands ready.
  Result<RecordResult> record_guest() {
    // All of the state goes back and forth all the time.
    const MachineConfig config = kvm_machine(&calls, kInTurns);
    TraceHeader header = make_header(config, guest_images(), {.kernel = "guest", .initrd = {}, .modules = {}});
    header.engine = "kvm";
    header.digest_interval = 16;
    auto writer = TraceWriter::create(trace.path(), header);
    if (!writer) return std::move(writer).error();
    FixedBoundary live;
    RecordingBoundary boundary(live, **writer);
    const uint64_t failing = std::exchange(calls.call, UINT64_MAX);
    auto machine = Machine::create(config, boundary);
    if (!machine) return std::move(machine).error();
    Machine& m = **machine;
    if (auto loaded = m.load(guest_images()); !loaded) return std::move(loaded).error();
    calls.reset();
    calls.call = failing;
    RecordOptions options;
    options.run.slice = 8;
    options.run.stop_at = Position(10'000);
    options.flush_interval = {};
    return record(m, **writer, options);
  }
  ReplayResult replay() {
    auto session = ReplaySession::open(trace.path(), guest_images());
    if (!session) return ADD_FAILURE() << session.error().text(), ReplayResult{};
    auto result = (*session)->run({});
    if (!result) return ADD_FAILURE() << result.error().text(), ReplayResult{};
    EXPECT_FALSE(result->divergence) << result->divergence->error().text();
    return *result;
  }

  TempFile trace;
  FailingCalls calls;
};

TEST_F(FailingRecording, without_a_failure_is_whole) {
  const auto result = record_guest();
  ASSERT_TRUE(result.ok()) << result.error().text();
  EXPECT_EQ(result->run.stop.reason, StopReason::debug_exit);
  EXPECT_EQ(result->run.stop.detail, 7u);
  EXPECT_GT(result->run.end.value, 120u);
  EXPECT_EQ(replay().end, ReplayResult::End::complete);
}

TEST_F(FailingRecording, names_the_call_and_leaves_a_trace_that_replays_as_far_as_it_goes) {
  ASSERT_TRUE(record_guest().ok());
  const std::map<unsigned long, uint64_t> made = calls.counts;
  EXPECT_GT(made.at(KVM_RUN), 50u);
  EXPECT_GT(made.at(KVM_GET_DIRTY_LOG), 10u);
  EXPECT_GT(made.at(KVM_SET_REGS), 10u);
  EXPECT_GT(made.at(KVM_INTERRUPT), 5u);
  EXPECT_GT(made.size(), 10u);
  for (const auto& [request, count] : made) {
    for (const uint64_t n : {uint64_t{0}, uint64_t{1}, count / 2, count - 1}) {
      if (n >= count) continue;
      calls.request = request;
      calls.call = n;
      SCOPED_TRACE(FakeKvm::name_of(request) + ", call " + std::to_string(n) + " of " + std::to_string(count));
      const auto result = record_guest();
      EXPECT_FALSE(result.ok());
      const std::string text = result.ok() ? "" : result.error().text();
      EXPECT_NE(text.find(FakeKvm::name_of(request)), std::string::npos) << text;
      EXPECT_NE(text.find("; "), std::string::npos) << "says what to do: " << text;
      EXPECT_EQ(replay().end, ReplayResult::End::incomplete);
    }
  }
}

TEST_F(FailingRecording, in_its_middle_keeps_the_whole_chunks_before) {
  const auto whole = record_guest();
  ASSERT_TRUE(whole.ok());
  calls.request = KVM_RUN;
  calls.call = calls.counts[KVM_RUN] / 2;
  ASSERT_FALSE(record_guest().ok());
  const ReplayResult result = replay();
  EXPECT_EQ(result.end, ReplayResult::End::incomplete);
  EXPECT_GT(result.position.value, whole->run.end.value / 4);
  EXPECT_GT(result.digests_compared, 2u);
  EXPECT_NE(result.note.find("incomplete"), std::string::npos) << result.note;
}

// --- a KVM that checks nothing ---

// The host's KVM, but every WRMSR comes to user space, as where KVM would take any value.
class AllWritesExit final : public SystemCalls {
 public:
  int open(const char* path) override { return real_.open(path); }
  int ioctl(int fd, unsigned long which, void* arg) override {
    if (which != KVM_X86_SET_MSR_FILTER) return real_.ioctl(fd, which, arg);
    kvm_msr_filter filter = *static_cast<kvm_msr_filter*>(arg);
    for (kvm_msr_filter_range& range : filter.ranges) {
      if ((range.flags & KVM_MSR_FILTER_WRITE) != 0) range.nmsrs = 0;
    }
    return real_.ioctl(fd, which, &filter);
  }
  int map(int fd, size_t size, void** address) override { return real_.map(fd, size, address); }
  long read_at(int fd, std::span<uint8_t> out, uint64_t offset) override { return real_.read_at(fd, out, offset); }
  void unmap(void* address, size_t size) override { real_.unmap(address, size); }
  void close(int fd) override { real_.close(fd); }

 private:
  SystemCalls& real_ = system_calls();
};

TEST(UncheckedMsrs, kept_in_sregs_are_written_by_the_engine) {
  if (auto kvm = Kvm::open(); !kvm) GTEST_SKIP() << "no KVM here: " << kvm.error().text();
  // Real mode at 7C00h. EFER = 1 (SCE); FS_BASE = 500h; mov fs:[16], al; GS_BASE non-canonical: #GP (IVT entry 13 leads to `end`).
  constexpr uint8_t kWrites[] = {
      0xfa, 0x31, 0xc0, 0x8e, 0xd8, 0x8e, 0xd0, 0xbc, 0x00, 0x70,        // cli; DS, SS = 0; stack
      0xc7, 0x06, 0x34, 0x00, 0x80, 0x7c, 0xa3, 0x36, 0x00,              // [34h] = end
      0x66, 0x31, 0xd2,                                                  // xor edx, edx
      0x66, 0xb9, 0x80, 0x00, 0x00, 0xc0, 0xb0, 0x01, 0x0f, 0x30,        // mov ecx, c0000080h; mov al, 1; wrmsr
      0x66, 0xb9, 0x00, 0x01, 0x00, 0xc0, 0xb8, 0x00, 0x05, 0x0f, 0x30,  // mov ecx, c0000100h; mov ax, 500h; wrmsr
      0xb0, 0x5a, 0x64, 0xa2, 0x10, 0x00,                                // mov al, 5ah; mov fs:[10h], al
      0x66, 0x41, 0xba, 0x00, 0x80, 0x0f, 0x30,                          // inc ecx (GS_BASE); mov dx, 8000h; wrmsr
      0xb0, 0x01, 0xe6, 0xf4,                                            // out f4h, 1
  };
  static_assert(sizeof kWrites <= 0x80);
  std::vector<uint8_t> code(std::begin(kWrites), std::end(kWrites));
  code.resize(0x80, 0xf4);
  for (const int byte : {0xb0, 0x03, 0xe6, 0xf4, 0xfa, 0xf4}) code.push_back(static_cast<uint8_t>(byte));  // end: out f4h, 3
  BootImages images = guest_images();
  images.kernel = code;
  AllWritesExit calls;
  const MachineConfig config = kvm_machine(&calls, KvmEngineOptions::Share::kvm);
  FixedBoundary boundary;
  auto machine = Machine::create(config, boundary);
  ASSERT_TRUE(machine.ok()) << machine.error().text();
  Machine& m = **machine;
  Vcpu& vcpu = m.vcpu(VcpuId(0));
  ASSERT_TRUE(m.load(images).ok());
  const Stop stop = m.run_until(Position(100));
  EXPECT_EQ(stop.reason, StopReason::debug_exit);
  EXPECT_EQ(stop.detail, 7U) << "#GP of the last write";
  m.engine().host()->complete(vcpu);
  EXPECT_EQ(vcpu.state.efer, efer::SCE);
  EXPECT_EQ(vcpu.state.segment[FS].base, 0x500U);
  EXPECT_EQ(vcpu.state.segment[GS].base, 0U);
  uint8_t byte = 0;
  EXPECT_TRUE(m.memory().read(PhysAddr(0x510), std::span(&byte, 1)));
  EXPECT_EQ(byte, 0x5a) << "the base is in force at once";
}

// --- no KVM, or not enough of one ---

struct MachineWithout : ::testing::Test {
  std::string error() {
    FixedBoundary boundary;
    const auto machine = Machine::create(kvm_machine(&fake, kInTurns), boundary);
    EXPECT_FALSE(machine.ok());
    EXPECT_TRUE(fake.open_files.empty() && fake.maps.empty());
    return machine.ok() ? "" : machine.error().text();
  }
  FakeKvm fake;
};

TEST_F(MachineWithout, the_device_says_what_to_do) {
  fake.open_error = ENOENT;
  const std::string text = error();
  EXPECT_NE(text.find("/dev/kvm"), std::string::npos) << text;
  EXPECT_NE(text.find("--engine=soft"), std::string::npos) << text;
}

TEST_F(MachineWithout, permission_names_the_group) {
  fake.open_error = EACCES;
  const std::string text = error();
  EXPECT_NE(text.find("/dev/kvm"), std::string::npos) << text;
  EXPECT_NE(text.find("group kvm"), std::string::npos) << text;
}

TEST_F(MachineWithout, a_capability_names_it) {
  for (const Capability& wanted : wanted_capabilities()) {
    if (!wanted.required) continue;
    fake.capabilities = {{wanted.number, 0}};
    const std::string text = error();
    EXPECT_NE(text.find(wanted.name), std::string::npos) << text;
    EXPECT_NE(text.find("; "), std::string::npos) << "says what to do: " << text;
  }
}

TEST_F(MachineWithout, any_call_that_succeeds_is_an_error_that_names_it) {
  std::vector<unsigned long> requests;
  {
    FakeKvm whole;
    FixedBoundary boundary;
    ASSERT_TRUE(Machine::create(kvm_machine(&whole, kInTurns), boundary).ok());
    requests = whole.requests;
  }
  for (size_t n = 0; n < requests.size(); ++n) {
    if (FakeKvm::name_of(requests[n]) == "?") continue;  // done without
    fake.requests.clear();
    fake.fail_call = static_cast<int>(n);
    const std::string text = error();
    EXPECT_NE(text.find(FakeKvm::name_of(requests[n])), std::string::npos) << n << ": " << text;
  }
}

}  // namespace
}  // namespace retrovisor::kvm
