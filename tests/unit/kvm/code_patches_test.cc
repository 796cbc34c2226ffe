#include "vmm/kvm/code_patches.h"

#include <capstone/capstone.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdlib>
#include <filesystem>
#include <string>
#include <vector>

#include "tools/elf_sections.h"

namespace retrovisor::kvm {
namespace {

using Bytes = std::vector<uint8_t>;
constexpr PhysAddr kText{0x100000};
constexpr LinearAddr kLinear{0xffffffff81000000};
// Calls of what follows: there is code around.
const Bytes kCalls{0xe8, 0, 0, 0, 0, 0xe8, 0, 0, 0, 0, 0xe8, 0, 0, 0, 0};

class Patches : public testing::Test {
 protected:
  void SetUp() override {
    auto made = GuestMemory::create(kMinRam);
    ASSERT_TRUE(made.ok());
    memory_ = std::move(made).value();
    patches_ = std::make_unique<CodePatches>(*memory_);
  }
  void put(PhysAddr at, const Bytes& bytes) { ASSERT_TRUE(memory_->write(at, bytes)); }
  Bytes get(PhysAddr at, size_t size) {
    Bytes bytes(size);
    EXPECT_TRUE(memory_->read(at, bytes));
    return bytes;
  }
  CodePatches::Report scan(PhysAddr at, uint64_t size, unsigned bits = 64, std::span<const LinearAddr> starts = {}) {
    auto report = patches_->scan({{at, size}, kLinear, bits, starts});
    EXPECT_TRUE(report.ok());
    return report.ok() ? *report : CodePatches::Report{};
  }
  // Code with one RDTSC among other instructions, scanned and patched.
  void patch_one() {
    put(kText, {0x55, 0x0f, 0x31, 0x90, 0x90, 0x90, 0xc3});
    EXPECT_EQ(scan(kText, 7).found, 1U);
    patches_->patch();
  }
  std::vector<uint64_t> breakpoints() const {
    std::vector<uint64_t> out;
    for (const auto& [at, site] : patches_->sites()) out.push_back(at);
    return out;
  }

