#include "replay/convert.h"

#include <sys/stat.h>

#include "traces/describe.h"
#include "traces/writer.h"

namespace retrovisor {
namespace {

// Events between two looks at the host.
constexpr uint64_t kSlice = 4096;

class JournalTo final : public JournalSink {
 public:
  explicit JournalTo(std::function<void(const JournalEvent&)> to) : to_(std::move(to)) {}
  void event(const JournalEvent& e) override { to_(e); }

 private:
  std::function<void(const JournalEvent&)> to_;
};

bool same_file(const std::string& a, const std::string& b) {
  struct stat x {}, y {};
  return stat(a.c_str(), &x) == 0 && stat(b.c_str(), &y) == 0 && x.st_dev == y.st_dev && x.st_ino == y.st_ino;
}

// Before its first instruction a machine asks for the time and for entropy: once each, while it is made.
Result<void> copy_first_events(TraceReader& reader, TraceWriter& writer) {
  for (const EventKind kind : {EventKind::wall_clock, EventKind::entropy}) {
    RV_TRY(auto item, reader.next());
    const auto* e = item.has_value() ? std::get_if<TraceEvent>(&*item) : nullptr;
    if (e == nullptr || e->event.kind != kind) break;  // the recorder was killed before
    writer.boundary_event(kind, Position(0), e->event.a, e->event.b, e->event.c, e->data);
  }
  return {};
}

bool stopped_on_arrival(const Stop& stop) {
  return stop.reason == StopReason::position || stop.reason == StopReason::host_request;
}

}  // namespace

Result<ConvertResult> convert(const std::string& trace, const BootImages& images, const std::string& output,
                              const ConvertOptions& options) {
  RV_TRY(auto reader, TraceReader::open(trace));
  TraceHeader header = reader->header();
  if (header.position_unit != PositionUnit::events)
    return Error{ErrorCode::bad_argument, "the trace is exact to the instruction already", trace};
  if (same_file(trace, output)) return Error{ErrorCode::bad_argument, "a trace cannot be converted in place", output};
  RV_TRY(auto session, ReplaySession::open(trace, images));
  ReplaySession& s = *session;

  header.position_unit = PositionUnit::instructions;
  header.tool_version = options.tool_version;
  header.options.emplace_back("converted-from", header.engine);
  header.engine = "soft";
  header.digest_interval = 0;  // they are as far from each other as the events are
  header.digest_detail = DigestDetail::sums;
  RV_TRY(auto writer, TraceWriter::create(output, header));
  TraceWriter& w = *writer;
  RV_TRY(copy_first_events(*reader, w));

  Machine& machine = s.machine();
  const auto put = [&w](const TraceEvent& e) {
    if (is_boundary(e.event.kind))
      w.boundary_event(e.event.kind, e.event.position, e.event.a, e.event.b, e.event.c, e.data);
    else
      w.event(e.event);
  };
  // Where the old trace ends because the run was stopped on arrival somewhere, what belongs to its last event is held back:
  // whether the new one can end on arrival is known behind it. (A host stop in a poll stops the run by itself.)
  const std::optional<EndRecord>& end = s.summary().end;
  const bool by_poll = s.summary().events[static_cast<size_t>(EventKind::host_stop)] != 0;
  const bool stopped = end && stopped_on_arrival(end->stop) && !by_poll;
  std::vector<TraceEvent> tail;
  Position happened = kNoPosition;  // where something did last
  const auto event = [&](TraceEvent e) {
    const bool last = stopped && e.event.position == end->position;
    e.event.position = machine.retired();
    if (is_boundary(e.event.kind)) happened = e.event.position;
    if (e.event.kind == EventKind::landing) {  // its position says it all now, but for what happened there before
      e.event.a = s.boundary().last_landing().deliveries;
      e.data.clear();
    }
    if (last) tail.push_back(std::move(e));
    else put(e);
  };
  s.boundary().on_event(event);
  JournalTo journal([&event](const JournalEvent& e) { event({e, {}}); });
  ReplayOptions how;
  how.slice = kSlice;
  how.stop_requested = [&] { return w.failed() || (options.stop_requested && options.stop_requested()); };
  how.progress = options.progress;
  how.listener = &journal;
  StateDigest last;
  how.equal = [&](const StateDigest& state) {
    last = state;
    // Not on arrival: behind a landing, or an instruction that had its event and then a fault.
    if (happened == machine.retired()) return;
    if (s.at_end() || (stopped && machine.position() == end->position)) return;  // the end marker has it
    DigestRecord digest;
    digest.position = machine.retired();
    digest.state = state;
    w.digest(digest);
  };
  ConvertResult out;
  auto replayed = s.run(how);
  s.boundary().on_event({});
  if (!replayed) return std::move(replayed).error();
  out.replay = std::move(*replayed);
  out.events = s.end();
  out.instructions = machine.retired();
  const bool complete = out.replay.end == ReplayResult::End::complete;
  Stop stop = out.replay.stop;
  if (complete && stopped && happened == machine.retired()) {
    stop = {StopReason::host_request, 0};
    for (TraceEvent& e : tail)
      if (e.event.kind == EventKind::time_passed) e.event.b = 1;
  }
  for (const TraceEvent& e : tail) put(e);
  RV_TRY(w.flush(machine.retired()));
  if (complete) RV_TRY(w.end(machine.retired(), stop, last, false, faults_of(stop, machine.engine())));
  out.digests = w.digests();
  out.trace_bytes = w.size();
  return out;
}

}  // namespace retrovisor
