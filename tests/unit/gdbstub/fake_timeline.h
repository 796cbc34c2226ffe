// A timeline without a trace: the machine is built again and run from the start for every step back. Slow and plain, to
// test what stands on it.
#pragma once

#include <algorithm>
#include <memory>
#include <string>
#include <utility>

#include "replay/timeline.h"
#include "vmm/quiet_boundary.h"

namespace retrovisor::gdb {

// Counts to 100 in ECX and stores each number at kCounter; calls a function that doubles it.
inline constexpr uint64_t kStart = 0x100000, kAgain = 0x10000c, kStore = 0x10000e, kTwice = 0x100023, kTwiceEnd = 0x100028,
                          kCounter = 0x180000, kEnd = 805, kTurn = 8, kFirstTurn = 3;

inline BootImages counting_guest() {
  BootImages images;
  images.kernel = {0xbc, 0x00, 0x00, 0x08, 0x00,  // 100000  mov esp, 0x80000
                   0xbb, 0x00, 0x00, 0x18, 0x00,  // 100005  mov ebx, kCounter
                   0x31, 0xc9,                    // 10000a  xor ecx, ecx
                   0xff, 0xc1,                    // 10000c  inc ecx          position 3, 11, 19, ...
                   0x89, 0x0b,                    // 10000e  mov [rbx], ecx
                   0xe8, 0x0e, 0x00, 0x00, 0x00,  // 100010  call twice
                   0x83, 0xf9, 0x64,              // 100015  cmp ecx, 100
                   0x75, 0xf2,                    // 100018  jne 10000c
                   0xb8, 0x00, 0x00, 0x00, 0x00,  // 10001a  mov eax, 0       position 803
                   0xe6, 0xf4,                    // 10001f  out 0xf4, al     ends the machine
                   0xeb, 0xfe,                    // 100021  jmp 100021
                   0x89, 0xcf,                    // 100023  mov edi, ecx
                   0x8d, 0x04, 0x3f,              // 100025  lea eax, [rdi + rdi]
                   0xc3};                         // 100028  ret
  images.flat_address = kStart;
  images.flat_mode = FlatMode::long64;
  return images;
}

class FakeTimeline : public Timeline, private JournalSink {
 public:
  using Reason = TimelineStop::Reason;
  explicit FakeTimeline(BootImages images = counting_guest(), uint32_t vcpus = 1, uint64_t end = kEnd)
      : images_(std::move(images)), vcpus_(vcpus), end_(end) {
    rebuild();
  }

  std::function<bool()> interrupted;  // asked before every run

  Machine& machine() override { return *machine_; }
  Position position() const override { return diverted_ ? recorded_ : machine_->position(); }
  Position begin() const override { return Position(0); }
  Position end() const override { return end_; }

  Result<TimelineStop> seek(Position target) override {
    target = std::min(target, end());
    if (target <= machine_->position()) rebuild();  // a stop there may have been in the middle of things
    machine_->run_until(target);
    return at(target == end() ? Reason::end : Reason::position);
  }

  Result<TimelineStop> forward(const StopConditions& conditions, Position limit) override {
    if (interrupted && interrupted()) return at(Reason::interrupted);
    if (machine_->position() >= end()) return at(Reason::end);
    return run(conditions, std::min(limit, end()));
  }

  Result<TimelineStop> backward(const StopConditions& conditions, Position limit) override {
    if (interrupted && interrupted()) return at(Reason::interrupted);
    const Position from = machine_->position();
    if (from == begin()) return at(Reason::begin);
    rebuild();
    machine_->run_until(limit);
    std::optional<TimelineStop> last;
    for (bool first = true; machine_->position() < from; first = false) {
      auto stop = run(conditions, from, first ? kNoPosition : machine_->position());
      if (stop.reason == Reason::position || stop.reason == Reason::end) break;
      if (stop.observation) stop.position = stop.observation->position;
      if (stop.event) stop.position = stop.event->position;
      if (stop.position >= from) break;
      last = stop;
    }
    const Position target = last ? last->position : limit;
    rebuild();
    machine_->run_until(target);
    if (last) return *last;
    return at(target == begin() ? Reason::begin : Reason::position);
  }

