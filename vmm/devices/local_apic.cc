// Interrupts, messages and MSRs of the local APIC; its registers are in local_apic_registers.cc.
#include "vmm/devices/local_apic.h"

#include <algorithm>
#include <bit>

#include "vmm/devices/local_apic_bits.h"
#include "vmm/devices/machine_map.h"

namespace retrovisor {

LocalApic::LocalApic(const Clock& clock, Deadlines& deadlines, Vcpu& vcpu, ApicBus& bus, ExtIntController& pic)
    : vcpu_(vcpu),
      bus_(bus),
      pic_(pic),
      clock_(clock),
      deadlines_(deadlines),
      name_("lapic" + std::to_string(vcpu.id.value)),
      timer_(deadlines_.add(name_ + ".timer", [this](VirtualTime deadline) { timer_fired(deadline.value); })) {
  base_ = machine_map::kLocalApicBase;
  bus_.connect(*this);
  vcpu_.interrupts = this;
}

void LocalApic::reset(const PowerOn&) {
  const bool boot = vcpu_.id.value == 0;
  base_ = machine_map::kLocalApicBase | apic_base::EN | (boot ? apic_base::BSP : 0);
  id_ = static_cast<uint8_t>(vcpu_.id.value);
  lint0_ = false;
  init_registers();
  if (boot) virtual_wire();
  map_page();
  update_timer();
  update_intr();
}

void LocalApic::virtual_wire() {
  svr_ |= svr::enable;
  lvt_[LINT0] = static_cast<uint32_t>(DeliveryMode::ext_int) << lvt::mode_shift;
  lvt_[LINT1] = static_cast<uint32_t>(DeliveryMode::nmi) << lvt::mode_shift;
}

// State after INIT, and after power-up but for the ID and IA32_APIC_BASE (SDM 3A 10.4.7.1, 10.4.7.3).
void LocalApic::init_registers() {
  tpr_ = ldr_ = 0;
  dfr_ = 0xf;
  svr_ = 0xff;
  isr_ = tmr_ = irr_ = {};
  esr_ = errors_ = 0;
  error_armed_ = true;
  icr_low_ = 0;
  icr_destination_ = 0;
  lvt_.fill(lvt::mask);
  count_.reset();
  tsc_deadline_ = 0;
  ext_int_pending_ = false;
}

int LocalApic::VectorSet::highest() const {
  for (unsigned i = 8; i-- > 0;)
    if (bits[i] != 0) return static_cast<int>(i * 32 + 31) - std::countl_zero(bits[i]);
  return -1;
}

bool LocalApic::enabled() const { return (base_ & apic_base::EN) != 0; }
bool LocalApic::software_enabled() const { return enabled() && (svr_ & svr::enable) != 0; }
bool LocalApic::masked(Lvt entry) const { return (lvt_[entry] & lvt::mask) != 0; }
DeliveryMode LocalApic::lvt_mode(Lvt entry) const { return static_cast<DeliveryMode>(lvt_[entry] >> lvt::mode_shift & 7); }

uint8_t LocalApic::processor_priority() const {
  const int in_service = std::max(isr_.highest(), 0);
  return tpr_ >> 4 >= in_service >> 4 ? tpr_ : static_cast<uint8_t>(in_service & 0xf0);
}

// SDM 3A 10.6.2.4.
uint8_t LocalApic::arbitration_priority() const {
  const int isrv = std::max(isr_.highest(), 0) >> 4, irrv = std::max(irr_.highest(), 0) >> 4;
  if (tpr_ >> 4 >= irrv && tpr_ >> 4 > isrv) return tpr_;
  return static_cast<uint8_t>(std::max({tpr_ >> 4 & isrv, isrv, irrv}) << 4);
}

int LocalApic::deliverable() const {
  if (!enabled()) return -1;
  const int vector = irr_.highest();
  return vector >= 0 && vector >> 4 > processor_priority() >> 4 ? vector : -1;
}

// A disabled APIC leaves the INTR pin to the 8259A pair (SDM 3A 10.4.3).
bool LocalApic::ext_int_ready() const {
  if (!enabled()) return lint0_;
  return ext_int_pending_ || (lint0_ && !masked(LINT0) && lvt_mode(LINT0) == DeliveryMode::ext_int);
}

InterruptSource LocalApic::source() const { return ext_int_ready() ? InterruptSource::pic : InterruptSource::local_apic; }

uint8_t LocalApic::acknowledge() {
  uint8_t vector = 0;
  if (ext_int_ready()) {
    ext_int_pending_ = false;
    vector = pic_.acknowledge();
  } else if (const int top = deliverable(); top >= 0) {
    vector = static_cast<uint8_t>(top);
    irr_.clear(vector);
    isr_.set(vector);
  } else {
    vector = static_cast<uint8_t>(svr_);  // spurious: not in service, needs no EOI (10.9)
  }
  update_intr();
  return vector;
}

void LocalApic::set_cr8(uint8_t value) {
  tpr_ = static_cast<uint8_t>(value << 4);
  update_intr();
}

bool LocalApic::is_destination(const ApicMessage& message) const {
  if (!enabled()) return false;
  if (message.destination == 0xff) return true;
  if (!message.logical) return message.destination == id_;
  if (dfr_ == 0xf) return (message.destination & ldr_) != 0;
  // Cluster model: the same cluster (or all, 0xf), and a common bit.
  const bool cluster = message.destination >> 4 == ldr_ >> 4 || message.destination >> 4 == 0xf;
  return cluster && (message.destination & ldr_ & 0xf) != 0;
}

bool LocalApic::accept(uint8_t vector, bool level) {
  if (vector < 16) {
    error(esr::receive_illegal_vector);
    return false;
  }
  irr_.set(vector);
  if (level) {
    tmr_.set(vector);
  } else {
    tmr_.clear(vector);
  }
  update_intr();
  return true;
}

void LocalApic::receive_init() {
  init_registers();
  vcpu_.state.init_pending = true;
  vcpu_.state.sipi_pending = false;
  update_timer();
  update_intr();
}

void LocalApic::reset_processor(uint8_t start_vector) {
  receive_init();
  // It comes through whatever the processor waits for, or has shut down by.
  if (vcpu_.state.activity != Activity::running) vcpu_.state.activity = Activity::halted;
  if (vcpu_.id.value != 0) return;
  virtual_wire();
  vcpu_.state.sipi_pending = true;
  vcpu_.state.sipi_vector = start_vector;
  update_intr();
}

bool LocalApic::receive(const ApicMessage& message) {
  CpuState& state = vcpu_.state;
  switch (message.mode) {
    case DeliveryMode::fixed: case DeliveryMode::lowest_priority:
      return software_enabled() && accept(message.vector, message.level);
    case DeliveryMode::nmi:
      state.nmi_pending = true;
      return true;
    case DeliveryMode::init: receive_init(); return true;
    case DeliveryMode::start_up:
      // Lost unless the processor waits for it (SDM 3A 8.4.3), as the boot processor does not behind an INIT; the first of several counts.
      if (((state.init_pending && vcpu_.id.value != 0) || state.activity == Activity::wait_for_sipi) && !state.sipi_pending) {
        state.sipi_pending = true;
        state.sipi_vector = message.vector;
      }
      return true;
    case DeliveryMode::ext_int:
      if (!software_enabled()) return false;
      ext_int_pending_ = true;
      update_intr();
      return true;
    case DeliveryMode::smi: return true;  // there is no system management mode
    case DeliveryMode::reserved: return false;
  }
  return false;
}

// An interrupt of the APIC's own, as its LVT entry says; edge triggered.
void LocalApic::deliver_lvt(Lvt entry) {
  if (masked(entry)) return;
  const auto vector = static_cast<uint8_t>(lvt_[entry]);
  switch (lvt_mode(entry)) {
    case DeliveryMode::fixed: accept(vector, false); break;
    case DeliveryMode::nmi: vcpu_.state.nmi_pending = true; break;
    case DeliveryMode::init: receive_init(); break;
    default: break;  // ExtINT is a level (ext_int_ready); the rest is reserved
  }
}

void LocalApic::set_irq(unsigned, bool level) {
  if (level == lint0_) return;
  lint0_ = level;
  const bool level_triggered = lvt_mode(LINT0) == DeliveryMode::fixed && (lvt_[LINT0] & lvt::level) != 0;
  if (enabled() && level && !level_triggered) deliver_lvt(LINT0);
  service_lint0_level();
  update_intr();
}

void LocalApic::service_lint0_level() {
  uint32_t& entry = lvt_[LINT0];
  if (!enabled() || !lint0_ || (entry & (lvt::mask | lvt::remote_irr)) != 0) return;
  if (lvt_mode(LINT0) != DeliveryMode::fixed || (entry & lvt::level) == 0) return;
  if (accept(static_cast<uint8_t>(entry), true)) entry |= lvt::remote_irr;
}

void LocalApic::end_of_interrupt() {
  const int top = isr_.highest();
  if (top < 0) return;
  const auto vector = static_cast<uint8_t>(top);
  isr_.clear(vector);
  if (tmr_.has(vector)) {
    uint32_t& entry = lvt_[LINT0];
    if ((entry & lvt::remote_irr) != 0 && static_cast<uint8_t>(entry) == vector) entry &= ~lvt::remote_irr;
    bus_.broadcast_eoi(vector);
    service_lint0_level();
  }
  update_intr();
}

void LocalApic::error(uint32_t bit) {
  errors_ |= bit;
  if (!error_armed_) return;
  error_armed_ = false;  // re-armed by a write of ESR (10.5.3)
  deliver_lvt(ERROR);
}

void LocalApic::send_ipi() {
  ApicMessage message;
  message.destination = icr_destination_;
  message.logical = (icr_low_ & icr::logical) != 0;
  message.mode = static_cast<DeliveryMode>(icr_low_ >> icr::mode_shift & 7);
  message.vector = static_cast<uint8_t>(icr_low_);
  const auto shorthand = icr_low_ >> icr::shorthand_shift & 3;
  const bool fixed = message.mode == DeliveryMode::fixed;
  const bool takes_vector = fixed || message.mode == DeliveryMode::lowest_priority;
  if (message.mode == DeliveryMode::reserved || message.mode == DeliveryMode::ext_int) return;
  // INIT level de-assert: only loads arbitration IDs, which this bus has none of (10.6.1).
  if (message.mode == DeliveryMode::init && (icr_low_ & icr::level) != 0 && (icr_low_ & icr::assert_level) == 0) return;
  if (takes_vector && message.vector < 16) return error(esr::send_illegal_vector);
  switch (shorthand) {
    case 0: bus_.deliver(message); break;
    case 1:  // table 10-3: self and all including self are for fixed interrupts
      if (fixed) receive(message);
      break;
    case 2:
      if (!fixed) break;
      for (LocalApic* apic : bus_.apics())
        if (apic->enabled()) apic->receive(message);
      break;
    default:
      for (LocalApic* apic : bus_.apics())
        if (apic != this && apic->enabled()) apic->receive(message);
      break;
  }
}

bool LocalApic::tsc_deadline_mode() const { return (lvt_[TIMER] & lvt::timer_mode) == lvt::timer_tsc_deadline; }

void LocalApic::timer_fired(uint64_t deadline) {
  if (tsc_deadline_mode()) {
    if (tsc_deadline_ != 0 && tsc() >= tsc_deadline_) {
      tsc_deadline_ = 0;
      deliver_lvt(TIMER);
    }
    update_timer();
    return;
  }
  deliver_lvt(TIMER);
  const uint64_t next = masked(TIMER) ? UINT64_MAX : count_.next_expiry(std::max(deadline, now()));
  deadlines_.arm(timer_, VirtualTime(next));
}

// Asks to be called when the timer is due; not while it is masked, since then nobody can tell.
void LocalApic::update_timer() {
  uint64_t when = UINT64_MAX;
  if (tsc_deadline_mode()) {
    if (tsc_deadline_ != 0) {
      const uint64_t present = tsc();
      if (tsc_deadline_ <= present) {
        tsc_deadline_ = 0;
        deliver_lvt(TIMER);
      } else if (tsc_deadline_ - present < UINT64_MAX - now()) {
        when = now() + (tsc_deadline_ - present);
      }
    }
  } else if (enabled() && !masked(TIMER)) {
    when = count_.next_expiry(now());
  }
  if (deadlines_.deadline(timer_).value != when) deadlines_.arm(timer_, VirtualTime(when));
}

bool LocalApic::read_msr(uint32_t index, uint64_t& value) {
  switch (index) {
    case msr::APIC_BASE: value = base_; return true;
    case msr::TSC_DEADLINE: value = tsc_deadline_mode() ? tsc_deadline_ : 0; return true;
    default: return false;
  }
}

bool LocalApic::write_msr(uint32_t index, uint64_t value) {
  switch (index) {
    case msr::APIC_BASE: return write_base(value);
    case msr::TSC_DEADLINE:
      if (tsc_deadline_mode()) {  // otherwise ignored (10.5.4.1)
        tsc_deadline_ = value;
        update_timer();
      }
      return true;
    default: return false;
  }
}

bool LocalApic::write_base(uint64_t value) {
  if ((value & ~apic_base::writable) != 0) return false;
  const bool was_enabled = enabled();
  base_ = value;
  if (was_enabled && !enabled()) {  // back to the state after power-up, the ID too, until it is enabled again (10.4.3, 10.4.7.1)
    id_ = static_cast<uint8_t>(vcpu_.id.value);
    init_registers();
    update_timer();
  }
  map_page();
  update_intr();
  return true;
}

// One that is switched off answers nowhere.
void LocalApic::map_page() {
  if (enabled())
    page_.move({PhysAddr(base_ & apic_base::address), machine_map::kLocalApicSize});
  else
    page_.unmap();
}

constinit const DeviceType kLocalApicDevice{
    .name = "lapic",
    .help = "the local APIC of each vCPU",
    .make =
        [](DeviceContext& c) {
          auto* pic = c.offered<ExtIntController>();
          if (pic == nullptr) return c.fail({ErrorCode::bad_argument, "there is no 8259A pair before it, whose INTR comes to LINT0", ""});
          for (const auto& vcpu : c.vcpus()) {
            auto& apic = c.add<LocalApic>(c.guest_clock(), c.deadlines(), *vcpu, c.shared<ApicBus>(), *pic);
            apic.set_page(c.claim_memory({.first = machine_map::kLocalApicBase,
                                          .count = machine_map::kLocalApicSize,
                                          .device = &apic,
                                          .vcpu = vcpu->id}));
            c.wiring().pic_intr.add(apic);
          }
        },
    .firmware =
        [](const DeviceOptions&, FirmwareTables& tables) {
          tables.local_apics = machine_map::kLocalApicBase;
          tables.reserved.push_back({PhysAddr(machine_map::kLocalApicBase), machine_map::kLocalApicSize});
        },
    .single = true,
};

}  // namespace retrovisor
