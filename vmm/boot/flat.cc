#include "vmm/boot/flat.h"

#include <fmt/format.h>

#include "vmm/boot/entry_state.h"

namespace retrovisor {
namespace {

constexpr uint64_t kStack = 0x7c00;
constexpr uint64_t kEndRealMode = 0x100000;
constexpr uint64_t kEnd32 = uint64_t{1} << 32;

Error bad_address(std::string message) { return Error{ErrorCode::bad_argument, std::move(message), "flat address"}; }

}  // namespace

Result<LoadedGuest> load_flat(const BootImages& images, LoadPlan& plan, CpuState& state) {
  const uint64_t at = *images.flat_address;
  const uint64_t size = images.kernel.size();
  if (size == 0) return Error{ErrorCode::bad_image, "flat binary is empty", ""};
  if (!images.initrd.empty() || !images.modules.empty() || !images.command_line.empty())
    return Error{ErrorCode::bad_argument, "a flat binary takes no initrd, modules or command line", ""};
  if (images.flat_mode == FlatMode::real16 && at >= kEndRealMode)
    return bad_address(fmt::format("real mode cannot start at {:#x}, above 1M", at));
  if (at >= kEnd32) return bad_address(fmt::format("a flat binary cannot start at {:#x}, above 4G", at));
  RV_TRY(plan.claim(at, size, "the flat binary", "flat address"));
  plan.write(at, images.kernel);
  switch (images.flat_mode) {
    case FlatMode::real16: enter_real_mode(state, at); break;
    case FlatMode::protected32: RV_TRY(enter_protected_mode(plan, state, static_cast<uint32_t>(at))); break;
    case FlatMode::long64: RV_TRY(enter_long_mode(plan, state, at)); break;
  }
  state.gpr[RSP] = kStack;
  return LoadedGuest{"flat", ""};
}

}  // namespace retrovisor
