// The devices that this build knows, and those of the machine that one gets without asking for others.
#pragma once

#include "vmm/board/device_options.h"
#include "vmm/endpoint.h"

namespace retrovisor {

// A PC without firmware: interrupt controllers, timers, clock, serial port, keyboard controller, ACPI's fixed hardware, and ports for
// whoever debugs a guest. What traces that name no devices were recorded with.
DeviceList pc_devices();

// Where its console is.
inline constexpr EndpointId kPcConsole{0};

}  // namespace retrovisor
