#include "traces/describe.h"

#include <fmt/format.h>
#include <xxhash.h>

#include <algorithm>
#include <iterator>

namespace retrovisor {
namespace {

constexpr size_t kShownBytes = 32;

std::string_view source_name(uint64_t source) {
  switch (source) {
    case static_cast<uint64_t>(InterruptSource::local_apic): return "local APIC";
    case static_cast<uint64_t>(InterruptSource::pic): return "PIC";
    case static_cast<uint64_t>(InterruptSource::nmi): return "NMI";
    default: return "unknown source";
  }
}

std::string exception_name(uint64_t vector) {
  constexpr std::string_view kNames[] = {"#DE", "#DB", "NMI", "#BP", "#OF", "#BR", "#UD", "#NM", "#DF", "", "#TS",
                                         "#NP", "#SS", "#GP", "#PF", "", "#MF", "#AC", "#MC", "#XM"};
  if (vector < std::size(kNames) && !kNames[vector].empty()) return std::string(kNames[vector]);
  return fmt::format("exception {}", vector);
}

// SDM 3A table 6-1.
bool has_error_code(uint64_t vector) {
  return vector == vec::DF || (vector >= vec::TS && vector <= vec::PF) || vector == vec::AC;
}

// "exception 14 (#PF) error code 0x2 CR2 0x1000", "exception 6 (#UD)": what the exception has, and no more.
std::string exception_text(const JournalEvent& e) {
  std::string out = fmt::format("{} {}", to_string(e.kind), e.a);
  if (const std::string name = exception_name(e.a); !name.starts_with("exception")) out += fmt::format(" ({})", name);
  if (has_error_code(e.a)) out += fmt::format(" error code {:#x}", e.b);
  if (e.a == vec::PF) out += fmt::format(" CR2 {:#x}", e.c);
  return out;
}

std::string position_prefix(const JournalEvent& e) {
  return fmt::format("at position {} on vCPU {}: ", e.position.value, e.vcpu.value);
}

}  // namespace

std::string describe(const JournalEvent& e) {
  const std::string_view name = to_string(e.kind);
  switch (e.kind) {
    case EventKind::interrupt: return fmt::format("{} vector {:#x} from {}", name, e.a, source_name(e.b));
    case EventKind::timer: return fmt::format("{} {} for {} ns", name, e.a, e.b);
    case EventKind::port_read:
    case EventKind::port_write:
    case EventKind::mmio_read:
    case EventKind::mmio_write: return fmt::format("{} {:#x} size {} value {:#x}", name, e.a, e.b, e.c);
    case EventKind::tsc_read: return fmt::format("{} {:#x}", name, e.a);
    case EventKind::rdrand: return fmt::format("{} {:#x} size {}", name, e.a, e.b);
    case EventKind::dma: return fmt::format("{} at {:#x} size {} hash {:016x}", name, e.a, e.b, e.c);
    case EventKind::vcpu_switch: return fmt::format("{} to vCPU {}", name, e.a);
    case EventKind::exception:
    case EventKind::exception_lost: return exception_text(e);
    case EventKind::cr3_write: return fmt::format("{} {:#x}, was {:#x}", name, e.a, e.b);
    case EventKind::wall_clock: return fmt::format("{} {} s", name, e.a);
    case EventKind::entropy: return std::string(name);
    case EventKind::console_input:
    case EventKind::packet: return fmt::format("{} at endpoint {}, poll {}, at {} ns", name, e.a, e.b, e.c);
    case EventKind::idle_wait: return fmt::format("{} of {} ns out of {}, at {} ns", name, e.b, e.a, e.c);
    case EventKind::disk_read: return fmt::format("{} at endpoint {}, from {:#x} on, at {} ns", name, e.a, e.b, e.c);
    case EventKind::directory_read: return fmt::format("{} at endpoint {}, question {:016x}, at {} ns", name, e.a, e.b, e.c);
    case EventKind::time_passed: return fmt::format("{} {} ns, at {} ns", name, e.a, e.c);
    case EventKind::deliver:
    case EventKind::landing: return fmt::format("{} at {} ns", name, e.c);
    case EventKind::host_stop: return fmt::format("{} in {} {}, at {} ns", name, e.a == 0 ? "poll" : "idle wait", e.b, e.c);
  }
  return std::string(name);
}

std::string describe(const TraceEvent& e) {
  std::string out = describe(e.event);
  if (e.data.empty()) return out;
  out += fmt::format(", {} bytes:", e.data.size());
  for (size_t i = 0; i < std::min(e.data.size(), kShownBytes); ++i) out += fmt::format(" {:02x}", e.data[i]);
  if (e.data.size() > kShownBytes) out += " ...";
  return out;
}

std::string describe_at(const JournalEvent& e) { return position_prefix(e) + describe(e); }
std::string describe_at(const TraceEvent& e) { return position_prefix(e.event) + describe(e); }

std::string describe(const Stop& stop, const std::vector<ChainedFault>& faults) {
  std::string out = describe(stop);
  for (size_t i = 0; i < faults.size(); ++i) {
    const ChainedFault& f = faults[i];
    out += i == 0 ? ": " : ", then ";
    out += f.interrupt ? fmt::format("interrupt {:#x}", f.vector) : exception_name(f.vector);
    if (i == 0) out += fmt::format(" at RIP {:#x}", f.rip);
    if (!f.has_error) continue;
    out += fmt::format(" (error code {:#x}", f.error);
    out += f.vector == vec::PF ? fmt::format(", CR2 {:#x})", f.address) : ")";
  }
  return out;
}

std::vector<ChainedFault> faults_of(const Stop& stop, const Engine& engine) {
  return stop.reason == StopReason::triple_fault ? engine.report().fault_chain : std::vector<ChainedFault>{};
}

std::string describe(const Stop& stop) {
  if (stop.reason == StopReason::debug_exit) return fmt::format("{} (code {})", to_string(stop.reason), stop.detail);
  return std::string(to_string(stop.reason));
}

std::string to_string(const ImageDigest& digest) {
  std::string out;
  for (const uint8_t b : digest) out += fmt::format("{:02x}", b);
  return out;
}

std::string_view to_string(ImageRole role) {
  switch (role) {
    case ImageRole::kernel: return "kernel";
    case ImageRole::initrd: return "initrd";
    case ImageRole::module: return "module";
  }
  return "unknown";
}

std::string_view to_string(DigestDetail detail) {
  switch (detail) {
    case DigestDetail::sums: return "sums";
    case DigestDetail::fields: return "fields";
    case DigestDetail::full: return "full";
  }
  return "unknown";
}

std::string_view to_string(TimeMode mode) { return mode == TimeMode::virtual_time ? "virtual" : "real"; }

ImageDigest image_digest(std::span<const uint8_t> bytes) {
  XXH128_canonical_t canonical;
  XXH128_canonicalFromHash(&canonical, XXH3_128bits(bytes.data(), bytes.size()));
  ImageDigest out;
  std::copy(std::begin(canonical.digest), std::end(canonical.digest), out.begin());
  return out;
}

}  // namespace retrovisor
