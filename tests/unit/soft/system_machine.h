// A machine of one vCPU, 16 MiB of RAM and one port device, to run a few instructions on in any mode, through the engine.
#pragma once

#include <gtest/gtest.h>

#include <cstring>
#include <initializer_list>
#include <memory>
#include <vector>

#include "vmm/engine.h"
#include "vmm/soft/segments.h"

namespace retrovisor::soft {

class SystemMachine : public ::testing::Test {
 protected:
  // Everything lies at the same linear and physical address.
  static constexpr uint64_t kGdt = 0x1000, kIdt = 0x2000, kTss = 0x3000, kLdt = 0x4000, kTss2 = 0x5000;
  static constexpr uint64_t kStack = 0x8000, kUserStack = 0x9000, kStack0 = 0xa000, kIst = 0xb000;
  static constexpr uint64_t kCode = 0x10000, kHandlers = 0x11000, kTables = 0x20000;
  static constexpr uint64_t kMissing = 0x600000;  // 2 MiB that no page table maps, in long mode
  static constexpr uint16_t kCode0 = 8, kData0 = 16, kCode3 = 24, kData3 = 32, kTssSelector = 40, kFree = 64;

  class Ports final : public Device {
   public:
    std::string_view name() const override { return "ports"; }
    void reset(const PowerOn&) override {}
    void save(StateWriter&) const override {}
    void restore(StateReader&) override {}
    uint64_t read(const BusAccess& access) override { return next++ | access.address << 16; }
    void write(const BusAccess& access, uint64_t value) override {
      written.push_back(static_cast<uint32_t>(value));
      sizes.push_back(access.size);
    }
    uint32_t next = 0x41;
    std::vector<uint32_t> written;
    std::vector<unsigned> sizes;
  };

  class Apic final : public VcpuInterrupts {
   public:
    uint8_t acknowledge() override {
      vcpu->intr = false;
      return vector;
    }
    uint8_t cr8() const override { return tpr; }
    void set_cr8(uint8_t value) override { tpr = value; }
    bool read_msr(uint32_t, uint64_t&) override { return false; }
    bool write_msr(uint32_t, uint64_t) override { return false; }
    Vcpu* vcpu = nullptr;
    uint8_t vector = 0x30, tpr = 0;
  };

  class Control final : public MachineControl {
   public:
    void request_stop(Stop) override {}
    bool stop_requested() const override { return false; }
  };

  struct Logged final : public JournalSink {
    void event(const JournalEvent& e) override { events.push_back(e); }
    std::vector<JournalEvent> events;
  };

  SystemMachine() {
    auto created = GuestMemory::create(kMinRam);
    RV_ASSERT(created.ok());
    memory = std::move(created).value();
    RV_ASSERT(ports.map({.first = 0x100, .count = 16, .device = &device, .width = 4}).ok());
    platform = std::make_unique<Platform>(Platform{*memory, ports, mmio, clock, deadlines, journal, entropy, control, observers});
    make_engine(ProcessorModel::model);
    journal.connect(&logged, mask_of(EventKind::exception) | mask_of(EventKind::rdrand) | mask_of(EventKind::tsc_read));
  }

  // Another engine takes the place of the one there is, in the same state.
  void set_processor_model(ProcessorModel how) {
    const CpuState state = s();
    vcpu.reset();
    engine.reset();
    make_engine(how);
    s() = state;
  }

  CpuState& s() { return vcpu->state; }

  template <class T>
  void put(uint64_t address, T value) {
    std::memcpy(memory->host(PhysAddr(address)), &value, sizeof value);
  }
  template <class T>
  T at(uint64_t address) const {
    T value;
    std::memcpy(&value, memory->host(PhysAddr(address)), sizeof value);
    return value;
  }
  void bytes(uint64_t address, std::initializer_list<uint8_t> code) {
    for (const uint8_t b : code) put(address++, b);
  }

  // A descriptor with base, limit (in its own units) and attributes as in namespace seg.
  static uint64_t descriptor(uint64_t base, uint32_t limit, uint32_t attributes) {
    return (limit & 0xffff) | (base & 0xffffff) << 16 | uint64_t{attributes & 0xf0ff} << 40 |
           uint64_t{limit & 0xf0000} << 32 | (base >> 24 & 0xff) << 56;
  }
  void gdt(uint16_t selector, uint64_t value) { put(kGdt + (selector & 0xfff8), value); }
  static uint64_t flat_code(unsigned dpl, uint32_t size) {
    return descriptor(0, 0xfffff, seg::P | seg::S | seg::G | 11 | dpl << 5 | size);
  }
  static uint64_t flat_data(unsigned dpl) {
    return descriptor(0, 0xfffff, seg::P | seg::S | seg::G | seg::DB | 3 | dpl << 5);
  }
  static uint64_t gate(uint16_t selector, uint32_t offset, uint32_t type, unsigned dpl = 0, unsigned parameters = 0) {
    return (offset & 0xffff) | uint64_t{selector} << 16 | uint64_t{parameters} << 32 |
           uint64_t{type | dpl << 5 | seg::P} << 40 | uint64_t{offset & 0xffff0000} << 32;
  }
  static uint64_t handler(unsigned vector) { return kHandlers + vector * 16; }

