#include "analysis/linux/kallsyms.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <optional>

#include "vmm/cpu/page_walk.h"

namespace retrovisor {
namespace {

constexpr size_t kTokens = 256;
constexpr size_t kMaxToken = 64;  // bytes that one token stands for; a symbol has at most 512
constexpr size_t kMaxName = 2048;
constexpr uint32_t kMinSymbols = 16, kMaxSymbols = 4'000'000;
constexpr size_t kMarkerStep = 256;             // names between two markers
constexpr size_t kMaxNames = size_t{64} << 20;  // bytes of names before the token table

Error bad(std::string message) { return {ErrorCode::bad_image, std::move(message), "kallsyms"}; }

// The image with every access checked.
class Image {
 public:
  explicit Image(std::span<const uint8_t> bytes) : bytes_(bytes) {}
  size_t size() const { return bytes_.size(); }
  bool holds(size_t at, size_t size) const { return at <= bytes_.size() && size <= bytes_.size() - at; }
  template <class T>
  T get(size_t at) const {
    T value{};
    if (holds(at, sizeof value)) std::memcpy(&value, bytes_.data() + at, sizeof value);
    return value;
  }
  // Length of the string at `at`, or nothing if it does not end within kMaxToken bytes.
  std::optional<size_t> string(size_t at) const {
    for (size_t n = 0; n < kMaxToken && holds(at + n, 1); ++n)
      if (bytes_[at + n] == 0) return n;
    return std::nullopt;
  }
  std::string_view text(size_t at, size_t size) const { return {reinterpret_cast<const char*>(bytes_.data() + at), size}; }
  // From `at` on.
  std::optional<size_t> find(std::span<const uint8_t> what, size_t at) const {
    if (at >= bytes_.size()) return std::nullopt;
    const void* found = memmem(bytes_.data() + at, bytes_.size() - at, what.data(), what.size());
    if (found == nullptr) return std::nullopt;
    return static_cast<size_t>(static_cast<const uint8_t*>(found) - bytes_.data());
  }

