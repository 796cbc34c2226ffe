// Reading BTF, and all its checks.
#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <tuple>

#include "analysis/linux/btf.h"

namespace retrovisor {

namespace {

constexpr uint16_t kMagic = 0xeb9f;
constexpr size_t kHeader = 24, kType = 12;
constexpr uint32_t kNoSize = UINT32_MAX;
// Of types that hold, or are made of, each other. The kernel's own limit is 32 (MAX_RESOLVE_DEPTH), which it does not apply
// to its own types.
constexpr size_t kMostDepth = 128;
constexpr uint8_t kUnvisited = 0, kOpen = 255;

Error bad(std::string message, std::string where = "BTF") {
  return {ErrorCode::bad_image, std::move(message), std::move(where)};
}

// How many bytes there are behind the common twelve, and per member.
struct Tail {
  size_t fixed = 0, each = 0;
};
Tail tail_of(Btf::Kind kind) {
  using Kind = Btf::Kind;
  switch (kind) {
    case Kind::integer:
    case Kind::variable:
    case Kind::decl_tag: return {4, 0};
    case Kind::array: return {12, 0};
    case Kind::structure:
    case Kind::union_:
    case Kind::section:
    case Kind::enumeration64: return {0, 12};
    case Kind::enumeration:
    case Kind::prototype: return {0, 8};
    default: return {};
  }
}

bool has_members(Btf::Kind kind) { return kind == Btf::Kind::structure || kind == Btf::Kind::union_; }

// What a pointer, a member or a parameter can be of.
bool is_value(Btf::Kind kind) {
  using Kind = Btf::Kind;
  return kind != Kind::function && kind != Kind::variable && kind != Kind::section && kind != Kind::decl_tag;
}

// Kinds that stand for, or are made of, one other type.
bool is_alias(Btf::Kind kind) {
  using Kind = Btf::Kind;
  return kind == Kind::type_def || kind == Kind::volatile_ || kind == Kind::const_ || kind == Kind::restrict_ ||
         kind == Kind::type_tag;
}

}  // namespace

class Btf::Loader {
 public:
  explicit Loader(Btf& out) : out_(out) {}

  Result<void> load(std::span<const uint8_t> bytes) {
    RV_TRY(read_header(bytes));
    RV_TRY(find_types());
    for (uint32_t id = out_.first_; id < out_.end(); ++id) RV_TRY(check(BtfId(id)));
    // Nothing holds itself (its size would be without end), and nothing is made of itself by way of pointers and prototypes
    // alone (its name would be); what C breaks such circles with is a structure.
    out_.sizes_.assign(out_.at_.size(), kNoSize);
    out_.holding_.assign(out_.at_.size(), kUnvisited);
    out_.naming_.assign(out_.at_.size(), kUnvisited);
    for (uint32_t id = out_.first_; id < out_.end(); ++id) {
      RV_TRY(walk(BtfId(id), &Btf::holding_, &Loader::held, true));
      RV_TRY(walk(BtfId(id), &Btf::naming_, &Loader::named, false));
    }
    index();
    return {};
  }

 private:
  Error bad_type(BtfId id, const std::string& what) const {
    return bad(fmt::format("type {} {}", static_cast<uint32_t>(id), what));
  }

  Result<void> read_header(std::span<const uint8_t> bytes) {
    if (bytes.size() < kHeader) return bad("cut off in its header");
    const auto word = [&](size_t at) {
      uint32_t v = 0;
      std::memcpy(&v, bytes.data() + at, 4);
      return v;
    };
    if ((word(0) & 0xffff) != kMagic) return bad("does not begin with BTF's number");
    if (bytes[2] != 1) return bad(fmt::format("of version {}, not 1", bytes[2]));
    if (bytes[3] != 0) return bad(fmt::format("has flags that are not known: {:#x}", bytes[3]));
    const size_t header = word(4);
    if (header < kHeader || header > bytes.size()) return bad("its header's length is wrong");
    const auto body = bytes.subspan(header);
    const auto part = [&](size_t at, size_t size) -> Result<std::vector<uint8_t>> {
      if (at > body.size() || size > body.size() - at) return bad("cut off");
      const auto piece = body.subspan(at, size);
      return std::vector<uint8_t>(piece.begin(), piece.end());
    };
    if (word(8) % 4 != 0) return bad("its types are not aligned");
    RV_TRY(out_.types_, part(word(8), word(12)));
    RV_TRY(out_.strings_, part(word(16), word(20)));
    const auto& strings = out_.strings_;
    if (strings.empty() ? out_.base_ == nullptr : strings.back() != 0) return bad("its names do not end with NUL");
    if (out_.base_ == nullptr && strings.front() != 0) return bad("its first name is not empty");
    if (uint64_t{out_.strings_first_} + strings.size() > UINT32_MAX) return bad("too many names");
    return {};
  }

