// Registers, memory, breakpoints.
#include <algorithm>

#include "gdbstub/hex.h"
#include "vmm/machine/memory_view.h"
#include "gdbstub/session.h"

namespace retrovisor::gdb {
namespace {

constexpr unsigned kNoSuch = 1;
constexpr unsigned kBadAddress = 14;  // EFAULT
constexpr unsigned kBadPacket = 22;   // EINVAL
constexpr unsigned kTooMany = 28;     // ENOSPC

}  // namespace

void Session::read_registers() {
  std::string out;
  for (const Register& r : registers(arch_)) out += hex_bytes(read_register(general(), r));
  send(out);
}

void Session::write_registers(Packet hex) {
  const auto bytes = bytes_of_hex(hex);
  if (!bytes || bytes->size() > registers_size(arch_)) return send_error(kBadPacket);
  if (auto may = execution_.before_change(); !may) return send_error(may.error());
  size_t at = 0;
  bool good = true;
  for (const Register& r : registers(arch_)) {
    if (at + r.bytes > bytes->size()) break;
    const bool done = write_register(general(), execution_.machine().memory(), r, std::span(*bytes).subspan(at, r.bytes));
    // A whole set comes back after a call; that a mode bit cannot go back with it is no reason to keep the rest.
    good = good && (done || r.feature != Feature::core);
    at += r.bytes;
  }
  execution_.changed();
  return good ? send_ok() : send_error(kBadPacket);
}

void Session::read_one_register(Packet rest) {
  const auto number = number_of_hex(rest);
  const auto all = registers(arch_);
  if (!number || *number >= all.size()) return send_error(kNoSuch);
  send(hex_bytes(read_register(general(), all[*number])));
}

void Session::write_one_register(Packet rest) {
  Fields fields(rest);
  const auto number = fields.number();
  const auto all = registers(arch_);
  if (!number || *number >= all.size() || !fields.take("=")) return send_error(kNoSuch);
  const auto value = bytes_of_hex(fields.rest());
  if (!value || value->size() != all[*number].bytes) return send_error(kBadPacket);
  if (auto may = execution_.before_change(); !may) return send_error(may.error());
  const bool done = write_register(general(), execution_.machine().memory(), all[*number], *value);
  execution_.changed();
  return done ? send_ok() : send_error(kBadPacket);
}

void Session::read_memory(Packet rest) {
  Fields fields(rest);
  const auto address = fields.number();
  if (!address || !fields.take(",")) return send_error(kBadPacket);
  const auto size = fields.number();
  if (!size || !fields.empty() || *size > kPacketSize / 2) return send_error(kBadPacket);
  if (options_.window && *address >= kWindow && *address - kWindow < kMaxWindow) return read_window(*address - kWindow, *size);
  std::vector<uint8_t> bytes(*size);
  const size_t got = MemoryView(execution_.machine().memory(), general().state, physical_memory_).read(*address, bytes);
  if (got == 0 && *size != 0) return send_error(kBadAddress);
  bytes.resize(got);
  send(hex_bytes(bytes));
}

void Session::read_window(uint64_t offset, uint64_t size) {
  if (offset == 0) window_ = options_.window(execution_);
  if (offset >= window_.size()) return send_error(kBadAddress);
  send(hex_bytes(std::span<const uint8_t>(window_).subspan(offset, std::min<uint64_t>(size, window_.size() - offset))));
}

void Session::write_memory(Packet rest, bool binary) {
  Fields fields(rest);
  const auto address = fields.number();
  if (!address || !fields.take(",")) return send_error(kBadPacket);
  const auto size = fields.number();
  if (!size || !fields.take(":")) return send_error(kBadPacket);
  std::optional<std::vector<uint8_t>> bytes;
  if (binary)
    bytes.emplace(fields.rest().begin(), fields.rest().end());
  else
    bytes = bytes_of_hex(fields.rest());
  if (!bytes || bytes->size() != *size) return send_error(kBadPacket);
  if (bytes->empty()) return send_ok();  // how gdb finds out whether X is known
  // Looked up before the diversion begins: what is not there needs none.
  if (!MemoryView(execution_.machine().memory(), general().state, physical_memory_).locate(*address)) return send_error(kBadAddress);
  if (auto may = execution_.before_change(); !may) return send_error(may.error());
  const bool done = MemoryView(execution_.machine().memory(), general().state, physical_memory_).write(*address, *bytes);
  execution_.changed();
  return done ? send_ok() : send_error(kBadAddress);
}

void Session::point(Packet rest, bool insert) {
  Fields fields(rest);
  const auto type = fields.number();
  if (!type || *type > 4) return send("");
  const auto address = fields.take(",") ? fields.number() : std::nullopt;
  const auto size = address && fields.take(",") ? fields.number() : std::nullopt;
  if (!size) return send_error(kBadPacket);
  const auto kind = static_cast<PointType>(*type);
  if (!insert)
    execution_.breakpoints().remove(kind, *address, *size);
  else if (!execution_.breakpoints().insert(kind, *address, *size))
    return send_error(kTooMany);
  send_ok();
}

}  // namespace retrovisor::gdb
