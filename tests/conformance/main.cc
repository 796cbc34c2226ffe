// conformance: runs random instruction sequences natively and in the soft engine and compares registers, flags, memory and
// faults, under the processor model of the host; or compares the engine with recorded samples; or records some. Exit code 0: no
// difference; 1: differences; 2: could not run; 77: this host cannot run any of it.
#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <map>
#include <random>
#include <string>
#include <string_view>

#include "tests/conformance/compare.h"
#include "tests/conformance/native.h"
#include "tests/conformance/recorder.h"
#include "tests/conformance/regressions.h"
#include "tests/conformance/samples.h"
#include "tests/conformance/soft.h"
#include "vmm/kvm/host_model.h"

namespace retrovisor::conformance {
namespace {

struct Options {
  uint64_t seed = 0;
  uint64_t count = 20'000'000;  // instructions; a repeated one counts once
  GroupMask groups = kAllGroups;
  std::array<bool, kModes> modes = {true, false, false};
  std::string modes_text, only;
  std::string samples;  // a file to check instead
  std::string record, inputs;  // files to write, and to take the instructions from
  uint64_t sequence = UINT64_MAX;  // this one alone
  unsigned differences = 10;       // to report before giving up
  bool self = false;
  bool whole = false;
  ProcessorModel processor_model = kvm::host_processor_model();
  bool model_given = false;
};

constexpr std::string_view kUsage =
    "usage: conformance [--seed N] [--count INSTRUCTIONS] [--modes MODE[,MODE...]] [--only GROUP[,GROUP...]]\n"
    "                   [--sequence INDEX] [--differences N] [--self] [--whole]\n"
    "                   [--processor-model host|model|amd|amd-zen3|intel]\n"
    "       conformance --samples FILE [--differences N] [--processor-model host|model|amd|amd-zen3|intel]\n"
    "       conformance --record-samples FILE [--seed N] [--modes MODE[,MODE...]] [--inputs FILE]\n"
    "modes: 64 (what is run without --modes), 32, 16: 64-bit mode, and compatibility mode with 32- and 16-bit code\n"
    "groups: integer bits control string system x87 mmx sse fault legacy\n"
    "--processor-model: whose answers the soft engine gives. If they are the host's own, as by default, nothing that is\n"
    "settled is left out; else what the manuals leave open is\n"
    "--samples compares with what a processor has answered before, which FILE holds\n"
    "--record-samples writes what this host's processor answers to single instructions; with --inputs, to those of another\n"
    "such file in the same folder\n"
    "--whole reports sequences as they were drawn, not minimised\n"
    "--self runs both times natively: what differs then is not the engine's fault\n";

bool number(std::string_view text, uint64_t& out) {
  const int base = text.starts_with("0x") ? 16 : 10;
  if (base == 16) text.remove_prefix(2);
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), out, base);
  return error == std::errc{} && end == text.data() + text.size();
}

// A list of names as the set of their numbers.
template <class Name>
bool parse_list(std::string_view text, unsigned count, Name name_of, uint32_t& out) {
  out = 0;
  while (!text.empty()) {
    const std::string_view name = text.substr(0, text.find(','));
    text.remove_prefix(std::min(text.size(), name.size() + 1));
    unsigned i = 0;
    while (i < count && name != name_of(i)) ++i;
    if (i == count) return false;
    out |= 1u << i;
  }
  return out != 0;
}

constexpr std::array<std::string_view, kModes> kModeNames = {"64", "32", "16"};

bool parse_modes(std::string_view text, std::array<bool, kModes>& out) {
  uint32_t set = 0;
  if (!parse_list(text, kModes, [](unsigned i) { return kModeNames[i]; }, set)) return false;
  for (unsigned i = 0; i < kModes; ++i) out[i] = (set >> i & 1) != 0;
  return true;
}

bool parse_model(std::string_view text, ProcessorModel& out) {
  if (text == "host") {
    out = kvm::host_processor_model();
    return true;
  }
  const auto model = processor_model_named(text);
  if (model) out = *model;
  return model.has_value();
}

bool parse(int argc, char** argv, Options& out) {
  for (int i = 1; i < argc; ++i) {
    const std::string_view option = argv[i];
    if (option == "--self" || option == "--whole") {
      (option == "--self" ? out.self : out.whole) = true;
      continue;
    }
    if (++i == argc) return false;
    uint64_t n = 0;
    if (option == "--only") {
      out.only = argv[i];
      const auto name = [](unsigned group) { return std::string_view(to_string(static_cast<Group>(group))); };
      if (!parse_list(argv[i], kGroups, name, out.groups)) return false;
      continue;
    }
    if (option == "--modes") {
      out.modes_text = argv[i];
      if (!parse_modes(argv[i], out.modes)) return false;
      continue;
    }
    if (option == "--samples" || option == "--record-samples" || option == "--inputs") {
      (option == "--samples" ? out.samples : option == "--inputs" ? out.inputs : out.record) = argv[i];
      continue;
    }
    if (option == "--processor-model") {
      if (!parse_model(argv[i], out.processor_model)) return false;
      out.model_given = true;
      continue;
    }
    if (!number(argv[i], n)) return false;
    if (option == "--seed") {
      out.seed = n;
    } else if (option == "--count") {
      out.count = n;
    } else if (option == "--sequence") {
      out.sequence = n;
    } else if (option == "--differences") {
      out.differences = static_cast<unsigned>(n);
    } else {
      return false;
    }
  }
  return true;
}

