// Breakpoints over the instructions of guest code that KVM's API cannot trap: RDTSC, RDTSCP, RDRAND, RDSEED. And CPUID, which
// some hosts' KVM answers with features of its own (HostQuirks::adds_host_cpuid). And, if asked for, the returns from a 64-bit
// kernel to its programs, for an engine that runs these elsewhere: SYSRET, SYSEXIT, IRETQ; and moves from and to CR4, for
// one that has set a bit of it behind the guest's back.
//
// A site is patched by one byte: 0xCC (INT3) over the first byte of its opcode, 0F or IRET's CF; or over the first byte of a
// place that is named (add_place). Prefixes and the bytes behind keep their values, so
// `48 0F C7 F2` becomes `48 CC C7 F2`, an INT3 whose REX prefix means nothing, and a copy that the guest makes of it still
// says which instruction it was. The CPU reports the breakpoint at the first prefix or at the CC; both find the site.
//
// What finds sites is a linear sweep. Bytes that look like one of the instructions are taken only if the sweep stands in
// step with the code there: it started at the begin of the area or at one of `starts`, or has decoded kInStep instructions
// in a row since the last bytes that are no code (x86 code read out of step falls back into step after a few instructions;
// four sweeps that begin at neighbouring bytes must agree, and there must be branches near). What is not taken is counted as
// doubtful and stays untrapped.
//
// Limits (a replay's digests show what comes of them):
// - Code that is not in an area when it is scanned (modules, BPF, user space, the vDSO) is not patched.
// - A guest that reads its own code sees the CC. Linux does when it patches itself; recheck() and adopt() deal with
//   the copies of alternatives that come of it. A kernel that checks its text against a hash notices.
// - A guest's own breakpoint (kprobe) over a patched site is the same byte, and is served as the instruction.
// - An instruction across a page end is patched on the assumption that the area is one piece physically, as the
//   kernel's image is.
//
// The memory is written behind everybody's back: no page becomes dirty and no observer of code is told. So patches have to
// be off (unpatch) while another engine runs or a snapshot is taken or restored; digests and debuggers go through
// original().
//
// Source: SDM 2B, INT n/INTO/INT3/INT1; RDRAND, RDSEED, RDTSC, RDTSCP; APM 3 the same.
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <optional>
#include <span>

#include "vmm/memory/guest_memory.h"
#include "vmm/state_io.h"

namespace retrovisor::kvm {

enum class PatchKind : uint8_t { rdtsc, rdtscp, rdrand, rdseed, cpuid, cr4, sysret, sysexit, iret, place };
std::string_view to_string(PatchKind kind);

// One of these instructions, as it stands in memory.
struct PatchInstruction {
  static constexpr size_t kMaxLength = 5;  // 66, REX, 0F, C7, ModRM

  PatchKind kind = PatchKind::rdtsc;
  uint8_t length = 0;                       // prefixes included
  uint8_t opcode = 0;                       // offset of the opcode's first byte, where the breakpoint goes
  uint8_t reg = 0;                          // RDRAND, RDSEED: number of the destination register
  uint8_t operand_bytes = 0;                // RDRAND, RDSEED: 2, 4 or 8
  std::array<uint8_t, kMaxLength> bytes{};  // as the guest wrote them; zero beyond length

  bool operator==(const PatchInstruction&) const = default;
  bool returns_to_programs() const { return kind == PatchKind::sysret || kind == PatchKind::sysexit || kind == PatchKind::iret; }
};

// The instruction that begins at bytes[0], if it is one of these in a form that compilers and assemblers produce.
// `patched`: its 0F is 0xCC; nothing then tells what an IRETQ was. bits: 16, 32 or 64. Prefixes other than REX and (RDRAND,
// RDSEED) 66 make it something else: F3 0F C7 /7 is RDPID, LOCK raises #UD.
std::optional<PatchInstruction> classify(std::span<const uint8_t> bytes, unsigned bits, bool patched);

// What is looked for beside what everybody wants.
struct PatchKinds {
  bool returns = false;  // to programs
  bool cr4 = false;
};

class CodePatches {
 public:
  static constexpr size_t kMaxSites = 65'536;

