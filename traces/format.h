// What a trace says, free of how it is encoded. The file format itself is described in docs/trace-format.md.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "vmm/board/device_options.h"
#include "vmm/processor_model.h"
#include "vmm/user_tsc.h"
#include "vmm/digest.h"
#include "vmm/engine.h"
#include "vmm/journal.h"
#include "vmm/model.h"
#include "vmm/platform.h"
#include "vmm/types.h"

namespace retrovisor {

// Version of the file format: raised when an older reader could misread a file.
inline constexpr uint32_t kTraceFormatVersion = 1;
// Positions stay below this (vmm/clock.h), so that sums of position and idle time cannot wrap.
inline constexpr uint64_t kMaxPosition = uint64_t{1} << 62;

// Kinds from here on are boundary events: they may carry bytes, and are in a trace whatever its journal mask.
inline constexpr uint8_t kFirstBoundaryKind = 32;
constexpr bool is_boundary(EventKind kind) { return static_cast<uint8_t>(kind) >= kFirstBoundaryKind; }
// Bytes that one event can carry.
inline constexpr size_t kMaxEventData = size_t{1} << 20;

// An input file of the recorded run, which a replay must be given again.
enum class ImageRole : uint8_t { kernel = 0, initrd = 1, module = 2 };
using ImageDigest = std::array<uint8_t, 16>;  // XXH3-128, canonical byte order
struct TraceImage {
  ImageRole role{};
  std::string name;       // an absolute path of the host that recorded
  std::string arguments;  // modules: their command line
  uint64_t size = 0;
  ImageDigest digest{};
};

enum class TimeMode : uint8_t { virtual_time = 0, real_time = 1 };

// How much each digest tells beside its three sums.
enum class DigestDetail : uint8_t {
  sums = 0,    // nothing: a divergence is known to be in CPU, memory or devices
  fields = 1,  // values of registers and device fields, and hashes of groups of pages
  full = 2,    // also every page that changed, with its hash
};

// A device of the recorded machine, and which version of its type it was.
struct TraceDevice {
  DeviceSpec device;
  uint32_t version = 1;
};

struct TraceHeader {
  uint32_t machine_model = kMachineModelVersion;
  std::string tool_version;
  std::string engine;
  uint64_t memory_size = 0;
  uint32_t vcpus = 1;
  bool stop_on_panic = false;
  std::string cpu_model;
  uint64_t cpu_table_digest = 0;
  std::string command_line;
  std::vector<TraceImage> images;
  std::optional<uint64_t> flat_address;
  uint8_t flat_mode = 0;  // FlatMode of vmm/boot/loader.h
  TimeMode time_mode = TimeMode::virtual_time;
  std::optional<uint64_t> seed;  // of entropy, where the user gave one
  std::optional<uint64_t> rtc;   // wall clock, where the user gave one
  EventMask journal_mask = kJournalDefault;
  uint64_t digest_interval = 0;
  DigestDetail digest_detail = DigestDetail::fields;
  PositionUnit position_unit = PositionUnit::instructions;
  TimeSource time_source = TimeSource::instructions;
  ProcessorModel processor_model = ProcessorModel::model;
  UserTsc user_tsc = UserTsc::direct;
  std::vector<TraceDevice> devices;  // empty: the machine had pc_devices(), all of version 1
  std::vector<std::pair<std::string, std::string>> options;  // anything else worth knowing
};

struct TraceEvent {
  JournalEvent event;
  std::vector<uint8_t> data;  // boundary events only
};

// Value of one named field of the machine's state. Long values are known by size and hash only.
struct FieldValue {
  static constexpr size_t kInline = 32;
  uint32_t size = 0;                     // of the value itself
  bool hashed = false;                   // bytes[0..7] are the value's XXH3-64
  std::array<uint8_t, kInline> bytes{};  // zero beyond the value
  bool operator==(const FieldValue&) const = default;
};

struct PageHash {
  uint64_t page = 0;
  uint32_t hash = 0;  // low half of Machine::page_hash
  bool operator==(const PageHash&) const = default;
};

// Hashes over groups of pages: page p belongs to group p % kMemoryBuckets.
inline constexpr size_t kMemoryBuckets = 32;
using MemoryBuckets = std::array<uint32_t, kMemoryBuckets>;

using FieldNames = std::shared_ptr<const std::vector<std::string>>;

struct DigestRecord {
  Position position;
  StateDigest state;
  DigestDetail detail = DigestDetail::sums;
  // Taken after the machine had stopped by itself, not on arrival at the position: the state between may have changed.
  bool at_stop = false;
  FieldNames names;                // from DigestDetail::fields on
  std::vector<FieldValue> fields;  // one for each name; empty: not known
  MemoryBuckets buckets{};         // from DigestDetail::fields on
  std::vector<PageHash> pages;     // DigestDetail::full: pages changed since the digest before, ascending
};

// One part of a stored machine state: that on arrival at the position, before anything happens there.
struct KeyFrame {
  Position position;
  uint32_t part = 0;
  uint32_t parts = 1;
  bool delta = false;  // only pages that changed since the key frame before
  // In part 0 alone; formats of Machine::save_cpu_state() and save_device_state().
  std::vector<uint8_t> cpu;
  std::vector<uint8_t> devices;
  StateDigest state;
  uint64_t events = 0;   // in the trace before it; the writer counts
  uint64_t digests = 0;
  // Page numbers, ascending, and kPageSize bytes for each.
  std::vector<uint64_t> pages;
  std::vector<uint8_t> contents;
};
// Key frames in one trace.
inline constexpr size_t kMaxKeyFrames = 65536;

// Exceptions that one triple fault can tell of; it has a handful.
inline constexpr size_t kMaxFaultChain = 32;

struct EndRecord {
  Position position;
  Stop stop;
  StateDigest state;
  uint64_t events = 0;
  uint64_t digests = 0;
  std::vector<ChainedFault> faults = {};  // EngineReport::fault_chain
};

using TraceItem = std::variant<TraceEvent, DigestRecord, KeyFrame, EndRecord>;

}  // namespace retrovisor
