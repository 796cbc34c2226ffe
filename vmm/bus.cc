#include "vmm/bus.h"

#include <fmt/format.h>

#include <algorithm>

namespace retrovisor {
namespace {

constexpr uint64_t kPorts = 0x10000;

constexpr uint64_t all_ones(unsigned size) { return size >= 8 ? ~uint64_t{0} : (uint64_t{1} << (size * 8)) - 1; }

std::string range_of(std::string_view unit, const Claim& c) {
  const uint64_t last = c.first + c.count - 1;
  return last == c.first ? fmt::format("{} {:#x}", unit, c.first) : fmt::format("{}s {:#x} to {:#x}", unit, c.first, last);
}

// Whether an access can find both.
bool collide(const Claim& a, const Claim& b) {
  if (a.vcpu && b.vcpu && *a.vcpu != *b.vcpu) return false;
  if (a.exact && b.exact && a.width != b.width) return false;
  return a.first < b.first + b.count && b.first < a.first + a.count;
}

}  // namespace

Result<ClaimId> Claims::add(std::string_view unit, const Claim& claim) {
  for (const Claim& c : all_) {
    if (collide(c, claim))
      return Error{ErrorCode::bad_argument,
                   fmt::format("{} wants {}, of which {} has {}", claim.device->name(), range_of(unit, claim), c.device->name(),
                               range_of(unit, c)),
                   ""};
  }
  all_.push_back(claim);
  return all_.size() - 1;
}

void Claims::move(ClaimId id, uint64_t first, uint64_t count) {
  all_[id].first = first;
  all_[id].count = count;
}

Result<ClaimId> PortBus::map(const Claim& claim) {
  if (claim.count == 0 || claim.first >= kPorts || claim.count > kPorts - claim.first)
    return Error{ErrorCode::bad_argument,
                 fmt::format("{} wants {} ports from {:#x} on: there are {:#x}", claim.device->name(), claim.count, claim.first, kPorts), ""};
  return claims_.add("port", claim);
}

// Who answers the access to `size` bytes at `port`, of which `at` are done.
PortBus::Target PortBus::find(VcpuId vcpu, uint16_t port, unsigned at, unsigned size) const {
  const auto here = static_cast<uint16_t>(port + at);
  for (const Claim& c : claims_.all()) {
    const uint64_t offset = here - c.first;  // of a port before it: very large
    if (offset >= c.count || (c.vcpu && *c.vcpu != vcpu)) continue;
    if (!c.exact) return {&c, static_cast<unsigned>(std::min<uint64_t>({c.width, size - at, c.count - offset}))};
    if (at == 0 && c.width == size && c.count - offset >= size) return {&c, size};
  }
  return {nullptr, 1};
}

BusAccess PortBus::access(const Target& target, VcpuId vcpu, uint16_t port) const {
  return {AddressSpace::ports, vcpu, journal_.position(), port, port - target.claim->first, target.width};
}

uint32_t PortBus::read(VcpuId vcpu, uint16_t port, unsigned size) {
  uint64_t value = 0;
  for (unsigned done = 0; done < size;) {
    const Target target = find(vcpu, port, done, size);
    const auto at = static_cast<uint16_t>(port + done);
    const uint64_t part = target.claim == nullptr ? ~uint64_t{0} : target.claim->device->read(access(target, vcpu, at));
    value |= (part & all_ones(target.width)) << (done * 8);
    done += target.width;
  }
  journal_.log(EventKind::port_read, port, size, value);
  return static_cast<uint32_t>(value);
}

void PortBus::write(VcpuId vcpu, uint16_t port, unsigned size, uint32_t value) {
  journal_.log(EventKind::port_write, port, size, value);
  for (unsigned done = 0; done < size;) {
    const Target target = find(vcpu, port, done, size);
    const auto at = static_cast<uint16_t>(port + done);
    if (target.claim != nullptr) target.claim->device->write(access(target, vcpu, at), value >> (done * 8) & all_ones(target.width));
    done += target.width;
  }
}

Result<ClaimId> MmioBus::map(const Claim& claim) {
  if (claim.count == 0 || claim.count > UINT64_MAX - claim.first)
    return Error{ErrorCode::bad_argument, fmt::format("{} wants {:#x} bytes from {:#x} on", claim.device->name(), claim.count, claim.first),
                 ""};
  return claims_.add("address", claim);
}

const Claim* MmioBus::find(VcpuId vcpu, PhysAddr addr, unsigned size) const {
  for (const Claim& c : claims_.all())
    if (c.covers(addr.value, size, vcpu)) return &c;
  return nullptr;
}

uint64_t MmioBus::read(VcpuId vcpu, PhysAddr addr, unsigned size) {
  const Claim* const c = find(vcpu, addr, size);
  uint64_t value = ~uint64_t{0};
  if (c != nullptr)
    value = c->device->read({AddressSpace::memory, vcpu, journal_.position(), addr.value, addr.value - c->first, size});
  value &= all_ones(size);
  journal_.log(EventKind::mmio_read, addr.value, size, value);
  return value;
}

void MmioBus::write(VcpuId vcpu, PhysAddr addr, unsigned size, uint64_t value) {
  value &= all_ones(size);
  journal_.log(EventKind::mmio_write, addr.value, size, value);
  if (const Claim* const c = find(vcpu, addr, size); c != nullptr)
    c->device->write({AddressSpace::memory, vcpu, journal_.position(), addr.value, addr.value - c->first, size}, value);
}

}  // namespace retrovisor
