// Events and ends of runs as text, for dumps and reports.
#pragma once

#include <span>
#include <string>
#include <string_view>

#include "traces/format.h"

namespace retrovisor {

// "timer 2 for 1000000 ns", "port-write 0x3f8 size 1 value 0x41": what happened, without position.
std::string describe(const JournalEvent& e);
// As above, with the first bytes of the event's data.
std::string describe(const TraceEvent& e);
// "at position 12345 on vCPU 0: timer 2 for 1000000 ns".
std::string describe_at(const JournalEvent& e);
std::string describe_at(const TraceEvent& e);
// "power-off", "debug exit (code 3)".
std::string describe(const Stop& stop);
// The same of a stop by triple fault, with the exceptions that led to it: "triple fault: #PF at RIP 0x8123 (error code 0x2, CR2
// 0x1000), then #DF (error code 0x0), then #GP (error code 0x42)". RIP is told once: no instruction comes in between.
std::string describe(const Stop& stop, const std::vector<ChainedFault>& faults);
// Of a machine that stopped: what of EngineReport::fault_chain belongs to it.
std::vector<ChainedFault> faults_of(const Stop& stop, const Engine& engine);
// 32 hexadecimal digits.
std::string to_string(const ImageDigest& digest);
std::string_view to_string(ImageRole role);
std::string_view to_string(DigestDetail detail);
std::string_view to_string(TimeMode mode);
// XXH3-128 of an image's bytes.
ImageDigest image_digest(std::span<const uint8_t> bytes);

}  // namespace retrovisor
