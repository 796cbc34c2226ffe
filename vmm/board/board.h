// The devices of a machine, made from a list. Whatever tells of them is derived from here.
#pragma once

#include <memory>
#include <span>
#include <string>
#include <vector>

#include "vmm/board/device_options.h"
#include "vmm/endpoint.h"
#include "vmm/platform.h"
#include "vmm/vcpu.h"

namespace retrovisor {

struct BoardParts;

class Board {
 public:
  // Makes the devices on the platform's buses, in order. Errors name the device. The
  // platform and the vCPUs outlive the board.
  static Result<std::unique_ptr<Board>> create(const DeviceList& devices, const Platform& platform,
                                               std::span<const std::unique_ptr<Vcpu>> vcpus, Outside outside);
  ~Board();
  Board(const Board&) = delete;
  Board& operator=(const Board&) = delete;

  // Power-on state of all devices.
  void reset(const PowerOn& at);
  void save(StateWriter& out) const;
  void restore(StateReader& in);

  // By number.
  const std::vector<Endpoint>& endpoints() const;
  // EndpointReceiver's, of the device behind an endpoint; none: 0, and nothing comes in.
  size_t room(EndpointId id) const;
  void receive(EndpointId id, std::span<const uint8_t> bytes);

  const DeviceList& list() const { return list_; }
  // Every device with where it answers now and its endpoints, in order.
  struct Info {
    std::string name;  // of its state: "pit8254"
    size_t spec = 0;   // which of list() it was made by
    std::vector<Claim> ports, memory;
  };
  std::vector<Info> info() const;

 private:
  Board(DeviceList list, std::unique_ptr<BoardParts> parts);

  EndpointReceiver* receiver(EndpointId id) const;

  DeviceList list_;
  std::unique_ptr<BoardParts> parts_;
};

// Lines for people: type, version, name, ports, addresses, endpoints.
std::string describe(const Board& board);

}  // namespace retrovisor
