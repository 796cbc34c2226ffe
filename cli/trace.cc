// retrovisor trace info | verify | dump
#include <algorithm>
#include <ctime>
#include <memory>
#include <nlohmann/json.hpp>

#include "cli/commands.h"
#include "cli/exit_codes.h"
#include "cli/files.h"
#include "cli/json.h"
#include "cli/progress.h"
#include "cli/say.h"
#include "traces/describe.h"
#include "traces/verify.h"

namespace retrovisor::cli {
namespace {

struct TraceOptions {
  std::string trace;
  bool json = false;
  bool complete = false;
};

std::string journal_text(EventMask mask) {
  if ((mask & kJournalFull) == kJournalFull) return "full";
  std::string text;
  for (unsigned i = 0; i < kFirstBoundaryKind; ++i) {
    const auto kind = static_cast<EventKind>(i);
    if (to_string(kind) == "unknown") continue;  // the mask has room for more
    if ((mask & mask_of(kind)) != 0) text += fmt::format("{}{}", text.empty() ? "" : ", ", to_string(kind));
  }
  return text.empty() ? "none" : text;
}

std::string utc_text(uint64_t seconds) {
  const auto t = static_cast<time_t>(seconds);
  std::tm parts{};
  char text[32];
  if (gmtime_r(&t, &parts) == nullptr || std::strftime(text, sizeof(text), "%Y-%m-%dT%H:%M:%SZ", &parts) == 0) return "?";
  return text;
}

uint64_t whole_key_frames(const TraceSummary& s) {
  return static_cast<uint64_t>(
      std::count_if(s.key_frames.begin(), s.key_frames.end(), [](const KeyFramePlace& k) { return !k.delta; }));
}

std::string key_frames_text(const TraceSummary& s) {
  return fmt::format("{} ({} whole, the others changes), {}, from position {} to {}", s.key_frames.size(),
                     whole_key_frames(s), bytes_text(s.key_frame_bytes()), grouped(s.key_frames.front().position.value),
                     grouped(s.key_frames.back().position.value));
}

// Of what a replay needs and is checked by: events, journal, digests. Key frames are there to start at, as many as were asked for.
uint64_t log_bytes(const TraceSummary& s) { return s.file_size - s.key_frame_bytes(); }

double bytes_per_million(const TraceSummary& s) {
  return s.through.value == 0 ? 0 : static_cast<double>(log_bytes(s)) * 1e6 / static_cast<double>(s.through.value);
}

std::string as_text(const TraceSummary& s, const std::string& path) {
  const TraceHeader& h = s.header;
  std::string out;
  const auto line = [&](std::string_view name, const std::string& value) {
    out += fmt::format("{:<16}{}\n", printable(std::string(name)), printable(value));
  };
  line("trace", fmt::format("{}, {}", path, bytes_text(s.file_size)));
  line("recorded by", fmt::format("retrovisor {}, engine {}, machine model {}", h.tool_version, h.engine, h.machine_model));
  line("machine", fmt::format("{} vCPU{}, {} of RAM, CPU {}, processor model {}", h.vcpus, h.vcpus == 1 ? "" : "s",
                              bytes_text(h.memory_size), h.cpu_model, name_of(h.processor_model)));
  for (const TraceImage& image : h.images)
    line(to_string(image.role),
         fmt::format("{}, {}, XXH3-128 {}", image.name, bytes_text(image.size), to_string(image.digest)));
  if (h.flat_address) line("flat binary", fmt::format("at {:#x}", *h.flat_address));
  line("command line", h.command_line);
  line("time",
       fmt::format("{}{}{}", to_string(h.time_mode), h.rtc ? fmt::format(", clock fixed at {}", utc_text(*h.rtc)) : "",
                   h.seed ? fmt::format(", seed {}", *h.seed) : ""));
  std::string devices;
  for (const TraceDevice& d : h.devices) {
    devices += (devices.empty() ? "" : " ") + to_string(d.device);
    if (d.version != 1) devices += fmt::format(" (version {})", d.version);
  }
  if (!devices.empty()) line("devices", devices);
  for (const auto& [name, value] : h.options) line(name, value);
  line("journal", journal_text(h.journal_mask));
  const bool by_events = h.position_unit == PositionUnit::events;
  const std::string_view unit = by_events ? "events" : "instructions";
  line("positions", by_events ? "count synchronous events" : "count instructions");
  if (h.time_source == TimeSource::events) line("guest time", "moves on at events");
  line("digests", fmt::format("{}{}, with {}", s.digests,
                              h.digest_interval == 0 ? "" : fmt::format(", every {} {}", grouped(h.digest_interval), unit),
                              to_string(h.digest_detail)));
  line("events", grouped(s.total_events));
  for (size_t i = 0; i < kEventKinds; ++i)
    if (s.events[i] != 0) line("", fmt::format("{:>12}  {}", grouped(s.events[i]), to_string(static_cast<EventKind>(i))));
  if (!s.key_frames.empty()) line("key frames", key_frames_text(s));
  const std::string rate =
      by_events ? "" : fmt::format(", {:.0f} bytes per million{}", bytes_per_million(s), s.key_frames.empty() ? "" : " without key frames");
  line("length", fmt::format("{} {}{}", grouped(s.through.value), unit, rate));
  line("ended by", s.end ? describe(s.end->stop, s.end->faults) : "nothing: " + s.completeness());
  return out;
}

Json header_json(const TraceHeader& h) {
  Json out = {
      {"tool_version", h.tool_version},
      {"engine", h.engine},
      {"machine_model", h.machine_model},
      {"memory_size", h.memory_size},
      {"vcpus", h.vcpus},
      {"stop_on_panic", h.stop_on_panic},
      {"processor_model", name_of(h.processor_model)},
      {"cpu_model", h.cpu_model},
      {"command_line", h.command_line},
      {"time", to_string(h.time_mode)},
  };
  if (h.rtc) out["rtc"] = *h.rtc;
  if (h.seed) out["seed"] = *h.seed;
  if (h.flat_address) out["flat_address"] = *h.flat_address;
  out["journal"] = journal_text(h.journal_mask);
  out["digest_interval"] = h.digest_interval;
  out["digest_detail"] = to_string(h.digest_detail);
  out["positions"] = h.position_unit == PositionUnit::events ? "events" : "instructions";
  out["time_source"] = h.time_source == TimeSource::events ? "events" : "instructions";
  Json& images = out["images"] = Json::array();
  for (const TraceImage& image : h.images) {
    images.push_back({{"role", to_string(image.role)},
                      {"name", image.name},
                      {"arguments", image.arguments},
                      {"size", image.size},
                      {"xxh3_128", to_string(image.digest)}});
  }
  Json& options = out["options"] = Json::object();
  for (const auto& [name, value] : h.options) options[name] = value;
  return out;
}

std::string as_json(const TraceSummary& s, const std::string& path) {
  Json out = {
      {"trace", path},
      {"file_size", s.file_size},
      {"complete", s.complete()},
      {"state", s.completeness()},
      {"instructions", s.through.value},
      {"log_size", log_bytes(s)},
      {"bytes_per_million_instructions", bytes_per_million(s)},
      {"header", header_json(s.header)},
      {"chunks", s.chunks},
      {"whole_size", s.whole_size},
      {"torn_bytes", s.torn_bytes},
      {"digests", s.digests},
      {"key_frames", {{"count", s.key_frames.size()}, {"whole", whole_key_frames(s)}, {"file_size", s.key_frame_bytes()}}},
      {"events", {{"total", s.total_events}}},
  };
  for (size_t i = 0; i < kEventKinds; ++i)
    if (s.events[i] != 0) out["events"][std::string(to_string(static_cast<EventKind>(i)))] = s.events[i];
  if (s.end) {
    out["end"] = {
        {"position", s.end->position.value},
        {"reason", to_string(s.end->stop.reason)},
        {"detail", s.end->stop.detail},
        {"cpu", json_hex(s.end->state.cpu)},
        {"memory", json_hex(s.end->state.memory)},
        {"devices", json_hex(s.end->state.devices)},
    };
  }
  return json_text(out);
}

int info(const TraceOptions& options) {
  auto summary = verify_trace(options.trace, {.any_machine_model = true});
  if (!summary) return fail(summary.error());
  return print_report(options.json ? as_json(*summary, options.trace) : as_text(*summary, options.trace));
}

int verify(const TraceOptions& options) {
  auto summary = verify_trace(options.trace);
  const bool good = summary.ok() && (summary->complete() || !options.complete);
  const int code = good ? kFine : summary.ok() ? kBadTrace : exit_code(summary.error().code);
  if (options.json) {
    Json out = {{"trace", options.trace}, {"ok", good}};
    if (summary.ok()) {
      out["complete"] = summary->complete();
      out["state"] = summary->completeness();
      out["instructions"] = summary->through.value;
      out["events"] = summary->total_events;
      out["digests"] = summary->digests;
      out["file_size"] = summary->file_size;
      out["whole_size"] = summary->whole_size;
    } else {
      out["error"] = summary.error().message;
      out["where"] = summary.error().where;
    }
    const int printed = print_report(json_text(out));
    return code == kFine ? printed : code;
  }
  if (!summary) return fail(summary.error());
  const bool by_events = summary->header.position_unit == PositionUnit::events;
  const int printed = print_report(fmt::format("{}: {}; {} events and {} digests over {} {} are intact\n", options.trace,
                                               summary->completeness(), grouped(summary->total_events),
                                               grouped(summary->digests), grouped(summary->through.value),
                                               by_events ? "synchronous events" : "instructions"));
  return code == kFine ? printed : code;
}

}  // namespace

void add_trace(CLI::App& app, Action& action) {
  CLI::App* trace = app.add_subcommand("trace", "Show and check traces");
  trace->require_subcommand(1);
  const auto options = std::make_shared<TraceOptions>();
  const auto add = [&](const char* name, const char* help, int (*run)(const TraceOptions&)) {
    CLI::App* sub = trace->add_subcommand(name, help);
    sub->add_option("trace", options->trace, "trace file")->type_name("TRACE")->required();
    sub->add_flag("--json", options->json, "as JSON");
    sub->callback([options, run, &action] { action = [options, run] {
      auto trace = find_trace(options->trace);
      if (!trace) return fail(trace.error());
      options->trace = *trace;
      return run(*options);
    }; });
    return sub;
  };
  add("info", "What was recorded, how, and how it ended", info);
  add("verify", "Check every byte of the file, without running anything", verify)
      ->add_flag("--complete", options->complete, "a recording that was cut off is an error (exit code 4)");
  add_trace_convert(*trace, action);
  add_trace_dump(*trace, action);
}

}  // namespace retrovisor::cli
