#include "vmm/kvm/progress_counter.h"

#include <cpuid.h>
#include <fmt/format.h>
#include <linux/perf_event.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <vector>

namespace retrovisor::kvm {
namespace {

class NoCounter final : public ProgressCounter {
 public:
  ProgressKind kind() const override { return ProgressKind::none; }
  std::string_view name() const override { return "none"; }
  std::optional<uint64_t> read() override { return std::nullopt; }
};

// The layouts of the statistics file (struct kvm_stats_header, struct kvm_stats_desc); headers of older systems lack them.
struct StatsHeader {
  uint32_t flags, name_size, num_desc, id_offset, desc_offset, data_offset;
};
struct StatsDescriptor {
  uint32_t flags;
  int16_t exponent;
  uint16_t size;
  uint32_t offset, bucket_size;
};
static_assert(sizeof(StatsHeader) == 24 && sizeof(StatsDescriptor) == 16);

// Of flags: type and unit (KVM_STATS_TYPE_CUMULATIVE, KVM_STATS_UNIT_NONE). The base does not matter where the exponent is
// 0.
constexpr uint32_t kTypeAndUnit = 0xff;
constexpr uint32_t kMaxNameSize = 1024;     // the kernel's is 48
constexpr uint32_t kMaxDescriptors = 4096;  // a vCPU has about 60

template <class T>
bool read_whole(const ReadStats& read, uint64_t offset, T& out) {
  std::array<uint8_t, sizeof(T)> bytes{};
  if (read(offset, bytes) != static_cast<long>(bytes.size())) return false;
  std::memcpy(&out, bytes.data(), sizeof(T));
  return true;
}

class EmulatedInstructions final : public ProgressCounter {
 public:
  EmulatedInstructions(File stats, uint64_t offset) : stats_(std::move(stats)), offset_(offset) {}
  ProgressKind kind() const override { return ProgressKind::emulated_instructions; }
  std::string_view name() const override { return "KVM's count of emulated instructions"; }
  std::optional<uint64_t> read() override {
    std::array<uint8_t, 8> bytes{};
    if (stats_.calls().read_at(stats_.fd(), bytes, offset_) != static_cast<long>(bytes.size())) return std::nullopt;
    uint64_t value = 0;
    std::memcpy(&value, bytes.data(), sizeof(value));
    return value;
  }

 private:
  File stats_;
  uint64_t offset_;
};

class ConditionalBranches final : public ProgressCounter {
 public:
  ConditionalBranches(File event, std::string_view processors)
      : event_(std::move(event)), name_(fmt::format("retired conditional branches ({})", processors)) {}
  ProgressKind kind() const override { return ProgressKind::conditional_branches; }
  std::string_view name() const override { return name_; }
  std::optional<uint64_t> read() override {
    // PERF_FORMAT_TOTAL_TIME_*: a pinned event that could not be scheduled reads as end of file or ran less than it was
    // enabled.
    std::array<uint64_t, 3> value{};
    if (::read(event_.fd(), value.data(), sizeof(value)) != static_cast<ssize_t>(sizeof(value))) return std::nullopt;
    if (value[1] != value[2]) return std::nullopt;
    return value[0];
  }

