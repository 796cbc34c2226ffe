#include "vmm/kvm/progress_counter.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <vector>

#include "vmm/kvm/tiny_guest.h"

namespace retrovisor::kvm {
namespace {

// A statistics file as KVM makes it: header, id, descriptors, data.
struct StatsFile {
  static constexpr uint32_t kNameSize = 48, kDescriptor = 16 + kNameSize;
  std::vector<uint8_t> bytes;

  explicit StatsFile(const std::vector<std::string>& names) {
    const auto count = static_cast<uint32_t>(names.size());
    put32({0, kNameSize, count, 24, 24 + kNameSize, 24 + kNameSize + count * kDescriptor});
    bytes.resize(24 + kNameSize);
    for (uint32_t i = 0; i < count; ++i) {
      put32({0, uint32_t{1} << 16, i * 8, 0});  // cumulative, no unit; exponent 0, size 1; offset; bucket size
      const size_t at = bytes.size();
      bytes.resize(at + kNameSize);
      std::copy(names[i].begin(), names[i].end(), bytes.begin() + static_cast<long>(at));
    }
    for (uint64_t i = 0; i < count; ++i) put32({static_cast<uint32_t>(100 + i), 0});
  }
  void put32(std::initializer_list<uint32_t> values) {
    for (const uint32_t v : values)
      for (unsigned i = 0; i < 4; ++i) bytes.push_back(static_cast<uint8_t>(v >> (8 * i)));
  }
  void set32(size_t at, uint32_t v) {
    for (unsigned i = 0; i < 4; ++i) bytes[at + i] = static_cast<uint8_t>(v >> (8 * i));
  }
  ReadStats reader() const {
    return [this](uint64_t offset, std::span<uint8_t> out) -> long {
      if (offset >= bytes.size()) return 0;
      const size_t n = std::min(out.size(), bytes.size() - offset);
      std::memcpy(out.data(), bytes.data() + offset, n);
      return static_cast<long>(n);
    };
  }
  static constexpr size_t kFirst = 24 + kNameSize;  // the first descriptor
};

TEST(Stats, finds_a_count_by_its_whole_name) {
  const StatsFile file({"insn", "insn_emulation_fail", "insn_emulation"});
  const auto offset = find_stat(file.reader(), "insn_emulation");
  ASSERT_TRUE(offset.ok()) << offset.error().text();
  ASSERT_EQ(*offset, file.bytes.size() - 8);
  EXPECT_EQ(file.bytes[*offset], 102);
}

TEST(Stats, a_missing_name_is_an_error_of_its_own) {
  const StatsFile file({"exits"});
  const auto offset = find_stat(file.reader(), "insn_emulation");
  ASSERT_FALSE(offset.ok());
  EXPECT_NE(offset.error().message.find("no statistic insn_emulation"), std::string::npos);
}

TEST(Stats, rejects_hostile_headers_and_descriptors) {
  struct Case {
    const char* what;
    size_t at;
    uint32_t value;
  };
  for (const Case& c : {
           Case{"no names", 4, 0},
           Case{"endless names", 4, UINT32_MAX},
           Case{"endless descriptors", 8, UINT32_MAX},
           Case{"descriptors in the header", 16, 8},
           Case{"descriptors beyond the file", 16, UINT32_MAX},
           Case{"data in the header", 20, 0},
           Case{"a histogram", StatsFile::kFirst, 3},
           Case{"bytes", StatsFile::kFirst, 1U << 4},
           Case{"thousands", StatsFile::kFirst + 4, (1U << 16) | 3},
           Case{"an array", StatsFile::kFirst + 4, 2U << 16},
       }) {
    StatsFile file({"insn_emulation"});
    file.set32(c.at, c.value);
    EXPECT_FALSE(find_stat(file.reader(), "insn_emulation").ok()) << c.what;
  }
  StatsFile file({"insn_emulation"});
  std::fill(file.bytes.begin() + StatsFile::kFirst + 16, file.bytes.begin() + StatsFile::kFirst + StatsFile::kDescriptor,
            'x');
  EXPECT_FALSE(find_stat(file.reader(), "insn_emulation").ok()) << "name without an end";
}

TEST(Stats, rejects_files_cut_anywhere_before_the_data) {
  const StatsFile whole({"a", "insn_emulation"});
  const size_t data = whole.bytes.size() - 16;
  for (size_t size = 0; size < data; ++size) {
    StatsFile cut = whole;
    cut.bytes.resize(size);
    EXPECT_FALSE(find_stat(cut.reader(), "insn_emulation").ok()) << size;
  }
  const auto failing = [](uint64_t, std::span<uint8_t>) -> long { return -5; };
  EXPECT_FALSE(find_stat(failing, "insn_emulation").ok());
}

TEST(BranchEvents, are_chosen_by_vendor_family_and_model) {
  EXPECT_EQ(branch_event({"GenuineIntel", 6, 0x5e})->config, 0x01c4U);   // Skylake
  EXPECT_EQ(branch_event({"GenuineIntel", 6, 0x6a})->config, 0x11c4U);   // Ice Lake
  EXPECT_EQ(branch_event({"GenuineIntel", 6, 0x5c})->config, 0x7ec4U);   // Goldmont
  EXPECT_EQ(branch_event({"AuthenticAMD", 0x19, 0x21})->config, 0xd1U);  // Zen 3
  EXPECT_TRUE(branch_event({"AuthenticAMD", 0x19, 0x21})->skid_exceeded);
  EXPECT_FALSE(branch_event({"GenuineIntel", 6, 0x0f})) << "Merom counts inexactly";
  EXPECT_FALSE(branch_event({"AuthenticAMD", 0x15, 2}));
  EXPECT_FALSE(branch_event({"GenuineIntel", 0x19, 0x21}));
  EXPECT_FALSE(branch_event({"", 0, 0}));
}

TEST(HostProcessor, has_a_vendor) { EXPECT_EQ(host_processor().vendor.size(), 12U); }

class Counters : public testing::Test {
 protected:
  void SetUp() override {
    auto kvm = Kvm::open();
    if (!kvm) GTEST_SKIP() << kvm.error().text();
    auto guest = TinyGuest::create(*kvm, tiny_cpuid());
    ASSERT_TRUE(guest.ok()) << guest.error().text();
    guest_ = std::move(*guest);
  }
  // The counter's difference over `code`, which runs to its HLT in ring 0.
  uint64_t count(ProgressCounter& counter, const std::vector<uint8_t>& code) {
    EXPECT_TRUE(guest_->load(TinyGuest::Ring::kernel, code).ok());
    const auto before = counter.read();
    const auto end = guest_->run(std::chrono::seconds(1));
    const auto after = counter.read();
    EXPECT_TRUE(end.ok());
    EXPECT_TRUE(before && after);
    if (!end || !before || !after) return 0;
    EXPECT_EQ(end->kind, TinyGuest::End::Kind::halted) << end->text();
    return *after - *before;
  }
  std::unique_ptr<TinyGuest> guest_;
};

TEST_F(Counters, none_reads_nothing) {
  auto counter = open_progress_counter(ProgressKind::none, guest_->vcpu());
  ASSERT_TRUE(counter.ok());
  EXPECT_EQ((*counter)->kind(), ProgressKind::none);
  EXPECT_FALSE((*counter)->read());
}

TEST_F(Counters, emulated_instructions_count_exactly_where_ring_0_is_emulated) {
  auto counter = open_progress_counter(ProgressKind::emulated_instructions, guest_->vcpu());
  if (!counter) GTEST_SKIP() << counter.error().text();
  const uint64_t base = count(**counter, {});
  if (count(**counter, {0x90}) == base) GTEST_SKIP() << "ring 0 runs natively here: nothing is emulated";
  for (const size_t n : {1U, 100U, 2500U, 100U}) EXPECT_EQ(count(**counter, std::vector<uint8_t>(n, 0x90)) - base, n);
  // mov ecx, 500; next: dec ecx; jnz next
  const uint64_t loop = count(**counter, {0xb9, 0xf4, 0x01, 0x00, 0x00, 0xff, 0xc9, 0x75, 0xfc});
  EXPECT_EQ(loop - base, 1U + 2 * 500);
}

TEST_F(Counters, emulated_instructions_count_exactly_when_the_guest_is_interrupted_on_its_way) {
  auto counter = open_progress_counter(ProgressKind::emulated_instructions, guest_->vcpu());
  if (!counter) GTEST_SKIP() << counter.error().text();
  const uint64_t base = count(**counter, {});
  if (count(**counter, {0x90}) == base) GTEST_SKIP() << "ring 0 runs natively here: nothing is emulated";
  // mov ecx, 20000; next: dec ecx; jnz next
  ASSERT_TRUE(
      guest_->load(TinyGuest::Ring::kernel, std::vector<uint8_t>{0xb9, 0x20, 0x4e, 0, 0, 0xff, 0xc9, 0x75, 0xfc}).ok());
  const auto before = (*counter)->read();
  int interruptions = 0;
  for (int i = 0; i < 10'000; ++i) {
    const auto end = guest_->run(std::chrono::milliseconds(2));
    ASSERT_TRUE(end.ok());
    if (end->kind == TinyGuest::End::Kind::halted) break;
    ASSERT_EQ(end->kind, TinyGuest::End::Kind::time_limit);
    ++interruptions;
  }
  EXPECT_GT(interruptions, 0);
  EXPECT_EQ(*(*counter)->read() - *before - base, 1U + 2 * 20'000);
}

TEST_F(Counters, conditional_branches_count_exactly) {
  auto counter = open_progress_counter(ProgressKind::conditional_branches, guest_->vcpu());
  if (!counter) GTEST_SKIP() << counter.error().text();
  const auto loop = [](uint32_t n) {
    return std::vector<uint8_t>{0xb9, static_cast<uint8_t>(n), static_cast<uint8_t>(n >> 8), 0, 0, 0xff, 0xc9, 0x75, 0xfc};
  };
  const uint64_t base = count(**counter, loop(1));
  if (count(**counter, loop(2)) == base) GTEST_SKIP() << "the event does not count guest code here";
  for (const uint32_t n : {10U, 1000U, 60'000U, 1000U}) EXPECT_EQ(count(**counter, loop(n)) - base, n - 1);
}

}  // namespace
}  // namespace retrovisor::kvm
