#include "vmm/journal.h"

namespace retrovisor {

std::string_view to_string(EventKind kind) {
  switch (kind) {
    case EventKind::interrupt: return "interrupt";
    case EventKind::timer: return "timer";
    case EventKind::port_read: return "port-read";
    case EventKind::port_write: return "port-write";
    case EventKind::mmio_read: return "mmio-read";
    case EventKind::mmio_write: return "mmio-write";
    case EventKind::tsc_read: return "tsc-read";
    case EventKind::rdrand: return "rdrand";
    case EventKind::dma: return "dma";
    case EventKind::vcpu_switch: return "vcpu-switch";
    case EventKind::exception: return "exception";
    case EventKind::exception_lost: return "exception-lost";
    case EventKind::cr3_write: return "cr3-write";
    case EventKind::wall_clock: return "wall-clock";
    case EventKind::entropy: return "entropy";
    case EventKind::console_input: return "console-input";
    case EventKind::idle_wait: return "idle-wait";
    case EventKind::packet: return "packet";
    case EventKind::disk_read: return "disk-read";
    case EventKind::directory_read: return "directory-read";
    case EventKind::time_passed: return "time-passed";
    case EventKind::deliver: return "deliver";
    case EventKind::landing: return "landing";
    case EventKind::host_stop: return "host-stop";
  }
  return "unknown";
}

}  // namespace retrovisor
