// The registers that a debugger sees: their order, sizes and types, and how they are read from and written to a vCPU.
// Values are little endian. The order is the one gdb itself has for x86-64 (features of org.gnu.gdb.i386: core, sse,
// segments), so that a client which does not read our description finds the usual registers where it expects them.
//
// In 16- and 32-bit code the program counter is given as a linear address, CS base plus IP: that is what breakpoints,
// symbols and memory are about. Without a segment base (any 32-bit kernel) both are the same. The stack pointer stays an
// offset into SS. In 64-bit code there is no difference.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "vmm/machine/machine.h"

namespace retrovisor::gdb {

// What the description tells gdb that the CPU is. i386 lets gdb disassemble 32-bit code (and, after `set architecture
// i8086`, 16-bit code), which it cannot do under an x86-64 description; it shows the low halves of the registers only.
enum class Arch : uint8_t { x86_64, i386 };

enum class Feature : uint8_t { core, sse, segments, system };

struct Register {
  enum class Kind : uint8_t {
    gpr,  // index: Gpr
    pc,
    eflags,
    selector,  // index: SegReg
    st,        // index: of the stack, ST(index)
    x87,       // index: 0 FCTRL, FSTAT, FTAG, FISEG, FIOFF, FOSEG, FOOFF, FOP 7
    xmm,       // index: register
    mxcsr,
    base,  // index: SegReg
    k_gs_base,
    cr,  // index: number
    efer,
  };
  std::string_view name;
  Kind kind{};
  unsigned index = 0;
  unsigned bytes = 8;
  std::string_view type;  // as target descriptions name it
  Feature feature{};
  std::string_view group;  // or empty
};

// All of them; a register's number is its index.
std::span<const Register> registers(Arch arch);
// Bytes of a whole set: the payload of g.
size_t registers_size(Arch arch);

// Little endian, `r.bytes` of them.
std::vector<uint8_t> read_register(const Vcpu& vcpu, const Register& r);
// False if the CPU could not hold the value: non-canonical addresses, modes that would not fit together. Bits that are
// fixed stay as they are. A selector changes without its descriptor, but for real and virtual-8086 mode.
// The caller tells the engine (Engine::state_changed).
bool write_register(Vcpu& vcpu, GuestMemory& memory, const Register& r, std::span<const uint8_t> value);

}  // namespace retrovisor::gdb
