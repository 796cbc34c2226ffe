// Bits of local APIC registers. Source: SDM 3A 10.4-10.9.
#pragma once

#include <cstdint>

namespace retrovisor {

namespace apic_base {  // IA32_APIC_BASE, figure 10-5; MAXPHYADDR of the CPU model is 40
inline constexpr uint64_t BSP = 1 << 8, EN = 1 << 11, address = ((uint64_t{1} << 40) - 1) & ~uint64_t{0xfff};
inline constexpr uint64_t writable = BSP | EN | address;
}  // namespace apic_base
namespace svr {  // figure 10-23
inline constexpr uint32_t enable = 1 << 8, writable = 0x1ff;
}
namespace lvt {  // figure 10-8
inline constexpr unsigned mode_shift = 8;
inline constexpr uint32_t remote_irr = 1 << 14, level = 1 << 15, mask = 1 << 16;
inline constexpr uint32_t timer_mode = 3 << 17, timer_periodic = 1 << 17, timer_tsc_deadline = 2 << 17;
// Delivery status (bit 12) reads as idle. By entry: timer, thermal, performance, LINT0, LINT1, error.
inline constexpr uint32_t writable[6] = {0x700ff, 0x107ff, 0x107ff, 0x1a7ff, 0x1a7ff, 0x100ff};
}  // namespace lvt
namespace icr {  // figure 10-12
inline constexpr unsigned mode_shift = 8, shorthand_shift = 18;
inline constexpr uint32_t logical = 1 << 11, assert_level = 1 << 14, level = 1 << 15, writable = 0xccfff;
}  // namespace icr
namespace esr {  // figure 10-9
inline constexpr uint32_t send_illegal_vector = 1 << 5, receive_illegal_vector = 1 << 6, illegal_register = 1 << 7;
inline constexpr uint32_t all = send_illegal_vector | receive_illegal_vector | illegal_register;
}  // namespace esr

}  // namespace retrovisor
