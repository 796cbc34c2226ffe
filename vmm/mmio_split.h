// How an access to MMIO becomes accesses of devices: each is 1, 2, 4 or 8 bytes. Both engines cut with this, so that the journal
// and devices see the same of an instruction whoever executes it.
#pragma once

#include <cstdint>

namespace retrovisor {

// The size of the first piece of `left` (1 or more) bytes from `address`: the largest naturally aligned one that fits; but what is
// left is never cut if it is of a size that devices take, aligned or not.
constexpr unsigned mmio_piece(uint64_t address, unsigned left) {
  unsigned piece = 8;
  while (piece > left || (piece != left && (address & (piece - 1)) != 0)) piece /= 2;
  return piece;
}

// Calls `access(offset, piece)` for the pieces in ascending order.
template <class Access>
constexpr void split_mmio(uint64_t address, unsigned size, Access&& access) {
  for (unsigned done = 0; done < size;) {
    const unsigned piece = mmio_piece(address + done, size - done);
    access(done, piece);
    done += piece;
  }
}

}  // namespace retrovisor
