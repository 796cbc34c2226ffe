// x87 control instructions, and the environment and state images in memory (SDM 1 figures 8-9 to 8-12).
#include "vmm/soft/x87_env.h"

#include "vmm/soft/x87_state.h"

namespace retrovisor::soft {
namespace {

constexpr unsigned kEnvironment16 = 14, kEnvironment32 = 28, kRegisters = 80;

// Real mode and virtual-8086 mode have images of their own, with linear addresses instead of selectors.
bool real_format(const SoftCpu& cpu) { return !cpu.s.protected_mode() || cpu.s.vm86(); }

void put16(uint8_t* at, uint64_t value) {
  at[0] = static_cast<uint8_t>(value);
  at[1] = static_cast<uint8_t>(value >> 8);
}
void put32(uint8_t* at, uint64_t value) {
  put16(at, value);
  put16(at + 2, value >> 16);
}
uint32_t get16(const uint8_t* at) { return static_cast<uint32_t>(at[0] | at[1] << 8); }
uint32_t get32(const uint8_t* at) { return get16(at) | get16(at + 2) << 16; }

constexpr uint32_t kUpper = 0xffff0000;  // what processors store in the reserved upper halves of 32-bit images

// Fills the image; returns its size.
unsigned build_environment(const SoftCpu& cpu, bool narrow, uint8_t* image) {
  const X87State& f = cpu.s.x87;
  const unsigned tag = x87_full_tag(f), fop = f.fop & 0x7ffu;
  if (real_format(cpu)) {
    const uint32_t ip = static_cast<uint32_t>(f.fip + (uint64_t{f.fcs} << 4));
    const uint32_t dp = static_cast<uint32_t>(f.fdp + (uint64_t{f.fds} << 4));
    if (narrow) {
      put16(image, f.fcw);
      put16(image + 2, f.fsw);
      put16(image + 4, tag);
      put16(image + 6, ip);
      put16(image + 8, (ip >> 16 & 15) << 12 | fop);
      put16(image + 10, dp);
      put16(image + 12, (dp >> 16 & 15) << 12);
      return kEnvironment16;
    }
    put32(image, kUpper | f.fcw);
    put32(image + 4, kUpper | f.fsw);
    put32(image + 8, kUpper | tag);
    put32(image + 12, kUpper | (ip & 0xffff));
    put32(image + 16, (ip >> 16) << 12 | fop);
    put32(image + 20, kUpper | (dp & 0xffff));
    put32(image + 24, (dp >> 16) << 12);
    return kEnvironment32;
  }
  if (narrow) {
    put16(image, f.fcw);
    put16(image + 2, f.fsw);
    put16(image + 4, tag);
    put16(image + 6, f.fip);
    put16(image + 8, f.fcs);
    put16(image + 10, f.fdp);
    put16(image + 12, f.fds);
    return kEnvironment16;
  }
  put32(image, kUpper | f.fcw);
  put32(image + 4, kUpper | f.fsw);
  put32(image + 8, kUpper | tag);
  put32(image + 12, f.fip);
  put32(image + 16, fop << 16 | f.fcs);
  put32(image + 20, f.fdp);
  put32(image + 24, kUpper | f.fds);
  return kEnvironment32;
}

// Images of real-address format hold linear addresses: they become offsets with a selector of zero.
void apply_environment(SoftCpu& cpu, bool narrow, const uint8_t* image) {
  X87State& f = cpu.s.x87;
  const unsigned word = narrow ? 2 : 4;
  f.fcw = x87_control(static_cast<uint16_t>(get16(image)));
  f.fsw = static_cast<uint16_t>(get16(image + word));
  f.tag = x87_abridged_tag(static_cast<uint16_t>(get16(image + 2 * word)));
  x87_update_summary(f);
  if (real_format(cpu)) {
    f.fcs = f.fds = 0;
    f.fop = static_cast<uint16_t>(get16(image + 4 * word) & 0x7ff);
    f.fip = get16(image + 3 * word) | (narrow ? get16(image + 8) >> 12 : get32(image + 16) >> 12 & 0xffff) << 16;
    f.fdp = get16(image + 5 * word) | (narrow ? get16(image + 12) >> 12 : get32(image + 24) >> 12 & 0xffff) << 16;
    return;
  }
  const bool selectors = cpu.processor_model != ProcessorModel::intel;
  f.fcs = selectors ? static_cast<uint16_t>(get16(image + 4 * word)) : uint16_t{0};
  f.fds = selectors ? static_cast<uint16_t>(get16(image + 6 * word)) : uint16_t{0};
  if (narrow) {  // no opcode in this format
    f.fop = 0;
    f.fip = get16(image + 6);
    f.fdp = get16(image + 10);
  } else {
    f.fop = static_cast<uint16_t>(get16(image + 18) & 0x7ff);
    f.fip = get32(image + 12);
    f.fdp = get32(image + 20);
  }
}

bool exec_wait(SoftCpu& cpu, const Op&) { return x87_check_pending(cpu); }

bool exec_nop(SoftCpu& cpu, const Op& op) {
  if (!x87_check_pending(cpu)) return false;
  x87_note_instruction(cpu, op);
  return true;
}

// FNENI, FNDISI and FNSETPM of the 8087 and 80287.
bool exec_ignored(SoftCpu&, const Op&) { return true; }

bool exec_clear_exceptions(SoftCpu& cpu, const Op&) {
  x87_clear_condition(cpu.s.x87, fsw::exceptions | fsw::SF | fsw::ES | fsw::B);
  return true;
}

bool exec_initialize(SoftCpu& cpu, const Op&) {
  x87_initialize(cpu.s.x87);
  return true;
}

bool exec_load_control(SoftCpu& cpu, const Op& op) {
  if (!x87_check_pending(cpu)) return false;
  uint16_t value;
  if (!load_operand(cpu, op, value)) return false;
  cpu.s.x87.fcw = x87_control(value);
  x87_update_summary(cpu.s.x87);
  return true;
}

bool exec_store_control(SoftCpu& cpu, const Op& op) { return store_operand(cpu, op, cpu.s.x87.fcw); }
bool exec_store_status(SoftCpu& cpu, const Op& op) { return store_operand(cpu, op, cpu.s.x87.fsw); }
bool exec_store_status_ax(SoftCpu& cpu, const Op&) {
  set<uint16_t>(&cpu, slot_of(RAX), cpu.s.x87.fsw);
  return true;
}

bool exec_load_environment(SoftCpu& cpu, const Op& op) {
  if (!x87_check_pending(cpu)) return false;
  uint8_t image[kEnvironment32];
  const bool narrow = op.r1 != 0;
  if (!x87_load_image(cpu, op, image, narrow ? kEnvironment16 : kEnvironment32)) return false;
  apply_environment(cpu, narrow, image);
  return true;
}

// Masks all exceptions after the store (SDM 2 FSTENV).
bool exec_store_environment(SoftCpu& cpu, const Op& op) {
  uint8_t image[kEnvironment32];
  const unsigned size = build_environment(cpu, op.r1 != 0, image);
  if (!x87_store_image(cpu, op, image, size)) return false;
  cpu.s.x87.fcw |= fcw::masks;
  x87_update_summary(cpu.s.x87);
  return true;
}

bool exec_restore(SoftCpu& cpu, const Op& op) {
  if (!x87_check_pending(cpu)) return false;
  uint8_t image[kEnvironment32 + kRegisters];
  const bool narrow = op.r1 != 0;
  const unsigned size = narrow ? kEnvironment16 : kEnvironment32;
  if (!x87_load_image(cpu, op, image, size + kRegisters)) return false;
  apply_environment(cpu, narrow, image);
  for (unsigned i = 0; i < 8; ++i) {
    X87Register& r = x87_st(cpu.s.x87, i);
    std::memcpy(&r.mantissa, image + size + 10 * i, 8);
    std::memcpy(&r.sign_exponent, image + size + 10 * i + 8, 2);
  }
  return true;
}

bool exec_save(SoftCpu& cpu, const Op& op) {
  uint8_t image[kEnvironment32 + kRegisters];
  const unsigned size = build_environment(cpu, op.r1 != 0, image);
  for (unsigned i = 0; i < 8; ++i) {
    const X87Register& r = x87_st(cpu.s.x87, i);
    std::memcpy(image + size + 10 * i, &r.mantissa, 8);
    std::memcpy(image + size + 10 * i + 8, &r.sign_exponent, 2);
  }
  if (!x87_store_image(cpu, op, image, size + kRegisters)) return false;
  x87_initialize(cpu.s.x87);
  return true;
}

template <bool Pop>
bool exec_free(SoftCpu& cpu, const Op& op) {
  if (!exec_nop(cpu, op)) return false;
  X87State& f = cpu.s.x87;
  x87_clear_condition(f, fsw::C1);
  x87_free(f, op.r0);
  if (Pop) x87_pop(f);
  return true;
}

template <unsigned By>
bool exec_move_top(SoftCpu& cpu, const Op& op) {
  if (!exec_nop(cpu, op)) return false;
  x87_clear_condition(cpu.s.x87, fsw::C1);
  x87_move_top(cpu.s.x87, By);
  return true;
}

}  // namespace

Handler x87_control_handler(X87Control what) {
  switch (what) {
    case X87Control::wait: return op_call<exec_wait>;
    case X87Control::nop: return op_call<exec_nop>;
    case X87Control::ignored: return op_call<exec_ignored>;
    case X87Control::clear_exceptions: return op_call<exec_clear_exceptions>;
    case X87Control::initialize: return op_call<exec_initialize>;
    case X87Control::load_control: return op_call<exec_load_control>;
    case X87Control::store_control: return op_call<exec_store_control>;
    case X87Control::store_status: return op_call<exec_store_status>;
    case X87Control::store_status_ax: return op_call<exec_store_status_ax>;
    case X87Control::load_environment: return op_call<exec_load_environment>;
    case X87Control::store_environment: return op_call<exec_store_environment>;
    case X87Control::restore: return op_call<exec_restore>;
    case X87Control::save: return op_call<exec_save>;
    case X87Control::free: return op_call<exec_free<false>>;
    case X87Control::free_pop: return op_call<exec_free<true>>;
    case X87Control::decrement_top: return op_call<exec_move_top<7>>;
    case X87Control::increment_top: return op_call<exec_move_top<1>>;
  }
  return nullptr;
}

}  // namespace retrovisor::soft
