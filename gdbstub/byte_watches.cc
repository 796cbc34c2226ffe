#include "gdbstub/byte_watches.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>

#include "vmm/machine/memory_view.h"
#include "gdbstub/monitor.h"

namespace retrovisor::gdb {

Result<std::vector<ByteWatch>> bytes_at(Machine& machine, VcpuId vcpu, uint64_t address, uint64_t size) {
  const CpuState& state = machine.vcpu(vcpu).state;
  const MemoryView view(machine.memory(), state, false);
  std::vector<ByteWatch> out;
  for (uint64_t done = 0; done < size;) {
    const uint64_t at = linear_address(state, address + done);
    const auto phys = view.locate(at);
    if (!phys)
      return Error{ErrorCode::bad_argument,
                   fmt::format("{:#x} is not mapped to memory here (position {}, CR3 {:#x} of vCPU {})", at,
                               grouped(machine.position().value), state.cr3, vcpu.value),
                   ""};
    const uint64_t n = std::min(size - done, kPageSize - (at & ~kPageMask));
    out.push_back({{*phys, n}, LinearAddr(at)});
    done += n;
  }
  return out;
}

std::string shown_value(uint64_t value, uint64_t size) {
  const uint64_t bytes = std::min<uint64_t>(size, 8);
  const uint64_t mask = bytes == 8 ? ~uint64_t{0} : (uint64_t{1} << (8 * bytes)) - 1;
  return fmt::format("{:#0{}x}", value & mask, static_cast<int>(2 * bytes) + 2);
}

std::string describe_write(const Observation& o, std::optional<uint64_t> asked) {
  const std::string position = grouped(o.position.value);
  const std::string who = fmt::format("CPL {}, CR3 {:#x}", o.cpl, o.cr3);
  switch (o.writer) {
    case Writer::outside:
      return fmt::format("position {}: {} bytes at physical {:#x} were written by no vCPU: a device, or the host\n", position,
                         o.bytes.size, o.bytes.begin.value);
    case Writer::page_walk:
      return fmt::format("position {}: vCPU {} at {:#x} set A or D flags at physical {:#x}: the page walk for {:#x}\n  {}\n",
                         position, o.vcpu.value, o.rip, o.bytes.begin.value, o.address.value, who);
    case Writer::instruction: break;
  }
  std::string out = fmt::format("position {}: vCPU {} at {:#x} wrote {} bytes to {:#x}\n  {}", position, o.vcpu.value, o.rip,
                                o.size, o.address.value, who);
  // The same page, and so the same mapping, needs no word.
  if (!asked || (*asked & kPageMask) != (o.through.value & kPageMask))
    out += fmt::format("; {:#x} is physical {:#x}{}", o.through.value, o.bytes.begin.value,
                       asked ? fmt::format(", as {:#x} is here", (*asked & kPageMask) | (o.through.value & ~kPageMask)) : "");
  return out + "\n";
}

void ByteWatches::add_to(StopConditions& c, Machine& machine, VcpuId vcpu, const Breakpoints& breakpoints) {
  owner_.clear();
  for (const Watch& w : mine_) {
    c.bytes.insert(c.bytes.end(), w.bytes.begin(), w.bytes.end());
    owner_.resize(c.bytes.size());
  }
  for (size_t i = 0; i < c.watches.size(); ++i) {
    if (breakpoints.watch_type(i) != PointType::write_watch) continue;
    const auto bytes = bytes_at(machine, vcpu, c.watches[i].begin.value, c.watches[i].size);
    if (!bytes) continue;
    c.bytes.insert(c.bytes.end(), bytes->begin(), bytes->end());
    owner_.resize(c.bytes.size(), i);
  }
  bytes_ = c.bytes;
}

std::optional<size_t> ByteWatches::watch_of(const Observation& o) const {
  if (o.kind != Observation::Kind::physical_write) return o.index;
  return o.index < owner_.size() ? owner_[o.index] : std::nullopt;
}

void ByteWatches::begin(Machine& machine, VcpuId vcpu, const Breakpoints& breakpoints, bool backward) {
  from_ = machine.position();
  backward_ = backward;
  shown_.clear();
  const MemoryView view(machine.memory(), machine.vcpu(vcpu).state, false);
  for (const auto& w : breakpoints.watches()) {
    uint8_t raw[8] = {};
    const size_t size = std::min<uint64_t>(w.size, sizeof raw);
    uint64_t value = 0;
    const bool mapped = view.read(w.begin.value, std::span(raw, size)) == size;
    std::memcpy(&value, raw, sizeof value);
    shown_.push_back(mapped ? std::optional(value) : std::nullopt);
  }
}

std::string ByteWatches::explain(const Observation& o, const Breakpoints& breakpoints) const {
  const auto watches = breakpoints.watches();
  const auto index = watch_of(o);
  if (o.kind == Observation::Kind::physical_write) {
    if (o.index >= bytes_.size()) return {};
    const ByteWatch& part = bytes_[o.index];
    const auto asked = part.seen_at ? std::optional(part.seen_at->value) : std::nullopt;
    const uint64_t size = part.bytes.size;
    return fmt::format("[retrovisor] {}  {} -> {}\n", describe_write(o, asked), shown_value(o.old_value, size),
                       shown_value(o.new_value, size));
  }
  if (o.kind != Observation::Kind::write || !index || *index >= watches.size() || *index >= shown_.size()) return {};
  const auto& w = watches[*index];
  const auto& shown = shown_[*index];
  const uint64_t joint = backward_ ? o.new_value : o.old_value;  // of the hit, on the side where the run came from
  if (breakpoints.watch_type(*index) != PointType::write_watch || shown == joint) return {};
  return fmt::format(
      "[retrovisor] not all of the change is this store's: it made {} of {} at {:#x}, and at position {} {}.\n"
      "The address led to other memory in between. 'monitor last-write {:#x}' there tells who wrote what it leads to.\n",
      shown_value(o.new_value, w.size), shown_value(o.old_value, w.size), w.begin.value, grouped(from_.value),
      shown ? "it was " + shown_value(*shown, w.size) : std::string("it is not mapped"), w.begin.value);
}

}  // namespace retrovisor::gdb
