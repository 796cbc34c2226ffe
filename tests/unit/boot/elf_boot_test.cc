#include "tests/unit/boot/test_images.h"
#include "vmm/board/device_type.h"
#include "vmm/boot/multiboot.h"

namespace retrovisor::boot_test {
namespace {

BootImages with_kernel(Bytes kernel) {
  BootImages images;
  images.kernel = std::move(kernel);
  return images;
}

void expect_flat_protected_mode(const CpuState& state) {
  EXPECT_EQ(state.cr0, cr0::PE | cr0::ET);
  EXPECT_EQ(state.cr4, 0U);
  EXPECT_EQ(state.efer, 0U);
  EXPECT_EQ(state.rflags, flag::fixed);
  for (const Segment& s : state.segment) {
    EXPECT_EQ(s.base, 0U);
    EXPECT_EQ(s.limit, 0xffffffffU);
    EXPECT_NE(s.attributes & seg::DB, 0U);
  }
}

TEST(Pvh, loads_segments_and_start_info) {
  BootImages images = with_kernel(make_elf(true));
  images.command_line = "quiet";
  images.initrd = Bytes(5000, 0x77);
  images.modules = {Bytes(3, 9)};
  images.module_arguments = {"name=x"};
  auto memory = make_memory(64);
  memory->host(PhysAddr(0x201000))[0] = 0xcc;  // must be cleared: it lies in the segment's bss
  CpuState state;
  const auto loaded = load(images, *memory, state);
  ASSERT_TRUE(loaded.ok()) << loaded.error().text();
  EXPECT_EQ(loaded->format, "PVH");
  EXPECT_EQ(state.rip, 0x200020U);
  expect_flat_protected_mode(state);
  EXPECT_EQ(state.tr.limit, 0x67U);
  EXPECT_EQ(read_memory(*memory, 0x200000, 0x200), Bytes(images.kernel.begin() + 0x400, images.kernel.begin() + 0x600));
  EXPECT_EQ(read_memory(*memory, 0x201000, 1)[0], 0);

  const Bytes info = read_memory(*memory, state.gpr[RBX], 56);
  EXPECT_EQ(get(info, 0, 4), 0x336ec578U);
  EXPECT_EQ(get(info, 4, 4), 1U);
  ASSERT_EQ(get(info, 12, 4), 2U);
  const Bytes modules = read_memory(*memory, get(info, 16, 8), 64);
  EXPECT_EQ(read_memory(*memory, get(modules, 0, 8), get(modules, 8, 8)), images.initrd);
  EXPECT_EQ(read_memory(*memory, get(modules, 32, 8), get(modules, 40, 8)), images.modules[0]);
  EXPECT_EQ(read_string(*memory, get(modules, 48, 8)), "name=x");
  EXPECT_EQ(read_string(*memory, get(info, 24, 8)), "quiet");
  const Bytes rsdp = read_memory(*memory, get(info, 32, 8), 8);
  EXPECT_EQ(std::string(rsdp.begin(), rsdp.end()), "RSD PTR ");
  const uint64_t entries = get(info, 48, 4);
  const Bytes map = read_memory(*memory, get(info, 40, 8), entries * 24);
  ASSERT_EQ(entries, memory_map(*memory, firmware_tables(pc_devices()).value().reserved).size());
  EXPECT_EQ(get(map, 8, 8), 0x9fc00U);
}

TEST(Pvh, takes_a_note_of_8_bytes) { EXPECT_EQ(error_of(with_kernel(make_elf(true, 8))), "loaded as PVH"); }

TEST(Pvh, names_the_field_at_fault) {
  const auto error_with = [](size_t at, unsigned size, uint64_t value) {
    BootImages images = with_kernel(make_elf(true));
    put(images.kernel, at, size, value);
    return error_of(images);
  };
  EXPECT_EQ(error_with(4, 1, 3), "unknown ELF class 3 (offset 0x4)");
  EXPECT_EQ(error_with(5, 1, 2), "ELF file is not little-endian (offset 0x5)");
  EXPECT_EQ(error_with(16, 2, 1), "ELF type 1 is not an executable (offset 0x10)");
  EXPECT_EQ(error_with(18, 2, 183), "ELF machine 183 is not x86 (offset 0x12)");
  EXPECT_EQ(error_with(32, 8, UINT64_MAX - 10),
            "ELF file is truncated: 2 program headers at 0xfffffffffffffff5 (offset 0x20)");
  EXPECT_EQ(error_with(54, 2, 32), "ELF program headers of 32 bytes, expected 56 (offset 0x36)");
  EXPECT_EQ(error_with(56, 2, 0), "ELF file has no program headers (offset 0x38)");
  EXPECT_EQ(error_with(72, 8, 0xf00), "ELF file is truncated: segment 0 has 512 bytes at 0xf00 (offset 0x40)");
  EXPECT_EQ(error_with(104, 8, 0x100), "ELF segment 0 is larger in the file than in memory (offset 0x40)");
  EXPECT_EQ(error_with(88, 8, 0xe0000),
            "an ELF segment at 0xe0000..0xe2fff overlaps the BIOS area at 0x9fc00..0xfffff (offset 0x40)");
  EXPECT_EQ(error_with(88, 8, UINT64_MAX),
            "an ELF segment does not fit into guest memory: 12288 bytes at 0xffffffffffffffff (offset 0x40)");
  EXPECT_EQ(error_with(104, 8, 0x8000000),
            "an ELF segment does not fit into guest memory: 134217728 bytes at 0x200000 (offset 0x40)");
  EXPECT_EQ(error_with(0x828, 4, 0x200200),
            "PVH entry point 0x200200 is not in a loaded segment (XEN_ELFNOTE_PHYS32_ENTRY)");
  EXPECT_EQ(error_with(0x81c, 4, 3), "ELF note Xen/18 has 3 bytes, expected 4 or 8 (offset 0x81c)");
  EXPECT_EQ(error_with(0x804, 4, 0x7fffffff), "ELF note is larger than its segment (offset 0x800)");
  EXPECT_EQ(error_with(0x800, 4, 0xffffffff), "ELF note is larger than its segment (offset 0x800)");
  EXPECT_EQ(error_with(0x820, 4, 17), "ELF file has neither a PVH entry note nor a multiboot header");
}

TEST(Elf, without_note_or_multiboot_header_is_refused) {
  EXPECT_EQ(error_of(with_kernel(make_elf(false))), "ELF file has neither a PVH entry note nor a multiboot header");
}

TEST(Multiboot, loads_by_address_fields) {
  BootImages images = with_kernel(make_multiboot());
  images.command_line = "a=1 b";
  images.initrd = Bytes(100, 1);
  images.modules = {Bytes(4097, 2), Bytes()};
  images.module_arguments = {"m1"};
  auto memory = make_memory(64);
  CpuState state;
  const auto loaded = load(images, *memory, state);
  ASSERT_TRUE(loaded.ok()) << loaded.error().text();
  EXPECT_EQ(loaded->format, "multiboot");
  EXPECT_EQ(state.rip, 0x300100U);
  EXPECT_EQ(state.gpr[RAX], 0x2badb002U);
  expect_flat_protected_mode(state);
  EXPECT_EQ(read_memory(*memory, 0x300010, 0x4f0), Bytes(images.kernel.begin() + 0x10, images.kernel.begin() + 0x500));
  EXPECT_EQ(read_memory(*memory, 0x300500, 4), Bytes(4, 0));

  const Bytes info = read_memory(*memory, state.gpr[RBX], 116);
  EXPECT_EQ(get(info, 0, 4), 0x24dU);
  EXPECT_EQ(get(info, 4, 4), 639U);
  EXPECT_EQ(get(info, 8, 4), 63 * 1024U);
  EXPECT_EQ(read_string(*memory, get(info, 16, 4)), "a=1 b");
  ASSERT_EQ(get(info, 20, 4), 3U);
  const Bytes modules = read_memory(*memory, get(info, 24, 4), 48);
  const std::vector<Bytes> expected = {images.initrd, images.modules[0], images.modules[1]};
  for (size_t i = 0; i < 3; ++i) {
    const uint64_t begin = get(modules, 16 * i, 4);
    EXPECT_EQ(begin % 4096, 0U);
    EXPECT_EQ(read_memory(*memory, begin, get(modules, 16 * i + 4, 4) - begin), expected[i]);
  }
  EXPECT_EQ(read_string(*memory, get(modules, 8, 4)), "initrd");
  EXPECT_EQ(read_string(*memory, get(modules, 24, 4)), "m1");
  EXPECT_EQ(read_string(*memory, get(info, 64, 4)), "retrovisor");
  uint64_t ram = 0;
  const uint64_t map_size = get(info, 44, 4);
  const Bytes map = read_memory(*memory, get(info, 48, 4), map_size);
  for (size_t at = 0; at < map_size; at += get(map, at, 4) + 4)
    if (get(map, at + 20, 4) == 1) ram += get(map, at + 12, 8);
  EXPECT_EQ(ram, (uint64_t{64} << 20) - 0x60400);
}

TEST(Multiboot, loads_an_elf_kernel_and_translates_its_virtual_entry) {
  auto memory = make_memory(64);
  CpuState state;
  ASSERT_TRUE(load(with_kernel(make_multiboot_elf()), *memory, state).ok());
  EXPECT_EQ(state.rip, 0x100040U);
  EXPECT_EQ(get(read_memory(*memory, 0x100000, 4), 0, 4), 0x1badb002U);
}

TEST(Multiboot, loads_the_whole_file_if_load_end_is_zero) {
  BootImages images = with_kernel(make_multiboot());
  put(images.kernel, 0x34, 4, 0);
  put(images.kernel, 0x38, 4, 0);
  auto memory = make_memory(64);
  CpuState state;
  ASSERT_TRUE(load(images, *memory, state).ok());
  EXPECT_EQ(read_memory(*memory, 0x300010, 0x5f0), Bytes(images.kernel.begin() + 0x10, images.kernel.end()));
}

TEST(Multiboot, names_the_field_at_fault) {
  const auto error_with = [](size_t at, uint32_t value) {
    BootImages images = with_kernel(make_multiboot());
    put(images.kernel, at, 4, value);
    put(images.kernel, 0x28, 4, static_cast<uint32_t>(-(0x1badb002 + get(images.kernel, 0x24, 4))));
    return error_of(images);
  };
  EXPECT_EQ(error_with(0x24, 0x10010), "multiboot header requires unknown features 0x10 (offset 0x24)");
  EXPECT_EQ(error_with(0x30, 0x2fffff), "multiboot load address 0x2fffff lies before the start of the file (offset 0x30)");
  EXPECT_EQ(error_with(0x30, 0x300021), "multiboot load address 0x300021 lies before the start of the file (offset 0x30)");
  EXPECT_EQ(error_with(0x34, 0x300601),
            "kernel file is truncated: multiboot header says 0x300010..0x300601, file has 1520 bytes (offset 0x34)");
  EXPECT_EQ(error_with(0x38, 0x300400), "multiboot bss ends before the loaded data (offset 0x38)");
  EXPECT_EQ(error_with(0x38, 0xf0000000),
            "the multiboot kernel does not fit into guest memory: 4023386096 bytes at 0x300010 (offset 0x30)");
  EXPECT_EQ(error_with(0x3c, 0x300500), "multiboot entry point 0x300500 is not in the loaded data (offset 0x3c)");
}

TEST(Multiboot, header_behind_8_kib_is_not_found) {
  Bytes kernel = make_multiboot();
  kernel.insert(kernel.begin(), 8192 - 12 - 0x20, 0);
  ASSERT_EQ(find_multiboot_header(kernel), 8192U - 12);
  kernel.insert(kernel.begin(), 4, 0);
  EXPECT_EQ(error_of(with_kernel(kernel)), "kernel is neither a Linux bzImage nor an ELF file, a multiboot kernel or a boot sector");
}

TEST(Flat, starts_at_its_first_byte_in_each_mode) {
  BootImages images = with_kernel(Bytes(3000, 0xf4));
  images.flat_address = 0x7c00;
  images.flat_mode = FlatMode::real16;
  auto memory = make_memory(16);
  CpuState state;
  ASSERT_TRUE(load(images, *memory, state).ok());
  EXPECT_FALSE(state.protected_mode());
  EXPECT_EQ(state.segment[CS].base + state.rip, 0x7c00U);
  EXPECT_EQ(state.segment[CS].selector, 0);
  EXPECT_EQ(state.idtr.limit, 0x3ff);
  EXPECT_EQ(read_memory(*memory, 0x7c00, 3000), images.kernel);

  images.flat_address = 0x12345;
  ASSERT_TRUE(load(images, *memory, state).ok());
  EXPECT_EQ(state.segment[CS].selector, 0x1234);
  EXPECT_EQ(state.rip, 5U);

  images.flat_address = 0x200000;
  images.flat_mode = FlatMode::protected32;
  ASSERT_TRUE(load(images, *memory, state).ok());
  EXPECT_EQ(state.rip, 0x200000U);
  expect_flat_protected_mode(state);

  images.flat_mode = FlatMode::long64;
  ASSERT_TRUE(load(images, *memory, state).ok());
  EXPECT_EQ(state.rip, 0x200000U);
  EXPECT_TRUE(state.mode64());
}

TEST(Flat, refuses_addresses_outside_of_memory_and_mode) {
  BootImages images = with_kernel(Bytes(0x1000, 0xf4));
  images.flat_address = 0x100000;
  images.flat_mode = FlatMode::real16;
  EXPECT_EQ(error_of(images), "real mode cannot start at 0x100000, above 1M (flat address)");
  images.flat_mode = FlatMode::long64;
  images.flat_address = 0x3fff001;
  EXPECT_EQ(error_of(images), "the flat binary does not fit into guest memory: 4096 bytes at 0x3fff001 (flat address)");
  images.flat_address = UINT64_MAX;
  EXPECT_EQ(error_of(images), "a flat binary cannot start at 0xffffffffffffffff, above 4G (flat address)");
  images.flat_address = 0x9f001;
  EXPECT_EQ(error_of(images),
            "the flat binary at 0x9f001..0xa0000 overlaps the BIOS area at 0x9fc00..0xfffff (flat address)");
  images.kernel.clear();
  EXPECT_EQ(error_of(images), "flat binary is empty");
}

TEST(Flat, that_fills_low_memory_has_its_tables_above_1_mib) {
  BootImages images = with_kernel(Bytes(0x9ec00, 0xf4));
  images.flat_address = 0x1000;
  auto memory = make_memory(16);
  CpuState state;
  ASSERT_TRUE(load(images, *memory, state).ok());
  EXPECT_GE(state.cr3, 0x100000U);
  EXPECT_GE(state.gdtr.base, 0x100000U);
}

TEST(Multiboot, strings_begin_with_the_images_names) {
  for (const bool packed : {false, true}) {
    BootImages images = with_kernel(packed ? make_gzip(make_multiboot_elf()) : make_multiboot_elf());
    images.command_line = "com1=115200 console=com1";
    images.modules = {Bytes(10, 1), Bytes(10, 2)};
    images.module_arguments = {"root=/dev/ram", ""};
    ASSERT_TRUE(name_images(images, "/boot/xen-4.17.gz", {"/boot/vmlinuz", "initrd.img"}, 1 << 20).ok());
    EXPECT_EQ(images.command_line, "xen-4.17.gz com1=115200 console=com1");
    EXPECT_EQ(images.module_arguments, (std::vector<std::string>{"vmlinuz root=/dev/ram", "initrd.img"}));
    auto memory = make_memory(64);
    CpuState state;
    const auto loaded = load(images, *memory, state);
    ASSERT_TRUE(loaded.ok()) << loaded.error().text();
    EXPECT_EQ(loaded->format, "multiboot");
    const Bytes info = read_memory(*memory, state.gpr[RBX], 116);
    EXPECT_EQ(read_string(*memory, get(info, 16, 4)), images.command_line);
  }
}

TEST(Multiboot, only_its_strings_begin_with_names) {
  for (const Bytes& kernel : {make_elf(true), make_bzimage(), make_boot_sector(512), make_gzip(make_elf(true)), Bytes(10, 1), Bytes()}) {
    BootImages images = with_kernel(kernel);
    images.command_line = "quiet";
    images.modules = {Bytes(10, 1)};
    images.module_arguments = {"a"};
    ASSERT_TRUE(name_images(images, "kernel", {"module"}, 1 << 20).ok());
    EXPECT_EQ(images.command_line, "quiet");
    EXPECT_EQ(images.module_arguments, (std::vector<std::string>{"a"}));
  }
  BootImages flat = with_kernel(make_multiboot());
  flat.flat_address = 0x100000;
  ASSERT_TRUE(name_images(flat, "kernel", {}, 1 << 20).ok());
  EXPECT_EQ(flat.command_line, "");
}

TEST(Packed, kernels_of_every_kind_are_unpacked) {
  EXPECT_EQ(error_of(with_kernel(make_gzip(make_multiboot()))), "loaded as multiboot");
  EXPECT_EQ(error_of(with_kernel(make_gzip(make_elf(true)))), "loaded as PVH");
  EXPECT_EQ(error_of(with_kernel(make_gzip(make_bzimage()))), "loaded as bzImage");
  Bytes padded = make_gzip(make_multiboot());
  padded.resize(padded.size() + 1000);  // what follows does not count
  EXPECT_EQ(error_of(with_kernel(padded)), "loaded as multiboot");
}

TEST(Packed, names_what_is_wrong_and_where) {
  const Bytes whole = make_gzip(make_multiboot());
  Bytes cut(whole.begin(), whole.begin() + 700);
  EXPECT_EQ(error_of(with_kernel(cut)), "gzip file is truncated: 700 bytes (offset 0x2bc)");
  Bytes damaged = whole;
  damaged[damaged.size() - 8] ^= 1;
  EXPECT_EQ(error_of(with_kernel(damaged)).substr(0, 43), "gzip file is damaged: incorrect data check ");
  EXPECT_EQ(error_of(with_kernel(make_gzip(Bytes(600, 1)))),
            "unpacked by gzip: kernel is neither a Linux bzImage nor an ELF file, a multiboot kernel or a boot sector");
  EXPECT_EQ(error_of(with_kernel(make_gzip(Bytes(size_t{17} << 20, 0))), 16).substr(0, 44),
            "gzip file unpacks to more than 16777216 byte");
}

}  // namespace
}  // namespace retrovisor::boot_test