  // Where every handler ends: a jump to itself.
  void fill_handlers() {
    for (unsigned v = 0; v < 256; ++v) bytes(handler(v), {0xeb, 0xfe});
  }
  void fill_gdt(uint32_t code_size) {
    gdt(kCode0, flat_code(0, code_size));
    gdt(kData0, flat_data(0));
    gdt(kCode3, flat_code(3, code_size));
    gdt(kData3, flat_data(3));
    s().gdtr = {kGdt, 0xff};
  }
  void load_cpl(unsigned cpl, uint32_t code_size) {
    const auto code = static_cast<uint16_t>((cpl == 3 ? kCode3 : kCode0) | cpl);
    const auto data = static_cast<uint16_t>((cpl == 3 ? kData3 : kData0) | cpl);
    s().segment[CS] = flat_segment(code, 11, cpl, code_size);
    for (const SegReg r : {ES, SS, DS, FS, GS}) s().segment[r] = flat_segment(data, 3, cpl, seg::DB);
    s().gpr[RSP] = cpl == 3 ? kUserStack : kStack;
    s().gpr[RDX] = 0;
    s().rip = kCode;
    s().rflags = flag::fixed | flag::IF;
  }

  void enter_real() {
    s() = CpuState::at_reset(VcpuId(0));
    for (Segment& g : s().segment) g = {0, 0xffff, seg::P | seg::S | 3, 0};
    s().segment[CS] = {kCode, 0xffff, seg::P | seg::S | 3, kCode >> 4};
    s().rip = 0;
    s().gpr[RSP] = kStack;
    s().idtr = {0, 0x3ff};
    s().rflags = flag::fixed | flag::IF;
    changed();
  }
  void enter_protected(unsigned cpl) {
    s() = CpuState::at_reset(VcpuId(0));
    s().cr0 = cr0::PE | cr0::ET | cr0::NE;
    fill_gdt(seg::DB);
    gdt(kTssSelector, descriptor(kTss, 0x67, seg::P | 11));
    s().tr = {kTss, 0x67, seg::P | 11, kTssSelector};
    s().ldtr = null_segment(0);
    put<uint32_t>(kTss + 4, kStack0);
    put<uint32_t>(kTss + 8, kData0);
    put<uint16_t>(kTss + 0x66, 0x68);
    for (unsigned v = 0; v < 256; ++v) put(kIdt + v * 8, gate(kCode0, static_cast<uint32_t>(handler(v)), 14));
    s().idtr = {kIdt, 0x7ff};
    fill_handlers();
    load_cpl(cpl, seg::DB);
    changed();
  }
  // Paging maps the first 16 MiB but for kMissing to itself, for user and supervisor.
  void enter_long(unsigned cpl) {
    s() = CpuState::at_reset(VcpuId(0));
    s().cr0 = cr0::PE | cr0::PG | cr0::WP | cr0::ET | cr0::NE;
    s().cr4 = cr4::PAE;
    s().efer = efer::LME | efer::LMA | efer::SCE;
    s().cr3 = kTables;
    put<uint64_t>(kTables, (kTables + 0x1000) | 7);
    put<uint64_t>(kTables + 0x1000, (kTables + 0x2000) | 7);
    for (uint64_t i = 0; i < 8; ++i)
      put<uint64_t>(kTables + 0x2000 + i * 8, i << 21 == kMissing ? 0 : i << 21 | 7 | pte::PS);
    fill_gdt(seg::L);
    gdt(kTssSelector, descriptor(kTss, 0x67, seg::P | 11));
    s().tr = {kTss, 0x67, seg::P | 11, kTssSelector};
    s().ldtr = null_segment(0);
    put<uint64_t>(kTss + 4, kStack0);
    put<uint64_t>(kTss + 0x24, kIst);
    put<uint16_t>(kTss + 0x66, 0x68);
    for (unsigned v = 0; v < 256; ++v) long_gate(v, 14);
    s().idtr = {kIdt, 0xfff};
    fill_handlers();
    load_cpl(cpl, seg::L);
    changed();
  }
  void long_gate(unsigned vector, uint32_t type, unsigned dpl = 0, unsigned ist = 0) {
    put(kIdt + vector * 16, gate(kCode0, static_cast<uint32_t>(handler(vector)), type, dpl, ist));
    put<uint64_t>(kIdt + vector * 16 + 8, 0);
  }
  void changed() { engine->state_changed(*vcpu); }

  // Puts `code` where RIP is.
  void code(std::initializer_list<uint8_t> code) {
    const uint64_t linear = s().mode64() ? s().rip : s().segment[CS].base + s().rip;
    bytes(linear, code);
    memory->write(PhysAddr(linear), std::span<const uint8_t>(code.begin(), code.size()));
  }
  // Retires `count` instructions; a handler reached by a fault counts its jumps to itself.
  EngineStop run(uint64_t count = 1) { return engine->run(*vcpu, clock.position() + count); }
  // Runs `text` (one instruction) and expects its exception to have reached the handler of `vector`.
  void expect_fault(std::initializer_list<uint8_t> text, unsigned vector) {
    code(text);
    run();
    EXPECT_EQ(s().rip, handler(vector)) << "vector " << (s().rip - kHandlers) / 16;
  }
  // The error code on top of the handler's stack.
  uint32_t error() { return at<uint32_t>(s().gpr[RSP]); }

  void make_engine(ProcessorModel how) {
    engine = retrovisor::make_soft_engine(*platform, {.vcpus = 1, .processor_model = how, .user_tsc = UserTsc::direct});
    vcpu = std::make_unique<Vcpu>(VcpuId(0), engine->vcpu_state(VcpuId(0)));
    apic.vcpu = vcpu.get();
    vcpu->interrupts = &apic;
  }

  std::unique_ptr<GuestMemory> memory;
  Clock clock;
  Deadlines deadlines;
  Journal journal{clock};
  PortBus ports{journal};
  MmioBus mmio{journal};
  Entropy entropy;
  Control control;
  Observers observers;
  Ports device;
  Apic apic;
  Logged logged;
  std::unique_ptr<Platform> platform;
  std::unique_ptr<Engine> engine;
  std::unique_ptr<Vcpu> vcpu;
};

}  // namespace retrovisor::soft
