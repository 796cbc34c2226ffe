// The hot state of one vCPU under the soft engine.
#pragma once

#include <cstddef>
#include <cstring>

#include "vmm/cpu/x87_pointers.h"
#include "vmm/observer.h"
#include "vmm/platform.h"
#include "vmm/processor_model.h"
#include "vmm/soft/op.h"
#include "vmm/user_tsc.h"
#include "vmm/vcpu.h"

namespace retrovisor::soft {

// Arithmetic flags as LAHF and SETO leave them in AX: bits 0-7: OF (0 or 1); bits 8-15: SF ZF 0 AF 0 PF 1 CF.
namespace cc {
inline constexpr uint32_t OF = 1, CF = 1 << 8, PF = 1 << 10, AF = 1 << 12, ZF = 1 << 14, SF = 1 << 15;
}  // namespace cc

// A soft TLB entry. The tags are linear page addresses, or kNoTag. A hit on `write_tag` also says that the page is
// already marked dirty and holds no code. MMIO never hits.
struct TlbEntry {
  uint64_t read_tag;
  uint64_t write_tag;
  uint64_t addend;   // host address = linear address + addend
  uint64_t flags;    // namespace tlb_flag
};
namespace tlb_flag {
inline constexpr uint64_t writable = 1;  // writes are allowed (D is set), even where write_tag does not say so
}  // namespace tlb_flag
inline constexpr uint64_t kNoTag = 1;
// In a read tag: the translation is good, but each access has to be looked at (by observers, or once for the log of touched
// pages). Such a tag never hits.
inline constexpr uint64_t kHeldBack = 2;
inline constexpr size_t kTlbEntries = 1024;
struct Tlb {
  TlbEntry entry[kTlbEntries];
};

// Translations of code pages, used when a block is looked up.
struct CodeTlbEntry {
  uint64_t tag;    // linear page address, or kNoTag
  uint64_t phys;   // guest-physical page address
  bool user;       // CPL 3 may fetch from it
  bool supervisor; // CPL 0-2 may (SMEP)
};
inline constexpr size_t kCodeTlbEntries = 256;

struct JumpCacheEntry {
  uint64_t rip;    // linear address of the block's start
  uint64_t stamp;  // SoftCpu::jump_stamp at the time; combines mode and TLB generation
  Block* block;
};
inline constexpr size_t kJumpCacheEntries = 16384;

// What a vCPU remembers of page tables and code. It always agrees with the tables as they are in memory (tables.cc), so all of
// it can be thrown away at any time, and nothing the guest can see depends on what is in it.
struct Translations {
  // By privilege: user, supervisor (also for implicit accesses), supervisor with SMAP lifted by AC; and one that stays
  // empty, in use while every access has to be looked at (alignment checks, data breakpoints).
  enum Kind : unsigned { user, supervisor, supervisor_ac, none, kinds };
  Tlb tlb[kinds];
  CodeTlbEntry code[kCodeTlbEntries];
  JumpCacheEntry jump[kJumpCacheEntries];
  uint64_t generation[2] = {0, 0};  // of the jump cache, for lower-half and upper-half addresses
};

// An exception that an instruction raised (or, during delivery, another exception).
struct Fault {
  uint8_t vector = 0;
  bool has_error = false;
  uint32_t error = 0;
  uint64_t address = 0;  // becomes CR2 for #PF, DR6 bits for #DB
  bool trap = false;     // #DB reported behind the instruction: RF is not set in the pushed flags
};

// An access to memory, for observers.
struct ObservedAccess {
  const Op& op;
  uint64_t linear;
  unsigned size;
};

// Why a block was left.
enum class Exit : uint8_t {
  lookup,   // go on at s.rip
  fault,    // deliver `fault`
  split,    // the instruction at s.rip has to run as the last of its block: it touches MMIO or code
  yield,    // go on, but the world outside wants a look first
  halted,
};

// How an access is made (mem_access).
enum class Access : uint8_t {
  read = 0,
  write = 1,
  read_for_write = 2,  // the read of a read-modify-write: faults like a write
};

struct alignas(64) SoftCpu {
  CpuState s;                 // first: Op register fields are byte offsets from here. While a block runs s.rip is the
                              // start of the block and the arithmetic bits of s.rflags are zero (they live in `cc`).
  uint32_t cc = 1 << 9;       // namespace cc; bit 9 is LAHF's fixed one
  Exit exit = Exit::lookup;
  uint8_t mode = 0;           // namespace block_mode
  bool slow = false;          // TF, a debug register or the like is armed: run one instruction at a time
  int64_t budget = 0;         // instructions that may still start before the limit; a block takes its count on entry
  uint64_t limit = 0;         // position = limit - budget at block borders
  Tlb* tlb = nullptr;         // the one for the present privilege (user, supervisor, supervisor with AC, none)
  uint64_t jump_stamp[2] = {0, 0};  // for lower-half and upper-half addresses
  Block* chain_from = nullptr;      // the block just left through a direct jump that is not linked yet
  unsigned chain_slot = 0;
  Translations* translations = nullptr;
  bool address_fault = false;       // ea_slow() failed: the kFaultAddress it returned is not the guest's
  bool event_delivered = false;     // the instruction was INT n, SYSCALL or the like: TF's new value decides about a trap
  uint32_t debug_hits = 0;          // DR6 bits of data and I/O breakpoints hit by the present instruction
  Observers* observers = nullptr;   // null unless somebody watches accesses
  const struct ObservedAccess* observed = nullptr;  // while observers watch: the access being made
  uint64_t end_rip = 0;             // while in_end: address of the instruction, which may have moved s.rip on (call_end)
  bool in_end = false;
  bool one_iteration = false;       // a breakpoint may be here: string operations go back to the run loop each time
  struct TouchedLog* touched = nullptr;  // null unless somebody wants to know
  bool observed_stop = false;       // an access made an observer ask to stop behind this instruction
  Fault fault;
  Vcpu* vcpu = nullptr;
  const Platform* platform = nullptr;
  class SoftEngine* engine = nullptr;
  uint32_t vcpus = 1;         // of the machine, for CPUID
  UserTsc user_tsc = UserTsc::direct;
  // Where s.shadow holds, within a run: at this position. Between runs s.shadow says it alone (settle_shadow).
  uint64_t shadow_position = kNoPosition.value;
  uint32_t mxcsr_mask = 0xffff;     // what FXSAVE and XSAVE show as MXCSR_MASK; belongs to ProcessorModel
  ProcessorModel processor_model = ProcessorModel::model;  // the vendor's (vendor_of)
  // Of the present x87 instruction: what FOP and FDP become if it raises an unmasked exception, where only that moves them.
  struct X87Noted {
    uint64_t fdp = 0;
    uint16_t fop = 0;
    bool operand = false;
  } x87_noted;

