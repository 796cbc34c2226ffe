// Segmentation: descriptors, the checks of segment register loads, and stacks (SDM 3A chapters 3 and 5).
// All functions that can fault return false with cpu.fault set and no register changed.
#pragma once

#include "vmm/cpu/canonical.h"
#include "vmm/soft/soft_cpu.h"

namespace retrovisor::soft {

// For accesses that belong to no instruction (delivery of events). Like the last Op of a block it may touch anything.
inline constexpr Op kNoOp{.fn = nullptr,
                          .imm = 0,
                          .disp = 0,
                          .r0 = 0,
                          .r1 = 0,
                          .base = kZeroSlot,
                          .index = kZeroSlot,
                          .scale = 0,
                          .ea = 0,
                          .remaining = 1,
                          .length = 0,
                          .ip_offset = 0,
                          .seg_off = kZeroSlot};

constexpr bool is_null(uint16_t selector) { return (selector & 0xfffc) == 0; }
// Selector part of an error code (SDM 3A 6.13): EXT and IDT bits clear.
constexpr uint32_t selector_error(uint16_t selector) { return selector & 0xfffcu; }

// Types of system descriptors (SDM 3A table 3-2). In long mode the 32-bit types are the 64-bit ones.
namespace sys {
inline constexpr uint32_t tss16 = 1, ldt = 2, tss16_busy = 3, call_gate16 = 4, task_gate = 5, interrupt_gate16 = 6,
                          trap_gate16 = 7, tss32 = 9, tss32_busy = 11, call_gate32 = 12, interrupt_gate32 = 14,
                          trap_gate32 = 15;
inline constexpr uint32_t busy = 2;  // the bit that tells a busy TSS from an available one
}  // namespace sys

// An entry of the GDT or an LDT, as it lies in memory.
struct Descriptor {
  uint64_t low = 0;
  uint64_t high = 0;     // second half of the 16-byte system descriptors of long mode
  uint64_t linear = 0;   // where it was read

  uint32_t attributes() const { return static_cast<uint32_t>(low >> 40) & 0xf0ff; }
  uint32_t type() const { return attributes() & seg::type_mask; }
  bool system() const { return (attributes() & seg::S) == 0; }
  bool code() const { return !system() && (type() & seg::code) != 0; }
  bool data() const { return !system() && (type() & seg::code) == 0; }
  bool conforming() const { return code() && (type() & seg::conforming_or_down) != 0; }
  bool writable_data() const { return data() && (type() & seg::readable_or_writable) != 0; }
  bool readable() const { return data() || (code() && (type() & seg::readable_or_writable) != 0); }
  bool present() const { return (attributes() & seg::P) != 0; }
  unsigned dpl() const { return seg::dpl(attributes()); }
  bool tss() const { return system() && (type() & 5) == 1; }  // 1, 3, 9, 11
  uint32_t limit() const {
    const auto raw = static_cast<uint32_t>((low & 0xffff) | (low >> 32 & 0xf0000));
    return (attributes() & seg::G) != 0 ? raw << 12 | 0xfff : raw;
  }
  uint64_t base() const { return (low >> 16 & 0xffffff) | (low >> 32 & 0xff000000); }
  uint64_t base64() const { return base() | high << 32; }
  Segment segment(uint16_t selector) const { return {base(), limit(), attributes(), selector}; }

