// A reader of DWARF 5 that knows nothing of who wrote it, for tests: entries as abbreviations describe them.
#pragma once

#include <cstring>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "analysis/linux/dwarf.h"

namespace retrovisor {

class DwarfReader {
 public:
  struct Entry {
    uint64_t at = 0, tag = 0;
    std::map<uint64_t, uint64_t> values;           // by attribute; of expressions: where they are
    std::map<uint64_t, std::string> texts;
    std::set<uint64_t> references;                 // attributes that refer to entries
    std::vector<Entry> children;

    std::string name() const { return texts.count(3) != 0 ? texts.at(3) : ""; }
    uint64_t value(uint64_t attribute) const { return values.count(attribute) != 0 ? values.at(attribute) : UINT64_MAX; }
  };

  explicit DwarfReader(const DebugSections& sections) : s_(sections) {}

  // All units, as children of an entry that is none. Empty: malformed; error() says how.
  std::optional<Entry> read() {
    Entry all;
    all.at = UINT64_MAX;
    if (!read_abbreviations()) return fail("abbreviations");
    while (at_ < s_.info.size()) {
      const uint64_t end = number(4) + at_;
      if (number(2) != 5 || number(1) != 1 || number(1) != 8 || number(4) != 0 || !good_) return fail("header");
      Entry unit;
      if (!read_entry(unit, 0)) return fail("entries");
      if (at_ != end) return fail("length");
      all.children.push_back(std::move(unit));
    }
    if (!check(all)) return fail("references");
    return all;
  }
  const std::string& error() const { return error_; }

  // The entry at a position.
  static const Entry* find(const Entry& in, uint64_t at) {
    if (in.at == at) return &in;
    for (const Entry& e : in.children)
      if (const Entry* found = find(e, at)) return found;
    return nullptr;
  }
  static const Entry* named(const Entry& in, uint64_t tag, const std::string& name) {
    for (const Entry& e : in.children)
      if (e.tag == tag && e.name() == name) return &e;
    return nullptr;
  }

  struct Range {
    uint64_t begin = 0, end = 0;
    std::vector<uint8_t> expression;
  };
  // The one range of a location list; addresses count from its unit's begin.
  std::optional<Range> location(uint64_t list) const {
    DwarfReader r(s_);
    r.from_ = &s_.loclists;
    r.at_ = list;
    Range out;
    if (r.number(1) != 4) return std::nullopt;
    out.begin = r.uleb();
    out.end = r.uleb();
    const uint64_t size = r.uleb();
    for (uint64_t i = 0; i < size && r.good_; ++i) out.expression.push_back(static_cast<uint8_t>(r.number(1)));
    return r.number(1) == 0 && r.good_ ? std::optional(out) : std::nullopt;
  }

 private:
  struct Abbreviation {
    uint64_t tag = 0;
    bool children = false;
    std::vector<std::pair<uint64_t, uint64_t>> fields;
  };

  std::optional<Entry> fail(const char* what) {
    error_ = std::string("bad ") + what + " before " + std::to_string(at_);
    return std::nullopt;
  }
  uint64_t number(size_t size) {
    uint64_t v = 0;
    if (at_ > from_->size() || size > from_->size() - at_) return good_ = false, 0;
    std::memcpy(&v, from_->data() + at_, size);
    at_ += size;
    return v;
  }
  uint64_t uleb() {
    uint64_t v = 0;
    for (unsigned shift = 0; shift < 70; shift += 7) {
      const uint64_t b = number(1);
      if (shift < 64) v |= (b & 0x7f) << shift;
      if ((b & 0x80) == 0) return v;
    }
    return good_ = false, 0;
  }
  uint64_t sleb() {
    int64_t v = 0;
    for (unsigned shift = 0; shift < 70; shift += 7) {
      const uint64_t b = number(1);
      if (shift < 64) v |= static_cast<int64_t>((b & 0x7f) << shift);
      if ((b & 0x80) != 0) continue;
      if ((b & 0x40) != 0 && shift + 7 < 64) v |= -(int64_t{1} << (shift + 7));
      return static_cast<uint64_t>(v);
    }
    return good_ = false, 0;
  }
  std::string text(const std::vector<uint8_t>& in, uint64_t at) {
    std::string out;
    for (; at < in.size(); ++at) {
      if (in[at] == 0) return out;
      out += static_cast<char>(in[at]);
    }
    good_ = false;
    return out;
  }

  bool read_abbreviations() {
    from_ = &s_.abbrev;
    const uint64_t back = at_;
    at_ = 0;
    for (uint64_t code = uleb(); code != 0 && good_; code = uleb()) {
      Abbreviation a;
      a.tag = uleb();
      a.children = number(1) != 0;
      for (;;) {
        const uint64_t attribute = uleb(), form = uleb();
        if (!good_ || (attribute == 0 && form == 0)) break;
        a.fields.emplace_back(attribute, form);
      }
      if (!abbreviations_.emplace(code, a).second) return false;
    }
    const bool all = at_ == s_.abbrev.size();
    at_ = back;
    from_ = &s_.info;
    return all && good_;
  }

  bool read_entry(Entry& e, int depth) {
    e.at = at_;
    const auto found = abbreviations_.find(uleb());
    if (found == abbreviations_.end() || depth > 3) return false;
    const Abbreviation& a = found->second;
    e.tag = a.tag;
    starts_.insert(e.at);
    for (const auto& [attribute, form] : a.fields) {
      switch (form) {
        case 0x01: e.values[attribute] = number(8); break;
        case 0x06: case 0x17: e.values[attribute] = number(4); break;
        case 0x08: {
          std::string s = text(s_.info, at_);
          at_ += s.size() + 1;
          e.texts[attribute] = s;
          break;
        }
        case 0x0b: case 0x0c: e.values[attribute] = number(1); break;
        case 0x0d: e.values[attribute] = sleb(); break;
        case 0x0e: e.texts[attribute] = text(s_.str, number(4)); break;
        case 0x0f: e.values[attribute] = uleb(); break;
        case 0x10:
          e.values[attribute] = number(4);
          e.references.insert(attribute);
          break;
        case 0x18: {
          const uint64_t size = uleb();
          e.values[attribute] = at_;
          for (uint64_t i = 0; i < size && good_; ++i) number(1);
          break;
        }
        case 0x19: e.values[attribute] = 1; break;
        default: return false;
      }
    }
    while (a.children && good_) {
      if (at_ < s_.info.size() && s_.info[at_] == 0) {
        ++at_;
        break;
      }
      Entry child;
      if (!read_entry(child, depth + 1)) return false;
      e.children.push_back(std::move(child));
    }
    return good_;
  }

  bool check(const Entry& e) const {
    for (const uint64_t attribute : e.references)
      if (starts_.count(e.values.at(attribute)) == 0) return false;
    if (e.tag == 5 && e.values.count(2) != 0 && !location(e.values.at(2))) return false;
    for (const Entry& child : e.children)
      if (!check(child)) return false;
    return true;
  }

  const DebugSections& s_;
  const std::vector<uint8_t>* from_ = &s_.info;
  uint64_t at_ = 0;
  bool good_ = true;
  std::string error_;
  std::map<uint64_t, Abbreviation> abbreviations_;
  std::set<uint64_t> starts_;
};

}  // namespace retrovisor
