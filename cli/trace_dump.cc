// retrovisor trace dump: the events of a trace as text or as JSON, one per line.
#include <memory>
#include <nlohmann/json.hpp>

#include "cli/commands.h"
#include "cli/exit_codes.h"
#include "cli/files.h"
#include "cli/json.h"
#include "cli/progress.h"
#include "cli/say.h"
#include "traces/describe.h"
#include "traces/reader.h"

namespace retrovisor::cli {
namespace {

struct DumpOptions {
  std::string trace;
  bool json = false;
  std::vector<std::string> kinds;
  std::string from;
  std::string to;
  uint64_t limit = UINT64_MAX;
};

// What is shown.
struct Filter {
  EventMask events = ~EventMask{0};
  bool digests = true;
  bool key_frames = true;
  bool end = true;
  Position from{0};
  Position to = kNoPosition;
  bool covers(Position p) const { return p >= from && p <= to; }
};

Result<Filter> make_filter(const DumpOptions& options) {
  Filter filter;
  if (!options.kinds.empty()) {
    filter.events = 0;
    filter.digests = filter.key_frames = filter.end = false;
  }
  for (const std::string& name : options.kinds) {
    constexpr EventMask kBoundary = ~((EventMask{1} << kFirstBoundaryKind) - 1);
    EventMask mask = name == "boundary" ? kBoundary : name == "journal" ? ~kBoundary : 0;
    std::string known = "journal, boundary, digest, key-frame, end";
    for (unsigned i = 0; i < kEventKinds; ++i) {
      const std::string_view kind = to_string(static_cast<EventKind>(i));
      if (kind == "unknown") continue;
      known += fmt::format(", {}", kind);
      if (kind == name) mask = EventMask{1} << i;
    }
    filter.events |= mask;
    if (name == "digest")
      filter.digests = true;
    else if (name == "key-frame")
      filter.key_frames = true;
    else if (name == "end")
      filter.end = true;
    else if (mask == 0)
      return Error{ErrorCode::bad_argument, fmt::format("'{}' is no kind of event; known are {}", name, known), "--kind"};
  }
  for (const auto& [text, option, position] :
       {std::tuple{&options.from, "--from", &filter.from}, {&options.to, "--to", &filter.to}}) {
    if (text->empty()) continue;
    RV_TRY(auto value, parse_position(*text, option));
    *position = value;
  }
  if (filter.from > filter.to) return Error{ErrorCode::bad_argument, "--to lies before --from: nothing is between them", "--to"};
  return filter;
}

std::string hex_text(std::span<const uint8_t> bytes) {
  std::string out;
  for (const uint8_t b : bytes) out += fmt::format("{:02x}", b);
  return out;
}

std::string text_line(const TraceItem& item, const TraceReader& reader) {
  if (const auto* e = std::get_if<TraceEvent>(&item)) {
    return fmt::format("{:>14}  vCPU {}  {}\n", e->event.position.value, e->event.vcpu.value, describe(*e));
  }
  if (const auto* d = std::get_if<DigestRecord>(&item)) {
    return fmt::format("{:>14}  digest cpu {:016x} memory {:016x} devices {:016x}, {}\n", d->position.value, d->state.cpu,
                       d->state.memory, d->state.devices, to_string(d->detail));
  }
  if (const auto* k = std::get_if<KeyFrame>(&item)) {
    const TraceReader::Extent& extent = reader.key_frame_extent();
    return fmt::format("{:>14}  key frame, {}, {}; cpu {:016x} memory {:016x} devices {:016x}\n", k->position.value,
                       k->delta ? "changes" : "whole", bytes_text(extent.end - extent.begin), k->state.cpu, k->state.memory,
                       k->state.devices);
  }
  const auto& end = std::get<EndRecord>(item);
  return fmt::format("{:>14}  end: {}\n", end.position.value, describe(end.stop, end.faults));
}

Json as_json(const TraceItem& item, const TraceReader& reader) {
  if (const auto* e = std::get_if<TraceEvent>(&item)) {
    Json out = {
        {"position", e->event.position.value},
        {"kind", to_string(e->event.kind)},
        {"vcpu", e->event.vcpu.value},
        {"a", json_hex(e->event.a)},
        {"b", json_hex(e->event.b)},
        {"c", json_hex(e->event.c)},
    };
    if (!e->data.empty()) out["data"] = hex_text(e->data);
    out["text"] = describe(e->event);
    return out;
  }
  if (const auto* d = std::get_if<DigestRecord>(&item)) {
    return {
        {"position", d->position.value},
        {"kind", "digest"},
        {"cpu", json_hex(d->state.cpu)},
        {"memory", json_hex(d->state.memory)},
        {"devices", json_hex(d->state.devices)},
        {"detail", to_string(d->detail)},
    };
  }
  if (const auto* k = std::get_if<KeyFrame>(&item)) {
    const TraceReader::Extent& extent = reader.key_frame_extent();
    return {
        {"position", k->position.value},
        {"kind", "key-frame"},
        {"delta", k->delta},
        {"parts", k->parts},
        {"file_offset", extent.begin},
        {"file_size", extent.end - extent.begin},
        {"raw_size", extent.raw_bytes},
        {"cpu", json_hex(k->state.cpu)},
        {"memory", json_hex(k->state.memory)},
        {"devices", json_hex(k->state.devices)},
    };
  }
  const auto& end = std::get<EndRecord>(item);
  return {
      {"position", end.position.value},
      {"kind", "end"},
      {"reason", to_string(end.stop.reason)},
      {"detail", end.stop.detail},
  };
}

// Does the filter want it? Sets `at` to its position.
bool wanted(const TraceItem& item, const Filter& filter, Position& at) {
  if (const auto* e = std::get_if<TraceEvent>(&item)) {
    at = e->event.position;
    return (filter.events & mask_of(e->event.kind)) != 0;
  }
  if (const auto* d = std::get_if<DigestRecord>(&item)) {
    at = d->position;
    return filter.digests;
  }
  if (const auto* k = std::get_if<KeyFrame>(&item)) {
    at = k->position;
    return filter.key_frames;
  }
  at = std::get<EndRecord>(item).position;
  return filter.end;
}

int dump(const DumpOptions& options) {
  auto filter = make_filter(options);
  if (!filter) return fail(filter.error());
  auto opened = TraceReader::open(options.trace, {.any_machine_model = true, .key_frames = TraceReader::KeyFrames::check});
  if (!opened) return fail(opened.error());
  TraceReader& reader = **opened;

  std::string lines;
  for (uint64_t shown = 0; shown < options.limit;) {
    auto item = reader.next();
    if (!item) {
      print_report(lines);
      return fail(item.error());
    }
    if (!item->has_value()) {
      if (filter->from > reader.through())
        say("--from {}: the recording ends at {}: nothing is there", grouped(filter->from.value), grouped(reader.through().value));
      if (!reader.complete() && !options.json && filter->end && filter->covers(reader.through()))
        lines += fmt::format("{:>14}  the recording was cut off here\n", reader.through().value);
      break;
    }
    Position at;
    const bool show = wanted(**item, *filter, at);
    if (at > filter->to) break;  // positions never decrease
    if (!show || !filter->covers(at)) continue;
    ++shown;
    lines += options.json ? json_line(as_json(**item, reader)) : text_line(**item, reader);
    if (lines.size() < size_t{1} << 16) continue;
    if (const int code = print_report(lines); code != kFine || std::ferror(stdout) != 0) return code;
    lines.clear();
  }
  return print_report(lines);
}

}  // namespace

void add_trace_dump(CLI::App& trace, Action& action) {
  CLI::App* sub = trace.add_subcommand("dump", "Events, digests and the end, in the order they happened");
  const auto options = std::make_shared<DumpOptions>();
  sub->add_option("trace", options->trace, "trace file")->type_name("TRACE")->required();
  sub->add_flag("--json", options->json, "one JSON object per line");
  sub->add_option("--kind", options->kinds, "only these kinds: journal, boundary, digest, key-frame, end, interrupt, ...")
      ->delimiter(',')
      ->type_name("KIND,...");
  sub->add_option("--from", options->from, "first position to show")->type_name("POSITION");
  sub->add_option("--to", options->to, "last position to show")->type_name("POSITION");
  sub->add_option("--limit", options->limit, "at most this many")->type_name("N");
  sub->callback([options, &action] { action = [options] {
      auto trace = find_trace(options->trace);
      if (!trace) return fail(trace.error());
      options->trace = *trace;
      return dump(*options);
    }; });
}

}  // namespace retrovisor::cli
