// Monitor commands about bytes of memory, whichever addresses lead to them: who wrote them, and stopping where they change.
#include <fmt/format.h>

#include <algorithm>

#include "gdbstub/monitor.h"

namespace retrovisor::gdb {
namespace {

using Words = MonitorCommand::Words;

Error bad(std::string message) { return {ErrorCode::bad_argument, std::move(message), ""}; }

// ADDR [LEN], from words[first] on.
Result<std::pair<uint64_t, uint64_t>> range_in(Execution& e, Words words, size_t first) {
  if (words.size() <= first || words.size() > first + 2) return bad("which address?");
  RV_TRY(const auto address, parse_address(e, words[first]));
  uint64_t size = 8;
  if (words.size() == first + 2) {
    RV_TRY(size, parse_number(e, words[first + 1], Breakpoints::kMaxWatchSize));
  }
  if (size == 0) return bad("0 bytes are never written");
  return std::pair(address, size);
}

// Bytes by their physical address.
Result<std::vector<ByteWatch>> physical_bytes(Execution& e, uint64_t address, uint64_t size) {
  const GuestMemory& memory = e.machine().memory();
  for (uint64_t done = 0; done < size; done += std::min(size - done, kPageSize - ((address + done) & ~kPageMask)))
    if (address + done < address || !memory.is_ram(PhysAddr(address + done)))
      return bad(fmt::format("physical {:#x} is no memory", address + done));
  return std::vector<ByteWatch>{{{PhysAddr(address), size}, std::nullopt}};
}

std::string nothing(Execution& e, uint64_t address, uint64_t size, const std::string& where) {
  return fmt::format("nothing before position {} has changed the {} bytes at {:#x}{}\n", grouped(e.timeline()->position().value),
                     size, address, where);
}

// Writes through the address, whatever it led to.
Result<std::string> last_linear_write(Execution& e, uint64_t address, uint64_t size) {
  RV_TRY(const auto found, e.timeline()->last_write(LinearAddr(address), size));
  if (!found.has_value()) return nothing(e, address, size, " through this address, in any address space");
  const Observation& o = *found;
  return fmt::format(
      "position {}: vCPU {} at {:#x} wrote {} bytes to {:#x}\n  {:#x}: {} -> {}, in the address space of then\n"
      "(monitor seek {})\n",
      grouped(o.position.value), o.vcpu.value, o.rip, o.size, o.address.value, address, shown_value(o.old_value, size),
      shown_value(o.new_value, size), o.position.value);
}

Result<std::string> last_write(Execution& e, Words words) {
  if (e.timeline() == nullptr)
    return Error{ErrorCode::unsupported, "this machine runs for the first time: there is no recording", ""};
  const bool linear = !words.empty() && words.back() == "--linear";
  const bool physical = !words.empty() && words.back() == "--phys";
  if (linear || physical) words = words.first(words.size() - 1);
  RV_TRY(const auto range, range_in(e, words, 0));
  const auto [address, size] = range;
  RV_TRY(e.leave_diversion());
  if (linear) return last_linear_write(e, address, size);
  const auto bytes = physical ? physical_bytes(e, address, size) : bytes_at(e.machine(), e.selected(), address, size);
  if (!bytes) {
    if (physical) return bytes.error();
    return fmt::format(
        "{}\n('monitor last-write {:#x} {} --linear' looks for writes through the address, whatever it led to)\n",
        bytes.error().message, address, size);
  }
  RV_TRY(const auto found, e.timeline()->last_change(*bytes, e.selected()));
  if (found.unseen)
    return fmt::format("the {} bytes at {:#x} changed between position {} and {}, and no vCPU was seen to write them\n", size,
                       address, grouped(found.unseen->first.value), grouped(found.unseen->second.value));
  if (!found.write)
    return nothing(e, address, size,
                   fmt::format(" (physical {:#x}): they are as they were loaded", bytes->front().bytes.begin.value));
  const Observation& o = *found.write;
  const ByteWatch& part = (*bytes)[o.index];
  const auto asked = part.seen_at ? std::optional(part.seen_at->value) : std::nullopt;
  std::string out = describe_write(o, asked);
  if (!found.led_there && asked)
    out += fmt::format("  {:#x} did not lead to these bytes then: the page belonged to something else\n", *asked);
  return out + fmt::format("  {}{:#x}: {} -> {}\n(monitor seek {})\n", asked ? "" : "physical ",
                           asked.value_or(part.bytes.begin.value), shown_value(o.old_value, part.bytes.size),
                           shown_value(o.new_value, part.bytes.size), o.position.value);
}

std::string list(Execution& e) {
  std::string out;
  for (const ByteWatches::Watch& w : e.byte_watches().mine())
    out += fmt::format("stops where {} change: physical {:#x}{}\n", w.text, w.bytes.front().bytes.begin.value,
                       w.bytes.size() > 1 ? " and more" : "");
  return out.empty() ? "no bytes are watched but those of the debugger's watchpoints\n" : out;
}

Result<std::string> watch(Execution& e, Words words) {
  auto& all = e.byte_watches().mine();
  if (words.empty()) return list(e);
  if (words.size() == 1 && words[0] == "off") {
    all.clear();
    return list(e);
  }
  const bool physical = words[0] == "phys";
  if (!physical && words[0] != "bytes") return bad("not understood");
  RV_TRY(const auto range, range_in(e, words, 1));
  const auto [address, size] = range;
  RV_TRY(const auto bytes, physical ? physical_bytes(e, address, size) : bytes_at(e.machine(), e.selected(), address, size));
  if (all.size() >= ByteWatches::kMost) return bad("too many; 'monitor watch off' forgets all");
  ByteWatches::Watch w;
  for (const ByteWatch& part : bytes) w.bytes.push_back({part.bytes, std::nullopt});
  w.text = fmt::format("the {} bytes at {}{:#x}", size, physical ? "physical " : "", address);
  all.push_back(std::move(w));
  return list(e);
}

}  // namespace

void add_byte_commands(std::vector<MonitorCommand>& out) {
  out.push_back({"last-write", "ADDR [LEN] [--linear|--phys]",
                 "who changed these bytes last, before here, through whatever address; does not move", last_write});
  out.push_back({"watch", "[phys ADDR [LEN] | bytes ADDR [LEN] | off]",
                 "stop where these bytes change, through whatever address, forwards and backwards", watch});
}

}  // namespace retrovisor::gdb
