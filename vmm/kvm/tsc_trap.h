// Can RDTSC of programs be made to raise #GP, with CR4.TSD set behind the guest's back (UserTsc::by_exception)?
#pragma once

#include "vmm/kvm/kvm_api.h"
#include "vmm/user_tsc.h"

namespace retrovisor::kvm {

enum class TscTrap : uint8_t {
  none,       // it reads a counter of the host all the same
  cr4,        // as the manuals say
  cr4_prctl,  // only while the host's own RDTSC is off, too (PR_SET_TSC): seen with kvm_pvm
};

// Tries a guest of two instructions. A host where it fails has no trap.
TscTrap probe_tsc_trap(const Kvm& kvm);

// What machines that KVM runs on this host should have. No KVM: direct.
UserTsc host_user_tsc();

// RDTSC of this thread raises SIGSEGV while this lives: no clock may be read meanwhile.
class NoHostTsc {
 public:
  NoHostTsc();
  ~NoHostTsc();
  NoHostTsc(const NoHostTsc&) = delete;
  NoHostTsc& operator=(const NoHostTsc&) = delete;

 private:
  int before_;
  bool set_;
};

}  // namespace retrovisor::kvm