// The options that choose what is drawn.
std::string selection(const Options& options) {
  std::string text;
  if (!options.modes_text.empty()) text += " --modes " + options.modes_text;
  if (!options.only.empty()) text += " --only " + options.only;
  if (options.processor_model != kvm::host_processor_model()) {
    text += fmt::format(" --processor-model {}", name_of(options.processor_model));
  }
  return text;
}

constexpr int kSkipped = 77;  // CTest's SKIP_RETURN_CODE

// The engine answers as this host's processor does: nothing that is settled need be left out.
std::optional<ProcessorModel> own_model(const Options& options) {
  const bool own = options.processor_model != ProcessorModel::model && options.processor_model == kvm::host_processor_model();
  return own ? std::optional(vendor_of(options.processor_model)) : std::nullopt;
}

class Harness {
 public:
  explicit Harness(const Options& options)
      : options_(options), repertoire_{options.seed, options.groups, options.modes, host_has_fsgsbase(), false,
                                       false, own_model(options)},
        generator_(repertoire_) {}

  Result<int> run() {
    auto native = NativeRunner::create();
    if (!native.ok()) return native.error();
    native_ = std::move(*native);
    auto soft = SoftRunner::create(native_->ldt_missing().empty(), options_.processor_model);
    if (!soft.ok()) return soft.error();
    soft_ = std::move(*soft);
    RV_TRY(probe());
    const auto& modes = repertoire_.modes;
    if (std::none_of(modes.begin(), modes.end(), [](bool on) { return on; })) return kSkipped;
    generator_ = Generator(repertoire_);

    if (options_.sequence != UINT64_MAX) {
      RV_TRY(run_range(options_.sequence, 1));
    } else {
      RV_TRY(run_regressions());
      for (uint64_t batch = 0; executed_ < options_.count && found_ < options_.differences; ++batch) {
        RV_TRY(run_range(batch * kSlots, kSlots));
      }
    }
    return found_ == 0 ? 0 : 1;
  }

  // Instead of comparing: writes this host's answers to a file of samples.
  Result<void> record() {
    auto native = NativeRunner::create();
    if (!native.ok()) return native.error();
    native_ = std::move(*native);
    RV_TRY(probe());
    const auto write = [&](Result<SampleFile> file) -> Result<void> {
      if (!file.ok()) return file.error();
      fmt::print("{} samples of {}, {}\n", file->samples.size(), file->processor, name_of(file->model));
      return write_samples(options_.record, *file);
    };
    if (options_.inputs.empty()) return write(record_samples(*native_, repertoire_));
    auto inputs = read_samples(options_.inputs);
    if (!inputs.ok()) return inputs.error();
    inputs->base = options_.inputs.substr(options_.inputs.rfind('/') + 1);
    return write(answer_samples(*native_, *inputs, repertoire_.modes));
  }

  void summary(double seconds) const {
    const uint64_t retired = soft_ == nullptr ? 0 : soft_->instructions();
    fmt::print("{} sequences, {} instructions ({} retired with each repetition), {} differences, {:.1f} s\n", sequences_,
               executed_, retired, found_, seconds);
    std::string ends;
    for (const auto& [vector, count] : ends_) ends += fmt::format(" {} {}", vector_name(vector), count);
    fmt::print("ends:{}\n", ends);
    if (native_ != nullptr && native_->children_lost() != 0) {
      fmt::print("native child process lost {} times\n", native_->children_lost());
    }
  }