  Result<void> find_types() {
    for (size_t at = 0; at != out_.types_.size();) {
      const auto id = BtfId(out_.end());
      if (out_.types_.size() - at < kType) return bad_type(id, "is cut off");
      const uint32_t info = out_.word(at + 4);
      const uint32_t kind = info >> 24 & 0x1f;
      if ((info & 0x60ff0000) != 0) return bad_type(id, "has bits that mean nothing");
      if (kind == 0 || kind > static_cast<uint32_t>(Kind::enumeration64))
        return bad_type(id, fmt::format("is of a kind not known: {}", kind));
      const Tail tail = tail_of(static_cast<Kind>(kind));
      const size_t size = kType + tail.fixed + tail.each * (info & 0xffff);
      if (out_.types_.size() - at < size) return bad_type(id, "is cut off");
      if (out_.end() == UINT32_MAX) return bad("too many types");
      out_.at_.push_back(static_cast<uint32_t>(at));
      at += size;
    }
    return {};
  }

  bool good_name(uint32_t at) const { return at < out_.strings_first_ + out_.strings_.size(); }
  bool good_id(uint32_t id) const { return id < out_.end(); }
  Kind kind_of(uint32_t id) const { return out_.type(BtfId(id)).kind; }

  // Before type() may be asked: a name, and no id that leads nowhere.
  Result<void> check(BtfId id) {
    const size_t at = out_.at_[out_.index(id)];
    const uint32_t name = out_.word(at), info = out_.word(at + 4), third = out_.word(at + 8);
    const auto kind = static_cast<Kind>(info >> 24 & 0x1f);
    const uint32_t count = info & 0xffff;
    if (!good_name(name)) return bad_type(id, "has a name that is not there");
    const bool counts = tail_of(kind).each != 0 || kind == Kind::function;
    if (!counts && count != 0) return bad_type(id, "has members, which its kind has not");
    const bool must_have_name = kind == Kind::type_def || kind == Kind::forward || kind == Kind::function ||
                                kind == Kind::variable || kind == Kind::section || kind == Kind::integer ||
                                kind == Kind::floating;
    if (must_have_name && out_.string(name).empty()) return bad_type(id, "has no name, which its kind must have");
    const auto value = [&](uint32_t other, const char* what) -> Result<void> {
      if (!good_id(other)) return bad_type(id, fmt::format("has {} of type {}, which is not there", what, other));
      if (!is_value(kind_at(other))) return bad_type(id, fmt::format("has {} of type {}, which is none", what, other));
      return {};
    };
    switch (kind) {
      case Kind::integer: return check_integer(id, third, out_.word(at + 12));
      case Kind::pointer: return value(third, "a target");
      case Kind::type_def:
      case Kind::volatile_:
      case Kind::const_:
      case Kind::restrict_:
      case Kind::type_tag: return value(third, "a meaning");
      case Kind::array: return value(out_.word(at + 12), "elements");
      case Kind::structure:
      case Kind::union_:
        for (uint32_t i = 0; i < count; ++i) {
          if (!good_name(out_.word(at + 12 + 12 * i)))
            return bad_type(id, fmt::format("member {} has a name that is not there", i));
          RV_TRY(value(out_.word(at + 16 + 12 * i), "a member"));
        }
        return {};
      case Kind::enumeration:
      case Kind::enumeration64: {
        if (third != 1 && third != 2 && third != 4 && third != 8)
          return bad_type(id, fmt::format("is an enumeration of {} bytes", third));
        const size_t each = kind == Kind::enumeration ? 8 : 12;
        for (uint32_t i = 0; i < count; ++i)
          if (!good_name(out_.word(at + 12 + each * i)))
            return bad_type(id, fmt::format("value {} has a name that is not there", i));
        out_.signs_enumerations_ = out_.signs_enumerations_ || (info >> 31) != 0;
        return {};
      }
      case Kind::function:
        if (!good_id(third) || kind_at(third) != Kind::prototype) return bad_type(id, "is a function without a prototype");
        return {};
      case Kind::prototype:
        RV_TRY(value(third, "a result"));
        for (uint32_t i = 0; i < count; ++i) {
          const uint32_t type = out_.word(at + 16 + 8 * i);
          if (!good_name(out_.word(at + 12 + 8 * i)))
            return bad_type(id, fmt::format("parameter {} has a name that is not there", i));
          if (type == 0 && i + 1 != count) return bad_type(id, "has a parameter of type void that is not its last");
          RV_TRY(value(type, "a parameter"));
        }
        return {};
      case Kind::variable: return value(third, "a value");
      case Kind::section:
        for (uint32_t i = 0; i < count; ++i) {
          const uint32_t type = out_.word(at + 12 + 12 * i);
          if (!good_id(type) || kind_at(type) != Kind::variable)
            return bad_type(id, fmt::format("entry {} is no variable", i));
        }
        return {};
      case Kind::floating:
        if (third != 2 && third != 4 && third != 8 && third != 12 && third != 16)
          return bad_type(id, fmt::format("is a float of {} bytes", third));
        return {};
      case Kind::decl_tag:
        if (third == 0 || !good_id(third)) return bad_type(id, "is a tag of what is not there");
        return {};
      default: return {};
    }
  }

