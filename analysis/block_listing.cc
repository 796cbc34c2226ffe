#include "analysis/block_listing.h"

#include <fmt/format.h>

#include <algorithm>

#include "analysis/disassemble.h"
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

constexpr const char* kRegisters[3][16] = {
    {"ax", "cx", "dx", "bx", "sp", "bp", "si", "di", "r8w", "r9w", "r10w", "r11w", "r12w", "r13w", "r14w", "r15w"},
    {"eax", "ecx", "edx", "ebx", "esp", "ebp", "esi", "edi", "r8d", "r9d", "r10d", "r11d", "r12d", "r13d", "r14d", "r15d"},
    {"rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi", "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15"},
};
constexpr const char* kSegments[6] = {"es", "cs", "ss", "ds", "fs", "gs"};
static_assert(ES == 0 && CS == 1 && SS == 2 && DS == 3 && FS == 4 && GS == 5);

unsigned bits_of(uint8_t mode) { return 16u << (mode & soft::block_mode::code_mask); }

CodeMode code_mode(unsigned bits) { return bits == 64 ? CodeMode::bits64 : bits == 32 ? CodeMode::bits32 : CodeMode::bits16; }

// Of `size` bytes; in any size of stack 0, the widest name that fits.
std::string register_name(uint8_t number, unsigned size) {
  if (number == soft::kRipBase) return size == 8 ? "rip" : "eip";
  return kRegisters[size == 8 ? 2 : size == 2 ? 0 : 1][number & 15];
}

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
    case MemoryUse::none: return "address";
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
  if (insn.imm != 0) out += fmt::format(", immediate {}", number(insn.imm));
  return out;
}

ListedOp listed_op(const soft::Op& op, const std::function<std::string(uintptr_t)>& handler_name) {
  return {.handler = handler_name(reinterpret_cast<uintptr_t>(op.fn)), .immediate = op.imm, .displacement = op.disp, .r0 = op.r0,
          .r1 = op.r1, .base = op.base, .index = op.index, .scale = op.scale, .ea = op.ea, .segment_offset = op.seg_off,
          .remaining = op.remaining};
}

ListedInsn listed_insn(const DecodedInsn& d, const CodePlace& place) {
  ListedInsn out;
  out.address = place.address + d.offset;
  out.bytes.assign(d.bytes.begin(), d.bytes.begin() + d.insn.length);
  out.text = disassemble(out.bytes, place.instruction_pointer + d.offset, code_mode(bits_of(place.mode))).text;
  out.decoded = decoded_text(d);
  if (d.status == soft::DecodeStatus::ok) {
    for (const MemoryOperand& o : d.memory())
      out.memory.push_back({use_name(o.use), operand_text(o, place.mode), o.size, o.implicit});
  }
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
    {BlockEnd::bytes_end, "bytes_end", "the next instruction is not whole in the bytes of this page"},
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
  const auto cut = [&](uint64_t ip, unsigned operand_size) {
    if (bits == 64) return ip;
    return ip & (operand_size == 2 ? 0xffff : 0xffffffff);
  };
  const uint64_t next = cut(place.instruction_pointer + block.size(), 4);
  const uint64_t target = cut(place.instruction_pointer + static_cast<uint64_t>(last.target()), last.insn.operand_size);
  switch (block.end()) {
    case BlockEnd::branch:
      if (last.flow == soft::Flow::conditional) return {target, next};
      return {target};
    case BlockEnd::page_end:
    case BlockEnd::bytes_end:
    case BlockEnd::too_long:
    case BlockEnd::most_instructions:
    case BlockEnd::cut: return {next};
    case BlockEnd::repeat: return {cut(place.instruction_pointer + last.offset, 4), next};
    default: return {};
  }
}

}  // namespace

CodePlace code_place(uint64_t address, unsigned bits) {
  using namespace soft::block_mode;
  const unsigned mode = bits == 64 ? code64 | flat : bits == 32 ? code32 | flat | stack32 : unsigned{code16};
  return {.address = address, .instruction_pointer = address, .mode = static_cast<uint8_t>(mode)};
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
                 too_long ? "the instruction has more than 15 bytes: #GP" : fmt::format("no whole instruction in {} bytes", bytes.size()),
                 fmt::format("address {:#x}", place.address)};
  }
  block.phys = place.address & ~kPageMask;
  block.mode = place.mode;
  std::vector<soft::Op> ops(soft::kMaxBlockOps);
  ops.resize(make_ops(decoded, true, block, ops.data()));

  BlockListing out;
  out.address = place.address;
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
    ListedInsn insn = listed_insn(d, place);
    insn.ops = at_offset(d.offset);
    insn.fused = insn.ops.empty();
    out.instructions.push_back(std::move(insn));
  }
  out.end_ops = at_offset(decoded.size());
  const EndName& end = name_of_end(decoded.end());
  out.end = end.name;
  out.end_text = end.text;
  out.successors = successors_of(decoded, place);
  return out;
}

}  // namespace retrovisor
