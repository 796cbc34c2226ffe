#include "analysis/block_listing.h"

#include <fmt/format.h>

#include <algorithm>

#include "analysis/insn_text.h"
#include "vmm/soft/block_ops.h"
#include "vmm/soft/decoded_block.h"
#include "vmm/soft/soft_cpu.h"

namespace retrovisor {

static_assert(kMostBlockInstructions == soft::kMaxBlockInsns);

namespace {

using soft::BlockEnd;
using soft::DecodedBlock;
using soft::DecodedInsn;
using soft::MemoryOperand;
using soft::MemoryUse;

constexpr const char* kSegments[6] = {"es", "cs", "ss", "ds", "fs", "gs"};
static_assert(ES == 0 && CS == 1 && SS == 2 && DS == 3 && FS == 4 && GS == 5);

unsigned bits_of(uint8_t mode) { return 16u << (mode & soft::block_mode::code_mask); }

std::string number(int64_t v) {
  const uint64_t magnitude = v < 0 ? ~static_cast<uint64_t>(v) + 1 : static_cast<uint64_t>(v);
  return fmt::format("{}{:#x}", v < 0 ? "-" : "+", magnitude);
}

std::string operand_text(const MemoryOperand& o, uint8_t mode) {
  const bool stack32 = (mode & soft::block_mode::stack32) != 0;
  const unsigned size = o.address_size != 0 ? o.address_size : stack32 ? 4u : 2u;
  std::string out = fmt::format("{}:[", kSegments[o.segment]);
  const size_t start = out.size();
  if (o.base != soft::kNoRegister) out += register_name(o.base, size);
  if (o.index != soft::kNoRegister) {
    if (out.size() != start) out += '+';
    out += o.implicit ? "al" : register_name(o.index, size);  // XLAT is the only one
    if (o.scale != 0) out += fmt::format("*{}", 1u << o.scale);
  }
  if (o.bit_register != soft::kNoRegister) {  // a signed number of bits, of which the operand's size takes these
    const unsigned bits = o.size == 2 ? 4 : o.size == 4 ? 5 : 6;
    out += fmt::format("{}({}>>{})*{}", out.size() == start ? "" : "+", register_name(o.bit_register, o.size), bits, o.size);
  }
  if (out.size() == start) {
    const uint64_t mask = size == 8 ? ~uint64_t{0} : size == 4 ? 0xffffffff : 0xffff;
    out += fmt::format("{:#x}", static_cast<uint64_t>(o.displacement) & mask);
  } else if (o.displacement != 0) {
    out += number(o.displacement);
  }
  return out + "]";
}

const char* use_name(MemoryUse use) {
  switch (use) {
    case MemoryUse::read: return "read";
    case MemoryUse::write: return "write";
    case MemoryUse::read_write: return "read_write";
  }
  return "";
}

std::vector<std::string> flag_names(unsigned flags) {
  constexpr std::pair<uint64_t, const char*> kNames[] = {{flag::CF, "CF"}, {flag::PF, "PF"}, {flag::AF, "AF"}, {flag::ZF, "ZF"},
                                                         {flag::SF, "SF"}, {flag::DF, "DF"}, {flag::OF, "OF"}};
  std::vector<std::string> out;
  for (const auto& [bit, name] : kNames)
    if ((flags & bit) != 0) out.push_back(name);
  return out;
}

std::string decoded_text(const DecodedInsn& d) {
  constexpr const char* kMaps[] = {"", "0f ", "0f 38 ", "0f 3a "};
  const soft::Insn& insn = d.insn;
  std::string out;
  if (insn.lock) out += "lock ";
  if (insn.rep != 0) out += insn.rep == 0xf3 ? "rep " : "repne ";
  out += fmt::format("opcode {}{:02x}", kMaps[static_cast<size_t>(insn.map)], insn.opcode);
  if (insn.has_modrm) {
    out += fmt::format(" /{}, reg {}", insn.reg_field(), insn.reg);
    out += insn.memory ? ", rm memory" : fmt::format(", rm {}", insn.rm);
  }
  out += fmt::format(", operand size {}, address size {}", insn.operand_size, insn.address_size);
  if (insn.has_imm) out += fmt::format(", immediate {}", number(insn.imm));
  return out;
}

ListedOp listed_op(const soft::Op& op, const std::function<std::string(uintptr_t)>& handler_name) {
  return {.handler = handler_name(reinterpret_cast<uintptr_t>(op.fn)), .immediate = op.imm, .displacement = op.disp, .r0 = op.r0,
          .r1 = op.r1, .base = op.base, .index = op.index, .scale = op.scale, .ea = op.ea, .segment_offset = op.seg_off,
          .remaining = op.remaining};
}

// Linear addresses and instruction pointers outside of 64-bit code have 32 bits.
uint64_t cut(uint64_t address, unsigned bits) { return bits == 64 ? address : address & 0xffffffff; }

ListedInsn listed_insn(const DecodedInsn& d, const CodePlace& place, std::span<const uint8_t> bytes) {
  const unsigned bits = bits_of(place.mode);
  ListedInsn out;
  out.address = cut(place.address + d.offset, bits);
  out.instruction_pointer = cut(place.instruction_pointer + d.offset, bits);
  out.bytes.assign(d.bytes.begin(), d.bytes.begin() + d.insn.length);
  const InsnText text = insn_text(d, bytes.subspan(d.offset), out.instruction_pointer);
  out.text = text.text;
  out.note = text.note;
  out.decoded = decoded_text(d);
  const soft::MemoryOperands memory = d.memory();
  for (const MemoryOperand& o : memory) out.memory.push_back({use_name(o.use), operand_text(o, place.mode), o.size, o.implicit});
  out.tables = memory.tables;
  out.flags_read = flag_names(d.flags.read);
  out.flags_written = flag_names(d.flags.written);
  out.flags_kept = flag_names(d.flags.kept);
  out.flags_live = flag_names(d.live);
  out.may_leave = may_leave(d.insn);
  return out;
}

struct EndName {
  BlockEnd end;
  const char* name;
  const char* text;
};
constexpr EndName kEnds[] = {
    {BlockEnd::branch, "branch", "a relative branch"},
    {BlockEnd::indirect, "indirect", "a branch to wherever a register or memory says"},
    {BlockEnd::repeat, "repeat", "a string instruction that repeats"},
    {BlockEnd::system, "system", "an instruction that may change mode, rights or interrupts, or meets the world outside"},
    {BlockEnd::undefined, "undefined", "no such instruction: #UD"},
    {BlockEnd::page_end, "page_end", "its page ends there"},
    {BlockEnd::bytes_end, "bytes_end", "the next instruction is not whole in the bytes that there are"},
    {BlockEnd::too_long, "too_long", "the next instruction has more than 15 bytes: #GP"},
    {BlockEnd::most_instructions, "most_instructions", "a block has no more instructions"},
    {BlockEnd::cut, "cut", "it was cut there"},
};
const EndName& name_of_end(BlockEnd end) {
  return *std::find_if(std::begin(kEnds), std::end(kEnds), [&](const EndName& e) { return e.end == end; });
}

// Where the end leads, as far as it says.
std::vector<uint64_t> successors_of(const DecodedBlock& block, const CodePlace& place) {
  const DecodedInsn& last = block.last();
  const unsigned bits = bits_of(place.mode);
  const uint64_t begin = cut(place.instruction_pointer + last.offset, bits);
  const uint64_t next = cut(begin + last.insn.length, bits);
  const uint64_t target = branch_target(last, begin);
  switch (block.end()) {
    case BlockEnd::branch:
      if (last.flow == soft::Flow::conditional && target != next) return {target, next};
      return {target};
    case BlockEnd::page_end:
    case BlockEnd::bytes_end:
    case BlockEnd::too_long:
    case BlockEnd::most_instructions:
    case BlockEnd::cut: return {next};
    case BlockEnd::repeat: return {begin, next};
    default: return {};
  }
}

}  // namespace

CodePlace code_place(uint64_t address, unsigned bits, uint64_t cs_base) {
  using namespace soft::block_mode;
  const unsigned mode = bits == 64 ? code64 | flat : bits == 32 ? code32 | flat | stack32 : unsigned{code16};
  return {.address = address, .instruction_pointer = cut(address - cs_base, bits), .mode = static_cast<uint8_t>(mode)};
}

CodePlace code_place(const CpuState& state, ProcessorModel processor_model) {
  return {.address = state.linear_rip().value, .instruction_pointer = state.rip, .mode = soft::block_mode_of(state),
          .processor_model = processor_model};
}

Result<BlockListing> list_block(std::span<const uint8_t> bytes, const CodePlace& place, unsigned most,
                                const std::function<std::string(uintptr_t)>& handler_name) {
  const soft::CodeContext context{.mode = place.mode, .processor_model = place.processor_model};
  const auto in_page = static_cast<unsigned>(kPageSize - (place.address & ~kPageMask));
  DecodedBlock decoded;
  soft::Block block;
  decode_block({bytes.first(std::min<size_t>(bytes.size(), in_page)), in_page}, context, most, nullptr, decoded);
  if (decoded.empty() && decoded.end() == BlockEnd::bytes_end && bytes.size() > in_page) {  // the first instruction crosses pages
    decode_block({bytes, in_page}, context, most, nullptr, decoded);
    block.phys2 = kPageSize;
  }
  if (decoded.empty()) {
    const bool too_long = decoded.end() == BlockEnd::too_long;
    return Error{ErrorCode::bad_argument,
                 too_long ? "the instruction has more than 15 bytes: #GP"
                          : fmt::format("no whole instruction in {} byte{}", bytes.size(), bytes.size() == 1 ? "" : "s"),
                 fmt::format("address {:#x}", place.address)};
  }
  block.phys = place.address & ~kPageMask;
  block.mode = place.mode;
  std::vector<soft::Op> ops(soft::kMaxBlockOps);
  ops.resize(make_ops(decoded, true, block, ops.data()));

  BlockListing out;
  out.address = place.address;
  out.instruction_pointer = place.instruction_pointer;
  out.bits = bits_of(place.mode);
  out.size = decoded.size();
  out.ops = static_cast<unsigned>(ops.size());
  const auto at_offset = [&](unsigned offset) {
    std::vector<ListedOp> of;
    for (const soft::Op& op : ops)
      if (op.ip_offset == offset) of.push_back(listed_op(op, handler_name));
    return of;
  };
  for (const DecodedInsn& d : decoded.instructions()) {
    ListedInsn insn = listed_insn(d, place, bytes);
    insn.ops = at_offset(d.offset);
    insn.fused = insn.ops.empty();
    out.instructions.push_back(std::move(insn));
  }
  out.end_ops = at_offset(decoded.size());
  const EndName& end = name_of_end(decoded.end());
  out.end = end.name;
  const bool used_up = decoded.end() == BlockEnd::bytes_end && decoded.size() == bytes.size();
  out.end_text = used_up ? "there are no more bytes" : end.text;
  out.successors = successors_of(decoded, place);
  return out;
}

}  // namespace retrovisor
