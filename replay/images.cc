// What a trace says about the files that a replay must be given.
#include <fmt/format.h>

#include "replay/replay_session.h"
#include "traces/describe.h"
#include "vmm/board/device_type.h"

namespace retrovisor {

Result<void> check_image(const TraceImage& recorded, std::span<const uint8_t> given, const std::string& name) {
  const ImageDigest digest = image_digest(given);
  if (recorded.size == given.size() && recorded.digest == digest) return {};
  return Error{
      ErrorCode::bad_image,
      fmt::format("the trace does not belong to this {}: it was recorded with {} bytes of digest {}, this one has {} "
                  "bytes and digest {}",
                  to_string(recorded.role), recorded.size, to_string(recorded.digest), given.size(), to_string(digest)),
      name};
}

namespace {

Error missing(const TraceImage& recorded) {
  return {ErrorCode::bad_argument,
          fmt::format("the trace was recorded with a {}, which is not given", to_string(recorded.role)), recorded.name};
}

}  // namespace

Result<void> check_images(const TraceHeader& header, const BootImages& images) {
  bool initrd = false;
  size_t modules = 0;
  for (const TraceImage& i : header.images) {
    switch (i.role) {
      case ImageRole::kernel: RV_TRY(check_image(i, images.kernel, i.name)); break;
      case ImageRole::initrd:
        initrd = true;
        if (images.initrd.empty()) return missing(i);
        RV_TRY(check_image(i, images.initrd, i.name));
        break;
      case ImageRole::module:
        if (modules >= images.modules.size()) return missing(i);
        RV_TRY(check_image(i, images.modules[modules++], i.name));
        break;
    }
  }
  if (!initrd && !images.initrd.empty())
    return Error{ErrorCode::bad_argument, "the trace was recorded without an initrd", {}};
  if (modules < images.modules.size())
    return Error{ErrorCode::bad_argument, fmt::format("the trace was recorded with {} modules", modules), {}};
  return {};
}

Result<MachineConfig> machine_config(const TraceHeader& header) {
  MachineConfig out;
  out.memory_size = header.memory_size;
  out.vcpus = header.vcpus;
  out.stop_on_panic = header.stop_on_panic;
  out.positions = header.position_unit;
  out.time = header.time_source;
  out.processor_model = header.processor_model;
  out.user_tsc = header.user_tsc;
  if (header.devices.empty()) return out;
  out.devices.clear();
  for (const TraceDevice& d : header.devices) {
    const auto type = find_device_type(d.device.type);
    if (!type) return Error{ErrorCode::unsupported, "the recorded machine has a device that this build does not know: " + d.device.type, {}};
    if ((*type)->version != d.version)
      return Error{ErrorCode::unsupported,
                   fmt::format("the recorded machine has version {} of device {}, this build has version {}", d.version, d.device.type,
                               (*type)->version),
                   {}};
    out.devices.push_back(d.device);
  }
  return out;
}

Result<BootImages> recorded_images(const TraceHeader& header, const BootImages& images) {
  RV_TRY(check_images(header, images));
  if (header.flat_mode > static_cast<uint8_t>(FlatMode::long64))
    return Error{ErrorCode::bad_trace, fmt::format("the trace's header has an unknown CPU mode {}", header.flat_mode), {}};
  BootImages out = images;
  out.command_line = header.command_line;
  out.flat_address = header.flat_address;
  out.flat_mode = static_cast<FlatMode>(header.flat_mode);
  out.module_arguments.clear();
  for (const TraceImage& i : header.images)
    if (i.role == ImageRole::module) out.module_arguments.push_back(i.arguments);
  return out;
}

}  // namespace retrovisor