 private:
  // Takes out of the repertoire what the host cannot do.
  Result<void> probe() {
    auto& modes = repertoire_.modes;
    const auto skip = [&](Mode mode, std::string_view why) {
      bool& on = modes[static_cast<unsigned>(mode)];
      if (on) fmt::print("SKIPPED: {}-bit code: {}\n", kModeNames[static_cast<unsigned>(mode)], why);
      on = false;
    };
    const bool legacy = modes[1] || modes[2];
    repertoire_.ldt = native_->ldt_missing().empty();
    if (legacy && !repertoire_.fsgsbase) {
      skip(Mode::bits32, "needs FSGSBASE");
      skip(Mode::bits16, "needs FSGSBASE");
    }
    if (legacy && !repertoire_.ldt) {
      if (modes[1]) fmt::print("SKIPPED: segments of a local descriptor table: {}\n", native_->ldt_missing());
      skip(Mode::bits16, native_->ldt_missing());
    }
    for (const Mode mode : {Mode::bits32, Mode::bits16}) {
      if (!modes[static_cast<unsigned>(mode)]) continue;
      batch_.count = 1;
      const Sequence sequence = empty_sequence(mode);
      sequence.write(batch_.code.data());
      batch_.states[0] = sequence.start;
      auto outcome = native_->run(batch_);
      if (!outcome.ok()) return outcome.error();
      if ((*outcome)->vector != kNoFault) skip(mode, fmt::format("the host answers it with {}", describe_end(**outcome)));
    }
    std::fflush(stdout);
    return {};
  }

  // Sequences first..first+count-1, all of one batch.
  Result<void> run_range(uint64_t first, unsigned count) {
    // A batch always fills the slots its sequences belong to; unused slots hold a bare exit.
    generator_.fill_arena(first / kSlots, batch_.arena);
    std::vector<Sequence> sequences;
    for (unsigned i = 0; i < count; ++i) sequences.push_back(generator_.make(first + i));
    RV_TRY(execute(sequences));
    for (unsigned i = 0; i < count; ++i) {
      ++sequences_;
      ++ends_[native_outcomes_[i].vector];
      executed_ += started(sequences[i], native_outcomes_[i]);
      const std::string text = differences(sequences[i], native_outcomes_[i], soft_outcomes_[i]);
      if (text.empty()) continue;
      if (++found_ > options_.differences) return {};
      RV_TRY(report(sequences[i], fmt::format("sequence {}", first + i), true));
      RV_TRY(execute(sequences));  // the outcomes have been overwritten
    }
    return {};
  }

  // Instructions of the sequence up to where it stopped.
  static uint64_t started(const Sequence& sequence, const Outcome& outcome) {
    const Item* stopped = stopped_at(sequence, outcome);
    return stopped == nullptr ? sequence.items.size() : static_cast<uint64_t>(stopped - sequence.items.data()) + 1;
  }

  Result<void> run_regressions() {
    generator_.fill_arena(0, batch_.arena);
    std::vector<Regression> known = regressions();
    for (Regression& r : known) {
      if (repertoire_.own_model) r.sequence.settle(*repertoire_.own_model);
      if (!repertoire_.modes[static_cast<unsigned>(r.sequence.mode)] || (r.needs_ldt && !repertoire_.ldt)) continue;
      RV_TRY(execute({r.sequence}));
      ++sequences_;
      if (differences(r.sequence, native_outcomes_[0], soft_outcomes_[0]).empty()) continue;
      ++found_;
      RV_TRY(report(r.sequence, fmt::format("\"{}\"", r.name), false));
    }
    return {};
  }

  Result<void> execute(const std::vector<Sequence>& sequences) {
    batch_.count = static_cast<unsigned>(sequences.size());
    for (unsigned i = 0; i < batch_.count; ++i) {
      sequences[i].write(batch_.code.data() + (sequences[i].address - kCode));
      batch_.states[i] = sequences[i].start;
    }
    auto native = native_->run(batch_);
    if (!native.ok()) return native.error();
    native_outcomes_.assign(*native, *native + batch_.count);
    soft_outcomes_.resize(batch_.count);
    if (options_.self) {
      native = native_->run(batch_);
      if (!native.ok()) return native.error();
      soft_outcomes_.assign(*native, *native + batch_.count);
      return {};
    }
    soft_->load(batch_);
    for (unsigned i = 0; i < batch_.count; ++i) soft_->run(batch_.states[i], soft_outcomes_[i]);
    return {};
  }

  // Replaces instructions by NOPs as long as a difference remains.
  Result<Sequence> minimise(Sequence sequence) {
    for (bool changed = true; changed;) {
      changed = false;
      for (size_t i = sequence.items.size(); i-- > 0;) {
        const Item& item = sequence.items[i];
        if ((item.tail && !item.inner) || item.bytes[0] == 0x90) continue;
        Sequence shorter = sequence;
        size_t k = i;
        do {
          Item& gone = shorter.items[k];
          Item nop;
          nop.length = gone.length;
          nop.mode = gone.mode;
          nop.tail = gone.tail;
          nop.inner = gone.inner;
          nop.closing = gone.closing;
          nop.bytes.fill(0x90);
          gone = nop;
        } while (++k < shorter.items.size() && shorter.items[k].tail &&
                 !(item.inner && (shorter.items[k].inner || shorter.items[k].closing)));
        if (shorter.undefined_before().empty()) continue;
        RV_TRY(execute({shorter}));
        if (differences(shorter, native_outcomes_[0], soft_outcomes_[0]).empty()) continue;
        const Item* stopped = stopped_at(shorter, native_outcomes_[0]);
        // What a tail should have hidden is another difference.
        if (stopped != nullptr && stopped->tail && !stopped->inner) continue;
        sequence = std::move(shorter);
        changed = true;
      }
    }
    return sequence;
  }

