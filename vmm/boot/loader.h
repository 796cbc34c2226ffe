// How guests are loaded: puts images into memory and sets the boot vCPU's registers.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "vmm/board/device_options.h"
#include "vmm/cpu/state.h"
#include "vmm/memory/guest_memory.h"
#include "vmm/result.h"

namespace retrovisor {

enum class FlatMode : uint8_t { real16, protected32, long64 };

// Everything that is loaded, as bytes in host memory (files are read by the caller: vmm opens no files).
struct BootImages {
  std::vector<uint8_t> kernel;
  std::vector<uint8_t> initrd;                       // empty: none
  std::vector<std::vector<uint8_t>> modules;         // multiboot modules
  std::vector<std::string> module_arguments;
  std::string command_line;
  // For a flat binary: where it goes and in which mode the CPU starts at its first byte.
  std::optional<uint64_t> flat_address;
  FlatMode flat_mode = FlatMode::long64;
};

// IA32_MTRR_DEF_TYPE as firmware leaves it on every processor: MTRRs on, all memory write-back (SDM 3A 11.11.2.1). Linux sets
// up no PAT without it.
inline constexpr uint64_t kFirmwareMtrrDefType = 1 << 11 | 6;

struct LoadedGuest {
  std::string format;    // "bzImage", "PVH", "multiboot", "boot sector", "flat"
  std::string version;   // kernel version string, where the image tells
};

// Recognises the kernel's format (flat if flat_address is set), loads it, writes ACPI tables and the boot protocol's
// structures for `vcpus` processors and `devices`, and sets `state` to the protocol's entry state. The images are hostile: errors name
// the offending field and its file offset.
Result<LoadedGuest> load_guest(const BootImages& images, GuestMemory& memory, CpuState& state, uint32_t vcpus,
                               const DeviceList& devices);

// Multiboot kernels expect, as QEMU and GRUB legacy give it, that command line and module strings begin with the image's name: Xen
// drops the first word, whatever it is. Puts the last parts of these paths there if the kernel is such a one (`limit`: what a packed
// one may unpack to). To be called once, before the strings go into a trace.
Result<void> name_images(BootImages& images, const std::string& kernel, const std::vector<std::string>& modules, uint64_t limit);

}  // namespace retrovisor
