// What connects local APICs and the IO-APIC: interrupt messages and EOI broadcasts. Source: SDM 3A 10.5.1, 10.6, 10.11.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <string_view>

#include "vmm/types.h"

namespace retrovisor {

class LocalApic;
class IoApic;

// Encoded as in ICR bits 8-10, LVT entries and redirection entries.
enum class DeliveryMode : uint8_t {
  fixed = 0, lowest_priority = 1, smi = 2, reserved = 3, nmi = 4, init = 5, start_up = 6, ext_int = 7,
};

struct ApicMessage {
  uint8_t destination = 0;  // APIC ID, or logical destination (MDA)
  bool logical = false;
  DeliveryMode mode{};
  uint8_t vector = 0;
  bool level = false;
};

class ApicBus {
 public:
  static constexpr std::string_view kShared = "APIC bus";  // DeviceContext::shared()
  // In order of vCPU number.
  void connect(LocalApic& apic);
  void connect(IoApic& io_apic) { io_apic_ = &io_apic; }

  std::span<LocalApic* const> apics() const { return {apics_.data(), count_}; }
  // Returns whether any local APIC has taken the message.
  bool deliver(const ApicMessage& message);
  // Of a level-triggered interrupt.
  void broadcast_eoi(uint8_t vector);

 private:
  bool deliver_lowest_priority(const ApicMessage& message);

  std::array<LocalApic*, kMaxVcpus> apics_{};
  size_t count_ = 0;
  IoApic* io_apic_ = nullptr;
};

}  // namespace retrovisor