  Result<LastChange> last_change(const std::vector<ByteWatch>& bytes, VcpuId) override {
    const Position from = machine_->position();
    StopConditions conditions;
    conditions.bytes = bytes;
    auto stop = backward(conditions, begin());
    rebuild();
    machine_->run_until(from);
    LastChange answer;
    answer.write = stop->observation;
    return answer;
  }

  Result<std::optional<Observation>> last_write(LinearAddr address, uint64_t size) override {
    const Position from = machine_->position();
    StopConditions conditions;
    conditions.watches = {{address, size, false, true}};
    auto stop = backward(conditions, begin());
    rebuild();
    machine_->run_until(from);
    return stop->observation;
  }

  Result<void> warm() override { return {}; }
  CheckpointFigures checkpoints() const override { return {1, 4096, 1, 1}; }
  std::vector<Position> checkpoint_positions() const override { return {Position(0)}; }

  Result<void> begin_diversion() override {
    if (!diverted_) recorded_ = machine_->position();
    diverted_ = true;
    return {};
  }
  bool diverted() const override { return diverted_; }
  Result<void> end_diversion() override {
    if (!diverted_) return {};
    diverted_ = false;
    rebuild();
    machine_->run_until(recorded_);
    return {};
  }
  Result<TimelineStop> run_diversion(const StopConditions& conditions, uint64_t instructions) override {
    return run(conditions, machine_->position() + std::min(instructions, uint64_t{1'000'000}));
  }

 private:
  void rebuild() {
    MachineConfig config;
    config.memory_size = kMinRam;
    config.vcpus = vcpus_;
    machine_ = std::move(Machine::create(config, boundary_)).value();
    static_cast<void>(machine_->load(images_));
  }

  TimelineStop at(Reason reason) {
    TimelineStop stop;
    stop.reason = reason;
    stop.position = machine_->position();
    if (reason == Reason::end) stop.machine_stop = {StopReason::debug_exit, 1};
    return stop;
  }

  TimelineStop run(const StopConditions& conditions, Position limit) { return run(conditions, limit, machine_->position()); }
  TimelineStop run(const StopConditions& conditions, Position limit, Position resume_from) {
    Interest observers;
    observers.breakpoints = conditions.breakpoints;
    observers.watches = conditions.watches;
    for (const ByteWatch& w : conditions.bytes) observers.physical.push_back({w.bytes.begin, w.bytes.size});
    observers.resume_from = resume_from;
    std::optional<Observation> hit;
    observers.hit = [&](const Observation& o) {
      if (!is_hit(conditions, o, *machine_)) return false;
      if (!hit || (hit->kind == Observation::Kind::physical_write && hit->position == o.position)) hit = o;
      return true;
    };
    event_.reset();
    conditions_ = &conditions;
    std::optional<Subscription> subscription = machine_->observers().subscribe(std::move(observers));
    machine_->journal().connect(this, conditions.events);
    machine_->run_until(limit);
    machine_->journal().connect(nullptr, 0);
    subscription.reset();
    TimelineStop stop = at(machine_->position() >= end() && !diverted_ ? Reason::end : Reason::position);
    if (hit) {
      stop.reason = hit->kind == Observation::Kind::breakpoint ? Reason::breakpoint : Reason::watch;
      stop.observation = hit;
    } else if (event_) {
      stop.reason = Reason::event;
      stop.event = event_;
    }
    return stop;
  }

  void event(const JournalEvent& e) override {
    if (event_ || (conditions_->event_filter && !conditions_->event_filter(e))) return;
    event_ = e;
    machine_->request_stop({StopReason::observed, 0});
  }

  QuietBoundary boundary_;
  BootImages images_;
  uint32_t vcpus_;
  Position end_;
  std::unique_ptr<Machine> machine_;
  bool diverted_ = false;
  Position recorded_;
  const StopConditions* conditions_ = nullptr;
  std::optional<JournalEvent> event_;
};

}  // namespace retrovisor::gdb