  // The kind alone, of an id that may not have been checked yet.
  Kind kind_at(uint32_t id) const {
    if (!out_.own(BtfId(id))) return kind_of(id);
    return static_cast<Kind>(out_.word(out_.at_[out_.index(BtfId(id))] + 4) >> 24 & 0x1f);
  }

  Result<void> check_integer(BtfId id, uint32_t size, uint32_t encoding) const {
    const uint32_t bits = encoding & 0xff, offset = encoding >> 16 & 0xff, how = encoding >> 24;
    if (size != 1 && size != 2 && size != 4 && size != 8 && size != 16)
      return bad_type(id, fmt::format("is an integer of {} bytes", size));
    if (bits == 0 || bits + offset > 8 * size)
      return bad_type(id, fmt::format("is an integer of {} bits from {} on in {} bytes", bits, offset, size));
    if (how > 7 || (encoding & 0xff00) != 0) return bad_type(id, "is an integer of a kind not known");
    return {};
  }

  // The types that `id` holds, one after the other. They decide whether it has a size.
  std::optional<BtfId> held(BtfId id, const Type& t, uint32_t i) const {
    if (has_members(t.kind)) return i < t.count ? std::optional(out_.member(id, i).type) : std::nullopt;
    if (i != 0) return std::nullopt;
    if (t.kind == Kind::array) return out_.array(id).element;
    return is_alias(t.kind) ? std::optional(t.type) : std::nullopt;
  }
  // The types of which `id` is made.
  std::optional<BtfId> named(BtfId id, const Type& t, uint32_t i) const {
    if (t.kind == Kind::prototype && i < t.count) return out_.parameter(id, i).type;
    if (i != (t.kind == Kind::prototype ? t.count : 0)) return std::nullopt;
    if (t.kind == Kind::array) return out_.array(id).element;
    return is_alias(t.kind) || t.kind == Kind::pointer || t.kind == Kind::prototype ? std::optional(t.type) : std::nullopt;
  }

  struct Frame {
    BtfId id{};
    Type type;
    uint32_t next = 0;  // which of what it leads to
    uint8_t depth = 1;
  };
  using Edges = std::optional<BtfId> (Loader::*)(BtfId, const Type&, uint32_t) const;

