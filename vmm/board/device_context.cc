#include "vmm/board/device_context.h"

#include <fmt/format.h>

#include <algorithm>

namespace retrovisor {

void DeviceContext::claim_ports(const Claim& claim) {
  if (auto id = parts_.platform.ports.map(claim); !id) fail(std::move(id).error());
}

MmioClaim DeviceContext::claim_memory(const Claim& claim) {
  auto id = parts_.platform.mmio.map(claim);
  if (!id) {
    fail(std::move(id).error());
    return {&parts_.platform.mmio, 0};
  }
  return {&parts_.platform.mmio, *id};
}

IrqLine DeviceContext::irq(unsigned line) {
  const auto other = std::find_if(parts_.irqs.begin(), parts_.irqs.end(), [&](const BoardParts::IrqClaim& c) {
    return c.line == line && c.spec != spec_ && !(c.shared && type_.shares_irqs);
  });
  if (other != parts_.irqs.end() && !irq_error_)
    irq_error_ = Error{ErrorCode::bad_argument,
                       fmt::format("{} wants line {} of the ISA bus, which {} has", type_.name, line, to_string(list_[other->spec])),
                       ""};
  parts_.irqs.push_back({line, spec_, type_.shares_irqs});
  return IrqLine(parts_.wiring.isa, line);
}

EndpointId DeviceContext::endpoint(Endpoint endpoint, EndpointReceiver* receiver) {
  for (const Endpoint& other : parts_.endpoints)
    if (other.name == endpoint.name)
      fail({ErrorCode::bad_argument, fmt::format("two endpoints are called {}{}", endpoint.name, numbered(type_)), ""});
  parts_.endpoints.push_back(std::move(endpoint));
  parts_.receivers.push_back(receiver);
  return EndpointId(static_cast<uint32_t>(parts_.endpoints.size() - 1));
}

EndpointOutput DeviceContext::output(EndpointId id) {
  return [&parts = parts_, id](std::span<const uint8_t> bytes) {
    if (parts.outside.transmit) parts.outside.transmit(id, bytes);
  };
}

EndpointBlocks DeviceContext::blocks(EndpointId id) {
  return [&parts = parts_, id](uint64_t offset, std::span<uint8_t> out) -> Result<void> {
    if (!parts.outside.read_blocks) return Error{ErrorCode::io, "nothing is connected", ""};
    return parts.outside.read_blocks(id, offset, out);
  };
}

EndpointDirectory DeviceContext::directory(EndpointId id) {
  return [&parts = parts_, id](const DirectoryQuestion& question) -> Result<std::vector<uint8_t>> {
    if (!parts.outside.ask_directory) return Error{ErrorCode::io, "nothing is connected", ""};
    if (question.most > kMostDirectoryAnswer) return Error{ErrorCode::bad_argument, "more is asked for than an answer holds", ""};
    return parts.outside.ask_directory(id, question);
  };
}

void DeviceContext::fail(Error error) {
  if (!error_) error_ = std::move(error);
}

}  // namespace retrovisor
