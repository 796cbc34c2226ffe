// The FXSAVE and XSAVE areas. Source: SDM 2A FXSAVE (tables 3-43 to 3-45); SDM 1 13.4, 13.7, 13.8.
//
// Choices where processors differ (fixed here, the same on every host):
// - FIP, FDP and FOP are always saved, pending exception or not; FCS and FDS are saved by the forms without REX.W. On `amd`
//   all of them are zeros unless an exception waits, and what the REX.W forms load is an address of 48 bits; on `intel`
//   there are no selectors (measured, both).
// - The padding of the ST slots and byte 5 are written as zeros; bytes 416-511 (in 32-bit modes 288-511) are not touched.
// - XSAVE never uses the init optimisation: XINUSE counts as set for x87 and SSE (SDM 1 13.6 leaves that open), so
//   XSTATE_BV gets all bits of EDX:EAX & XCR0 and the written bytes depend on the registers alone.
#pragma once

#include <array>
#include <cstring>

#include "vmm/soft/sse_common.h"

namespace retrovisor::soft {

// FXSAVE, XSAVE, MXCSR, fences. Emit::unknown for what is not of this group.
Emit emit_sse_state(const SseForm& f);

namespace xcr0 {
inline constexpr uint64_t x87 = 1, sse = 2;
inline constexpr uint64_t all = x87 | sse;
}  // namespace xcr0

// An area as it lies in memory: 512 bytes of legacy region, then the 64-byte header.
struct alignas(16) FpuArea {
  static constexpr unsigned mxcsr = 24, st = 32, xmm = 160, legacy_size = 512;
  static constexpr unsigned header = 512, header_checked = 24, size = 576;
  std::array<uint8_t, size> bytes{};

  template <class T>
  void put(unsigned offset, T value) {
    std::memcpy(bytes.data() + offset, &value, sizeof value);
  }
  template <class T>
  T at(unsigned offset) const {
    T value;
    std::memcpy(&value, bytes.data() + offset, sizeof value);
    return value;
  }

  // `wide`: the REX.W form with 64-bit FIP and FDP, else 32 bits and selectors. `registers`: XMM registers: 16 in 64-bit
  // mode, else 8.
  void put_x87(ProcessorModel model, const X87State& f, bool wide);
  void put_sse(const CpuState& s, uint32_t mxcsr_mask, unsigned registers);
  void get_x87(ProcessorModel model, X87State& f, bool wide) const;
  void get_xmm(CpuState& s, unsigned registers) const;
};

}  // namespace retrovisor::soft
