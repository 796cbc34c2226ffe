#include "vmm/devices/apic_bus.h"

#include "vmm/assert.h"
#include "vmm/devices/io_apic.h"
#include "vmm/devices/local_apic.h"

namespace retrovisor {

void ApicBus::connect(LocalApic& apic) {
  RV_ASSERT(count_ < apics_.size());
  apics_[count_++] = &apic;
}

bool ApicBus::deliver(const ApicMessage& message) {
  if (message.mode == DeliveryMode::lowest_priority) return deliver_lowest_priority(message);
  bool taken = false;
  for (LocalApic* apic : apics())
    if (apic->is_destination(message)) taken = apic->receive(message) || taken;
  return taken;
}

// Arbitration (SDM 3A 10.6.2.4): the lowest processor priority wins; among equals the first.
bool ApicBus::deliver_lowest_priority(const ApicMessage& message) {
  LocalApic* best = nullptr;
  for (LocalApic* apic : apics()) {
    if (!apic->is_destination(message) || !apic->software_enabled()) continue;
    if (best == nullptr || apic->processor_priority() < best->processor_priority()) best = apic;
  }
  return best != nullptr && best->receive(message);
}

void ApicBus::broadcast_eoi(uint8_t vector) {
  if (io_apic_ != nullptr) io_apic_->end_of_interrupt(vector);
}

}  // namespace retrovisor
