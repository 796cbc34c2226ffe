// A running kernel's types, and objects of them in its memory.
#pragma once

#include <optional>
#include <vector>

#include "analysis/linux/btf.h"
#include "analysis/linux/kallsyms.h"
#include "analysis/linux/kernel_memory.h"

namespace retrovisor {

// What lies between the symbols __start_BTF and __stop_BTF. A kernel built without CONFIG_DEBUG_INFO_BTF has none:
// ErrorCode::unsupported.
Result<std::vector<uint8_t>> kernel_btf_bytes(const KernelMemory& memory, const KernelSymbols& symbols);
Result<Btf> read_kernel_btf(const KernelMemory& memory, const KernelSymbols& symbols);

// Those of a loaded module (a `struct module` at `module`), which go on where `kernel`'s end; that has to stay where it is. A module
// without any: ErrorCode::unsupported.
Result<Btf> read_module_btf(const KernelMemory& memory, const Btf& kernel, uint64_t module);

// The number in a member of the object at `object`: an integer, a pointer, an enumeration or a bit-field of at most 64 bits,
// with its sign if its type has one. Nothing: it is no such member, or memory is not there.
std::optional<uint64_t> read_field(const KernelMemory& memory, const Btf& btf, uint64_t object, const Btf::Field& field);

}  // namespace retrovisor
