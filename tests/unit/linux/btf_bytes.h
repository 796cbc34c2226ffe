// BTF as a compiler's tools write it, made by hand, for tests.
#pragma once

#include <cstring>
#include <string_view>
#include <vector>

#include "analysis/linux/btf.h"

namespace retrovisor {

class BtfBytes {
 public:
  using Kind = Btf::Kind;
  struct Entry {
    std::string_view name;
    uint32_t type = 0;
    uint32_t where = 0;
  };

  BtfBytes() { strings_.push_back(0); }
  // Types of a module: they go on where those of `base` end.
  explicit BtfBytes(const BtfBytes& base)
      : next_(base.next_), strings_first_(base.strings_first_ + static_cast<uint32_t>(base.strings_.size())) {}

  uint32_t name(std::string_view text) {
    if (text.empty()) return 0;
    const auto at = strings_first_ + static_cast<uint32_t>(strings_.size());
    strings_.insert(strings_.end(), text.begin(), text.end());
    strings_.push_back(0);
    return at;
  }
  // All kinds are these three words and what follows them.
  uint32_t add(Kind kind, std::string_view text, uint32_t third, uint32_t count = 0, bool flag = false) {
    word(name(text));
    word(static_cast<uint32_t>(kind) << 24 | count | (flag ? 1U << 31 : 0));
    word(third);
    return next_++;
  }
  void word(uint32_t v) { put(types_, v); }

  uint32_t integer(std::string_view text, uint32_t size, uint32_t how = 0, uint32_t bits = 0, uint32_t offset = 0) {
    const uint32_t id = add(Kind::integer, text, size);
    word(how << 24 | offset << 16 | (bits != 0 ? bits : 8 * size));
    return id;
  }
  uint32_t array(uint32_t element, uint32_t index, uint32_t count) {
    const uint32_t id = add(Kind::array, "", 0);
    word(element);
    word(index);
    word(count);
    return id;
  }
  // structure, union_ and section: {name, type, bit}; sections: {"", variable, offset} and the size in `name`'s place.
  uint32_t members(Kind kind, std::string_view text, uint32_t size, const std::vector<Entry>& entries, bool flag = false) {
    const uint32_t id = add(kind, text, size, static_cast<uint32_t>(entries.size()), flag);
    for (const Entry& e : entries) {
      word(name(e.name));
      word(e.type);
      word(e.where);
    }
    return id;
  }
  uint32_t structure(std::string_view text, uint32_t size, const std::vector<Entry>& entries, bool flag = false) {
    return members(Kind::structure, text, size, entries, flag);
  }
  uint32_t enumeration(std::string_view text, const std::vector<std::pair<std::string_view, int32_t>>& values,
                       bool flag = false) {
    const uint32_t id = add(Kind::enumeration, text, 4, static_cast<uint32_t>(values.size()), flag);
    for (const auto& [value_name, value] : values) {
      word(name(value_name));
      word(static_cast<uint32_t>(value));
    }
    return id;
  }
  uint32_t enumeration64(std::string_view text, const std::vector<std::pair<std::string_view, int64_t>>& values,
                         bool flag = false) {
    const uint32_t id = add(Kind::enumeration64, text, 8, static_cast<uint32_t>(values.size()), flag);
    for (const auto& [value_name, value] : values) {
      word(name(value_name));
      word(static_cast<uint32_t>(value));
      word(static_cast<uint32_t>(static_cast<uint64_t>(value) >> 32));
    }
    return id;
  }
  uint32_t prototype(uint32_t result, const std::vector<Entry>& parameters) {
    const uint32_t id = add(Kind::prototype, "", result, static_cast<uint32_t>(parameters.size()));
    for (const Entry& p : parameters) {
      word(name(p.name));
      word(p.type);
    }
    return id;
  }
  uint32_t variable(std::string_view text, uint32_t type, uint32_t linkage = 1) {
    const uint32_t id = add(Kind::variable, text, type);
    word(linkage);
    return id;
  }
  uint32_t section(std::string_view text, const std::vector<std::array<uint32_t, 3>>& variables) {
    const uint32_t id = add(Kind::section, text, 4096, static_cast<uint32_t>(variables.size()));
    for (const auto& v : variables)
      for (const uint32_t w : v) word(w);
    return id;
  }
  uint32_t tag(std::string_view text, uint32_t type, uint32_t component) {
    const uint32_t id = add(Kind::decl_tag, text, type);
    word(component);
    return id;
  }

  std::vector<uint8_t> build() const {
    std::vector<uint8_t> out = {0x9f, 0xeb, 1, 0};
    for (const size_t v : {size_t{24}, size_t{0}, types_.size(), types_.size(), strings_.size()})
      put(out, static_cast<uint32_t>(v));
    out.insert(out.end(), types_.begin(), types_.end());
    out.insert(out.end(), strings_.begin(), strings_.end());
    return out;
  }

