#include "tests/conformance/recorder.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>

#include "tests/conformance/compare.h"
#include "vmm/cpu/registers.h"
#include "vmm/kvm/host_model.h"
#include "vmm/kvm/progress_counter.h"

namespace retrovisor::conformance {
namespace {

// Of each name and mode: samples that end, and samples of each exception.
constexpr unsigned kMostEnded = 7, kMostFaults = 2;
constexpr unsigned kMostInstructions = 3;  // composites that need more say little about one
constexpr uint64_t kDrawn = 60'000;
// Addresses from here on are the kernel's: hypervisors and Linux have their own ways with them.
constexpr uint64_t kKernelAddresses = 0x00007ffffffff000;

struct Changed {
  uint32_t offset;
  uint8_t value;
  bool operator==(const Changed&) const = default;
};

class Recorder {
 public:
  explicit Recorder(NativeRunner& native) : native_(native) { batch_.count = 1; }

  Result<void> run(const Sequence& sequence) {
    sequence.write(batch_.code.data());
    batch_.states[0] = sequence.start;
    auto outcome = native_.run(batch_);
    if (!outcome.ok()) return outcome.error();
    outcome_ = **outcome;
    return {};
  }

  ArenaBytes& arena() { return batch_.arena; }
  const Outcome& outcome() const { return outcome_; }

  std::vector<Changed> changed_memory() const {
    std::vector<Changed> out;
    for (unsigned i = 0; i < std::min(outcome_.lines_count, kMaxLines); ++i) {
      const Line& line = outcome_.lines[i];
      for (unsigned k = 0; k < kLine; ++k) {
        if (line.bytes[k] != batch_.arena[line.offset + k]) out.push_back({line.offset + k, line.bytes[k]});
      }
    }
    return out;
  }

  // Sets what makes no difference to the start that all samples share.
  Result<void> reduce(Sequence& sequence) {
    RV_TRY(run(sequence));
    first_ = outcome_;
    first_start_ = sequence.start;
    first_changed_ = changed_memory();
    const State base = sample_start(sequence.mode);
    for (const StatePart& part : state_parts()) {
      if (part.name == "rip" || part.name == "cs" || part.name == "ss") continue;
      uint8_t* const now = reinterpret_cast<uint8_t*>(&sequence.start) + part.offset;
      const uint8_t* const wanted = reinterpret_cast<const uint8_t*>(&base) + part.offset;
      std::array<uint8_t, 16> before{};
      if (std::memcmp(now, wanted, part.size) == 0) continue;
      std::memcpy(before.data(), now, part.size);
      std::memcpy(now, wanted, part.size);
      auto same = same_answer(sequence);
      if (!same.ok()) return same.error();
      if (!*same) std::memcpy(now, before.data(), part.size);
    }
    return clear_memory(sequence, 0, kArenaSize, 0);
  }

 private:
  Result<bool> same_answer(const Sequence& sequence) {
    RV_TRY(run(sequence));
    const Outcome& o = outcome_;
    if (o.vector != first_.vector || o.error_code != first_.error_code || o.cr2 != first_.cr2) return false;
    for (const StatePart& part : state_parts()) {
      const auto in = [&](const State& s) { return reinterpret_cast<const uint8_t*>(&s) + part.offset; };
      const bool changed = std::memcmp(in(first_.state), in(first_start_), part.size) != 0;
      const State& must_be = changed ? first_.state : sequence.start;
      if (std::memcmp(in(o.state), in(must_be), part.size) != 0) return false;
    }
    return changed_memory() == first_changed_;
  }

  // Pages, then lines of those that matter, then words.
  Result<void> clear_memory(const Sequence& sequence, size_t begin, size_t end, unsigned level) {
    static constexpr size_t kSteps[] = {kPageSize, kLine, 8};
    const size_t step = kSteps[level];
    std::vector<uint8_t> before(step);
    for (size_t at = begin; at < end; at += step) {
      uint8_t* const bytes = batch_.arena.data() + at;
      if (std::all_of(bytes, bytes + step, [](uint8_t b) { return b == 0; })) continue;
      std::copy_n(bytes, step, before.data());
      std::fill_n(bytes, step, uint8_t{0});
      auto same = same_answer(sequence);
      if (!same.ok()) return same.error();
      if (*same) continue;
      std::copy_n(before.data(), step, bytes);
      if (level < 2) RV_TRY(clear_memory(sequence, at, at + step, level + 1));
    }
    return {};
  }

