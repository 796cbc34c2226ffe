// With the host's KVM, where there is one: states go in and come out, and a few instructions run.
#include <gtest/gtest.h>

#include <cstring>
#include <initializer_list>

#include "tests/unit/kvm/states.h"
#include "vmm/engine.h"
#include "vmm/kvm/cpuid.h"
#include "vmm/kvm/host_quirks.h"
#include "vmm/kvm/memory_slots.h"
#include "vmm/kvm/msr_filter.h"

namespace retrovisor::kvm {
namespace {

constexpr int kStates = 1000;
// Not all hosts have the others; see modes_the_host_does_not_have_are_refused_by_name.
constexpr Mode kModes[] = {Mode::real, Mode::protected32, Mode::long_kernel, Mode::long_user, Mode::compatibility};

class KvmHost : public ::testing::Test {
 protected:
  struct Parts {
    Kvm kvm;
    std::unique_ptr<GuestMemory> memory;  // outlives the VM
    KvmVm vm;
  };

  void SetUp() override {
    auto kvm = Kvm::open();
    if (!kvm) GTEST_SKIP() << "no KVM here: " << kvm.error().text();
    auto found = probe_quirks(*kvm);
    ASSERT_TRUE(found.ok()) << found.error().text();
    quirks = *found;
    auto vm = kvm->create_vm();
    ASSERT_TRUE(vm.ok()) << vm.error().text();
    parts = std::make_unique<Parts>(Parts{std::move(*kvm), GuestMemory::create(kMinRam).value(), std::move(*vm)});
    auto made = MemorySlots::create(parts->vm, *parts->memory);
    ASSERT_TRUE(made.ok()) << made.error().text();
    slots = std::make_unique<MemorySlots>(std::move(*made));
    auto created = parts->vm.create_vcpu(0);
    ASSERT_TRUE(created.ok()) << created.error().text();
    vcpu = std::make_unique<KvmVcpu>(std::move(*created));
    auto table = install_cpuid(*vcpu, cpuid_table(VcpuId(0), 1));
    ASSERT_TRUE(table.ok()) << table.error().text();
    cpuid_in_force = std::move(*table);
    carrier = std::make_unique<StateCarrier>(parts->kvm.capabilities(), quirks);
  }

  void expect_ok(const Result<void>& result) { ASSERT_TRUE(result.ok()) << result.error().text(); }

  // Takes over registers and executes nothing.
  void enter_and_leave() {
    vcpu->run_area().immediate_exit = 1;
    const auto ran = vcpu->run();
    vcpu->run_area().immediate_exit = 0;
    ASSERT_TRUE(ran.ok()) << ran.error().text();
    ASSERT_EQ(*ran, KvmVcpu::Ran::interrupted);
  }

  void code(uint64_t at, std::initializer_list<uint8_t> bytes) {
    std::memcpy(parts->memory->host(PhysAddr(at)), std::data(bytes), bytes.size());
  }
  // Real mode, all segments at 0.
  void load_real(uint16_t ip) {
    CpuState s = CpuState::at_reset(VcpuId(0));
    s.segment[CS] = {0, 0xffff, seg::P | seg::S | 11, 0};
    s.cr0 = cr0::ET;
    s.rip = ip;
    s.gpr[RSP] = 0x8000;
    expect_ok(carrier->load(*vcpu, s, Surroundings{}));
  }
  uint32_t run_to_exit() {
    const auto ran = vcpu->run();
    EXPECT_TRUE(ran.ok()) << ran.error().text();
    if (!ran.ok() || *ran != KvmVcpu::Ran::exited) return UINT32_MAX;
    return vcpu->run_area().exit_reason;
  }
  CpuState stored() {
    CpuState s = CpuState::at_reset(VcpuId(0));
    Surroundings around;
    expect_ok(carrier->store(*vcpu, s, around));
    return s;
  }

