#include "vmm/kvm/code_sweep.h"

#include <capstone/capstone.h>

#include <algorithm>
#include <cstring>
#include <vector>

namespace retrovisor::kvm {
namespace {

constexpr size_t kLongest = 15;  // bytes of an x86 instruction (SDM 2A 2.3.11)

// Length of an instruction newer than Capstone 4: 0F 01 and 0F AE with a register form have no operand bytes, whatever they
// are (RDPKRU, WRPKRU, SERIALIZE, PVALIDATE, TPAUSE, ...). 0: none of these.
unsigned newer_instruction(std::span<const uint8_t> bytes) {
  size_t at = 0;
  while (at < 2 && at < bytes.size() && (bytes[at] == 0x66 || bytes[at] == 0xf2 || bytes[at] == 0xf3)) ++at;
  if (bytes.size() < at + 3 || bytes[at] != 0x0f) return 0;
  const bool known = (bytes[at + 1] == 0x01 || bytes[at + 1] == 0xae) && bytes[at + 2] >= 0xc0;
  return known ? static_cast<unsigned>(at + 3) : 0;
}

// ENDBR64 and ENDBR32: compilers put them where functions begin.
bool is_endbr(std::span<const uint8_t> bytes) {
  return bytes.size() >= 4 && bytes[0] == 0xf3 && bytes[1] == 0x0f && bytes[2] == 0x1e &&
         (bytes[3] == 0xfa || bytes[3] == 0xfb);
}

}  // namespace

struct CodeSweep::Disassembler {
  csh handle = 0;
  cs_insn* insn = nullptr;
  ~Disassembler() {
    if (insn != nullptr) cs_free(insn, 1);
    if (handle != 0) cs_close(&handle);
  }
};

CodeSweep::CodeSweep(const CodePatches& view, const GuestMemory& memory, const CodePatches::Area& area)
    : view_(view), memory_(memory), area_(area) {}

CodeSweep::~CodeSweep() = default;

std::unique_ptr<CodeSweep> CodeSweep::create(const CodePatches& view, const GuestMemory& memory,
                                             const CodePatches::Area& area) {
  std::unique_ptr<CodeSweep> sweep(new CodeSweep(view, memory, area));
  sweep->disassembler_ = std::make_unique<Disassembler>();
  Disassembler& d = *sweep->disassembler_;
  const cs_mode mode = area.bits == 64 ? CS_MODE_64 : area.bits == 32 ? CS_MODE_32 : CS_MODE_16;
  if (cs_open(CS_ARCH_X86, mode, &d.handle) != CS_ERR_OK) return nullptr;
  d.insn = cs_malloc(d.handle);
  if (d.insn == nullptr) return nullptr;
  sweep->ground_ = area.physical.begin.value;
  return sweep;
}

unsigned CodeSweep::decode(std::span<const uint8_t> bytes, uint64_t at) {
  const uint8_t* code = bytes.data();
  size_t left = std::min(bytes.size(), kLongest);
  uint64_t address = at;
  if (cs_disasm_iter(disassembler_->handle, &code, &left, &address, disassembler_->insn)) return disassembler_->insn->size;
  return newer_instruction(bytes);
}

uint64_t CodeSweep::next_start(uint64_t at) const {
  const uint64_t linear = area_.linear.value + (at - area_.physical.begin.value);
  const auto i = std::lower_bound(area_.starts.begin(), area_.starts.end(), LinearAddr(linear));
  if (i == area_.starts.end()) return UINT64_MAX;
  const uint64_t offset = *i - area_.linear;
  return offset < area_.physical.size ? area_.physical.begin.value + offset : UINT64_MAX;
}

CodeSweep::Run CodeSweep::run(std::span<const uint8_t> window, uint64_t window_at, uint64_t from, bool in_step,
                              uint64_t opcode) {
  Run run;
  unsigned clean = in_step ? kInStep : 0;  // instructions decoded in a row
  uint64_t start = next_start(from);
  for (uint64_t at = from; at <= opcode;) {
    const std::span<const uint8_t> bytes = window.subspan(at - window_at);
    while (start < at) start = next_start(start + 1);
    if (start == at || is_endbr(bytes)) clean = kInStep;
    const unsigned length = decode(bytes, at);
    if (length == 0) {
      clean = run.branches = 0;
      ++at;
      continue;
    }
    if (start > at && start - at < length) {  // the instruction would run into one that is known to begin there
      clean = 0;
      at = start;
      continue;
    }
    // 00 00 is "add [rax], al", and zeros are data much more often.
    const bool zeros = length == 2 && bytes[0] == 0 && bytes[1] == 0;
    if (branches_inside(bytes, length, at)) ++run.branches;
    if (opcode - at < length) {
      run.in_step = clean >= kInStep && !zeros;
      run.start = at;
      run.end = at + length;
      const auto found = classify(bytes, area_.bits, false);
      if (found && found->length == length && at + found->opcode == opcode) run.instruction = found;
      return run;
    }
    clean = zeros ? 0 : std::min(clean + 1, kInStep);
    at += length;
  }
  return run;  // the candidate is among bytes that are no code
}

unsigned CodeSweep::branches_behind(std::span<const uint8_t> window, uint64_t window_at, uint64_t from) {
  unsigned branches = 0;
  for (uint64_t at = from; at + kLongest <= window_at + window.size();) {
    const std::span<const uint8_t> bytes = window.subspan(at - window_at);
    const unsigned length = decode(bytes, at);
    if (length == 0) break;
    if (branches_inside(bytes, length, at)) ++branches;
    at += length;
  }
  return branches;
}

bool CodeSweep::branches_inside(std::span<const uint8_t> bytes, unsigned length, uint64_t at) const {
  const bool call_or_jump = length == 5 && (bytes[0] == 0xe8 || bytes[0] == 0xe9);
  const bool conditional = length == 6 && bytes[0] == 0x0f && (bytes[1] & 0xf0) == 0x80;
  if (!call_or_jump && !conditional) return false;
  int32_t distance = 0;
  std::memcpy(&distance, bytes.data() + length - sizeof distance, sizeof distance);
  const uint64_t target = at + length + static_cast<uint64_t>(int64_t{distance});
  return target - area_.physical.begin.value < area_.physical.size;
}

CodeSweep::Answer CodeSweep::ask(PhysAddr opcode) {
  using Is = Answer::Is;
  const uint64_t begin = area_.physical.begin.value;
  const uint64_t end = begin + area_.physical.size;
  const uint64_t from = opcode.value - begin > kWindow ? opcode.value - kWindow : begin;
  if (ground_ > opcode.value) return {Is::other_code, {}};  // inside the instruction that the last answer was about
  std::vector<uint8_t> window(std::min(opcode.value + kWindow, end) - from);
  if (!memory_.read(PhysAddr(from), window)) return {};
  view_.original(PhysAddr(from), window);

  // From where an instruction is known to begin, if that is near.
  uint64_t known = ground_ >= from ? ground_ : UINT64_MAX;
  for (uint64_t s = next_start(from); s <= opcode.value; s = next_start(s + 1))
    if (known == UINT64_MAX || s > known) known = s;
  Run agreed;
  unsigned agreeing = 0;
  if (known != UINT64_MAX) {
    agreed = run(window, from, known, true, opcode.value);
    agreeing = agreed.in_step ? 2 : 0;
  }
  const bool blind = agreeing == 0;
  if (blind) {
    ++blind_sweeps_;
    for (uint64_t first = from; first < from + 4 && first <= opcode.value; ++first) {
      const Run one = run(window, from, first, false, opcode.value);
      if (!one.in_step) continue;
      if (agreeing != 0 && (one.start != agreed.start || one.end != agreed.end)) return {};
      agreed = one;
      ++agreeing;
    }
  }
  if (agreeing < 2) return {};
  in_code_ = !blind && (in_code_ || known != ground_);
  ground_ = agreed.end;
  if (!agreed.instruction) return {Is::other_code, {}};
  if (!in_code_ || agreed.instruction->returns_to_programs()) {
    const unsigned before = run(window, from, from, false, opcode.value).branches;
    if (before + branches_behind(window, from, agreed.end) < kBranches) return {};
    in_code_ = true;
  }
  return {Is::instruction, {PhysAddr(agreed.start), *agreed.instruction}};
}

}  // namespace retrovisor::kvm
