// Source: DWARF Debugging Information Format 5; section numbers below are its.
#include "analysis/linux/dwarf.h"

#include <algorithm>
#include <array>
#include <optional>
#include <span>
#include <string_view>
#include <tuple>
#include <unordered_map>

#include "analysis/linux/byte_writer.h"
#include "analysis/linux/dwarf_shapes.h"
#include "analysis/linux/parameter_places.h"

namespace retrovisor {
namespace {

using namespace dwarf;
using Kind = Btf::Kind;

// What nobody's kernel has, and a made-up one shall not make a debugger's file of gigabytes with.
constexpr uint32_t kMostParameters = 64;
constexpr size_t kMostFunctionBytes = size_t{256} << 20;
constexpr size_t kFunctionsPerUnit = 512;
// Members, values or parameters of a type that a unit of functions has for itself.
constexpr uint32_t kMostCopied = 64;

// ENDBR64 (CET), and the five bytes that -mfentry leaves at a function's begin: a call of __fentry__ that the kernel makes a
// NOP of (arch/x86/kernel/ftrace.c). Neither changes what a parameter is in.
constexpr std::array<uint8_t, 4> kEndbr64 = {0xf3, 0x0f, 0x1e, 0xfa};
constexpr std::array<uint8_t, 5> kNop5 = {0x0f, 0x1f, 0x44, 0x00, 0x00};
constexpr uint8_t kCall = 0xe8;

bool is_code(char type) { return type == 't' || type == 'T' || type == 'w' || type == 'W'; }
bool is_global(char type) { return type >= 'A' && type <= 'Z'; }

class Maker {
 public:
  Maker(const Btf& btf, const KernelSymbols& symbols, const KernelMemory& code, uint64_t offset)
      : btf_(btf), symbols_(symbols), code_(code), offset_(offset), die_at_(btf.end()), local_at_(btf.end()), ambiguous_(btf.end()) {}

  // All types in a unit of their own, and functions some hundred to a unit: a debugger that stands in one reads its unit. So such a
  // unit has all that its functions' prototypes are made of, but of structures their names alone: what a pointer leads to is looked
  // up in the first unit when somebody follows it.
  DebugSections make() {
    find_functions();
    find_ambiguous_names();
    begin_unit({});
    for (uint32_t id = 1; id < btf_.end(); ++id) type(BtfId(id));
    end_unit();
    local_ = true;
    lists_header();
    const std::span<const Function> all(functions_);
    size_t first = 0;
    do {
      const auto some = all.subspan(first, std::min(kFunctionsPerUnit, all.size() - first));
      begin_unit(some);
      for (const Function& f : some) function_entry(f);
      // In a unit with code: of one without any, gdb takes variables' addresses for code's.
      if (first == 0) variables();
      end_unit();
      first += kFunctionsPerUnit;
    } while (first < all.size() && info_.size() + lists_.size() < kMostFunctionBytes);
    lists_.set_u32(0, static_cast<uint32_t>(lists_.size() - 4));
    out_.info = info_.take();
    out_.loclists = lists_.take();
    out_.str = btf_.strings();
    out_.abbrev = abbreviations();
    return std::move(out_);
  }

 private:
  struct Function {
    const KernelSymbol* symbol = nullptr;
    uint64_t end = 0;
    BtfId type{};  // of the kind `function`
  };

  static std::vector<uint8_t> abbreviations() {
    ByteWriter out;
    for (size_t i = 0; i < kShapes.size(); ++i) {
      out.uleb(i + 1);
      out.uleb(kShapes[i].tag);
      out.u8(kShapes[i].children ? 1 : 0);
      for (const Field& f : kShapes[i].fields) {
        if (f.attribute == 0) break;
        out.uleb(f.attribute);
        out.uleb(f.form);
      }
      out.u16(0);
    }
    out.u8(0);
    return out.take();
  }