  HostQuirks quirks;
  std::unique_ptr<Parts> parts;
  std::unique_ptr<MemorySlots> slots;
  std::unique_ptr<KvmVcpu> vcpu;
  std::unique_ptr<StateCarrier> carrier;
  std::vector<kvm_cpuid_entry2> cpuid_in_force;
  RandomStates random{20};
};

TEST_F(KvmHost, gives_back_every_random_state) {
  for (int i = 0; i < kStates; ++i) {
    const CpuState s = random.next(kModes[i % 5]);
    Surroundings around;
    around.cr8 = static_cast<uint8_t>(random.below(16));
    expect_ok(carrier->load(*vcpu, s, around));
    CpuState back = s;
    Surroundings seen;
    expect_ok(carrier->store(*vcpu, back, seen));
    ASSERT_EQ(difference(s, back), "") << "state " << i;
    ASSERT_EQ(seen.cr8, around.cr8);
    ASSERT_EQ(seen.apic_base, around.apic_base);
    ASSERT_FALSE(seen.delivery.any());
  }
}

TEST_F(KvmHost, carries_a_state_into_another) {
  for (int i = 0; i < kStates; ++i) {
    const CpuState s = random.next(kModes[i % 5]);
    Surroundings around;
    expect_ok(carrier->load(*vcpu, s, around));
    CpuState back = random.next(kModes[random.below(5)]);
    copy_uncarried(s, carrier->msrs(), back);
    expect_ok(carrier->store(*vcpu, back, around));
    CpuState want = s;
    drop_fpu_pointers(quirks, want);
    drop_fpu_pointers(quirks, back);
    ASSERT_EQ(difference(want, back), "") << "state " << i;
  }
}

TEST_F(KvmHost, an_entry_that_executes_nothing_changes_nothing) {
  for (int i = 0; i < kStates; ++i) {
    const CpuState s = random.next(kModes[i % 5]);
    Surroundings around;
    expect_ok(carrier->load(*vcpu, s, around));
    ASSERT_NO_FATAL_FAILURE(enter_and_leave());
    CpuState back = random.next(kModes[random.below(5)]);
    copy_uncarried(s, carrier->msrs(), back);
    expect_ok(carrier->store(*vcpu, back, around));
    CpuState want = s;
    drop_fpu_pointers(quirks, want);
    drop_fpu_pointers(quirks, back);
    ASSERT_EQ(difference(want, back), "") << "state " << i;
    ASSERT_FALSE(around.delivery.any());
  }
}

TEST_F(KvmHost, the_shared_page_carries_the_core) {
  carrier->ask_for_sync(*vcpu);
  for (int i = 0; i < kStates; ++i) {
    const CpuState s = random.next(kModes[i % 5]);
    Surroundings around;
    around.cr8 = static_cast<uint8_t>(random.below(16));
    expect_ok(carrier->load_synced(*vcpu, s, around));
    ASSERT_NO_FATAL_FAILURE(enter_and_leave());
    // What did not go through the page: from `s`.
    CpuState back = s;
    const CpuState other = random.next(kModes[random.below(5)]);
    back.gpr = other.gpr;
    back.rip = other.rip;
    back.rflags = other.rflags;
    back.segment = other.segment;
    back.ldtr = other.ldtr;
    back.tr = other.tr;
    back.gdtr = other.gdtr;
    back.idtr = other.idtr;
    back.cr0 = other.cr0;
    back.cr2 = other.cr2;
    back.cr3 = other.cr3;
    back.cr4 = other.cr4;
    back.efer = other.efer;
    back.nmi_blocked = !s.nmi_blocked;
    back.nmi_pending = !s.nmi_pending;
    Surroundings seen;
    expect_ok(carrier->store_synced(*vcpu, back, seen));
    ASSERT_EQ(difference(s, back), "") << "state " << i;
    ASSERT_EQ(seen.cr8, around.cr8);
  }
}

TEST_F(KvmHost, a_synced_load_is_forgotten_by_a_full_one) {
  const CpuState first = random.next(Mode::long_kernel);
  const CpuState second = random.next(Mode::real);
  Surroundings around;
  expect_ok(carrier->load_synced(*vcpu, first, around));
  expect_ok(carrier->load(*vcpu, second, around));
  ASSERT_NO_FATAL_FAILURE(enter_and_leave());
  CpuState back = second;
  expect_ok(carrier->store(*vcpu, back, around));
  EXPECT_EQ(difference(second, back), "");
}

TEST_F(KvmHost, interrupt_shadows_are_kept) {
  for (const bool of_mov_ss : {false, true}) {
    CpuState s = random.next(Mode::long_kernel);
    s.rflags |= flag::IF;
    s.shadow = of_mov_ss ? Shadow::debug : Shadow::interrupts;
    Surroundings around;
    expect_ok(carrier->load(*vcpu, s, around));
    ASSERT_NO_FATAL_FAILURE(enter_and_leave());
    CpuState back = s;
    back.shadow = Shadow::none;
    expect_ok(carrier->store(*vcpu, back, around));
    EXPECT_NE(back.shadow, Shadow::none);  // SVM has one kind
    // And go when there is none.
    s.shadow = Shadow::none;
    expect_ok(carrier->load(*vcpu, s, around));
    expect_ok(carrier->store(*vcpu, back, around));
    EXPECT_EQ(back.shadow, Shadow::none);
  }
}

// What a processor would not have, or KVM shows in another form, is not changed by a visit either.
TEST_F(KvmHost, unusual_states_come_back_bit_for_bit) {
  std::vector<CpuState> states;
  const auto add = [&](Mode mode, auto&& change) {
    states.push_back(random.next(mode));
    change(states.back());
  };
  add(Mode::long_kernel, [](CpuState& s) { s.tr = {0, 0, seg::unusable, 0}; });
  add(Mode::long_kernel, [](CpuState& s) { s.tr.attributes = seg::P | 9; });
  add(Mode::long_kernel, [](CpuState& s) { s.segment[SS] = {0, 0, seg::unusable, 0}; });
  add(Mode::protected32, [](CpuState& s) { s.segment[CS].attributes |= seg::L; });
  add(Mode::protected32, [](CpuState& s) { s.segment[DS] = {0, 0xfff, seg::P | seg::S | seg::G | 2, 0x18}; });
  add(Mode::protected32, [](CpuState& s) { s.tr.attributes = seg::P | 3; });
  add(Mode::protected32, [](CpuState& s) { s.segment[CS].attributes &= ~seg::DB; });
  add(Mode::real, [](CpuState& s) {
    s.segment[DS].limit = 0xffffffff;  // big real mode
    s.segment[DS].attributes |= seg::G;
  });
  add(Mode::long_kernel, [](CpuState& s) { s.cr0 = (s.cr0 | cr0::CD | cr0::NW | cr0::EM) & ~cr0::NE; });
  add(Mode::long_kernel, [](CpuState& s) { s.cr0 &= ~cr0::ET; });
  add(Mode::long_kernel, [](CpuState& s) {
    s.cr4 |= cr4::SMEP | cr4::SMAP | cr4::UMIP | cr4::FSGSBASE | cr4::PCE | cr4::MCE | cr4::VME | cr4::PVI | cr4::PSE;
  });
  add(Mode::long_kernel, [](CpuState& s) { s.rflags |= flag::TF | flag::RF; });
  add(Mode::long_kernel, [](CpuState& s) { s.dr7 |= 0xf07aa; });
  states.push_back(CpuState::at_reset(VcpuId(0)));
  for (size_t i = 0; i < states.size(); ++i) {
    const CpuState& s = states[i];
    Surroundings around;
    expect_ok(carrier->load(*vcpu, s, around));
    ASSERT_NO_FATAL_FAILURE(enter_and_leave());
    CpuState back = s;
    expect_ok(carrier->store(*vcpu, back, around));
    EXPECT_EQ(difference(s, back), "") << "state " << i;
  }
}

TEST_F(KvmHost, modes_the_host_does_not_have_are_refused_by_name) {
  CpuState paging = random.next(Mode::protected32);
  paging.cr0 |= cr0::PG;
  CpuState vm86 = random.next(Mode::protected32);
  for (Segment& g : vm86.segment) g = {0x1000, 0xffff, seg::P | seg::S | seg::DPL | 3, 0x100};
  vm86.rflags |= flag::VM;
  Surroundings around;
  for (const CpuState& s : {paging, random.next(Mode::pae), vm86}) {
    const bool lacking = s.vm86() ? quirks.no_vm86 : quirks.no_legacy_paging;
    ASSERT_EQ(carrier->carries(s), !lacking);
    const auto loaded = carrier->load(*vcpu, s, around);
    ASSERT_EQ(loaded.ok(), !lacking);
    EXPECT_EQ(carrier->load_synced(*vcpu, s, around).ok(), !lacking);
    if (lacking) {
      EXPECT_NE(loaded.error().text().find(s.vm86() ? "virtual-8086" : "paging"), std::string::npos);
    } else {
      CpuState back = s;
      expect_ok(carrier->load(*vcpu, s, around));
      expect_ok(carrier->store(*vcpu, back, around));
      EXPECT_EQ(difference(s, back), "");
    }
  }
}

TEST_F(KvmHost, runs_real_mode_code_to_out_and_hlt) {
  code(0x1000, {0xb8, 0x42, 0x00,        // mov ax, 42h
                0xba, 0xe9, 0x00,        // mov dx, e9h
                0xee,                    // out dx, al
                0x05, 0x01, 0x00,        // add ax, 1
                0x66, 0xbb, 0x78, 0x56, 0x34, 0x12,  // mov ebx, 12345678h
                0xf4});                  // hlt
  load_real(0x1000);
  ASSERT_EQ(run_to_exit(), uint32_t{KVM_EXIT_IO});
  const kvm_run& run = vcpu->run_area();
  EXPECT_EQ(run.io.direction, KVM_EXIT_IO_OUT);
  EXPECT_EQ(run.io.port, 0xe9);
  ASSERT_EQ(vcpu->io_data().size(), 1u);
  EXPECT_EQ(vcpu->io_data()[0], 0x42);
  ASSERT_EQ(run_to_exit(), uint32_t{KVM_EXIT_HLT});
  const CpuState s = stored();
  EXPECT_EQ(s.gpr[RAX] & 0xffff, 0x43u);
  EXPECT_EQ(s.gpr[RBX] & 0xffffffff, 0x12345678u);
  EXPECT_EQ(s.rip, 0x1011u);
}

TEST_F(KvmHost, the_dirty_log_shows_each_write_once_and_again_after_the_next) {
  code(0x1000, {0xc6, 0x06, 0x00, 0x50, 0x01,  // mov byte [5000h], 1
                0xc6, 0x06, 0x10, 0x70, 0x01,  // mov byte [7010h], 1
                0xf4});                        // hlt
  std::vector<uint64_t> pages;
  const auto collect = [&] {
    pages.clear();
    expect_ok(slots->collect_dirty([&](uint64_t page) { pages.push_back(page); }));
  };
  collect();
  load_real(0x1000);
  ASSERT_EQ(run_to_exit(), uint32_t{KVM_EXIT_HLT});
  collect();
  EXPECT_EQ(pages, (std::vector<uint64_t>{5, 7}));
  EXPECT_NE(parts->memory->flags(5) & page_flag::dirty, 0);
  EXPECT_EQ(parts->memory->flags(6) & page_flag::dirty, 0);
  collect();
  EXPECT_TRUE(pages.empty()) << "reading the log clears it";
  load_real(0x1005);
  ASSERT_EQ(run_to_exit(), uint32_t{KVM_EXIT_HLT});
  collect();
  EXPECT_EQ(pages, (std::vector<uint64_t>{7})) << "and the next write is seen";
}

TEST_F(KvmHost, the_video_hole_is_mmio) {
  code(0x1000, {0xb8, 0x00, 0xa0,        // mov ax, a000h
                0x8e, 0xd8,              // mov ds, ax
                0xc6, 0x06, 0x02, 0x00, 0x5a,  // mov byte [2], 5ah
                0xf4});
  load_real(0x1000);
  ASSERT_EQ(run_to_exit(), uint32_t{KVM_EXIT_MMIO});
  EXPECT_EQ(vcpu->run_area().mmio.phys_addr, 0xa0002u);
  EXPECT_EQ(vcpu->run_area().mmio.is_write, 1);
  EXPECT_EQ(vcpu->run_area().mmio.data[0], 0x5a);
  ASSERT_EQ(run_to_exit(), uint32_t{KVM_EXIT_HLT});
}

TEST_F(KvmHost, msrs_come_to_us_but_for_those_that_pass) {
  code(0x1000, {0x66, 0xb9, 0x00, 0x01, 0x00, 0xc0,  // mov ecx, c0000100h: FS_BASE passes
                0x66, 0xb8, 0x44, 0x33, 0x22, 0x11,  // mov eax, 11223344h
                0x66, 0x31, 0xd2,                    // xor edx, edx
                0x0f, 0x30,                          // wrmsr
                0x66, 0xb9, 0x76, 0x01, 0, 0,        // mov ecx, 176h: SYSENTER_EIP does for reading
                0x0f, 0x30,                          // wrmsr
                0x0f, 0x32,                          // rdmsr
                0x66, 0xb9, 0x10, 0, 0, 0,           // mov ecx, 10h: TSC does not
                0x0f, 0x32,                          // rdmsr
                0x66, 0xb9, 0xef, 0xbe, 0xad, 0xde,  // mov ecx, deadbeefh: there is none
                0x0f, 0x30,                          // wrmsr
                0xf4});
  load_real(0x1000);
  kvm_run& run = vcpu->run_area();
  ASSERT_EQ(run_to_exit(), uint32_t{KVM_EXIT_X86_WRMSR});
  EXPECT_EQ(run.msr.index, msr::SYSENTER_EIP);
  EXPECT_EQ(run.msr.data, 0x11223344u);
  run.msr.error = 0;
  ASSERT_EQ(run_to_exit(), uint32_t{KVM_EXIT_X86_RDMSR});
  EXPECT_EQ(run.msr.index, msr::TSC);
  run.msr.data = 0x0000000500000006;
  run.msr.error = 0;
  ASSERT_EQ(run_to_exit(), uint32_t{KVM_EXIT_X86_WRMSR});
  EXPECT_EQ(run.msr.index, 0xdeadbeefu);
  EXPECT_EQ(run.msr.data, 0x0000000500000006u);
  run.msr.error = 0;
  ASSERT_EQ(run_to_exit(), uint32_t{KVM_EXIT_HLT});
  EXPECT_EQ(stored().segment[FS].base, 0x11223344u);
}

TEST_F(KvmHost, an_msr_that_kvm_does_not_list_comes_to_us) {
  if (parts->kvm.capabilities().has_msr(msr::TSC_AUX)) GTEST_SKIP() << "this host's KVM lists TSC_AUX";
  code(0x1000, {0x66, 0xb9, 0x03, 0x01, 0x00, 0xc0,  // mov ecx, c0000103h
                0x0f, 0x30,                          // wrmsr
                0xf4});
  load_real(0x1000);
  ASSERT_EQ(run_to_exit(), uint32_t{KVM_EXIT_X86_WRMSR});
  EXPECT_EQ(vcpu->run_area().msr.index, msr::TSC_AUX);
  vcpu->run_area().msr.error = 0;
  ASSERT_EQ(run_to_exit(), uint32_t{KVM_EXIT_HLT});
}

TEST_F(KvmHost, the_cpuid_in_force_is_ours) {
  // KVM adjusts OSXSAVE (leaf 1 ECX) and the size of the XSAVE area (leaf Dh EBX) to CR4 and XCR0.
  const auto want = cpuid_table(VcpuId(0), 1);
  for (const kvm_cpuid_entry2& e : want) {
    if (quirks.adds_host_cpuid && (e.function == 1 || e.function == 7 || e.function == 0xd)) continue;
    const CpuidResult got = lookup_cpuid(cpuid_in_force, e.function, e.index);
    EXPECT_EQ(got.eax, e.eax) << std::hex << e.function;
    EXPECT_EQ(got.ebx, e.ebx) << std::hex << e.function;
    EXPECT_EQ(got.ecx & ~(e.function == 1 ? 1u << 27 : 0), e.ecx) << std::hex << e.function;
    EXPECT_EQ(got.edx, e.edx) << std::hex << e.function;
  }
  EXPECT_EQ(cpuid_in_force.size(), want.size());
}

TEST_F(KvmHost, the_interrupt_given_to_kvm_is_seen_as_a_delivery) {
  load_real(0x1000);
  expect_ok(vcpu->interrupt(0x21));
  CpuState s;
  Surroundings around;
  expect_ok(carrier->store(*vcpu, s, around, part::events));
  EXPECT_TRUE(around.delivery.interrupt);
  EXPECT_EQ(around.delivery.interrupt_vector, 0x21);
  // And goes with the state: vector 21h is taken after the registers were loaded again.
  code(0x84, {0x00, 0x20, 0x00, 0x00});  // IVT: 0000:2000
  code(0x2000, {0xf4});
  code(0x1000, {0xf4});
  CpuState real = stored();
  load_real(0x1000);
  expect_ok(carrier->load(*vcpu, real, around, part::core));
  ASSERT_EQ(run_to_exit(), uint32_t{KVM_EXIT_HLT});
  EXPECT_EQ(stored().rip, 0x2001u);
}

// --- soft -> KVM -> soft ------------------------------------------------------------------------------------------------

class NoControl final : public MachineControl {
 public:
  void request_stop(Stop) override {}
  bool stop_requested() const override { return false; }
};

TEST_F(KvmHost, states_of_the_soft_engine_survive_a_visit_to_kvm) {
  Clock clock;
  Journal journal(clock);
  PortBus ports(journal);
  MmioBus mmio(journal);
  Deadlines deadlines;
  Entropy entropy;
  NoControl control;
  Observers observers;
  const Platform platform{*parts->memory, ports, mmio, clock, deadlines, journal, entropy, control, observers};
  const auto engine = make_soft_engine(platform, {});
  Vcpu cpu(VcpuId(0), engine->vcpu_state(VcpuId(0)));
  // Arithmetic, flags, x87 and SSE, in a loop; every visit begins at another instruction.
  code(0x3000, {0x48, 0x01, 0xd8, 0x48, 0xd1, 0xc3,               // add rax, rbx; rol rbx, 1
                0x48, 0x31, 0xc1, 0xd9, 0xe8, 0xdd, 0xd8,         // xor rcx, rax; fld1; fstp st0
                0x66, 0x48, 0x0f, 0x6e, 0xc0, 0x0f, 0x58, 0xc8,   // movq xmm0, rax; addps xmm1, xmm0
                0x66, 0x0f, 0xef, 0xd0, 0xeb, 0xe5});             // pxor xmm2, xmm0; jmp 3000h
  // One page table for everything: 2 MiB at 0 to itself.
  const auto put = [&](uint64_t at, uint64_t v) { std::memcpy(parts->memory->host(PhysAddr(at)), &v, 8); };
  put(0x10000, 0x11000 | pte::P | pte::RW);
  put(0x11000, 0x12000 | pte::P | pte::RW);
  put(0x12000, pte::P | pte::RW | pte::PS);

  for (int i = 0; i < kStates; ++i) {
    CpuState s = random.next(Mode::long_kernel);
    s.rip = 0x3000;
    s.cr3 = 0x10000;
    s.cr0 &= ~(cr0::TS | cr0::AM);
    s.cr4 |= cr4::OSFXSR;
    s.x87.fcw = 0x37f;
    s.x87.fsw &= 0x3800;  // TOP
    s.mxcsr = 0x1f80;
    s.rflags &= ~flag::IF;
    s.activity = Activity::running;
    s.nmi_pending = false;
    s.shadow = Shadow::none;
    cpu.state = s;
    engine->state_changed(cpu);
    const Position half = clock.position() + (1 + random.below(40));
    ASSERT_EQ(engine->run(cpu, half), EngineStop::limit);
    const CpuState reached = cpu.state;

    Surroundings around;
    expect_ok(carrier->load(*vcpu, reached, around));
    ASSERT_NO_FATAL_FAILURE(enter_and_leave());
    CpuState back = random.next(Mode::real);
    copy_uncarried(reached, carrier->msrs(), back);
    if (quirks.drops_fpu_pointers) back.x87 = reached.x87;  // or the pointers would be zero
    expect_ok(carrier->store(*vcpu, back, around));
    ASSERT_EQ(difference(reached, back), "") << "state " << i;

    // And it goes on as it would have gone on.
    const Position end = half + 30;
    ASSERT_EQ(engine->run(cpu, end), EngineStop::limit);
    const CpuState alone = cpu.state;
    clock.set_retired(half);
    cpu.state = back;
    engine->state_changed(cpu);
    ASSERT_EQ(engine->run(cpu, end), EngineStop::limit);
    ASSERT_EQ(difference(alone, cpu.state), "") << "state " << i;
  }
}

}  // namespace
}  // namespace retrovisor::kvm
