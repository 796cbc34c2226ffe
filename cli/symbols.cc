// retrovisor symbols: the symbols of a kernel as a file for gdb.
#include <fmt/format.h>

#include <algorithm>
#include <memory>

#include "analysis/linux/dwarf.h"
#include "analysis/linux/kallsyms.h"
#include "analysis/linux/kernel_btf.h"
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
  std::string btf;
};

// What a kernel tells of itself.
struct Kernel {
  KernelSymbols symbols;
  Result<std::vector<uint8_t>> btf;  // an error: why there are names only
  std::unique_ptr<KernelMemory> code;
};

// A vmlinux in its file: what its segments load, where they load it.
class VmlinuxMemory final : public KernelMemory {
 public:
  VmlinuxMemory(std::vector<uint8_t> file, ElfImage elf) : file_(std::move(file)), elf_(std::move(elf)) {}
  size_t read(uint64_t at, std::span<uint8_t> out) const override {
    constexpr uint32_t kLoad = 1;  // PT_LOAD
    for (const ElfSegment& s : elf_.segments)
      if (s.type == kLoad && at >= s.vaddr && at - s.vaddr < s.file_size)
        return ImageMemory(s.vaddr, std::span(file_).subspan(s.offset, s.file_size)).read(at, out);
    return 0;
  }

 private:
  std::vector<uint8_t> file_;
  ElfImage elf_;
};

constexpr uint64_t kMemory = uint64_t{512} << 20;
// Unpacking takes one to five thousand million instructions, by method.
constexpr uint64_t kMostInstructions = 40'000'000'000, kStep = 20'000'000;

std::string_view as_text(const std::vector<uint8_t>& bytes) { return {reinterpret_cast<const char*>(bytes.data()), bytes.size()}; }

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

// A machine whose memory it is goes on with what has been found in it.
class OwnedMachineMemory final : public KernelMemory {
 public:
  OwnedMachineMemory(std::shared_ptr<void> owner, Machine& machine, VcpuId vcpu)
      : owner_(std::move(owner)), memory_(machine.memory(), machine.vcpu(vcpu).state) {}
  size_t read(uint64_t at, std::span<uint8_t> out) const override { return memory_.read(at, out); }

 private:
  std::shared_ptr<void> owner_;
  MachineMemory memory_;
};

Kernel of_machine(KernelSymbols symbols, std::shared_ptr<void> owner, Machine& machine) {
  Kernel out{std::move(symbols), Error{ErrorCode::unsupported, "", ""}, nullptr};
  // Of the first CPU whose page tables lead there: others may not have been started.
  for (uint32_t v = 0; v < machine.config().vcpus && !out.btf; ++v) {
    out.code = std::make_unique<OwnedMachineMemory>(owner, machine, VcpuId(v));
    out.btf = kernel_btf_bytes(*out.code, out.symbols);
  }
  return out;
}

Result<Kernel> symbols_of_kernel(const SymbolsCommand& options) {
  RV_TRY(auto bytes, read_image(options.source, "KERNEL", kMemory));
  BootImages images;
  RV_TRY(images.kernel, unpacked(std::move(bytes)));
  RV_TRY(refuse_32_bits(options.source, images.kernel));
  RV_TRY(refuse_boot_sector(options.source, images.kernel));
  // A vmlinux carries the tables in its file.
  if (auto found = decode_kallsyms(images.kernel)) {
    auto elf = parse_elf(ImageReader(images.kernel));
    auto memory = std::make_unique<VmlinuxMemory>(std::move(images.kernel), elf ? std::move(*elf) : ElfImage{});
    auto btf = kernel_btf_bytes(*memory, *found);
    return Kernel{std::move(*found), std::move(btf), std::move(memory)};
  }
  images.command_line = "nokaslr";
  struct Run {
    QuietBoundary boundary;
    std::unique_ptr<Machine> machine;
  };
  const auto run = std::make_shared<Run>();
  MachineConfig config;
  config.memory_size = kMemory;
  RV_TRY(run->machine, make_machine(config, run->boundary, images));
  Machine& machine = *run->machine;
  Error error{ErrorCode::bad_image, options.source + " did not become a running Linux kernel", ""};
  while (machine.position().value < kMostInstructions) {
    const Stop stop = machine.run_until(machine.position() + kStep);
    auto found = find_kernel_symbols(machine);
    if (found) return of_machine(std::move(*found), run, machine);
    if (stop.reason != StopReason::position) break;
  }
  return error;
}

