// All that a device sees of the machine while it is made. What it takes from here stays valid as long as it lives.
#pragma once

#include <memory>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "vmm/board/device_options.h"
#include "vmm/board/device_type.h"
#include "vmm/board/dma_port.h"
#include "vmm/endpoint.h"
#include "vmm/board/interrupt_wiring.h"
#include "vmm/platform.h"
#include "vmm/vcpu.h"

namespace retrovisor {

// A range of guest-physical addresses at which a device answers, and that it can move.
struct MmioClaim {
  MmioBus* bus = nullptr;
  ClaimId id = 0;
  void move(PhysRange range) const { bus->move(id, range); }
  void unmap() const { bus->unmap(id); }
};

// What the devices of a machine share, and the lists that their making fills. Board's.
struct BoardParts {
  BoardParts(const Platform& machine, std::span<const std::unique_ptr<Vcpu>> cpus)
      : platform(machine), vcpus(cpus), dma(machine) {}

  struct Kept {
    virtual ~Kept() = default;
  };
  template <class T>
  struct KeptAs final : Kept {
    T value;
  };
  struct Made {
    std::unique_ptr<Device> device;
    size_t spec;  // which of the board's list
  };

  const Platform& platform;
  std::span<const std::unique_ptr<Vcpu>> vcpus;
  DmaPort dma;
  InterruptWiring wiring;
  std::vector<std::unique_ptr<Kept>> shared;  // outlives the devices
  std::vector<std::pair<std::string, void*>> services;
  std::vector<Made> devices;
  std::vector<Endpoint> endpoints;
  std::vector<EndpointReceiver*> receivers;  // of each; null: takes nothing
  Outside outside;
  struct IrqClaim {
    unsigned line;  // of the ISA bus
    size_t spec;
    bool shared;
  };
  std::vector<IrqClaim> irqs;
};

class DeviceContext {
 public:
  // `list` is what devices are made of, `spec` which of it this one is.
  DeviceContext(BoardParts& parts, const CheckedDevice& device, const DeviceList& list, size_t spec)
      : parts_(parts), type_(*device.type), options_(device.options), list_(list), spec_(spec) {}

  const DeviceOptions& options() const { return options_; }
  const Clock& guest_clock() const { return parts_.platform.clock; }
  Deadlines& deadlines() { return parts_.platform.deadlines; }
  MachineControl& control() { return parts_.platform.control; }
  DmaPort& dma() { return parts_.dma; }
  uint64_t memory_size() const { return parts_.platform.memory.size(); }
  std::span<const std::unique_ptr<Vcpu>> vcpus() const { return parts_.vcpus; }
  InterruptWiring& wiring() { return parts_.wiring; }
  // A line of the ISA bus, 0 to 15. One that another device drives is an error of the board, unless both share (DeviceType): the last
  // one to set a level would win.
  IrqLine irq(unsigned line);

  // Makes the device, or one of several that are one type. The order is that of their state.
  template <class D, class... Args>
  D& add(Args&&... args) {
    auto device = std::make_unique<D>(std::forward<Args>(args)...);
    D& reference = *device;
    parts_.devices.push_back({std::move(device), spec_});
    return reference;
  }

  // Where a device answers. A range that another has is an error of the board.
  void claim_ports(const Claim& claim);
  MmioClaim claim_memory(const Claim& claim);

  // Something that goes in and out of the machine; `receiver` takes what comes in.
  EndpointId endpoint(Endpoint endpoint, EndpointReceiver* receiver = nullptr);
  EndpointOutput output(EndpointId id);
  EndpointBlocks blocks(EndpointId id);
  EndpointDirectory directory(EndpointId id);

  // An object that devices of several types have between them, known by `T::kShared`; made when it is first asked for.
  template <class T>
  T& shared() {
    if (T* known = offered<T>()) return *known;
    auto made = std::make_unique<BoardParts::KeptAs<T>>();
    T& reference = made->value;
    parts_.shared.push_back(std::move(made));
    offer(reference);
    return reference;
  }
  template <class T>
  void offer(T& service) {
    parts_.services.emplace_back(std::string(T::kShared), &service);
  }
  // Null if no device before this one offers it.
  template <class T>
  T* offered() {
    for (const auto& [name, service] : parts_.services)
      if (name == T::kShared) return static_cast<T*>(service);
    return nullptr;
  }

  void fail(Error error);
  // Names and addresses come first: who names a device twice has its line twice, too.
  const std::optional<Error>& error() const { return error_ ? error_ : irq_error_; }

 private:
  BoardParts& parts_;
  const DeviceType& type_;
  const DeviceOptions& options_;
  const DeviceList& list_;
  const size_t spec_;
  std::optional<Error> error_, irq_error_;
};

}  // namespace retrovisor
