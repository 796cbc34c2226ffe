// Records what this host's processor answers, as files of samples.
#pragma once

#include "tests/conformance/native.h"
#include "tests/conformance/samples.h"

namespace retrovisor::conformance {

// Single instructions as the generator draws them, some of each name, mode and exception. What a sample does not depend on is
// taken out of it: registers and memory that can be set to the common start without another answer.
Result<SampleFile> record_samples(NativeRunner& native, Repertoire repertoire);

// This host's answers to another file's samples: in the result, those samples with these answers.
Result<SampleFile> answer_samples(NativeRunner& native, const SampleFile& inputs, const std::array<bool, kModes>& modes);

}  // namespace retrovisor::conformance
