#include "vmm/kvm/code_patches.h"

#include <algorithm>
#include <cstring>
#include <vector>

#include "vmm/kvm/code_sweep.h"

namespace retrovisor::kvm {
namespace {

constexpr uint8_t kBreakpoint = 0xcc;
constexpr size_t kMaxBlindSweeps = 8'192;  // of one scan: under a second for bytes made to be doubtful; a kernel needs 200
constexpr size_t kSiteBytes = 16;          // of a saved site: address 8, bits 1, length 1, bytes 5, zero 1

// Where the opcode of the next candidate begins in `bytes`, at or after `from`: only the bytes around it are looked at.
size_t next_candidate(std::span<const uint8_t> bytes, size_t from, PatchKinds kinds) {
  for (size_t at = from; at + 1 < bytes.size(); ++at) {
    if (kinds.returns && bytes[at] == 0xcf && (at == 0 || (bytes[at - 1] & 0xf8) == 0x48)) return at;
    if (bytes[at] != 0x0f) continue;
    const uint8_t second = bytes[at + 1];
    if (second == 0x31 || second == 0xa2 || (kinds.returns && (second == 0x07 || second == 0x35))) return at;
    if (at + 2 >= bytes.size()) break;
    if (kinds.cr4 && (second == 0x20 || second == 0x22) && (bytes[at + 2] & 0xf8) == 0xe0) return at;
    if ((second == 0x01 && bytes[at + 2] == 0xf9) || (second == 0xc7 && bytes[at + 2] >= 0xf0)) return at;
  }
  return bytes.size();
}

uint64_t read_u64(std::span<const uint8_t> bytes) {
  uint64_t v = 0;
  for (size_t i = 0; i < 8; ++i) v |= uint64_t{bytes[i]} << (8 * i);
  return v;
}

}  // namespace

std::string_view to_string(PatchKind kind) {
  switch (kind) {
    case PatchKind::rdtsc: return "RDTSC";
    case PatchKind::rdtscp: return "RDTSCP";
    case PatchKind::rdrand: return "RDRAND";
    case PatchKind::rdseed: return "RDSEED";
    case PatchKind::cpuid: return "CPUID";
    case PatchKind::cr4: return "MOV CR4";
    case PatchKind::sysret: return "SYSRET";
    case PatchKind::sysexit: return "SYSEXIT";
    case PatchKind::iret: return "IRETQ";
    case PatchKind::place: return "place";
  }
  return "?";
}

std::optional<PatchInstruction> classify(std::span<const uint8_t> bytes, unsigned bits, bool patched) {
  PatchInstruction out;
  size_t at = 0;
  const auto byte = [&](size_t i) { return i < bytes.size() ? int{bytes[i]} : -1; };
  const bool operand_size = byte(at) == 0x66;
  if (operand_size) ++at;
  uint8_t rex = 0;
  if (bits == 64 && byte(at) >= 0x40 && byte(at) <= 0x4f) rex = bytes[at++];
  const bool iretq = !patched && (rex & 8) != 0 && byte(at) == 0xcf;
  if (byte(at) != (patched ? kBreakpoint : 0x0f) && !iretq) return std::nullopt;
  out.opcode = static_cast<uint8_t>(at);
  const int second = byte(at + 1), third = byte(at + 2);
  size_t length = at + 3;
  if (iretq) {
    out.kind = PatchKind::iret;
    length = at + 1;
  } else if (second == 0x31 || second == 0xa2) {
    out.kind = second == 0x31 ? PatchKind::rdtsc : PatchKind::cpuid;
    length = at + 2;
  } else if (second == 0x07 || second == 0x35) {
    out.kind = second == 0x07 ? PatchKind::sysret : PatchKind::sysexit;
    length = at + 2;
  } else if ((second == 0x20 || second == 0x22) && third >= 0xe0 && third <= 0xe7 && (rex & 4) == 0) {
    out.kind = PatchKind::cr4;
  } else if (second == 0x01 && third == 0xf9) {
    out.kind = PatchKind::rdtscp;
  } else if (second == 0xc7 && third >= 0xf0) {
    out.kind = third >= 0xf8 ? PatchKind::rdseed : PatchKind::rdrand;
    out.reg = static_cast<uint8_t>((third & 7) | ((rex & 1) << 3));
    const bool wide = (rex & 8) != 0;
    const bool narrow = bits == 16 ? !operand_size : operand_size;
    out.operand_bytes = wide ? 8 : narrow ? 2 : 4;
  } else {
    return std::nullopt;
  }
  if (operand_size && out.operand_bytes == 0) return std::nullopt;
  out.length = static_cast<uint8_t>(length);
  std::copy_n(bytes.begin(), length, out.bytes.begin());
  if (patched) out.bytes[out.opcode] = 0x0f;
  return out;
}

bool CodePatches::add(PhysAddr start, unsigned bits, const PatchInstruction& instruction, bool written) {
  const uint64_t key = (start + instruction.opcode).value;
  if (sites_.size() >= kMaxSites && !sites_.contains(key)) return false;
  sites_.insert_or_assign(key, Site{start, static_cast<uint8_t>(bits), written, instruction});
  return true;
}

bool CodePatches::holds(const Site& site, bool patched) const {
  std::array<uint8_t, PatchInstruction::kMaxLength> now{};
  const std::span bytes = std::span(now).first(site.instruction.length);
  if (!memory_.read(site.start, bytes)) return false;
  auto expected = site.instruction.bytes;
  if (patched) expected[site.instruction.opcode] = kBreakpoint;
  return std::equal(bytes.begin(), bytes.end(), expected.begin());
}

Result<CodePatches::Report> CodePatches::scan(const Area& area) {
  const uint64_t begin = area.physical.begin.value, size = area.physical.size;
  if (area.bits != 16 && area.bits != 32 && area.bits != 64)
    return Error{ErrorCode::bad_argument, "code is 16, 32 or 64 bits wide", "scan"};
  if (size == 0 || size > memory_.page_limit() * kPageSize || begin > UINT64_MAX - size)
    return Error{ErrorCode::bad_argument, "no such range of guest memory", "scan"};
  for (uint64_t page = begin & kPageMask; page < begin + size; page += kPageSize)
    if (!memory_.is_ram(PhysAddr(page))) return Error{ErrorCode::bad_argument, "code outside of guest memory", "scan"};
  const auto sweep = CodeSweep::create(*this, memory_, area);
  if (!sweep) return Error{ErrorCode::unsupported, "Capstone does not disassemble x86", "scan"};

  Report report;
  constexpr uint64_t kChunk = 65'536;
  std::vector<uint8_t> chunk(kChunk + 2);  // with the bytes that belong to a candidate at its end
  for (uint64_t at = begin; at < begin + size; at += kChunk) {
    const std::span bytes = std::span(chunk).first(std::min(kChunk + 2, begin + size - at));
    if (!memory_.read(PhysAddr(at), bytes)) return Error{ErrorCode::bad_argument, "code outside of guest memory", "scan"};
    original(PhysAddr(at), bytes);
    const auto next = [&](size_t from) { return next_candidate(bytes, from, kinds_); };
    for (size_t i = next(0); i < std::min<size_t>(kChunk, bytes.size()); i = next(i + 1)) {
      const PhysAddr opcode(at + i);
      if (const auto known = sites_.find(opcode.value); known != sites_.end()) {
        if (holds(known->second, known->second.written)) continue;
        sites_.erase(known);  // other code has come in its place
      }
      if (sweep->blind_sweeps() >= kMaxBlindSweeps) {
        report.complete = false;
        return report;
      }
      const CodeSweep::Answer answer = sweep->ask(opcode);
      if (answer.is == CodeSweep::Answer::Is::doubtful) ++report.doubtful;
      if (answer.is != CodeSweep::Answer::Is::instruction || !wanted(answer.found.instruction)) continue;
      if (!add(answer.found.start, area.bits, answer.found.instruction, false)) {
        report.complete = false;
        return report;
      }
      ++report.found;
    }
  }
  return report;
}

bool CodePatches::wanted(const PatchInstruction& found) const {
  return found.returns_to_programs() ? kinds_.returns : found.kind != PatchKind::cr4 || kinds_.cr4;
}

bool CodePatches::add_place(PhysAddr at) {
  if (find(at) != nullptr) return true;
  PatchInstruction place;
  place.kind = PatchKind::place;
  place.length = 1;
  if (!memory_.read(at, std::span(place.bytes).first(1))) return false;
  return add(at, 64, place, false);
}

void CodePatches::remove_place(PhysAddr at) {
  const auto i = sites_.find(at.value);
  if (i == sites_.end() || i->second.instruction.kind != PatchKind::place) return;
  if (i->second.written && holds(i->second, true)) put(at, i->second.instruction.bytes[0]);
  sites_.erase(i);
}

void CodePatches::patch() {
  for (auto i = sites_.begin(); i != sites_.end();) {
    Site& site = i->second;
    if (!holds(site, site.written)) {
      i = sites_.erase(i);
      continue;
    }
    if (!site.written) put(site.breakpoint(), kBreakpoint);
    site.written = true;
    ++i;
  }
}

void CodePatches::unpatch() {
  for (auto i = sites_.begin(); i != sites_.end();) {
    Site& site = i->second;
    if (!holds(site, site.written)) {
      i = sites_.erase(i);
      continue;
    }
    if (site.written) put(site.breakpoint(), site.instruction.bytes[site.instruction.opcode]);
    site.written = false;
    ++i;
  }
}

const CodePatches::Site* CodePatches::find(PhysAddr at) const {
  // Prefixes come before the breakpoint: the site's key is at `at` or a little behind.
  for (auto i = sites_.lower_bound(at.value); i != sites_.end() && i->first - at.value < PatchInstruction::kMaxLength; ++i)
    if (i->second.breakpoint() == at || i->second.start == at) return &i->second;
  return nullptr;
}

bool CodePatches::replaced_nearby(PhysAddr at) const {
  const uint64_t from = at.value > kReach ? at.value - kReach : 0;
  for (auto i = sites_.lower_bound(from); i != sites_.end() && i->second.start <= at; ++i)
    if (!holds(i->second, i->second.written)) return true;
  return false;
}

bool CodePatches::copied_whole(const Site& copy) const {
  const uint64_t size = kContext + copy.instruction.length + kContext;
  std::array<uint8_t, 2 * kContext + PatchInstruction::kMaxLength> here{}, there{};
  const auto read = [&](const Site& site, std::span<uint8_t> out) {
    return site.start.value >= kContext && memory_.read(site.start - kContext, out);
  };
  if (!read(copy, std::span(here).first(size))) return false;
  for (const auto& [key, site] : sites_)
    if (site.written && site.instruction == copy.instruction && site.bits == copy.bits &&
        read(site, std::span(there).first(size)) && here == there)
      return true;
  return false;
}

const CodePatches::Site* CodePatches::adopt(PhysAddr at, unsigned bits, Evidence evidence) {
  if (const Site* known = find(at)) return known;
  std::array<uint8_t, PatchInstruction::kMaxLength> bytes{};
  size_t size = 0;  // what there is of RAM
  while (size < bytes.size() && memory_.read(at + size, std::span(bytes).subspan(size, 1))) ++size;
  const auto instruction = classify(std::span(bytes).first(size), bits, true);
  if (!instruction) return nullptr;
  const Site copy{at, static_cast<uint8_t>(bits), true, *instruction};
  if (evidence == Evidence::required && !replaced_nearby(at) && !copied_whole(copy)) return nullptr;
  if (!add(at, bits, *instruction, true)) return nullptr;
  return find(at);
}

void CodePatches::recheck(PhysRange range) {
  const uint64_t begin = range.begin.value, end = range.size > UINT64_MAX - begin ? UINT64_MAX : begin + range.size;
  const uint64_t from = begin > PatchInstruction::kMaxLength ? begin - PatchInstruction::kMaxLength : 0;
  std::vector<Site> gone;
  for (auto i = sites_.lower_bound(from); i != sites_.end() && i->second.start.value < end;) {
    Site& site = i->second;
    if (site.end().value <= begin || holds(site, site.written)) {
      ++i;
    } else if (site.written && holds(site, false)) {  // the guest wrote what was there for it already
      put(site.breakpoint(), kBreakpoint);
      ++i;
    } else {
      gone.push_back(site);
      i = sites_.erase(i);
    }
  }
  // What replaced a site may hold a copy of another one, made from patched code: RDTSC becomes LFENCE; RDTSC, and that RDTSCP.
  for (const Site& site : gone)
    if (site.written) adopt_replacement(site);
}

void CodePatches::adopt_replacement(const Site& gone) {
  // As far as the next site, which was replaced by itself, if at all.
  for (uint64_t offset = 0; offset < kReach && find(gone.start + offset) == nullptr; ++offset)
    if (adopt(gone.start + offset, gone.bits, Evidence::not_required) != nullptr) return;
  // Before it, too, but not what two bytes make: CC 31 C0 is also XOR behind the CC that compilers fill gaps with.
  for (uint64_t offset = 1; offset < kReach && offset <= gone.start.value && find(gone.start - offset) == nullptr; ++offset) {
    std::array<uint8_t, 3> bytes{};
    if (!memory_.read(gone.start - offset, bytes)) return;
    const auto copy = classify(bytes, gone.bits, true);
    if (copy && copy->length == 3 && adopt(gone.start - offset, gone.bits, Evidence::not_required) != nullptr) return;
  }
}

void CodePatches::original(PhysAddr at, std::span<uint8_t> bytes) const {
  for (auto i = sites_.lower_bound(at.value); i != sites_.end() && i->first - at.value < bytes.size(); ++i) {
    const Site& site = i->second;
    const size_t offset = i->first - at.value;
    if (!site.written || bytes[offset] != kBreakpoint) continue;
    // The bytes behind tell whether the guest has put a breakpoint of its own into other code meanwhile.
    const std::span<const uint8_t> tail =
        std::span(site.instruction.bytes).first(site.instruction.length).subspan(site.instruction.opcode + size_t{1});
    const size_t seen = std::min(tail.size(), bytes.size() - offset - 1);
    const std::span<const uint8_t> behind = std::span<const uint8_t>(bytes).subspan(offset + 1, seen);
    if (std::equal(behind.begin(), behind.end(), tail.begin())) bytes[offset] = site.instruction.bytes[site.instruction.opcode];
  }
}

void CodePatches::save(StateWriter& out) const {
  std::vector<uint8_t> blob;
  blob.reserve(sites_.size() * kSiteBytes);
  for (const auto& [key, site] : sites_) {
    if (site.instruction.kind == PatchKind::place) continue;
    for (unsigned i = 0; i < 8; ++i) blob.push_back(static_cast<uint8_t>(site.start.value >> (8 * i)));
    blob.push_back(site.bits);
    blob.push_back(site.instruction.length);
    blob.insert(blob.end(), site.instruction.bytes.begin(), site.instruction.bytes.end());
    blob.push_back(0);
  }
  out.bytes("patched_sites", blob);
}

void CodePatches::restore(StateReader& in) {
  std::vector<uint8_t> blob;
  in.bytes("patched_sites", blob, kMaxSites * kSiteBytes);
  sites_.clear();
  bool valid = blob.size() % kSiteBytes == 0;
  uint64_t last = 0;  // end of the site before
  for (size_t at = 0; valid && at < blob.size(); at += kSiteBytes) {
    const std::span<const uint8_t> entry = std::span(blob).subspan(at, kSiteBytes);
    const uint64_t start = read_u64(entry);
    const unsigned bits = entry[8];
    const uint8_t length = entry[9];
    valid = (bits == 16 || bits == 32 || bits == 64) && length <= PatchInstruction::kMaxLength && entry[15] == 0 &&
            start >= last && start < memory_.page_limit() * kPageSize && memory_.is_ram(PhysAddr(start));
    if (!valid) break;
    const auto instruction = classify(entry.subspan(10, length), bits, false);
    const auto rest = entry.subspan(10 + size_t{length}, PatchInstruction::kMaxLength - length);
    valid = instruction && instruction->length == length &&
            std::all_of(rest.begin(), rest.end(), [](uint8_t b) { return b == 0; }) &&
            memory_.is_ram(PhysAddr(start + length - 1)) && add(PhysAddr(start), bits, *instruction, false);
    last = start + length;
  }
  if (!valid) sites_.clear();
  in.check("patched_sites", valid);
}

}  // namespace retrovisor::kvm