  // Depth first from `root`; notes how long the longest chain from each type is.
  Result<void> walk(BtfId root, std::vector<uint8_t> Btf::*depths, Edges edges, bool sizes) {
    if ((out_.*depths)[out_.index(root)] != kUnvisited) return {};
    std::vector<Frame> stack;
    const auto open = [&](BtfId id) {
      (out_.*depths)[out_.index(id)] = kOpen;
      stack.push_back({id, out_.type(id)});
    };
    open(root);
    while (!stack.empty()) {
      Frame& top = stack.back();
      const auto to = (this->*edges)(top.id, top.type, top.next++);
      if (!to) {
        if (sizes) RV_TRY(set_size(top.id, top.type));
        const uint8_t depth = top.depth;
        (out_.*depths)[out_.index(top.id)] = depth;
        stack.pop_back();
        if (!stack.empty()) RV_TRY(deepen(stack.back(), depth));
        continue;
      }
      if (*to == BtfId::none) continue;
      const uint8_t known = out_.own(*to) ? (out_.*depths)[out_.index(*to)] : base_depth(depths, *to);
      if (known == kOpen) return bad_type(*to, sizes ? "holds itself" : "is made of itself");
      if (known != kUnvisited) {
        RV_TRY(deepen(top, known));
      } else if (stack.size() >= kMostDepth) {
        return bad_type(*to, "is nested too deep");
      } else {
        open(*to);
      }
    }
    return {};
  }
  uint8_t base_depth(std::vector<uint8_t> Btf::*depths, BtfId id) const {
    const Btf* b = out_.base_;
    while (!b->own(id)) b = b->base_;
    return (b->*depths)[b->index(id)];
  }
  Result<void> deepen(Frame& frame, uint8_t below) {
    if (below >= kMostDepth) return bad_type(frame.id, "is nested too deep");
    frame.depth = std::max<uint8_t>(frame.depth, below + 1);
    return {};
  }

  Result<void> set_size(BtfId id, const Type& t) {
    uint32_t& size = out_.sizes_[out_.index(id)];
    switch (t.kind) {
      case Kind::integer:
      case Kind::enumeration:
      case Kind::enumeration64:
      case Kind::floating:
      case Kind::section: size = t.size; return {};
      case Kind::pointer: size = 8; return {};
      case Kind::array: {
        const Array a = out_.array(id);
        const auto element = out_.size_of(a.element);
        if (!element) return bad_type(id, "is an array of what has no size");
        const uint64_t bytes = uint64_t{*element} * a.count;
        if (bytes >= kNoSize) return bad_type(id, fmt::format("is an array of {} bytes", bytes));
        size = static_cast<uint32_t>(bytes);
        return {};
      }
      case Kind::structure:
      case Kind::union_:
        if (t.size == kNoSize) return bad_type(id, "is too large");
        size = t.size;
        for (uint32_t i = 0; i < t.count; ++i) RV_TRY(check_member(id, t, i));
        return {};
      default:
        if (is_alias(t.kind)) size = out_.size_of(t.type).value_or(kNoSize);
        return {};
    }
  }

  Result<void> check_member(BtfId id, const Type& t, uint32_t i) const {
    const Member m = out_.member(id, i);
    const auto size = out_.size_of(m.type);
    if (!size) return bad_type(id, fmt::format("member {} has no size", i));
    const uint64_t bits = m.bits != 0 ? m.bits : uint64_t{8} * *size;
    if (m.bits > uint64_t{8} * *size) return bad_type(id, fmt::format("member {} has more bits than its type", i));
    if (m.bits == 0 && m.bit % 8 != 0) return bad_type(id, fmt::format("member {} begins inside of a byte", i));
    if (m.bit + bits > uint64_t{8} * t.size) return bad_type(id, fmt::format("member {} ends behind it", i));
    return {};
  }

  void index() {
    struct Key {
      std::string_view name;
      Kind kind;
      BtfId id;
    };
    std::vector<Key> keys;
    for (uint32_t id = out_.first_; id < out_.end(); ++id) {
      const Type t = out_.type(BtfId(id));
      if (!t.name.empty()) keys.push_back({t.name, t.kind, BtfId(id)});
    }
    std::sort(keys.begin(), keys.end(),
              [](const Key& a, const Key& b) { return std::tie(a.name, a.kind, a.id) < std::tie(b.name, b.kind, b.id); });
    for (const Key& k : keys) out_.by_name_.push_back(k.id);
  }

  Btf& out_;
};

Result<Btf> Btf::parse(std::span<const uint8_t> bytes, const Btf* base) {
  Btf out;
  if (base != nullptr) {
    out.base_ = base;
    out.first_ = base->end();
    out.strings_first_ = base->strings_first_ + static_cast<uint32_t>(base->strings_.size());
    out.signs_enumerations_ = base->signs_enumerations_;
  }
  RV_TRY(Loader(out).load(bytes));
  return out;
}

}  // namespace retrovisor
