#include "analysis/disassemble.h"

#include <capstone/capstone.h>

namespace retrovisor {

Instruction disassemble(std::span<const uint8_t> bytes, uint64_t address, CodeMode mode) {
  if (bytes.empty()) return {0, "(no memory)"};
  csh handle = 0;
  const cs_mode how = mode == CodeMode::bits64 ? CS_MODE_64 : mode == CodeMode::bits32 ? CS_MODE_32 : CS_MODE_16;
  if (cs_open(CS_ARCH_X86, how, &handle) != CS_ERR_OK) return {0, "(no disassembler)"};
  cs_insn* insn = nullptr;
  Instruction out{0, "(bad)"};
  if (cs_disasm(handle, bytes.data(), bytes.size(), address, 1, &insn) == 1) {
    out.size = insn->size;
    out.text = insn->mnemonic;
    if (insn->op_str[0] != '\0') out.text += std::string(" ") + insn->op_str;
    cs_free(insn, 1);
  }
  cs_close(&handle);
  return out;
}

}  // namespace retrovisor
