#include "vmm/kvm/tsc_trap.h"

#include <sys/prctl.h>

#include <array>
#include <optional>

#include "vmm/cpu/registers.h"
#include "vmm/kvm/tiny_guest.h"

namespace retrovisor::kvm {

NoHostTsc::NoHostTsc()
    : before_(PR_TSC_ENABLE), set_(prctl(PR_GET_TSC, &before_) == 0 && prctl(PR_SET_TSC, PR_TSC_SIGSEGV) == 0) {}

NoHostTsc::~NoHostTsc() {
  if (set_) prctl(PR_SET_TSC, before_);
}

TscTrap probe_tsc_trap(const Kvm& kvm) {
  constexpr std::array<uint8_t, 4> kCode = {0x0f, 0x31, 0x0f, 0x0b};  // rdtsc; ud2
  constexpr std::chrono::milliseconds kLimit{50};
  constexpr uint8_t kGeneralProtection = 13;
  for (const TscTrap trap : {TscTrap::cr4, TscTrap::cr4_prctl}) {
    auto guest = TinyGuest::create(kvm, tiny_cpuid());
    if (!guest || !(*guest)->load(TinyGuest::Ring::user, kCode, cr4::TSD)) return TscTrap::none;
    std::optional<NoHostTsc> no_tsc;
    if (trap == TscTrap::cr4_prctl) no_tsc.emplace();
    const auto end = (*guest)->run(kLimit);
    no_tsc.reset();
    if (!end) return TscTrap::none;
    if (end->kind == TinyGuest::End::Kind::exception && end->vector == kGeneralProtection) return trap;
  }
  return TscTrap::none;
}

UserTsc host_user_tsc() {
  const auto kvm = Kvm::open();
  return kvm && probe_tsc_trap(*kvm) != TscTrap::none ? UserTsc::by_exception : UserTsc::direct;
}

}  // namespace retrovisor::kvm
