#include "analysis/linux/btf.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <cstring>
#include <tuple>
#include <unordered_set>

namespace retrovisor {
namespace {

constexpr uint32_t kNoSize = UINT32_MAX;

Error unknown(std::string message) { return {ErrorCode::bad_argument, std::move(message), "BTF"}; }

}  // namespace

uint32_t Btf::word(size_t at) const {
  uint32_t v = 0;
  std::memcpy(&v, types_.data() + at, sizeof v);
  return v;
}

uint32_t Btf::tail(BtfId id, uint32_t number) const { return word(at_[index(id)] + 12 + size_t{4} * number); }

std::string_view Btf::string(uint32_t at) const {
  if (at < strings_first_) return base_->string(at);
  if (at - strings_first_ >= strings_.size()) return {};
  return reinterpret_cast<const char*>(strings_.data() + (at - strings_first_));
}

std::vector<uint8_t> Btf::strings() const {
  std::vector<uint8_t> out;
  if (base_ != nullptr) out = base_->strings();
  out.insert(out.end(), strings_.begin(), strings_.end());
  return out;
}

Btf::Type Btf::type(BtfId id) const {
  if (id == BtfId::none) return {};
  if (!own(id)) return base_->type(id);
  const size_t at = at_[index(id)];
  const uint32_t name = word(at), info = word(at + 4), third = word(at + 8);
  Type t;
  t.kind = static_cast<Kind>(info >> 24 & 0x1f);
  t.flag = info >> 31 != 0;
  t.count = info & 0xffff;
  t.name_at = name;
  t.name = string(name);
  switch (t.kind) {
    case Kind::integer:
    case Kind::structure:
    case Kind::union_:
    case Kind::enumeration:
    case Kind::enumeration64:
    case Kind::section:
    case Kind::floating: t.size = third; break;
    case Kind::array:
    case Kind::forward: break;
    default: t.type = BtfId(third);
  }
  return t;
}

Btf::Integer Btf::integer(BtfId id) const {
  if (!own(id)) return base_->integer(id);
  const uint32_t encoding = tail(id, 0), how = encoding >> 24;
  return {(how & 1) != 0, (how & 2) != 0, (how & 4) != 0, encoding >> 16 & 0xff, encoding & 0xff};
}

Btf::Array Btf::array(BtfId id) const {
  if (!own(id)) return base_->array(id);
  return {BtfId(tail(id, 0)), tail(id, 2)};
}

Btf::Member Btf::member(BtfId id, uint32_t index) const {
  if (!own(id)) return base_->member(id, index);
  const uint32_t name = tail(id, 3 * index), where = tail(id, 3 * index + 2);
  Member m{string(name), name, BtfId(tail(id, 3 * index + 1)), where, 0};
  if (type(id).flag) {
    m.bit = where & 0xffffff;
    m.bits = where >> 24;
    return m;
  }
  // Before Linux 5.0 the integer of a bit-field said how many bits it has.
  const Type t = type(m.type);
  if (t.kind == Kind::integer) {
    const Integer i = integer(m.type);
    if (i.bits != 8 * t.size || i.offset != 0) {
      m.bit += i.offset;
      m.bits = i.bits;
    }
  }
  return m;
}

Btf::Enumerator Btf::enumerator(BtfId id, uint32_t index) const {
  if (!own(id)) return base_->enumerator(id, index);
  const bool wide = type(id).kind == Kind::enumeration64;
  const uint32_t each = wide ? 3 : 2;
  const uint32_t name = tail(id, each * index), low = tail(id, each * index + 1);
  if (wide) return {string(name), name, static_cast<int64_t>(uint64_t{tail(id, each * index + 2)} << 32 | low)};
  return {string(name), name, is_signed_enumeration(id) ? int64_t{static_cast<int32_t>(low)} : int64_t{low}};
}

bool Btf::is_signed_enumeration(BtfId id) const {
  if (!own(id)) return base_->is_signed_enumeration(id);
  // Before Linux 6.0 nothing said so, and all values were taken for signed ones.
  return type(id).flag || (!signs_enumerations_ && type(id).kind == Kind::enumeration);
}

Btf::Parameter Btf::parameter(BtfId id, uint32_t index) const {
  if (!own(id)) return base_->parameter(id, index);
  const uint32_t name = tail(id, 2 * index);
  return {string(name), name, BtfId(tail(id, 2 * index + 1))};
}

Btf::Placed Btf::placed(BtfId id, uint32_t index) const {
  if (!own(id)) return base_->placed(id, index);
  return {BtfId(tail(id, 3 * index)), tail(id, 3 * index + 1), tail(id, 3 * index + 2)};
}

std::optional<uint32_t> Btf::size_of(BtfId id) const {
  if (id == BtfId::none) return std::nullopt;
  if (!own(id)) return base_->size_of(id);
  const uint32_t size = sizes_[index(id)];
  return size == kNoSize ? std::nullopt : std::optional(size);
}

BtfId Btf::without_tags(BtfId id) const {
  for (Type t = type(id); t.kind == Kind::type_tag; t = type(id)) id = t.type;
  return id;
}

BtfId Btf::resolve(BtfId id) const {
  for (;;) {
    const Type t = type(id);
    switch (t.kind) {
      case Kind::type_def:
      case Kind::volatile_:
      case Kind::const_:
      case Kind::restrict_:
      case Kind::type_tag: id = t.type; break;
      default: return id;
    }
  }
}

std::vector<BtfId> Btf::all(std::string_view name, Kind kind) const {
  const auto before = [this](BtfId id, const std::pair<std::string_view, Kind>& key) {
    const Type t = type(id);
    return std::tie(t.name, t.kind) < std::tie(key.first, key.second);
  };
  std::vector<BtfId> out;
  for (auto at = std::lower_bound(by_name_.begin(), by_name_.end(), std::pair(name, kind), before); at != by_name_.end();
       ++at) {
    const Type t = type(*at);
    if (t.name != name || t.kind != kind) break;
    out.push_back(*at);
  }
  if (base_ != nullptr) {
    const auto more = base_->all(name, kind);
    out.insert(out.end(), more.begin(), more.end());
  }
  return out;
}

std::optional<BtfId> Btf::find(std::string_view name, Kind kind) const {
  const auto found = all(name, kind);
  return found.empty() ? std::nullopt : std::optional(found.front());
}

Result<BtfId> Btf::object(std::string_view name) const {
  for (const Kind kind : {Kind::structure, Kind::union_, Kind::type_def})
    if (const auto found = find(name, kind)) return *found;
  return unknown(fmt::format("the kernel has no type '{}'", name));
}

std::optional<int64_t> Btf::enumerator(std::string_view name) const {
  for (uint32_t id = first_; id < end(); ++id) {
    const Type t = type(BtfId(id));
    if (t.kind != Kind::enumeration && t.kind != Kind::enumeration64) continue;
    for (uint32_t i = 0; i < t.count; ++i)
      if (const Enumerator e = enumerator(BtfId(id), i); e.name == name) return e.value;
  }
  return base_ != nullptr ? base_->enumerator(name) : std::nullopt;
}

// Breadth first: what is nearer counts. Each anonymous type is looked at once, however often it is held.
std::optional<Btf::Field> Btf::direct_member(BtfId object, std::string_view name) const {
  struct Inner {
    BtfId type{};
    uint64_t bit = 0;
  };
  std::vector<Inner> queue{{object, 0}};
  std::unordered_set<uint32_t> seen;
  for (size_t next = 0; next < queue.size(); ++next) {
    const Inner inner = queue[next];
    const Type t = type(inner.type);
    if ((t.kind != Kind::structure && t.kind != Kind::union_) || !seen.insert(static_cast<uint32_t>(inner.type)).second)
      continue;
    for (uint32_t i = 0; i < t.count; ++i) {
      const Member m = member(inner.type, i);
      const uint64_t bit = inner.bit + m.bit;
      if (m.name.empty()) {
        if (m.bits == 0) queue.push_back({resolve(m.type), bit});
      } else if (m.name == name) {
        const uint64_t bits = m.bits != 0 ? m.bits : uint64_t{8} * size_of(m.type).value_or(0);
        return Field{bit / 8, static_cast<uint32_t>(bit % 8), bits, m.type, m.bits != 0};
      }
    }
  }
  return std::nullopt;
}

Result<Btf::Field> Btf::field(std::string_view name, std::string_view path) const {
  RV_TRY(const BtfId id, object(name));
  auto found = field(id, path);
  if (!found) return unknown(fmt::format("{}: {}", name, found.error().message));
  return found;
}

Result<Btf::Field> Btf::field(BtfId object, std::string_view path) const {
  Field at{0, 0, uint64_t{8} * size_of(object).value_or(0), object, false};
  const std::string_view whole = path;
  while (!path.empty()) {
    if (path.front() == '[') {
      uint32_t number = 0;
      const size_t close = path.find(']');
      const auto inside = close == std::string_view::npos ? std::string_view{} : path.substr(1, close - 1);
      const auto [end, error] = std::from_chars(inside.data(), inside.data() + inside.size(), number);
      const BtfId id = resolve(at.type);
      if (inside.empty() || error != std::errc{} || end != inside.data() + inside.size() || type(id).kind != Kind::array)
        return unknown(fmt::format("no such element: '{}'", whole));
      const BtfId element = array(id).element;
      const uint64_t size = size_of(element).value_or(0);
      at = {at.offset + size * number, 0, 8 * size, element, false};
      path.remove_prefix(close + 1);
    } else {
      const size_t length = std::min(path.find_first_of(".["), path.size());
      const std::string_view name = path.substr(0, length);
      const auto inner = name.empty() ? std::nullopt : direct_member(resolve(at.type), name);
      if (!inner) return unknown(fmt::format("no member '{}' in '{}'", name, whole));
      at = {at.offset + inner->offset, inner->bit, inner->bits, inner->type, inner->bit_field};
      path.remove_prefix(length);
    }
    if (!path.empty() && path.front() == '.') {
      path.remove_prefix(1);
      if (path.empty() || path.front() == '[') return unknown(fmt::format("not understood: '{}'", whole));
    } else if (!path.empty() && path.front() != '[') {
      return unknown(fmt::format("not understood: '{}'", whole));
    }
  }
  return at;
}

std::string_view btf_kind_name(Btf::Kind kind) {
  constexpr std::array<std::string_view, 20> names = {
      "void",  "integer",  "pointer",  "array",     "struct",   "union",   "enum",  "forward",  "typedef",  "volatile",
      "const", "restrict", "function", "prototype", "variable", "section", "float", "decl_tag", "type_tag", "enum64"};
  return names[static_cast<size_t>(kind) % names.size()];
}

}  // namespace retrovisor
