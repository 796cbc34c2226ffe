#include "replay/divergence.h"

#include <fmt/format.h>

#include <algorithm>

namespace retrovisor {
namespace {

constexpr size_t kShownFields = 40;
constexpr size_t kShownPages = 32;

std::string_view summary(Divergence::Found found) {
  switch (found) {
    case Divergence::Found::digest: return "the replayed state differs from the recorded one";
    case Divergence::Found::journal: return "the replayed events differ from the recorded ones";
    case Divergence::Found::boundary: return "the replay asks the outside for something else than the recording did";
    case Divergence::Found::end: return "the replay ends otherwise than the recording did";
  }
  return "the replay is not the recorded run";
}

std::string parts(const Divergence& d) {
  std::string out;
  for (const auto& [differs, name] :
       {std::pair(d.cpu, "CPU"), std::pair(d.memory, "memory"), std::pair(d.devices, "devices")})
    if (differs) out += (out.empty() ? "" : ", ") + std::string(name);
  return out;
}

}  // namespace

Error Divergence::error() const {
  std::string message(summary(found));
  if (found == Found::digest) message += ": " + parts(*this);
  if (!recorded.empty() || !replayed.empty()) message += fmt::format(": recorded {}, replayed {}", recorded, replayed);
  return {ErrorCode::divergence, message, fmt::format("between positions {} and {}", good.value, bad.value)};
}

std::string Divergence::text() const {
  std::string out = fmt::format("divergence: {}\n", summary(found));
  out += fmt::format("  the runs were the same at position {} and differ at position {} ({} instructions)\n", good.value,
                     bad.value, bad - good);
  if (found == Found::digest) out += fmt::format("  differs: {}\n", parts(*this));
  if (!recorded.empty() || !replayed.empty()) out += fmt::format("  recorded: {}\n  replayed: {}\n", recorded, replayed);
  for (size_t i = 0; i < std::min(fields.size(), kShownFields); ++i)
    out += fmt::format("  {}: recorded {}, replayed {}\n", fields[i].name, fields[i].recorded, fields[i].replayed);
  if (fields.size() > kShownFields) out += fmt::format("  and {} more fields\n", fields.size() - kShownFields);
  if (!pages.empty()) {
    out += pages_exact ? "  differing pages of memory:"
                       : "  a differing page of memory is among these, or was not written by the replay:";
    for (size_t i = 0; i < std::min(pages.size(), kShownPages); ++i) out += fmt::format(" {:#x}", pages[i] << kPageShift);
    if (pages.size() > kShownPages) out += fmt::format(" and {} more", pages.size() - kShownPages);
    out += '\n';
  }
  return out;
}

}  // namespace retrovisor
