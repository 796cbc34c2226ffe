#include "analysis/linux/dwarf.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "analysis/linux/dwarf_shapes.h"
#include "analysis/linux/parameter_places.h"
#include "tests/unit/linux/btf_bytes.h"
#include "tests/unit/linux/dwarf_reader.h"

namespace retrovisor {
namespace {

using namespace dwarf;
using Entry = DwarfReader::Entry;
using testing::ElementsAre;

constexpr uint64_t kText = kLinkedText;

class Dwarf : public testing::Test {
 protected:
  Dwarf() : code_(0x300, 0x90) {
    symbols_.symbols = {{0, 'A', "__per_cpu_start"},   {0x40, 'A', "current_task"},    {kText, 'T', "wake_up_process"},
                        {kText + 0x40, 'T', "panic"},  {kText + 0x80, 't', "unknown"}, {kText + 0xc0, 't', "__fentry__"},
                        {kText + 0x100, 'T', "_etext"}};
  }
  // All units, kept with what they were made of.
  const Entry& made(const BtfBytes& b, uint64_t offset = 0) {
    auto btf = Btf::parse(b.build());
    RV_ASSERT(btf.ok());
    btf_.emplace(std::move(*btf));
    sections_ = make_debug_sections(*btf_, symbols_, ImageMemory(kText, code_), offset);
    DwarfReader reader(sections_);
    auto unit = reader.read();
    EXPECT_TRUE(unit) << reader.error();
    all_ = unit ? std::move(*unit) : Entry{};
    return all_;
  }
  // The first of the units' that is called so.
  const Entry* maybe(Tag tag, const std::string& name) {
    for (const Entry& unit : all_.children)
      if (const Entry* found = DwarfReader::named(unit, tag, name)) return found;
    return nullptr;
  }
  const Entry& named(Tag tag, const std::string& name) {
    static const Entry kNone;
    const Entry* found = maybe(tag, name);
    EXPECT_NE(found, nullptr) << name;
    return found != nullptr ? *found : kNone;
  }
  // What an entry's type is, as C says it.
  std::string type_of(const Entry& e) {
    if (e.references.count(at_type) == 0) return "void";
    const Entry& t = *DwarfReader::find(all_, e.value(at_type));
    switch (t.tag) {
      case tag_pointer_type: return type_of(t) + "*";
      case tag_const_type: return "const " + type_of(t);
      case tag_volatile_type: return "volatile " + type_of(t);
      case tag_restrict_type: return type_of(t) + " restrict";
      case tag_array_type: return type_of(t) + "[" + std::to_string(t.children.at(0).value(at_count)) + "]";
      case tag_structure_type: return "struct " + t.name();
      case tag_union_type: return "union " + t.name();
      case tag_enumeration_type: return "enum " + t.name();
      case tag_subroutine_type: return type_of(t) + "()";
      default: return t.name();
    }
  }
  std::optional<DwarfReader::Range> place(const Entry& parameter) {
    return DwarfReader(sections_).location(parameter.value(at_location));
  }