  struct Site {
    PhysAddr start;  // of the first prefix
    uint8_t bits = 64;
    bool written = false;  // the breakpoint is in memory
    PatchInstruction instruction;

    PhysAddr breakpoint() const { return start + instruction.opcode; }
    PhysAddr end() const { return start + instruction.length; }
  };

  struct Area {
    PhysRange physical;
    LinearAddr linear;  // where the first byte runs
    unsigned bits = 64;
    std::span<const LinearAddr> starts{};  // ascending: where instructions are known to begin (symbols of functions)
  };
  struct Report {
    size_t found = 0;      // sites of the area that were not known before
    size_t doubtful = 0;   // looked like one, but no sweep was in step there
    bool complete = true;  // false: more candidates than are looked at, or more sites than are kept
  };

  // `memory` must outlive the object.
  explicit CodePatches(GuestMemory& memory, PatchKinds kinds = {}) : memory_(memory), kinds_(kinds) {}

  // Finds and registers sites; writes nothing. Sees the code as the guest wrote it, also while it is patched.
  Result<Report> scan(const Area& area);

  // A site of one byte, whatever instruction begins there; not where one of the others is. Written by the next patch().
  // False: no such RAM, or too many sites.
  bool add_place(PhysAddr at);
  // Takes it back; while it is written, out of memory too.
  void remove_place(PhysAddr at);

  // Writes the breakpoints that are not in memory yet; sites whose bytes are no longer the instruction are dropped.
  void patch();
  // Takes all breakpoints out of memory; sites that the guest has overwritten are dropped.
  void unpatch();

  // The site whose breakpoint or first byte lies at `at`. Valid until the next call that changes the list.
  const Site* find(PhysAddr at) const;

  enum class Evidence : uint8_t {
    // It overlaps or follows within kReach bytes a registered site that has been overwritten (the kernel replaced RDTSC
    // by LFENCE; RDTSC), or the bytes around it equal those around a registered site (code was copied as a whole).
    required,
    // None: right while the guest's kernel cannot have breakpoints of its own yet. CC 31 C0 is also what a kprobe makes of
    // 48 31 C0, so a guest that traces itself must not be asked this way.
    not_required,
  };
  // A breakpoint at `at` trapped that find() does not know: is it a copy of a patched instruction? Registers it then.
  const Site* adopt(PhysAddr at, unsigned bits, Evidence evidence = Evidence::required);

  // The guest, a device or a debugger may have written to the range (a page reported dirty): drops the sites that are no
  // longer there, takes over copies that have come in their place, patches again what was written back as it was.
  void recheck(PhysRange range);

  // `bytes`, read from guest memory at `at`, as the guest wrote them.
  void original(PhysAddr at, std::span<uint8_t> bytes) const;

  // By address of the breakpoint.
  const std::map<uint64_t, Site>& sites() const { return sites_; }

  // The list but for places, not the memory. restore() takes untrusted input; its sites are not written until patch().
  void save(StateWriter& out) const;
  void restore(StateReader& in);

 private:
  static constexpr uint64_t kReach = 16;  // how far behind its begin a replaced instruction can have moved
  static constexpr size_t kContext = 8;   // bytes on either side that prove a copy

  bool wanted(const PatchInstruction& found) const;
  bool add(PhysAddr start, unsigned bits, const PatchInstruction& instruction, bool written);
  // The bytes in memory are the site's: with the breakpoint if `patched`.
  bool holds(const Site& site, bool patched) const;
  void adopt_replacement(const Site& gone);
  bool replaced_nearby(PhysAddr at) const;
  bool copied_whole(const Site& copy) const;
  void put(PhysAddr at, uint8_t byte) { *memory_.host(at) = byte; }

  GuestMemory& memory_;
  PatchKinds kinds_;
  std::map<uint64_t, Site> sites_;
};

}  // namespace retrovisor::kvm