 private:
  std::span<const uint8_t> bytes_;
};

constexpr size_t align8(size_t n) { return (n + 7) & ~size_t{7}; }

struct Tokens {
  size_t begin = 0;
  size_t index_end = 0;  // of kallsyms_token_index
  std::array<std::string_view, kTokens> text;
};

// `digits` is where the tokens of '0' to '9' stand. The strings from there to token 255 lead to the index, and the index
// back to token 0.
std::optional<Tokens> tokens_around(const Image& image, size_t digits) {
  std::array<size_t, kTokens> at{};
  size_t end = digits;
  for (size_t token = '0'; token < kTokens; ++token) {
    const auto length = image.string(end);
    if (!length || *length == 0) return std::nullopt;
    at[token] = end;
    end += *length + 1;
  }
  Tokens out;
  const size_t index = align8(end);
  if (!image.holds(index, 2 * kTokens)) return std::nullopt;
  const size_t back = image.get<uint16_t>(index + 2 * '0');
  if (back > digits) return std::nullopt;
  out.begin = digits - back;
  out.index_end = index + 2 * kTokens;
  size_t expected = out.begin;
  for (size_t token = 0; token < kTokens; ++token) {
    if (out.begin + image.get<uint16_t>(index + 2 * token) != expected) return std::nullopt;
    if (token >= '0' && at[token] != expected) return std::nullopt;
    const auto length = image.string(expected);
    if (!length) return std::nullopt;
    out.text[token] = image.text(expected, *length);
    expected += *length + 1;
  }
  return out;
}

std::optional<Tokens> find_tokens(const Image& image) {
  std::array<uint8_t, 20> digits{};
  for (size_t i = 0; i < 10; ++i) digits[2 * i] = static_cast<uint8_t>('0' + i);
  for (auto at = image.find(digits, 0); at; at = image.find(digits, *at + 1))
    if (auto tokens = tokens_around(image, *at)) return tokens;
  return std::nullopt;
}

// The name at `at`: the number of its tokens, and where they begin. From Linux 6.1 on long ones have a length of two bytes,
// seven bits each.
struct NameHead {
  size_t tokens = 0;
  size_t begin = 0;
};
NameHead name_head(const Image& image, size_t at) {
  const auto first = image.get<uint8_t>(at);
  if ((first & 0x80) == 0) return {first, at + 1};
  return {(size_t{first} & 0x7f) | static_cast<size_t>(image.get<uint8_t>(at + 1)) << 7, at + 2};
}

struct Names {
  size_t count_at = 0;  // kallsyms_num_syms
  uint32_t count = 0;
  size_t begin = 0;
};

// Are there `count` names from `begin` on, with the markers behind them that say where every 256th is?
bool names_fit(const Image& image, size_t begin, uint32_t count, size_t limit) {
  std::vector<uint32_t> markers;
  size_t at = begin;
  for (uint32_t i = 0; i < count; ++i) {
    if (i % kMarkerStep == 0) markers.push_back(static_cast<uint32_t>(at - begin));
    const NameHead head = name_head(image, at);
    at = head.begin + head.tokens;
    if (head.tokens == 0 || at > limit) return false;
  }
  at = align8(at);
  if (at + 4 * markers.size() > limit) return false;
  for (size_t i = 0; i < markers.size(); ++i)
    if (image.get<uint32_t>(at + 4 * i) != markers[i]) return false;
  return true;
}

// The number of symbols stands right before the names, and those before the token table.
std::optional<Names> find_names(const Image& image, size_t tokens) {
  const size_t low = tokens > kMaxNames ? tokens - kMaxNames : 0;
  for (size_t at = tokens & ~size_t{7}; at >= low + 8;) {
    at -= 8;
    const auto count = image.get<uint64_t>(at);
    if (count < kMinSymbols || count > kMaxSymbols || count > tokens - at) continue;
    if (names_fit(image, at + 8, static_cast<uint32_t>(count), tokens))
      return Names{at, static_cast<uint32_t>(count), at + 8};
  }
  return std::nullopt;
}

struct Offsets {
  size_t begin = 0;
  uint64_t base = 0;
};

// Before the names up to Linux 6.3, behind the token index from 6.4 on; the base is an address of the kernel's image.
std::optional<Offsets> find_offsets(const Image& image, const Names& names, const Tokens& tokens) {
  const size_t size = align8(size_t{4} * names.count);
  const auto plausible = [](uint64_t base) { return base >= kKernelMap && (base & 0xfff) == 0; };
  if (names.count_at >= size + 8) {
    const auto base = image.get<uint64_t>(names.count_at - 8);
    if (plausible(base)) return Offsets{names.count_at - 8 - size, base};
  }
  const size_t behind = align8(tokens.index_end);
  if (image.holds(behind, size + 8)) {
    const auto base = image.get<uint64_t>(behind + size);
    if (plausible(base)) return Offsets{behind, base};
  }
  return std::nullopt;
}

}  // namespace

const KernelSymbol* KernelSymbols::find(std::string_view name) const {
  const auto found = std::find_if(symbols.begin(), symbols.end(), [&](const KernelSymbol& s) { return s.name == name; });
  return found == symbols.end() ? nullptr : &*found;
}

uint64_t KernelSymbols::kaslr_offset() const {
  const KernelSymbol* text = find("_text");
  if (text == nullptr) text = find("_stext");
  return text == nullptr ? 0 : text->address - kLinkedText;
}

Result<KernelSymbols> decode_kallsyms(std::span<const uint8_t> bytes) {
  const Image image(bytes);
  const auto tokens = find_tokens(image);
  if (!tokens) return bad("no symbol table of a Linux kernel is there (no table of tokens)");
  const auto names = find_names(image, tokens->begin);
  if (!names) return bad("the kernel's symbol table has no names that fit its tokens");
  const auto offsets = find_offsets(image, *names, *tokens);
  if (!offsets) return bad("the kernel's symbol table has no addresses relative to a base");

  // With CONFIG_KALLSYMS_ABSOLUTE_PERCPU (any SMP kernel) values from 0 up are absolute, those below count from the base.
  bool any_negative = false;
  for (uint32_t i = 0; i < names->count; ++i)
    any_negative = any_negative || image.get<int32_t>(offsets->begin + size_t{4} * i) < 0;
  KernelSymbols out;
  out.symbols.reserve(names->count);
  size_t at = names->begin;
  for (uint32_t i = 0; i < names->count; ++i) {
    const NameHead head = name_head(image, at);
    std::string name;
    for (size_t t = 0; t < head.tokens && name.size() < kMaxName; ++t)
      name += tokens->text[image.get<uint8_t>(head.begin + t)];
    at = head.begin + head.tokens;
    const auto offset = image.get<int32_t>(offsets->begin + size_t{4} * i);
    uint64_t address = 0;
    if (!any_negative)
      address = offsets->base + static_cast<uint32_t>(offset);
    else
      address = offset >= 0 ? static_cast<uint64_t>(offset) : offsets->base - 1 - static_cast<uint64_t>(int64_t{offset});
    if (name.size() < 2) continue;
    out.symbols.push_back({address, name[0], name.substr(1)});
  }
  return out;
}

namespace {

// How far a kernel's image reaches on either side of one of its addresses, at most.
constexpr uint64_t kReach = uint64_t{128} << 20;

// Addresses in the kernel's image that the CPU knows.
std::vector<uint64_t> anchors(Machine& machine, const CpuState& s) {
  std::vector<uint64_t> out;
  const auto add = [&](uint64_t address) {
    if (address >= kKernelMap) out.push_back(address);
  };
  if (!s.long_mode()) return out;
  add(s.lstar);
  if (s.mode64()) add(s.rip);
  // Gates of 16 bytes (SDM 3A figure 6-8); #PF has a handler in any kernel.
  for (const uint64_t vector : {uint64_t{14}, uint64_t{0}, uint64_t{6}}) {
    uint8_t gate[16] = {};
    const PageWalk walk = walk_page(s, machine.memory(), LinearAddr(s.idtr.base + 16 * vector), {}, false);
    if (!walk.ok || !machine.memory().read(walk.phys, gate)) continue;
    uint64_t low = 0, high = 0;
    std::memcpy(&low, gate, 8);
    std::memcpy(&high, gate + 8, 8);
    add((low & 0xffff) | (low >> 32 & 0xffff0000) | high << 32);
  }
  return out;
}

}  // namespace

Result<KernelSymbols> find_kernel_symbols(Machine& machine) {
  const GuestMemory& memory = machine.memory();
  std::optional<Error> error;
  for (uint32_t v = 0; v < machine.config().vcpus; ++v) {
    const CpuState& s = machine.vcpu(VcpuId(v)).state;
    for (const uint64_t address : anchors(machine, s)) {
      const PageWalk walk = walk_page(s, machine.memory(), LinearAddr(address), {}, false);
      if (!walk.ok || !memory.is_ram(walk.phys)) continue;
      const uint64_t phys = walk.phys.value;
      const bool high = phys >= kHighRamBegin;
      const uint64_t ram_begin = high ? kHighRamBegin : kVideoHoleEnd, ram_end = high ? memory.high_end() : memory.low_end();
      if (phys < ram_begin) continue;
      const uint64_t begin = phys - ram_begin > kReach ? phys - kReach : ram_begin;
      const uint64_t end = std::min(phys + kReach, ram_end);
      auto found = decode_kallsyms(std::span<const uint8_t>(memory.host(PhysAddr(begin)), end - begin));
      if (found) return found;
      error = found.error();
    }
  }
  if (error) return *error;
  return bad("no Linux kernel runs here: no handler of a system call or an exception lies where kernels do");
}

}  // namespace retrovisor
