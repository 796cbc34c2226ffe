// Registers and state of the local APIC. Source: SDM 3A table 10-1.
#include "vmm/devices/local_apic.h"
#include "vmm/devices/local_apic_bits.h"
#include "vmm/devices/ticks.h"

namespace retrovisor {
namespace {

// Register numbers: offset / 16.
enum Register : unsigned {
  ID = 0x02, VERSION = 0x03, TPR = 0x08, APR = 0x09, PPR = 0x0a, EOI = 0x0b, RRD = 0x0c, LDR = 0x0d, DFR = 0x0e, SVR = 0x0f,
  ISR = 0x10, TMR = 0x18, IRR = 0x20, ESR = 0x28, ICR_LOW = 0x30, ICR_HIGH = 0x31, LVT_FIRST = 0x32, LVT_LAST = 0x37,
  INITIAL_COUNT = 0x38, CURRENT_COUNT = 0x39, DIVIDE = 0x3e,
};
constexpr uint32_t kVersion = 0x14 | 5 << 16;  // six LVT entries

}  // namespace

uint32_t LocalApic::read_register(unsigned index) {
  if (index >= ISR && index < ESR) {
    const VectorSet& set = index < TMR ? isr_ : index < IRR ? tmr_ : irr_;
    return set.bits[index & 7];
  }
  if (index >= LVT_FIRST && index <= LVT_LAST) return lvt_[index - LVT_FIRST];
  switch (index) {
    case ID: return static_cast<uint32_t>(id_) << 24;
    case VERSION: return kVersion;
    case TPR: return tpr_;
    case APR: return arbitration_priority();
    case PPR: return processor_priority();
    case EOI: case RRD: return 0;
    case LDR: return static_cast<uint32_t>(ldr_) << 24;
    case DFR: return static_cast<uint32_t>(dfr_) << 28 | 0x0fffffff;
    case SVR: return svr_;
    case ESR: return esr_;
    case ICR_LOW: return icr_low_;
    case ICR_HIGH: return static_cast<uint32_t>(icr_destination_) << 24;
    case INITIAL_COUNT: return count_.initial();
    case CURRENT_COUNT: return tsc_deadline_mode() ? 0 : count_.current(now());
    case DIVIDE: return count_.divide();
    default: error(esr::illegal_register); return 0;
  }
}

void LocalApic::write_svr(uint32_t value) {
  svr_ = value & svr::writable;
  if ((svr_ & svr::enable) != 0) return;
  for (uint32_t& entry : lvt_) entry |= lvt::mask;  // software-disabled: all masked (10.4.7.2)
  update_timer();
}

void LocalApic::write_lvt(Lvt entry, uint32_t value) {
  uint32_t& reg = lvt_[entry];
  const uint32_t before = reg;
  reg = (value & lvt::writable[entry]) | (reg & lvt::remote_irr);
  if ((svr_ & svr::enable) == 0) reg |= lvt::mask;
  if (entry == TIMER) {
    // A change to or from TSC-deadline mode disarms the timer (10.5.4.1).
    if (((before ^ reg) & lvt::timer_tsc_deadline) != 0) {
      tsc_deadline_ = 0;
      count_.set_initial(0, now());
    }
    count_.set_periodic((reg & lvt::timer_mode) == lvt::timer_periodic, now());
    update_timer();
  } else if (entry == LINT0) {
    if (lvt_mode(LINT0) != DeliveryMode::fixed || (reg & lvt::level) == 0) reg &= ~lvt::remote_irr;
    service_lint0_level();
  }
}

void LocalApic::write_register(unsigned index, uint32_t value) {
  if (index >= LVT_FIRST && index <= LVT_LAST) {
    write_lvt(static_cast<Lvt>(index - LVT_FIRST), value);
    return;
  }
  switch (index) {
    case ID: id_ = static_cast<uint8_t>(value >> 24); break;
    case TPR: tpr_ = static_cast<uint8_t>(value); break;
    case EOI: end_of_interrupt(); break;
    case LDR: ldr_ = static_cast<uint8_t>(value >> 24); break;
    case DFR: dfr_ = static_cast<uint8_t>(value >> 28); break;
    case SVR: write_svr(value); break;
    case ESR:  // shows the errors since the last write, and starts anew
      esr_ = errors_;
      errors_ = 0;
      error_armed_ = true;
      break;
    case ICR_LOW:
      icr_low_ = value & icr::writable;
      send_ipi();
      break;
    case ICR_HIGH: icr_destination_ = static_cast<uint8_t>(value >> 24); break;
    case INITIAL_COUNT:
      if (!tsc_deadline_mode()) {
        count_.set_initial(value, now());
        update_timer();
      }
      break;
    case DIVIDE:
      count_.set_divide(value, now());
      update_timer();
      break;
    default:
      // Read-only registers ignore writes.
      if (!(index >= ISR && index < ESR) && index != VERSION && index != APR && index != PPR && index != RRD &&
          index != CURRENT_COUNT)
        error(esr::illegal_register);
      break;
  }
}

uint64_t LocalApic::read(const BusAccess& access) {
  // Registers are 32 bits wide at multiples of 16 bytes (10.4.1); what lies between reads as zero.
  const uint64_t byte = access.offset & 0xf;
  if (byte >= 4) return 0;
  const uint32_t value = read_register(static_cast<unsigned>(access.offset >> 4));
  update_intr();
  return byte + access.size <= 4 ? value >> byte * 8 : value;
}

void LocalApic::write(const BusAccess& access, uint64_t value) {
  if ((access.offset & 0xf) != 0 || access.size < 4) return;
  write_register(static_cast<unsigned>(access.offset >> 4), static_cast<uint32_t>(value));
  update_intr();
}

void LocalApic::save(StateWriter& out) const {
  out.section(name_);
  out.u64("IA32_APIC_BASE", base_);
  out.u8("ID", id_);
  out.u8("TPR", tpr_);
  out.u8("LDR", ldr_);
  out.u8("DFR", dfr_);
  out.u32("SVR", svr_);
  const auto save_set = [&out](const std::string& field, const VectorSet& set) {
    for (unsigned i = 0; i < 8; ++i) out.u32(field + std::to_string(i), set.bits[i]);
  };
  save_set("ISR", isr_);
  save_set("TMR", tmr_);
  save_set("IRR", irr_);
  out.u32("ESR", esr_);
  out.u32("errors", errors_);
  out.boolean("error_armed", error_armed_);
  out.u32("ICR_low", icr_low_);
  out.u8("ICR_destination", icr_destination_);
  for (unsigned i = 0; i < kLvts; ++i) out.u32("LVT" + std::to_string(i), lvt_[i]);
  count_.save(out);
  out.u64("TSC_DEADLINE", tsc_deadline_);
  out.boolean("LINT0_level", lint0_);
  out.boolean("ExtINT_pending", ext_int_pending_);
}

void LocalApic::restore(StateReader& in) {
  in.section(name_);
  in.u64("IA32_APIC_BASE", base_);
  in.check("IA32_APIC_BASE", (base_ & ~apic_base::writable) == 0);
  in.u8("ID", id_);
  in.u8("TPR", tpr_);
  in.u8("LDR", ldr_);
  in.u8("DFR", dfr_);
  in.check("DFR", dfr_ <= 0xf);
  in.u32("SVR", svr_);
  in.check("SVR", (svr_ & ~svr::writable) == 0);
  const auto restore_set = [&in](const std::string& field, VectorSet& set) {
    for (unsigned i = 0; i < 8; ++i) in.u32(field + std::to_string(i), set.bits[i]);
    in.check(field + "0", (set.bits[0] & 0xffff) == 0);  // vectors 0-15 are never accepted
  };
  restore_set("ISR", isr_);
  restore_set("TMR", tmr_);
  restore_set("IRR", irr_);
  in.u32("ESR", esr_);
  in.check("ESR", (esr_ & ~esr::all) == 0);
  in.u32("errors", errors_);
  in.check("errors", (errors_ & ~esr::all) == 0);
  in.boolean("error_armed", error_armed_);
  in.u32("ICR_low", icr_low_);
  in.check("ICR_low", (icr_low_ & ~icr::writable) == 0);
  in.u8("ICR_destination", icr_destination_);
  for (unsigned i = 0; i < kLvts; ++i) {
    const std::string field = "LVT" + std::to_string(i);
    in.u32(field, lvt_[i]);
    in.check(field, (lvt_[i] & ~(lvt::writable[i] | (i == LINT0 ? lvt::remote_irr : 0))) == 0);
  }
  count_.restore(in);
  in.u64("TSC_DEADLINE", tsc_deadline_);
  in.boolean("LINT0_level", lint0_);
  in.boolean("ExtINT_pending", ext_int_pending_);
  map_page();
  update_intr();
}

}  // namespace retrovisor
