// retrovisor dev block: what the soft engine makes of code. For who works on the engine.
#include <algorithm>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <vector>

#include "analysis/block_listing.h"
#include "cli/commands.h"
#include "cli/exit_codes.h"
#include "cli/files.h"
#include "cli/handler_names.h"
#include "cli/json.h"
#include "cli/progress.h"
#include "cli/say.h"
#include "cli/setup.h"
#include "vmm/cpu/canonical.h"
#include "vmm/machine/memory_view.h"
#include "replay/replay_session.h"
#include "traces/reader.h"

namespace retrovisor::cli {
namespace {

constexpr size_t kMostBytes = kPageSize;
constexpr unsigned kBits = 64;
constexpr uint64_t kAddress = 0x1000;

struct BlockCommand {
  std::string trace;
  std::string at;
  ImageNames images;
  std::string bytes;
  std::optional<unsigned> bits;  // kBits
  std::string address;           // empty: kAddress
  std::string cs_base;           // empty: 0
  unsigned most = kMostBlockInstructions;
  bool json = false;
};

// Pairs of hexadecimal digits, with spaces between them or not.
Result<std::vector<uint8_t>> parse_bytes(const std::string& text) {
  const auto bad = [](const std::string& what, size_t at) {
    return Error{ErrorCode::bad_argument, fmt::format("{} at character {}", what, at), "--bytes"};
  };
  std::vector<uint8_t> out;
  bool half = false;
  for (size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (c == ' ' && !half) continue;
    const int digit = c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
    if (digit < 0) return bad(half && c == ' ' ? "half a byte" : fmt::format("'{}' is no hexadecimal digit", c), i);
    if (!half && out.size() == kMostBytes) return bad(fmt::format("more than {} bytes", kMostBytes), i);
    if (half) out.back() = static_cast<uint8_t>(out.back() << 4 | digit);
    else out.push_back(static_cast<uint8_t>(digit));
    half = !half;
  }
  if (half) return bad("half a byte", text.size() - 1);
  if (out.empty()) return Error{ErrorCode::bad_argument, "no bytes", "--bytes"};
  return out;
}

Result<BlockListing> block_of_bytes(const BlockCommand& options, const HandlerNames& names) {
  RV_TRY(auto bytes, parse_bytes(options.bytes));
  const unsigned bits = options.bits.value_or(kBits);
  uint64_t address = kAddress, cs_base = 0;
  if (!options.address.empty()) {
    RV_TRY(address, parse_number(options.address, "--address"));
  }
  if (!options.cs_base.empty()) {
    RV_TRY(cs_base, parse_number(options.cs_base, "--cs-base"));
  }
  for (const auto& [value, option] : {std::pair{address, "--address"}, {cs_base, "--cs-base"}})
    if (bits != 64 && value > 0xffffffff)
      return Error{ErrorCode::bad_argument, fmt::format("{:#x} is beyond the 32 bits of linear addresses of such code", value), option};
  if (bits == 64 && !is_canonical(address))
    return Error{ErrorCode::bad_argument, fmt::format("{:#x} is no canonical address", address), "--address"};
  if (bits == 64 && cs_base != 0) return Error{ErrorCode::bad_argument, "64-bit code has no base", "--cs-base"};
  const CodePlace place = code_place(address, bits, cs_base);
  if (bits == 16 && place.instruction_pointer > 0xffff)
    return Error{ErrorCode::bad_argument,
                 fmt::format("{:#x} would be at {:#x} behind the base of CS, beyond the 16 bits of IP: --cs-base says where CS begins", address,
                             place.instruction_pointer),
                 "--address"};
  return list_block(bytes, place, options.most, [&](uintptr_t f) { return names.name(f); });
}

std::string ends_at(const ReplaySession& session) {
  if (!session.summary().complete()) return fmt::format("the trace is {}", session.summary().completeness());
  return fmt::format("the recording ends at {}", grouped(session.end().value));
}

// The block at the instruction that is next at a position of a recording.
Result<BlockListing> block_of_trace(BlockCommand options, const HandlerNames& names) {
  RV_TRY(options.trace, find_trace(options.trace));
  RV_TRY(const auto position, parse_position(options.at, "--at"));
  CommandFiles files;
  RV_TRY(const auto images, read_recorded_images(options.trace, options.images, files));
  RV_TRY(files.check());
  RV_TRY(auto session, ReplaySession::open(options.trace, images));
  if (position > session->end())
    return Error{ErrorCode::bad_argument, ends_at(*session), fmt::format("--at {}", position.value)};
  if (!session->summary().complete()) say("the trace is {}", session->summary().completeness());
  RV_TRY(session->start_from(position));
  ReplayOptions how;
  how.check_digests = how.check_journal = false;
  how.stop_at = position;
  RV_TRY(const auto run, session->run(how));
  if (run.position != position)
    return Error{ErrorCode::divergence, fmt::format("the replay ended at {}", grouped(run.position.value)), fmt::format("--at {}", position.value)};
  Machine& machine = session->machine();
  const CpuState& s = machine.vcpu(machine.next_vcpu()).state;
  const CodePlace place = code_place(s, machine.config().processor_model);
  // To the end of the page, and what an instruction that crosses it needs; not beyond the segment.
  uint64_t wanted = kPageSize - (place.address & ~kPageMask) + 16;
  if (!s.mode64()) wanted = s.rip > s.segment[CS].limit ? 0 : std::min<uint64_t>(wanted, uint64_t{s.segment[CS].limit} - s.rip + 1);
  std::vector<uint8_t> bytes(wanted);
  bytes.resize(MemoryView(machine.memory(), s, false).read(place.address, bytes));
  if (bytes.empty()) {
    const std::string where = place.address == s.rip ? "" : fmt::format(" (linear {:#x})", place.address);
    return Error{ErrorCode::bad_argument,
                 fmt::format("the instruction pointer is {:#x}{}, where {}", s.rip, where,
                             wanted == 0 ? "the segment has ended" : "nothing is mapped: fetching raises an exception"),
                 fmt::format("--at {}", position.value)};
  }
  return list_block(bytes, place, options.most, [&](uintptr_t f) { return names.name(f); });
}

std::string joined(const std::vector<std::string>& words) {
  std::string out;
  for (const std::string& word : words) out += (out.empty() ? "" : " ") + word;
  return out.empty() ? "none" : out;
}

std::string as_text(const BlockListing& block) {
  const auto counted = [](uint64_t n, const char* what) { return fmt::format("{} {}{}", n, what, n == 1 ? "" : "s"); };
  const uint64_t base = block.address - block.instruction_pointer;
  const std::string linear =
      base == 0 ? "" : fmt::format(" (linear {:#x}, CS base {:#x})", block.address, block.bits == 64 ? base : base & 0xffffffff);
  std::string out = fmt::format("block at {:#x}{}: {}-bit code, {}, {}, {}\n", block.instruction_pointer, linear, block.bits,
                                counted(block.instructions.size(), "instruction"), counted(block.size, "byte"), counted(block.ops, "op"));
  const auto line = [&](const char* name, const std::string& value) { out += fmt::format("    {:<9} {}\n", name, value); };
  for (const ListedInsn& insn : block.instructions) {
    out += fmt::format("{:#x}  {:02x}  {}{}\n", insn.instruction_pointer, fmt::join(insn.bytes, " "), insn.text,
                       insn.note.empty() ? "" : fmt::format("  ({})", insn.note));
    line("decoded", insn.decoded);
    for (const ListedMemory& m : insn.memory) {
      const std::string size = m.size == 0 ? ", as much as XCR0 and EDX:EAX say" : ", " + counted(m.size, "byte");
      line("memory", fmt::format("{} {}{}{}", m.access == "read_write" ? "read and write" : m.access, m.operand, size,
                                 m.implicit ? ", by the opcode" : ""));
    }
    if (insn.tables) line("memory", "also tables, and stacks that these name, by mode and descriptors: not listed");
    std::string flags = fmt::format("read {}; written {}", joined(insn.flags_read), joined(insn.flags_written));
    if (!insn.flags_kept.empty()) flags += fmt::format(" (may keep {})", joined(insn.flags_kept));
    line("flags", fmt::format("{}; live behind it {}", flags, joined(insn.flags_live)));
    if (insn.fused) line("op", "in one with the instruction before it");
    for (const ListedOp& op : insn.ops) line("op", op.handler);
  }
  std::string end = block.end_text;
  for (size_t i = 0; i < block.successors.size(); ++i) end += fmt::format("{}{:#x}", i == 0 ? "; goes on at " : " or ", block.successors[i]);
  out += fmt::format("end: {}\n", end);
  for (const ListedOp& op : block.end_ops) line("op", op.handler);
  return out;
}

Json json_of(const std::vector<ListedOp>& ops) {
  Json out = Json::array();
  for (const ListedOp& op : ops) {
    out.push_back({{"handler", op.handler}, {"immediate", op.immediate}, {"displacement", op.displacement}, {"r0", op.r0}, {"r1", op.r1},
                   {"base", op.base}, {"index", op.index}, {"scale", op.scale}, {"ea", op.ea}, {"segment_offset", op.segment_offset},
                   {"remaining", op.remaining}});
  }
  return out;
}

std::string as_json(const BlockListing& block) {
  Json out = {{"address", json_hex(block.address)},
              {"instruction_pointer", json_hex(block.instruction_pointer)},
              {"bits", block.bits},
              {"size", block.size},
              {"ops", block.ops}};
  Json& instructions = out["instructions"] = Json::array();
  for (const ListedInsn& insn : block.instructions) {
    Json memory = Json::array();
    for (const ListedMemory& m : insn.memory)
      memory.push_back({{"access", m.access}, {"operand", m.operand}, {"size", m.size}, {"implicit", m.implicit}});
    instructions.push_back({{"address", json_hex(insn.address)},
                            {"instruction_pointer", json_hex(insn.instruction_pointer)},
                            {"bytes", fmt::format("{:02x}", fmt::join(insn.bytes, " "))},
                            {"text", insn.text},
                            {"note", insn.note},
                            {"decoded", insn.decoded},
                            {"memory", memory},
                            {"tables", insn.tables},
                            {"flags_read", insn.flags_read},
                            {"flags_written", insn.flags_written},
                            {"flags_kept", insn.flags_kept},
                            {"flags_live", insn.flags_live},
                            {"may_leave", insn.may_leave},
                            {"fused", insn.fused},
                            {"ops", json_of(insn.ops)}});
  }
  Json successors = Json::array();
  for (const uint64_t at : block.successors) successors.push_back(json_hex(at));
  out["end"] = {{"reason", block.end}, {"text", block.end_text}, {"successors", successors}, {"ops", json_of(block.end_ops)}};
  return json_text(out);
}

// Which code is meant, and that nothing is said that has no effect on it.
Result<void> check(const BlockCommand& options, bool bytes_given) {
  const auto bad = [](const char* words, const char* option) { return Error{ErrorCode::bad_argument, words, option}; };
  const bool trace = !options.trace.empty();
  if (trace && bytes_given) return bad("the code is either a recording's or these bytes", "--bytes and TRACE");
  if (!trace && !bytes_given)
    return bad(options.at.empty() ? "which code? TRACE with --at POSITION, or --bytes HEX" : "is a position in a TRACE, which is missing",
               options.at.empty() ? "dev block" : "--at");
  if (trace && options.at.empty()) return bad("where in TRACE? --at POSITION", "dev block");
  struct Given {
    bool is;
    const char* option;
  };
  if (trace) {
    for (const Given& g :
         {Given{options.bits.has_value(), "--bits"}, {!options.address.empty(), "--address"}, {!options.cs_base.empty(), "--cs-base"}})
      if (g.is) return bad("goes with --bytes: a recording knows by itself", g.option);
    return {};
  }
  for (const Given& g : {Given{!options.at.empty(), "--at"},
                         {!options.images.kernel.empty(), "--kernel"},
                         {!options.images.initrd.empty(), "--initrd"},
                         {!options.images.modules.empty(), "--module"}})
    if (g.is) return bad("goes with a TRACE, and --bytes are none", g.option);
  return {};
}

int block(const BlockCommand& options, bool bytes_given) {
  if (auto good = check(options, bytes_given); !good) return fail(good.error());
  const HandlerNames names;
  const auto listing = options.trace.empty() ? block_of_bytes(options, names) : block_of_trace(options, names);
  if (!listing) return fail(listing.error());
  return print_report(options.json ? as_json(*listing) : as_text(*listing));
}

}  // namespace

void add_dev(CLI::App& app, Action& action) {
  CLI::App* dev = app.add_subcommand("dev", "For who works on retrovisor itself");
  dev->require_subcommand(1);
  CLI::App* sub = dev->add_subcommand("block", "A block of code as the soft engine sees it: instructions, operands, live flags, ops");
  const auto options = std::make_shared<BlockCommand>();
  sub->add_option("trace", options->trace, "a recording; with --at")->type_name("TRACE");
  sub->add_option("--at", options->at, "list the block at the instruction that is next at this position")->type_name("POSITION");
  auto* bytes = sub->add_option("--bytes", options->bytes, "list the block that these bytes are, in hexadecimal: \"48 01 d8 75 fb\"")
                    ->type_name("HEX");
  sub->add_option("--bits", options->bits, fmt::format("how --bytes are taken [{}]", kBits))->check(CLI::IsMember({16, 32, 64}));
  sub->add_option("--address", options->address, fmt::format("the linear address where --bytes lie [{:#x}]", kAddress))->type_name("ADDRESS");
  sub->add_option("--cs-base", options->cs_base,
                  "with --bits 16 or 32, the base of CS: the instruction pointer, and where branches lead, count from there [0]")
      ->type_name("ADDRESS");
  sub->add_option("--most", options->most, "end the block behind as many instructions")
      ->type_name("N")
      ->check(CLI::Range(1u, kMostBlockInstructions))
      ->capture_default_str();
  sub->add_flag("--json", options->json, "as JSON");
  add_image_options(*sub, options->images);
  sub->footer(std::string("Addresses of instructions and branches are instruction pointers: linear addresses without the base of CS.\n"
                          "A flag is live behind an instruction if something may read it before it is written again: an instruction,\n"
                          "a handler of a fault in between, or what comes behind the block.\n\n") +
              kExitCodeHelp);
  sub->callback([options, bytes, &action] { action = [options, given = bytes->count() != 0] { return block(*options, given); }; });
}

}  // namespace retrovisor::cli