 private:
  File event_;
  std::string name_;
};

Result<std::unique_ptr<ProgressCounter>> open_emulated_instructions(const KvmVcpu& vcpu) {
  RV_TRY(auto stats, vcpu.stats());
  const auto read = [&](uint64_t at, std::span<uint8_t> out) { return stats.calls().read_at(stats.fd(), out, at); };
  RV_TRY(const auto offset, find_stat(read, "insn_emulation"));
  return std::unique_ptr<ProgressCounter>(std::make_unique<EmulatedInstructions>(std::move(stats), offset));
}

Result<std::unique_ptr<ProgressCounter>> open_conditional_branches() {
  const HostProcessor processor = host_processor();
  const auto event = branch_event(processor);
  if (!event)
    return Error{ErrorCode::unsupported,
                 fmt::format("no exact count of conditional branches is known for {} family {:#x} model {:#x}",
                             processor.vendor, processor.family, processor.model),
                 "perf_event_open"};
  perf_event_attr attr{};
  attr.type = PERF_TYPE_RAW;
  attr.size = sizeof(attr);
  attr.config = event->config;
  attr.pinned = 1;        // on the PMU all the time, or in error
  attr.exclude_host = 1;  // guest mode only: both of its rings, nothing of ours
  attr.exclude_hv = 1;
  attr.read_format = PERF_FORMAT_TOTAL_TIME_ENABLED | PERF_FORMAT_TOTAL_TIME_RUNNING;
  const long fd = syscall(SYS_perf_event_open, &attr, 0, -1, -1, PERF_FLAG_FD_CLOEXEC);
  if (fd < 0) {
    const int error = errno;
    std::string_view advice;
    if (error == ENOENT || error == EOPNOTSUPP || error == ENODEV) advice = "; this host shows no PMU";
    if (error == EACCES || error == EPERM) advice = "; needs CAP_PERFMON, or kernel.perf_event_paranoid at 1 or less";
    return Error{ErrorCode::unsupported, fmt::format("perf_event_open failed: {}{}", errno_text(error), advice),
                 std::string(event->processors)};
  }
  return std::unique_ptr<ProgressCounter>(
      std::make_unique<ConditionalBranches>(File(system_calls(), static_cast<int>(fd)), event->processors));
}

}  // namespace

std::string_view to_string(ProgressKind kind) {
  switch (kind) {
    case ProgressKind::none: return "none";
    case ProgressKind::emulated_instructions: return "emulated_instructions";
    case ProgressKind::conditional_branches: return "conditional_branches";
  }
  return "?";
}

Result<std::unique_ptr<ProgressCounter>> open_progress_counter(ProgressKind kind, const KvmVcpu& vcpu) {
  switch (kind) {
    case ProgressKind::none: break;
    case ProgressKind::emulated_instructions: return open_emulated_instructions(vcpu);
    case ProgressKind::conditional_branches: return open_conditional_branches();
  }
  return std::unique_ptr<ProgressCounter>(std::make_unique<NoCounter>());
}

Result<uint64_t> find_stat(const ReadStats& read, std::string_view name) {
  const auto bad = [](std::string_view what, uint64_t where) {
    return Error{ErrorCode::unsupported, fmt::format("KVM's statistics are malformed: {}", what),
                 fmt::format("offset {}", where)};
  };
  StatsHeader header{};
  if (!read_whole(read, 0, header)) return bad("no header", 0);
  if (header.name_size == 0 || header.name_size > kMaxNameSize) return bad("length of names", 4);
  if (header.num_desc > kMaxDescriptors) return bad("number of descriptors", 8);
  if (header.desc_offset < sizeof(StatsHeader)) return bad("descriptors inside the header", 16);
  if (header.data_offset < sizeof(StatsHeader)) return bad("data inside the header", 20);
  const uint64_t entry_size = sizeof(StatsDescriptor) + uint64_t{header.name_size};
  std::vector<uint8_t> entry(entry_size);
  for (uint32_t i = 0; i < header.num_desc; ++i) {
    const uint64_t at = header.desc_offset + i * entry_size;
    if (read(at, entry) != static_cast<long>(entry_size)) return bad("descriptor cut short", at);
    const std::span names = std::span<const uint8_t>(entry).subspan(sizeof(StatsDescriptor));
    const auto end = std::find(names.begin(), names.end(), uint8_t{0});
    if (end == names.end()) return bad("name without an end", at);
    if (!std::equal(names.begin(), end, name.begin(), name.end())) continue;
    StatsDescriptor d{};
    std::memcpy(&d, entry.data(), sizeof(d));
    if ((d.flags & kTypeAndUnit) != 0 || d.exponent != 0 || d.size != 1)
      return bad(fmt::format("{} is no plain count", name), at);
    return uint64_t{header.data_offset} + d.offset;
  }
  return Error{ErrorCode::unsupported, fmt::format("KVM has no statistic {}", name), "KVM_GET_STATS_FD"};
}

HostProcessor host_processor() {
  HostProcessor out;
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
  if (__get_cpuid(0, &eax, &ebx, &ecx, &edx) == 0) return out;
  for (const unsigned part : {ebx, edx, ecx})
    for (unsigned i = 0; i < 4; ++i) out.vendor.push_back(static_cast<char>(part >> (8 * i)));
  if (__get_cpuid(1, &eax, &ebx, &ecx, &edx) == 0) return out;
  out.family = (eax >> 8) & 0xf;
  out.model = (eax >> 4) & 0xf;
  if (out.family == 6 || out.family == 0xf) out.model |= (eax >> 12) & 0xf0;
  if (out.family == 0xf) out.family += (eax >> 20) & 0xff;
  return out;
}

// Events: SDM 3B 20 and Intel's perfmon event lists (BR_INST_RETIRED.CONDITIONAL, .COND, .JCC); AMD PPR, PMCx0D1 "Retired
// Conditional Branch Instructions". Which of them count exactly, and the skid, is what rr's table of processors says (rr,
// src/PerfCounters.cc and PerfCounters_x86.h); the exactness is tried here before use (probe.cc).
std::optional<BranchEvent> branch_event(const HostProcessor& processor) {
  const auto is = [&](std::initializer_list<uint32_t> models) {
    return std::find(models.begin(), models.end(), processor.model) != models.end();
  };
  if (processor.vendor == "GenuineIntel" && processor.family == 6) {
    if (is({0x1a, 0x1e, 0x2e, 0x25, 0x2c, 0x2f})) return BranchEvent{"Intel Nehalem, Westmere", 0x01c4, 100};
    if (is({0x2a, 0x2d, 0x3a, 0x3e})) return BranchEvent{"Intel Sandy Bridge, Ivy Bridge", 0x01c4, 100};
    if (is({0x3c, 0x3f, 0x45, 0x46, 0x3d, 0x47, 0x4f, 0x56})) return BranchEvent{"Intel Haswell, Broadwell", 0x01c4, 100};
    if (is({0x4e, 0x5e, 0x55, 0x8e, 0x9e, 0xa5, 0xa6})) return BranchEvent{"Intel Skylake to Comet Lake", 0x01c4, 100};
    if (is({0x37, 0x4c, 0x57, 0x5f, 0x5c, 0x7a, 0x9c})) return BranchEvent{"Intel Silvermont to Tremont", 0x7ec4, 100};
    if (is({0x7e, 0x6a, 0x86, 0x8c, 0x8d, 0xa7})) return BranchEvent{"Intel Ice Lake to Rocket Lake", 0x11c4, 100};
    if (is({0x97, 0x9a, 0xb7, 0xba, 0xbf, 0x8f, 0xcf, 0xaa}))
      return BranchEvent{"Intel Alder Lake to Emerald Rapids (performance cores)", 0x11c4, 125};
    if (is({0xbd, 0xc6})) return BranchEvent{"Intel Lunar Lake, Arrow Lake (performance cores)", 0x100'0000'11c4, 125};
  }
  if (processor.vendor == "AuthenticAMD" &&
      (processor.family == 0x17 || processor.family == 0x19 || processor.family == 0x1a))
    return BranchEvent{"AMD Zen", 0x00d1, 10'000, true};
  return std::nullopt;
}

}  // namespace retrovisor::kvm
