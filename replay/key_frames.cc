#include "replay/key_frames.h"

#include <fmt/format.h>

#include <algorithm>

namespace retrovisor {

size_t KeyFrames::count_to(Position p) const {
  const auto it = std::upper_bound(places_.begin(), places_.end(), p,
                                   [](Position at, const KeyFramePlace& k) { return at < k.position; });
  return static_cast<size_t>(it - places_.begin());
}

std::optional<size_t> KeyFrames::before(Position p) const {
  for (size_t i = count_to(p); i-- > 0;)
    if (!bad_[i]) return i;
  return std::nullopt;
}

bool KeyFrames::at(Position p) const {
  const size_t n = count_to(p);
  return n != 0 && places_[n - 1].position == p;
}

Position KeyFrames::next(Position p) const {
  const size_t n = count_to(p);
  return n == places_.size() ? kNoPosition : places_[n].position;
}

size_t KeyFrames::base(size_t number) const {
  while (places_[number].delta) --number;  // the first is whole (verify_trace)
  return number;
}

uint64_t KeyFrames::cost(size_t number) const {
  uint64_t bytes = 0;
  for (size_t i = base(number); i <= number; ++i) bytes += places_[i].extent.raw_bytes;
  return bytes;
}

Error KeyFrames::error(size_t number, std::string message) const {
  return {ErrorCode::bad_trace, fmt::format("key frame at position {}: {}", places_[number].position.value, message),
          fmt::format("{}, file offset {}", trace_, places_[number].extent.begin)};
}

Result<void> KeyFrames::read_one(TraceReader& reader, size_t number, const GuestMemory& memory, State& state,
                                 const std::function<void(uint64_t page, const uint8_t* bytes)>& page) const {
  const KeyFramePlace& place = places_[number];
  RV_TRY(reader.seek(place.begin()));
  for (uint32_t part = 0; part < place.parts; ++part) {
    RV_TRY(auto item, reader.next());
    auto* frame = item.has_value() ? std::get_if<KeyFrame>(&*item) : nullptr;
    if (frame == nullptr || frame->part != part || frame->position != place.position || frame->delta != place.delta)
      return error(number, "its parts do not belong together");
    if (part == 0) state = {std::move(frame->cpu), std::move(frame->devices)};
    for (size_t i = 0; i < frame->pages.size(); ++i) {
      const uint64_t p = frame->pages[i];
      if (p >= memory.page_limit() || !memory.is_ram(PhysAddr(p << kPageShift)))
        return error(number, fmt::format("page {:#x} is no RAM of this machine", p));
      page(p, frame->contents.data() + i * kPageSize);
    }
  }
  return {};
}

Result<KeyFrames::State> KeyFrames::read(size_t number, const GuestMemory& memory,
                                         const std::function<void(uint64_t page, const uint8_t* bytes)>& page) const {
  RV_TRY(auto reader, TraceReader::open(trace_));
  State state;
  for (size_t i = base(number); i <= number; ++i) RV_TRY(read_one(*reader, i, memory, state, page));
  return state;
}

Result<void> KeyFrames::check(size_t number, Machine& machine) const {
  const KeyFramePlace& place = places_[number];
  if (machine.position() != place.position)
    return error(number, fmt::format("its state is that of position {}", machine.position().value));
  const StateDigest now = machine.digest();
  if (now == place.state) return {};
  std::string parts;
  for (const auto& [differs, name] : {std::pair{now.cpu != place.state.cpu, "CPU"},
                                      {now.memory != place.state.memory, "memory"},
                                      {now.devices != place.state.devices, "devices"}})
    if (differs) parts += fmt::format("{}{}", parts.empty() ? "" : ", ", name);
  return error(number, fmt::format("its state is not the one whose digest was recorded ({})", parts));
}

}  // namespace retrovisor