  // One per address, in the order of addresses; each ends where the next symbol begins.
  void find_functions() {
    std::vector<const KernelSymbol*> sorted;
    for (const KernelSymbol& s : symbols_.symbols) {
      by_name_.push_back(&s);
      if (s.address >= kKernelMap) sorted.push_back(&s);
    }
    std::sort(by_name_.begin(), by_name_.end(), [](const KernelSymbol* a, const KernelSymbol* b) {
      return std::tie(a->name, a->address) < std::tie(b->name, b->address);
    });
    std::sort(sorted.begin(), sorted.end(), [](const KernelSymbol* a, const KernelSymbol* b) {
      return std::tie(a->address, a->name) < std::tie(b->address, b->name);
    });
    fentry_ = only("__fentry__");
    for (size_t i = 0; i < sorted.size();) {
      size_t next = i;
      Function best;
      for (; next < sorted.size() && sorted[next]->address == sorted[i]->address; ++next) {
        const KernelSymbol& s = *sorted[next];
        if (!is_code(s.type) || (best.symbol != nullptr && (is_global(best.symbol->type) || !is_global(s.type)))) continue;
        if (const auto type = known_function(s.name)) best = {&s, 0, *type};
      }
      if (best.symbol != nullptr && next < sorted.size()) {
        best.end = sorted[next]->address;
        functions_.push_back(best);
      }
      i = next;
    }
  }

  using Symbols = std::vector<const KernelSymbol*>;
  Symbols::const_iterator first_of(std::string_view name, uint64_t address) const {
    return std::lower_bound(by_name_.begin(), by_name_.end(), std::pair(name, address),
                            [](const KernelSymbol* s, const auto& key) {
                              return std::tie(s->name, s->address) < std::tie(key.first, key.second);
                            });
  }
  const KernelSymbol* symbol(std::string_view name, uint64_t address) const {
    const auto found = first_of(name, address);
    return found != by_name_.end() && (*found)->name == name && (*found)->address == address ? *found : nullptr;
  }
  // The address of that name, if only one has it.
  std::optional<uint64_t> only(std::string_view name) const {
    const auto found = first_of(name, 0);
    if (found == by_name_.end() || (*found)->name != name) return std::nullopt;
    const uint64_t address = (*found)->address;
    const auto other = address == UINT64_MAX ? by_name_.end() : first_of(name, address + 1);
    return other == by_name_.end() || (*other)->name != name ? std::optional(address) : std::nullopt;
  }

  // What BTF knows of a name that one address has. A made-up table may have the same one any number of times: asked once.
  std::optional<BtfId> known_function(std::string_view name) {
    const auto [at, is_new] = known_.try_emplace(name);
    if (!is_new || !only(name)) return at->second;
    const auto found = btf_.all(name, Kind::function);
    const bool agree = std::all_of(found.begin(), found.end(),
                                   [&](BtfId id) { return btf_.type(id).type == btf_.type(found.front()).type; });
    if (!found.empty() && agree) at->second = found.front();
    return at->second;
  }

  // Names of which a debugger that looks for one finds any of several.
  void find_ambiguous_names() {
    std::unordered_map<std::string_view, BtfId> seen;
    for (uint32_t i = 1; i < btf_.end(); ++i) {
      const Btf::Type t = btf_.type(BtfId(i));
      const bool tagged = t.kind == Kind::structure || t.kind == Kind::union_ || t.kind == Kind::enumeration || t.kind == Kind::enumeration64;
      if (!tagged || t.name.empty()) continue;
      const auto [at, is_new] = seen.try_emplace(t.name, BtfId(i));
      if (!is_new) ambiguous_[i] = ambiguous_[static_cast<uint32_t>(at->second)] = true;
    }
  }

