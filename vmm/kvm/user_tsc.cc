// Programs that read the TSC: CR4.TSD behind the guest's back, and a breakpoint on the guest's #GP handler
// (UserTsc::by_exception).
#include <array>
#include <cstring>

#include "vmm/cpu/page_walk.h"
#include "vmm/kvm/engine_impl.h"
#include "vmm/kvm/linear_memory.h"
#include "vmm/soft/segments.h"

namespace retrovisor::kvm {
namespace {

constexpr uint8_t kGeneralProtection = 13;

// What the processor pushes for a fault with an error code in long mode (SDM 3A figure 6-9).
struct Frame {
  uint64_t error, rip, cs, rflags, rsp, ss;
};

// A segment as its descriptor in the GDT says. Programs' code and stack segments lie there.
bool gdt_segment(const CpuState& s, GuestMemory& memory, uint64_t selector, Segment& out) {
  const uint64_t index = selector & 0xfff8;
  std::array<uint8_t, 8> bytes{};
  if ((selector & 4) != 0 || index + 7 > s.gdtr.limit || !read_linear(s, memory, LinearAddr(s.gdtr.base + index), bytes)) return false;
  soft::Descriptor d;
  std::memcpy(&d.low, bytes.data(), sizeof d.low);
  out = d.segment(static_cast<uint16_t>(selector));
  return true;
}

}  // namespace

Result<KvmVcpu::Ran> KvmEngine::enter() {
  std::optional<NoHostTsc> no_tsc;
  if (around_.trap_tsc && tsc_trap_ == TscTrap::cr4_prctl) no_tsc.emplace();
  return vcpu_->run();
}

// Where the gate for #GP leads; nothing unless the guest has one and is a kernel whose code was looked through.
std::optional<PhysAddr> KvmEngine::protection_handler(const CpuState& s) {
  constexpr uint64_t kGateSize = 16;
  std::array<uint8_t, kGateSize> gate{};
  if (scans_ == 0 || !s.long_mode() || s.idtr.limit < (kGeneralProtection + 1) * kGateSize - 1) return std::nullopt;
  if (!read_linear(s, platform_.memory, LinearAddr(s.idtr.base + kGeneralProtection * kGateSize), gate)) return std::nullopt;
  soft::Descriptor d;
  std::memcpy(&d.low, gate.data(), sizeof d.low);
  std::memcpy(&d.high, gate.data() + sizeof d.low, sizeof d.high);
  constexpr uint32_t kInterruptGate = 14;  // 15: a trap gate
  if (!d.present() || !d.system() || (d.type() | 1) != (kInterruptGate | 1)) return std::nullopt;
  const PageWalk walk = walk_page(s, platform_.memory, LinearAddr(d.gate_offset64()), {}, false);
  if (!walk.ok || !platform_.memory.is_ram(walk.phys)) return std::nullopt;
  return walk.phys;
}

bool KvmEngine::trap_changes(const CpuState& s) {
  const auto handler = protection_handler(s);
  // An unpatched MOV to CR4 may have switched the trap off.
  const bool lost = around_.trap_tsc && changed_ == 0 && (vcpu_->run_area().s.regs.sregs.cr4 & cr4::TSD) == 0;
  return lost || handler != handler_ || (handler_ && patches_.find(*handler_) == nullptr);
}

void KvmEngine::set_trap(const CpuState& s) {
  lift_patches();
  if (handler_) patches_.remove_place(*handler_);
  handler_ = protection_handler(s);
  if (handler_ && !patches_.add_place(*handler_)) handler_.reset();
  around_.trap_tsc = handler_.has_value();
  changed_ |= part::sregs;
}

// At the first instruction of the guest's #GP handler. True: a program has read the TSC, and the vCPU stands at that
// instruction again, the exception forgotten.
bool KvmEngine::program_reads_tsc(Vcpu& vcpu) {
  CpuState& s = vcpu.state;
  if ((s.cr4 & cr4::TSD) != 0) return false;  // the guest's own wish
  Frame frame{};
  std::array<uint8_t, sizeof(Frame)> bytes{};
  if (s.cpl() != 0 || !read_linear(s, platform_.memory, LinearAddr(s.gpr[RSP]), bytes)) return false;
  std::memcpy(&frame, bytes.data(), sizeof frame);
  if (frame.error != 0 || (frame.cs & 3) != 3) return false;
  Segment cs, ss;
  if (!gdt_segment(s, platform_.memory, frame.cs, cs) || !gdt_segment(s, platform_.memory, frame.ss, ss)) return false;
  std::array<uint8_t, PatchInstruction::kMaxLength> code{};
  size_t size = 0;
  while (size < code.size() && read_linear(s, platform_.memory, LinearAddr(frame.rip + size), std::span(code).subspan(size, 1))) ++size;
  const auto instruction = classify(std::span(code).first(size), (cs.attributes & seg::L) != 0 ? 64 : 32, false);
  if (!instruction || (instruction->kind != PatchKind::rdtsc && instruction->kind != PatchKind::rdtscp)) return false;
  s.segment[CS] = cs;
  s.segment[SS] = ss;
  s.gpr[RSP] = frame.rsp;
  s.rip = frame.rip;
  s.rflags = frame.rflags & ~flag::RF;
  soft_stale_ = true;
  changed_ = part::all;
  return true;
}

}  // namespace retrovisor::kvm