  KernelSymbols symbols_;
  std::vector<uint8_t> code_;
  std::optional<Btf> btf_;
  DebugSections sections_;
  Entry all_;
};

TEST_F(Dwarf, structures_have_their_members_where_they_are) {
  made(SomeBtf().b);
  const Entry& task = named(tag_structure_type, "task_struct");
  EXPECT_EQ(task.value(at_byte_size), 80u);
  std::vector<std::string> seen;
  for (const Entry& m : task.children)
    seen.push_back(m.name() + ": " + type_of(m) + " " +
                   (m.values.count(at_bit_size) != 0
                        ? std::to_string(m.value(at_data_bit_offset)) + ":" + std::to_string(m.value(at_bit_size))
                        : std::to_string(m.value(at_data_member_location))));
  EXPECT_THAT(seen,
              ElementsAre("pid: pid_t 0", "on_cpu: int 32:1", "depth: int 33:5", ": int 38:2", ": union  8",
                          "tasks: struct list_head 16", "comm: char[16] 32", "state: enum state 48", "rest: int[2][3] 56"));
  EXPECT_EQ(type_of(named(tag_structure_type, "list_head").children.at(0)), "struct list_head*");
  const Entry& old = named(tag_structure_type, "old_bits").children.at(0);
  EXPECT_EQ(old.value(at_data_bit_offset), 10u);
  EXPECT_EQ(old.value(at_bit_size), 3u);
}

TEST_F(Dwarf, every_kind_is_there) {
  made(SomeBtf().b);
  EXPECT_EQ(named(tag_base_type, "int").value(at_encoding), ate_signed);
  EXPECT_EQ(named(tag_base_type, "unsigned long").value(at_encoding), ate_unsigned);
  EXPECT_EQ(named(tag_base_type, "char").value(at_encoding), ate_signed_char);
  EXPECT_EQ(named(tag_base_type, "_Bool").value(at_encoding), ate_boolean);
  EXPECT_EQ(named(tag_base_type, "double").value(at_encoding), ate_float);
  EXPECT_EQ(named(tag_base_type, "__int128").value(at_byte_size), 16u);
  EXPECT_EQ(type_of(named(tag_typedef, "pid_t")), "int");
  EXPECT_EQ(named(tag_structure_type, "hidden").value(at_declaration), 1u);
  EXPECT_EQ(named(tag_union_type, "hidden_union").value(at_declaration), 1u);
  EXPECT_EQ(named(tag_structure_type, "empty").value(at_byte_size), 0u);
  const Entry& state = named(tag_enumeration_type, "state");
  EXPECT_EQ(state.children.at(1).name(), "LOST");
  EXPECT_EQ(static_cast<int64_t>(state.children.at(1).value(at_const_value)), -1);
  EXPECT_EQ(named(tag_enumeration_type, "flags").children.at(1).value(at_const_value), 0x80000000u);
  EXPECT_EQ(named(tag_enumeration_type, "wide").children.at(0).value(at_const_value), 0x123456789au);
  EXPECT_EQ(named(tag_enumeration_type, "wide").children.at(1).value(at_const_value), UINT64_MAX);
  const Entry& holder = *DwarfReader::find(all_, named(tag_typedef, "holder_t").value(at_type));
  EXPECT_EQ(type_of(holder.children.at(0)), "struct hidden*");
  EXPECT_EQ(type_of(holder.children.at(1)), "int()*");
}

TEST_F(Dwarf, functions_have_parameters_in_registers_at_their_first_instruction_only) {
  made(SomeBtf().b, 0x1000);
  EXPECT_EQ(sections_.functions, 2u);
  EXPECT_EQ(all_.children.at(1).value(at_low_pc), kText + 0x1000);
  EXPECT_EQ(all_.children.at(1).value(at_high_pc), 0x80u);
  const Entry& wake = named(tag_subprogram, "wake_up_process");
  EXPECT_EQ(wake.value(at_low_pc), kText + 0x1000);
  EXPECT_EQ(wake.value(at_high_pc), 0x40u);
  EXPECT_EQ(wake.value(at_external), 1u);
  EXPECT_EQ(type_of(wake), "int");
  std::vector<std::string> parameters;
  for (const Entry& p : wake.children) parameters.push_back(type_of(p) + " " + p.name());
  EXPECT_THAT(parameters, ElementsAre("struct task_struct* task", "const char* where", "unsigned long count"));
  const auto where = place(wake.children.at(2));
  ASSERT_TRUE(where);
  EXPECT_EQ(where->begin, 0u);
  EXPECT_EQ(where->end, 1u);
  EXPECT_THAT(where->expression, ElementsAre(0x51));  // DW_OP_reg1: RDX
  const Entry& panic = named(tag_subprogram, "panic");
  EXPECT_EQ(type_of(panic), "void");
  EXPECT_EQ(panic.children.back().tag, tag_unspecified_parameters);
  EXPECT_EQ(place(panic.children.at(0))->begin, 0x40u);
}

// What a debugger reads when it stops somewhere.
TEST_F(Dwarf, units_of_functions_need_no_other_unit_but_for_what_is_ambiguous) {
  made(SomeBtf().b);
  const Entry& unit = all_.children.at(1);
  const Entry& task = *DwarfReader::find(unit, named(tag_subprogram, "wake_up_process").children.at(0).value(at_type));
  const Entry* declared = DwarfReader::find(unit, task.value(at_type));
  ASSERT_NE(declared, nullptr);
  EXPECT_EQ(declared->name(), "task_struct");
  EXPECT_EQ(declared->value(at_declaration), 1u);
  EXPECT_EQ(all_.children.size(), 2u);

  BtfBytes b;
  const uint32_t i = b.integer("int", 4, 1);
  const uint32_t one = b.structure("twice", 4, {{"a", i, 0}}), two = b.structure("twice", 4, {{"b", i, 0}});
  const uint32_t nameless = b.add(Btf::Kind::type_def, "nameless_t", b.structure("", 8, {{"x", i, 0}, {"y", i, 32}}));
  const uint32_t proto = b.prototype(nameless, {{"one", b.add(Btf::Kind::pointer, "", one)}, {"two", b.add(Btf::Kind::pointer, "", two)}});
  b.add(Btf::Kind::function, "panic", proto);
  made(b);
  const Entry& panic = named(tag_subprogram, "panic");
  for (const int n : {0, 1}) {
    const Entry& pointer = *DwarfReader::find(all_.children.at(1), panic.children.at(static_cast<size_t>(n)).value(at_type));
    const Entry* meant = DwarfReader::find(all_.children.at(0), pointer.value(at_type));
    ASSERT_NE(meant, nullptr);
    EXPECT_EQ(meant->children.at(0).name(), n == 0 ? "a" : "b");
  }
  const Entry& result = *DwarfReader::find(all_.children.at(1), panic.value(at_type));
  const Entry* copied = DwarfReader::find(all_.children.at(1), result.value(at_type));
  ASSERT_NE(copied, nullptr);
  EXPECT_EQ(copied->children.size(), 2u);
}

TEST_F(Dwarf, what_ftrace_has_put_first_changes_no_parameter) {
  const auto entry_bytes = [&](std::initializer_list<uint8_t> begin) {
    std::copy(begin.begin(), begin.end(), code_.begin());
    made(SomeBtf().b);
    return place(named(tag_subprogram, "wake_up_process").children.at(0))->end;
  };
  EXPECT_EQ(entry_bytes({0xf3, 0x0f, 0x1e, 0xfa, 0x55}), 5u);
  EXPECT_EQ(entry_bytes({0x0f, 0x1f, 0x44, 0x00, 0x00}), 6u);
  EXPECT_EQ(entry_bytes({0xf3, 0x0f, 0x1e, 0xfa, 0x0f, 0x1f, 0x44, 0x00, 0x00}), 10u);
  EXPECT_EQ(entry_bytes({0xe8, 0xbb, 0x00, 0x00, 0x00, 0x90}), 6u);  // call __fentry__
  EXPECT_EQ(entry_bytes({0xe8, 0xbc, 0x00, 0x00, 0x00, 0x90}), 1u);  // of something else
  code_.clear();                                                     // not there: nothing is assumed
  EXPECT_EQ(entry_bytes({}), 1u);
}

TEST_F(Dwarf, no_prototype_is_given_to_several_functions_of_one_name) {
  symbols_.symbols.push_back({kText + 0x90, 't', "panic"});
  made(SomeBtf().b);
  EXPECT_EQ(maybe(tag_subprogram, "panic"), nullptr);
  EXPECT_EQ(sections_.functions, 1u);
}

TEST_F(Dwarf, of_several_prototypes_of_one_name_none_is_given_but_if_they_are_one) {
  for (const bool same : {true, false}) {
    BtfBytes b;
    const uint32_t i = b.integer("int", 4, 1), one = b.prototype(i, {}), other = b.prototype(0, {});
    b.add(Btf::Kind::function, "panic", one);
    b.add(Btf::Kind::function, "panic", same ? one : other);
    made(b);
    EXPECT_EQ(sections_.functions, same ? 1u : 0u);
  }
}

TEST_F(Dwarf, of_an_address_with_several_names_the_global_one_is_a_function) {
  symbols_.symbols.push_back({kText + 0x40, 't', "wake_up_process_locally"});
  BtfBytes b;
  const uint32_t p = b.prototype(0, {});
  for (const auto* name : {"wake_up_process_locally", "panic"}) b.add(Btf::Kind::function, name, p);
  made(b);
  EXPECT_EQ(sections_.functions, 1u);
  EXPECT_EQ(named(tag_subprogram, "panic").value(at_low_pc), kText + 0x40);
}

TEST_F(Dwarf, per_cpu_variables_have_their_offsets_as_addresses) {
  made(SomeBtf().b, 0x1000);
  const Entry& current = named(tag_variable, "current_task");
  EXPECT_EQ(type_of(current), "struct task_struct*");
  uint64_t address = 0;
  std::memcpy(&address, sections_.info.data() + current.value(at_location) + 1, 8);
  EXPECT_EQ(address, 0x40u);
  EXPECT_NE(DwarfReader::named(all_.children.at(1), tag_variable, "current_task"), nullptr);  // gdb wants code in that unit
  symbols_.symbols[1].address = 0x48;  // BTF and the symbols disagree
  made(SomeBtf().b);
  EXPECT_EQ(maybe(tag_variable, "current_task"), nullptr);
}

TEST_F(Dwarf, without_symbols_there_are_types) {
  symbols_.symbols.clear();
  made(SomeBtf().b);
  named(tag_structure_type, "task_struct");
  EXPECT_EQ(sections_.functions + sections_.variables, 0u);
}

TEST(ParameterPlaces, are_those_of_the_system_v_abi) {
  BtfBytes b;
  const uint32_t i = b.integer("int", 4, 1), l = b.integer("long", 8, 1), wide = b.integer("__int128", 16, 1);
  const uint32_t pair = b.structure("pair", 16, {{"a", l, 0}, {"b", i, 64}});
  const uint32_t big = b.structure("big", 24, {{"a", l, 0}, {"b", pair, 64}});
  const uint32_t empty = b.structure("empty", 0, {});
  const uint32_t packed = b.structure("packed", 12, {{"a", i, 0}, {"b", l, 32}});
  const uint32_t small = b.structure("small", 3, {{"a", b.array(b.integer("char", 1, 1), i, 3), 0}});
  const uint32_t real = b.add(Btf::Kind::floating, "double", 8);
  const uint32_t twelve = b.structure("twelve", 12, {{"a", i, 0}, {"b", i, 32}, {"c", i, 64}});
  const auto btf = Btf::parse(b.build());
  ASSERT_TRUE(btf.ok());
  using Place = std::optional<std::vector<uint8_t>>;
  const auto places = [&](const std::vector<uint32_t>& types) {
    ParameterPlaces p(*btf);
    std::vector<Place> out;
    for (const uint32_t t : types) out.push_back(p.next(BtfId(t)));
    return out;
  };
  const auto bytes = [](std::initializer_list<int> list) { return Place(std::vector<uint8_t>(list.begin(), list.end())); };
  const auto reg = [&](int n) { return bytes({0x50 + n}); };
  const auto stack = [&](int at) { return bytes({0x77, at}); };
  EXPECT_THAT(places({i, l, small, i, i, i, i, l}),
              ElementsAre(reg(5), reg(4), reg(1), reg(2), reg(8), reg(9), stack(8), stack(16)));
  EXPECT_THAT(places({pair, l}), ElementsAre(bytes({0x55, 0x93, 8, 0x54, 0x93, 8}), reg(1)));
  EXPECT_THAT(places({twelve}), ElementsAre(bytes({0x55, 0x93, 8, 0x54, 0x93, 4})));
  EXPECT_THAT(places({l, l, l, l, l, pair, l, l}), testing::Contains(stack(8)));
  EXPECT_THAT(places({l, l, l, l, l, pair, l, l}).at(6),
              reg(9));  // what does not fit whole goes to the stack, later ones may fit
  EXPECT_THAT(places({big, l}), ElementsAre(stack(8), reg(5)));
  EXPECT_THAT(places({empty, l}), ElementsAre(std::nullopt, reg(5)));
  EXPECT_THAT(places({wide, l, l, l, l, l}),
              ElementsAre(bytes({0x55, 0x93, 8, 0x54, 0x93, 8}), reg(1), reg(2), reg(8), reg(9), stack(8)));
  EXPECT_THAT(places({l, l, l, l, l, l, l, wide}).back(), stack(24));
  EXPECT_THAT(places({packed, l}), ElementsAre(std::nullopt, std::nullopt));  // nobody knows from there on
  EXPECT_THAT(places({l, real, l}), ElementsAre(reg(5), std::nullopt, std::nullopt));
}

}  // namespace
}  // namespace retrovisor