  void begin_unit(std::span<const Function> functions) {  // 7.5.1.1
    unit_at_ = info_.size();
    info_.u32(0);  // its length
    info_.u16(5);
    info_.u8(kUnitCompile);
    info_.u8(8);   // bytes of an address
    info_.u32(0);  // in .debug_abbrev
    shape(functions.empty() ? unit : unit_of_code);
    info_.c_string("Retrovisor, from BTF");
    info_.u8(kLanguageC11);
    info_.c_string("vmlinux");
    if (functions.empty()) return;
    begin_ = functions.front().symbol->address;
    info_.u64(begin_ + offset_);
    info_.u32(static_cast<uint32_t>(functions.back().end - begin_));
  }

  void end_unit() {
    while (!wanted_.empty()) {
      const BtfId id = wanted_.back();
      wanted_.pop_back();
      type(id);
    }
    info_.u8(0);
    for (const uint32_t at : references_) {
      uint32_t id = 0;
      std::memcpy(&id, info_.data().data() + at, sizeof id);
      info_.set_u32(at, local_at_[id] != 0 ? local_at_[id] : die_at_[id]);
    }
    references_.clear();
    for (const BtfId id : copied_) local_at_[static_cast<uint32_t>(id)] = 0;
    copied_.clear();
    info_.set_u32(unit_at_, static_cast<uint32_t>(info_.size() - unit_at_ - 4));
  }

  void lists_header() {  // 7.29
    lists_.u32(0);       // its length
    lists_.u16(5);
    lists_.u8(8);
    lists_.u8(0);
    lists_.u32(0);
  }

  void shape(unsigned of) { info_.u8(of + 1); }
  // A shape with a name, or the one behind it, which has none.
  void named(unsigned of, uint32_t name_at, std::string_view name) {
    shape(name.empty() ? of + 1 : of);
    if (!name.empty()) info_.u32(name_at);
  }
  void refer(BtfId to) {
    const BtfId id = btf_.without_tags(to);
    references_.push_back(static_cast<uint32_t>(info_.size()));
    info_.u32(static_cast<uint32_t>(id));
    uint32_t& copy = local_at_[static_cast<uint32_t>(id)];
    if (!local_ || copy != 0 || !worth_a_copy(id)) return;
    copy = UINT32_MAX;  // until it is there
    wanted_.push_back(id);
    copied_.push_back(id);
  }
  bool worth_a_copy(BtfId id) const {
    const Btf::Type t = btf_.type(id);
    return !ambiguous_[static_cast<uint32_t>(id)] && (t.count <= kMostCopied || is_declared(t));
  }
  // Only a name in the units of functions.
  static bool is_declared(const Btf::Type& t) { return (t.kind == Kind::structure || t.kind == Kind::union_) && !t.name.empty(); }
  bool is_void(BtfId id) const { return btf_.without_tags(id) == BtfId::none; }
  void or_void(unsigned of, BtfId id) {
    shape(is_void(id) ? of + 1 : of);
    if (!is_void(id)) refer(id);
  }

  void type(BtfId id) {
    const Btf::Type t = btf_.type(id);
    (local_ ? local_at_ : die_at_)[static_cast<uint32_t>(id)] = static_cast<uint32_t>(info_.size());
    if (local_ && is_declared(t)) {
      shape(t.kind == Kind::union_ ? forward_union : forward_structure);
      info_.u32(t.name_at);
      return;
    }
    switch (t.kind) {
      case Kind::integer:
      case Kind::floating:
        shape(base);
        info_.u32(t.name_at);
        info_.u8(encoding(id, t));
        info_.uleb(t.size);
        break;
      case Kind::pointer:
        shape(is_void(t.type) ? pointer_void : pointer);
        info_.u8(8);
        if (!is_void(t.type)) refer(t.type);
        break;
      case Kind::array: {
        const Btf::Array a = btf_.array(id);
        shape(array);
        refer(a.element);
        shape(range);
        info_.uleb(a.count);
        info_.u8(0);
        break;
      }
      case Kind::structure:
      case Kind::union_: members(id, t); break;
      case Kind::enumeration:
      case Kind::enumeration64: values(id, t); break;
      case Kind::forward:
        shape(t.flag ? forward_union : forward_structure);
        info_.u32(t.name_at);
        break;
      case Kind::type_def:
        shape(is_void(t.type) ? type_def_void : type_def);
        info_.u32(t.name_at);
        if (!is_void(t.type)) refer(t.type);
        break;
      case Kind::const_: or_void(const_, t.type); break;
      case Kind::volatile_: or_void(volatile_, t.type); break;
      case Kind::restrict_: or_void(restrict_, t.type); break;
      case Kind::prototype:
        shape(is_void(t.type) ? prototype_void : prototype);
        if (!is_void(t.type)) refer(t.type);
        for (uint32_t i = 0; i < t.count; ++i) {
          const BtfId parameter = btf_.parameter(id, i).type;
          shape(is_void(parameter) ? any_parameters : prototype_parameter);
          if (!is_void(parameter)) refer(parameter);
        }
        info_.u8(0);
        break;
      default: return;  // functions and variables come with their addresses
    }
    if (!local_) ++out_.types;
  }

