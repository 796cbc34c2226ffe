// What the engine does to get a vCPU, against a KVM that is not there, too old, or fails at any point.
#include <gtest/gtest.h>

#include <algorithm>

#include "tests/unit/kvm/fake_kvm.h"
#include "tests/unit/kvm/states.h"
#include "vmm/kvm/cpuid.h"
#include "vmm/kvm/host_quirks.h"
#include "vmm/kvm/memory_slots.h"
#include "vmm/kvm/msr_filter.h"

namespace retrovisor::kvm {
namespace {

// All of it, in the engine's order.
Result<void> set_up(SystemCalls& calls, GuestMemory& memory, CpuState& s) {
  auto kvm = Kvm::open(calls);
  if (!kvm) return std::move(kvm).error();
  auto quirks = probe_quirks(*kvm);
  if (!quirks) return std::move(quirks).error();
  auto vm = kvm->create_vm();
  if (!vm) return std::move(vm).error();
  auto slots = MemorySlots::create(*vm, memory);
  if (!slots) return std::move(slots).error();
  auto vcpu = vm->create_vcpu(0);
  if (!vcpu) return std::move(vcpu).error();
  auto table = install_cpuid(*vcpu, cpuid_table(VcpuId(0), 1));
  if (!table) return std::move(table).error();
  const StateCarrier carrier(kvm->capabilities(), *quirks);
  carrier.ask_for_sync(*vcpu);
  Surroundings around;
  RV_TRY(carrier.load(*vcpu, s, around));
  auto ran = vcpu->run();
  if (!ran) return std::move(ran).error();
  RV_TRY(carrier.store(*vcpu, s, around));
  return slots->collect_dirty();
}

class KvmSetup : public ::testing::Test {
 protected:
  KvmSetup() : memory(GuestMemory::create(kMinRam).value()) {}
  std::string message() {
    FakeKvm& fake = *calls;
    const auto result = set_up(fake, *memory, state);
    EXPECT_FALSE(result.ok());
    return result.ok() ? "" : result.error().text();
  }
  std::unique_ptr<FakeKvm> calls = std::make_unique<FakeKvm>();
  std::unique_ptr<GuestMemory> memory;
  CpuState state = RandomStates(6).next(Mode::long_kernel);
};

TEST_F(KvmSetup, succeeds_and_gives_the_state_back) {
  const CpuState before = state;
  const auto result = set_up(*calls, *memory, state);
  ASSERT_TRUE(result.ok()) << result.error().text();
  EXPECT_EQ(difference(before, state), "");
  EXPECT_TRUE(calls->open_files.empty());
  EXPECT_TRUE(calls->maps.empty());
}

TEST_F(KvmSetup, a_failure_of_any_ioctl_is_an_error_that_names_it) {
  ASSERT_TRUE(set_up(*calls, *memory, state).ok());
  const std::vector<unsigned long> requests = calls->requests;
  ASSERT_GT(requests.size(), 60u);
  for (const int error : {EINVAL, EPERM, ENOMEM, ENOTTY}) {
    for (size_t n = 0; n < requests.size(); ++n) {
      calls = std::make_unique<FakeKvm>();
      calls->fail_call = static_cast<int>(n);
      calls->fail_with = error;
      const std::string text = message();
      EXPECT_NE(text.find(FakeKvm::name_of(requests[n])), std::string::npos) << n << ": " << text;
      EXPECT_NE(text.find(errno_text(error)), std::string::npos) << text;
      EXPECT_NE(text.find("; "), std::string::npos) << "says what to do: " << text;
      EXPECT_TRUE(calls->open_files.empty() && calls->maps.empty()) << text;
    }
  }
}

TEST_F(KvmSetup, enabling_a_capability_names_the_capability) {
  ASSERT_TRUE(set_up(*calls, *memory, state).ok());
  EXPECT_TRUE(std::count(calls->enabled.begin(), calls->enabled.end(), uint32_t{KVM_CAP_X86_USER_SPACE_MSR}) > 0);
  EXPECT_TRUE(std::count(calls->enabled.begin(), calls->enabled.end(), uint32_t{KVM_CAP_ENFORCE_PV_FEATURE_CPUID}) > 0);
  calls = std::make_unique<FakeKvm>();
  calls->fail_request = KVM_ENABLE_CAP;
  EXPECT_NE(message().find("KVM_ENABLE_CAP(KVM_CAP_"), std::string::npos);
}

TEST_F(KvmSetup, an_interrupted_ioctl_is_tried_again) {
  calls->fail_call = 0;
  calls->fail_with = EINTR;
  EXPECT_TRUE(set_up(*calls, *memory, state).ok());
  calls = std::make_unique<FakeKvm>();
  calls->fail_request = KVM_CREATE_VM;
  calls->fail_with = EINTR;
  EXPECT_NE(message().find("KVM_CREATE_VM"), std::string::npos) << "but not for ever";
}

TEST_F(KvmSetup, without_a_device_asks_whether_kvm_is_loaded) {
  calls->open_error = ENOENT;
  const std::string text = message();
  EXPECT_NE(text.find("/dev/kvm"), std::string::npos);
  EXPECT_NE(text.find("is KVM loaded?"), std::string::npos);
  EXPECT_NE(text.find("--engine=soft"), std::string::npos);
}

TEST_F(KvmSetup, without_permission_names_the_group) {
  calls->open_error = EACCES;
  EXPECT_NE(message().find("add yourself to group kvm"), std::string::npos);
}

TEST_F(KvmSetup, refuses_another_api_version) {
  calls->api_version = 11;
  const std::string text = message();
  EXPECT_NE(text.find("11"), std::string::npos) << text;
  EXPECT_NE(text.find("KVM_GET_API_VERSION"), std::string::npos) << text;
}

TEST_F(KvmSetup, a_missing_required_capability_is_named) {
  for (const Capability& c : wanted_capabilities()) {
    if (!c.required) continue;
    calls = std::make_unique<FakeKvm>();
    calls->capabilities[c.number] = 0;
    const std::string text = message();
    EXPECT_NE(text.find(c.name), std::string::npos) << text;
  }
}

TEST_F(KvmSetup, a_capability_that_offers_too_little_is_missing) {
  calls->capabilities[KVM_CAP_SYNC_REGS] = KVM_SYNC_X86_REGS | KVM_SYNC_X86_SREGS;
  EXPECT_NE(message().find("KVM_CAP_SYNC_REGS"), std::string::npos);
}

TEST_F(KvmSetup, optional_capabilities_are_recorded_and_done_without) {
  for (const Capability& c : wanted_capabilities()) {
    if (!c.required) calls->capabilities[c.number] = 0;
  }
  const CpuState before = state;
  EXPECT_TRUE(set_up(*calls, *memory, state).ok());
  EXPECT_EQ(difference(before, state), "");
  for (const unsigned long r : calls->requests) {
    EXPECT_NE(r, KVM_SET_SREGS2);
    EXPECT_NE(r, KVM_SET_TSS_ADDR);
  }
  auto kvm = Kvm::open(*calls);
  ASSERT_TRUE(kvm.ok());
  EXPECT_FALSE(kvm->capabilities().has(KVM_CAP_SREGS2));
  EXPECT_TRUE(kvm->capabilities().has(KVM_CAP_XSAVE));
  EXPECT_EQ(kvm->capabilities().found.size(), wanted_capabilities().size());
}

TEST_F(KvmSetup, a_shared_page_that_is_too_small_is_refused) {
  calls->map_size = 100;
  EXPECT_NE(message().find("KVM_GET_VCPU_MMAP_SIZE"), std::string::npos);
}

TEST_F(KvmSetup, a_failed_map_closes_the_vcpu) {
  calls->map_error = ENOMEM;
  EXPECT_NE(message().find("mmap"), std::string::npos);
  EXPECT_TRUE(calls->open_files.empty());
}

TEST_F(KvmSetup, a_refused_msr_is_named) {
  calls->refused_msrs.insert(msr::LSTAR);
  const std::string text = message();
  EXPECT_NE(text.find("KVM_SET_MSRS"), std::string::npos) << text;
  EXPECT_NE(text.find("c0000082h"), std::string::npos) << text;
}

TEST_F(KvmSetup, xsave_components_that_the_model_lacks_are_an_error_not_a_wrong_state) {
  auto kvm = Kvm::open(*calls);
  auto vm = kvm->create_vm();
  auto vcpu = vm->create_vcpu(0);
  const StateCarrier carrier(kvm->capabilities(), {});
  Surroundings around;
  ASSERT_TRUE(carrier.load(*vcpu, state, around).ok());
  ASSERT_TRUE(vcpu->set_xcr0(7).ok());
  const auto stored = carrier.store(*vcpu, state, around);
  ASSERT_FALSE(stored.ok());
  EXPECT_NE(stored.error().text().find("KVM_GET_XCRS"), std::string::npos) << stored.error().text();
}

TEST_F(KvmSetup, only_listed_msrs_are_moved) {
  state.misc_enable = 12345;  // not listed
  ASSERT_TRUE(set_up(*calls, *memory, state).ok());
  EXPECT_FALSE(calls->msrs.contains(msr::MISC_ENABLE));
  EXPECT_EQ(calls->msrs[msr::LSTAR], state.lstar);
  EXPECT_EQ(state.misc_enable, 12345u);
}

TEST_F(KvmSetup, real_mode_pages_are_placed_before_the_first_vcpu) {
  ASSERT_TRUE(set_up(*calls, *memory, state).ok());
  const auto at = [&](unsigned long request) {
    return std::find(calls->requests.begin(), calls->requests.end(), request) - calls->requests.begin();
  };
  EXPECT_LT(at(KVM_SET_IDENTITY_MAP_ADDR), at(KVM_CREATE_VCPU));
  EXPECT_LT(at(KVM_SET_TSS_ADDR), at(KVM_CREATE_VCPU));
  EXPECT_LT(at(KVM_X86_SET_MSR_FILTER), at(KVM_CREATE_VCPU));
}

// --- the filter ---

struct Filtered {
  std::vector<uint32_t> read, written;
};
Filtered filtered(const FakeKvm& calls) {
  Filtered out;
  for (size_t i = 0; i < calls.filter_bitmaps.size(); ++i) {
    const kvm_msr_filter_range& range = calls.filter.ranges[i];
    const bool writes = range.flags == KVM_MSR_FILTER_WRITE;
    EXPECT_TRUE(writes || range.flags == KVM_MSR_FILTER_READ) << "one range would hide the other";
    for (uint32_t bit = 0; bit < range.nmsrs; ++bit) {
      if ((calls.filter_bitmaps[i][bit / 8] >> bit % 8 & 1) != 0) (writes ? out.written : out.read).push_back(range.base + bit);
    }
  }
  return out;
}

TEST_F(KvmSetup, the_msr_filter_passes_the_list_and_nothing_else) {
  ASSERT_TRUE(set_up(*calls, *memory, state).ok());
  const kvm_msr_filter& f = calls->filter;
  EXPECT_EQ(f.flags, uint32_t{KVM_MSR_FILTER_DEFAULT_DENY});
  const auto [passed, written] = filtered(*calls);
  auto kvm = Kvm::open(*calls);
  EXPECT_EQ(written, written_msrs(kvm->capabilities(), {}));
  EXPECT_EQ(written, (std::vector<uint32_t>{msr::EFER, msr::FS_BASE, msr::GS_BASE, msr::KERNEL_GS_BASE}));
  EXPECT_EQ(passed, passed_msrs(kvm->capabilities()));
  EXPECT_EQ(passed, (std::vector<uint32_t>{msr::SYSENTER_CS, msr::SYSENTER_ESP, msr::SYSENTER_EIP, msr::PAT, msr::EFER,
                                           msr::STAR, msr::LSTAR, msr::CSTAR, msr::SFMASK, msr::FS_BASE, msr::GS_BASE,
                                           msr::KERNEL_GS_BASE}))
      << "not TSC_AUX, which this KVM does not list";
}

TEST_F(KvmSetup, writes_that_kvm_does_not_check_come_to_us) {
  auto kvm = Kvm::open(*calls);
  VmOptions options;
  options.unchecked_msrs = {msr::SFMASK, msr::GS_BASE};
  ASSERT_TRUE(kvm->create_vm(options).ok());
  const auto [passed, written] = filtered(*calls);
  EXPECT_EQ(passed, passed_msrs(kvm->capabilities()));
  EXPECT_EQ(written, (std::vector<uint32_t>{msr::EFER, msr::FS_BASE, msr::KERNEL_GS_BASE}));
}

TEST_F(KvmSetup, every_passed_msr_is_part_of_the_state_that_is_moved) {
  calls->listed_msrs.assign(msrs_kept_by_cpu().begin(), msrs_kept_by_cpu().end());
  auto kvm = Kvm::open(*calls);
  const StateCarrier carrier(kvm->capabilities(), {});
  const auto passed = passed_msrs(kvm->capabilities());
  EXPECT_EQ(passed.size(), msrs_kept_by_cpu().size());
  for (const uint32_t index : passed) {
    if (index == msr::EFER || index == msr::FS_BASE || index == msr::GS_BASE) continue;  // in SREGS
    EXPECT_TRUE(std::count(carrier.msrs().begin(), carrier.msrs().end(), index) == 1) << std::hex << index;
  }
}

// --- the shared page ---

TEST_F(KvmSetup, io_data_stays_inside_the_shared_page) {
  auto kvm = Kvm::open(*calls);
  auto vm = kvm->create_vm();
  auto vcpu = vm->create_vcpu(0);
  ASSERT_TRUE(vcpu.ok());
  kvm_run& run = vcpu->run_area();
  run.io = {.direction = 1, .size = 2, .port = 0x80, .count = 3, .data_offset = 4096};
  EXPECT_EQ(vcpu->io_data().size(), 6u);
  run.io.data_offset = FakeKvm::kMapSize - 5;
  EXPECT_TRUE(vcpu->io_data().empty());
  run.io.data_offset = UINT64_MAX;
  EXPECT_TRUE(vcpu->io_data().empty());
  run.io.data_offset = 4096;
  run.io.count = UINT32_MAX;
  EXPECT_TRUE(vcpu->io_data().empty());
}

TEST_F(KvmSetup, a_signal_ends_a_run_without_error) {
  auto kvm = Kvm::open(*calls);
  auto vm = kvm->create_vm();
  auto vcpu = vm->create_vcpu(0);
  calls->fail_request = KVM_RUN;
  calls->fail_with = EINTR;
  auto ran = vcpu->run();
  ASSERT_TRUE(ran.ok());
  EXPECT_EQ(*ran, KvmVcpu::Ran::interrupted);
  calls->fail_with = EFAULT;
  ran = vcpu->run();
  ASSERT_FALSE(ran.ok());
  EXPECT_NE(ran.error().text().find("KVM_RUN"), std::string::npos);
}

TEST_F(KvmSetup, the_synced_page_carries_the_core) {
  auto kvm = Kvm::open(*calls);
  auto vm = kvm->create_vm();
  auto vcpu = vm->create_vcpu(0);
  const StateCarrier carrier(kvm->capabilities(), {});
  carrier.ask_for_sync(*vcpu);
  EXPECT_EQ(vcpu->run_area().kvm_valid_regs, 7u);
  RandomStates random(8);
  for (const Mode mode : kAllModes) {
    const CpuState s = random.next(mode);
    Surroundings around;
    around.cr8 = 9;
    ASSERT_TRUE(carrier.load_synced(*vcpu, s, around).ok());
    EXPECT_EQ(vcpu->run_area().cr8, 9u);
    EXPECT_EQ(vcpu->run_area().kvm_dirty_regs, mode == Mode::pae ? 5u : 7u);
    if (mode == Mode::pae) vcpu->run_area().s.regs.sregs = to_sregs(s, around);  // as KVM would
    CpuState back = s;
    back.gpr = {};
    back.cr3 = 0x123000;
    back.pdpte = {};
    Surroundings seen;
    if (mode != Mode::pae) back.pdpte = s.pdpte;
    ASSERT_TRUE(carrier.store_synced(*vcpu, back, seen).ok());
    EXPECT_EQ(difference(s, back), "");
    EXPECT_EQ(seen.cr8, 9);
  }
}

TEST_F(KvmSetup, the_synced_page_carries_the_registers_alone_if_asked) {
  auto kvm = Kvm::open(*calls);
  auto vm = kvm->create_vm();
  auto vcpu = vm->create_vcpu(0);
  const StateCarrier carrier(kvm->capabilities(), {});
  carrier.ask_for_sync(*vcpu, part::regs);
  EXPECT_EQ(vcpu->run_area().kvm_valid_regs, 1u);
  RandomStates random(9);
  const CpuState old = random.next(Mode::long_kernel), now = random.next(Mode::real);
  Surroundings around;
  vcpu->run_area().s.regs = {to_regs(now), to_sregs(now, around), to_events(now, around)};
  CpuState seen = old;
  ASSERT_TRUE(carrier.store_synced(*vcpu, seen, around).ok());
  EXPECT_EQ(seen.gpr, now.gpr);
  EXPECT_EQ(seen.rip, now.rip);
  EXPECT_EQ(seen.rflags, now.rflags);
  seen.gpr = old.gpr;
  seen.rip = old.rip;
  seen.rflags = old.rflags;
  EXPECT_EQ(difference(old, seen), "");
}

TEST_F(KvmSetup, segments_fetched_between_two_synced_stores_do_not_hide_the_second) {
  auto kvm = Kvm::open(*calls);
  auto vm = kvm->create_vm();
  auto vcpu = vm->create_vcpu(0);
  const StateCarrier carrier(kvm->capabilities(), {});
  carrier.ask_for_sync(*vcpu);
  RandomStates random(10);
  const CpuState first = random.next(Mode::long_kernel), second = random.next(Mode::long_kernel);
  Surroundings around;
  CpuState seen = first;
  vcpu->run_area().s.regs.sregs = to_sregs(first, around);
  ASSERT_TRUE(carrier.store_synced(*vcpu, seen, around).ok());
  ASSERT_TRUE(vcpu->set_sregs(to_sregs(second, around)).ok());
  ASSERT_TRUE(carrier.store(*vcpu, seen, around, part::sregs).ok());
  EXPECT_EQ(seen.cr3, second.cr3);
  ASSERT_TRUE(carrier.store_synced(*vcpu, seen, around).ok());
  EXPECT_EQ(seen.cr3, first.cr3);
}

// --- memory ---

TEST(MemorySlots, leave_the_video_hole_out) {
  auto memory = GuestMemory::create(kMinRam).value();
  const auto slots = plan_slots(*memory);
  ASSERT_EQ(slots.size(), 2u);
  EXPECT_EQ(slots[0].first_page, 0u);
  EXPECT_EQ(slots[0].pages, 0xa0u);
  EXPECT_EQ(slots[1].first_page, 0xc0u);
  EXPECT_EQ(slots[1].first_page + slots[1].pages, kMinRam >> kPageShift);
}

TEST(MemorySlots, cover_exactly_the_ram) {
  auto memory = GuestMemory::create(uint64_t{5} << 30).value();
  const auto slots = plan_slots(*memory);
  ASSERT_EQ(slots.size(), 3u);
  uint64_t pages = 0;
  for (const MemorySlot& slot : slots) {
    EXPECT_TRUE(memory->is_ram(PhysAddr(slot.first_page << kPageShift)));
    EXPECT_TRUE(memory->is_ram(PhysAddr(((slot.first_page + slot.pages) << kPageShift) - 1)));
    EXPECT_FALSE(memory->is_ram(PhysAddr((slot.first_page + slot.pages) << kPageShift)));
    pages += slot.pages;
  }
  EXPECT_EQ(pages, ((uint64_t{5} << 30) - (kVideoHoleEnd - kVideoHoleBegin)) >> kPageShift);
  EXPECT_EQ(slots[2].first_page, kHighRamBegin >> kPageShift);
}

TEST(MemorySlots, are_logged_and_point_to_the_memory) {
  FakeKvm calls;
  auto memory = GuestMemory::create(kMinRam).value();
  auto kvm = Kvm::open(calls);
  auto vm = kvm->create_vm();
  auto slots = MemorySlots::create(*vm, *memory);
  ASSERT_TRUE(slots.ok());
  ASSERT_EQ(calls.regions.size(), 2u);
  for (const auto& r : calls.regions) {
    EXPECT_EQ(r.flags, uint32_t{KVM_MEM_LOG_DIRTY_PAGES});
    EXPECT_EQ(r.userspace_addr, reinterpret_cast<uintptr_t>(memory->host(PhysAddr(r.guest_phys_addr))));
  }
}

TEST(MemorySlots, mark_what_the_log_shows_in_ascending_order) {
  FakeKvm calls;
  auto memory = GuestMemory::create(kMinRam).value();
  auto kvm = Kvm::open(calls);
  auto vm = kvm->create_vm();
  auto slots = MemorySlots::create(*vm, *memory);
  ASSERT_TRUE(slots.ok());
  calls.dirty_log = [](uint32_t slot, uint64_t* bitmap) {
    if (slot == 0) bitmap[0] = 1 | uint64_t{1} << 63, bitmap[2] = ~uint64_t{0} << 31;  // slot 0 ends at bit 32 of word 2
    if (slot == 1) bitmap[1] = 1;
  };
  memory->mark_dirty(PhysAddr(0));  // dirty before: still visited
  std::vector<uint64_t> pages;
  ASSERT_TRUE(slots->collect_dirty([&](uint64_t page) { pages.push_back(page); }).ok());
  EXPECT_EQ(pages, (std::vector<uint64_t>{0, 63, 0x9f, 0xc0 + 64}));
  std::vector<uint64_t> dirty;
  memory->take_dirty([&](uint64_t page) { dirty.push_back(page); });
  EXPECT_EQ(dirty, pages);
  // KVM may leave the buffer alone if nothing was written: nothing of the last time is left in it.
  calls.dirty_log = nullptr;
  pages.clear();
  ASSERT_TRUE(slots->collect_dirty([&](uint64_t page) { pages.push_back(page); }).ok());
  EXPECT_TRUE(pages.empty());
}

// --- CPUID ---

TEST(KvmCpuid, the_table_answers_as_the_model_does) {
  CpuState s = CpuState::at_reset(VcpuId(0));
  s.efer |= efer::LMA;
  s.segment[CS].attributes |= seg::L;
  for (const uint32_t vcpus : {1u, 2u, 7u}) {
    for (uint32_t id = 0; id < vcpus; ++id) {
      const auto table = cpuid_table(VcpuId(id), vcpus);
      EXPECT_LE(table.size(), 80u) << "older kernels take no more";
      const auto check = [&](uint32_t leaf, uint32_t subleaf) {
        const CpuidResult want = cpuid(leaf, subleaf, s, VcpuId(id), vcpus);
        const CpuidResult got = lookup_cpuid(table, leaf, subleaf);
        EXPECT_TRUE(want.eax == got.eax && want.ebx == got.ebx && want.ecx == got.ecx && want.edx == got.edx)
            << std::hex << leaf << "." << subleaf;
      };
      for (uint32_t leaf = 0; leaf < 0x40; ++leaf) {
        for (uint32_t subleaf = 0; subleaf < 8; ++subleaf) check(leaf, subleaf);
      }
      for (uint32_t leaf = 0x80000000; leaf < 0x80000020; ++leaf) check(leaf, 0);
      check(0x40000000, 0);
      check(0xc0000000, 0);
      check(0xffffffff, 0);
    }
  }
}

TEST(KvmCpuid, kvm_does_not_show) {
  for (const kvm_cpuid_entry2& e : cpuid_table(VcpuId(0), 1)) {
    EXPECT_FALSE(e.function > 0x40000000 && e.function < 0x80000000) << std::hex << e.function;
    EXPECT_NE(e.ebx, 0x4b4d564bu) << "KVMK";
  }
}

TEST(KvmCpuid, a_host_with_everything_misses_nothing) {
  EXPECT_TRUE(missing_features(cpuid_table(VcpuId(0), 1)).empty());
}

TEST(KvmCpuid, missing_features_have_names) {
  auto supported = cpuid_table(VcpuId(0), 1);
  for (kvm_cpuid_entry2& e : supported) {
    if (e.function == 7) e.ebx &= ~(1u << 20);
    if (e.function == 1) e.ecx &= ~(1u << 13 | 1u << 24);
  }
  EXPECT_EQ(missing_features(supported), (std::vector<std::string>{"CMPXCHG16B", "SMAP"}));
  for (const std::string& name : missing_features({})) EXPECT_EQ(name.find("CPUID leaf"), std::string::npos) << name;
}

}  // namespace
}  // namespace retrovisor::kvm