  // The same bits as a call, interrupt or task gate.
  uint16_t gate_selector() const { return static_cast<uint16_t>(low >> 16); }
  uint32_t gate_offset() const { return static_cast<uint32_t>((low & 0xffff) | (low >> 32 & 0xffff0000)); }
  uint64_t gate_offset64() const { return gate_offset() | high << 32; }
  unsigned gate_parameters() const { return static_cast<unsigned>(low >> 32) & 31; }
};

enum class Lookup : uint8_t {
  found,
  outside,  // the selector lies outside its table
  fault,    // reading the table faulted
};
// Reads the entry `selector` names. A null selector names entry 0 of the GDT: callers check first.
Lookup find_descriptor(SoftCpu& cpu, const Op& op, uint16_t selector, Descriptor& out);
// The same; outside the table raises `vector` with the selector.
bool read_descriptor(SoftCpu& cpu, const Op& op, uint16_t selector, uint8_t vector, Descriptor& out);
// Reads `out.high` of a system descriptor in long mode.
Lookup find_upper_half(SoftCpu& cpu, const Op& op, uint16_t selector, Descriptor& out);
bool read_upper_half(SoftCpu& cpu, const Op& op, uint16_t selector, uint8_t vector, Descriptor& out);
// Sets the accessed bit of a code or data descriptor, in memory and in `d`.
bool set_accessed(SoftCpu& cpu, const Op& op, Descriptor& d);
// Stores the type of a TSS descriptor with its busy bit set or clear.
bool set_busy(SoftCpu& cpu, const Op& op, Descriptor& d, bool busy);

// What a null selector leaves in a segment register. `dpl` matters for SS alone: it is the CPL.
Segment null_segment(uint16_t selector, unsigned dpl = 0);
// A flat 4 GiB segment, as SYSCALL and its like load. `attributes` without S, P, G.
Segment flat_segment(uint16_t selector, uint32_t type, unsigned dpl, uint32_t size_bits);
// What loading `selector` in real or virtual-8086 mode makes of segment register `reg`.
Segment real_segment(const SoftCpu& cpu, SegReg reg, uint16_t selector);

// Protected-mode checks of a load of ES, DS, FS or GS (SDM 2 "MOV", 3A 5.6). `vector` is #GP, or #TS during a task switch.
bool check_data_segment(SoftCpu& cpu, const Op& op, uint16_t selector, uint8_t vector, Segment& out);
// Protected-mode checks of a stack segment for privilege level `cpl` (SDM 3A 5.7). Does not accept null.
bool check_stack_segment(SoftCpu& cpu, const Op& op, uint16_t selector, unsigned cpl, uint8_t vector, Segment& out);
// The whole check of a load in the present mode: real, virtual-8086, protected, 64-bit. Not for CS.
bool check_segment_load(SoftCpu& cpu, const Op& op, SegReg reg, uint16_t selector, Segment& out);
// Stores a checked segment; for SS the caller also sees to the interrupt shadow.
void commit_segment(SoftCpu& cpu, SegReg reg, const Segment& segment);
// On a return to an outer privilege level: segment registers it may not use become null (SDM 2 "RET").
void drop_inner_segments(SoftCpu& cpu, unsigned new_cpl);

// A far pointer in memory: an offset of `op.r0` bytes and the selector behind it.
bool load_far_operand(SoftCpu& cpu, const Op& op, uint16_t& selector, uint64_t& offset);

// Checks an offset against a segment's limit (SDM 3A 5.3). Legacy modes only.
bool within_limit(const Segment& segment, uint64_t offset, unsigned size);

// A stack that is pushed to or popped from piece by piece; registers change only at commit(), or never.
class Stack {
 public:
  // The present stack, with the present privilege.
  Stack(SoftCpu& cpu, const Op& op);
  // Another stack (of an inner privilege level, of a new frame). `flat`: 64-bit mode. `supervisor`: accesses are made with
  // the rights of an inner level. `error` goes with a #SS that it raises.
  Stack(SoftCpu& cpu, const Op& op, const Segment& ss, uint64_t sp, bool flat, bool supervisor, uint32_t error);

  bool push(uint64_t value, unsigned size);
  bool pop(uint64_t& value, unsigned size);
  // Reads at `offset` bytes above the top, without popping.
  bool peek(uint64_t offset, uint64_t& value, unsigned size);
  // Writes at the top, without pushing.
  bool overwrite(uint64_t value, unsigned size) { return access(sp_, &value, size, true); }
  void skip(uint64_t bytes) { sp_ = (sp_ + bytes) & mask_; }

  uint64_t sp() const { return sp_; }
  // Merges the stack pointer into RSP by the stack's width.
  void commit();

 private:
  bool access(uint64_t offset, void* data, unsigned size, bool write);

  SoftCpu& cpu_;
  const Op& op_;
  const Segment* ss_;
  uint64_t sp_;
  uint64_t mask_;
  bool flat_;
  bool supervisor_;
  uint32_t error_;
};

// Ends an interrupt shadow's instruction: MOV SS, POP SS and STI call it (SDM 3A 6.8.3).
void start_shadow(SoftCpu& cpu, Shadow shadow);

// Loads CS:RIP. `cs` is complete (its selector holds the new CPL as RPL). Checks RIP against the limit, or for being
// canonical if `cs` is 64-bit code: #GP(0).
bool check_target(SoftCpu& cpu, const Segment& cs, uint64_t rip);

}  // namespace retrovisor::soft