  Encoding encoding(BtfId id, const Btf::Type& t) const {
    if (t.kind == Kind::floating) return ate_float;
    const Btf::Integer i = btf_.integer(id);
    if (i.is_bool) return ate_boolean;
    const bool is_char = i.is_char || (t.size == 1 && t.name.ends_with("char"));
    if (i.is_signed) return is_char ? ate_signed_char : ate_signed;
    return is_char ? ate_unsigned_char : ate_unsigned;
  }

  void members(BtfId id, const Btf::Type& t) {
    named(t.kind == Kind::structure ? structure : union_, t.name_at, t.name);
    info_.uleb(t.size);
    for (uint32_t i = 0; i < t.count; ++i) {
      const Btf::Member m = btf_.member(id, i);
      named(m.bits != 0 ? bits : member, m.name_at, m.name);
      refer(m.type);
      if (m.bits != 0) info_.uleb(m.bits);
      info_.uleb(m.bits != 0 ? m.bit : m.bit / 8);
    }
    info_.u8(0);
  }

  void values(BtfId id, const Btf::Type& t) {
    // One without values is a declaration: `enum x;`.
    const bool declared = t.count == 0 && !t.name.empty();
    if (declared) {
      shape(enumeration_declared);
      info_.u32(t.name_at);
    } else {
      named(enumeration, t.name_at, t.name);
    }
    info_.uleb(t.size);
    if (declared) return;
    const bool is_signed = btf_.is_signed_enumeration(id);
    for (uint32_t i = 0; i < t.count; ++i) {
      const Btf::Enumerator e = btf_.enumerator(id, i);
      shape(is_signed ? value_signed : value_unsigned);
      info_.u32(e.name_at);
      if (is_signed) {
        info_.sleb(e.value);
      } else {
        info_.uleb(static_cast<uint64_t>(e.value));
      }
    }
    info_.u8(0);
  }

  // How many bytes of a function are executed with everything still where the caller has put it: one more than where the
  // first instruction of its own begins.
  uint64_t entry_bytes(const Function& f) const {
    std::array<uint8_t, 9> bytes{};
    const uint64_t begin = f.symbol->address;
    const auto there = std::span<const uint8_t>(bytes).first(code_.read(begin, bytes));
    const auto has = [&](size_t at, std::span<const uint8_t> what) {
      return there.size() >= at + what.size() &&
             std::equal(what.begin(), what.end(), there.begin() + static_cast<std::ptrdiff_t>(at));
    };
    size_t at = has(0, kEndbr64) ? kEndbr64.size() : 0;
    if (has(at, kNop5)) {
      at += kNop5.size();
    } else if (there.size() >= at + 5 && there[at] == kCall && fentry_) {
      int32_t distance = 0;
      std::memcpy(&distance, there.data() + at + 1, sizeof distance);
      if (begin + at + 5 + static_cast<uint64_t>(int64_t{distance}) == *fentry_) at += 5;
    }
    return std::min<uint64_t>(at + 1, f.end - begin);
  }

