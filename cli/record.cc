// retrovisor record: a machine and its trace.
#include <memory>

#include "cli/auto_engine.h"
#include "cli/commands.h"
#include "cli/exit_codes.h"
#include "cli/files.h"
#include "cli/live_gdb.h"
#include "cli/say.h"
#include "cli/setup.h"
#include "cli/summary.h"
#include "cli/version.h"
#include "record/record_session.h"
#include "record/recording_boundary.h"

namespace retrovisor::cli {
namespace {

struct RecordCommand {
  GuestOptions guest;
  LiveRunOptions live;
  ReportOptions report;
  std::string output;
  std::string journal = "default";
  std::string digest_interval;
  std::string digest_detail = "fields";
  std::string key_frames;
  bool sync = false;
};

Result<TraceHeader> header_of(const RecordCommand& options, const MachineConfig& config, const BootImages& images,
                              const LiveHost& host, uint64_t key_frame_interval) {
  TraceHeader header = make_header(config, images, image_names(options.guest));
  header.tool_version = kVersion;
  header.engine = is_kvm(options.guest.engine) ? "kvm" : "soft";
  header.time_mode = host.options.real_time ? TimeMode::real_time : TimeMode::virtual_time;
  header.seed = host.options.seed;
  header.rtc = host.options.wall_clock;
  header.journal_mask = options.journal == "full" ? kJournalFull : options.journal == "none" ? 0 : kJournalDefault;
  // Under KVM the guest takes its exceptions without us.
  if (is_kvm(options.guest.engine)) header.journal_mask &= ~(mask_of(EventKind::exception) | mask_of(EventKind::exception_lost));
  header.digest_detail = options.digest_detail == "sums"   ? DigestDetail::sums
                         : options.digest_detail == "full" ? DigestDetail::full
                                                           : DigestDetail::fields;
  if (!options.digest_interval.empty()) {
    RV_TRY(auto interval, parse_position(options.digest_interval, "--digest-interval"));
    header.digest_interval = interval.value;
  }
  if (key_frame_interval != 0) header.options.emplace_back("key-frames", std::to_string(key_frame_interval));
  if (!options.live.console.empty()) header.options.emplace_back("console", options.live.console);
  return header;
}

// Records while a debugger watches; it may look at everything and change nothing.
Result<RecordResult> record_under_gdb(const std::string& where, Machine& machine, TraceWriter& writer, LiveHost& host,
                                      const RecordOptions& how, std::optional<gdb::Arch> arch,
                                      std::optional<gdb::Arch> kernel) {
  RV_TRY(auto recording, Recording::begin(machine, writer, how));
  Recording& r = *recording;
  const LiveGdb live{[&r](const RunOptions& options) { return r.run(options); },
                     [&r](JournalSink* sink, EventMask mask) { r.listen(sink, mask); }, false, arch, kernel};
  RV_TRY(const auto run, run_under_gdb(where, machine, host, live));
  return r.finish(run);
}

int record_guest(RecordCommand options) {
  options.guest.engine = engine_named(options.guest, options.live, !options.key_frames.empty());
  CommandFiles files = live_files(options.guest, options.live, options.report);
  files.output("--output", options.output);
  if (auto good = files.check(); !good) return fail(good.error());
  auto made = machine_config(options.guest, options.live);
  if (!made) return fail(made.error());
  MachineConfig& config = *made;
  auto images = read_images(options.guest, config.memory_size);
  if (!images) return fail(images.error());
  config.stop_on_panic = options.live.stop_on_panic || options.report.fail_on_crash;
  if (auto good = try_images(config, *images); !good) return fail(good.error());

  if (is_kvm(options.guest.engine)) say_recording_limits(options.guest.engine);
  auto host = make_live_host(options.live);
  if (!host) return fail(host.error());
  tell_notices(*host, options.guest, *images);
  RecordOptions how;
  how.sync = options.sync;
  if (!options.key_frames.empty()) {
    if (is_kvm(options.guest.engine))
      return fail({ErrorCode::unsupported, "key frames need --engine=soft; convert the trace to get some", "--key-frames"});
    auto interval = parse_position(options.key_frames, "--key-frames");
    if (!interval) return fail(interval.error());
    how.key_frame_interval = interval->value;
  }
  auto header = header_of(options, config, *images, *host, how.key_frame_interval);
  if (!header) return fail(header.error());
  auto output = OutputFile::create(options.output, "--output");
  if (!output) return fail(output.error());
  auto writer = TraceWriter::create(output->path(), *header);
  if (!writer) return fail(writer.error());
  RecordingBoundary boundary(*host->boundary, **writer);
  auto machine = make_machine(config, boundary, *images);
  if (!machine) return fail(machine.error());
  const auto elf = gdb::arch_of_elf(images->kernel);
  *images = {};  // the guest has its copy
  output->keep();  // a recording that is cut off is worth something
  host->boundary->on_stop([&] {
    boundary.host_stop();
    (*machine)->request_stop({StopReason::host_request, 0});
  });

  how.run = session_options(*host, config);
  auto recorded = options.live.gdb.empty() ? record(**machine, **writer, how)
                                           : record_under_gdb(options.live.gdb, **machine, **writer, *host, how,
                                                              arch_named(options.live.gdb_arch), elf);
  if (!recorded) return fail(recorded.error());
  if (auto named = output->commit(options.sync); !named) return fail(named.error());
  RunSummary summary;
  summary.what = "recording";
  summary.run = recorded->run;
  summary.trace = TraceFigures{options.output, recorded->trace_bytes, recorded->events, recorded->digests};
  return finish_live(std::move(summary), **machine, *host, options.report);
}

}  // namespace

void add_record(CLI::App& app, Action& action) {
  CLI::App* sub = app.add_subcommand("record", "Run a guest and record it into a trace");
  const auto options = std::make_shared<RecordCommand>();
  const std::string group = "Trace";
  sub->add_option("-o,--output", options->output, "trace file to write")->type_name("TRACE")->required()->group(group);
  sub->add_option("--journal", options->journal,
                  "events written beside those a replay needs: default (interrupts and timers), full (every port, MMIO and "
                  "TSC access too), none")
      ->check(CLI::IsMember({"default", "full", "none"}))
      ->capture_default_str()
      ->type_name("WHICH")
      ->group(group);
  sub->add_option(
         "--digest-interval", options->digest_interval,
         fmt::format("instructions between two digests of the machine's state; 0: none [{}]", kDefaultDigestInterval))
      ->type_name("N")
      ->group(group);
  sub->add_option("--digest-detail", options->digest_detail,
                  "what a digest tells when a replay differs: sums, fields (and groups of pages), full (every page)")
      ->check(CLI::IsMember({"sums", "fields", "full"}))
      ->capture_default_str()
      ->type_name("WHAT")
      ->group(group);
  sub->add_option("--key-frames", options->key_frames,
                  "store the machine's state each N instructions (200M), so that replays and debuggers can start in the "
                  "middle; the first takes what the guest has used of its memory, packed, each other what has changed since; 0: never [0]")
      ->type_name("N")
      ->group(group);
  sub->add_flag("--sync", options->sync, "have the trace on disk, not only in the host's cache, before the command ends")
      ->group(group);
  add_guest_options(*sub, options->guest);
  add_live_options(*sub, options->live);
  add_report_options(*sub, options->report);
  sub->footer(kExitCodeHelp);
  sub->callback([options, &action] { action = [options] { return record_guest(*options); }; });
}

}  // namespace retrovisor::cli
