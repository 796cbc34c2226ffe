#include "vmm/devices/debug_ports.h"

#include "vmm/board/device_context.h"
#include "vmm/devices/machine_map.h"

namespace retrovisor {

void DebugExit::write(const BusAccess&, uint64_t value) {
  control_.request_stop({StopReason::debug_exit, value << 1 | 1});
}

void DebugConsole::write(const BusAccess&, uint64_t value) {
  const auto byte = static_cast<uint8_t>(value);
  output_(std::span<const uint8_t>(&byte, 1));
}

constinit const DeviceType kDebugExitDevice{
    .name = "debug-exit",
    .help = "isa-debug-exit: a write to port 0xf4 ends the run with an exit code",
    .make =
        [](DeviceContext& c) {
          auto& exit = c.add<DebugExit>(c.control());
          c.claim_ports({.first = machine_map::kDebugExit, .count = DebugExit::kPorts, .device = &exit, .width = 4});
        },
};

constinit const DeviceType kDebugConsoleDevice{
    .name = "debug-console",
    .help = "debug consoles at ports 0xe9 and 0x402, output only",
    .make =
        [](DeviceContext& c) {
          auto& console = c.add<DebugConsole>(c.output(c.endpoint({.name = "debug", .input = false})));
          for (const uint16_t port : {machine_map::kDebugConsoleE9, machine_map::kDebugConsole402})
            c.claim_ports({.first = port, .count = 1, .device = &console});
        },
};

}  // namespace retrovisor