  void function_entry(const Function& f) {
    const BtfId id = btf_.type(f.type).type;
    const Btf::Type proto = btf_.type(id);
    if (proto.count > kMostParameters) return;
    shape(is_void(proto.type) ? function_void : function);
    info_.u32(btf_.type(f.type).name_at);
    info_.u8(is_global(f.symbol->type) ? 1 : 0);
    info_.u64(f.symbol->address + offset_);
    info_.u32(static_cast<uint32_t>(f.end - f.symbol->address));
    if (!is_void(proto.type)) refer(proto.type);
    const uint64_t begin = f.symbol->address - begin_, entry_end = begin + entry_bytes(f);
    ParameterPlaces places(btf_);
    for (uint32_t i = 0; i < proto.count; ++i) {
      const Btf::Parameter p = btf_.parameter(id, i);
      if (is_void(p.type)) {
        shape(any_parameters);
        continue;
      }
      const auto place = places.next(p.type);
      named(place ? parameter : parameter_nowhere, p.name_at, p.name);
      refer(p.type);
      if (!place) continue;
      info_.u32(static_cast<uint32_t>(lists_.size()));
      lists_.u8(kListOffsetPair);
      lists_.uleb(begin);
      lists_.uleb(entry_end);
      lists_.uleb(place->size());
      lists_.bytes(*place);
      lists_.u8(kListEnd);
    }
    info_.u8(0);
    ++out_.functions;
  }

  // Those of sections: BTF says where in their section they lie. Per-CPU variables' addresses are offsets in each CPU's
  // area.
  void variables() {
    const auto per_cpu = only("__per_cpu_start");
    for (uint32_t id = 1; id < btf_.end(); ++id) {
      const Btf::Type section = btf_.type(BtfId(id));
      if (section.kind != Kind::section) continue;
      const bool each_cpu = section.name == ".data..percpu";
      if (each_cpu && !per_cpu) continue;
      for (uint32_t i = 0; i < section.count; ++i) {
        const Btf::Placed placed = btf_.placed(BtfId(id), i);
        const Btf::Type v = btf_.type(placed.variable);
        const auto address = each_cpu ? std::optional(*per_cpu + placed.offset) : only(v.name);
        const KernelSymbol* s = address ? symbol(v.name, *address) : nullptr;
        if (s != nullptr && btf_.size_of(v.type) && (each_cpu || !is_code(s->type))) variable_entry(v, *s);
      }
    }
  }

  void variable_entry(const Btf::Type& v, const KernelSymbol& s) {
    shape(variable);
    info_.u32(v.name_at);
    info_.u8(is_global(s.type) ? 1 : 0);
    refer(v.type);
    info_.uleb(9);
    info_.u8(kOpAddr);
    info_.u64(s.address + (s.address >= kKernelMap ? offset_ : 0));
    ++out_.variables;
  }

  const Btf& btf_;
  const KernelSymbols& symbols_;
  const KernelMemory& code_;
  const uint64_t offset_;
  Symbols by_name_;
  std::unordered_map<std::string_view, std::optional<BtfId>> known_;
  std::vector<Function> functions_;
  std::optional<uint64_t> fentry_;
  uint64_t begin_ = 0;  // of the unit
  ByteWriter info_, lists_;
  std::vector<uint32_t> die_at_;       // by type id: in the first unit
  std::vector<uint32_t> local_at_;     // in the present one, if it has a copy
  std::vector<bool> ambiguous_;
  std::vector<uint32_t> references_;   // where in info_ type ids stand that become positions of entries
  std::vector<BtfId> wanted_, copied_; // copies that have to be made, and all of this unit
  size_t unit_at_ = 0;
  bool local_ = false;
  DebugSections out_;
};

}  // namespace

DebugSections make_debug_sections(const Btf& btf, const KernelSymbols& symbols, const KernelMemory& code, uint64_t offset) {
  return Maker(btf, symbols, code, offset).make();
}

}  // namespace retrovisor
