// Runs one small guest under KVM and under the soft engine side by side, event by event, and compares the whole state after
// each. The soft engine follows: where KVM let an interrupt in, and where it landed between two events, it does the same.
//
// Usage: lockstep GUEST.bin [kvm|kernel_only|in_turns|stepped] [SEED|FIRST-LAST] [landings] [apart=N] [input=TEXT]
//        [without=QUESTION:REASON]... [needs=QUESTION:REASON]
//        lockstep vmlinuz linux=INITRD [append=WORDS] kernel_only landings
//   in_turns  the KVM engine hands over to its own soft engine and back at events, as SEED says; several seeds: one run each
//   stepped   KVM goes step by step
//   landings  a timer that comes due interrupts the guest between two events; without, time moves at events only and the run
//             is the same each time
//   apart     compares only every N events, so that the KVM engine runs undisturbed in between
//   linux     the guest is a Linux kernel with this initial RAM disk: runs until it stops by itself, for hours perhaps
//   input     what is typed on the serial console, a byte every few milliseconds of guest time
//   without   what the guest uses, as a question of KvmProbe ("ring0_native"): where this host's KVM answers no, a difference is
//             reported and no failure, for REASON. Where no question named is answered so, each difference is a failure.
//   needs     not run at all where the answer is no, for REASON
// Exit codes: 0 equal to the end, 1 different, 2 cannot run, 77 no KVM here.
#include <fmt/format.h>

#include <charconv>
#include <cstring>
#include <deque>
#include <fstream>
#include <iterator>
#include <map>
#include <string>
#include <vector>

#include "record/digest_capture.h"
#include "traces/fields.h"
#include "vmm/boot/loader.h"
#include "vmm/kvm/host_model.h"
#include "vmm/kvm/kvm_api.h"
#include "vmm/kvm/kvm_engine.h"
#include "vmm/kvm/probe.h"
#include "vmm/kvm/tsc_trap.h"
#include "vmm/machine/machine.h"
#include "vmm/quiet_boundary.h"

namespace retrovisor {
namespace {

constexpr uint64_t kMemory = uint64_t{64} << 20, kLinuxMemory = uint64_t{256} << 20;
constexpr uint64_t kLoadAddress = 0x7c00;
constexpr uint64_t kEventNs = 1000;
constexpr uint64_t kInputPolls = 3;  // every how manyth look for input finds a byte
constexpr uint64_t kMostEvents = 200'000;

struct Options {
  std::string guest;
  std::string initrd, append;  // of a Linux kernel
  MachineConfig config;
  kvm::KvmEngineOptions kvm;
  bool landings = false;
  std::string input;
  uint64_t last_turns = 0;
  uint64_t apart = 1;
  // What the guest uses and not every KVM does right, and what comes of that.
  struct Use {
    kvm::Question question{};
    std::string reason;
  };
  std::vector<Use> without, needs;
};

// What the machine under KVM was told, for the other to be told the same.
struct Decisions {
  std::map<uint64_t, uint64_t> passed;                           // time, by position
  std::map<std::pair<uint64_t, uint64_t>, bool> delivered;       // by position and time
  std::deque<Landing> landings;
};

// Each event takes the same time; the rest depends on the guest.
class FixedBoundary : public QuietBoundary {
 public:
  FixedBoundary(const Options& options, Decisions& decisions) : options_(options), decisions_(decisions) {}
  size_t receive(Moment, EndpointId, std::span<uint8_t> out) override {
    if (++polls_ % kInputPolls != 0 || typed_ == options_.input.size()) return 0;
    out[0] = static_cast<uint8_t>(options_.input[typed_++]);
    return 1;
  }
  void transmit(Moment, EndpointId, std::span<const uint8_t> bytes) override {
    console.append(bytes.begin(), bytes.end());
  }
  std::string console;
  uint64_t landed_count = 0;
  std::string missed;  // what was not met again

