// retrovisor dev block: what the soft engine makes of code. For who works on the engine.
#include <algorithm>
#include <memory>
#include <nlohmann/json.hpp>
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
#include "vmm/machine/memory_view.h"
#include "replay/replay_session.h"
#include "traces/reader.h"

namespace retrovisor::cli {
namespace {

constexpr size_t kMostBytes = kPageSize;

struct BlockCommand {
  std::string trace;
  std::string at;
  ImageNames images;
  std::string bytes;
  unsigned bits = 64;
  std::string address = "0x1000";
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
  RV_TRY(auto address, parse_number(options.address, "--address"));
  if (options.bits != 64 && address > 0xffffffff)
    return Error{ErrorCode::bad_argument, fmt::format("{:#x} is beyond the 32 bits of such code", address), "--address"};
  return list_block(bytes, code_place(address, options.bits), options.most, [&](uintptr_t f) { return names.name(f); });
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
    return Error{ErrorCode::bad_argument,
                 fmt::format("the recording ends at {}", grouped(session->end().value)), fmt::format("--at {}", position.value)};
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
  return list_block(bytes, place, options.most, [&](uintptr_t f) { return names.name(f); });
}

std::string joined(const std::vector<std::string>& words) {
  std::string out;
  for (const std::string& word : words) out += (out.empty() ? "" : " ") + word;
  return out.empty() ? "none" : out;
}

std::string as_text(const BlockListing& block) {
  std::string out = fmt::format("block at {:#x}: {}-bit code, {} instruction{}, {} bytes, {} op{}\n", block.address, block.bits,
                                block.instructions.size(), block.instructions.size() == 1 ? "" : "s", block.size, block.ops,
                                block.ops == 1 ? "" : "s");
  const auto line = [&](const char* name, const std::string& value) { out += fmt::format("    {:<9} {}\n", name, value); };
  for (const ListedInsn& insn : block.instructions) {
    out += fmt::format("{:#x}  {:02x}  {}\n", insn.address, fmt::join(insn.bytes, " "), insn.text);
    line("decoded", insn.decoded);
    for (const ListedMemory& m : insn.memory) {
      const std::string size = m.size == 0 ? "" : fmt::format(", {} byte{}", m.size, m.size == 1 ? "" : "s");
      line("memory", fmt::format("{} {}{}{}", m.access == "read_write" ? "read and write" : m.access, m.operand, size,
                                 m.implicit ? ", by the opcode" : ""));
    }
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
  Json out = {{"address", json_hex(block.address)}, {"bits", block.bits}, {"size", block.size}, {"ops", block.ops}};
  Json& instructions = out["instructions"] = Json::array();
  for (const ListedInsn& insn : block.instructions) {
    Json memory = Json::array();
    for (const ListedMemory& m : insn.memory)
      memory.push_back({{"access", m.access}, {"operand", m.operand}, {"size", m.size}, {"implicit", m.implicit}});
    instructions.push_back({{"address", json_hex(insn.address)},
                            {"bytes", fmt::format("{:02x}", fmt::join(insn.bytes, " "))},
                            {"text", insn.text},
                            {"decoded", insn.decoded},
                            {"memory", memory},
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

int block(const BlockCommand& options) {
  if (options.trace.empty() == options.bytes.empty())
    return fail({ErrorCode::bad_argument, "either a trace or --bytes says which code", "dev block"});
  if (options.trace.empty() != options.at.empty()) return fail({ErrorCode::bad_argument, "goes with a trace, and a trace with it", "--at"});
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
  sub->add_option("--bytes", options->bytes, "list the block that these bytes are, in hexadecimal: \"48 01 d8 75 fb\"")->type_name("HEX");
  sub->add_option("--bits", options->bits, "how --bytes are taken")->check(CLI::IsMember({16, 32, 64}))->capture_default_str();
  sub->add_option("--address", options->address, "where --bytes lie")->type_name("ADDRESS")->capture_default_str();
  sub->add_option("--most", options->most, "end the block behind as many instructions")
      ->type_name("N")
      ->check(CLI::Range(1u, kMostBlockInstructions))
      ->capture_default_str();
  sub->add_flag("--json", options->json, "as JSON");
  sub->add_option("-k,--kernel", options->images.kernel, "the kernel of the recording, where it is not where it was")->type_name("FILE");
  sub->add_option("-i,--initrd", options->images.initrd, "the initial RAM disk, likewise")->type_name("FILE");
  sub->add_option("--module", options->images.modules, "a module, likewise; in the recorded order")
      ->type_name("FILE")
      ->allow_extra_args(false);
  sub->footer(kExitCodeHelp);
  sub->callback([options, &action] { action = [options] { return block(*options); }; });
}

}  // namespace retrovisor::cli