  Result<void> report(const Sequence& sequence, const std::string& name, bool reproducible) {
    auto small = options_.whole ? Result<Sequence>(sequence) : minimise(sequence);
    if (!small.ok()) return small.error();
    RV_TRY(execute({*small}));
    const Outcome &native = native_outcomes_[0], &soft = soft_outcomes_[0];
    std::string text = differences(*small, native, soft);
    if (text.empty()) text = "  (gone when run alone)\n";
    fmt::print("DIFFERENCE in {}\n{}", name, disassemble(*small));
    fmt::print("  ended: native {}; soft {}\n{}", describe_end(native), describe_end(soft), text);
    fmt::print("  before: {}\n", start_text(small->start));
    if (reproducible) {
      fmt::print("  reproduce: conformance --seed {:#x}{} --sequence {}\n", options_.seed, selection(options_),
                 sequence.index);
    }
    std::fflush(stdout);
    return {};
  }

  static std::string start_text(const State& s) {
    static constexpr const char* kGpr[16] = {"rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi",
                                             "r8",  "r9",  "r10", "r11", "r12", "r13", "r14", "r15"};
    std::string text;
    for (unsigned r = 0; r < 16; ++r) text += fmt::format("{}={:x} ", kGpr[r], s.gpr[r]);
    uint16_t fcw = 0, fsw = 0;
    uint32_t mxcsr = 0;
    std::memcpy(&fcw, &s.fx[0], 2);
    std::memcpy(&fsw, &s.fx[2], 2);
    std::memcpy(&mxcsr, &s.fx[24], 4);
    text += fmt::format("es={:x} cs={:x} ss={:x} ds={:x} fs={:x} gs={:x} ", s.selector[0], s.selector[1], s.selector[2],
                        s.selector[3], s.selector[4], s.selector[5]);
    return text + fmt::format("rflags={:x} fs.base={:x} gs.base={:x} fcw={:x} fsw={:x} ftw={:x} mxcsr={:x}", s.rflags,
                              s.fs_base, s.gs_base, fcw, fsw, s.fx[4], mxcsr);
  }

  const Options& options_;
  Repertoire repertoire_;
  Generator generator_;
  std::unique_ptr<NativeRunner> native_;
  std::unique_ptr<SoftRunner> soft_;
  Batch batch_;
  std::vector<Outcome> native_outcomes_, soft_outcomes_;
  std::map<uint8_t, uint64_t> ends_;
  uint64_t sequences_ = 0;
  uint64_t executed_ = 0;
  unsigned found_ = 0;
};

// Answers that some processor once gave: any host can compare with them.
int run_samples(const Options& options) {
  const auto file = read_samples(options.samples);
  if (!file.ok()) {
    fmt::print(stderr, "conformance: {}\n", file.error().text());
    return 2;
  }
  const auto found = check_samples(*file, options.model_given ? options.processor_model : file->model, options.differences);
  if (!found.ok()) {
    fmt::print(stderr, "conformance: {}\n", found.error().text());
    return 2;
  }
  return *found == 0 && !file->samples.empty() ? 0 : 1;
}

int run(const Options& options) {
  if (!options.samples.empty()) return run_samples(options);
  if (!options.record.empty()) {
    const Result<void> done = Harness(options).record();
    if (!done.ok()) fmt::print(stderr, "conformance: {}\n", done.error().text());
    return done.ok() ? 0 : 2;
  }
  fmt::print("seed {:#x}{}, compared as {}{}\n", options.seed, selection(options), name_of(options.processor_model),
             own_model(options) ? "" : ", which this host's processor is not: what the manuals leave open is left out");
  std::fflush(stdout);
  const auto begin = std::chrono::steady_clock::now();
  Harness harness(options);
  const Result<int> result = harness.run();
  harness.summary(std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count());
  if (!result.ok()) {
    fmt::print(stderr, "conformance: {}\n", result.error().text());
    return 2;
  }
  return *result;
}

}  // namespace
}  // namespace retrovisor::conformance

int main(int argc, char** argv) {
  retrovisor::conformance::Options options;
  options.seed = std::random_device{}();
  if (!retrovisor::conformance::parse(argc, argv, options)) {
    fmt::print(stderr, "{}", retrovisor::conformance::kUsage);
    return 2;
  }
  return retrovisor::conformance::run(options);
}