  NativeRunner& native_;
  Batch batch_;
  Outcome outcome_{}, first_{};
  State first_start_{};
  std::vector<Changed> first_changed_;
};

void note_answer(const Recorder& recorder, Sample& sample) {
  const Outcome& o = recorder.outcome();
  sample.vector = o.vector;
  sample.error_code = o.error_code;
  sample.cr2 = o.cr2;
  sample.after = o.state;
  sample.memory_after.clear();
  for (const Changed& c : recorder.changed_memory()) {
    auto& patches = sample.memory_after;
    if (patches.empty() || patches.back().offset + patches.back().bytes.size() != c.offset) patches.push_back({c.offset, {}});
    patches.back().bytes.push_back(c.value);
  }
}

void note_memory(const ArenaBytes& arena, Sample& sample) {
  for (size_t at = 0; at < kArenaSize; ++at) {
    if (arena[at] == 0) continue;
    size_t end = at + 1;
    // A few zeros between are shorter than another address.
    for (size_t zeros = 0, i = end; i < kArenaSize && zeros < 4; ++i) {
      zeros = arena[i] == 0 ? zeros + 1 : 0;
      if (zeros == 0) end = i + 1;
    }
    sample.memory_before.push_back({static_cast<uint32_t>(at), {arena.data() + at, arena.data() + end}});
    at = end - 1;
  }
}

std::string name_of(const Sequence& sequence) {
  std::string name;
  bool approximate = false;
  for (const Item& item : sequence.items) {
    if (!name.empty()) name += '+';
    name += item.name;
    approximate = approximate || item.approximate;
  }
  return approximate ? name + '~' : name;
}

SampleFile empty_file() {
  SampleFile file;
  file.processor = host_name();
  file.model = kvm::host_processor_model();
  return file;
}

}  // namespace

std::string host_name() {
  const auto host = kvm::host_processor();
  return fmt::format("{} family {} model {}", host.vendor, host.family, host.model);
}

Result<SampleFile> record_samples(NativeRunner& native, Repertoire repertoire) {
  repertoire.single = true;
  repertoire.own_model = vendor_of(kvm::host_processor_model());
  const Generator generator(repertoire);
  Recorder recorder(native);
  SampleFile file = empty_file();
  std::map<std::string, unsigned> taken;
  std::map<std::string, std::vector<Sample>> by_form;
  for (uint64_t i = 0; i < kDrawn; ++i) {
    Sequence sequence = generator.make(i * kSlots);  // all in the first slot
    if (sequence.items.empty() || sequence.items.size() > kMostInstructions) continue;
    const std::string name = name_of(sequence);
    generator.fill_arena(i, recorder.arena());
    RV_TRY(recorder.run(sequence));
    const Outcome& outcome = recorder.outcome();
    if (outcome.vector == kLost || outcome.lines_count > kMaxLines || outcome.cr2 >= kKernelAddresses) continue;
    unsigned& count = taken[fmt::format("{} {} {}", static_cast<unsigned>(sequence.mode), name, outcome.vector)];
    if (count == (outcome.vector == kNoFault ? kMostEnded : kMostFaults)) continue;
    ++count;
    RV_TRY(recorder.reduce(sequence));
    RV_TRY(recorder.run(sequence));
    Sample& sample = by_form[name].emplace_back();
    sample.form = name;
    sample.mode = sequence.mode;
    for (const Item& item : sequence.items) {
      sample.code.insert(sample.code.end(), item.bytes.begin(), item.bytes.begin() + item.length);
    }
    sample.before = sequence.start;
    note_memory(recorder.arena(), sample);
    note_answer(recorder, sample);
  }
  for (auto& [form, samples] : by_form) file.samples.insert(file.samples.end(), samples.begin(), samples.end());
  return file;
}

Result<SampleFile> answer_samples(NativeRunner& native, const SampleFile& inputs, const std::array<bool, kModes>& modes) {
  Recorder recorder(native);
  SampleFile file = inputs;
  file.processor = host_name();
  file.model = kvm::host_processor_model();
  for (Sample& sample : file.samples) {
    if (!modes[static_cast<unsigned>(sample.mode)]) {
      return Error{ErrorCode::unsupported, "it has samples of a mode not among --modes, or that this host does not run", ""};
    }
    fill_arena(sample, recorder.arena());
    RV_TRY(recorder.run(as_sequence(sample)));
    note_answer(recorder, sample);
  }
  return file;
}

}  // namespace retrovisor::conformance
