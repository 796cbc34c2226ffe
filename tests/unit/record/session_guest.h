// A small guest for tests of recording and replaying: timer interrupts, console input, random numbers, sleep, and memory
// that changes all the time.
#pragma once

#include <cstdint>
#include <vector>

namespace retrovisor {

inline constexpr uint64_t kGuestAddress = 0x100000;

// What the byte typed to it makes the guest do; every other byte goes into its state and is echoed.
namespace guest_key {
inline constexpr char exit = 'q';    // debug exit with value 1
inline constexpr char halt = 'h';    // HLT with interrupts off
inline constexpr char triple = 't';  // triple fault
}  // namespace guest_key

// A flat binary for kGuestAddress and FlatMode::protected32.
std::vector<uint8_t> session_guest();

}  // namespace retrovisor
