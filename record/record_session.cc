#include "record/record_session.h"

#include <fmt/format.h>
#include <xxhash.h>

#include <array>

#include "record/digest_capture.h"
#include "record/key_frame_writer.h"
#include "record/recording_boundary.h"
#include "traces/describe.h"
#include "vmm/board/device_type.h"
#include "vmm/cpu/cpuid.h"

namespace retrovisor {
namespace {

// Leaves and subleaves that a CPUID model of this size can have (SDM 2A, CPUID: basic and extended information).
constexpr uint32_t kBasicLeaves = 0x20;
constexpr uint32_t kExtendedBase = 0x80000000;
constexpr uint32_t kExtendedLeaves = 0x20;
constexpr uint32_t kSubleaves = 8;

class RecordHook final : public SliceHook {
 public:
  RecordHook(Machine& machine, TraceWriter& writer, const RecordOptions& options)
      : machine_(machine),
        writer_(writer),
        options_(options),
        capture_(machine, writer.header().digest_detail),
        frames_(machine, writer),
        interval_(writer.header().digest_interval) {
    if (options.key_frame_interval != 0) next_frame_ = machine.position() + options.key_frame_interval;
  }

  // On arrival at a position. An engine may fail at telling the state: such a digest is worth nothing.
  Result<void> digest(bool at_stop = false) {
    const DigestRecord d = capture_.take(at_stop);
    if (const auto& failure = machine_.engine().report().failure) return *failure;
    last_ = d.state;
    last_position_ = d.position;
    writer_.digest(d);
    if (interval_ != 0 && (next_ == kNoPosition || d.position >= next_)) next_ = d.position + interval_;
    return {};
  }

  Position next_position() override {
    // A debugger may have stopped the machine at these positions, after it had arrived: too late.
    const Position now = machine_.position();
    if (now >= next_) next_ = now + interval_;
    if (now >= next_frame_) next_frame_ = after(now);
    return std::min(next_, next_frame_);
  }

  Result<void> slice_done() override {
    if (writer_.failed()) return writer_.error();
    const Position at = machine_.position();
    if (at >= next_ || at >= next_frame_) RV_TRY(digest());
    if (at >= next_frame_) {
      next_frame_ = frames_.write(last_) ? after(at) : kNoPosition;
      if (writer_.failed()) return writer_.error();
    }
    const auto now = std::chrono::steady_clock::now();
    if (now - flushed_ < options_.flush_interval) return {};
    flushed_ = now;
    return writer_.flush(machine_.position());
  }

  Result<void> finish(const RunResult& run) {
    if (!run.on_arrival || last_position_ != run.end) RV_TRY(digest(!run.on_arrival));
    return writer_.end(run.end, run.stop, last_, options_.sync, faults_of(run.stop, machine_.engine()));
  }
  uint64_t key_frames() const { return frames_.count(); }

 private:
  // The first position for a key frame behind `p`.
  Position after(Position p) const {
    const uint64_t interval = options_.key_frame_interval;
    return Position(p.value / interval * interval + interval);
  }

  Machine& machine_;
  TraceWriter& writer_;
  const RecordOptions& options_;
  DigestCapture capture_;
  KeyFrameWriter frames_;
  uint64_t interval_;
  Position next_ = kNoPosition;
  Position next_frame_ = kNoPosition;
  StateDigest last_;
  Position last_position_ = kNoPosition;
  std::chrono::steady_clock::time_point flushed_ = std::chrono::steady_clock::now();
};

// The trace's sink, and perhaps somebody else's.
class SharedSink final : public JournalSink {
 public:
  SharedSink(JournalSink& first, EventMask mask) : first_(first), first_mask_(mask) {}
  void listen(JournalSink* sink, EventMask mask) {
    second_ = sink;
    second_mask_ = sink == nullptr ? 0 : mask;
  }
  EventMask mask() const { return first_mask_ | second_mask_; }
  void event(const JournalEvent& e) override {
    if ((first_mask_ & mask_of(e.kind)) != 0) first_.event(e);
    if ((second_mask_ & mask_of(e.kind)) != 0) second_->event(e);
  }