Result<Kernel> symbols_of_trace(const SymbolsCommand& options, const TraceHeader& header, CommandFiles& files) {
  RV_TRY(auto images, read_recorded_images(header, options.source, options.images, files));
  // What a hypervisor has loaded may be of other bits than the hypervisor.
  if (images.modules.empty()) {
    // One that cannot be unpacked is told of by who loads it.
    if (const auto plain = unpacked(images.kernel)) RV_TRY(refuse_32_bits(options.source, *plain));
  }
  RV_TRY(files.check());
  RV_TRY(auto opened, ReplaySession::open(options.source, images));
  const std::shared_ptr<ReplaySession> session = std::move(opened);
  ReplayOptions how;
  how.check_digests = how.check_journal = false;
  // As soon as the kernel's tables are there.
  for (;;) {
    how.stop_at = session->machine().position() + kStep;
    RV_TRY(auto run, session->run(how));
    auto found = find_kernel_symbols(session->machine());
    if (found) return of_machine(std::move(*found), session, session->machine());
    if (run.end != ReplayResult::End::stop_at) return found.error();
  }
}

// Words that say what debuggers will know, and why not more.
Result<std::string> write_symbols(const SymbolsCommand& options, const Kernel& kernel, uint64_t offset) {
  std::optional<DebugSections> debug;
  auto btf = kernel.btf ? Btf::parse(*kernel.btf) : Result<Btf>(kernel.btf.error());
  if (btf) debug = make_debug_sections(*btf, kernel.symbols, *kernel.code, offset);
  const std::vector<uint8_t> elf = symbols_elf(kernel.symbols, offset, debug ? &*debug : nullptr);
  RV_TRY(write_output(options.output, "--output", as_text(elf)));
  if (!options.btf.empty()) {
    if (!kernel.btf) return Error{kernel.btf.error().code, kernel.btf.error().message, "--btf"};
    RV_TRY(write_output(options.btf, "--btf", as_text(*kernel.btf)));
  }
  if (!debug) return fmt::format("names only: {}", btf.error().message);
  return fmt::format("{} types, {} functions with their parameters, {} variables with their types", debug->types, debug->functions,
                     debug->variables);
}

int symbols(SymbolsCommand options) {
  auto source = find_trace(options.source, "KERNEL|TRACE");
  if (!source) return fail(source.error());
  options.source = *source;
  CommandFiles files;
  files.input("KERNEL|TRACE", options.source);
  files.output("--output", options.output);
  files.output("--btf", options.btf);
  if (auto good = files.check(); !good) return fail(good.error());
  auto reader = TraceReader::open(options.source);
  auto found = reader ? symbols_of_trace(options, (*reader)->header(), files) : symbols_of_kernel(options);
  if (!found) return fail(found.error());
  uint64_t offset = 0;
  const uint64_t there = found->symbols.kaslr_offset();
  if (!options.kaslr.empty()) {
    auto parsed = parse_number(options.kaslr, "--kaslr");
    if (!parsed) return fail(parsed.error());
    offset = *parsed - there;
  }
  const auto known = write_symbols(options, *found, offset);
  if (!known) return fail(known.error());
  say("{} symbols, KASLR offset {:#x}: {}", found->symbols.symbols.size(), there + offset, options.output);
  say("{}", *known);
  return kFine;
}

}  // namespace

void add_symbols(CLI::App& app, Action& action) {
  CLI::App* sub = app.add_subcommand("symbols", "Make a file of symbols and types for gdb out of a kernel image or a recording");
  const auto options = std::make_shared<SymbolsCommand>();
  sub->add_option("source", options->source, "bzImage or vmlinux (symbols as it was linked), or a trace (as it ran there)")
      ->type_name("KERNEL|TRACE")
      ->required();
  sub->add_option("-o,--output", options->output, "ELF file to write")->type_name("FILE")->required();
  sub->add_option("--kaslr", options->kaslr, "move the symbols by this much from where the kernel was linked to")
      ->type_name("OFFSET");
  sub->add_option("--btf", options->btf, "also write the kernel's own description of its types (BTF), for pahole and bpftool")
      ->type_name("FILE");
  add_image_options(*sub, options->images);
  sub->footer(kExitCodeHelp);
  sub->callback([options, &action] { action = [options] { return symbols(*options); }; });
}

}  // namespace retrovisor::cli
