#include "vmm/board/board.h"

#include <fmt/format.h>

#include <ranges>

#include "vmm/board/device_context.h"
#include "vmm/board/device_type.h"

namespace retrovisor {

Board::Board(DeviceList list, std::unique_ptr<BoardParts> parts) : list_(std::move(list)), parts_(std::move(parts)) {}

Board::~Board() = default;

Result<std::unique_ptr<Board>> Board::create(const DeviceList& devices, const Platform& platform,
                                             std::span<const std::unique_ptr<Vcpu>> vcpus, Outside outside) {
  auto parts = std::make_unique<BoardParts>(platform, vcpus);
  parts->outside = std::move(outside);
  for (size_t i = 0; i < devices.size(); ++i) {
    RV_TRY(const CheckedDevice checked, check_device(devices[i]));
    DeviceContext context(*parts, checked, devices, i);
    checked.type->make(context);
    if (context.error()) return Error{context.error()->code, context.error()->message, "device " + to_string(devices[i])};
  }
  // Sections of the machine's state are told apart by name.
  for (size_t i = 0; i < parts->devices.size(); ++i)
    for (size_t k = 0; k < i; ++k)
      if (parts->devices[i].device->name() == parts->devices[k].device->name())
        return Error{ErrorCode::bad_argument,
                     fmt::format("two devices are called {}{}", parts->devices[i].device->name(),
                                 numbered(*check_device(devices[parts->devices[i].spec]).value().type)),
                     "device"};
  return std::unique_ptr<Board>(new Board(devices, std::move(parts)));
}

// From the last to the first: the interrupt controllers forget what the lines of devices did while they were reset.
void Board::reset(const PowerOn& at) {
  for (const auto& made : std::views::reverse(parts_->devices)) made.device->reset(at);
}

void Board::save(StateWriter& out) const {
  for (const auto& made : parts_->devices) made.device->save(out);
}

void Board::restore(StateReader& in) {
  for (const auto& made : parts_->devices) made.device->restore(in);
}

const std::vector<Endpoint>& Board::endpoints() const { return parts_->endpoints; }

EndpointReceiver* Board::receiver(EndpointId id) const { return id.value < parts_->receivers.size() ? parts_->receivers[id.value] : nullptr; }

size_t Board::room(EndpointId id) const {
  const EndpointReceiver* const to = receiver(id);
  return to == nullptr ? 0 : to->room();
}

void Board::receive(EndpointId id, std::span<const uint8_t> bytes) {
  if (EndpointReceiver* const to = receiver(id)) to->receive(bytes);
}

std::vector<Board::Info> Board::info() const {
  std::vector<Info> out;
  for (const auto& made : parts_->devices) {
    Info info{std::string(made.device->name()), made.spec, {}, {}};
    for (const Claim& c : parts_->platform.ports.claims())
      if (c.device == made.device.get() && c.count != 0) info.ports.push_back(c);
    for (const Claim& c : parts_->platform.mmio.claims())
      if (c.device == made.device.get() && c.count != 0) info.memory.push_back(c);
    out.push_back(std::move(info));
  }
  return out;
}

std::string describe(const Board& board) {
  std::string out;
  for (const Board::Info& info : board.info()) {
    const DeviceSpec& spec = board.list()[info.spec];
    const auto type = find_device_type(spec.type);
    std::string where;
    const auto add = [&where](std::string_view unit, const Claim& c) {
      const uint64_t last = c.first + c.count - 1;
      where += fmt::format("{}{} {:#x}{}", where.empty() ? "" : ", ", unit, c.first, last == c.first ? "" : fmt::format("-{:#x}", last));
    };
    for (const Claim& c : info.ports) add("port", c);
    for (const Claim& c : info.memory) add("memory", c);
    out += fmt::format("{:<16} {:<40} version {}{}{}\n", info.name, to_string(spec), type.ok() ? (*type)->version : 0,
                       where.empty() ? "" : ", ", where);
  }
  for (size_t i = 0; i < board.endpoints().size(); ++i) {
    const Endpoint& e = board.endpoints()[i];
    static constexpr const char* kKinds[] = {"stream", "packets", "blocks"};
    out += fmt::format("endpoint {}       {} ({}{}{})\n", i, e.name, kKinds[static_cast<size_t>(e.kind)], e.input ? "" : ", output only",
                       e.console ? ", console" : "");
  }
  return out;
}

}  // namespace retrovisor
