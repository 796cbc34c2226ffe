// The instruction decoder: reads no byte beyond those it is given, and none beyond an instruction's 15.
#include <sys/mman.h>

#include <algorithm>
#include <tuple>

#include "tests/fuzz/target.h"
#include "vmm/soft/decode.h"
#include "vmm/soft/soft_cpu.h"

namespace retrovisor::fuzz {
namespace {

using namespace soft;

// Bytes that end where the host has no page.
class GuardedBytes {
 public:
  GuardedBytes() {
    void* p = ::mmap(nullptr, 2 * kPage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    FUZZ_CHECK(p != MAP_FAILED);
    page_ = static_cast<uint8_t*>(p);
    FUZZ_CHECK(::mprotect(page_ + kPage, kPage, PROT_NONE) == 0);
  }
  ~GuardedBytes() { ::munmap(page_, 2 * kPage); }
  GuardedBytes(const GuardedBytes&) = delete;
  GuardedBytes& operator=(const GuardedBytes&) = delete;

  const uint8_t* put(std::span<const uint8_t> bytes) const {
    uint8_t* at = page_ + kPage - bytes.size();
    std::copy(bytes.begin(), bytes.end(), at);
    return at;
  }

 private:
  static constexpr size_t kPage = 4096;
  uint8_t* page_ = nullptr;
};

auto fields(const Insn& i) {
  return std::tuple(i.length, i.mode, i.flat, i.map, i.opcode, i.operand_size, i.address_size, i.rex, i.rep, i.prefix66,
                    i.prefix67, i.lock, i.segment_override, i.has_modrm, i.modrm, i.reg, i.rm, i.memory, i.base, i.index,
                    i.scale, i.segment, i.disp, i.imm, i.imm2);
}

bool is_register(uint8_t r) { return r < 16 || r == kNoRegister; }

void check_fields(const Insn& i) {
  FUZZ_CHECK(i.operand_size == 2 || i.operand_size == 4 || i.operand_size == 8);
  FUZZ_CHECK(i.address_size == 2 || i.address_size == 4 || i.address_size == 8);
  FUZZ_CHECK(i.reg < 16 && i.rm < 16 && i.scale < 4 && i.segment < 6);
  FUZZ_CHECK((is_register(i.base) || i.base == kRipBase) && is_register(i.index));
  FUZZ_CHECK(i.segment_override < 6 || i.segment_override == kNoRegister);
  FUZZ_CHECK(i.rep == 0 || i.rep == 0xf2 || i.rep == 0xf3);
  FUZZ_CHECK(i.mode == block_mode::code64 || (i.rex == 0 && i.reg < 8 && i.rm < 8));
}

// Returns the instruction's length.
size_t check_one(std::span<const uint8_t> bytes, uint8_t mode) {
  static const GuardedBytes guarded;
  Insn insn;
  const DecodeStatus status = decode(guarded.put(bytes), bytes.size(), mode, insn);
  FUZZ_CHECK(insn.length <= kMaxInsnLength && insn.length <= bytes.size());
  switch (status) {
    case DecodeStatus::truncated: FUZZ_CHECK(bytes.size() < kMaxInsnLength); break;
    case DecodeStatus::too_long: FUZZ_CHECK(bytes.size() >= kMaxInsnLength); break;
    case DecodeStatus::ok: check_fields(insn); [[fallthrough]];
    case DecodeStatus::invalid: {
      FUZZ_CHECK(insn.length >= 1);
      // What follows the instruction makes no difference, and each of its bytes is needed.
      Insn again;
      FUZZ_CHECK(decode(guarded.put(bytes.first(insn.length)), insn.length, mode, again) == status);
      FUZZ_CHECK(fields(insn) == fields(again));
      for (size_t n = 0; n < insn.length; ++n)
        FUZZ_CHECK(decode(guarded.put(bytes.first(n)), n, mode, again) == DecodeStatus::truncated);
      break;
    }
  }
  return insn.length;
}

}  // namespace

size_t max_input() { return 256; }

void run(std::span<const uint8_t> data) {
  Input in(data);
  const auto mode = static_cast<uint8_t>(in.byte() % 3);
  for (auto code = in.rest(); !code.empty();) {
    const size_t length = check_one(code.first(std::min<size_t>(code.size(), 2 * kMaxInsnLength)), mode);
    code = code.subspan(std::max<size_t>(length, 1));
  }
}

std::vector<Bytes> seeds() {
  std::vector<Bytes> out;
  const Bytes samples[] = {
      {0x48, 0x8b, 0x84, 0xcd, 0x78, 0x56, 0x34, 0x12, 0x48, 0xb8, 1, 2, 3, 4, 5, 6, 7, 8},  // mov r, [SIB]; mov r, imm64
      {0x66, 0x67, 0xf2, 0xf0, 0x2e, 0x81, 0x00, 0x34, 0x12, 0x0f, 0x38, 0xf1, 0xc8, 0xcd, 0x80},
      {0xc4, 0xe3, 0x79, 0x0f, 0xc1, 0x08, 0x62, 0xf1, 0x7c, 0x48, 0x58, 0xc0, 0x8f, 0xe8, 0x78, 0xc0, 0xc0, 1},
      {0x9a, 1, 2, 3, 4, 5, 6, 0xc8, 1, 2, 3, 0xa1, 1, 2, 3, 4, 5, 6, 7, 8, 0xf6, 0x05, 1, 2, 3, 4, 5, 0xf7, 0xd8},
      {0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x90},
      {0x66, 0x0f, 0x3a, 0x63, 0x04, 0x25, 0, 0, 0, 0, 3, 0xd9, 0xc0, 0xdd, 0x34, 0x24, 0x0f, 0x01, 0xf9, 0x0f, 0x20, 0xd8},
  };
  for (uint8_t mode = 0; mode < 3; ++mode)
    for (const Bytes& sample : samples) {
      Bytes b{mode};
      append(b, sample);
      out.push_back(std::move(b));
    }
  return out;
}

}  // namespace retrovisor::fuzz
