// Page walks in every paging mode: none, 32-bit (with PSE), PAE, 4-level. Source: SDM 3A chapter 4.
#pragma once

#include <array>

#include "vmm/cpu/state.h"
#include "vmm/memory/guest_memory.h"

namespace retrovisor {

struct PageAccess {
  bool write = false;
  bool user = false;        // made with the rights of CPL 3
  bool fetch = false;
  bool implicit = false;    // implicit supervisor access: SMAP applies whatever AC says
};

struct PageWalk {
  bool ok = false;
  uint32_t error = 0;       // #PF error code if !ok
  PhysAddr phys;            // of the byte asked for
  // What else the entries allow, so that a TLB can hold it: permissions of the page for the *mode of the access*.
  bool writable = false;    // a write with the same user/implicit would be allowed, and the D flag is already set
  bool user_page = false;   // U/S is set at every level
  bool executable = true;   // XD is clear at every level
  uint64_t page_size = kPageSize;
  // The entries used, from the top, if flags were updated.
  std::array<PhysAddr, 4> entry{};
  unsigned entries = 0;
};

// Walks the tables for `linear` and sets A (and, for a write, D) flags as the CPU does.
// `update` false: a debugger's look, no flags are touched and permissions are not checked (only presence).
PageWalk walk_page(const CpuState& state, GuestMemory& memory, LinearAddr linear, PageAccess access, bool update = true);

}  // namespace retrovisor
