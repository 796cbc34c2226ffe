#include "analysis/linux/btf.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <array>

#include "analysis/linux/kernel_btf.h"
#include "tests/unit/linux/btf_bytes.h"

namespace retrovisor {
namespace {

using Kind = Btf::Kind;
using testing::HasSubstr;

Btf parsed(const BtfBytes& b, const Btf* base = nullptr) {
  auto btf = Btf::parse(b.build(), base);
  RV_ASSERT(btf.ok());
  return std::move(btf).value();
}
std::string refusal(const std::vector<uint8_t>& bytes, const Btf* base = nullptr) {
  const auto btf = Btf::parse(bytes, base);
  return btf.ok() ? "accepted" : btf.error().message;
}
std::string refusal(const BtfBytes& b, const Btf* base = nullptr) { return refusal(b.build(), base); }

TEST(Btf, every_kind_is_read) {
  const SomeBtf s;
  const Btf btf = parsed(s.b);
  const auto kind = [&](uint32_t id) { return btf.type(BtfId(id)).kind; };
  EXPECT_EQ(kind(0), Kind::none);
  EXPECT_EQ(kind(s.int_), Kind::integer);
  EXPECT_EQ(kind(s.void_pointer), Kind::pointer);
  EXPECT_EQ(kind(s.text), Kind::array);
  EXPECT_EQ(kind(s.task), Kind::structure);
  EXPECT_EQ(kind(s.anonymous_union), Kind::union_);
  EXPECT_EQ(kind(s.state), Kind::enumeration);
  EXPECT_EQ(kind(s.hidden), Kind::forward);
  EXPECT_EQ(kind(s.pid_t_), Kind::type_def);
  EXPECT_EQ(kind(s.volatile_long), Kind::volatile_);
  EXPECT_EQ(kind(s.const_char), Kind::const_);
  EXPECT_EQ(kind(s.restrict_pointer), Kind::restrict_);
  EXPECT_EQ(kind(s.panic), Kind::function);
  EXPECT_EQ(kind(s.proto), Kind::prototype);
  EXPECT_EQ(kind(s.current), Kind::variable);
  EXPECT_EQ(kind(s.percpu), Kind::section);
  EXPECT_EQ(kind(s.double_), Kind::floating);
  EXPECT_EQ(kind(s.tag), Kind::decl_tag);
  EXPECT_EQ(kind(s.user), Kind::type_tag);
  EXPECT_EQ(kind(s.wide), Kind::enumeration64);

  EXPECT_TRUE(btf.integer(BtfId(s.int_)).is_signed);
  EXPECT_TRUE(btf.integer(BtfId(s.bool_)).is_bool);
  EXPECT_TRUE(btf.type(BtfId(s.hidden_union)).flag);
  EXPECT_EQ(btf.array(BtfId(s.text)).count, 16u);
  EXPECT_EQ(btf.enumerator(BtfId(s.state), 1).value, -1);
  EXPECT_EQ(btf.enumerator(BtfId(s.flags), 1).value, 0x80000000);
  EXPECT_EQ(btf.enumerator(BtfId(s.wide), 0).value, 0x123456789a);
  EXPECT_EQ(btf.enumerator("WIDE"), 0x123456789a);
  EXPECT_EQ(btf.enumerator("NARROW"), std::nullopt);
  EXPECT_EQ(btf.parameter(BtfId(s.proto), 1).name, "where");
  EXPECT_EQ(btf.parameter(BtfId(s.variadic), 1).type, BtfId::none);
  EXPECT_EQ(btf.placed(BtfId(s.percpu), 0).offset, 0x40u);
  EXPECT_EQ(btf.resolve(BtfId(s.user)), BtfId(s.char_));
  EXPECT_EQ(btf.without_tags(BtfId(s.user)), BtfId(s.const_char));
  EXPECT_EQ(btf.end(), s.holder + 1);
}

TEST(Btf, sizes) {
  const SomeBtf s;
  const Btf btf = parsed(s.b);
  EXPECT_EQ(btf.size_of(BtfId(s.int128)), 16u);
  EXPECT_EQ(btf.size_of(BtfId(s.user_pointer)), 8u);
  EXPECT_EQ(btf.size_of(BtfId(s.matrix)), 24u);
  EXPECT_EQ(btf.size_of(BtfId(s.pid_t_)), 4u);
  EXPECT_EQ(btf.size_of(BtfId(s.wide)), 8u);
  EXPECT_EQ(btf.size_of(BtfId(s.holder)), 16u);
  EXPECT_EQ(btf.size_of(BtfId(s.empty)), 0u);
  for (const uint32_t none : {uint32_t{0}, s.hidden, s.const_void, s.proto, s.panic})
    EXPECT_EQ(btf.size_of(BtfId(none)), std::nullopt) << none;
}

TEST(Btf, is_asked_by_name) {
  const SomeBtf s;
  const Btf btf = parsed(s.b);
  EXPECT_EQ(btf.find("task_struct", Kind::structure), BtfId(s.task));
  EXPECT_EQ(btf.find("task_struct", Kind::union_), std::nullopt);
  EXPECT_EQ(btf.find("panic", Kind::function), BtfId(s.panic));
  EXPECT_EQ(btf.find("", Kind::structure), std::nullopt);
  ASSERT_TRUE(btf.object("holder_t").ok());
  EXPECT_THAT(btf.object("nothing").error().message, HasSubstr("no type 'nothing'"));
}

TEST(Btf, members_are_found_through_anonymous_ones) {
  const SomeBtf s;
  const Btf btf = parsed(s.b);
  const auto at = [&](std::string_view path) {
    const auto f = btf.field("task_struct", path);
    return f.ok() ? std::array<uint64_t, 3>{f->offset, f->bit, f->bits} : std::array<uint64_t, 3>{};
  };
  using Where = std::array<uint64_t, 3>;
  EXPECT_EQ(at("pid"), (Where{0, 0, 32}));
  EXPECT_EQ(at("on_cpu"), (Where{4, 0, 1}));
  EXPECT_EQ(at("depth"), (Where{4, 1, 5}));
  EXPECT_EQ(at("value"), (Where{8, 0, 64}));
  EXPECT_EQ(at("pair"), (Where{12, 0, 32}));
  EXPECT_EQ(at("tasks.prev"), (Where{24, 0, 64}));
  EXPECT_EQ(at("comm[3]"), (Where{35, 0, 8}));
  EXPECT_EQ(at("rest[2][1]"), (Where{76, 0, 32}));
  EXPECT_TRUE(btf.field("task_struct", "depth")->bit_field);
  EXPECT_FALSE(btf.field("task_struct", "pid")->bit_field);
  EXPECT_EQ(btf.field("old_bits", "three")->bit, 2u);
  EXPECT_EQ(btf.field("old_bits", "three")->bits, 3u);
  EXPECT_EQ(btf.field("holder_t", "call")->offset, 8u);
  EXPECT_EQ(btf.field("task_struct", "")->bits, 640u);
  for (const auto* wrong : {"none", "pid.x", "tasks.", "tasks..next", ".pid", "comm[", "comm[]", "comm[x]", "comm[1",
                            "comm[99999999999]", "pid[0]", "comm.[1]", "comm[1]x", "tasks.next.next", "[0]"})
    EXPECT_FALSE(btf.field("task_struct", wrong).ok()) << wrong;
  EXPECT_THAT(btf.field("task_struct", "tasks.middle").error().message, HasSubstr("task_struct: no member 'middle'"));
}

// Only the newest encodings say whether an enumeration is signed; where none does, all are.
TEST(Btf, enumerations_of_old_kernels_are_signed) {
  BtfBytes b;
  const uint32_t id = b.enumeration("old", {{"LOST", -1}});
  EXPECT_EQ(parsed(b).enumerator(BtfId(id), 0).value, -1);
}

TEST(Btf, fields_are_read_from_memory) {
  const SomeBtf s;
  const Btf btf = parsed(s.b);
  std::array<uint8_t, 80> task{};
  task[0] = 0xfe, task[1] = task[2] = task[3] = 0xff;  // pid
  task[4] = 0b0011'1101;                               // on_cpu 1, depth 0b11110
  task[8] = 0x88, task[15] = 0x99;
  const ImageMemory memory(0x1000, task);
  const auto read = [&](std::string_view path) { return read_field(memory, btf, 0x1000, *btf.field("task_struct", path)); };
  EXPECT_EQ(read("pid"), static_cast<uint64_t>(-2));
  EXPECT_EQ(read("on_cpu"), static_cast<uint64_t>(-1));  // one bit of a signed integer
  EXPECT_EQ(read("depth"), static_cast<uint64_t>(-2));
  EXPECT_EQ(read("value"), 0x9900000000000088u);
  EXPECT_EQ(read("comm"), std::nullopt);
  EXPECT_EQ(read_field(memory, btf, 0x1048, *btf.field("task_struct", "value")), std::nullopt);
}

TEST(Btf, a_modules_types_go_on_where_its_kernels_end) {
  const SomeBtf s;
  const Btf kernel = parsed(s.b);
  BtfBytes b(s.b);
  const uint32_t own = b.structure("module_thing", 88, {{"task", s.task, 0}, {"next", s.holder + 2, 640}});
  const uint32_t pointer = b.add(Kind::pointer, "", own);
  b.structure("list_head", 8, {{"other", s.void_pointer, 0}});
  const Btf module = parsed(b, &kernel);
  EXPECT_EQ(pointer, s.holder + 2);
  EXPECT_EQ(module.first(), kernel.end());
  EXPECT_EQ(module.type(BtfId(own)).name, "module_thing");
  EXPECT_EQ(module.field("module_thing", "task.tasks.prev")->offset, 24u);
  EXPECT_EQ(module.field("module_thing", "next")->offset, 80u);
  EXPECT_EQ(module.field("task_struct", "pid")->bits, 32u);
  EXPECT_EQ(module.all("list_head", Kind::structure).size(), 2u);
  EXPECT_EQ(module.field("list_head", "other")->offset, 0u);
  EXPECT_EQ(kernel.find("module_thing", Kind::structure), std::nullopt);
  EXPECT_THAT(refusal(b), HasSubstr("not empty"));  // without its kernel
  BtfBytes nameless(s.b);
  nameless.add(Kind::pointer, "", s.task);
  EXPECT_EQ(refusal(nameless, &kernel), "accepted");
}

TEST(Btf, every_truncation_is_refused) {
  const auto whole = some_btf();
  ASSERT_EQ(refusal(whole), "accepted");
  for (size_t size = 0; size < whole.size(); ++size)
    EXPECT_NE(refusal({whole.begin(), whole.begin() + static_cast<std::ptrdiff_t>(size)}), "accepted") << size;
}

TEST(Btf, a_damaged_header_is_refused) {
  const auto with = [](size_t at, uint8_t value) {
    auto bytes = some_btf();
    bytes[at] = value;
    return refusal(bytes);
  };
  EXPECT_THAT(with(0, 0), HasSubstr("BTF's number"));
  EXPECT_THAT(with(2, 2), HasSubstr("version 2"));
  EXPECT_THAT(with(3, 1), HasSubstr("flags"));
  EXPECT_THAT(with(4, 20), HasSubstr("header's length"));
  EXPECT_THAT(with(7, 0x80), HasSubstr("header's length"));
  EXPECT_THAT(with(8, 2), HasSubstr("aligned"));
  EXPECT_THAT(with(11, 0x80), HasSubstr("cut off"));
  EXPECT_THAT(with(15, 0x80), HasSubstr("cut off"));
  EXPECT_THAT(with(19, 0x80), HasSubstr("cut off"));
  EXPECT_THAT(with(23, 0x80), HasSubstr("cut off"));
  auto bytes = some_btf();
  bytes.back() = 'x';
  EXPECT_THAT(refusal(bytes), HasSubstr("end with NUL"));
}

TEST(Btf, damaged_types_are_refused_by_what_is_wrong) {
  const auto one = [](auto&& make) {
    BtfBytes b;
    const uint32_t id = b.integer("int", 4, 1);
    make(b, id);
    return refusal(b);
  };
  const auto raw = [&](uint32_t name, uint32_t info, uint32_t third) {
    return one([&](BtfBytes& b, uint32_t) { b.word(name), b.word(info), b.word(third); });
  };
  EXPECT_THAT(raw(0, 0, 0), HasSubstr("kind not known: 0"));
  EXPECT_THAT(raw(0, 20U << 24, 0), HasSubstr("kind not known: 20"));
  EXPECT_THAT(raw(0, 2U << 24 | 1 << 16, 1), HasSubstr("bits that mean nothing"));
  EXPECT_THAT(raw(0, 2U << 24 | 1, 1), HasSubstr("members, which its kind has not"));
  EXPECT_THAT(raw(999, 2U << 24, 1), HasSubstr("a name that is not there"));
  EXPECT_THAT(raw(0, 2U << 24, 7), HasSubstr("a target of type 7, which is not there"));
  EXPECT_THAT(raw(0, 8U << 24, 1), HasSubstr("has no name"));
  EXPECT_THAT(raw(0, 4U << 24 | 9, 8), HasSubstr("cut off"));
  using B = BtfBytes&;
  EXPECT_THAT(one([](B b, uint32_t) { b.integer("x", 3); }), HasSubstr("integer of 3 bytes"));
  EXPECT_THAT(one([](B b, uint32_t) { b.integer("x", 4, 0, 30, 3); }), HasSubstr("30 bits from 3 on"));
  EXPECT_THAT(one([](B b, uint32_t) { b.integer("x", 4, 8); }), HasSubstr("kind not known"));
  EXPECT_THAT(one([](B b, uint32_t) { b.add(Kind::floating, "x", 3); }), HasSubstr("float of 3"));
  EXPECT_THAT(one([](B b, uint32_t i) { b.add(Kind::function, "f", i); }), HasSubstr("without a prototype"));
  EXPECT_THAT(one([](B b, uint32_t i) { b.add(Kind::pointer, "", b.add(Kind::function, "f", b.prototype(i, {}))); }),
              HasSubstr("which is none"));
  EXPECT_THAT(one([](B b, uint32_t i) { b.prototype(i, {{"a", 0}, {"b", i}}); }), HasSubstr("not its last"));
  EXPECT_THAT(one([](B b, uint32_t) { b.prototype(88, {}); }), HasSubstr("a result of type 88"));
  EXPECT_THAT(one([](B b, uint32_t i) { b.prototype(i, {{"a", 88}}); }), HasSubstr("a parameter of type 88"));
  EXPECT_THAT(one([](B b, uint32_t) { b.variable("v", 88); }), HasSubstr("a value of type 88"));
  EXPECT_THAT(one([](B b, uint32_t i) { b.section("s", {{i, 0, 4}}); }), HasSubstr("no variable"));
  EXPECT_THAT(one([](B b, uint32_t) { b.tag("t", 88, 0); }), HasSubstr("tag of what is not there"));
  EXPECT_THAT(one([](B b, uint32_t) { b.array(0, 1, 1); }), HasSubstr("what has no size"));
  EXPECT_THAT(one([](B b, uint32_t i) { b.array(b.array(i, i, UINT32_MAX / 4), i, 2); }), HasSubstr("is an array of"));
  EXPECT_THAT(one([](B b, uint32_t i) { b.array(b.array(i, i, 0x40000000), i, 1); }),
              HasSubstr("is an array of 4294967296"));
  EXPECT_THAT(one([](B b, uint32_t i) { b.structure("s", 4, {{"m", i, 8}}); }), HasSubstr("member 0 ends behind it"));
  EXPECT_THAT(one([](B b, uint32_t i) {
                b.structure("s", 8, {{"m", i, 0xffffffe0}});
              }),
              HasSubstr("member 0 ends behind it"));
  EXPECT_THAT(one([](B b, uint32_t i) { b.structure("s", 8, {{"m", i, 3}}); }), HasSubstr("inside of a byte"));
  EXPECT_THAT(one([](B b, uint32_t i) {
                b.structure("s", 80, {{"m", i, 33U << 24}}, true);
              }),
              HasSubstr("more bits than its type"));
  EXPECT_THAT(one([](B b, uint32_t) { b.structure("s", 8, {{"m", 0, 0}}); }), HasSubstr("member 0 has no size"));
  EXPECT_THAT(one([](B b, uint32_t) {
                b.structure("s", 8, {{"m", b.add(Kind::forward, "f", 0), 0}});
              }),
              HasSubstr("member 0 has no size"));
  EXPECT_THAT(one([](B b, uint32_t) {
                b.structure("s", 8, {{"m", 88, 0}});
              }),
              HasSubstr("a member of type 88, which is not there"));
  EXPECT_THAT(one([](B b, uint32_t) { b.add(Kind::enumeration, "e", 3); }), HasSubstr("enumeration of 3"));
}

TEST(Btf, circles_are_refused_but_for_those_of_pointers_to_structures) {
  BtfBytes holds;
  holds.structure("s", 8, {{"s", 1, 0}});
  EXPECT_THAT(refusal(holds), HasSubstr("holds itself"));
  BtfBytes by_array;
  by_array.structure("s", 8, {{"s", 2, 0}});
  by_array.array(3, 3, 1);
  by_array.add(Kind::type_def, "t", 1);
  EXPECT_THAT(refusal(by_array), HasSubstr("holds itself"));
  BtfBytes typedefs;
  typedefs.add(Kind::type_def, "a", 2);
  typedefs.add(Kind::const_, "", 1);
  EXPECT_THAT(refusal(typedefs), HasSubstr("itself"));
  BtfBytes pointers;
  pointers.add(Kind::type_def, "a", 2);
  pointers.add(Kind::pointer, "", 1);
  EXPECT_THAT(refusal(pointers), HasSubstr("is made of itself"));
  BtfBytes prototypes;
  prototypes.add(Kind::pointer, "", 2);
  prototypes.prototype(0, {{"self", 1}});
  EXPECT_THAT(refusal(prototypes), HasSubstr("is made of itself"));
  BtfBytes list;
  list.structure("node", 8, {{"next", 2, 0}});
  list.add(Kind::pointer, "", 1);
  EXPECT_EQ(refusal(list), "accepted");
}

TEST(Btf, long_chains_are_refused_in_whatever_order_they_come) {
  for (const bool forward : {false, true}) {
    for (const uint32_t length : {100U, 5000U}) {
      BtfBytes b;
      b.integer("int", 4);
      for (uint32_t i = 0; i < length; ++i)
        b.add(Kind::pointer, "", forward && i + 1 < length ? i + 3 : forward ? 1 : i + 1);
      EXPECT_THAT(refusal(b), HasSubstr(length == 100 ? "accepted" : "nested too deep"));
    }
  }
}

// 2^100 ways to the innermost: each type is looked at once.
TEST(Btf, a_member_is_looked_for_once_in_each_anonymous_type) {
  BtfBytes b;
  b.integer("int", 4);
  uint32_t inner = b.members(Kind::union_, "", 4, {{"x", 1, 0}});
  for (int i = 0; i < 100; ++i) inner = b.members(Kind::union_, i == 99 ? "outer" : "", 4, {{"", inner, 0}, {"", inner, 0}});
  const Btf btf = parsed(b);
  EXPECT_TRUE(btf.field("outer", "x").ok());
  EXPECT_FALSE(btf.field("outer", "y").ok());
}

TEST(KernelBtf, lies_between_two_symbols) {
  const auto bytes = some_btf();
  const ImageMemory memory(0xffffffff82000000, bytes);
  KernelSymbols symbols;
  EXPECT_EQ(read_kernel_btf(memory, symbols).error().code, ErrorCode::unsupported);
  symbols.symbols = {{0xffffffff82000000, 'r', "__start_BTF"}, {0xffffffff82000000 + bytes.size(), 'r', "__stop_BTF"}};
  const auto btf = read_kernel_btf(memory, symbols);
  ASSERT_TRUE(btf.ok()) << btf.error().text();
  EXPECT_TRUE(btf->field("task_struct", "pid").ok());
  symbols.symbols[1].address += 1;
  EXPECT_THAT(read_kernel_btf(memory, symbols).error().text(), HasSubstr("not in memory"));
  symbols.symbols[1].address = symbols.symbols[0].address + (uint64_t{1} << 40);
  EXPECT_THAT(read_kernel_btf(memory, symbols).error().text(), HasSubstr("not where its symbols say"));
  symbols.symbols[1].address = symbols.symbols[0].address;
  EXPECT_THAT(read_kernel_btf(memory, symbols).error().text(), HasSubstr("not where its symbols say"));
}

TEST(KernelBtf, of_a_module_is_where_its_structure_says) {
  BtfBytes b;
  const uint32_t size = b.integer("unsigned int", 4), pointer = b.add(Kind::pointer, "", 0);
  b.structure("module", 24, {{"btf_data_size", size, 64}, {"btf_data", pointer, 128}});
  BtfBytes own(b);
  own.structure("own", 8, {{"pointer", pointer, 0}});
  const auto bytes = own.build();
  std::vector<uint8_t> memory(24);
  const auto set = [&](size_t at, uint64_t value) { std::memcpy(memory.data() + at, &value, 8); };
  set(8, bytes.size());
  set(16, 0x1018);
  memory.insert(memory.end(), bytes.begin(), bytes.end());
  const Btf kernel = parsed(b);
  const auto read = [&] { return read_module_btf(ImageMemory(0x1000, memory), kernel, 0x1000); };
  ASSERT_TRUE(read().ok()) << read().error().text();
  EXPECT_EQ(read()->field("own", "pointer")->type, BtfId(pointer));
  set(8, bytes.size() + 1);
  EXPECT_THAT(read().error().text(), HasSubstr("not in memory"));
  set(8, UINT32_MAX);
  EXPECT_THAT(read().error().text(), HasSubstr("not in memory"));
  set(8, 0);
  EXPECT_EQ(read().error().code, ErrorCode::unsupported);
  EXPECT_THAT(read_module_btf(ImageMemory(0x1000, {}), kernel, 0x1000).error().text(), HasSubstr("no module is there"));
  EXPECT_EQ(read_module_btf(ImageMemory(0x1000, memory), parsed(SomeBtf().b), 0x1000).error().code, ErrorCode::unsupported);
}

}  // namespace
}  // namespace retrovisor