  std::byte* bytes() { return reinterpret_cast<std::byte*>(this); }
};
static_assert(offsetof(SoftCpu, s) == 0 && offsetof(CpuState, gpr) == 0 && offsetof(CpuState, zero) == 128 && offsetof(CpuState, rip) == 136);

inline constexpr uint8_t kZeroSlot = 128;
inline constexpr uint8_t kRipSlot = 136;
constexpr uint8_t slot_of(unsigned gpr) { return static_cast<uint8_t>(gpr * 8); }

// A register by the byte offset an Op holds. Writing a 32-bit register must go through set32.
template <class T>
[[gnu::always_inline]] inline T get(const SoftCpu* cpu, unsigned offset) {
  T v;
  std::memcpy(&v, reinterpret_cast<const std::byte*>(cpu) + offset, sizeof v);
  return v;
}
// 32-bit writes clear the upper half, as in 64-bit mode (and harmlessly elsewhere); 8- and 16-bit writes keep the rest.
template <class T>
[[gnu::always_inline]] inline void set(SoftCpu* cpu, unsigned offset, T v) {
  if constexpr (sizeof(T) == 4) {
    const uint64_t wide = static_cast<uint32_t>(v);
    std::memcpy(reinterpret_cast<std::byte*>(cpu) + offset, &wide, 8);
  } else {
    std::memcpy(reinterpret_cast<std::byte*>(cpu) + offset, &v, sizeof v);
  }
}

// Does the interrupt shadow hold before the next instruction, at `position`?
inline bool in_shadow(const SoftCpu& cpu, uint64_t position) { return cpu.shadow_position == position && cpu.s.shadow != Shadow::none; }
// Makes s.shadow exact, for whoever looks at the state at `position`.
inline void settle_shadow(SoftCpu& cpu, uint64_t position) {
  if (cpu.shadow_position != position) cpu.s.shadow = Shadow::none;
}

// The complete RFLAGS, and its parts.
constexpr uint64_t flags_of_cc(uint32_t cc) { return ((cc >> 8) & 0xd5) | ((cc & cc::OF) << 11); }
constexpr uint32_t cc_of_flags(uint64_t rflags) {
  return static_cast<uint32_t>((rflags & 0xd5) << 8 | 1 << 9 | (rflags >> 11 & 1));
}
inline uint64_t get_rflags(const SoftCpu& cpu) { return (cpu.s.rflags & ~flag::arithmetic) | flags_of_cc(cpu.cc) | flag::fixed; }
// Stores all of `rflags`. Whoever changes TF, IF, VM or AC calls mode_changed() afterwards.
inline void set_rflags(SoftCpu& cpu, uint64_t rflags) {
  cpu.cc = cc_of_flags(rflags);
  cpu.s.rflags = (rflags & flag::all & ~flag::arithmetic) | flag::fixed;
}

// Raise an exception: sets cpu.fault and returns false, so that an Exec can say `return raise_gp(cpu, 0);`.
inline bool raise(SoftCpu& cpu, uint8_t vector) { cpu.fault = {vector, false, 0, 0, false}; cpu.exit = Exit::fault; return false; }
inline bool raise(SoftCpu& cpu, uint8_t vector, uint32_t error) { cpu.fault = {vector, true, error, 0, false}; cpu.exit = Exit::fault; return false; }
inline bool raise_gp(SoftCpu& cpu, uint32_t error) { return raise(cpu, vec::GP, error); }
inline bool raise_ud(SoftCpu& cpu) { return raise(cpu, vec::UD); }

// Address of the instruction, in an Exec called through op_call.
inline uint64_t instruction_rip(const SoftCpu& cpu, const Op& op) { return cpu.s.rip + op.ip_offset; }
// Position just before the instruction (instructions retired so far).
inline Position position_before(const SoftCpu& cpu, const Op& op) {
  return Position(cpu.limit - static_cast<uint64_t>(cpu.budget) - op.remaining);
}
// Brings the clock up to date before anything outside the engine is asked (bus, TSC).
inline void sync_clock(SoftCpu& cpu, const Op& op) { cpu.platform->clock.set_retired(position_before(cpu, op)); }

// A synchronous event (MachineControl) is about to be handled, by an instruction that is the last of its block.
inline void synchronous_event(SoftCpu& cpu) {
  if (cpu.platform->clock.source() != TimeSource::events) return;
  cpu.platform->control.synchronous_event();
  x87_pointers_through_memory(cpu.processor_model, cpu.s.x87);  // under KVM it is an exit
}

// Makes the block that is running the last one before the run loop: its budget is taken away.
inline void leave_after_block(SoftCpu& cpu) {
  cpu.limit -= static_cast<uint64_t>(cpu.budget);
  cpu.budget = 0;
}

// Mask of the instruction pointer. In 16-bit code, too, it has 32 bits: only branches with 16-bit operands cut it, and code
// that runs over the end of its 64 KiB meets the segment's limit there (SDM 2 "JMP"; measured).
uint64_t ip_mask(const SoftCpu& cpu);
// In an Exec called through op_call_end: go on behind this instruction.
inline bool advance_rip(SoftCpu& cpu, const Op& op) { cpu.s.rip = (cpu.s.rip + op.length) & ip_mask(cpu); return true; }

// Recomputes what follows from CR0, CR4, EFER, CPL, CS, SS, RFLAGS.TF/AC, DR7: mode, TLB in use, slow.
void mode_changed(SoftCpu& cpu);
// Forgets translations: all, or those of the half of the address space in which bit 63 is clear.
enum class TlbPart : uint8_t { all, lower_half };
void tlb_flush(SoftCpu& cpu, TlbPart part = TlbPart::all);
// Translations that the entry at `index` (0-511) of a table of 4 KiB pages can have made, whichever table it was.
void tlb_drop_index(SoftCpu& cpu, unsigned index);
// Blocks that were found through translations of one half have to be looked for again.
void forget_jumps(SoftCpu& cpu, unsigned half);

// Bits of SoftCpu::mode: all that decoding depends on.
namespace block_mode {
inline constexpr uint8_t code_mask = 3;          // 0: 16 bit, 1: 32 bit, 2: 64 bit
inline constexpr uint8_t code16 = 0, code32 = 1, code64 = 2;
inline constexpr uint8_t stack32 = 4;            // SS.B (legacy modes)
inline constexpr uint8_t flat = 16;              // 64-bit code, or 32-bit code with base 0 and limit 4 GiB: RIP is the linear address
inline constexpr uint8_t fpu_trap = 8;           // CR0.EM or TS set, or CR4.OSFXSR clear: x87/MMX/SSE need a check
}  // namespace block_mode
uint8_t block_mode_of(const CpuState& s);

}  // namespace retrovisor::soft