  std::unique_ptr<GuestMemory> memory_;
  std::unique_ptr<CodePatches> patches_;
};

TEST(Classify, knows_the_instructions_and_their_operands) {
  const auto rdtsc = classify(Bytes{0x0f, 0x31}, 64, false);
  ASSERT_TRUE(rdtsc);
  EXPECT_EQ(rdtsc->kind, PatchKind::rdtsc);
  EXPECT_EQ(rdtsc->length, 2);
  const auto rdtscp = classify(Bytes{0x0f, 0x01, 0xf9}, 64, false);
  ASSERT_TRUE(rdtscp);
  EXPECT_EQ(rdtscp->kind, PatchKind::rdtscp);
  EXPECT_EQ(rdtscp->length, 3);
  const auto rdrand = classify(Bytes{0x49, 0x0f, 0xc7, 0xf2}, 64, false);  // rdrand r10
  ASSERT_TRUE(rdrand);
  EXPECT_EQ(rdrand->kind, PatchKind::rdrand);
  EXPECT_EQ(rdrand->reg, 10);
  EXPECT_EQ(rdrand->operand_bytes, 8);
  EXPECT_EQ(rdrand->opcode, 1);
  EXPECT_EQ(rdrand->length, 4);
  const auto rdseed = classify(Bytes{0x66, 0x0f, 0xc7, 0xfb}, 64, false);  // rdseed bx
  ASSERT_TRUE(rdseed);
  EXPECT_EQ(rdseed->kind, PatchKind::rdseed);
  EXPECT_EQ(rdseed->reg, 3);
  EXPECT_EQ(rdseed->operand_bytes, 2);
  const auto cpuid = classify(Bytes{0x0f, 0xa2}, 64, false);
  ASSERT_TRUE(cpuid);
  EXPECT_EQ(cpuid->kind, PatchKind::cpuid);
  EXPECT_EQ(cpuid->length, 2);
}

TEST(Classify, knows_the_returns_to_programs) {
  const auto kind = [](const Bytes& bytes, unsigned bits = 64) {
    const auto found = classify(bytes, bits, false);
    return found ? std::optional(found->kind) : std::nullopt;
  };
  EXPECT_EQ(kind({0x48, 0xcf}), PatchKind::iret);
  EXPECT_EQ(kind({0xcf}), std::nullopt);  // IRETD: no 64-bit kernel returns by it
  EXPECT_EQ(kind({0x48, 0xcf}, 32), std::nullopt);
  EXPECT_EQ(kind({0x48, 0x0f, 0x07}), PatchKind::sysret);
  EXPECT_EQ(kind({0x0f, 0x07}), PatchKind::sysret);
  EXPECT_EQ(kind({0x48, 0x0f, 0x35}), PatchKind::sysexit);
}

// Linux puts LFENCE; RDTSC in the place of RDTSC, and RDTSCP in the place of both, copied from patched code. Somebody may look
// between the two.
TEST_F(Patches, a_replacement_that_begins_before_what_it_replaces_is_taken_over) {
  patch_one();
  put(kText + 1, {0x0f, 0xae, 0xe8, 0xcc, 0x31});
  patches_->recheck({kText, kPageSize});
  EXPECT_EQ(breakpoints(), std::vector<uint64_t>{kText.value + 4});
  put(kText + 1, {0xcc, 0x01, 0xf9, 0x66, 0x90});
  patches_->recheck({kText, kPageSize});
  EXPECT_EQ(breakpoints(), std::vector<uint64_t>{kText.value + 1});
  patches_->unpatch();
  EXPECT_EQ(get(kText, 6), (Bytes{0x55, 0x0f, 0x01, 0xf9, 0x66, 0x90}));
}

TEST_F(Patches, a_replacement_close_before_another_site_is_taken_over) {
  put(kText, {0x55, 0x0f, 0x31, 0x90, 0x90, 0x90, 0x50, 0x0f, 0x31, 0x90, 0x90, 0x90, 0xc3});
  EXPECT_EQ(scan(kText, 13).found, 2U);
  patches_->patch();
  for (const Bytes& replacement : {Bytes{0x0f, 0xae, 0xe8, 0xcc, 0x31}, Bytes{0xcc, 0x01, 0xf9, 0x66, 0x90}}) {
    put(kText + 1, replacement);
    patches_->recheck({kText, kPageSize});
  }
  EXPECT_EQ(breakpoints(), (std::vector<uint64_t>{kText.value + 1, kText.value + 7}));
}

TEST_F(Patches, a_gap_between_functions_is_not_taken_for_a_replacement) {
  put(kText, {0x55, 0x90, 0x90, 0x90, 0x90, 0x90, 0x0f, 0x31, 0xc3});
  EXPECT_EQ(scan(kText, 9).found, 1U);
  patches_->patch();
  put(kText, {0xc3, 0xcc, 0xcc, 0x31, 0xc0, 0xc3, 0x90, 0x90, 0x90});
  patches_->recheck({kText, kPageSize});
  EXPECT_TRUE(breakpoints().empty());
}

TEST_F(Patches, returns_to_programs_are_sites_only_where_asked_for) {
  Bytes code = {0x55, 0x0f, 0x31};
  code.insert(code.end(), kCalls.begin(), kCalls.end());
  code.insert(code.end(), {0x48, 0xcf, 0x90, 0x48, 0x0f, 0x07, 0x90, 0x0f, 0x20, 0xe0});
  put(kText, code);
  EXPECT_EQ(scan(kText, code.size()).found, 1U);
  patches_ = std::make_unique<CodePatches>(*memory_, PatchKinds{.returns = true, .cr4 = true});
  EXPECT_EQ(scan(kText, code.size()).found, 4U);
  patches_->patch();
  EXPECT_EQ(breakpoints(), (std::vector<uint64_t>{kText.value + 1, kText.value + 19, kText.value + 22, kText.value + 25}));
  Bytes seen = get(kText, code.size());
  EXPECT_NE(seen, code);
  patches_->original(kText, seen);
  EXPECT_EQ(seen, code);
  ASSERT_NE(patches_->find(kText + 18), nullptr);
  EXPECT_EQ(patches_->find(kText + 18)->instruction.kind, PatchKind::iret);
  patches_->unpatch();
  EXPECT_EQ(get(kText, code.size()), code);
}

TEST_F(Patches, what_looks_like_a_return_among_numbers_is_none) {
  Bytes table(600, 0x90);  // numbers that happen to decode
  table.insert(table.end(), {0x48, 0xcf, 0x90, 0x0f, 0x07, 0x90, 0x90});
  put(kText, table);
  patches_ = std::make_unique<CodePatches>(*memory_, PatchKinds{.returns = true, .cr4 = true});
  EXPECT_EQ(scan(kText, table.size()).found, 0U);
}

// Debian's kernel has such a CPUID in its table of symbols, which it maps executable for a while.
TEST_F(Patches, far_from_known_code_a_site_needs_branches_before_it_or_behind) {
  const Bytes rdtsc = {0x0f, 0x31, 0x90};
  const auto found = [&](bool before, bool behind) {
    Bytes code(2000, 0x90);
    if (before) code.insert(code.end(), kCalls.begin(), kCalls.end());
    code.insert(code.end(), rdtsc.begin(), rdtsc.end());
    if (behind) code.insert(code.end(), kCalls.begin(), kCalls.end());
    code.insert(code.end(), 100, 0x90);
    put(kText, code);
    patches_ = std::make_unique<CodePatches>(*memory_);
    const auto report = scan(kText, code.size());
    EXPECT_EQ(report.found + report.doubtful, 1U);
    return report.found;
  };
  EXPECT_EQ(found(false, false), 0U);
  EXPECT_EQ(found(true, false), 1U);
  EXPECT_EQ(found(false, true), 1U);
}

// What the first looked like is no place to start from for the second.
TEST_F(Patches, what_lies_near_something_doubtful_is_not_known_code) {
  Bytes table(2000, 0x90);
  for (unsigned i = 0; i < 4; ++i) table.insert(table.end(), {0x0f, 0x31, 0x90, 0x90});
  table.insert(table.end(), {0xb8, 0x0f, 0x31, 0x90, 0x90, 0x0f, 0xa2, 0x90});  // inside another instruction; again one
  put(kText, table);
  EXPECT_EQ(scan(kText, table.size()).found, 0U);
}

TEST(Classify, operand_size_follows_the_mode) {
  EXPECT_EQ(classify(Bytes{0x0f, 0xc7, 0xf0}, 16, false)->operand_bytes, 2);
  EXPECT_EQ(classify(Bytes{0x66, 0x0f, 0xc7, 0xf0}, 16, false)->operand_bytes, 4);
  EXPECT_EQ(classify(Bytes{0x0f, 0xc7, 0xf0}, 32, false)->operand_bytes, 4);
  EXPECT_FALSE(classify(Bytes{0x48, 0x0f, 0xc7, 0xf0}, 32, false)) << "48 is DEC EAX here";
}

TEST(Classify, refuses_what_only_looks_like_them) {
  for (const Bytes& bytes : {
           Bytes{0xf3, 0x0f, 0xc7, 0xf8},  // RDPID
           Bytes{0xf0, 0x0f, 0x31},        // LOCK: #UD
           Bytes{0x0f, 0xc7, 0x30},        // memory operand: VMPTRLD
           Bytes{0x0f, 0xc7, 0xc8},        // register form of CMPXCHG8B: #UD
           Bytes{0x0f, 0x01, 0xf8},        // SWAPGS
           Bytes{0x66, 0x0f, 0x31},        // no assembler makes it
           Bytes{0x0f},
           Bytes{0x48},
           Bytes{},
       })
    EXPECT_FALSE(classify(bytes, 64, false)) << testing::PrintToString(bytes);
}

TEST(Classify, patched_form_tells_the_same_instruction) {
  for (const Bytes& bytes : {Bytes{0x0f, 0x31}, Bytes{0x0f, 0x01, 0xf9}, Bytes{0x4c, 0x0f, 0xc7, 0xfa}}) {
    Bytes patched = bytes;
    *std::find(patched.begin(), patched.end(), 0x0f) = 0xcc;
    EXPECT_EQ(classify(patched, 64, true), classify(bytes, 64, false));
    EXPECT_FALSE(classify(bytes, 64, true));
  }
}

TEST_F(Patches, patch_puts_a_breakpoint_over_the_opcode_and_unpatch_takes_it_away) {
  put(kText, {0x55, 0x0f, 0x31, 0x48, 0x0f, 0xc7, 0xf2, 0x0f, 0x01, 0xf9, 0xc3});
  EXPECT_EQ(scan(kText, 11).found, 3U);
  EXPECT_EQ(get(kText, 2), (Bytes{0x55, 0x0f})) << "scan writes nothing";
  patches_->patch();
  EXPECT_EQ(get(kText, 11), (Bytes{0x55, 0xcc, 0x31, 0x48, 0xcc, 0xc7, 0xf2, 0xcc, 0x01, 0xf9, 0xc3}));
  patches_->unpatch();
  EXPECT_EQ(get(kText, 11), (Bytes{0x55, 0x0f, 0x31, 0x48, 0x0f, 0xc7, 0xf2, 0x0f, 0x01, 0xf9, 0xc3}));
  EXPECT_EQ(patches_->sites().size(), 3U) << "the list stays";
}

TEST_F(Patches, a_trap_is_found_by_its_breakpoint_and_by_its_first_prefix) {
  put(kText, {0x90, 0x48, 0x0f, 0xc7, 0xf2, 0xc3});
  scan(kText, 6);
  const auto* by_breakpoint = patches_->find(kText + 2);
  ASSERT_NE(by_breakpoint, nullptr);
  EXPECT_EQ(by_breakpoint->instruction.kind, PatchKind::rdrand);
  EXPECT_EQ(by_breakpoint->start, kText + 1);
  EXPECT_EQ(patches_->find(kText + 1), by_breakpoint);
  EXPECT_EQ(patches_->find(kText), nullptr);
  EXPECT_EQ(patches_->find(kText + 3), nullptr);
}

TEST_F(Patches, bytes_inside_another_instruction_are_left_alone) {
  // mov eax, 0x9090310f; rdtsc; mov rax, [rip + 0xf9010f31]; ret
  put(kText, {0xb8, 0x0f, 0x31, 0x90, 0x90, 0x0f, 0x31, 0x48, 0x8b, 0x05, 0x0f, 0x31, 0x01, 0xf9, 0xc3});
  const auto report = scan(kText, 15);
  EXPECT_EQ(report.found, 1U);
  EXPECT_EQ(report.doubtful, 0U);
  EXPECT_EQ(breakpoints(), (std::vector<uint64_t>{kText.value + 5}));
}

TEST_F(Patches, after_bytes_that_are_no_code_a_site_is_doubtful_until_the_sweep_is_in_step) {
  Bytes code = {0x06, 0x06, 0x06};  // PUSH ES: no instruction in 64-bit mode
  code.insert(code.end(), {0x90, 0x90, 0x0f, 0x31});
  const size_t second = code.size() + 40;
  code.insert(code.end(), 40, 0x90);
  code.insert(code.end(), {0x0f, 0x31, 0xc3});
  put(kText, code);
  const auto report = scan(kText, code.size());
  EXPECT_EQ(report.found, 1U);
  EXPECT_EQ(report.doubtful, 1U);
  EXPECT_EQ(breakpoints(), (std::vector<uint64_t>{kText.value + second}));
}

TEST_F(Patches, a_known_start_settles_doubt) {
  put(kText, {0x06, 0x06, 0x06, 0x90, 0x0f, 0x31, 0xc3});
  EXPECT_EQ(scan(kText, 7).found, 0U);
  const std::array<LinearAddr, 2> starts = {kLinear, kLinear + 3};
  const auto report = scan(kText, 7, 64, starts);
  EXPECT_EQ(report.found, 1U);
  EXPECT_EQ(report.doubtful, 0U);
}

TEST_F(Patches, an_instruction_that_would_run_into_a_known_start_is_no_instruction) {
  put(kText, {0xb8, 0x0f, 0x31, 0x0f, 0x31, 0xc3});  // mov eax, 0x310f310f, or from 3 on: rdtsc; ret
  EXPECT_EQ(scan(kText, 6).found, 0U);
  const std::array<LinearAddr, 1> starts = {kLinear + 3};
  EXPECT_EQ(scan(kText, 6, 64, starts).found, 1U);
  EXPECT_EQ(breakpoints(), (std::vector<uint64_t>{kText.value + 3}));
}

TEST_F(Patches, newer_instructions_do_not_bring_the_sweep_out_of_step) {
  // rdpkru; wrpkru; serialize; rdtsc; ret
  put(kText, {0x0f, 0x01, 0xee, 0x0f, 0x01, 0xef, 0x0f, 0x01, 0xe8, 0x0f, 0x31, 0xc3});
  EXPECT_EQ(scan(kText, 12).found, 1U);
}

TEST_F(Patches, zeros_are_data) {
  Bytes code(600, 0);
  code.insert(code.end(), {0x0f, 0x31, 0xc3});
  put(kText, code);
  EXPECT_EQ(scan(kText, code.size()).doubtful, 1U);
}

TEST_F(Patches, scanning_in_pieces_and_while_patched_finds_the_same) {
  Bytes code;
  for (int i = 0; i < 3000; ++i) code.insert(code.end(), {0x48, 0x89, 0xc3, 0x0f, 0x31, 0x90});
  code.resize(0x11000, 0x90);
  put(kText, code);
  EXPECT_EQ(scan(kText, code.size()).found, 3000U);
  const auto all = breakpoints();
  patches_->patch();
  EXPECT_EQ(scan(kText, code.size()).found, 0U);
  EXPECT_EQ(breakpoints(), all);

  CodePatches pieces(*memory_);
  patches_->unpatch();
  size_t found = 0;
  for (uint64_t at = 0; at < code.size(); at += 0x1002) {
    const auto report = pieces.scan({{kText + at, std::min<uint64_t>(0x1002, code.size() - at)}, kLinear + at, 64, {}});
    ASSERT_TRUE(report.ok());
    found += report->found;
  }
  EXPECT_EQ(found, 3000U);
}

TEST_F(Patches, a_candidate_across_a_chunk_end_is_found) {
  Bytes code(0x10000 - 1 - kCalls.size(), 0x90);
  code.insert(code.end(), kCalls.begin(), kCalls.end());
  code.insert(code.end(), {0x0f, 0x01, 0xf9, 0xc3});
  put(kText, code);
  EXPECT_EQ(scan(kText, code.size()).found, 1U);
}

TEST_F(Patches, ranges_outside_of_memory_and_odd_modes_are_errors) {
  EXPECT_FALSE(patches_->scan({{PhysAddr(0x9f000), 0x2000}, kLinear, 64, {}}).ok()) << "the video hole";
  EXPECT_FALSE(patches_->scan({{PhysAddr(kMinRam - 0x1000), 0x2000}, kLinear, 64, {}}).ok());
  EXPECT_FALSE(patches_->scan({{PhysAddr(UINT64_MAX - 5), 100}, kLinear, 64, {}}).ok());
  EXPECT_FALSE(patches_->scan({{kText, 0}, kLinear, 64, {}}).ok());
  EXPECT_FALSE(patches_->scan({{kText, 16}, kLinear, 63, {}}).ok());
}

TEST_F(Patches, the_list_is_bounded) {
  Bytes code;
  for (size_t i = 0; i < CodePatches::kMaxSites + 10; ++i) code.insert(code.end(), {0x0f, 0x31});
  put(kText, code);
  const auto report = scan(kText, code.size());
  EXPECT_EQ(report.found, CodePatches::kMaxSites);
  EXPECT_FALSE(report.complete);
  EXPECT_EQ(patches_->sites().size(), CodePatches::kMaxSites);
}

TEST_F(Patches, bytes_made_to_be_doubtful_end_the_scan_in_time) {
  Bytes code;
  while (code.size() < (size_t{8} << 20)) code.insert(code.end(), {0x06, 0x0f, 0x31, 0x06, 0x00, 0x00, 0x07});
  put(kText, code);
  const auto report = scan(kText, code.size());
  EXPECT_FALSE(report.complete);
}

TEST_F(Patches, original_shows_what_the_guest_wrote_at_any_cut) {
  const Bytes code = {0x55, 0x0f, 0x31, 0x48, 0x0f, 0xc7, 0xf2, 0xcc, 0xc3};
  put(kText, code);
  scan(kText, code.size());
  patches_->patch();
  for (size_t from = 0; from < code.size(); ++from) {
    for (size_t to = from; to <= code.size(); ++to) {
      Bytes seen = get(kText + from, to - from);
      patches_->original(kText + from, seen);
      EXPECT_EQ(seen, Bytes(code.begin() + static_cast<long>(from), code.begin() + static_cast<long>(to)));
    }
  }
}

TEST_F(Patches, a_page_is_read_without_becoming_dirty) {
  patch_one();
  memory_->take_dirty([](uint64_t) {});
  patches_->unpatch();
  patches_->patch();
  size_t dirty = 0;
  memory_->take_dirty([&](uint64_t) { ++dirty; });
  EXPECT_EQ(dirty, 0U);
}

TEST_F(Patches, overwritten_sites_are_dropped) {
  patch_one();
  put(kText + 1, {0x89, 0xc8});  // mov eax, ecx
  patches_->recheck({kText, kPageSize});
  EXPECT_TRUE(patches_->sites().empty());
  patches_->unpatch();
  EXPECT_EQ(get(kText, 3), (Bytes{0x55, 0x89, 0xc8}));
}

TEST_F(Patches, a_site_that_loses_its_tail_is_dropped_and_its_breakpoint_is_the_guests) {
  patch_one();
  put(kText + 2, {0x90});
  Bytes seen = get(kText, 3);
  patches_->original(kText, seen);
  EXPECT_EQ(seen, (Bytes{0x55, 0xcc, 0x90}));
  patches_->recheck({kText + 2, 1});
  EXPECT_TRUE(patches_->sites().empty());
}

TEST_F(Patches, writes_elsewhere_in_the_page_change_nothing) {
  patch_one();
  put(kText + 0x100, {1, 2, 3});
  patches_->recheck({kText, kPageSize});
  EXPECT_EQ(patches_->sites().size(), 1U);
  patches_->recheck({kText + 3, 8});
  EXPECT_EQ(patches_->sites().size(), 1U);
}

TEST_F(Patches, the_same_instruction_written_again_is_patched_again) {
  patch_one();
  put(kText + 1, {0x0f, 0x31});
  patches_->recheck({kText + 1, 1});
  EXPECT_EQ(get(kText + 1, 2), (Bytes{0xcc, 0x31}));
  EXPECT_EQ(patches_->sites().size(), 1U);
}

// Linux's alternatives copy a replacement that holds a patched instruction over another patched one.
TEST_F(Patches, a_copy_in_place_of_a_site_is_taken_over_when_its_page_is_checked) {
  patch_one();
  put(kText + 1, {0x0f, 0xae, 0xe8, 0xcc, 0x31});  // lfence; rdtsc
  patches_->recheck({kText, kPageSize});
  EXPECT_EQ(breakpoints(), (std::vector<uint64_t>{kText.value + 4}));
  patches_->unpatch();
  EXPECT_EQ(get(kText + 1, 5), (Bytes{0x0f, 0xae, 0xe8, 0x0f, 0x31}));
}

TEST_F(Patches, a_copy_that_traps_before_its_page_is_checked_is_adopted) {
  patch_one();
  put(kText + 1, {0xcc, 0x01, 0xf9});  // rdtscp
  ASSERT_NE(patches_->find(kText + 1), nullptr);
  patches_->recheck({kText, kPageSize});
  const auto* site = patches_->find(kText + 1);
  ASSERT_NE(site, nullptr);
  EXPECT_EQ(site->instruction.kind, PatchKind::rdtscp);

  patches_->unpatch();
  put(kText + 1, {0x0f, 0x31, 0x90, 0x90, 0x90});
  scan(kText, 7);
  patches_->patch();
  put(kText + 1, {0x0f, 0xae, 0xe8, 0xcc, 0x31});
  site = patches_->adopt(kText + 4, 64);
  ASSERT_NE(site, nullptr);
  EXPECT_EQ(site->instruction.kind, PatchKind::rdtsc);
}

TEST_F(Patches, code_copied_as_a_whole_is_adopted) {
  const PhysAddr code(0x200000), copy(0x300100);
  Bytes bytes(32, 0x90);
  for (uint8_t i = 0; i < 16; ++i) bytes[i] = static_cast<uint8_t>(0x50 + i % 8);
  bytes[16] = 0x0f;
  bytes[17] = 0x31;
  put(code, bytes);
  scan(code, bytes.size());
  patches_->patch();
  put(copy, get(code, bytes.size()));
  const auto* site = patches_->adopt(copy + 16, 64);
  ASSERT_NE(site, nullptr);
  EXPECT_EQ(site->start, copy + 16);
  Bytes seen = get(copy, bytes.size());
  patches_->original(copy, seen);
  EXPECT_EQ(seen, bytes);
}

TEST_F(Patches, the_guests_own_breakpoint_is_not_taken_for_a_copy) {
  patch_one();
  put(PhysAddr(0x200000), {0x90, 0x90, 0xcc, 0x31, 0xc0, 0x90});  // a kprobe over xor rax, rax
  EXPECT_EQ(patches_->adopt(PhysAddr(0x200002), 64), nullptr);
  EXPECT_NE(patches_->adopt(PhysAddr(0x200002), 64, CodePatches::Evidence::not_required), nullptr);
  EXPECT_EQ(patches_->adopt(PhysAddr(0x200000), 64, CodePatches::Evidence::not_required), nullptr) << "no breakpoint there";
  EXPECT_EQ(patches_->adopt(PhysAddr(kMinRam), 64, CodePatches::Evidence::not_required), nullptr) << "no memory there";
}

TEST_F(Patches, the_list_survives_saving_and_restoring) {
  put(kText, {0x0f, 0x31, 0x48, 0x0f, 0xc7, 0xf2, 0x66, 0x0f, 0xc7, 0xf8, 0x0f, 0x01, 0xf9});
  ASSERT_EQ(scan(kText, 13).found, 4U);
  StateWriter out;
  out.section("code_patches");
  patches_->save(out);
  CodePatches other(*memory_);
  StateReader in(out.data());
  in.section("code_patches");
  other.restore(in);
  ASSERT_TRUE(in.finish().ok());
  ASSERT_EQ(other.sites().size(), 4U);
  for (const auto& [at, site] : patches_->sites()) {
    const auto* same = other.find(PhysAddr(at));
    ASSERT_NE(same, nullptr);
    EXPECT_EQ(same->instruction, site.instruction);
    EXPECT_EQ(same->start, site.start);
    EXPECT_FALSE(same->written);
  }
  put(kText, {0x90, 0x90});  // restored memory need not hold what the list says
  other.patch();
  EXPECT_EQ(other.sites().size(), 3U);
}

TEST_F(Patches, hostile_lists_are_refused_and_change_nothing) {
  put(kText, {0x0f, 0x31, 0x48, 0x0f, 0xc7, 0xf2});
  scan(kText, 6);
  StateWriter good;
  good.section("code_patches");
  patches_->save(good);
  const Bytes bytes(good.data().begin(), good.data().end());
  const size_t blob = bytes.size() - 32;
  const auto accepts = [&](Bytes state) {
    CodePatches other(*memory_);
    StateReader in(state);
    in.section("code_patches");
    other.restore(in);
    const bool ok = in.finish().ok();
    if (!ok) {
      EXPECT_TRUE(other.sites().empty());
    }
    return ok;
  };
  EXPECT_TRUE(accepts(bytes));
  for (const auto& [offset, value] : std::vector<std::pair<size_t, uint8_t>>{
           {7, 0xff},   // address beyond memory
           {2, 0x0a},   // in the video hole
           {8, 65},     // bits
           {9, 3},      // length
           {9, 200},    // length
           {10, 0xcc},  // not the instruction
           {13, 1},     // bytes behind it
           {15, 1},     // padding
           {16, 0x00},  // overlaps the one before
       }) {
    Bytes bad = bytes;
    bad[blob + offset] = value;
    EXPECT_FALSE(accepts(bad)) << offset;
  }
  EXPECT_FALSE(accepts(Bytes(bytes.begin(), bytes.end() - 1)));
}

// The Debian kernel that tools/get-kernel fetched, unpacked; empty if there is none.
std::string unpacked_kernel() {
  if (const char* given = std::getenv("RV_VMLINUX")) return given;
  namespace fs = std::filesystem;
  std::error_code ignored;
  for (fs::path root = fs::absolute(__FILE__); root.has_relative_path(); root = root.parent_path()) {
    if (!fs::exists(root / "tools/extract-vmlinux", ignored) || !fs::exists(root / "build/guest/vmlinuz-cloud", ignored))
      continue;
    const fs::path out = fs::temp_directory_path() / ("retrovisor-vmlinux-" + std::to_string(getpid()));
    const std::string command = "python3 '" + (root / "tools/extract-vmlinux").string() + "' '" +
                                (root / "build/guest/vmlinuz-cloud").string() + "' '" + out.string() + "' > /dev/null";
    EXPECT_EQ(std::system(command.c_str()), 0) << "the kernel cannot be unpacked";
    return out.string();
  }
  return "";
}

// Against a sweep of the whole text from its begin, which takes a second and so is no way to start a machine.
TEST(DebianKernel, sites_are_those_of_a_full_sweep) {
  const std::string path = unpacked_kernel();
  if (path.empty()) GTEST_SKIP() << "no kernel; tools/get-kernel cloud fetches it";
  const auto elf = tools::read_elf(path.c_str());
  if (std::getenv("RV_VMLINUX") == nullptr) std::filesystem::remove(path);
  ASSERT_TRUE(elf);
  const auto section = std::find_if(elf->sections.begin(), elf->sections.end(), [](const auto& s) { return s.name == ".text"; });
  ASSERT_TRUE(section != elf->sections.end());
  const uint64_t address = section->address;
  const Bytes text(section->bytes, section->bytes + section->size);
  ASSERT_GT(text.size(), size_t{1} << 20);

  std::vector<uint64_t> expected;
  csh handle = 0;
  ASSERT_EQ(cs_open(CS_ARCH_X86, CS_MODE_64, &handle), CS_ERR_OK);
  cs_insn* insn = cs_malloc(handle);
  const uint8_t* code = text.data();
  size_t left = text.size();
  for (uint64_t at = 0; left > 0;) {
    if (!cs_disasm_iter(handle, &code, &left, &at, insn)) {
      ++code, --left, ++at;
      continue;
    }
    const bool ours =
        insn->id == X86_INS_RDTSC || insn->id == X86_INS_RDTSCP || insn->id == X86_INS_RDRAND || insn->id == X86_INS_RDSEED ||
        insn->id == X86_INS_CPUID;
    if (ours) expected.push_back(insn->address);
  }
  cs_free(insn, 1);
  cs_close(&handle);
  ASSERT_GT(expected.size(), 20U);

  auto memory = GuestMemory::create(uint64_t{64} << 20);
  ASSERT_TRUE(memory.ok());
  ASSERT_TRUE((*memory)->write(kText, text));
  CodePatches patches(**memory);
  const auto report = patches.scan({{kText, text.size()}, LinearAddr(address), 64, {}});
  ASSERT_TRUE(report.ok());
  EXPECT_TRUE(report->complete);
  std::vector<uint64_t> found;
  for (const auto& [at, site] : patches.sites()) found.push_back(site.start - kText);
  EXPECT_EQ(found, expected);
  EXPECT_EQ(report->doubtful, 0U);

  patches.patch();
  Bytes now(text.size());
  ASSERT_TRUE((*memory)->read(kText, now));
  size_t changed = 0;
  for (size_t i = 0; i < now.size(); ++i) changed += now[i] != text[i];
  EXPECT_EQ(changed, found.size());
  patches.original(kText, now);
  EXPECT_EQ(now, text);
}

}  // namespace
}  // namespace retrovisor::kvm
