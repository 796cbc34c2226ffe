#include "tests/conformance/compare.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>

#include "tests/conformance/closeness.h"
#include "tests/conformance/segments.h"
#include "vmm/cpu/registers.h"

namespace retrovisor::conformance {
namespace {

constexpr uint64_t kOtherFlags = flag::DF | flag::TF | flag::NT | flag::AC | flag::ID;
// From here on Linux reports all addresses as present, so as not to tell where the kernel lies.
constexpr uint64_t kKernelAddresses = 0x00007ffffffff000;

template <class T>
T at(const State& s, size_t offset) {
  T v;
  std::memcpy(&v, s.fx.data() + offset, sizeof v);
  return v;
}

// Null selectors lose their RPL when an interrupt returns.
uint16_t visible(uint16_t selector) { return selector < 4 ? uint16_t{0} : selector; }

// Exceptions of which the manuals leave it open whether they happen.
bool end_is_open(const Sequence& sequence, const Outcome& native, const Outcome& soft) {
  if (native.vector == soft.vector && native.state.rip == soft.state.rip) return false;
  // Some hypervisors answer accesses to some of the kernel's addresses with #GP.
  const bool same_place = native.state.rip == soft.state.rip;
  if (same_place && native.vector == vec::GP && soft.vector == vec::PF && soft.cr2 >= kKernelAddresses) return true;
  const Item* item = same_place ? stopped_at(sequence, native) : nullptr;
  if (item != nullptr && item->order_open && native.vector != kNoFault && soft.vector != kNoFault) return true;
  const auto write_fault = [&](const Outcome& outcome) {
    const Item* stopped = stopped_at(sequence, outcome);
    return stopped != nullptr && stopped->write_open && (outcome.vector == vec::PF || outcome.vector == vec::GP);
  };
  if (write_fault(native) != write_fault(soft)) return true;
  const auto open = [&](const Outcome& outcome) {
    const Item* stopped = outcome.vector == vec::AC ? stopped_at(sequence, outcome) : nullptr;
    return stopped != nullptr && stopped->alignment_open;
  };
  return open(native) || open(soft);
}

// #XM for an unmasked overflow or underflow: whether PE is set too differs between vendors (some tell of the rounding to an
// unbounded exponent, which the engine does not do).
uint32_t open_mxcsr(const Outcome& native) {
  constexpr uint32_t kOverflow = 8, kUnderflow = 16, kPrecision = 32;
  const auto mxcsr = at<uint32_t>(native.state, 24);
  return native.vector == vec::XM && (mxcsr & ~(mxcsr >> 7) & (kOverflow | kUnderflow)) != 0 ? kPrecision : 0;
}

// Status bits without a defined value where the sequence stopped.
Status undefined_at_end(const Sequence& sequence, const Outcome& outcome) {
  const std::vector<Status> before = sequence.undefined_before();
  if (before.empty()) return status::flags | status::x87;
  if (outcome.vector == kNoFault) return before.back();
  Status all = 0;
  unsigned offset = 0;
  for (size_t i = 0; i < before.size(); ++i) {
    all |= before[i];
    if (linear_ip(outcome.state) == sequence.address + offset) {
      const bool fault = i < sequence.items.size() && outcome.vector != vec::DB && outcome.vector != vec::BP;
      return before[i] | (fault ? sequence.items[i].undefined_on_fault : 0);
    }
    if (i < sequence.items.size()) offset += sequence.items[i].length;
  }
  return all;  // stopped elsewhere: a jump to where nothing can be fetched
}

class Report {
 public:
  template <class T>
  void field(std::string_view name, T native, T soft) {
    if (native == soft) return;
    text_ += fmt::format("  {:<12} native {:#x}  soft {:#x}  (differ in {:#x})\n", name, native, soft, native ^ soft);
  }
  void bytes(std::string_view name, const uint8_t* native, const uint8_t* soft, size_t size) {
    if (std::memcmp(native, soft, size) == 0) return;
    text_ += fmt::format("  {:<12} native {}\n  {:<12} soft   {}\n", name, hex(native, size), "", hex(soft, size));
  }
  void line(std::string text) { text_ += text + '\n'; }
  std::string take() { return std::move(text_); }

