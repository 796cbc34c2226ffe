// The machine: vCPUs, memory, devices and a clock, run by an engine as a discrete-event simulation.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "vmm/boundary.h"
#include "vmm/devices/pc.h"
#include "vmm/digest.h"
#include "vmm/engine.h"
#include "vmm/machine/landings.h"
#include "vmm/machine/panic_watch.h"
#include "vmm/machine/scheduler.h"
#include "vmm/machine/time_keeping.h"
#include "vmm/machine/turns.h"
#include "vmm/machine/written_pages.h"
#include "vmm/model.h"
#include "vmm/platform.h"
#include "vmm/processor_model.h"
#include "vmm/result.h"
#include "vmm/user_tsc.h"
#include "vmm/vcpu.h"

namespace retrovisor {

struct MachineConfig {
  uint64_t memory_size = uint64_t{512} << 20;
  uint32_t vcpus = 1;
  SchedulerFactory scheduler;  // null: make_round_robin(), which is part of the machine model. No trace names another
  DeviceList devices = pc_devices();
  bool stop_on_panic = false;  // stop when the guest's console says it has panicked
  EngineFactory engine;        // null: the soft engine
  // What positions count and what moves time on; with an engine that has a HostEngine both are events. The soft engine can do either:
  // events to be the same run as one under KVM, time by events alone to know such a run to the instruction.
  PositionUnit positions = PositionUnit::instructions;
  TimeSource time = TimeSource::instructions;
  ProcessorModel processor_model = ProcessorModel::model;  // under KVM: those of the host
  UserTsc user_tsc = UserTsc::direct;                      // under KVM: by_exception where the host can
};

class PageHashes;
struct BootImages;
struct LoadedGuest;

class Machine final : public MachineControl {
 public:
  // The boundary must outlive the machine.
  static Result<std::unique_ptr<Machine>> create(const MachineConfig& config, Boundary& boundary);
  ~Machine() override;

  const MachineConfig& config() const { return config_; }
  Position position() const { return clock_.position(); }
  VirtualTime now() const { return clock_.now(); }
  GuestMemory& memory() { return *memory_; }
  Vcpu& vcpu(VcpuId id) { return *vcpus_[id.value]; }
  // The vCPU that executes the instruction at position(), unless what is due there (a timer, say) first wakes another whose
  // turn it then is. If none can run, the one that ran last.
  VcpuId next_vcpu() const { return turns_->next(position()).value_or(turns_->current()); }
  Journal& journal() { return journal_; }
  Deadlines& deadlines() { return deadlines_; }
  // Who observes this machine. An engine with a HostEngine offers kMachineKinds only.
  Observers& observers() { return observers_; }
  Engine& engine() { return *engine_; }
  Board& board() { return *board_; }
  // Whose instruction was executed last; before the first since the start or a restore: whose turn it was.
  VcpuId last_vcpu() const { return last_vcpu_; }

  // Loads a guest into a machine that has not run yet.
  Result<LoadedGuest> load(const BootImages& images);

  // Runs until `target` or until the guest stops by itself. The result depends on state and boundary only, never on how
  // the run is cut into pieces: run_until(a); run_until(b) is run_until(b).
  // `time`: if every vCPU is halted at `target`, idle on until guest time has come to this (a recording can end inside an
  // idle wait, where the position stands still).
  // Positions that count events: at the first instruction behind the event `target`, which can be the one of another.
  Stop run_until(Position target, VirtualTime time = {});

  // Registers, clock, deadlines, devices: everything but memory, as named fields.
  std::vector<uint8_t> save_cpu_state() const;
  std::vector<uint8_t> save_device_state() const;
  // Restores what save_*_state() gave. Memory is restored by the caller, before: with restore_page(), or behind the
  // machine's back and with memory_changed().
  Result<void> restore_state(std::span<const uint8_t> cpu, std::span<const uint8_t> devices);
  void memory_changed();

  // Gives a page of RAM (by number) other contents, kPageSize bytes. Only bytes that differ are written, so that the engine
  // keeps what it made of the others.
  void restore_page(uint64_t page, const uint8_t* bytes);
  // Pages written by the guest, a device, a debugger, restore_page(). The machine outlives the reader.
  std::unique_ptr<WrittenPages::Reader> written_pages() { return written_->reader(); }

  // Digest of the whole state. Memory is hashed incrementally: only pages written since the last call.
  StateDigest digest();
  // Hash of one page, as it counted in the last digest (0 for a page of zeroes). For divergence reports.
  uint64_t page_hash(uint64_t page) const;
  // Pages (numbers) written between the last two digest() calls, in ascending order.
  const std::vector<uint64_t>& last_dirty_pages() const { return last_dirty_; }

  void request_stop(Stop stop) override;
  bool stop_requested() const override { return stop_request_.has_value(); }
  void synchronous_event() override;
  // Counts since the start, for summaries.
  uint64_t idle_ns() const { return time_->idle_ns(); }
  // Instructions that the engine counted; 0 for one that cannot.
  Position retired() const { return clock_.retired(); }

 private:
  Machine(const MachineConfig& config, Boundary& boundary);
  Result<void> build();
  Outside outside();
  Moment moment() const { return {position(), now()}; }
  bool settle() { return host_ != nullptr && host_->settle(vcpu(turns_->current())); }
  void complete() const;
  std::optional<Stop> run_engine(Vcpu& vcpu, Position limit);
  void restore_devices(StateReader& in);
  void collect_dirty();
  void hash_written_pages();
  std::vector<uint8_t> common_cpu_state() const;

  MachineConfig config_;
  Boundary& boundary_;
  Clock clock_;
  Deadlines deadlines_;
  Journal journal_{clock_};
  PortBus ports_{journal_};
  MmioBus mmio_{journal_};
  Entropy entropy_;
  Observers observers_;
  std::unique_ptr<GuestMemory> memory_;
  Vcpus vcpus_;
  std::unique_ptr<Platform> platform_;
  std::unique_ptr<Board> board_;
  std::unique_ptr<Engine> engine_;
  HostEngine* host_ = nullptr;
  std::unique_ptr<TimeKeeping> time_;
  std::unique_ptr<Turns> turns_;
  std::unique_ptr<Landings> landings_;  // null: time is not by events
  VcpuId last_vcpu_;
  PanicWatch panic_watch_;
  std::optional<Stop> stop_request_;

  std::unique_ptr<PageHashes> hashes_;
  std::unique_ptr<WrittenPages> written_;
  std::unique_ptr<WrittenPages::Reader> unhashed_;
  std::vector<uint64_t> last_dirty_;
  std::vector<uint64_t> hashed_;  // since the last digest()
};

}  // namespace retrovisor
