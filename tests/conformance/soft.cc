#include "tests/conformance/soft.h"

#include <cstring>
#include <span>

#include "tests/conformance/segments.h"
#include "vmm/cpu/registers.h"
#include "vmm/cpu/state.h"
#include "vmm/cpu/x87_pointers.h"
#include "vmm/vcpu.h"

namespace retrovisor::conformance {
namespace {

// Guest-physical layout. All of it is also mapped for the kernel at kKernel.
constexpr uint64_t kPml4 = 0x1000, kPdpt = 0x2000, kPd = 0x3000, kArenaPt = 0x4000, kCodePt = 0x5000, kExitPt = 0x6000,
                   kKernelPdpt = 0x7000, kKernelPd = 0x8000, kIdt = 0x10000, kGdt = 0x11000, kTss = 0x11800,
                   kHandlers = 0x12000, kLdt = 0x13000, kWrapPt = 0x14000, kTopPd = 0x15000, kTopPt = 0x16000,
                   kKernelStack = 0x20000,
                   kArenaPhys = 0x200000, kCodePhys = 0x300000, kExitPhys = 0x3f0000;
constexpr uint64_t kKernel = 0xffff800000000000;
constexpr uint64_t kHandlerSize = 16;
constexpr uint16_t kKernelCs = 0x10, kTssSelector = 0x40, kTssLimit = 0x67, kLdtSelector = 0x50;
// Far more than a sequence can run: repeated string instructions count each iteration.
constexpr uint64_t kInstructionLimit = 100'000;

constexpr uint32_t kCodeAttributes = 0xb | seg::S | seg::P | seg::L | seg::G;
constexpr uint32_t kDataAttributes = 0x3 | seg::S | seg::P | seg::DB | seg::G;

bool has_error_code(unsigned vector) { return vector == 8 || (vector >= 10 && vector <= 14) || vector == 17; }

// A privileged descriptor from attributes as in vmm/cpu/registers.h, flat.
constexpr uint64_t descriptor(uint32_t attributes) {
  return 0x000f00000000ffff | uint64_t{attributes & 0xff} << 40 | uint64_t{attributes >> 12 & 0xf} << 52;
}

// What a segment register holds after a load of `selector`.
Segment loaded(uint16_t selector) {
  const auto d = descriptor_of(selector);
  if (!d) return {0, 0, seg::unusable, selector};
  return {d->base, d->byte_limit(), static_cast<uint32_t>(d->encoded() >> 40) & 0xf0ff, selector};
}

class NoControl final : public MachineControl {
 public:
  void request_stop(Stop) override {}
  bool stop_requested() const override { return false; }
};

}  // namespace

struct SoftRunner::Parts {
  Parts(std::unique_ptr<GuestMemory> ram, ProcessorModel processor_model)
      : memory(std::move(ram)),
        journal(clock),
        ports(journal),
        mmio(journal),
        platform{*memory, ports, mmio, clock, deadlines, journal, entropy, control, observers},
        engine(make_soft_engine(platform, {.vcpus = 1, .processor_model = processor_model, .user_tsc = UserTsc::direct})),
        vcpu(VcpuId(0), engine->vcpu_state(VcpuId(0))),
        vendor(vendor_of(processor_model)) {}

  std::unique_ptr<GuestMemory> memory;
  Clock clock;
  Journal journal;
  PortBus ports;
  MmioBus mmio;
  Deadlines deadlines;
  Entropy entropy;
  NoControl control;
  Observers observers;
  Platform platform;
  std::unique_ptr<Engine> engine;
  Vcpu vcpu;
  ProcessorModel vendor;

