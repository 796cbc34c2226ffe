#include "vmm/boot/entry_state.h"

namespace retrovisor {
namespace {

constexpr uint32_t kCodeType = seg::code | seg::readable_or_writable | seg::accessed;
constexpr uint32_t kDataType = seg::readable_or_writable | seg::accessed;
constexpr uint32_t kFlatCode64 = kCodeType | seg::S | seg::P | seg::L | seg::G;
constexpr uint32_t kFlatCode32 = kCodeType | seg::S | seg::P | seg::DB | seg::G;
constexpr uint32_t kFlatData = kDataType | seg::S | seg::P | seg::DB | seg::G;
constexpr uint32_t kBusyTss32 = 0xb | seg::P;
constexpr uint32_t kLdt = 0x2 | seg::P;

// A descriptor of base 0 and limit 4 GiB (SDM 3A 3.4.5). The limit's bits 16-19 sit between the two attribute fields.
constexpr uint64_t flat_descriptor(uint32_t attributes) {
  return 0x000f'0000'0000'ffff | uint64_t{attributes & 0xffU} << 40 | uint64_t{attributes >> 12 & 0xfU} << 52;
}

Segment flat_segment(uint16_t selector, uint32_t attributes) { return {0, 0xffffffff, attributes, selector}; }

void clear_registers(CpuState& state) {
  state.gpr.fill(0);
  state.rflags = flag::fixed;
  state.ldtr = {0, 0xffff, kLdt, 0};
  // PVH asks for a 32-bit TSS of base 0 and limit 0x67; nobody else cares.
  state.tr = {0, 0x67, kBusyTss32, 0};
  state.cr2 = 0;
  state.cr3 = 0;
  state.activity = Activity::running;
}

Result<void> set_flat_segments(LoadPlan& plan, CpuState& state, uint32_t code) {
  ByteBuilder gdt;
  gdt.u64(0).u64(0).u64(flat_descriptor(code)).u64(flat_descriptor(kFlatData));
  RV_TRY(auto at, plan.put_low(gdt.data(), 16, "the boot GDT"));
  state.gdtr = {at, static_cast<uint16_t>(gdt.size() - 1)};
  state.idtr = {0, 0};
  for (Segment& s : state.segment) s = flat_segment(kBootDs, kFlatData);
  state.segment[CS] = flat_segment(kBootCs, code);
  return {};
}

}  // namespace

void enter_real_mode(CpuState& state, uint64_t entry) {
  clear_registers(state);
  const auto code = static_cast<uint16_t>(entry < 0x10000 ? 0 : entry >> 4);
  for (Segment& s : state.segment) s = {0, 0xffff, kDataType | seg::S | seg::P, 0};
  state.segment[CS] = {uint64_t{code} << 4, 0xffff, kCodeType | seg::S | seg::P, code};
  state.gdtr = {0, 0xffff};
  state.idtr = {0, 0x3ff};
  state.cr0 = cr0::ET;
  state.cr4 = 0;
  state.efer = 0;
  state.rip = entry - (uint64_t{code} << 4);
}

Result<void> enter_protected_mode(LoadPlan& plan, CpuState& state, uint32_t entry) {
  clear_registers(state);
  RV_TRY(set_flat_segments(plan, state, kFlatCode32));
  state.cr0 = cr0::PE | cr0::ET;
  state.cr4 = 0;
  state.efer = 0;
  state.rip = entry;
  return {};
}

Result<void> enter_long_mode(LoadPlan& plan, CpuState& state, uint64_t entry) {
  clear_registers(state);
  RV_TRY(set_flat_segments(plan, state, kFlatCode64));
  constexpr uint64_t kGib = 4;
  RV_TRY(const uint64_t pml4, plan.place_low((2 + kGib) * kPageSize, kPageSize, "the boot page tables"));
  const uint64_t pdpt = pml4 + kPageSize;
  const uint64_t pd = pdpt + kPageSize;
  ByteBuilder out;
  out.u64(pdpt | pte::P | pte::RW).zeros(kPageSize - 8);
  for (uint64_t i = 0; i < kGib; ++i) out.u64((pd + i * kPageSize) | pte::P | pte::RW);
  out.zeros(kPageSize - 8 * kGib);
  for (uint64_t i = 0; i < kGib * 512; ++i) out.u64(i << 21 | pte::PS | pte::P | pte::RW);
  plan.write(pml4, out.data());
  state.cr3 = pml4;
  state.cr4 = cr4::PAE;
  state.cr0 = cr0::PE | cr0::ET | cr0::PG;
  state.efer = efer::LME | efer::LMA;
  state.rip = entry;
  return {};
}

}  // namespace retrovisor
