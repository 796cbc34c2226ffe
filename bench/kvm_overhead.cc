// What recording costs under KVM: a guest whose every other instruction reads port 80h (where no device is: the cheapest
// answer there is), and one that computes in ring 3 for about a second. Each is run bare (nothing but KVM_RUN in a loop),
// as `retrovisor run --engine=kvm` does it, and as `record` does, in turns; the median of the rounds' shares counts.
// Times are of this process, so that other work on the host does not count.
// Usage: kvm_overhead [--check] [--json] [--costs] [--rounds=N] [--exits=N]
// --costs: which system calls the last recordings made, how often, and how long they took.
// --check: exit code 1 if recording is slower than promised (kExitsPromise, kComputePromise).
// Without KVM it says SKIPPED and why; exit code 0, with --check 77.
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <filesystem>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "record/record_session.h"
#include "record/recording_boundary.h"
#include "vmm/host/console.h"
#include "vmm/host/live_boundary.h"
#include "vmm/kvm/cpuid.h"
#include "vmm/kvm/kvm_engine.h"
#include "vmm/kvm/memory_slots.h"
#include "vmm/kvm/vcpu_state.h"
#include "vmm/machine/machine.h"

namespace retrovisor {
namespace {

constexpr double kExitsPromise = 0.90;    // exits per second of a recording, of those of the bare loop
constexpr double kComputePromise = 0.97;  // speed of computing
constexpr uint64_t kMemory = uint64_t{64} << 20;
constexpr uint16_t kPort = 0x80;
constexpr uint64_t kSlice = 4096;  // events; as the command line tool has it

[[noreturn]] void fail(const Error& e) {
  fmt::print(stderr, "kvm_overhead: {}\n", e.text());
  std::exit(2);
}
template <class T>
T take(Result<T> result) {
  if (!result) fail(result.error());
  return std::move(result).value();
}
void take(const Result<void>& result) {
  if (!result) fail(result.error());
}

// --- the guests ------------------------------------------------------------------------------------------------------

constexpr uint64_t kGdt = 0x1000, kTss = 0x3000, kPml4 = 0x4000, kPdpt = 0x5000, kPd = 0x6000;
constexpr uint64_t kCode = 0x200000, kStack = 0x300000;

struct Guest {
  std::string_view name;
  bool user;
  std::vector<uint8_t> code;
};

// l: in al, 80h; jmp l
Guest port_guest() { return {"port reads", false, {0xe4, kPort, 0xeb, 0xfc}}; }

// l: mov rcx, ROUNDS; m: add rax, rcx; imul rdx, rax; xor rsi, rdx; sub rcx, 1; jnz m; in al, 80h; jmp l
Guest computing_guest(uint64_t rounds) {
  std::vector<uint8_t> code = {0x48, 0xb9};
  for (unsigned i = 0; i < 8; ++i) code.push_back(static_cast<uint8_t>(rounds >> (8 * i)));
  const uint8_t rest[] = {0x48, 0x01, 0xc8, 0x48, 0x0f, 0xaf, 0xd0, 0x48, 0x31, 0xd6, 0x48, 0x83, 0xe9,
                          0x01, 0x75, 0xf0, 0xe4, kPort, 0xeb, 0xe2};
  code.insert(code.end(), std::begin(rest), std::end(rest));
  return {"computing", true, code};
}

void put(GuestMemory& memory, uint64_t at, uint64_t value) {
  std::array<uint8_t, 8> bytes;
  std::memcpy(bytes.data(), &value, 8);
  memory.write(PhysAddr(at), bytes);
}

// 64-bit code with the lowest 4 MiB mapped one to one in pages of 2 MiB; descriptors where Linux has them.
void place(const Guest& guest, GuestMemory& memory, CpuState& s) {
  constexpr uint32_t kCodeType = seg::P | seg::S | seg::L | seg::G | 11, kDataType = seg::P | seg::S | seg::DB | seg::G | 3;
  constexpr uint16_t kKernelCs = 0x10, kKernelSs = 0x18, kUserSs = 0x2b, kUserCs = 0x33, kTssSelector = 0x40;
  const std::array<uint64_t, 10> descriptors = {0, 0, 0x00af9b000000ffff, 0x00cf93000000ffff, 0, 0x00cff3000000ffff,
                                                0x00affb000000ffff, 0, 0x00008b0000002069 | kTss << 16, 0};
  for (size_t i = 0; i < descriptors.size(); ++i) put(memory, kGdt + 8 * i, descriptors[i]);
  put(memory, kTss + 4, kStack);               // RSP0
  put(memory, kTss + 0x66, uint64_t{0x68});  // the I/O bitmap follows, and allows all of the first ports
  put(memory, kPml4, kPdpt | 7);
  put(memory, kPdpt, kPd | 7);
  put(memory, kPd, 0x87);
  put(memory, kPd + 8, 0x200087);
  memory.write(PhysAddr(kCode), guest.code);

  s = CpuState::at_reset(VcpuId(0));
  const uint32_t dpl = guest.user ? seg::DPL : 0;
  for (Segment& g : s.segment) g = {0, 0xffffffff, kDataType | dpl, guest.user ? kUserSs : kKernelSs};
  s.segment[CS] = {0, 0xffffffff, kCodeType | dpl, guest.user ? kUserCs : kKernelCs};
  s.tr = {kTss, 0x2069, seg::P | 11, kTssSelector};
  s.gdtr = {kGdt, 8 * descriptors.size() - 1};
  s.idtr = {0, 0};
  s.cr0 = cr0::PG | cr0::NE | cr0::ET | cr0::PE;
  s.cr3 = kPml4;
  s.cr4 = cr4::PAE;
  s.efer = efer::LME | efer::LMA;
  s.rip = kCode;
  s.gpr[RSP] = kStack;
}

// --- three ways to run them ------------------------------------------------------------------------------------------

double now() {
  timespec t{};
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
  return static_cast<double>(t.tv_sec) + static_cast<double>(t.tv_nsec) / 1e9;
}

// Counts and times what the engine asks of KVM.
class TimedCalls final : public kvm::SystemCalls {
 public:
  struct Cost {
    uint64_t calls = 0;
    double seconds = 0;
  };
  int open(const char* path) override { return real_.open(path); }
  int ioctl(int fd, unsigned long request, void* arg) override {
    const double begin = now();
    const int result = real_.ioctl(fd, request, arg);
    Cost& cost = costs[_IOC_NR(request)];
    ++cost.calls;
    cost.seconds += now() - begin;
    return result;
  }
  int map(int fd, size_t size, void** address) override { return real_.map(fd, size, address); }
  long read_at(int fd, std::span<uint8_t> out, uint64_t offset) override { return real_.read_at(fd, out, offset); }
  void unmap(void* address, size_t size) override { real_.unmap(address, size); }
  void close(int fd) override { real_.close(fd); }

