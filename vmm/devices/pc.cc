#include "vmm/devices/pc.h"

#include "vmm/devices/acpi_pm.h"
#include "vmm/devices/debug_ports.h"
#include "vmm/devices/i8042.h"
#include "vmm/devices/io_apic.h"
#include "vmm/devices/local_apic.h"
#include "vmm/devices/pc_testdev.h"
#include "vmm/devices/pic8259.h"
#include "vmm/devices/pit8254.h"
#include "vmm/devices/reset_control.h"
#include "vmm/devices/rtc.h"
#include "vmm/devices/uart16550.h"

namespace retrovisor {
namespace {

const DeviceRegistration kRegistrations[] = {
    DeviceRegistration(kPic8259Device),    DeviceRegistration(kIoApicDevice),       DeviceRegistration(kLocalApicDevice),
    DeviceRegistration(kPit8254Device),    DeviceRegistration(kRtcDevice),          DeviceRegistration(kUart16550Device),
    DeviceRegistration(kI8042Device),      DeviceRegistration(kAcpiPmDevice),       DeviceRegistration(kResetControlDevice),
    DeviceRegistration(kDebugExitDevice),  DeviceRegistration(kDebugConsoleDevice), DeviceRegistration(kPcTestdevDevice),
};

}  // namespace

DeviceList pc_devices() {
  DeviceList list;
  for (const char* type : {"pic8259", "ioapic", "lapic", "pit8254", "rtc", "uart16550", "i8042", "acpi-pm", "reset-control", "debug-exit",
                           "debug-console"})
    list.push_back({type, {}});
  return list;
}

}  // namespace retrovisor
