#include "replay/bisect.h"

#include <fmt/format.h>

#include <algorithm>

#include "record/digest_capture.h"
#include "traces/fields.h"
#include "vmm/cpu/state.h"

namespace retrovisor {
namespace {

// An interval is cut into this many pieces per pass from the start: few passes, and few digests in each.
constexpr uint64_t kPieces = 64;
constexpr size_t kShownPages = 32;

struct Pair {
  std::unique_ptr<ReplaySession> a;
  std::unique_ptr<ReplaySession> b;

  static Result<Pair> make(const SessionFactory& first, const SessionFactory& second) {
    RV_TRY(auto a, first());
    RV_TRY(auto b, second());
    return Pair{std::move(a), std::move(b)};
  }
  // Lets both run to `to`, or to where they stop before, without looking at the recording.
  Result<void> advance(Position to, const BisectOptions& options) {
    for (ReplaySession* s : {a.get(), b.get()}) {
      ReplayOptions run;
      run.stop_at = to;
      run.check_digests = false;
      run.check_journal = false;
      run.stop_requested = options.stop_requested;
      RV_TRY(const auto result, s->run(run));
      if (result.end == ReplayResult::End::host) return Error{ErrorCode::bad_argument, "the search was interrupted", {}};
    }
    return {};
  }
  bool same() {
    return a->machine().position() == b->machine().position() && a->machine().digest() == b->machine().digest();
  }
};

void describe_difference(Pair& pair, BisectReport& out) {
  Machine& a = pair.a->machine();
  Machine& b = pair.b->machine();
  const StateDigest da = a.digest();
  const StateDigest db = b.digest();
  out.cpu = da.cpu != db.cpu;
  out.memory = da.memory != db.memory;
  out.devices = da.devices != db.devices;
  const NamedFields fa = machine_fields(a);
  const NamedFields fb = machine_fields(b);
  for (size_t i = 0; i < std::min(fa.names.size(), fb.names.size()); ++i)
    if (fa.values[i] != fb.values[i]) out.fields.push_back({fa.names[i], to_string(fa.values[i]), to_string(fb.values[i])});
  for (uint64_t page = 0; out.memory && page < a.memory().page_limit(); ++page)
    if (a.memory().is_ram(PhysAddr(page << kPageShift)) && a.page_hash(page) != b.page_hash(page)) out.pages.push_back(page);
}

}  // namespace

std::string BisectReport::text() const {
  std::string out;
  switch (finding) {
    case Finding::no_divergence: return fmt::format("no divergence up to position {}\n", high.value);
    case Finding::at_start: out = "two replays of the trace differ before the first instruction\n"; break;
    case Finding::instruction:
      out = fmt::format(
          "two replays of the trace are equal at position {} and differ at position {}: the instruction at linear "
          "address {:#x}, executed by vCPU {}, does not do the same every time\n",
          low.value, high.value, linear_rip, vcpu.value);
      break;
    case Finding::interval:
      out = fmt::format(
          "two replays of the trace are the same run, and it is not the recorded one; the trace narrows the "
          "difference to the {} instructions after position {} and up to position {}\n",
          high - low, low.value, high.value);
      break;
    case Finding::unsteady:
      out = fmt::format(
          "two replays of the trace differed between positions {} and {}, but not every time: the difference does "
          "not come at the same instruction in each run\n",
          low.value, high.value);
      break;
  }
  const std::pair<bool, const char*> parts[] = {{cpu, "CPU"}, {memory, "memory"}, {devices, "devices"}};
  for (const auto& [differs, name] : parts)
    if (differs) out += fmt::format("  differs: {}\n", name);
  for (const FieldDifference& f : fields) out += fmt::format("  {}: {} and {}\n", f.name, f.recorded, f.replayed);
  for (size_t i = 0; i < std::min(pages.size(), kShownPages); ++i) out += fmt::format("  page {:#x}\n", pages[i] << kPageShift);
  if (pages.size() > kShownPages) out += fmt::format("  and {} more pages\n", pages.size() - kShownPages);
  if (divergence) out += divergence->text();
  return out;
}

Result<BisectReport> bisect(const SessionFactory& first, const SessionFactory& second, const BisectOptions& options) {
  BisectReport out;
  Position end;
  {
    // Against the recording: where does the trace see a difference?
    RV_TRY(auto session, first());
    ReplayOptions run;
    run.stop_requested = options.stop_requested;
    RV_TRY(auto result, session->run(run));
    if (result.end == ReplayResult::End::host) return Error{ErrorCode::bad_argument, "the search was interrupted", {}};
    out.divergence = result.divergence;
    end = session->end();
  }
  // Against each other, as far as the recording goes and a little further than where the first one left it.
  Position low{0};
  Position high = out.divergence ? std::min(out.divergence->bad + 1, end) : end;
  bool differ = false;
  for (;;) {
    RV_TRY(auto pair, Pair::make(first, second));
    const uint64_t piece = std::max<uint64_t>((high - low + kPieces - 1) / kPieces, 1);
    Position equal = low;
    bool found = false;
    if (low.value != 0) RV_TRY(pair.advance(low, options));
    if (!pair.same() && low.value == 0) {
      out.finding = BisectReport::Finding::at_start;
      describe_difference(pair, out);
      return out;
    }
    if (!pair.same()) {
      // They were equal here the last time.
      out.finding = BisectReport::Finding::unsteady;
      out.low = Position(0);
      out.high = low;
      return out;
    }
    while (!found && equal < high) {
      const Position next = std::min(equal + piece, high);
      RV_TRY(pair.advance(next, options));
      if (pair.same())
        equal = next;
      else
        found = true;
    }
    if (!found) {
      if (differ) {
        out.finding = BisectReport::Finding::unsteady;
        out.low = low;
        out.high = high;
        return out;
      }
      break;
    }
    differ = true;
    low = equal;
    high = std::min(equal + piece, high);
    if (options.progress) options.progress(low, high);
    if (high - low <= 1) {
      out.finding = BisectReport::Finding::instruction;
      out.low = low;
      out.high = high;
      describe_difference(pair, out);
      RV_TRY(auto at_low, first());
      ReplayOptions run;
      run.stop_at = low;
      run.check_digests = false;
      run.check_journal = false;
      RV_TRY(at_low->run(run));
      Machine& machine = at_low->machine();
      out.vcpu = machine.last_vcpu();
      const CpuState& cpu = machine.vcpu(out.vcpu).state;
      out.linear_rip = cpu.rip + (cpu.mode64() ? 0 : cpu.segment[CS].base);
      return out;
    }
  }
  out.finding = out.divergence ? BisectReport::Finding::interval : BisectReport::Finding::no_divergence;
  out.low = out.divergence ? out.divergence->good : end;
  out.high = out.divergence ? out.divergence->bad : end;
  return out;
}

}  // namespace retrovisor