  std::map<unsigned, Cost> costs;  // by the request's number in <linux/kvm.h>

 private:
  kvm::SystemCalls& real_ = kvm::system_calls();
};

// What any KVM user has to do for `exits` exits, and nothing beside it.
double run_bare(const Guest& guest, uint64_t exits) {
  const auto memory = take(GuestMemory::create(kMemory));
  const auto kvm = take(kvm::Kvm::open());
  const auto vm = take(kvm.create_vm());
  for (const kvm::MemorySlot& slot : kvm::plan_slots(*memory)) {
    kvm_userspace_memory_region region{};
    region.slot = slot.number;
    region.guest_phys_addr = slot.first_page << kPageShift;
    region.memory_size = slot.pages << kPageShift;
    region.userspace_addr = reinterpret_cast<uintptr_t>(memory->host(PhysAddr(region.guest_phys_addr)));
    take(vm.set_memory_region(region));
  }
  auto vcpu = take(vm.create_vcpu(0));
  take(kvm::install_cpuid(vcpu, kvm::cpuid_table(VcpuId(0), 1)));
  CpuState state;
  place(guest, *memory, state);
  take(kvm::StateCarrier(kvm.capabilities(), {}).load(vcpu, state, {}));
  const kvm_run& page = vcpu.run_area();
  const double begin = now();
  for (uint64_t i = 0; i < exits; ++i) {
    const auto ran = take(vcpu.run());
    if (ran != kvm::KvmVcpu::Ran::exited || page.exit_reason != KVM_EXIT_IO || page.io.direction != KVM_EXIT_IO_IN)
      fail({ErrorCode::unsupported, fmt::format("the bare loop met exit reason {}", page.exit_reason), {}});
    vcpu.io_data()[0] = 0xff;
  }
  return now() - begin;
}

// A host without console and input.
struct Host {
  Host() : stop(take(StopSource::create())) {
    ConsoleOptions none;
    none.kind = ConsoleKind::none;
    none.output_fd = -1;
    boundary = std::make_unique<LiveBoundary>(LiveOptions{}, take(make_console(none, stop.get())), *stop);
  }
  std::unique_ptr<StopSource> stop;
  std::unique_ptr<LiveBoundary> boundary;
};

MachineConfig kvm_machine(kvm::SystemCalls* calls = nullptr) {
  MachineConfig config;
  config.memory_size = kMemory;
  kvm::KvmEngineOptions options;
  options.calls = calls;
  config.engine = kvm::kvm_engine(options);
  config.positions = PositionUnit::events;
  config.time = TimeSource::events;
  return config;
}

std::unique_ptr<Machine> make_machine(const Guest& guest, Boundary& boundary, kvm::SystemCalls* calls = nullptr) {
  auto machine = take(Machine::create(kvm_machine(calls), boundary));
  Vcpu& vcpu = machine->vcpu(VcpuId(0));
  place(guest, machine->memory(), vcpu.state);
  machine->memory_changed();
  machine->engine().state_changed(vcpu);
  return machine;
}

RunOptions until(const Host& host, uint64_t exits) {
  RunOptions options;
  options.stop_at = Position(exits);
  options.slice = kSlice;
  options.stop_requested = [&host] { return host.stop->requested(); };
  return options;
}

// --- what comes of it ------------------------------------------------------------------------------------------------

struct Times {
  std::vector<double> bare, run, recorded;  // seconds
  uint64_t trace_bytes = 0;
  kvm::KvmStatistics statistics;  // of the last recording
};

void check_end(const RunResult& result, uint64_t exits) {
  if (result.end.value != exits) fail({ErrorCode::unsupported, fmt::format("a run ended at event {} of {}", result.end.value, exits), {}});
}

double record_once(const Guest& guest, uint64_t exits, const std::string& trace, Times& times, TimedCalls* calls = nullptr) {
  Host host;
  TraceHeader header = make_header(kvm_machine(), {}, {});
  header.engine = "kvm";
  const auto writer = take(TraceWriter::create(trace, header));
  RecordingBoundary boundary(*host.boundary, *writer);
  const auto machine = make_machine(guest, boundary, calls);
  RecordOptions how;
  how.run = until(host, exits);
  const auto recording = take(Recording::begin(*machine, *writer, how));
  if (calls != nullptr) calls->costs.clear();
  const double begin = now();
  const RunResult result = take(recording->run(how.run));
  times.trace_bytes = take(recording->finish(result)).trace_bytes;
  const double seconds = now() - begin;
  check_end(result, exits);
  times.statistics = *kvm::kvm_statistics(machine->engine());
  return seconds;
}

void play_round(const Guest& guest, uint64_t exits, const std::string& trace, Times& times) {
  times.bare.push_back(run_bare(guest, exits));
  {
    Host host;
    const auto machine = make_machine(guest, *host.boundary);
    const double begin = now();
    check_end(take(run_machine(*machine, until(host, exits))), exits);
    times.run.push_back(now() - begin);
  }
  times.recorded.push_back(record_once(guest, exits, trace, times));
}

void print_costs(const Guest& guest, uint64_t exits, const std::string& trace) {
  TimedCalls calls;
  Times times;
  const double all = record_once(guest, exits, trace, times, &calls);
  double inside = 0;
  for (const auto& [request, cost] : calls.costs) {
    inside += cost.seconds;
    fmt::print("{:11} ioctl {:02x}h  {:8} calls, {:8.2f} us each, {:5.1f} % of the time\n", guest.name, request, cost.calls,
               cost.seconds * 1e6 / static_cast<double>(cost.calls), 100 * cost.seconds / all);
  }
  fmt::print("{:11} outside of KVM {:.2f} us per exit, {:.1f} %\n", guest.name, (all - inside) * 1e6 / static_cast<double>(exits),
             100 * (all - inside) / all);
}

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

struct Verdict {
  std::string_view name;
  uint64_t exits;
  double bare, run, recorded;       // medians, seconds
  double run_share, recorded_share;  // medians of each round's part of bare
  double promise;
  uint64_t trace_bytes;
  kvm::KvmStatistics statistics;
  bool kept() const { return recorded_share >= promise; }
};

Verdict judge(const Guest& guest, uint64_t exits, double promise, const Times& times) {
  std::vector<double> run, recorded;
  for (size_t i = 0; i < times.bare.size(); ++i) {
    run.push_back(times.bare[i] / times.run[i]);
    recorded.push_back(times.bare[i] / times.recorded[i]);
  }
  return {guest.name,  exits,            median(times.bare), median(times.run), median(times.recorded),
          median(run), median(recorded), promise,            times.trace_bytes, times.statistics};
}

void print_text(const Verdict& v) {
  const auto line = [&](std::string_view way, double seconds, double share) {
    const double per_exit = seconds / static_cast<double>(v.exits);
    fmt::print("{:11} {:9} {:8.4f} s  {:10.0f} exits/s {:12.2f} us each  {:.3f} of bare\n", v.name, way, seconds, 1 / per_exit,
               per_exit * 1e6, share);
  };
  line("bare", v.bare, 1);
  line("run", v.run, v.run_share);
  line("recorded", v.recorded, v.recorded_share);
  fmt::print("{:11} promise   {:.2f} of bare: {}; {} entries, {} kicks, {} assists, trace {} bytes\n", v.name, v.promise,
             v.kept() ? "kept" : "MISSED", v.statistics.entries, v.statistics.kicks, v.statistics.assists, v.trace_bytes);
}

std::string as_json(const Verdict& v) {
  return fmt::format(
      R"({{"guest": "{}", "exits": {}, "bare_s": {:.6f}, "run_s": {:.6f}, "recorded_s": {:.6f}, "recorded_of_bare": {:.4f}, )"
      R"("run_of_bare": {:.4f}, "promise": {}, "kept": {}, "entries": {}, "kicks": {}, "assists": {}, "trace_bytes": {}}})",
      v.name, v.exits, v.bare, v.run, v.recorded, v.recorded_share, v.run_share, v.promise, v.kept(), v.statistics.entries,
      v.statistics.kicks, v.statistics.assists, v.trace_bytes);
}

struct Arguments {
  bool check = false, json = false, costs = false;
  uint64_t rounds = 7, exits = 40'000;
};

bool parse(int argc, char** argv, Arguments& out) {
  for (int i = 1; i < argc; ++i) {
    const std::string_view a = argv[i];
    const auto number = [&](std::string_view key, uint64_t& value) {
      if (!a.starts_with(key)) return false;
      value = std::strtoull(a.substr(key.size()).data(), nullptr, 0);
      return value != 0;
    };
    if (a == "--check") out.check = true;
    else if (a == "--json") out.json = true;
    else if (a == "--costs") out.costs = true;
    else if (!number("--rounds=", out.rounds) && !number("--exits=", out.exits)) return false;
  }
  return true;
}

int run_main(int argc, char** argv) {
  Arguments arguments;
  if (!parse(argc, argv, arguments)) {
    fmt::print(stderr, "usage: kvm_overhead [--check] [--json] [--costs] [--rounds=N] [--exits=N]\n");
    return 2;
  }
  if (const auto kvm = kvm::Kvm::open(); !kvm) {
    if (arguments.json) fmt::print("{{\"skipped\": true}}\n");
    fmt::print(arguments.json ? stderr : stdout, "SKIPPED: {}\n", kvm.error().text());
    return arguments.check ? 77 : 0;
  }
  const std::string trace =
      (std::filesystem::temp_directory_path() / fmt::format("kvm_overhead-{}.trace", ::getpid())).string();
  const Guest ports = port_guest();
  // As many rounds as take about a second here.
  constexpr uint64_t kTrial = 200'000'000;
  const double trial = run_bare(computing_guest(kTrial), 1);
  const Guest computing = computing_guest(static_cast<uint64_t>(static_cast<double>(kTrial) / std::max(trial, 1e-3)));
  Times port_times, computing_times;
  for (uint64_t round = 0; round < arguments.rounds; ++round) {
    play_round(ports, arguments.exits, trace, port_times);
    play_round(computing, 1, trace, computing_times);
  }
  if (arguments.costs) {
    print_costs(ports, arguments.exits, trace);
    print_costs(computing, 1, trace);
  }
  std::error_code ignored;
  std::filesystem::remove(trace, ignored);
  const std::array verdicts = {judge(ports, arguments.exits, kExitsPromise, port_times),
                               judge(computing, 1, kComputePromise, computing_times)};
  if (arguments.json) {
    fmt::print("{{\"rounds\": {}, \"guests\": [\n  {},\n  {}\n]}}\n", arguments.rounds, as_json(verdicts[0]), as_json(verdicts[1]));
  } else {
    for (const Verdict& v : verdicts) print_text(v);
  }
  const bool kept = std::all_of(verdicts.begin(), verdicts.end(), [](const Verdict& v) { return v.kept(); });
  return arguments.check && !kept ? 1 : 0;
}

}  // namespace
}  // namespace retrovisor

int main(int argc, char** argv) { return retrovisor::run_main(argc, argv); }
