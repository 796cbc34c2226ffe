// Sources: System V gABI 4.1, chapter 4; arch/x86/kernel/vmlinux.lds.S for what is where in a kernel's file.
#include "analysis/linux/symbol_file.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <gelf.h>
#include <unistd.h>

#include <array>
#include <memory>
#include <optional>
#include <string_view>

namespace retrovisor {
namespace {

// Linked at 0, and copied to an area of each CPU: gdb's -o would move it with all the rest.
constexpr std::string_view kPerCpu = ".data..percpu";
// Far apart, and in every kernel: no two builds have them all at the same distances.
constexpr std::array<std::string_view, 3> kLandmarks = {"panic", "_etext", "_end"};

class File {
 public:
  static Result<std::unique_ptr<File>> open(const std::string& path) {
    elf_version(EV_CURRENT);
    auto out = std::unique_ptr<File>(new File);
    out->fd_ = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
    if (out->fd_ < 0) return Error{ErrorCode::io, "cannot be read", path};
    out->elf_ = elf_begin(out->fd_, ELF_C_READ_MMAP, nullptr);
    GElf_Ehdr header;
    if (out->elf_ == nullptr || elf_kind(out->elf_) != ELF_K_ELF || gelf_getehdr(out->elf_, &header) == nullptr)
      return Error{ErrorCode::bad_image, "not an ELF file", path};
    if (header.e_type == ET_REL)
      return Error{ErrorCode::bad_image, "a module, not a kernel; the guest's /sys/module/NAME/sections says where its sections are", path};
    if (header.e_machine != EM_X86_64) return Error{ErrorCode::bad_image, "not for x86-64", path};
    return out;
  }
  ~File() {
    elf_end(elf_);
    if (fd_ >= 0) ::close(fd_);
  }

  Elf_Scn* section(std::string_view name) {
    size_t names = 0;
    if (elf_getshdrstrndx(elf_, &names) != 0) return nullptr;
    for (Elf_Scn* s = nullptr; (s = elf_nextscn(elf_, s)) != nullptr;) {
      const char* text = gelf_getshdr(s, &header_) != nullptr ? elf_strptr(elf_, names, header_.sh_name) : nullptr;
      if (text != nullptr && text == name) return s;
    }
    return nullptr;
  }
  std::optional<uint64_t> address_of_section(std::string_view name) {
    if (section(name) == nullptr) return std::nullopt;
    return header_.sh_addr;
  }
  // Of each name that the file's symbol table has.
  template <size_t N>
  std::array<std::optional<uint64_t>, N> addresses(const std::array<std::string_view, N>& names) {
    std::array<std::optional<uint64_t>, N> out;
    Elf_Scn* table = section(".symtab");
    Elf_Data* data = table != nullptr ? elf_getdata(table, nullptr) : nullptr;
    if (data == nullptr || header_.sh_entsize == 0) return out;
    const size_t strings = header_.sh_link;
    GElf_Sym symbol;
    for (int i = 0; gelf_getsym(data, i, &symbol) != nullptr; ++i) {
      const char* text = elf_strptr(elf_, strings, symbol.st_name);
      for (size_t n = 0; text != nullptr && n < N; ++n)
        if (text == names[n]) out[n] = symbol.st_value;
    }
    return out;
  }

 private:
  File() = default;
  int fd_ = -1;
  Elf* elf_ = nullptr;
  GElf_Shdr header_{};  // of the section found last
};

std::string arguments(uint64_t offset, bool per_cpu) {
  return fmt::format("-o {:#x}{}", offset, per_cpu ? fmt::format(" -s {} 0", kPerCpu) : "");
}

}  // namespace

Result<std::string> symbol_file_arguments(const std::string& path, const KernelSymbols& kernel) {
  RV_TRY(const auto file, File::open(path));
  // .text begins at _text, in the kernel's own file as in ours.
  const auto text = file->address_of_section(".text");
  if (!text) return Error{ErrorCode::bad_image, "has no .text", path};
  const uint64_t offset = kLinkedText + kernel.kaslr_offset() - *text;
  const auto found = file->addresses(kLandmarks);
  for (size_t i = 0; i < kLandmarks.size(); ++i) {
    const KernelSymbol* recorded = kernel.find(kLandmarks[i]);
    if (found[i] && recorded != nullptr && *found[i] + offset != recorded->address)
      return Error{ErrorCode::bad_image,
                   fmt::format("another kernel's symbols: {} is {:#x} behind _text there, {:#x} in the recorded one", kLandmarks[i],
                               *found[i] - *text, recorded->address - *text - offset),
                   path};
  }
  return arguments(offset, file->section(kPerCpu) != nullptr);
}

std::string linked_symbol_arguments(const KernelSymbols& kernel) { return arguments(kernel.kaslr_offset(), true); }

}  // namespace retrovisor
