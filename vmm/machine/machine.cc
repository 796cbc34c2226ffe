#include "vmm/machine/machine.h"

#include <xxhash.h>

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <utility>

#include "vmm/board/board.h"
#include "vmm/boot/loader.h"
#include "vmm/cpu/x87_pointers.h"
#include "vmm/machine/page_hashes.h"

namespace retrovisor {
namespace {

// Lets a failed assertion say where the machine was.
class AssertionContext {
 public:
  AssertionContext(const Clock& clock, const Engine& engine) : clock_(clock), engine_(engine) {
    assertion_context = print;
    assertion_cookie = this;
  }
  ~AssertionContext() {
    assertion_context = nullptr;
    assertion_cookie = nullptr;
  }
  AssertionContext(const AssertionContext&) = delete;
  AssertionContext& operator=(const AssertionContext&) = delete;

 private:
  static void print(void* cookie) {
    const auto& self = *static_cast<const AssertionContext*>(cookie);
    std::fprintf(stderr, "retrovisor: at or after position %llu, engine %s\n",
                 static_cast<unsigned long long>(self.clock_.position().value), self.engine_.name().data());
  }
  const Clock& clock_;
  const Engine& engine_;
};

}  // namespace

Machine::Machine(const MachineConfig& config, Boundary& boundary)
    : config_(config), boundary_(boundary), clock_(config.positions, config.time) {}

Machine::~Machine() = default;

Result<std::unique_ptr<Machine>> Machine::create(const MachineConfig& config, Boundary& boundary) {
  if (config.vcpus < 1 || config.vcpus > kMaxVcpus)
    return Error{ErrorCode::bad_argument, "a machine has 1 to 16 vCPUs", "vcpus"};
  if (config.time == TimeSource::events && config.vcpus != 1)
    return Error{ErrorCode::unsupported, "a machine that the kvm engine runs, or ran, has one vCPU", "vcpus"};
  RV_ASSERT(config.positions == PositionUnit::instructions || config.time == TimeSource::events);
  std::unique_ptr<Machine> machine(new Machine(config, boundary));
  RV_TRY(machine->build());
  return machine;
}

Result<void> Machine::build() {
  RV_TRY(memory_, GuestMemory::create(config_.memory_size));
  hashes_ = std::make_unique<PageHashes>(memory_->page_limit());
  written_ = std::make_unique<WrittenPages>(memory_->page_limit(), [this] { collect_dirty(); });
  unhashed_ = written_->reader();
  platform_ = std::make_unique<Platform>(
      Platform{*memory_, ports_, mmio_, clock_, deadlines_, journal_, entropy_, *this, observers_});
  const EngineFactory& make_engine = config_.engine ? config_.engine : make_soft_engine;
  RV_TRY(engine_, make_engine(*platform_, {config_.vcpus, config_.processor_model, config_.user_tsc}));
  host_ = engine_->host();
  if (host_ != nullptr) {
    RV_ASSERT(config_.positions == PositionUnit::events);
    host_->allow_kicks(boundary_.lands());
    observers_.offer(kMachineKinds);
  } else {
    observers_.on_change([this] { engine_->stepper().observe(observers_); });
  }
  for (uint32_t i = 0; i < config_.vcpus; ++i) {
    vcpus_.push_back(std::make_unique<Vcpu>(VcpuId(i), engine_->vcpu_state(VcpuId(i))));
    if (i != 0) vcpus_.back()->state.mtrr_def_type = kFirmwareMtrrDefType;  // an INIT leaves it
  }
  RV_TRY(board_, Board::create(config_.devices, *platform_, vcpus_, outside()));
  boundary_.connect(board_->endpoints());
  deadlines_.set_observer([this](Deadlines::Timer timer, VirtualTime when) { journal_.log(EventKind::timer, timer, when.value); });
  turns_ = std::make_unique<Turns>(config_.scheduler ? config_.scheduler() : make_round_robin(), vcpus_);
  time_ = std::make_unique<TimeKeeping>(clock_, deadlines_, boundary_, *board_, vcpus_);
  if (config_.time == TimeSource::events) {
    const auto memory_sum = [this] {
      hash_written_pages();
      return hashes_->sum();
    };
    landings_ = std::make_unique<Landings>(*platform_, boundary_, *engine_, *time_,
                                           Landings::Sums{memory_sum, [this] { return common_cpu_state(); }});
  }

  board_->reset({.wall_clock = boundary_.wall_clock(moment())});
  std::array<uint64_t, 4> seed{};
  boundary_.entropy(moment(), std::span(reinterpret_cast<uint8_t*>(seed.data()), sizeof seed));
  if (seed == std::array<uint64_t, 4>{}) seed[0] = 1;  // the generator's one bad state
  entropy_.seed(seed);
  return {};
}

// What the board has to do with the world.
Outside Machine::outside() {
  Outside outside;
  outside.transmit = [this](EndpointId endpoint, std::span<const uint8_t> bytes) {
    boundary_.transmit(moment(), endpoint, bytes);
    if (board_->endpoints()[endpoint.value].console && panic_watch_.see(bytes) && config_.stop_on_panic)
      request_stop({StopReason::guest_panic, 0});
  };
  outside.read_blocks = [this](EndpointId endpoint, uint64_t offset, std::span<uint8_t> out) {
    return boundary_.read_blocks(moment(), endpoint, offset, out);
  };
  outside.ask_directory = [this](EndpointId endpoint, const DirectoryQuestion& question) {
    return boundary_.ask_directory(moment(), endpoint, question);
  };
  return outside;
}

void Machine::request_stop(Stop stop) {
  if (!stop_request_) stop_request_ = stop;
}

void Machine::synchronous_event() {
  // An engine that makes several accesses at once, the elements of a string, say: what happens behind each of them, but for
  // interrupts, happens here.
  if (landings_->undecided()) time_->run_due();
  time_->pass_event();
  landings_->undecide();
}

Stop Machine::run_until(Position target, VirtualTime time) {
  const AssertionContext context(clock_, *engine_);
  time_->runs();
  for (;;) {
    if ((stop_request_ || position() >= target) && settle()) continue;
    if (stop_request_) return *std::exchange(stop_request_, std::nullopt);
    if (position() >= target && (now() >= time || turns_->anybody())) return {};
    time_->run_due();
    if (stop_request_) continue;

    Vcpu* vcpu = turns_->take(*platform_);
    if (stop_request_) continue;
    if (vcpu == nullptr) {
      const auto stop = time_->idle();
      if (landings_ != nullptr) landings_->undecide();
      if (stop) return *stop;
      continue;
    }
    time_->runs();
    Position limit = std::min({target, time_->next(), turns_->end()});
    if (landings_ != nullptr && !landings_->may_run(*vcpu, limit)) continue;
    if (limit <= position()) continue;
    if (const auto stop = run_engine(*vcpu, limit)) return *stop;
  }
}

std::optional<Stop> Machine::run_engine(Vcpu& vcpu, Position limit) {
  last_vcpu_ = vcpu.id;
  journal_.set_vcpu(vcpu.id);
  switch (engine_->run(vcpu, limit)) {
    case EngineStop::limit:
    case EngineStop::yield:
    case EngineStop::halted: break;
    case EngineStop::observed: return Stop{StopReason::observed, 0};
    case EngineStop::triple_fault: return Stop{StopReason::triple_fault, 0};
    case EngineStop::stuck: return Stop{StopReason::stuck, 0};
    case EngineStop::failed: return Stop{StopReason::engine_failed, 0};
    case EngineStop::kicked: landings_->kicked(vcpu); break;
  }
  return std::nullopt;
}

void Machine::complete() const {
  if (host_ == nullptr) return;
  for (const auto& v : vcpus_) host_->complete(*v);
}

std::vector<uint8_t> Machine::save_cpu_state() const {
  complete();
  StateWriter out;
  clock_.save(out);
  for (const auto& v : vcpus_) v->state.save(out, v->id);
  return out.take();
}

// The vCPU's registers as all engines agree on them: without what only one of them counts.
std::vector<uint8_t> Machine::common_cpu_state() const {
  complete();
  StateWriter out;
  clock_.save_common(out);
  for (const auto& v : vcpus_) {
    CpuState state = v->state;
    // In real mode, and until CS is loaded again after it, its type means nothing; processors disagree about it.
    if ((state.segment[CS].attributes & seg::type_mask) == 3) state.segment[CS].attributes |= seg::code;
    // Nothing is defined of a vCPU that has shut down; RF is what differs.
    if (state.activity == Activity::shutdown) state.rflags &= ~flag::RF;
    x87_pointers_through_memory(vendor_of(config_.processor_model), state.x87);  // KVM shows them so (kvm/vcpu_state.h)
    state.save(out, v->id);
  }
  return out.take();
}

std::vector<uint8_t> Machine::save_device_state() const {
  StateWriter out;
  deadlines_.save(out);
  entropy_.save(out);
  out.section("machine");
  time_->save(out);
  turns_->save(out);
  if (landings_ != nullptr) landings_->save(out);
  panic_watch_.save(out);
  board_->save(out);
  return out.take();
}

Result<void> Machine::restore_state(std::span<const uint8_t> cpu, std::span<const uint8_t> devices) {
  StateReader cpu_in(cpu);
  clock_.restore(cpu_in);
  for (const auto& v : vcpus_) v->state.restore(cpu_in, v->id);
  RV_TRY(cpu_in.finish());
  StateReader in(devices);
  restore_devices(in);
  RV_TRY(in.finish());
  last_vcpu_ = turns_->current();
  journal_.set_vcpu(last_vcpu_);
  if (!cpu_in.at_end() || !in.at_end()) return Error{ErrorCode::bad_trace, "machine state has more fields than this machine", ""};
  for (const auto& v : vcpus_) engine_->state_changed(*v);
  stop_request_.reset();
  return {};
}

void Machine::restore_devices(StateReader& in) {
  // Devices may arm timers while they restore; the saved deadlines are what counts, so they are read twice: first to get
  // past them, and again at the end.
  StateReader deadlines_in = in;
  deadlines_.restore(in);
  entropy_.restore(in);
  in.section("machine");
  time_->restore(in);
  turns_->restore(in);
  if (landings_ != nullptr) landings_->restore(in);
  panic_watch_.restore(in);
  board_->restore(in);
  deadlines_.restore(deadlines_in);
}

Result<LoadedGuest> Machine::load(const BootImages& images) {
  auto loaded = load_guest(images, *memory_, vcpus_[0]->state, config_.vcpus, config_.devices);
  memory_changed();
  engine_->state_changed(*vcpus_[0]);
  return loaded;
}

void Machine::memory_changed() {
  engine_->memory_changed();
  engine_->memory_protected();
}

// Tells all who want to know of them of the dirty pages.
void Machine::collect_dirty() {
  if (host_ != nullptr) host_->find_dirty();
  bool any = false;
  memory_->take_dirty([&](uint64_t page) {
    any = true;
    written_->note(page);
  });
  if (any) engine_->memory_protected();
}

void Machine::restore_page(uint64_t page, const uint8_t* bytes) {
  constexpr size_t kPiece = 64;
  const PhysAddr begin(page << kPageShift);
  RV_ASSERT(memory_->is_ram(begin));
  const uint8_t* now = memory_->host(begin);
  for (size_t at = 0; at < kPageSize;) {
    if (std::memcmp(now + at, bytes + at, kPiece) == 0) {
      at += kPiece;
      continue;
    }
    size_t end = at + kPiece;
    while (end < kPageSize && std::memcmp(now + end, bytes + end, kPiece) != 0) end += kPiece;
    memory_->write(begin + at, std::span<const uint8_t>(bytes + at, end - at));
    at = end;
  }
}

void Machine::hash_written_pages() {
  const std::vector<uint64_t> pages = unhashed_->take();
  for (const uint64_t page : pages) hashes_->update(page, memory_->host(PhysAddr(page << kPageShift)));
  if (hashed_.empty()) hashed_ = pages;
  else hashed_.insert(hashed_.end(), pages.begin(), pages.end());
}

StateDigest Machine::digest() {
  hash_written_pages();
  last_dirty_ = std::exchange(hashed_, {});
  if (!std::is_sorted(last_dirty_.begin(), last_dirty_.end())) std::sort(last_dirty_.begin(), last_dirty_.end());
  last_dirty_.erase(std::unique(last_dirty_.begin(), last_dirty_.end()), last_dirty_.end());
  StateDigest d;
  const auto cpu = landings_ != nullptr ? common_cpu_state() : save_cpu_state();
  const auto devices = save_device_state();
  d.cpu = XXH3_64bits(cpu.data(), cpu.size());
  d.devices = XXH3_64bits(devices.data(), devices.size());
  d.memory = hashes_->sum();
  return d;
}

uint64_t Machine::page_hash(uint64_t page) const { return page < memory_->page_limit() ? hashes_->of(page) : 0; }

}  // namespace retrovisor
