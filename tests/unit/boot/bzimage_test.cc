#include "tests/unit/boot/test_images.h"

namespace retrovisor::boot_test {
namespace {

BootImages linux_images() {
  BootImages images;
  images.kernel = make_bzimage();
  return images;
}

std::string error_with(size_t at, unsigned size, uint64_t value, uint64_t mib = 64) {
  BootImages images = linux_images();
  put(images.kernel, at, size, value);
  return error_of(images, mib);
}

TEST(BzImage, loads_kernel_at_preferred_address_and_enters_at_0x200) {
  BootImages images = linux_images();
  images.kernel[0x1f4] = 0xff;  // rounded up: 4080 bytes, the rest is not part of the kernel
  put(images.kernel, 0x1f4, 4, 0xff);
  auto memory = make_memory(64);
  CpuState state;
  const auto loaded = load(images, *memory, state);
  ASSERT_TRUE(loaded.ok()) << loaded.error().text();
  EXPECT_EQ(loaded->format, "bzImage");
  EXPECT_EQ(loaded->version, "6.1.0-test (builder@host) #1");
  EXPECT_EQ(state.rip, 0x100200U);
  const Bytes kernel = read_memory(*memory, 0x100000, 4096);
  EXPECT_TRUE(std::equal(kernel.begin(), kernel.begin() + 4080, images.kernel.begin() + kSetupSize));
  EXPECT_EQ(kernel[4080], 0);
}

TEST(BzImage, entry_state_is_that_of_the_64_bit_protocol) {
  auto memory = make_memory(64);
  CpuState state;
  ASSERT_TRUE(load(linux_images(), *memory, state).ok());
  EXPECT_EQ(state.cr0, cr0::PE | cr0::PG | cr0::ET);
  EXPECT_EQ(state.cr4, cr4::PAE);
  EXPECT_EQ(state.efer, efer::LME | efer::LMA);
  EXPECT_EQ(state.rflags, flag::fixed);
  EXPECT_EQ(state.segment[CS].selector, 0x10);
  EXPECT_TRUE(state.mode64());
  for (const SegReg s : {DS, ES, SS}) {
    EXPECT_EQ(state.segment[s].selector, 0x18);
    EXPECT_EQ(state.segment[s].base, 0U);
    EXPECT_EQ(state.segment[s].limit, 0xffffffffU);
  }
  // The descriptors in memory say the same as the segment registers.
  const Bytes gdt = read_memory(*memory, state.gdtr.base, state.gdtr.limit + size_t{1});
  EXPECT_EQ(get(gdt, 0x10, 8), 0x00af9b000000ffffU);
  EXPECT_EQ(get(gdt, 0x18, 8), 0x00cf93000000ffffU);
}

TEST(BzImage, page_tables_map_the_low_4_gib_to_themselves) {
  auto memory = make_memory(64);
  CpuState state;
  ASSERT_TRUE(load(linux_images(), *memory, state).ok());
  for (const uint64_t linear : {uint64_t{0}, uint64_t{0x100200}, uint64_t{0x3fffffff}, uint64_t{0x40000000},
                                uint64_t{0xfee00000}, uint64_t{0xffffffff}}) {
    uint64_t table = state.cr3;
    for (const unsigned shift : {39U, 30U, 21U}) {
      const uint64_t entry = get(read_memory(*memory, table + ((linear >> shift) & 511) * 8, 8), 0, 8);
      ASSERT_EQ(entry & 3, 3U) << std::hex << linear;
      table = entry & 0x000ffffffffff000;
      EXPECT_EQ((entry & pte::PS) != 0, shift == 21);
    }
    EXPECT_EQ(table, linear & ~uint64_t{0x1fffff});
  }
  EXPECT_EQ(get(read_memory(*memory, state.cr3 + 8, 8), 0, 8), 0U);
}

TEST(BzImage, boot_parameters_hold_header_command_line_initrd_and_map) {
  BootImages images = linux_images();
  images.command_line = "console=ttyS0 panic=-1";
  images.initrd = Bytes(10'000, 0x5a);
  auto memory = make_memory(64);
  CpuState state;
  ASSERT_TRUE(load(images, *memory, state).ok());
  const Bytes p = read_memory(*memory, state.gpr[RSI], 4096);
  EXPECT_EQ(get(p, 0x202, 4), 0x53726448U);
  EXPECT_EQ(get(p, 0x206, 2), 0x20fU);
  EXPECT_EQ(p[0x210], 0xff);               // type_of_loader: unknown
  EXPECT_EQ(p[0x1ef], 0);                  // sentinel: the zero page was zeroed
  EXPECT_EQ(get(p, 0x258, 8), 0x100000U);  // pref_address was copied
  EXPECT_EQ(get(p, 0x26c, 4), 0U);         // nothing behind the header
  EXPECT_EQ(get(p, 0x70, 8), 0xe0000U);    // acpi_rsdp_addr
  EXPECT_EQ(read_string(*memory, get(p, 0x228, 4)), images.command_line);
  EXPECT_EQ(get(p, 0x21c, 4), 10'000U);
  const uint64_t ramdisk = get(p, 0x218, 4);
  EXPECT_EQ(ramdisk, (uint64_t{64} << 20) - 3 * kPageSize);
  EXPECT_EQ(read_memory(*memory, ramdisk, 10'000), images.initrd);

  uint64_t ram = 0, last_end = 0;
  for (size_t i = 0; i < p[0x1e8]; ++i) {
    const size_t at = 0x2d0 + 20 * i;
    EXPECT_GE(get(p, at, 8), last_end);
    last_end = get(p, at, 8) + get(p, at + 8, 8);
    if (get(p, at + 16, 4) == 1) ram += get(p, at + 8, 8);
  }
  EXPECT_EQ(ram, (uint64_t{64} << 20) - (0x100000 - 0x9fc00));
}

TEST(BzImage, initrd_stays_below_initrd_addr_max_and_the_3_gib_hole) {
  for (const auto& [addr_max, expected_end] :
       {std::pair<uint64_t, uint64_t>{0x37ffffff, 0x38000000}, {0xffffffff, 0xc0000000}}) {
    BootImages images = linux_images();
    put(images.kernel, 0x22c, 4, addr_max);
    images.initrd = Bytes(4096, 1);
    auto memory = make_memory(6144);
    CpuState state;
    ASSERT_TRUE(load(images, *memory, state).ok());
    const Bytes p = read_memory(*memory, state.gpr[RSI], 4096);
    EXPECT_EQ(get(p, 0x218, 4), expected_end - 4096);
  }
}

TEST(BzImage, moves_a_relocatable_kernel_whose_preferred_address_is_taken) {
  BootImages images = linux_images();
  put(images.kernel, 0x258, 8, 0x90000);  // runs into the video hole
  auto memory = make_memory(64);
  CpuState state;
  ASSERT_TRUE(load(images, *memory, state).ok());
  EXPECT_EQ(state.rip, 0x200200U);  // next multiple of the alignment above 1M
  images.kernel[0x234] = 0;
  EXPECT_NE(error_of(images).find("offset 0x260"), std::string::npos);
}

TEST(BzImage, names_the_field_at_fault) {
  EXPECT_EQ(error_with(0x206, 2, 0x201), "boot protocol 2.01 is too old: 2.02 or later is needed (offset 0x206)");
  EXPECT_EQ(error_with(0x211, 1, 0), "kernel is a zImage, which cannot be loaded at 1M (offset 0x211)");
  EXPECT_EQ(error_with(0x1f1, 1, 200),
            "kernel file is truncated: header says 102912 bytes of setup, file has 5632 bytes (offset 0x1f1)");
  EXPECT_EQ(error_with(0x1f4, 4, 0x101),
            "kernel file is truncated: header says 4112 bytes after setup, file has 4096 (offset 0x1f4)");
  EXPECT_EQ(error_with(0x1f4, 4, 0x20), "kernel is too small for a 64-bit entry point (offset 0x1f4)");
  EXPECT_EQ(error_with(0x201, 1, 0x10), "setup header ends at 0x212, expected 0x264 to 0x290 (offset 0x201)");
  EXPECT_EQ(error_with(0x201, 1, 0x9f), "setup header ends at 0x2a1, expected 0x264 to 0x290 (offset 0x201)");
  EXPECT_EQ(error_with(0x24c, 4, 0xffffffff), "compressed payload ends at 4294968063, kernel has 4096 bytes (offset 0x248)");
  EXPECT_EQ(error_with(0x230, 4, 0x300000), "kernel alignment 0x300000 is not a power of two (offset 0x230)");
  EXPECT_EQ(error_with(0x258, 8, UINT64_MAX), "preferred load address 0xffffffffffffffff is above 3G (offset 0x258)");
  EXPECT_EQ(error_with(0x260, 4, 0x4000000),
            "kernel needs 65M of memory from 0x200000 on, guest memory below 3G ends at 0x4000000 (offset 0x260)");
  EXPECT_EQ(error_with(0x20e, 2, 0xfff0),
            "kernel version string at 0x101f0 does not end within 1536 bytes of setup (offset 0x20e)");
}

TEST(BzImage, refuses_a_command_line_longer_than_the_kernel_takes) {
  BootImages images = linux_images();
  images.command_line = std::string(2047, 'x');
  EXPECT_EQ(error_of(images), "loaded as bzImage");
  images.command_line += "x";
  EXPECT_EQ(error_of(images), "command line of 2048 bytes is too long: this kernel takes 2047 (offset 0x238)");
}

TEST(BzImage, refuses_an_initrd_that_does_not_fit) {
  BootImages images = linux_images();
  images.initrd = Bytes(size_t{15} << 20, 1);
  EXPECT_EQ(error_of(images, 16), "initrd does not fit into guest memory: 15728640 bytes");
  images.initrd.resize(size_t{14} << 20);
  EXPECT_EQ(error_of(images, 16), "loaded as bzImage");
}

TEST(BzImage, a_field_of_zero_setup_sectors_means_four) {
  BootImages images = linux_images();
  images.kernel[0x1f1] = 0;
  images.kernel.insert(images.kernel.begin() + kSetupSize, 1024, 0);
  auto memory = make_memory(64);
  CpuState state;
  ASSERT_TRUE(load(images, *memory, state).ok());
  EXPECT_EQ(read_memory(*memory, 0x100000, 1)[0], 1);
}

TEST(BzImage, without_a_64_bit_entry_is_entered_by_its_32_bit_one) {
  BootImages images;
  images.kernel = make_bzimage_of(true);
  images.command_line = "quiet";
  images.initrd = Bytes(5000, 3);
  for (const bool relocatable : {true, false}) {
    images.kernel[0x234] = relocatable ? 1 : 0;
    put(images.kernel, 0x214, 4, 0x100040);
    put(images.kernel, 0x258, 8, 0x400000);  // where a kernel that cannot be moved goes by itself
    auto memory = make_memory(64);
    CpuState state;
    const auto loaded = load(images, *memory, state);
    ASSERT_TRUE(loaded.ok()) << loaded.error().text();
    EXPECT_EQ(loaded->format, "bzImage (32 bits)");
    const uint64_t begin = relocatable ? 0x400000 : 0x100000;
    EXPECT_EQ(state.rip, begin + 0x40);
    EXPECT_EQ(read_memory(*memory, begin, kKernelSize), Bytes(images.kernel.begin() + kSetupSize, images.kernel.end()));
    // boot.rst, "32-bit boot protocol".
    EXPECT_EQ(state.cr0, cr0::PE | cr0::ET);
    EXPECT_EQ(state.efer, 0U);
    EXPECT_EQ(state.rflags, flag::fixed);
    EXPECT_EQ(state.gpr[RBP] | state.gpr[RDI] | state.gpr[RBX], 0U);
    EXPECT_EQ(state.segment[CS].selector, 0x10);
    EXPECT_NE(state.segment[CS].attributes & seg::DB, 0U);
    for (const SegReg s : {DS, ES, SS}) {
      EXPECT_EQ(state.segment[s].selector, 0x18);
      EXPECT_EQ(state.segment[s].limit, 0xffffffffU);
    }
    const Bytes p = read_memory(*memory, state.gpr[RSI], 4096);
    EXPECT_EQ(get(p, 0x202, 4), 0x53726448U);
    EXPECT_EQ(get(p, 0x214, 4), begin + 0x40);
    EXPECT_EQ(read_string(*memory, get(p, 0x228, 4)), "quiet");
    EXPECT_EQ(read_memory(*memory, get(p, 0x218, 4), get(p, 0x21c, 4)), images.initrd);
    EXPECT_GE(get(p, 0x218, 4), 0x400000U + 0x20000U);  // out of the way
  }
  put(images.kernel, 0x214, 4, 0x102000);
  EXPECT_EQ(error_of(images), "32-bit entry 0x102000 is not in the kernel at 0x100000 (offset 0x214)");
  put(images.kernel, 0x214, 4, 1);
  EXPECT_EQ(error_of(images), "32-bit entry 0x1 is not in the kernel at 0x100000 (offset 0x214)");
}

TEST(BzImage, without_any_such_entry_begins_in_real_mode) {
  BootImages images;
  images.kernel = make_bzimage_of(false);
  images.command_line = "dhcp";
  images.initrd = Bytes(5000, 3);
  auto memory = make_memory(64);
  CpuState state;
  const auto loaded = load(images, *memory, state);
  ASSERT_TRUE(loaded.ok()) << loaded.error().text();
  EXPECT_EQ(loaded->format, "bzImage (real mode)");
  EXPECT_FALSE(state.protected_mode());
  const Bytes setup = read_memory(*memory, 0x10000, kSetupSize);
  EXPECT_TRUE(std::equal(setup.begin(), setup.begin() + 0x1f0, images.kernel.begin()));
  EXPECT_TRUE(std::equal(setup.begin() + 0x264, setup.end(), images.kernel.begin() + 0x264));
  EXPECT_EQ(setup[0x210], 0xff);
  EXPECT_EQ(setup[0x211] & 0x81, 0x81);                  // loaded high, may use the heap
  EXPECT_LE(get(setup, 0x224, 2) + 0x200, 0xfff0U - 256);  // which ends below the stack
  EXPECT_EQ(read_string(*memory, get(setup, 0x228, 4)), "dhcp");
  EXPECT_EQ(read_memory(*memory, get(setup, 0x218, 4), 5000), images.initrd);
  EXPECT_EQ(read_memory(*memory, 0x100000, kKernelSize), Bytes(images.kernel.begin() + kSetupSize, images.kernel.end()));
  images.kernel[0x1f1] = 64;
  images.kernel.resize(size_t{100} * 512);
  EXPECT_EQ(error_of(images), "setup has 33280 bytes, which do not fit into real mode: 32768 do (offset 0x1f1)");
}

TEST(BzImage, of_an_older_protocol_has_no_later_fields) {
  BootImages images;
  images.kernel = make_bzimage_of(true);
  put(images.kernel, 0x206, 2, 0x202);
  put(images.kernel, 0x22c, 4, 0x1000);      // none of these is a field yet
  images.kernel[0x234] = 1;
  put(images.kernel, 0x230, 4, 0x300000);
  put(images.kernel, 0x238, 4, 1);
  put(images.kernel, 0x24c, 4, UINT32_MAX);
  put(images.kernel, 0x258, 8, UINT64_MAX);
  images.initrd = Bytes(100, 1);
  images.command_line = std::string(255, 'x');
  EXPECT_EQ(error_of(images), "loaded as bzImage (32 bits)");
  images.command_line += "x";
  EXPECT_EQ(error_of(images), "command line of 256 bytes is too long: this kernel takes 255 (offset 0x238)");
}

}  // namespace
}  // namespace retrovisor::boot_test
