#include "vmm/soft/decoded_block.h"

#include <algorithm>
#include <cstring>

#include "vmm/soft/soft_cpu.h"

namespace retrovisor::soft {
namespace {

BlockEnd end_by(Flow flow) {
  switch (flow) {
    case Flow::indirect: return BlockEnd::indirect;
    case Flow::repeat: return BlockEnd::repeat;
    case Flow::system: return BlockEnd::system;
    default: return BlockEnd::branch;
  }
}

}  // namespace

class BlockBuilder {
 public:
  BlockBuilder(const CodeBytes& code, const CodeContext& context, unsigned most, const BlockCuts* cuts, DecodedBlock& out)
      : code_(code), most_(std::min(most, kMaxBlockInsns)), cuts_(cuts), out_(out) {
    out_.context_ = context;
    out_.count_ = 0;
    out_.size_ = 0;
  }

  void run() {
    while (next()) {}
    out_.find_live_flags();
  }

 private:
  bool end(BlockEnd why) {
    out_.end_ = why;
    return false;
  }

  bool next() {
    DecodedInsn& d = out_.insns_[out_.count_];
    const auto rest = code_.bytes.subspan(std::min<size_t>(out_.size_, code_.bytes.size()));
    d.status = decode(rest.data(), rest.size(), out_.context_.mode & block_mode::code_mask, d.insn);
    if (d.status == DecodeStatus::truncated) return end(BlockEnd::bytes_end);
    if (d.status == DecodeStatus::too_long) return end(BlockEnd::too_long);
    d.insn.flat = (out_.context_.mode & block_mode::flat) != 0;
    d.insn.processor_model = vendor_of(out_.context_.processor_model);
    d.insn.scans_keep_flags = out_.context_.processor_model == ProcessorModel::amd_zen3;
    d.offset = static_cast<uint16_t>(out_.size_);
    std::memcpy(d.bytes.data(), rest.data(), d.insn.length);
    ++out_.count_;
    out_.size_ += d.insn.length;
    if (d.status == DecodeStatus::invalid) {
      d.flow = Flow::next;
      d.flags = {};
      return end(BlockEnd::undefined);
    }
    d.flow = flow_of(d.insn);
    d.flags = flag_use_of(d.insn);
    if (d.flow != Flow::next) return end(end_by(d.flow));
    if (out_.count_ == most_) return end(BlockEnd::most_instructions);
    if (out_.size_ >= code_.in_page) return end(BlockEnd::page_end);
    if (cuts_ != nullptr && cuts_->cut_behind(d.offset, out_.size_)) return end(BlockEnd::cut);
    return true;
  }

  const CodeBytes& code_;
  unsigned most_;
  const BlockCuts* cuts_;
  DecodedBlock& out_;
};

void decode_block(const CodeBytes& code, const CodeContext& context, unsigned most, const BlockCuts* cuts, DecodedBlock& out) {
  BlockBuilder(code, context, most, cuts, out).run();
}

void DecodedBlock::end_undefined(unsigned index) {
  DecodedInsn& d = insns_[index];
  d.status = DecodeStatus::invalid;
  d.flow = Flow::next;
  d.flags = {};
  count_ = index + 1;
  size_ = d.offset + d.insn.length;
  end_ = BlockEnd::undefined;
  find_live_flags();
}

// All are live at the end, and before whatever can be left before it is done: a handler sees them.
void DecodedBlock::find_live_flags() {
  uint16_t live = kBlockFlags;
  for (unsigned i = count_; i-- > 0;) {
    DecodedInsn& d = insns_[i];
    d.live = live;
    const auto replaced = static_cast<uint16_t>(d.flags.written & ~d.flags.kept);
    const bool faults = end_ == BlockEnd::undefined && i + 1 == count_;
    live = faults || may_leave(d.insn) ? kBlockFlags : static_cast<uint16_t>((live & ~replaced) | d.flags.read);
  }
}

}  // namespace retrovisor::soft
