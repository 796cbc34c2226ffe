// BTF: the types that a Linux kernel carries in its own memory. Everything is checked when it is read, so that what uses a Btf
// afterwards neither checks nor fails: each id and name leads somewhere, no type holds itself, and no chain is long.
//
// Source: Documentation/bpf/btf.rst of Linux 6.12, and what kernel/bpf/btf.c of it demands.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "vmm/result.h"

namespace retrovisor {

// 0 is void. Ids of a module's types go on where those of its kernel end.
enum class BtfId : uint32_t { none = 0 };

class Btf {
 public:
  // As BTF numbers them.
  enum class Kind : uint8_t {
    none, integer, pointer, array, structure, union_, enumeration, forward, type_def, volatile_, const_, restrict_, function,
    prototype, variable, section, floating, decl_tag, type_tag, enumeration64
  };
  // By kind: `size` or `type`, and how many members, enumerators, parameters or variables there are.
  struct Type {
    Kind kind = Kind::none;
    bool flag = false;       // forward: a union; type_tag, decl_tag: an attribute
    uint32_t count = 0;      // of a function: its linkage (0 static, 1 global, 2 extern)
    uint32_t size = 0;
    BtfId type{};
    uint32_t name_at = 0;    // in strings()
    std::string_view name;   // empty: anonymous
  };
  struct Integer {
    bool is_signed = false, is_char = false, is_bool = false;
    uint32_t offset = 0, bits = 0;  // less than the type's size in bit-fields of old encodings only
  };
  struct Array {
    BtfId element{};
    uint32_t count = 0;
  };
  struct Member {
    std::string_view name;  // empty: an anonymous structure or union, or a bit-field that pads
    uint32_t name_at = 0;
    BtfId type{};
    uint32_t bit = 0;       // from the structure's begin
    uint32_t bits = 0;      // of a bit-field; 0: none
  };
  struct Enumerator {
    std::string_view name;
    uint32_t name_at = 0;
    int64_t value = 0;  // of an unsigned enumeration: to be read as uint64_t
  };
  struct Parameter {
    std::string_view name;
    uint32_t name_at = 0;
    BtfId type{};  // none in the last one: "..."
  };
  struct Placed {  // a variable in a section
    BtfId variable{};
    uint32_t offset = 0, size = 0;
  };
  // Where a member of a member (of an element) lies in an object.
  struct Field {
    uint64_t offset = 0;    // of the byte in which it begins
    uint32_t bit = 0;       // in that byte; not 0 only in bit-fields
    uint64_t bits = 0;      // its size
    BtfId type{};
    bool bit_field = false;

    uint64_t size() const { return bits / 8; }
  };

  // `base`: the kernel's, for a module's; it is referred to, and has to stay where it is.
  static Result<Btf> parse(std::span<const uint8_t> bytes, const Btf* base = nullptr);

  // Ids from first() to below end() are this Btf's own; all below first() are its base's. Every id that a Btf gives is good for it.
  uint32_t first() const { return first_; }
  uint32_t end() const { return first_ + static_cast<uint32_t>(at_.size()); }
  Type type(BtfId id) const;
  Integer integer(BtfId id) const;
  Array array(BtfId id) const;
  Member member(BtfId id, uint32_t index) const;
  Enumerator enumerator(BtfId id, uint32_t index) const;
  bool is_signed_enumeration(BtfId id) const;
  Parameter parameter(BtfId id, uint32_t index) const;
  Placed placed(BtfId id, uint32_t index) const;

  // Nothing: it has no size (void, a forward declaration, a function).
  std::optional<uint32_t> size_of(BtfId id) const;
  // What typedefs, const and the like stand for.
  BtfId resolve(BtfId id) const;
  // The same, but no typedef.
  BtfId without_tags(BtfId id) const;

  // The first of that name; a module's own before its kernel's.
  std::optional<BtfId> find(std::string_view name, Kind kind) const;
  std::vector<BtfId> all(std::string_view name, Kind kind) const;
  // A structure, union or typedef of one: "task_struct", "spinlock_t".
  Result<BtfId> object(std::string_view name) const;
  // "thread.sp", "cpus_mask.bits[0]": also through anonymous members. Elements are not checked against an array's size:
  // kernels write behind the end of what they declare with [0] or [1].
  Result<Field> field(std::string_view object, std::string_view path) const;
  Result<Field> field(BtfId object, std::string_view path) const;
  // A value of an enumeration, by its name alone.
  std::optional<int64_t> enumerator(std::string_view name) const;

  // All names, each ended by NUL: the base's, then one's own.
  std::vector<uint8_t> strings() const;

 private:
  class Loader;
  Btf() = default;
  bool own(BtfId id) const { return static_cast<uint32_t>(id) >= first_; }
  uint32_t index(BtfId id) const { return static_cast<uint32_t>(id) - first_; }
  uint32_t word(size_t at) const;
  uint32_t tail(BtfId id, uint32_t number) const;  // words behind the three that every type has
  std::string_view string(uint32_t at) const;
  std::optional<Field> direct_member(BtfId object, std::string_view name) const;

  const Btf* base_ = nullptr;
  uint32_t first_ = 1;
  uint32_t strings_first_ = 0;
  std::vector<uint8_t> types_, strings_;
  std::vector<uint32_t> at_;      // where each own type begins in types_
  std::vector<uint32_t> sizes_;
  std::vector<uint8_t> holding_, naming_;  // how long chains are from here (see Loader)
  std::vector<BtfId> by_name_;    // own named types, by name, kind and id
  bool signs_enumerations_ = false;
};

std::string_view btf_kind_name(Btf::Kind kind);

}  // namespace retrovisor