 private:
  static void put(std::vector<uint8_t>& out, uint32_t v) {
    out.resize(out.size() + 4);
    std::memcpy(out.data() + out.size() - 4, &v, 4);
  }

  uint32_t next_ = 1, strings_first_ = 0;
  std::vector<uint8_t> types_, strings_;
};

// One of every kind, as a small kernel's: ids in the order of the names.
struct SomeBtf {
  BtfBytes b;
  uint32_t int_ = b.integer("int", 4, 1);
  uint32_t u64 = b.integer("unsigned long", 8);
  uint32_t char_ = b.integer("char", 1, 1);
  uint32_t bool_ = b.integer("_Bool", 1, 4);
  uint32_t int128 = b.integer("__int128", 16, 1);
  uint32_t double_ = b.add(Btf::Kind::floating, "double", 8);
  uint32_t void_pointer = b.add(Btf::Kind::pointer, "", 0);
  uint32_t text = b.array(char_, int_, 16);
  uint32_t list = b.structure("list_head", 16, {{"next", int_ + 9, 0}, {"prev", int_ + 9, 64}});
  uint32_t list_pointer = b.add(Btf::Kind::pointer, "", list);
  uint32_t pid_t_ = b.add(Btf::Kind::type_def, "pid_t", int_);
  uint32_t const_char = b.add(Btf::Kind::const_, "", char_);
  uint32_t const_void = b.add(Btf::Kind::const_, "", 0);
  uint32_t volatile_long = b.add(Btf::Kind::volatile_, "", u64);
  uint32_t restrict_pointer = b.add(Btf::Kind::restrict_, "", void_pointer);
  uint32_t user = b.add(Btf::Kind::type_tag, "user", const_char);
  uint32_t user_pointer = b.add(Btf::Kind::pointer, "", user);
  uint32_t hidden = b.add(Btf::Kind::forward, "hidden", 0);
  uint32_t hidden_union = b.add(Btf::Kind::forward, "hidden_union", 0, 0, true);
  uint32_t hidden_pointer = b.add(Btf::Kind::pointer, "", hidden);
  uint32_t state = b.enumeration("state", {{"RUNNING", 0}, {"LOST", -1}}, true);
  uint32_t flags = b.enumeration("flags", {{"LOW", 1}, {"HIGH", INT32_MIN}});
  uint32_t wide = b.enumeration64("wide", {{"WIDE", 0x123456789a}, {"LAST", -1}});
  uint32_t anonymous_union = b.members(Btf::Kind::union_, "", 8, {{"value", u64, 0}, {"pair", int_, 32}});
  uint32_t task = b.structure("task_struct", 80,
                              {{"pid", pid_t_, 0},
                               {"on_cpu", int_, 32 | 1 << 24},
                               {"depth", int_, 33 | 5 << 24},
                               {"", int_, 38 | 2 << 24},
                               {"", anonymous_union, 64},
                               {"tasks", list, 128},
                               {"comm", text, 256},
                               {"state", state, 384},
                               {"rest", int_ + 26, 448}},
                              true);
  uint32_t matrix_row = b.array(int_, int_, 2);
  uint32_t matrix = b.array(matrix_row, int_, 3);
  uint32_t task_pointer = b.add(Btf::Kind::pointer, "", task);
  uint32_t proto = b.prototype(int_, {{"task", task_pointer}, {"where", user_pointer}, {"count", u64}});
  uint32_t wake = b.add(Btf::Kind::function, "wake_up_process", proto, 1);
  uint32_t variadic = b.prototype(0, {{"format", user_pointer}, {"", 0}});
  uint32_t panic = b.add(Btf::Kind::function, "panic", variadic, 1);
  uint32_t current = b.variable("current_task", task_pointer);
  uint32_t percpu = b.section(".data..percpu", {{current, 0x40, 8}});
  uint32_t tag = b.tag("important", task, UINT32_MAX);
  uint32_t callback = b.add(Btf::Kind::pointer, "", proto);
  uint32_t old_bits = b.integer("unsigned int", 4, 0, 3, 2);
  uint32_t old = b.structure("old_bits", 4, {{"three", old_bits, 8}});
  uint32_t empty = b.structure("empty", 0, {});
  uint32_t holder =
      b.add(Btf::Kind::type_def, "holder_t", b.structure("", 16, {{"pointer", hidden_pointer, 0}, {"call", callback, 64}}));
};

inline std::vector<uint8_t> some_btf() { return SomeBtf().b.build(); }

}  // namespace retrovisor