 protected:
  const Options& options_;
  Decisions& decisions_;

 private:
  uint64_t polls_ = 0;
  size_t typed_ = 0;
};

// KVM's side: leads.
class LeadingBoundary final : public FixedBoundary {
 public:
  using FixedBoundary::FixedBoundary;
  void transmit(Moment at, EndpointId endpoint, std::span<const uint8_t> bytes) override {
    FixedBoundary::transmit(at, endpoint, bytes);
    if (!options_.initrd.empty()) fmt::print("{}", std::string_view(reinterpret_cast<const char*>(bytes.data()), bytes.size()));
  }
  uint64_t time_passed(Moment at) override {
    const uint64_t ns = std::max(kEventNs, std::exchange(due_in_, 0));
    decisions_.passed[at.position.value] = ns;
    return ns;
  }
  bool deliver(Moment at, bool possible) override {
    decisions_.delivered[{at.position.value, at.time.value}] = possible;
    return possible;
  }
  bool lands() const override { return options_.landings; }
  bool landing_wanted(Moment at, VirtualTime due) override {
    if (due == kNever) return false;
    due_in_ = due <= at.time ? 0 : due - at.time;
    return true;
  }
  void landed(Moment, const Landing& landing) override {
    decisions_.landings.push_back(landing);
    ++landed_count;
  }

 private:
  uint64_t due_in_ = 0;
};

// The soft engine's side: follows.
class FollowingBoundary final : public FixedBoundary {
 public:
  using FixedBoundary::FixedBoundary;
  uint64_t time_passed(Moment at) override {
    const auto found = decisions_.passed.find(at.position.value);
    return found == decisions_.passed.end() ? kEventNs : found->second;
  }
  bool deliver(Moment at, bool possible) override {
    const auto found = decisions_.delivered.find({at.position.value, at.time.value});
    if (found == decisions_.delivered.end() || !found->second) return false;
    if (!possible) missed = fmt::format("an interrupt delivered behind event {} is not possible", at.position.value);
    return possible;
  }
  std::optional<Landing> next_landing(Moment at) override {
    if (decisions_.landings.empty() || decisions_.landings.front().position != at.position + 1) return std::nullopt;
    return decisions_.landings.front();
  }
  void landed(Moment, const Landing&) override {
    decisions_.landings.pop_front();
    ++landed_count;
  }
  void landing_missed(Moment, const Landing& landing) override {
    missed = fmt::format("landing {} at {:#x}, after {} instructions, does not come", landing.position.value,
                         landing.linear_rip, landing.progress);
    decisions_.landings.pop_front();
  }
};

template <class B>
struct Side {
  B boundary;
  std::unique_ptr<Machine> machine;

