// Recorded samples: what a processor answered to single instructions, kept as text, so that its rules can be checked on a
// host that is not of its kind. docs/vendors.md tells of the files; samples.cc of their format.
#pragma once

#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "tests/conformance/sequence.h"
#include "vmm/processor_model.h"
#include "vmm/result.h"

namespace retrovisor::conformance {

// Bytes of the arena, which is zero elsewhere.
struct Patch {
  uint32_t offset = 0;
  std::vector<uint8_t> bytes;
};

struct Sample {
  std::string form;
  Mode mode = Mode::bits64;
  std::vector<uint8_t> code;
  State before{}, after{};
  std::vector<Patch> memory_before, memory_after;
  uint8_t vector = kNoFault;
  uint32_t error_code = 0;
  uint64_t cr2 = 0;
};

// A named part of State: `size` bytes at `offset`.
struct StatePart {
  std::string name;
  size_t offset, size;
};
const std::vector<StatePart>& state_parts();

struct SampleFile {
  std::string base;       // the file, beside this one, whose samples these are, with another processor's answers; or empty
  std::string processor;  // vendor, family, model, stepping
  ProcessorModel model = ProcessorModel::model;
  uint64_t flags_mask = ~uint64_t{0};  // of RFLAGS that were recorded
  bool vectors = true;                 // x87 and SSE registers were recorded
  std::map<std::string, uint64_t> left_out;  // forms whose samples were not taken over, and how many
  std::vector<Sample> samples;
};

// What this host's processor calls itself.
std::string host_name();

// The state samples are told against: what has no value of its own in a sample has this one.
State sample_start(Mode mode);

// Text; files whose names end in ".zst" are compressed.
Result<SampleFile> read_samples(const std::string& path);
Result<void> write_samples(const std::string& path, const SampleFile& file);

// The bytes as they are run: in the first slot, with the way out behind them.
Sequence as_sequence(const Sample& sample);
void fill_arena(const Sample& sample, ArenaBytes& out);
// The sample's answer in the form in which the engine gives its own.
Outcome expected(const Sample& sample);

// Runs all samples of a file on the soft engine as `model` and prints what differs. The number of differences.
Result<uint64_t> check_samples(const SampleFile& file, ProcessorModel model, unsigned to_report);

}  // namespace retrovisor::conformance
