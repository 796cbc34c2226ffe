// The machine: vCPUs, memory, devices and a clock, run by an engine as a discrete-event simulation.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "vmm/boundary.h"
#include "vmm/processor_model.h"
#include "vmm/user_tsc.h"
#include "vmm/devices/pc.h"
#include "vmm/digest.h"
#include "vmm/engine.h"
#include "vmm/kvm/kvm_engine.h"
#include "vmm/machine/panic_watch.h"
#include "vmm/model.h"
#include "vmm/platform.h"
#include "vmm/result.h"
#include "vmm/vcpu.h"

namespace retrovisor {

enum class EngineKind : uint8_t { soft, kvm };

// How long vCPUs' turns are. Part of the machine model, and in no trace: others than these are for tests of what happens where
// turns end.
struct Turns {
  uint64_t instructions = 100'000;
  uint64_t seed = 0;  // not zero: each lasts 1 to `instructions`, by a hash of this and the position at which it begins
};

struct MachineConfig {
  uint64_t memory_size = uint64_t{512} << 20;
  uint32_t vcpus = 1;
  Turns turns;
  DeviceList devices = pc_devices();
  bool stop_on_panic = false;  // stop when the guest's console says it has panicked
  EngineKind engine = EngineKind::soft;
  kvm::KvmEngineOptions kvm;
  // What positions count and what moves time on; under EngineKind::kvm both are events. The soft engine can do either: events
  // to be the same run as one under kvm, time by events alone to know such a run to the instruction.
  PositionUnit positions = PositionUnit::instructions;
  TimeSource time = TimeSource::instructions;
  ProcessorModel processor_model = ProcessorModel::model;  // under KVM: those of the host
  UserTsc user_tsc = UserTsc::direct;                      // under KVM: by_exception where the host can
};

class Board;  // the devices (vmm/board/board.h)
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
  VcpuId next_vcpu() const { return VcpuId(next_turn().value_or(current_)); }
  Journal& journal() { return journal_; }
  Deadlines& deadlines() { return deadlines_; }
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
  // Pages (numbers, ascending) written since the last call of this: by the guest, a device, a debugger, restore_page().
  std::vector<uint64_t> take_written_pages();

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
  uint64_t idle_ns() const { return idle_ns_; }
  // Instructions that the engine counted; 0 for one that cannot.
  Position retired() const { return clock_.retired(); }

 private:
  Machine(const MachineConfig& config, Boundary& boundary);
  Result<std::unique_ptr<Engine>> make_engine();
  Result<void> build();
  void poll_input();
  bool input_wanted() const;
  Vcpu* schedule();
  std::optional<uint32_t> next_turn() const;
  uint64_t turn_length() const;
  bool runnable() const;
  bool wakeable() const;
  void restore_devices(StateReader& in);
  void collect_dirty();
  void hash_written_pages();
  std::vector<uint8_t> common_cpu_state() const;
  bool delivery_decided(Vcpu& vcpu);
  Landing landing_here(const Vcpu& vcpu);
  bool stands_at(const Landing& landing, const Vcpu& vcpu);
  bool run_to(Landing& landing, Vcpu& vcpu);
  void land(const Landing& landing);

  MachineConfig config_;
  Boundary& boundary_;
  Clock clock_;
  Deadlines deadlines_;
  Journal journal_{clock_};
  PortBus ports_{journal_};
  MmioBus mmio_{journal_};
  Entropy entropy_;
  std::unique_ptr<GuestMemory> memory_;
  std::vector<std::unique_ptr<Vcpu>> vcpus_;
  std::unique_ptr<Platform> platform_;
  std::unique_ptr<Board> board_;
  std::unique_ptr<Engine> engine_;
  VirtualTime next_poll_;  // when to look for console input; idle waits do not end for it
  uint32_t current_ = 0;  // the vCPU whose turn it is, and when that ends
  Position slice_end_;
  VcpuId last_vcpu_;
  PanicWatch panic_watch_;
  std::optional<Stop> stop_request_;
  // Time by events: an event has happened, and whether a waiting interrupt is delivered behind it has not been asked yet.
  bool undecided_ = false;
  uint64_t idle_ns_ = 0;

  std::unique_ptr<PageHashes> hashes_;
  // Pages written since they were last hashed, and since they were last taken by take_written_pages(): each flagged in
  // GuestMemory, in no order.
  std::vector<uint64_t> unhashed_;
  std::vector<uint64_t> written_;
  std::vector<uint64_t> last_dirty_;
  std::vector<uint64_t> hashed_;  // since the last digest()
};

}  // namespace retrovisor
