// retrovisor symbols: the symbols of a kernel as a file for gdb.
#include <fmt/format.h>

#include <algorithm>
#include <memory>

#include "analysis/linux/kallsyms.h"
#include "cli/commands.h"
#include "cli/exit_codes.h"
#include "cli/files.h"
#include "cli/say.h"
#include "cli/setup.h"
#include "replay/replay_session.h"
#include "traces/reader.h"
#include "vmm/boot/boot_sector.h"
#include "vmm/boot/bzimage.h"
#include "vmm/boot/elf_image.h"
#include "vmm/boot/gzip.h"
#include "vmm/boot/multiboot.h"
#include "vmm/quiet_boundary.h"

namespace retrovisor::cli {
namespace {

struct SymbolsCommand {
  std::string source;
  ImageNames images;
  std::string output;
  std::string kaslr;
};

constexpr uint64_t kMemory = uint64_t{512} << 20;
// Unpacking takes one to five thousand million instructions, by method.
constexpr uint64_t kMostInstructions = 40'000'000'000, kStep = 20'000'000;

// As it is loaded: what gzip has packed is unpacked.
Result<std::vector<uint8_t>> unpacked(std::vector<uint8_t> kernel) {
  if (!is_gzip(kernel)) return kernel;
  return gunzip(kernel, kMemory);
}

// Such kernels' symbol and page tables are not those that are looked for.
Result<void> refuse_32_bits(const std::string& name, std::span<const uint8_t> kernel) {
  constexpr size_t kElfClass = 4;
  constexpr uint8_t kElf32 = 1;
  if (is_elf(kernel) ? kernel.size() > kElfClass && kernel[kElfClass] == kElf32 : is_bzimage(kernel) && !is_bzimage64(kernel))
    return Error{ErrorCode::unsupported, name + " is a 32-bit kernel: not supported", ""};
  if (!is_elf(kernel) && !is_bzimage(kernel) && find_multiboot_header(kernel))
    return Error{ErrorCode::unsupported, name + " is a 32-bit kernel (multiboot, no ELF file): not supported", ""};
  return {};
}

// What starts something else has no symbols; a recording of it may have those of what it has started.
Result<void> refuse_boot_sector(const std::string& name, std::span<const uint8_t> kernel) {
  if (is_elf(kernel) || is_bzimage(kernel) || !is_boot_sector(kernel)) return {};
  return Error{ErrorCode::unsupported,
               name + " is a boot sector or a disk: symbols are made of the kernel that it starts, or of a recording of that", ""};
}

Result<KernelSymbols> symbols_of_kernel(const SymbolsCommand& options) {
  RV_TRY(auto bytes, read_image(options.source, "KERNEL", kMemory));
  BootImages images;
  RV_TRY(images.kernel, unpacked(std::move(bytes)));
  RV_TRY(refuse_32_bits(options.source, images.kernel));
  RV_TRY(refuse_boot_sector(options.source, images.kernel));
  // A vmlinux carries the tables in its file.
  if (auto found = decode_kallsyms(images.kernel)) return found;
  images.command_line = "nokaslr";
  QuietBoundary boundary;
  MachineConfig config;
  config.memory_size = kMemory;
  RV_TRY(auto machine, make_machine(config, boundary, images));
  Error error{ErrorCode::bad_image, options.source + " did not become a running Linux kernel", ""};
  while (machine->position().value < kMostInstructions) {
    const Stop stop = machine->run_until(machine->position() + kStep);
    auto found = find_kernel_symbols(*machine);
    if (found) return found;
    if (stop.reason != StopReason::position) break;
  }
  return error;
}

Result<KernelSymbols> symbols_of_trace(const SymbolsCommand& options, const TraceHeader& header,
                                       CommandFiles& files) {
  RV_TRY(auto images, read_recorded_images(header, options.source, options.images, files));
  // What a hypervisor has loaded may be of other bits than the hypervisor.
  if (images.modules.empty()) {
    // One that cannot be unpacked is told of by who loads it.
    if (const auto plain = unpacked(images.kernel)) RV_TRY(refuse_32_bits(options.source, *plain));
  }
  RV_TRY(files.check());
  RV_TRY(auto session, ReplaySession::open(options.source, images));
  ReplayOptions how;
  how.check_digests = how.check_journal = false;
  // As soon as the kernel's tables are there.
  for (;;) {
    how.stop_at = session->machine().position() + kStep;
    RV_TRY(auto run, session->run(how));
    auto found = find_kernel_symbols(session->machine());
    if (found || run.end != ReplayResult::End::stop_at) return found;
  }
}

int symbols(SymbolsCommand options) {
  auto source = find_trace(options.source, "KERNEL|TRACE");
  if (!source) return fail(source.error());
  options.source = *source;
  CommandFiles files;
  files.input("KERNEL|TRACE", options.source);
  files.output("--output", options.output);
  if (auto good = files.check(); !good) return fail(good.error());
  auto reader = TraceReader::open(options.source);
  auto found = reader ? symbols_of_trace(options, (*reader)->header(), files) : symbols_of_kernel(options);
  if (!found) return fail(found.error());
  uint64_t offset = 0;
  if (!options.kaslr.empty()) {
    auto parsed = parse_number(options.kaslr, "--kaslr");
    if (!parsed) return fail(parsed.error());
    offset = *parsed - found->kaslr_offset();
  }
  const std::vector<uint8_t> elf = symbols_elf(*found, offset);
  const std::string_view bytes(reinterpret_cast<const char*>(elf.data()), elf.size());
  if (auto written = write_output(options.output, "--output", bytes); !written) return fail(written.error());
  say("{} symbols, KASLR offset {:#x}: {}", found->symbols.size(), found->kaslr_offset() + offset, options.output);
  return kFine;
}

}  // namespace

void add_symbols(CLI::App& app, Action& action) {
  CLI::App* sub = app.add_subcommand("symbols", "Make a symbol file for gdb out of a kernel image or a recording");
  const auto options = std::make_shared<SymbolsCommand>();
  sub->add_option("source", options->source, "bzImage or vmlinux (symbols as it was linked), or a trace (as it ran there)")
      ->type_name("KERNEL|TRACE")
      ->required();
  sub->add_option("-o,--output", options->output, "ELF file to write")->type_name("FILE")->required();
  sub->add_option("--kaslr", options->kaslr, "move the symbols by this much from where the kernel was linked to")
      ->type_name("OFFSET");
  sub->add_option("-k,--kernel", options->images.kernel, "for a trace: the kernel, where it is not where it was")
      ->type_name("FILE");
  sub->add_option("-i,--initrd", options->images.initrd, "the initial RAM disk, likewise")->type_name("FILE");
  sub->add_option("--module", options->images.modules, "a module, likewise; in the recorded order")
      ->type_name("FILE")
      ->allow_extra_args(false);
  sub->footer(kExitCodeHelp);
  sub->callback([options, &action] { action = [options] { return symbols(*options); }; });
}

}  // namespace retrovisor::cli
