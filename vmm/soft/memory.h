// Guest memory access from handlers: a hit in the soft TLB is a compare and an add; all else goes to mem_access.
#pragma once

#include <initializer_list>

#include "vmm/soft/soft_cpu.h"

namespace retrovisor::soft {

// A linear address no access can hit: "cpu.fault is already set". Non-canonical, and not produced by any guest address
// that could succeed.
inline constexpr uint64_t kFaultAddress = 0x8000000000000001;

// The slow path: page walk, A/D bits, page-crossing, MMIO, code pages, alignment checks, data breakpoints.
// False: cpu.exit says why (fault or split), and nothing has been written.
// The privilege is the present one; a user access (CPL 3) faults on supervisor pages.
bool mem_access(SoftCpu& cpu, const Op& op, uint64_t linear, void* data, unsigned size, Access access);
// Implicit supervisor accesses (descriptor tables, TSS, and the stacks of an interrupt that changes privilege), whatever the CPL.
bool system_access(SoftCpu& cpu, const Op& op, uint64_t linear, void* data, unsigned size, Access access);
// Makes sure that `size` bytes could be written, without writing: multi-part stores check before the first part.
// `user`: with the rights of CPL 3, else as supervisor. False: cpu.fault is set.
bool probe_write(SoftCpu& cpu, const Op& op, uint64_t linear, unsigned size, bool user);
// The same for either kind of access (without alignment checks), where the order of the page faults is not that of the
// addresses: `first` are looked at before the rest, one after the other.
struct ProbedPart {
  unsigned offset;
  unsigned size;
};
bool probe_in_order(SoftCpu& cpu, const Op& op, uint64_t linear, unsigned size, Access access,
                    std::initializer_list<ProbedPart> first);

template <class T>
[[gnu::always_inline]] inline bool load(SoftCpu* cpu, const Op* op, uint64_t linear, T& out) {
  const TlbEntry& e = cpu->tlb->entry[(linear >> kPageShift) % kTlbEntries];
  if (__builtin_expect(((linear + sizeof(T) - 1) & kPageMask) == e.read_tag, 1)) {
    __builtin_memcpy(&out, reinterpret_cast<const void*>(linear + e.addend), sizeof(T));
    return true;
  }
  return mem_access(*cpu, *op, linear, &out, sizeof(T), Access::read);
}

template <class T>
[[gnu::always_inline]] inline bool store(SoftCpu* cpu, const Op* op, uint64_t linear, const T& value) {
  const TlbEntry& e = cpu->tlb->entry[(linear >> kPageShift) % kTlbEntries];
  if (__builtin_expect(((linear + sizeof(T) - 1) & kPageMask) == e.write_tag, 1)) {
    __builtin_memcpy(reinterpret_cast<void*>(linear + e.addend), &value, sizeof(T));
    return true;
  }
  T copy = value;
  return mem_access(*cpu, *op, linear, &copy, sizeof(T), Access::write);
}

// The read of a read-modify-write; follow with store() to the same address, which then cannot page-fault.
template <class T>
[[gnu::always_inline]] inline bool load_for_write(SoftCpu* cpu, const Op* op, uint64_t linear, T& out) {
  const TlbEntry& e = cpu->tlb->entry[(linear >> kPageShift) % kTlbEntries];
  if (__builtin_expect(((linear + sizeof(T) - 1) & kPageMask) == e.write_tag, 1)) {
    __builtin_memcpy(&out, reinterpret_cast<const void*>(linear + e.addend), sizeof(T));
    return true;
  }
  return mem_access(*cpu, *op, linear, &out, sizeof(T), Access::read_for_write);
}

// Effective addresses, as policies for handler templates. 64-bit mode, 64-bit addresses:
struct EaBase {  // base + displacement, no segment base
  static uint64_t linear(SoftCpu* cpu, const Op* op, unsigned, Access) {
    return get<uint64_t>(cpu, op->base) + static_cast<uint64_t>(static_cast<int64_t>(op->disp));
  }
};
struct EaGeneral {  // base + index * scale + displacement + segment base
  static uint64_t linear(SoftCpu* cpu, const Op* op, unsigned, Access) {
    return get<uint64_t>(cpu, op->base) + (get<uint64_t>(cpu, op->index) << op->scale) +
           static_cast<uint64_t>(static_cast<int64_t>(op->disp)) + get<uint64_t>(cpu, op->seg_off);
  }
};
// Everything else: 32-bit addresses in 64-bit mode, and the legacy modes with their segment checks.
// Returns kFaultAddress with cpu.fault set if a segment check fails.
uint64_t ea_slow(SoftCpu& cpu, const Op& op, unsigned size, Access access);
struct EaSlow {
  static uint64_t linear(SoftCpu* cpu, const Op* op, unsigned size, Access access) { return ea_slow(*cpu, *op, size, access); }
};

// Which policy an op needs.
enum class EaForm : uint8_t { base, general, slow };
inline EaForm ea_form(const Op& op) {
  if ((op.ea & (ea::legacy | ea::wide)) != 0 || (op.ea >> ea::size_shift & ea::size_mask) != 2) return EaForm::slow;
  return op.index == kZeroSlot && op.seg_off == kZeroSlot ? EaForm::base : EaForm::general;
}

// The offset part alone (LEA): no segment, wrapped to the address size.
uint64_t effective_offset(const SoftCpu& cpu, const Op& op);
// The linear address of the memory operand whichever form it has; kFaultAddress if a segment check fails.
uint64_t operand_address(SoftCpu& cpu, const Op& op, unsigned size, Access access);
// The same for a part `at` bytes into the operand: instructions that take several values from memory check each by itself,
// and offsets wrap between them.
uint64_t part_address(SoftCpu& cpu, const Op& op, unsigned at, unsigned size, Access access);
// Segment-checked linear address for an offset the caller computed itself (string operations, pushes, XLAT).
uint64_t segment_address(SoftCpu& cpu, SegReg segment, uint64_t offset, unsigned size, Access access);

// For Execs: the memory operand as a value.
template <class T>
inline bool load_operand(SoftCpu& cpu, const Op& op, T& out) {
  return load(&cpu, &op, operand_address(cpu, op, sizeof(T), Access::read), out);
}
template <class T>
inline bool store_operand(SoftCpu& cpu, const Op& op, const T& value) {
  return store(&cpu, &op, operand_address(cpu, op, sizeof(T), Access::write), value);
}

}  // namespace retrovisor::soft