 private:
  // Most significant byte first.
  static std::string hex(const uint8_t* bytes, size_t size) {
    std::string out;
    for (size_t i = size; i-- > 0;) {
      out += fmt::format("{:02x}", bytes[i]);
      if (i % 8 == 0 && i != 0) out += '_';
    }
    return out;
  }
  std::string text_;
};

void compare_memory(const Outcome& native, const Outcome& soft, Report& report) {
  if (native.lines_count == soft.lines_count &&
      std::memcmp(native.lines.data(), soft.lines.data(), std::min(native.lines_count, kMaxLines) * sizeof(Line)) == 0) {
    return;
  }
  unsigned n = 0, s = 0, shown = 0;
  const unsigned n_end = std::min(native.lines_count, kMaxLines), s_end = std::min(soft.lines_count, kMaxLines);
  while ((n < n_end || s < s_end) && shown < 8) {
    const uint64_t n_at = n < n_end ? native.lines[n].offset : UINT64_MAX;
    const uint64_t s_at = s < s_end ? soft.lines[s].offset : UINT64_MAX;
    if (n_at != s_at) {
      const char* const side = n_at < s_at ? "native" : "soft";
      report.line(fmt::format("  [{:#x}]  changed only by the {} side", kArena + std::min(n_at, s_at), side));
      ++shown;
    } else {
      for (unsigned i = 0; i < kLine; i += 8) {
        if (std::memcmp(&native.lines[n].bytes[i], &soft.lines[s].bytes[i], 8) == 0) continue;
        report.bytes(fmt::format("[{:#x}]", kArena + n_at + i), &native.lines[n].bytes[i], &soft.lines[s].bytes[i], 8);
        ++shown;
      }
    }
    if (n_at <= s_at) ++n;
    if (s_at <= n_at) ++s;
  }
}

}  // namespace

const Item* stopped_at(const Sequence& sequence, const Outcome& outcome) {
  unsigned offset = 0;
  for (const Item& item : sequence.items) {
    if (outcome.vector != kNoFault && linear_ip(outcome.state) == sequence.address + offset) return &item;
    offset += item.length;
  }
  return nullptr;
}

const char* vector_name(uint8_t vector) {
  static constexpr const char* kNames[20] = {"#DE", "#DB", "NMI", "#BP", "#OF", "#BR", "#UD", "#NM", "#DF", "9",
                                             "#TS", "#NP", "#SS", "#GP", "#PF", "15",  "#MF", "#AC", "#MC", "#XM"};
  if (vector == kNoFault) return "ended";
  if (vector == kLost) return "did not end";
  return vector < 20 ? kNames[vector] : "?";
}

std::string describe_end(const Outcome& o) {
  if (o.vector == kNoFault || o.vector == kLost) return vector_name(o.vector);
  std::string text = fmt::format("{}({:#x}) rip {:#x}", vector_name(o.vector), o.error_code, o.state.rip);
  if (o.vector == vec::PF) text += fmt::format(" cr2 {:#x}", o.cr2);
  return text;
}

std::string differences(const Sequence& sequence, const Outcome& native, const Outcome& soft) {
  if (end_is_open(sequence, native, soft)) return "";
  Report report;
  const bool kernel = native.vector == vec::PF && native.cr2 >= kKernelAddresses;
  const uint32_t error_mask = kernel ? ~pf::P : ~uint32_t{0};
  const bool same_end = native.vector == soft.vector && (native.error_code & error_mask) == (soft.error_code & error_mask) &&
                        native.cr2 == soft.cr2 && (native.vector == kNoFault || native.state.rip == soft.state.rip);
  if (!same_end) report.line(fmt::format("  end: native {}, soft {}", describe_end(native), describe_end(soft)));
  if (native.vector == kLost || soft.vector == kLost) return report.take();

  const State &n = native.state, &s = soft.state;
  static constexpr const char* kGpr[16] = {"rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi",
                                           "r8",  "r9",  "r10", "r11", "r12", "r13", "r14", "r15"};
  // The upper halves of the general registers are undefined once compatibility mode has run (SDM 1, 3.4.1.1).
  const uint64_t upper = sequence.mode == Mode::bits64 ? ~uint64_t{0} : 0xffffffff;
  const Item* stopped = stopped_at(sequence, native);
  for (unsigned r = 0; r < 16; ++r) {
    if (stopped != nullptr && (stopped->open_on_fault >> r & 1) != 0) continue;
    report.field(kGpr[r], n.gpr[r] & upper, s.gpr[r] & upper);
  }
  const Status undefined = undefined_at_end(sequence, native);
  const uint64_t defined = flag::arithmetic & ~uint64_t{undefined & status::flags};
  uint64_t flags = kOtherFlags | defined | (native.vector != kNoFault ? flag::RF : 0);
  // RF and the comparison's flags between two iterations of a repeated instruction differ between vendors (docs/vendors.md).
  const bool between = stopped != nullptr && native.vector == vec::DB && std::string_view(stopped->name) == "rep";
  if (between && !sequence.settled) flags &= ~uint64_t{flag::RF | flag::arithmetic};
  report.field("rflags", n.rflags & flags, s.rflags & flags);
  static constexpr const char* kSegments[6] = {"es", "cs", "ss", "ds", "fs", "gs"};
  for (unsigned r = 0; r < 6; ++r) report.field(kSegments[r], visible(n.selector[r]), visible(s.selector[r]));
  // Whether a load of a null selector clears the base too differs between vendors.
  const auto emptied = [&](SegReg r) {
    return !sequence.settled.has_value() && visible(n.selector[r]) == 0 && sequence.start.selector[r] != 0;
  };
  if (!emptied(FS)) report.field("fs.base", n.fs_base, s.fs_base);
  if (!emptied(GS)) report.field("gs.base", n.gs_base, s.gs_base);
  // Whether an instruction that goes over to MMX mode has done so when it raises #XM is the implementation's business; on AMD's
  // it has.
  const bool x87 = sequence.settled == ProcessorModel::amd || native.vector != vec::XM || stopped == nullptr || !stopped->to_mmx;
  report.field("fcw", at<uint16_t>(n, 0), at<uint16_t>(s, 0));
  const auto& items = sequence.items;
  const bool approximate = std::any_of(items.begin(), items.end(), [](const Item& i) { return i.approximate; });
  // Without PE there was nothing to round, so what the sequence has settled is not open. Else C1 is, and what is tiny for one may not be for the other.
  constexpr uint16_t kPrecision = 0x20, kC1 = 0x200, kUnderflow = 0x8090;  // UE, and ES and B
  const bool exact = approximate && sequence.settled && (at<uint16_t>(n, 2) & kPrecision) == 0;
  const uint32_t open = exact ? undefined >> 16 & ~uint32_t{kC1} : undefined >> 16 | (approximate ? kUnderflow : 0u);
  const uint32_t fsw = ~open;
  // Pointers to the last x87 instruction. On AMD's processors a thread switch of the host loses them while no exception waits;
  // one that waits later, because FLDCW has unmasked it, then shows none.
  const bool lost = at<uint16_t>(n, 6) == 0 && at<uint64_t>(n, 8) == 0 && at<uint64_t>(n, 16) == 0;
  if (sequence.settled && !lost) {
    report.field("fop", at<uint16_t>(n, 6), at<uint16_t>(s, 6));
    report.field("fip", at<uint64_t>(n, 8), at<uint64_t>(s, 8));
    report.field("fdp", at<uint64_t>(n, 16), at<uint64_t>(s, 16));
  }
  if (x87) report.field("fsw", at<uint16_t>(n, 2) & fsw, at<uint16_t>(s, 2) & fsw);
  if (x87) report.field("ftw", n.fx[4], s.fx[4]);
  const uint32_t mxcsr = ~open_mxcsr(native);
  report.field("mxcsr", at<uint32_t>(n, 24) & mxcsr, at<uint32_t>(s, 24) & mxcsr);
  for (unsigned i = 0; x87 && i < 8; ++i) {
    const size_t offset = 32 + 16 * i;
    if (approximate && close_extended(&n.fx[offset], &s.fx[offset])) continue;
    report.bytes(fmt::format("st{}", i), &n.fx[offset], &s.fx[offset], 10);
  }
  for (unsigned i = 0; i < 16; ++i) {
    const size_t offset = 160 + 16 * i;
    if (approximate && close_singles(&n.fx[offset], &s.fx[offset])) continue;
    report.bytes(fmt::format("xmm{}", i), &n.fx[offset], &s.fx[offset], 16);
  }
  compare_memory(native, soft, report);
  return report.take();
}

}  // namespace retrovisor::conformance
