// From options to the things they ask for: images in memory, the live side of a run, a machine ready to start.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "cli/files.h"
#include "cli/options.h"
#include "record/record_session.h"
#include "vmm/boot/loader.h"
#include "vmm/host/live_boundary.h"
#include "vmm/machine/machine.h"

namespace retrovisor::cli {

// A whole file; `option` is named in errors, more than `limit` bytes are one ("... do not fit into ... of guest memory").
Result<std::vector<uint8_t>> read_image(const std::string& path, const std::string& option, uint64_t limit);
// "FILE ARGS" of --module, split at the first space.
std::pair<std::string, std::string> split_module(const std::string& text);
Result<BootImages> read_images(const GuestOptions& options, uint64_t memory_size);
// --kernel, --initrd and --module of commands that read a trace. `group`: of the help; empty: its usual one.
void add_image_options(CLI::App& command, ImageNames& images, const std::string& group = "");
// A place of a recording, which begins and ends there: "begin", "end" or a position.
Result<Position> parse_place(const std::string& text, const std::string& option, Position begin, Position end);
// The files that a trace names, or those of `instead` where it has any. One that is not where it was, or is another now, is
// looked for beside the trace. All of them become inputs of `files`.
Result<BootImages> read_recorded_images(const TraceHeader& header, const std::string& trace, const ImageNames& instead,
                                        CommandFiles& files);
Result<BootImages> read_recorded_images(const std::string& trace, const ImageNames& instead, CommandFiles& files);
// Their names, for the trace: absolute, so that a replay finds them from anywhere.
ImageNames image_names(const GuestOptions& options);
// A machine with the guest in it, ready to run. `boundary` outlives it.
Result<std::unique_ptr<Machine>> make_machine(const MachineConfig& config, Boundary& boundary, const BootImages& images);
// Would make_machine() take these images? For looking before an older trace is overwritten.
Result<void> try_images(const MachineConfig& config, const BootImages& images);
// Is it one of the kinds of kvm? Then `options` says which.
bool is_kvm(const std::string& engine);
// What makes it; null for the soft engine.
EngineFactory engine_factory(const std::string& engine);

// Which processor model this host's is; under kvm its answers are what the guest meets.
ProcessorModel host_model();
// What of the guest this host keeps out of a trace recorded with --engine=kvm; to be told before the recording starts.
void say_recording_limits(const std::string& engine);
// The machine that the options ask for, but for stop_on_panic. An error if its engine cannot be had here.
Result<MachineConfig> machine_config(const GuestOptions& guest, const LiveRunOptions& live);

// What run and record read and write, but for the trace.
CommandFiles live_files(const GuestOptions& guest, const LiveRunOptions& live, const ReportOptions& report);

// Signals, console, boundary: everything of the host that a live run touches. Taken down in the right order.
struct LiveHost {
  std::unique_ptr<StopSource> stop;
  std::unique_ptr<StopSignals> signals;
  std::unique_ptr<LiveBoundary> boundary;
  LiveOptions options;
  Position stop_at = kNoPosition;
};
Result<LiveHost> make_live_host(const LiveRunOptions& options);
// Hints while it runs: on a guest that stays silent, on one that only waits.
void tell_notices(LiveHost& host, const GuestOptions& guest, const BootImages& images);
// How long such a run lasts. `host` outlives it.
RunOptions session_options(const LiveHost& host, const MachineConfig& config);

}  // namespace retrovisor::cli
