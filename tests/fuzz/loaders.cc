// Kernels, initial ramdisks, modules and flat binaries of any content, into machines of any size.
#include <array>
#include <memory>

#include "tests/fuzz/target.h"
#include "vmm/boot/gzip.h"
#include "vmm/boot/loader.h"
#include "vmm/devices/pc.h"

namespace retrovisor::fuzz {
namespace {

// Little RAM, some, and enough to have a part above 4 GiB.
constexpr std::array<uint64_t, 3> kMemory{kMinRam, uint64_t{64} << 20, uint64_t{5} << 30};

// How the rest of an input becomes images.
struct Control {
  uint8_t memory = 0;
  uint8_t vcpus = 0;
  uint8_t flat = 0;  // bit 7: load a flat binary; else its mode, in bits 0-1
  uint8_t modules = 0;
  uint16_t initrd = 0;  // bytes, from the end of the input
  uint16_t command_line = 0;
  uint64_t flat_address = 0;
};
constexpr size_t kControlSize = 16;

Control read_control(Input& in) {
  Control c;
  c.memory = static_cast<uint8_t>(in.byte() % kMemory.size());
  c.vcpus = static_cast<uint8_t>(1 + in.byte() % 16);
  c.flat = in.byte();
  c.modules = in.byte() % 4;
  c.initrd = in.number<uint16_t>();
  c.command_line = in.number<uint16_t>() % 4096;
  c.flat_address = in.number<uint64_t>();
  return c;
}

// Guest memory that is used again and again: mapping 5 GiB for every input would be slow.
GuestMemory& empty_memory(size_t index) {
  static std::array<std::unique_ptr<GuestMemory>, kMemory.size()> all;
  if (all[index] == nullptr) {
    auto m = GuestMemory::create(kMemory[index]);
    FUZZ_CHECK(m.ok());
    all[index] = std::move(*m);
  }
  GuestMemory& memory = *all[index];
  memory.take_dirty([&](uint64_t page) { std::memset(memory.host(PhysAddr(page << kPageShift)), 0, kPageSize); });
  return memory;
}

Bytes with_control(const Control& c, const Bytes& kernel, const Bytes& initrd = {}) {
  Bytes out{c.memory, static_cast<uint8_t>(c.vcpus - 1), c.flat, c.modules};
  append(out, static_cast<uint16_t>(initrd.size()));
  append(out, c.command_line);
  append(out, c.flat_address);
  FUZZ_CHECK(out.size() == kControlSize);
  append(out, kernel);
  append(out, initrd);
  return out;
}

void put(Bytes& b, size_t at, unsigned size, uint64_t v) {
  for (unsigned i = 0; i < size; ++i) b[at + i] = static_cast<uint8_t>(v >> 8 * i);
}

// Linux boot protocol 2.15, two setup sectors, relocatable, preferred at 1 MiB.
Bytes bzimage() {
  Bytes b(3 * 512 + 512, 0x90);
  std::fill(b.begin(), b.begin() + 3 * 512, uint8_t{0});
  b[0x1f1] = 2;
  put(b, 0x1f4, 4, 512 / 16);
  put(b, 0x1fe, 2, 0xaa55);
  put(b, 0x200, 2, 0x6aeb);
  put(b, 0x202, 4, 0x53726448);
  put(b, 0x206, 2, 0x20f);
  put(b, 0x20e, 2, 0x100);
  b[0x211] = 1;
  put(b, 0x214, 4, 0x100000);
  put(b, 0x22c, 4, 0x7fffffff);
  put(b, 0x230, 4, 0x200000);
  b[0x234] = 1;
  put(b, 0x236, 2, 3);
  put(b, 0x238, 4, 2047);
  put(b, 0x258, 8, 0x100000);
  put(b, 0x260, 4, 0x100000);
  std::memcpy(b.data() + 0x300, "6.1.0", 6);
  return b;
}

// The same without a 64-bit entry, or (2.07) without a 32-bit one, too.
Bytes narrow_bzimage(bool has_32) {
  Bytes b = bzimage();
  put(b, 0x236, 2, 0);
  if (has_32) return b;
  put(b, 0x206, 2, 0x207);
  put(b, 0x214, 4, 0);
  return b;
}

// A boot sector and a disk behind it.
Bytes boot_sector() {
  Bytes b(3 * 512 + 100, 0xf4);
  put(b, 510, 2, 0xaa55);
  return b;
}

// A stored block, as gzip wraps it (RFC 1951, 1952); the checksum is left to the mutations.
Bytes packed(const Bytes& contents) {
  Bytes b{0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3, 1};
  append(b, static_cast<uint16_t>(contents.size()));
  append(b, static_cast<uint16_t>(~contents.size()));
  append(b, contents);
  append(b, uint64_t{0});
  return b;
}

// ELF64, one segment at 2 MiB, and a PVH entry note.
Bytes pvh() {
  Bytes b(0x300, 0);
  put(b, 0, 8, 0x00010102464c457f);
  put(b, 16, 4, 0x003e0002);
  put(b, 24, 8, 0x200000);
  put(b, 32, 8, 64);
  put(b, 54, 2, 56);
  put(b, 56, 2, 2);
  put(b, 64, 4, 1);
  put(b, 72, 8, 0x200);
  put(b, 88, 8, 0x200000);
  put(b, 96, 8, 0x40);
  put(b, 104, 8, 0x3000);
  put(b, 120, 4, 4);
  put(b, 128, 8, 0x280);
  put(b, 152, 8, 20);
  put(b, 168, 8, 4);
  put(b, 0x280, 4, 4);
  put(b, 0x284, 4, 4);
  put(b, 0x288, 4, 18);
  std::memcpy(b.data() + 0x28c, "Xen", 4);
  put(b, 0x290, 4, 0x200020);
  return b;
}

// Multiboot 1 with its own addresses; and one inside an ELF32 file.
Bytes multiboot(bool elf) {
  Bytes b(0x200, 0x90);
  const uint32_t flags = elf ? 2 : 1 << 16 | 3;
  const size_t at = elf ? 0x100 : 0x20;
  put(b, at, 4, 0x1badb002);
  put(b, at + 4, 4, flags);
  put(b, at + 8, 4, uint32_t{0} - (0x1badb002 + flags));
  if (!elf) {
    put(b, 0x2c, 4, 0x300020);
    put(b, 0x30, 4, 0x300010);
    put(b, 0x34, 4, 0x300100);
    put(b, 0x38, 4, 0x304000);
    put(b, 0x3c, 4, 0x300100);
    return b;
  }
  put(b, 0, 8, 0x00010101464c457f);
  put(b, 8, 8, 0);
  put(b, 16, 4, 0x00030002);
  put(b, 24, 4, 0x100040);
  put(b, 28, 4, 52);
  put(b, 42, 4, 0x00010020);
  put(b, 52, 4, 1);
  put(b, 56, 4, 0x100);
  put(b, 60, 4, 0x100000);
  put(b, 64, 4, 0x100000);
  put(b, 68, 4, 0x100);
  put(b, 72, 4, 0x1000);
  return b;
}

}  // namespace

size_t max_input() { return 16384; }

void run(std::span<const uint8_t> data) {
  Input in(data);
  const Control control = read_control(in);
  BootImages images;
  const auto command_line = in.left() % 7 == 0 ? in.bytes(control.command_line) : in.bytes(control.command_line % 64);
  images.command_line.assign(command_line.begin(), command_line.end());
  const size_t initrd = std::min<size_t>(control.initrd, in.left());
  const auto kernel = in.bytes(in.left() - initrd);
  images.kernel.assign(kernel.begin(), kernel.end());
  const auto rest = in.rest();
  images.initrd.assign(rest.begin(), rest.end());
  for (unsigned i = 0; i < control.modules; ++i) {
    images.modules.emplace_back(rest.begin(), rest.begin() + static_cast<ptrdiff_t>(rest.size() / (i + 1)));
    images.module_arguments.emplace_back(images.command_line.substr(0, i * 3));
  }
  if ((control.flat & 0x80) != 0) {
    images.flat_address = control.flat_address;
    images.flat_mode = static_cast<FlatMode>((control.flat & 3) % 3);
  }
  FUZZ_CHECK(name_images(images, "a/kernel", {"module"}, max_input()).ok() || is_gzip(images.kernel));
  GuestMemory& memory = empty_memory(control.memory);
  CpuState state = CpuState::at_reset(VcpuId(0));
  const auto loaded = load_guest(images, memory, state, control.vcpus, pc_devices());
  if (!loaded) {
    FUZZ_CHECK(!loaded.error().message.empty());
    return;
  }
  FUZZ_CHECK(!loaded->format.empty());
  // The state to start in is one that a snapshot could hold.
  StateWriter out;
  state.save(out, VcpuId(0));
  StateReader back(out.data());
  CpuState again;
  again.restore(back, VcpuId(0));
  FUZZ_CHECK(back.finish().ok() && back.at_end());
}

std::vector<Bytes> seeds() {
  const Bytes initrd(100, 'i');
  std::vector<Bytes> out;
  Control c;
  c.vcpus = 2;
  for (c.memory = 0; c.memory < kMemory.size(); ++c.memory) {
    out.push_back(with_control(c, bzimage(), initrd));
    out.push_back(with_control(c, pvh(), initrd));
  }
  c.memory = 1;
  c.modules = 2;
  out.push_back(with_control(c, multiboot(false), initrd));
  out.push_back(with_control(c, multiboot(true), initrd));
  out.push_back(with_control(c, packed(multiboot(false)), initrd));
  c.modules = 0;
  out.push_back(with_control(c, narrow_bzimage(true), initrd));
  out.push_back(with_control(c, narrow_bzimage(false), initrd));
  out.push_back(with_control(c, boot_sector()));
  c.flat_address = 0x7c00;
  for (c.flat = 0x80; c.flat < 0x83; ++c.flat) out.push_back(with_control(c, Bytes(64, 0xf4)));
  return out;
}

}  // namespace retrovisor::fuzz
