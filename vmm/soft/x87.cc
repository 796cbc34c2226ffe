#include "vmm/soft/x87.h"

#include "vmm/soft/x87_state.h"

namespace retrovisor::soft {

void x87_update_summary(X87State& f) {
  const bool pending = (f.fsw & ~f.fcw & fsw::exceptions) != 0;
  f.fsw = static_cast<uint16_t>((f.fsw & ~(fsw::ES | fsw::B)) | (pending ? fsw::ES | fsw::B : 0));
}

bool x87_check_pending(SoftCpu& cpu) {
  if (__builtin_expect((cpu.s.x87.fsw & fsw::ES) == 0, 1)) return true;
  if ((cpu.s.cr0 & cr0::NE) == 0) return true;  // FERR# leads nowhere (x87.h)
  return raise(cpu, vec::MF);
}

uint16_t x87_full_tag(const X87State& f) {
  unsigned full = 0;
  for (unsigned i = 0; i < 8; ++i) {
    unsigned tag = 3;
    if (f.tag >> i & 1) {
      switch (x87_classify(f.r[i])) {
        case X87Class::normal: tag = 0; break;
        case X87Class::zero: tag = 1; break;
        default: tag = 2; break;
      }
    }
    full |= tag << (2 * i);
  }
  return static_cast<uint16_t>(full);
}

uint8_t x87_abridged_tag(uint16_t full) {
  unsigned tag = 0;
  for (unsigned i = 0; i < 8; ++i) {
    if ((full >> (2 * i) & 3) != 3) tag |= 1u << i;
  }
  return static_cast<uint8_t>(tag);
}

void x87_initialize(X87State& f) {
  f.fcw = fcw::initial;
  f.fsw = 0;
  f.tag = 0;
  f.fop = 0;
  f.fip = f.fdp = 0;
  f.fcs = f.fds = 0;
}

X87Result x87_propagate_nan(const X87Register& a) {
  if (x87_classify(a) != X87Class::nan) return {kX87Indefinite, fsw::IE};
  return {{a.mantissa | kX87QuietBit, a.sign_exponent}, x87_signaling(a) ? fsw::IE : uint16_t{0}};
}

X87Result x87_propagate_nan(const X87Register& a, const X87Register& b) {
  const X87Class ca = x87_classify(a), cb = x87_classify(b);
  if (ca == X87Class::unsupported || cb == X87Class::unsupported) return {kX87Indefinite, fsw::IE};
  if (cb != X87Class::nan) return x87_propagate_nan(a);
  if (ca != X87Class::nan) return x87_propagate_nan(b);
  // Two NaNs: a quiet one wins over a signaling one, then the larger significand, then the positive one. Quiet
  // significands are the larger ones, so the order of significands decides the first rule, too.
  const bool first = a.mantissa != b.mantissa ? a.mantissa > b.mantissa : !x87_negative(a);
  X87Result result = x87_propagate_nan(first ? a : b);
  if (x87_signaling(a) || x87_signaling(b)) result.flags = fsw::IE;
  return result;
}

namespace {

// Address of a piece of an operand: linear addresses have 32 bits in the legacy modes. The first piece keeps the address
// as it is, so that an access to kFaultAddress reports the fault of the address.
uint64_t piece(const Op& op, uint64_t linear, unsigned offset) {
  const uint64_t at = linear + offset;
  return offset != 0 && (op.ea & ea::legacy) != 0 ? static_cast<uint32_t>(at) : at;
}

template <class T>
bool load_piece(SoftCpu& cpu, const Op& op, uint64_t linear, uint8_t* data, unsigned offset) {
  T value;
  if (!load(&cpu, &op, piece(op, linear, offset), value)) return false;
  std::memcpy(data + offset, &value, sizeof value);
  return true;
}

template <class T>
bool store_piece(SoftCpu& cpu, const Op& op, uint64_t linear, const uint8_t* data, unsigned offset) {
  T value;
  std::memcpy(&value, data + offset, sizeof value);
  return store(&cpu, &op, piece(op, linear, offset), value);
}

bool hits_for_write(const SoftCpu& cpu, uint64_t linear, unsigned size) {
  const TlbEntry& e = cpu.tlb->entry[(linear >> kPageShift) % kTlbEntries];
  return ((linear + size - 1) & kPageMask) == e.write_tag && (linear & kPageMask) == e.write_tag;
}

bool load_pieces(SoftCpu& cpu, const Op& op, uint64_t linear, uint8_t* data, unsigned size) {
  unsigned at = 0;
  for (; size - at >= 8; at += 8) {
    if (!load_piece<uint64_t>(cpu, op, linear, data, at)) return false;
  }
  for (; at < size; at += 2) {
    if (!load_piece<uint16_t>(cpu, op, linear, data, at)) return false;
  }
  return true;
}

bool store_pieces(SoftCpu& cpu, const Op& op, uint64_t linear, const uint8_t* data, unsigned size) {
  unsigned at = 0;
  for (; size - at >= 8; at += 8) {
    if (!store_piece<uint64_t>(cpu, op, linear, data, at)) return false;
  }
  for (; at < size; at += 2) {
    if (!store_piece<uint16_t>(cpu, op, linear, data, at)) return false;
  }
  return true;
}

// Environment and state images: the first word or doubleword is looked at, then the last byte, and only if both can be
// reached is anything read or written (measured, both vendors).
bool probe_image(SoftCpu& cpu, const Op& op, uint64_t linear, unsigned size, Access access) {
  const unsigned word = op.r1 != 0 ? 2 : 4;
  return probe_in_order(cpu, op, linear, size, access, {{0, word}, {size - 1, 1}});
}

}  // namespace

bool x87_load_ten_bytes(SoftCpu& cpu, const Op& op, uint8_t* data) {
  return load_pieces(cpu, op, operand_address(cpu, op, 10, Access::read), data, 10);
}

bool x87_store_ten_bytes(SoftCpu& cpu, const Op& op, const uint8_t* data) {
  const uint64_t linear = operand_address(cpu, op, 10, Access::write);
  // Intel's processors store eight bytes, then two: the first may be written when the second fault (measured).
  if (cpu.processor_model != ProcessorModel::intel && !x87_probe_store(cpu, op, linear, 10)) return false;
  return store_pieces(cpu, op, linear, data, 10);
}

bool x87_load_image(SoftCpu& cpu, const Op& op, uint8_t* data, unsigned size) {
  const uint64_t linear = operand_address(cpu, op, size, Access::read);
  const TlbEntry& e = cpu.tlb->entry[(linear >> kPageShift) % kTlbEntries];
  const bool hit = ((linear + size - 1) & kPageMask) == e.read_tag && (linear & kPageMask) == e.read_tag;
  return (hit || probe_image(cpu, op, linear, size, Access::read)) && load_pieces(cpu, op, linear, data, size);
}

bool x87_store_image(SoftCpu& cpu, const Op& op, const uint8_t* data, unsigned size) {
  const uint64_t linear = operand_address(cpu, op, size, Access::write);
  return (hits_for_write(cpu, linear, size) || probe_image(cpu, op, linear, size, Access::write)) &&
         store_pieces(cpu, op, linear, data, size);
}

bool x87_probe_store(SoftCpu& cpu, const Op& op, uint64_t linear, unsigned size) {
  return hits_for_write(cpu, linear, size) || probe_write(cpu, op, linear, size, cpu.s.cpl() == 3);
}

}  // namespace retrovisor::soft