  void put64(uint64_t phys, uint64_t value) {
    std::array<uint8_t, 8> bytes;
    std::memcpy(bytes.data(), &value, 8);
    (void)memory->write(PhysAddr(phys), bytes);
  }
  uint64_t get64(uint64_t phys) const {
    std::array<uint8_t, 8> bytes{};
    (void)memory->read(PhysAddr(phys), bytes);
    uint64_t value = 0;
    std::memcpy(&value, bytes.data(), 8);
    return value;
  }
};

SoftRunner::SoftRunner() = default;
SoftRunner::~SoftRunner() = default;

Result<std::unique_ptr<SoftRunner>> SoftRunner::create(bool ldt, ProcessorModel processor_model) {
  auto memory = GuestMemory::create(kMinRam);
  if (!memory.ok()) return memory.error();
  std::unique_ptr<SoftRunner> runner(new SoftRunner);
  runner->parts_ = std::make_unique<Parts>(std::move(*memory), processor_model);
  runner->build_guest();
  if (!ldt) runner->base_.ldtr = {0, 0, seg::unusable, 0};
  return runner;
}

void SoftRunner::build_guest() {
  Parts& g = *parts_;
  constexpr uint64_t kTable = pte::P | pte::RW | pte::US | pte::A;
  g.put64(kPml4, kPdpt | kTable);
  g.put64(kPml4 + 256 * 8, kKernelPdpt | kTable);
  g.put64(kPdpt, kPd | kTable);
  g.put64(kPd + (kArena >> 21) * 8, kArenaPt | kTable);
  g.put64(kPd + (kCode >> 21) * 8, kCodePt | kTable);
  g.put64(kPd + (kExit >> 21) * 8, kExitPt | kTable);
  g.put64(kPd + (kWrap >> 21) * 8, kWrapPt | kTable);
  g.put64(kPdpt + (kTop >> 30) * 8, kTopPd | kTable);
  g.put64(kTopPd + (kTop >> 21 & 511) * 8, kTopPt | kTable);
  for (unsigned p = 0; p < kArenaPages; ++p) {
    if (kArenaLayout[p] == PageKind::none) continue;
    const uint64_t writable = kArenaLayout[p] == PageKind::read_only ? 0 : pte::RW;
    const uint64_t executable = kArenaLayout[p] == PageKind::executable ? 0 : pte::NX;
    g.put64(kArenaPt + p * 8, (kArenaPhys + p * kPageSize) | pte::P | pte::US | pte::A | pte::D | writable | executable);
  }
  const auto alias = [&](uint64_t table, uint64_t address, uint64_t of) {
    g.put64(table + (address >> kPageShift & 511) * 8,
            (kArenaPhys + of - kArena) | pte::P | pte::RW | pte::US | pte::A | pte::D | pte::NX);
  };
  alias(kWrapPt, kWrap + kWrapSize - kPageSize, kStackBegin);
  alias(kWrapPt, kWrap, kStackBegin + kPageSize);
  alias(kTopPt, kTop, kTopAlias);
  for (unsigned p = 0; p < kCodeMapped / kPageSize; ++p) {
    g.put64(kCodePt + p * 8, (kCodePhys + p * kPageSize) | pte::P | pte::US | pte::A);
  }
  g.put64(kExitPt + (kExit >> kPageShift & 511) * 8, kExitPhys | pte::P | pte::US | pte::A);
  g.put64(kExitPhys, 0x0b0f);  // ud2
  g.put64(kKernelPdpt, kKernelPd | pte::P | pte::RW | pte::A);
  for (unsigned i = 0; i < kMinRam >> 21; ++i) {
    g.put64(kKernelPd + i * 8, uint64_t{i} << 21 | pte::P | pte::RW | pte::A | pte::D | pte::PS);
  }

  g.put64(kGdt + kKernelCs, descriptor(kCodeAttributes));
  g.put64(kGdt + 0x18, descriptor(kDataAttributes));
  for (const uint16_t selector : {kUserCs32, kUserSs, kUserCs}) {
    g.put64(kGdt + (selector & ~7u), descriptor_of(selector)->encoded());
  }
  // Linux tells processes in the limit of this one which CPU they run on. Loads of it work.
  g.put64(kGdt + 0x78, 0x0040f50000000000);
  for (unsigned i = 0; i < ldt::count; ++i) g.put64(kLdt + i * 8, local_descriptors()[i].encoded());
  g.put64(kTss + 4, kKernel + kKernelStack);       // RSP0
  g.put64(kTss + 0x60, uint64_t{kTssLimit + 1} << 48);  // no I/O permission bitmap
  for (uint64_t vector = 0; vector < 256; ++vector) {
    const uint64_t handler = kKernel + kHandlers + vector * kHandlerSize;
    const uint64_t dpl = vector == vec::BP || vector == vec::OF ? 3 : 0;
    g.put64(kIdt + vector * 16, (handler & 0xffff) | uint64_t{kKernelCs} << 16 | uint64_t{0x8e00 | dpl << 13} << 32 |
                                    (handler >> 16 & 0xffff) << 48);
    g.put64(kIdt + vector * 16 + 8, handler >> 32);
    g.put64(kHandlers + vector * kHandlerSize, 0xf4);  // hlt
  }

  CpuState& s = base_;
  s = CpuState::at_reset(VcpuId(0));
  s.cr0 = cr0::PE | cr0::MP | cr0::ET | cr0::NE | cr0::WP | cr0::AM | cr0::PG;
  s.cr3 = kPml4;
  s.cr4 = cr4::PAE | cr4::DE | cr4::PGE | cr4::OSFXSR | cr4::OSXMMEXCPT | cr4::FSGSBASE;
  s.efer = efer::SCE | efer::LME | efer::LMA | efer::NXE;
  s.gdtr = {kKernel + kGdt, 0x7f};
  s.idtr = {kKernel + kIdt, 0xfff};
  s.tr = {kKernel + kTss, kTssLimit, 0xb | seg::P, kTssSelector};
  s.ldtr = {kKernel + kLdt, ldt::count * 8 - 1, 2 | seg::P, kLdtSelector};
}

void SoftRunner::load(const Batch& batch) {
  (void)parts_->memory->write(PhysAddr(kCodePhys), batch.code);
  (void)parts_->memory->write(PhysAddr(kArenaPhys), batch.arena);
  pristine_ = batch.arena;
}

void SoftRunner::run(const State& start, Outcome& out) {
  Parts& g = *parts_;
  CpuState& s = g.vcpu.state;
  s = base_;
  s.gpr = start.gpr;
  s.rip = start.rip;
  s.rflags = start.rflags;
  for (unsigned i = 0; i < s.segment.size(); ++i) s.segment[i] = loaded(start.selector[i]);
  s.segment[FS].base = start.fs_base;
  s.segment[GS].base = start.gs_base;
  const uint8_t* fx = start.fx.data();
  std::memcpy(&s.x87.fcw, fx, 2);
  std::memcpy(&s.x87.fsw, fx + 2, 2);
  s.x87.tag = fx[4];
  std::memcpy(&s.mxcsr, fx + 24, 4);
  const unsigned top = s.x87.fsw >> 11 & 7;
  for (unsigned i = 0; i < 8; ++i) {
    X87Register& r = s.x87.r[(top + i) & 7];
    std::memcpy(&r.mantissa, fx + 32 + 16 * i, 8);
    std::memcpy(&r.sign_exponent, fx + 40 + 16 * i, 2);
  }
  std::memcpy(s.xmm.data(), fx + 160, sizeof s.xmm);
  g.engine->state_changed(g.vcpu);

  const Position begin = g.clock.position();
  const EngineStop stop = g.engine->run(g.vcpu, begin + kInstructionLimit);
  instructions_ += g.clock.position() - begin;
  const uint64_t handlers = kKernel + kHandlers;
  out.vector = kLost;
  out.error_code = 0;
  out.cr2 = 0;
  if (stop == EngineStop::halted && s.rip >= handlers && s.rip < handlers + 256 * kHandlerSize) {
    const auto vector = static_cast<uint8_t>((s.rip - handlers) / kHandlerSize);
    uint64_t frame = s.gpr[RSP] - kKernel;
    out.vector = vector;
    if (has_error_code(vector)) {
      out.error_code = static_cast<uint32_t>(g.get64(frame));
      frame += 8;
    }
    if (vector == vec::PF) out.cr2 = s.cr2;
    read_state(out.state);
    out.state.rip = g.get64(frame);
    out.state.selector[CS] = static_cast<uint16_t>(g.get64(frame + 8));
    out.state.selector[SS] = static_cast<uint16_t>(g.get64(frame + 32));
    out.state.rflags = g.get64(frame + 16);
    out.state.gpr[RSP] = g.get64(frame + 24);
    if (vector == vec::UD && out.state.rip == kExit && out.state.selector[CS] == kUserCs) out.vector = kNoFault;
  } else {
    read_state(out.state);
  }
  const auto page = [&](unsigned p) { return g.memory->host(PhysAddr(kArenaPhys + p * kPageSize)); };
  const auto restore = [&](unsigned p, unsigned at, const uint8_t* bytes) {
    if (kArenaLayout[p] == PageKind::executable) {  // the engine has to know
      (void)g.memory->write(PhysAddr(kArenaPhys + p * kPageSize + at), std::span(bytes, kLine));
    } else {
      std::memcpy(page(p) + at, bytes, kLine);
    }
  };
  collect_lines(pristine_.data(), page, restore, out);
}

void SoftRunner::read_state(State& out) const {
  const CpuState& s = parts_->vcpu.state;
  out.gpr = s.gpr;
  out.rip = s.rip;
  out.rflags = s.rflags;
  for (unsigned i = 0; i < s.segment.size(); ++i) out.selector[i] = s.segment[i].selector;
  out.unused = {};
  out.fs_base = s.segment[FS].base;
  out.gs_base = s.segment[GS].base;
  out.fx = {};
  uint8_t* fx = out.fx.data();
  std::memcpy(fx, &s.x87.fcw, 2);
  std::memcpy(fx + 2, &s.x87.fsw, 2);
  fx[4] = s.x87.tag;
  if (x87_pointers_saved(parts_->vendor, s.x87)) {
    std::memcpy(fx + 6, &s.x87.fop, 2);
    std::memcpy(fx + 8, &s.x87.fip, 8);
    std::memcpy(fx + 16, &s.x87.fdp, 8);
  }
  std::memcpy(fx + 24, &s.mxcsr, 4);
  const unsigned top = s.x87.fsw >> 11 & 7;
  for (unsigned i = 0; i < 8; ++i) {
    const X87Register& r = s.x87.r[(top + i) & 7];
    std::memcpy(fx + 32 + 16 * i, &r.mantissa, 8);
    std::memcpy(fx + 40 + 16 * i, &r.sign_exponent, 2);
  }
  std::memcpy(fx + 160, s.xmm.data(), sizeof s.xmm);
}

}  // namespace retrovisor::conformance