 private:
  JournalSink& first_;
  EventMask first_mask_;
  JournalSink* second_ = nullptr;
  EventMask second_mask_ = 0;
};

TraceImage image(ImageRole role, const std::string& name, const std::string& arguments, std::span<const uint8_t> bytes) {
  return {role, name, arguments, bytes.size(), image_digest(bytes)};
}

}  // namespace

uint64_t cpu_table_digest(uint32_t vcpus) {
  std::vector<CpuidResult> table;
  const CpuState reset{};
  for (uint32_t cpu = 0; cpu < vcpus; ++cpu) {
    for (const uint32_t base : {uint32_t{0}, kExtendedBase}) {
      for (uint32_t leaf = 0; leaf < (base == 0 ? kBasicLeaves : kExtendedLeaves); ++leaf)
        for (uint32_t sub = 0; sub < kSubleaves; ++sub) table.push_back(cpuid(base + leaf, sub, reset, VcpuId(cpu), vcpus));
    }
  }
  static_assert(sizeof(CpuidResult) == 16, "four registers without padding");
  return XXH3_64bits(table.data(), table.size() * sizeof(CpuidResult));
}

TraceHeader make_header(const MachineConfig& config, const BootImages& images, const ImageNames& names) {
  TraceHeader h;
  h.memory_size = config.memory_size;
  h.vcpus = config.vcpus;
  h.stop_on_panic = config.stop_on_panic;
  h.cpu_model = std::string(kCpuModelName);
  h.cpu_table_digest = cpu_table_digest(config.vcpus);
  h.command_line = images.command_line;
  h.images.push_back(image(ImageRole::kernel, names.kernel, {}, images.kernel));
  if (!images.initrd.empty()) h.images.push_back(image(ImageRole::initrd, names.initrd, {}, images.initrd));
  for (size_t i = 0; i < images.modules.size(); ++i)
    h.images.push_back(image(ImageRole::module, i < names.modules.size() ? names.modules[i] : std::string(),
                             i < images.module_arguments.size() ? images.module_arguments[i] : std::string(),
                             images.modules[i]));
  h.flat_address = images.flat_address;
  h.flat_mode = static_cast<uint8_t>(images.flat_mode);
  h.digest_interval = config.positions == PositionUnit::events ? kDefaultEventDigestInterval : kDefaultDigestInterval;
  h.position_unit = config.positions;
  h.time_source = config.time;
  h.processor_model = config.processor_model;
  h.user_tsc = config.user_tsc;
  for (const DeviceSpec& device : config.devices) {
    const auto type = find_device_type(device.type);
    h.devices.push_back({device, type.ok() ? (*type)->version : 0});
  }
  return h;
}

Result<RecordResult> record(Machine& machine, TraceWriter& writer, const RecordOptions& options) {
  RV_TRY(auto recording, Recording::begin(machine, writer, options));
  RV_TRY(auto run, recording->run(options.run));
  return recording->finish(run);
}

class Recording::Impl {
 public:
  Impl(Machine& machine, TraceWriter& writer, const RecordOptions& options)
      : machine_(machine),
        writer_(writer),
        trace_sink_(writer),
        sink_(trace_sink_, writer.header().journal_mask & kJournalFull),
        hook_(machine, writer, options) {
    machine_.journal().connect(&sink_, sink_.mask());
  }
  // Takes the sink back whatever happens: it does not outlive this.
  ~Impl() { machine_.journal().connect(nullptr, 0); }
  Impl(const Impl&) = delete;
  Impl& operator=(const Impl&) = delete;

  Result<void> begin() {
    RV_TRY(hook_.digest());
    // The start alone is worth a chunk: a trace that is cut off right after it tells whether the images fit.
    return writer_.flush(machine_.position());
  }
  Result<RunResult> run(const RunOptions& options) { return run_machine(machine_, options, hook_); }
  void listen(JournalSink* sink, EventMask mask) {
    sink_.listen(sink, mask);
    machine_.journal().connect(&sink_, sink_.mask());
  }
  Result<RecordResult> finish(const RunResult& last) {
    RV_TRY(hook_.finish(last));
    return RecordResult{last, writer_.size(), writer_.events(), writer_.digests(), hook_.key_frames()};
  }

 private:
  Machine& machine_;
  TraceWriter& writer_;
  JournalWriter trace_sink_;
  SharedSink sink_;
  RecordHook hook_;
};

Recording::Recording(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Recording::~Recording() = default;

Result<std::unique_ptr<Recording>> Recording::begin(Machine& machine, TraceWriter& writer, const RecordOptions& options) {
  auto impl = std::make_unique<Impl>(machine, writer, options);
  RV_TRY(impl->begin());
  return std::unique_ptr<Recording>(new Recording(std::move(impl)));
}

Result<RunResult> Recording::run(const RunOptions& options) { return impl_->run(options); }
void Recording::listen(JournalSink* sink, EventMask mask) { impl_->listen(sink, mask); }
Result<RecordResult> Recording::finish(const RunResult& last) { return impl_->finish(last); }

}  // namespace retrovisor
