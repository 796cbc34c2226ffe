#include "replay/convert.h"

#include "traces/writer.h"

namespace retrovisor {
namespace {

// The journal, at the positions of the machine that replays.
class RetiredPositions final : public JournalSink {
 public:
  RetiredPositions(const Machine& machine, TraceWriter& writer) : machine_(machine), writer_(writer) {}
  void event(const JournalEvent& e) override {
    JournalEvent exact = e;
    exact.position = machine_.retired();
    writer_.event(exact);
  }

 private:
  const Machine& machine_;
  TraceWriter& writer_;
};

}  // namespace

Result<ConvertResult> convert(const std::string& trace, const BootImages& images, const std::string& output,
                              const ConvertOptions& options) {
  // Before its first position a machine asks for the time and for entropy: those events come while it is made.
  std::vector<TraceEvent> first;
  auto reader = TraceReader::open(trace);
  if (!reader) return std::move(reader).error();
  TraceHeader header = (*reader)->header();
  if (header.position_unit != PositionUnit::events)
    return Error{ErrorCode::bad_argument, "the trace is exact to the instruction already", trace};
  auto session = ReplaySession::open(trace, images);
  if (!session) return std::move(session).error();
  ReplaySession& s = **session;

  header.position_unit = PositionUnit::instructions;
  header.tool_version = options.tool_version;
  header.options.emplace_back("converted-from", header.engine);
  header.engine = "soft";
  header.digest_detail = DigestDetail::sums;
  auto writer = TraceWriter::create(output, header);
  if (!writer) return std::move(writer).error();
  TraceWriter& w = **writer;
  for (auto item = (*reader)->next(); ; item = (*reader)->next()) {
    if (!item) return std::move(item).error();
    const auto* e = item->has_value() ? std::get_if<TraceEvent>(&**item) : nullptr;
    if (e == nullptr || (e->event.kind != EventKind::wall_clock && e->event.kind != EventKind::entropy)) break;
    w.boundary_event(e->event.kind, Position(0), e->event.a, e->event.b, e->event.c, e->data);
  }

  Machine& machine = s.machine();
  s.boundary().on_event([&](const TraceEvent& e) {
    const bool landing = e.event.kind == EventKind::landing;  // its position says it all now
    w.boundary_event(e.event.kind, machine.retired(), e.event.a, e.event.b, e.event.c,
                     landing ? std::span<const uint8_t>() : std::span<const uint8_t>(e.data));
  });
  RetiredPositions journal(machine, w);
  ReplayOptions how;
  how.stop_requested = options.stop_requested;
  how.progress = options.progress;
  how.listener = &journal;
  StateDigest last;
  bool stopped = false;
  how.equal = [&](const StateDigest& state) {
    last = state;
    stopped = s.at_end();
    if (stopped) return;  // the end marker has it
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
  out.instructions = machine.retired();
  RV_TRY(w.flush(machine.retired()));
  if (out.replay.end == ReplayResult::End::complete) RV_TRY(w.end(machine.retired(), out.replay.stop, last));
  out.trace_bytes = w.size();
  return out;
}

}  // namespace retrovisor
