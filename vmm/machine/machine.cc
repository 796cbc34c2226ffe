#include "vmm/machine/machine.h"

#include <xxhash.h>

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <utility>

#include "vmm/board/board.h"
#include "vmm/boot/loader.h"
#include "vmm/machine/page_hashes.h"

namespace retrovisor {
namespace {

// How often a running machine looks for console input, in guest time. Part of the machine model.
constexpr uint64_t kInputPollNs = 1'000'000;
// What is taken of a stream at once, and how long a packet can be: more than any Ethernet frame with offloads.
constexpr size_t kMostPolled = 64, kLongestPacket = 65'562;
// HLT with interrupts off while timers go on ticking: only an NMI could end it. A guest that none has reached in this
// time counts as halted for ever.
constexpr uint64_t kDeadHaltNs = 10'000'000'000;

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
  RV_ASSERT(config.engine == EngineKind::soft || config.positions == PositionUnit::events);
  RV_ASSERT(config.turns.instructions != 0);
  RV_ASSERT(config.positions == PositionUnit::instructions || config.time == TimeSource::events);
  std::unique_ptr<Machine> machine(new Machine(config, boundary));
  RV_TRY(machine->build());
  return machine;
}

Result<std::unique_ptr<Engine>> Machine::make_engine() {
  if (config_.engine == EngineKind::soft) return make_soft_engine(*platform_, config_.vcpus, config_.processor_model, config_.user_tsc);
  return kvm::make_kvm_engine(*platform_, config_.processor_model, config_.user_tsc, config_.kvm);
}

Result<void> Machine::build() {
  RV_TRY(memory_, GuestMemory::create(config_.memory_size));
  hashes_ = std::make_unique<PageHashes>(memory_->page_limit());
  platform_ = std::make_unique<Platform>(Platform{*memory_, ports_, mmio_, clock_, deadlines_, journal_, entropy_, *this});
  RV_TRY(engine_, make_engine());
  engine_->allow_kicks(boundary_.lands());
  for (uint32_t i = 0; i < config_.vcpus; ++i) {
    vcpus_.push_back(std::make_unique<Vcpu>(VcpuId(i), engine_->vcpu_state(VcpuId(i))));
    if (i != 0) vcpus_.back()->state.mtrr_def_type = kFirmwareMtrrDefType;  // an INIT leaves it
  }
  Outside outside;
  outside.transmit = [this](EndpointId endpoint, std::span<const uint8_t> bytes) {
    boundary_.transmit({position(), now()}, endpoint, bytes);
    if (board_->endpoints()[endpoint.value].console && panic_watch_.see(bytes) && config_.stop_on_panic)
      request_stop({StopReason::guest_panic, 0});
  };
  outside.read_blocks = [this](EndpointId endpoint, uint64_t offset, std::span<uint8_t> out) {
    return boundary_.read_blocks({position(), now()}, endpoint, offset, out);
  };
  RV_TRY(board_, Board::create(config_.devices, *platform_, vcpus_, std::move(outside)));
  boundary_.connect(board_->endpoints());
  deadlines_.set_observer([this](Deadlines::Timer timer, VirtualTime when) { journal_.log(EventKind::timer, timer, when.value); });

  const Moment start{position(), now()};
  board_->reset({.wall_clock = boundary_.wall_clock(start)});
  std::array<uint64_t, 4> seed{};
  boundary_.entropy(start, std::span(reinterpret_cast<uint8_t*>(seed.data()), sizeof seed));
  if (seed == std::array<uint64_t, 4>{}) seed[0] = 1;  // the generator's one bad state
  entropy_.seed(seed);
  next_poll_ = VirtualTime(kInputPollNs);
  return {};
}

void Machine::request_stop(Stop stop) {
  if (!stop_request_) stop_request_ = stop;
}

// The vCPUs run one at a time, in turn, for turn_length() instructions each; none if none can.
std::optional<uint32_t> Machine::next_turn() const {
  // A turn ends at slice_end_ exactly, or when the vCPU halts: never where a run happens to be cut.
  if (position() < slice_end_ && has_work(*vcpus_[current_])) return current_;
  for (uint32_t i = 1; i <= config_.vcpus; ++i) {
    const uint32_t next = (current_ + i) % config_.vcpus;
    if (has_work(*vcpus_[next])) return next;
  }
  return std::nullopt;
}

// Of a turn that begins here.
uint64_t Machine::turn_length() const {
  if (config_.turns.seed == 0) return config_.turns.instructions;
  const uint64_t key[] = {config_.turns.seed, position().value};
  return 1 + XXH3_64bits(key, sizeof key) % config_.turns.instructions;
}

Vcpu* Machine::schedule() {
  if (config_.vcpus == 1) return has_work(*vcpus_[0]) ? vcpus_[0].get() : nullptr;
  const auto next = next_turn();
  if (!next) return nullptr;
  if (*next != current_ || position() >= slice_end_) {
    if (*next != current_) journal_.log(EventKind::vcpu_switch, *next);
    current_ = *next;
    slice_end_ = position() + turn_length();
  }
  return vcpus_[*next].get();
}

bool Machine::runnable() const {
  return std::any_of(vcpus_.begin(), vcpus_.end(), [](const auto& v) { return has_work(*v); });
}

void Machine::poll_input() {
  next_poll_ = now() + kInputPollNs;
  for (uint32_t i = 0; i < board_->endpoints().size(); ++i) {
    const EndpointId id(i);
    const bool packets = board_->endpoints()[i].kind == EndpointKind::packets;
    const size_t room = std::min(board_->room(id), packets ? kLongestPacket : kMostPolled);
    if (room == 0) continue;
    std::array<uint8_t, kLongestPacket> buffer;
    const size_t n = boundary_.receive({position(), now()}, id, std::span(buffer).first(room));
    RV_ASSERT(n <= room);
    if (n != 0) board_->receive(id, std::span<const uint8_t>(buffer).first(n));
  }
}

bool Machine::input_wanted() const {
  for (uint32_t i = 0; i < board_->endpoints().size(); ++i)
    if (board_->room(EndpointId(i)) != 0) return true;
  return false;
}

Stop Machine::run_until(Position target, VirtualTime time) {
  const AssertionContext context(clock_, *engine_);
  VirtualTime idle_since = kNever;
  for (;;) {
    if ((stop_request_ || position() >= target) && engine_->settle(*vcpus_[current_])) continue;
    if (stop_request_) {
      const Stop stop = *stop_request_;
      stop_request_.reset();
      return stop;
    }
    if (position() >= target && (now() >= time || runnable())) return {};
    deadlines_.run_due(now());
    if (now() >= next_poll_) poll_input();
    if (stop_request_) continue;

    Vcpu* vcpu = schedule();
    if (vcpu == nullptr) {
      if (idle_since == kNever) idle_since = now();
      const VirtualTime due = deadlines_.next();
      const uint64_t ns = due == kNever ? UINT64_MAX : due - now();
      const bool wanted = input_wanted() && wakeable();
      if (due == kNever && !wanted) return {StopReason::halted_forever, 0};
      if (!wakeable() && now() - idle_since > kDeadHaltNs) return {StopReason::halted_forever, 0};
      const IdleWait wait = boundary_.idle_wait({position(), now()}, ns, wanted);
      if (wait.waited_ns == UINT64_MAX) return {StopReason::halted_forever, 0};
      RV_ASSERT(wait.waited_ns <= ns);
      clock_.pass(wait.waited_ns);
      idle_ns_ += wait.waited_ns;
      undecided_ = true;
      deadlines_.run_due(now());
      if (wait.waited_ns < ns) poll_input();
      if (wait.host_wants_control) return {StopReason::host_request, 0};
      continue;
    }
    idle_since = kNever;
    std::optional<Landing> landing;
    uint64_t deliveries = 0;
    if (config_.time == TimeSource::events) {
      if (!delivery_decided(*vcpu)) continue;
      landing = boundary_.next_landing({position(), now()});
      if (landing && landing->by_state) {
        if (engine_->settle(*vcpu)) continue;
        if (landing->position == position() + 1 && run_to(*landing, *vcpu)) land(*landing);
        else if (!stop_request_) boundary_.landing_missed({position(), now()}, *landing);
        continue;
      }
      if (landing && landing->position == position()) {
        if (engine_->deliveries() >= landing->deliveries) {
          land(*landing);
          continue;
        }
        deliveries = landing->deliveries;
        landing.reset();
      }
    }
    Position limit = std::min({target, clock_.position_of(deadlines_.next()), clock_.position_of(next_poll_)});
    if (landing) limit = std::min(limit, landing->position);
    if (config_.vcpus > 1) limit = std::min(limit, slice_end_);
    if (limit <= position()) continue;
    last_vcpu_ = vcpu->id;
    journal_.set_vcpu(vcpu->id);
    engine_->yield_behind(deliveries);
    switch (engine_->run(*vcpu, limit)) {
      case EngineStop::limit:
      case EngineStop::yield:
      case EngineStop::halted: break;
      case EngineStop::observed: return {StopReason::observed, 0};
      case EngineStop::triple_fault: return {StopReason::triple_fault, 0};
      case EngineStop::stuck: return {StopReason::stuck, 0};
      case EngineStop::failed: return {StopReason::engine_failed, 0};
      case EngineStop::kicked:
        if (boundary_.landing_wanted({position(), now()}, deadlines_.next()) ||
            (vcpu->intr && engine_->can_deliver(*vcpu)))
          land(landing_here(*vcpu));
        break;
    }
  }
}

// Can an interrupt wake any vCPU? A HLT with interrupts off, or a shutdown, ends only by NMI, INIT or reset.
bool Machine::wakeable() const {
  return std::any_of(vcpus_.begin(), vcpus_.end(), [](const auto& v) { return interrupts_wake(*v); });
}

std::vector<uint8_t> Machine::save_cpu_state() const {
  for (const auto& v : vcpus_) engine_->complete(*v);
  StateWriter out;
  clock_.save(out);
  for (const auto& v : vcpus_) v->state.save(out, v->id);
  return out.take();
}

std::vector<uint8_t> Machine::save_device_state() const {
  StateWriter out;
  deadlines_.save(out);
  entropy_.save(out);
  out.section("machine");
  out.u64("next_poll_ns", next_poll_.value);
  out.u32("current_vcpu", current_);
  out.u64("slice_end", slice_end_.value);
  if (config_.time == TimeSource::events) out.boolean("undecided", undecided_);
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
  last_vcpu_ = VcpuId(current_);
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
  in.u64("next_poll_ns", next_poll_.value);
  in.u32("current_vcpu", current_);
  in.u64("slice_end", slice_end_.value);
  in.check("current_vcpu", current_ < config_.vcpus);
  current_ %= config_.vcpus;
  if (config_.time == TimeSource::events) in.boolean("undecided", undecided_);
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

// Distributes the dirty pages to all who want to know of them.
void Machine::collect_dirty() {
  engine_->find_dirty();
  bool any = false;
  memory_->take_dirty([&](uint64_t page) {
    any = true;
    uint8_t& flags = memory_->flags(page);
    if ((flags & page_flag::unhashed) == 0) unhashed_.push_back(page);
    if ((flags & page_flag::written) == 0) written_.push_back(page);
    flags |= page_flag::unhashed | page_flag::written;
  });
  if (any) engine_->memory_protected();
}

std::vector<uint64_t> Machine::take_written_pages() {
  collect_dirty();
  std::vector<uint64_t> pages = std::exchange(written_, {});
  std::sort(pages.begin(), pages.end());
  for (const uint64_t page : pages) memory_->flags(page) = static_cast<uint8_t>(memory_->flags(page) & ~page_flag::written);
  return pages;
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
  collect_dirty();
  for (const uint64_t page : unhashed_) {
    memory_->flags(page) = static_cast<uint8_t>(memory_->flags(page) & ~page_flag::unhashed);
    hashes_->update(page, memory_->host(PhysAddr(page << kPageShift)));
  }
  hashed_.insert(hashed_.end(), unhashed_.begin(), unhashed_.end());
  unhashed_.clear();
}

StateDigest Machine::digest() {
  hash_written_pages();
  last_dirty_ = std::exchange(hashed_, {});
  std::sort(last_dirty_.begin(), last_dirty_.end());
  last_dirty_.erase(std::unique(last_dirty_.begin(), last_dirty_.end()), last_dirty_.end());
  StateDigest d;
  const auto cpu = config_.time == TimeSource::events ? common_cpu_state() : save_cpu_state();
  const auto devices = save_device_state();
  d.cpu = XXH3_64bits(cpu.data(), cpu.size());
  d.devices = XXH3_64bits(devices.data(), devices.size());
  d.memory = hashes_->sum();
  return d;
}

uint64_t Machine::page_hash(uint64_t page) const { return page < memory_->page_limit() ? hashes_->of(page) : 0; }

}  // namespace retrovisor
