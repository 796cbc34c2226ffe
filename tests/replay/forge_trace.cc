// forge_trace IN OUT WHAT: copies a trace with one lie in it, well formed in every other way, for tests of what a replay
// says. WHAT: model (a machine model that no build has), input (another byte was typed), clock (the guest's clock said
// something else), interrupt (one of them is missing), late (one interrupt came an instruction later), digest (another
// memory digest in the middle), end (another position), amd or intel (recorded by KVM on such a processor), nothing.
#include <cstdio>
#include <string_view>

#include "traces/reader.h"
#include "traces/writer.h"

namespace retrovisor {
namespace {

int failed(const Error& error) {
  std::fprintf(stderr, "forge_trace: %s\n", error.text().c_str());
  return 1;
}

bool is(const TraceEvent& e, EventKind kind) { return e.event.kind == kind; }

int forge(const std::string& in, const std::string& out, std::string_view what) {
  auto reader = TraceReader::open(in);
  if (!reader) return failed(reader.error());
  TraceHeader header = (*reader)->header();
  if (what == "model") header.machine_model = 4'000'000;
  if (const auto processor = processor_model_named(what); processor && what != "model") {
    header.engine = "kvm";
    header.processor_model = *processor;
    header.position_unit = PositionUnit::events;
    header.time_source = TimeSource::events;
  }
  auto writer = TraceWriter::create(out, header);
  if (!writer) return failed(writer.error());
  int interrupts = 0;
  int digests = 0;
  for (;;) {
    auto item = (*reader)->next();
    if (!item) return failed(item.error());
    if (!item->has_value()) return 0;
    if (auto* e = std::get_if<TraceEvent>(&**item)) {
      if (what == "input" && is(*e, EventKind::console_input)) e->data[0] ^= 1;
      if (what == "clock" && is(*e, EventKind::wall_clock)) e->event.a += 7;
      if (is(*e, EventKind::interrupt) && ++interrupts == 20) {
        if (what == "interrupt") continue;
        if (what == "late") e->event.position += 1;
      }
      const JournalEvent& j = e->event;
      if (is_boundary(j.kind))
        (*writer)->boundary_event(j.kind, j.position, j.a, j.b, j.c, e->data);
      else
        (*writer)->event(j);
    } else if (auto* d = std::get_if<DigestRecord>(&**item)) {
      if (what == "digest" && ++digests == 5) d->state.memory ^= 1;
      (*writer)->digest(*d);
    } else if (auto* k = std::get_if<KeyFrame>(&**item)) {
      (*writer)->key_frame(*k);
    } else {
      auto& end = std::get<EndRecord>(**item);
      if (what == "end") end.position += 1;
      if (auto ended = (*writer)->end(end.position, end.stop, end.state); !ended) return failed(ended.error());
    }
  }
}

}  // namespace
}  // namespace retrovisor

int main(int argc, char** argv) {
  if (argc != 4) return 2;
  return retrovisor::forge(argv[1], argv[2], argv[3]);
}
