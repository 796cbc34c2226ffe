// The shapes of the entries that dwarf.cc writes: which attributes each has, in which form. Numbers: DWARF 5, section 7.5.
#pragma once

#include <array>
#include <cstdint>

namespace retrovisor::dwarf {

enum Tag : uint8_t {
  tag_array_type = 0x01, tag_enumeration_type = 0x04, tag_formal_parameter = 0x05, tag_member = 0x0d, tag_pointer_type = 0x0f,
  tag_compile_unit = 0x11, tag_structure_type = 0x13, tag_subroutine_type = 0x15, tag_typedef = 0x16, tag_union_type = 0x17,
  tag_unspecified_parameters = 0x18, tag_subrange_type = 0x21, tag_base_type = 0x24, tag_const_type = 0x26, tag_enumerator = 0x28,
  tag_subprogram = 0x2e, tag_variable = 0x34, tag_volatile_type = 0x35, tag_restrict_type = 0x37
};
enum Attribute : uint8_t {
  at_location = 0x02, at_name = 0x03, at_byte_size = 0x0b, at_bit_size = 0x0d, at_low_pc = 0x11, at_high_pc = 0x12,
  at_language = 0x13, at_const_value = 0x1c, at_producer = 0x25, at_prototyped = 0x27, at_count = 0x37,
  at_data_member_location = 0x38, at_declaration = 0x3c, at_encoding = 0x3e, at_external = 0x3f, at_type = 0x49,
  at_data_bit_offset = 0x6b
};
enum Form : uint8_t {
  form_addr = 0x01, form_data4 = 0x06, form_string = 0x08, form_data1 = 0x0b, form_flag = 0x0c, form_sdata = 0x0d, form_strp = 0x0e,
  form_udata = 0x0f, form_ref_addr = 0x10, form_sec_offset = 0x17, form_exprloc = 0x18, form_flag_present = 0x19
};
enum Encoding : uint8_t {
  ate_boolean = 2, ate_float = 4, ate_signed = 5, ate_signed_char = 6, ate_unsigned = 7, ate_unsigned_char = 8
};
inline constexpr uint8_t kLanguageC11 = 0x1d, kUnitCompile = 1, kOpAddr = 0x03, kListOffsetPair = 4, kListEnd = 0;

struct Field {
  uint8_t attribute = 0;  // 0: no more
  uint8_t form = 0;
};
struct Shape {
  Tag tag{};
  bool children = false;
  std::array<Field, 7> fields{};
};

// Where there are two, the second has no name, or no type: it is anonymous, or void.
enum ShapeOf : uint8_t {
  unit, unit_of_code, base, pointer, pointer_void, structure, structure_anonymous, union_, union_anonymous, member, member_anonymous, bits,
  bits_anonymous, enumeration, enumeration_anonymous, enumeration_declared, value_signed, value_unsigned, forward_structure,
  forward_union, type_def, type_def_void, const_, const_void, volatile_, volatile_void, restrict_, restrict_void, array, range,
  prototype, prototype_void, prototype_parameter, any_parameters, function, function_void, parameter, parameter_anonymous,
  parameter_nowhere, parameter_anonymous_nowhere, variable, shapes
};

inline constexpr Field kName{at_name, form_strp}, kType{at_type, form_ref_addr}, kSize{at_byte_size, form_udata};
inline constexpr Field kDeclared{at_declaration, form_flag_present}, kPrototyped{at_prototyped, form_flag_present};
inline constexpr Field kWhere{at_location, form_sec_offset}, kBegin{at_low_pc, form_addr}, kEnd{at_high_pc, form_data4};
inline constexpr Field kExternal{at_external, form_flag}, kOffset{at_data_member_location, form_udata};
inline constexpr Field kBitSize{at_bit_size, form_udata}, kBitOffset{at_data_bit_offset, form_udata};

inline constexpr std::array<Shape, shapes> kShapes = {{
    {tag_compile_unit, true, {{{at_producer, form_string}, {at_language, form_data1}, {at_name, form_string}}}},
    {tag_compile_unit, true,
     {{{at_producer, form_string}, {at_language, form_data1}, {at_name, form_string}, kBegin, kEnd}}},
    {tag_base_type, false, {{kName, {at_encoding, form_data1}, kSize}}},
    {tag_pointer_type, false, {{{at_byte_size, form_data1}, kType}}},
    {tag_pointer_type, false, {{{at_byte_size, form_data1}}}},
    {tag_structure_type, true, {{kName, kSize}}},
    {tag_structure_type, true, {{kSize}}},
    {tag_union_type, true, {{kName, kSize}}},
    {tag_union_type, true, {{kSize}}},
    {tag_member, false, {{kName, kType, kOffset}}},
    {tag_member, false, {{kType, kOffset}}},
    {tag_member, false, {{kName, kType, kBitSize, kBitOffset}}},
    {tag_member, false, {{kType, kBitSize, kBitOffset}}},
    {tag_enumeration_type, true, {{kName, kSize}}},
    {tag_enumeration_type, true, {{kSize}}},
    {tag_enumeration_type, false, {{kName, kSize, kDeclared}}},
    {tag_enumerator, false, {{kName, {at_const_value, form_sdata}}}},
    {tag_enumerator, false, {{kName, {at_const_value, form_udata}}}},
    {tag_structure_type, false, {{kName, kDeclared}}},
    {tag_union_type, false, {{kName, kDeclared}}},
    {tag_typedef, false, {{kName, kType}}},
    {tag_typedef, false, {{kName}}},
    {tag_const_type, false, {{kType}}},
    {tag_const_type, false, {}},
    {tag_volatile_type, false, {{kType}}},
    {tag_volatile_type, false, {}},
    {tag_restrict_type, false, {{kType}}},
    {tag_restrict_type, false, {}},
    {tag_array_type, true, {{kType}}},
    {tag_subrange_type, false, {{{at_count, form_udata}}}},
    {tag_subroutine_type, true, {{kPrototyped, kType}}},
    {tag_subroutine_type, true, {{kPrototyped}}},
    {tag_formal_parameter, false, {{kType}}},
    {tag_unspecified_parameters, false, {}},
    {tag_subprogram, true, {{kName, kExternal, kBegin, kEnd, kPrototyped, kType}}},
    {tag_subprogram, true, {{kName, kExternal, kBegin, kEnd, kPrototyped}}},
    {tag_formal_parameter, false, {{kName, kType, kWhere}}},
    {tag_formal_parameter, false, {{kType, kWhere}}},
    {tag_formal_parameter, false, {{kName, kType}}},
    {tag_formal_parameter, false, {{kType}}},
    {tag_variable, false, {{kName, kExternal, kType, {at_location, form_exprloc}}}},
}};

}  // namespace retrovisor::dwarf
