// x87, MMX and SSE registers in the XSAVE area. Source: SDM 1 13.4 (layout), 13.6 (initial state), 13.8 (XRSTOR).
#include <algorithm>
#include <cstring>

#include "vmm/kvm/vcpu_state.h"

namespace retrovisor::kvm {

namespace {

constexpr size_t kFcw = 0, kFsw = 2, kFtw = 4, kFop = 6, kFip = 8, kFdp = 16, kMxcsr = 24, kMxcsrMask = 28, kSt = 32,
                 kXmm = 160, kXstateBv = 512;
constexpr uint64_t kX87 = 1, kSse = 2;
constexpr uint32_t kMxcsrWritable = 0xffff;
constexpr uint16_t kFopBits = 0x7ff;
constexpr uint16_t kFswEs = 1 << 7;

template <class T>
void put(XsaveArea& area, size_t offset, T value) {
  std::memcpy(area.bytes.data() + offset, &value, sizeof value);
}
template <class T>
T at(const XsaveArea& area, size_t offset) {
  T value;
  std::memcpy(&value, area.bytes.data() + offset, sizeof value);
  return value;
}

bool same_but_for_pointers(const X87State& a, const X87State& b) {
  for (size_t i = 0; i < a.r.size(); ++i) {
    if (a.r[i].mantissa != b.r[i].mantissa || a.r[i].sign_exponent != b.r[i].sign_exponent) return false;
  }
  return a.fcw == b.fcw && a.fsw == b.fsw && a.tag == b.tag;
}

unsigned physical(uint16_t fsw, unsigned i) { return ((fsw >> 11) + i) & 7; }

}  // namespace

void to_xsave(const CpuState& s, XsaveArea& out) {
  out.bytes.fill(0);
  const X87State& f = s.x87;
  put(out, kFcw, f.fcw);
  put(out, kFsw, f.fsw);
  put(out, kFtw, uint16_t{f.tag});  // abridged: bit i set where physical register i is in use
  put(out, kFop, f.fop);
  put(out, kFip, f.fip);  // the form with REX.W, which is what KVM uses: no room for FCS and FDS
  put(out, kFdp, f.fdp);
  put(out, kMxcsr, s.mxcsr & kMxcsrWritable);
  put(out, kMxcsrMask, kMxcsrWritable);
  for (unsigned i = 0; i < 8; ++i) {
    const X87Register& r = f.r[physical(f.fsw, i)];
    put(out, kSt + 16 * i, r.mantissa);
    put(out, kSt + 16 * i + 8, r.sign_exponent);
  }
  for (unsigned i = 0; i < 16; ++i) put(out, kXmm + 16 * i, s.xmm[i]);
  put(out, kXstateBv, kX87 | kSse);
}

void from_xsave(const XsaveArea& in, CpuState& s, bool drops_pointers) {
  // Bits of components that the guest does not have mean nothing to it; kvm_pvm changes one of them from call to call.
  const uint64_t present = at<uint64_t>(in, kXstateBv) & (kX87 | kSse);

  X87State f;  // what an absent component is: FNINIT with zeros in the registers
  if ((present & kX87) != 0) {
    f.fcw = at<uint16_t>(in, kFcw);
    f.fsw = at<uint16_t>(in, kFsw);
    f.tag = at<uint8_t>(in, kFtw);
    f.fop = at<uint16_t>(in, kFop) & kFopBits;
    f.fip = at<uint64_t>(in, kFip);
    f.fdp = at<uint64_t>(in, kFdp);
    for (unsigned i = 0; i < 8; ++i) {
      f.r[physical(f.fsw, i)] = {at<uint64_t>(in, kSt + 16 * i), at<uint16_t>(in, kSt + 16 * i + 8)};
    }
  }
  if (drops_pointers && (f.fsw & kFswEs) == 0) {
    // What the area holds is up to the host's thread switches. The answer may depend on guest state alone.
    const bool unchanged = same_but_for_pointers(f, s.x87);
    f.fop = unchanged ? s.x87.fop : uint16_t{0};
    f.fip = unchanged ? s.x87.fip : 0;
    f.fdp = unchanged ? s.x87.fdp : 0;
  }
  // Selectors belong to the pointers beside them: the old ones only to the old ones.
  if (f.fip == s.x87.fip && f.fop == s.x87.fop) f.fcs = s.x87.fcs;
  if (f.fdp == s.x87.fdp) f.fds = s.x87.fds;
  s.x87 = f;

  if ((present & kSse) != 0) {
    for (unsigned i = 0; i < 16; ++i) s.xmm[i] = at<Xmm>(in, kXmm + 16 * i);
  } else {
    std::fill(s.xmm.begin(), s.xmm.end(), Xmm{});
  }
  // MXCSR is in the area whether or not SSE is (SDM 1 13.8.1).
  s.mxcsr = at<uint32_t>(in, kMxcsr) & kMxcsrWritable;
}

}  // namespace retrovisor::kvm