  Side(const Options& options, Decisions& decisions) : boundary(options, decisions) {}
  Result<void> start(const BootImages& images, MachineConfig config) {
    config.memory_size = images.flat_address ? kMemory : kLinuxMemory;
    config.positions = PositionUnit::events;
    config.time = TimeSource::events;
    config.processor_model = kvm::host_processor_model();
    config.user_tsc = kvm::host_user_tsc();
    auto made = Machine::create(config, boundary);
    if (!made) return std::move(made).error();
    machine = std::move(*made);
    auto loaded = machine->load(images);
    if (!loaded) return std::move(loaded).error();
    return {};
  }
};

int report(Machine& soft, Machine& kvm, const std::string& what, const Stop& a, const Stop& b) {
  fmt::print(stderr, "DIFFERENT after event {}: soft {}, kvm {}{}\n{}", soft.position().value, to_string(a.reason),
             to_string(b.reason), b.reason == StopReason::engine_failed ? ": " + kvm.engine().report().failure->text() : "",
             what.empty() ? "" : what + "\n");
  if (soft.position() != kvm.position())
    fmt::print(stderr, "  position: soft {}, kvm {}\n", soft.position().value, kvm.position().value);
  const NamedFields left = machine_fields(soft), right = machine_fields(kvm);
  const auto counted_by_one = [](const std::string& name) {
    return name == "clock.position" || name.find("shadow") != std::string::npos;
  };
  for (size_t i = 0; i < left.names.size() && i < right.values.size(); ++i)
    if (!(left.values[i] == right.values[i]) && !counted_by_one(left.names[i]))
      fmt::print(stderr, "  {}: soft {}, kvm {}\n", left.names[i], to_string(left.values[i]), to_string(right.values[i]));
  for (uint64_t page = 0; page < soft.memory().page_limit(); ++page) {
    if (!soft.memory().is_ram(PhysAddr(page << kPageShift))) continue;
    if (soft.page_hash(page) == kvm.page_hash(page)) continue;
    const uint8_t* x = soft.memory().host(PhysAddr(page << kPageShift));
    const uint8_t* y = kvm.memory().host(PhysAddr(page << kPageShift));
    constexpr unsigned kShown = 12;
    unsigned shown = 0;
    for (size_t at = 0; at < kPageSize && shown < kShown; at += 8) {
      uint64_t left_word = 0, right_word = 0;
      std::memcpy(&left_word, x + at, sizeof left_word);
      std::memcpy(&right_word, y + at, sizeof right_word);
      if (left_word == right_word) continue;
      fmt::print(stderr, "  [{:#x}]: soft {:016x}, kvm {:016x}\n", (page << kPageShift) + at, left_word, right_word);
      ++shown;
    }
  }
  return 1;
}

std::vector<uint8_t> read_file(const std::string& name) {
  std::ifstream file(name, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

int run(const Options& options) {
  BootImages images;
  images.kernel = read_file(options.guest);
  if (images.kernel.empty()) return fmt::print(stderr, "cannot read {}\n", options.guest), 2;
  if (options.initrd.empty()) {
    images.flat_address = kLoadAddress;
    images.flat_mode = FlatMode::real16;
  } else {
    images.initrd = read_file(options.initrd);
    images.command_line = options.append;
  }
  if (auto kvm = kvm::Kvm::open(); !kvm) return fmt::print("SKIPPED: {}\n", kvm.error().text()), 77;
  Decisions decisions;
  Side<LeadingBoundary> kvm(options, decisions);
  Side<FollowingBoundary> soft(options, decisions);
  MachineConfig with_kvm = options.config;
  with_kvm.engine = kvm::kvm_engine(options.kvm);
  if (auto ok = soft.start(images, {}); !ok) return fmt::print(stderr, "{}\n", ok.error().text()), 2;
  if (auto ok = kvm.start(images, with_kvm); !ok) return fmt::print(stderr, "{}\n", ok.error().text()), 2;
  Machine &left = *soft.machine, &right = *kvm.machine;
  Stop a, b;
  while (b.reason == StopReason::position) {
    if (right.position().value >= kMostEvents && options.initrd.empty()) return fmt::print(stderr, "not at an end after {} events\n", kMostEvents), 1;
    b = right.run_until(right.position() + options.apart);
    // KVM can pass several events at once: the elements of a string, the parts of a wide access.
    const uint64_t target = right.position().value + (b.reason == StopReason::position ? 0 : 1);
    a = {};
    while (a.reason == StopReason::position && left.position().value < target && soft.boundary.missed.empty())
      a = left.run_until(Position(target));
    if (!soft.boundary.missed.empty() || a.reason != b.reason || a.detail != b.detail || left.position() != right.position() ||
        left.digest() != right.digest())
      return report(left, right, soft.boundary.missed, a, b);
  }
  fmt::print("{}equal over {} events and {} landings, then {} {}\n", kvm.boundary.console, right.position().value,
             kvm.boundary.landed_count, to_string(a.reason), a.detail);
  if (const auto* s = kvm::kvm_statistics(right.engine()); s != nullptr)
    fmt::print("{} entries, {} assists, {} kicks\n", s->entries, s->assists, s->kicks);
  if (soft.boundary.console == kvm.boundary.console) return 0;
  return fmt::print(stderr, "DIFFERENT output\n"), 1;
}

bool read_number(std::string_view word, uint64_t& number) {
  const auto [end, error] = std::from_chars(word.begin(), word.end(), number);
  return error == std::errc() && end == word.end();
}

bool read_use(std::string_view word, std::vector<Options::Use>& uses) {
  const size_t colon = word.find(':');
  if (colon == word.npos) return false;
  for (size_t i = 0; i < kvm::kQuestions; ++i) {
    const auto question = static_cast<kvm::Question>(i);
    if (key(question) != word.substr(0, colon)) continue;
    uses.push_back({question, std::string(word.substr(colon + 1))});
    return true;
  }
  return false;
}

// The first of `uses` that this host's KVM has been seen not to do. An answer that is not known excuses nothing.
const Options::Use* not_done(const std::vector<Options::Use>& uses, const kvm::KvmProbe& probe) {
  for (const Options::Use& use : uses)
    if (probe[use.question].answer == kvm::Answer::no) return &use;
  return nullptr;
}

int skipped(const Options::Use& use, const kvm::KvmProbe& probe) {
  fmt::print("SKIPPED: {} ({}: {})\n", use.reason, key(use.question), probe[use.question].seen);
  return 77;
}

bool read_seeds(std::string_view word, Options& options) {
  const size_t dash = word.find('-');
  return read_number(word.substr(0, dash), options.kvm.turns) &&
         (dash == std::string_view::npos || read_number(word.substr(dash + 1), options.last_turns));
}

}  // namespace
}  // namespace retrovisor

int main(int argc, char** argv) {
  using namespace retrovisor;
  using Share = kvm::KvmEngineOptions::Share;
  Options options;
  bool understood = argc > 1;
  for (int i = 1; i < argc; ++i) {
    const std::string word = argv[i];
    if (i == 1) options.guest = word;
    else if (word == "kvm") options.kvm.share = Share::kvm;
    else if (word == "kernel_only") options.kvm.share = Share::kernel_only;
    else if (word == "stepped") options.kvm.share = Share::stepped;
    else if (word == "in_turns") options.kvm.share = Share::in_turns;
    else if (word.starts_with("linux=")) options.initrd = word.substr(6), options.kvm.upper_half_only = true;
    else if (word.starts_with("append=")) options.append = word.substr(7);
    else if (word == "landings") options.landings = true;
    else if (word.starts_with("apart=")) understood = understood && read_number(word.substr(6), options.apart) && options.apart != 0;
    else if (word.starts_with("input=")) options.input = word.substr(6);
    else if (word.starts_with("without=")) understood = understood && read_use(std::string_view(word).substr(8), options.without);
    else if (word.starts_with("needs=")) understood = understood && read_use(std::string_view(word).substr(6), options.needs);
    else understood = understood && read_seeds(word, options);
  }
  if (!understood) {
    fmt::print(stderr, "usage: lockstep GUEST.bin [kvm|kernel_only|in_turns|stepped] [SEED|FIRST-LAST] [landings] "
                       "[apart=N] [input=TEXT] [without=QUESTION:REASON]... [needs=QUESTION:REASON]\n");
    return 2;
  }
  const bool ask = !options.without.empty() || !options.needs.empty();
  const kvm::KvmProbe probe = ask ? kvm::probe_kvm() : kvm::KvmProbe{};
  if (const auto* use = not_done(options.needs, probe)) return skipped(*use, probe);
  int code = 0;
  for (; code == 0; ++options.kvm.turns) {
    if (options.last_turns != 0) fmt::print("seed {}: ", options.kvm.turns);
    code = run(options);
    if (options.kvm.turns >= options.last_turns) break;
  }
  const auto* use = not_done(options.without, probe);
  return code == 1 && use != nullptr ? skipped(*use, probe) : code;
}
