#include "analysis/linux/dmesg.h"

#include <fmt/format.h>

#include <algorithm>

#include "analysis/linux/objects.h"

namespace retrovisor {
namespace {

// log_buf_len= takes 2 GiB at most, CONFIG_LOG_BUF_SHIFT 25 bits; a descriptor is there for each 32 bytes (printk.c).
constexpr uint64_t kMostTextBits = 27, kMostCountBits = 22;
// DESC_STATE(): the two highest bits of state_var.
constexpr unsigned kStateShift = 62;
constexpr uint64_t kIdMask = (uint64_t{1} << kStateShift) - 1;
enum State : uint64_t { reserved = 0, committed = 1, finalized = 2, reusable = 3 };
// Logical positions of records without text: odd. This one is empty; others have lost it.
constexpr uint64_t kDataless = 1, kNoLpos = 3;
constexpr uint64_t kBlockId = 8;

struct Ring {
  uint64_t count_bits, descriptors, infos, head, tail, text_bits, text;
};

class Reader {
 public:
  explicit Reader(KernelObjects objects) : o_(objects) {}

  Result<KernelLog> read() {
    RV_TRY(const Ring ring, find());
    RV_TRY(state_, o_.field("prb_desc", "state_var.counter"));
    RV_TRY(begin_, o_.field("prb_desc", "text_blk_lpos.begin"));
    RV_TRY(next_, o_.field("prb_desc", "text_blk_lpos.next"));
    RV_TRY(sequence_, o_.field("printk_info", "seq"));
    RV_TRY(time_, o_.field("printk_info", "ts_nsec"));
    RV_TRY(length_, o_.field("printk_info", "text_len"));
    RV_TRY(facility_, o_.field("printk_info", "facility"));
    RV_TRY(level_, o_.field("printk_info", "level"));
    RV_TRY(caller_, o_.field("printk_info", "caller_id"));
    const uint64_t descriptor_size = size_of("prb_desc"), info_size = size_of("printk_info");
    const uint64_t count = uint64_t{1} << ring.count_bits;
    uint64_t records = ((ring.head - ring.tail) & kIdMask) + 1;
    uint64_t first = ring.tail;
    KernelLog out;
    if (records > count) {
      out.trouble = "the log's first and last record do not belong together";
      records = count;
      first = ring.head - (count - 1);
    }
    // Records do not share text, so together they have at most the buffer; a guest may say otherwise.
    uint64_t left = uint64_t{2} << ring.text_bits;
    uint64_t writing = 0, damaged = 0;
    for (uint64_t i = 0; i < records; ++i) {
      const uint64_t id = (first + i) & kIdMask, index = id & (count - 1);
      const uint64_t descriptor = ring.descriptors + index * descriptor_size;
      const auto state = o_.read(descriptor, state_);
      if (!state) {
        out.trouble = "a part of the log's records is not in memory";
        break;
      }
      const uint64_t kind = *state >> kStateShift;
      if ((*state & kIdMask) != id || kind == reusable) continue;  // its place is being given to another record, or was never used
      if (kind == reserved) {
        ++writing;
        continue;
      }
      const uint64_t info = ring.infos + index * info_size;
      auto record = one(ring, descriptor, info, left);
      if (!record) {
        ++damaged;
        continue;
      }
      if (!record->second) continue;
      record->first.finished = kind == finalized;
      left -= record->first.text.size();
      out.records.push_back(std::move(record->first));
      if (left == 0) {
        out.trouble = "the log's records have more text than its buffer";
        break;
      }
    }
    const auto add = [&out](const std::string& what) { out.trouble += (out.trouble.empty() ? "" : "; ") + what; };
    if (writing != 0) add(fmt::format("{} {} being written", writing, writing == 1 ? "record is" : "records are"));
    if (damaged != 0) add(fmt::format("{} {} not be read", damaged, damaged == 1 ? "record can" : "records can"));
    return out;
  }

 private:
  uint64_t size_of(std::string_view type) const {
    const auto id = o_.btf().object(type);
    return id ? o_.btf().size_of(*id).value_or(0) : 0;
  }

  // `prb` points to the buffer that is in use. Others may be called so too: one that makes sense is taken.
  Result<Ring> find() const {
    RV_TRY(const auto count_bits, o_.field("printk_ringbuffer", "desc_ring.count_bits"));
    RV_TRY(const auto descriptors, o_.field("printk_ringbuffer", "desc_ring.descs"));
    RV_TRY(const auto infos, o_.field("printk_ringbuffer", "desc_ring.infos"));
    RV_TRY(const auto head, o_.field("printk_ringbuffer", "desc_ring.head_id.counter"));
    RV_TRY(const auto tail, o_.field("printk_ringbuffer", "desc_ring.tail_id.counter"));
    RV_TRY(const auto text_bits, o_.field("printk_ringbuffer", "text_data_ring.size_bits"));
    RV_TRY(const auto text, o_.field("printk_ringbuffer", "text_data_ring.data"));
    RV_TRY([[maybe_unused]] const uint64_t named, o_.symbol("prb"));
    for (const uint64_t at : o_.kernel().addresses_of("prb")) {
      const auto ring = o_.memory().get<uint64_t>(at);
      if (!ring) continue;
      const auto a = o_.read(*ring, count_bits), b = o_.read(*ring, descriptors), c = o_.read(*ring, infos), d = o_.read(*ring, head),
                 e = o_.read(*ring, tail), f = o_.read(*ring, text_bits), g = o_.read(*ring, text);
      if (!a || !b || !c || !d || !e || !f || !g) continue;
      if (*a == 0 || *a > kMostCountBits || *f < 3 || *f > kMostTextBits) continue;
      return Ring{*a, *b, *c, *d & kIdMask, *e & kIdMask, *f, *g};
    }
    return Error{ErrorCode::bad_image, "the kernel's log is not where its symbols say", ""};
  }

  // Nothing: it cannot be read. false: its text was lost, as when the buffer was full, and the kernel does not show it either.
  std::optional<std::pair<LogRecord, bool>> one(const Ring& ring, uint64_t descriptor, uint64_t info, uint64_t most) const {
    const auto begin = o_.read(descriptor, begin_), next = o_.read(descriptor, next_);
    const auto sequence = o_.read(info, sequence_), time = o_.read(info, time_), length = o_.read(info, length_),
               facility = o_.read(info, facility_), level = o_.read(info, level_), caller = o_.read(info, caller_);
    if (!begin || !next || !sequence || !time || !length || !facility || !level || !caller) return std::nullopt;
    LogRecord out{*sequence, *time, static_cast<uint32_t>(*facility), static_cast<uint32_t>(*level), static_cast<uint32_t>(*caller), true, {}};
    if ((*begin & kDataless) != 0 && (*next & kDataless) != 0) return std::pair(std::move(out), *begin == kNoLpos && *next == kNoLpos);
    // Behind the descriptor's number; a block that does not fit before the buffer's end lies at its beginning instead.
    const uint64_t size = uint64_t{1} << ring.text_bits, mask = size - 1;
    uint64_t at = 0, bytes = 0;
    if (*begin < *next && *begin >> ring.text_bits == (*next - 1) >> ring.text_bits) {
      at = *begin & mask;
      bytes = *next - *begin;
    } else if ((*begin >> ring.text_bits) + 1 == (*next - 1) >> ring.text_bits) {
      bytes = ((*next - 1) & mask) + 1;
    } else {
      return std::nullopt;
    }
    if (bytes < kBlockId) return std::nullopt;
    const uint64_t wanted = std::min({*length, bytes - kBlockId, most});
    const auto text = o_.memory().bytes(ring.text + at + kBlockId, wanted);
    if (!text) return std::nullopt;
    out.text.assign(text->begin(), text->end());
    return std::pair(std::move(out), true);
  }

  KernelObjects o_;
  Btf::Field state_, begin_, next_, sequence_, time_, length_, facility_, level_, caller_;
};

}  // namespace

Result<KernelLog> read_log(const LinuxKernel& kernel, const KernelMemory& memory) {
  RV_TRY(auto objects, KernelObjects::of(kernel, memory));
  return Reader(objects).read();
}

std::string log_text(const LogRecord& record) {
  constexpr uint64_t kSecond = 1'000'000'000;
  const std::string time = fmt::format("[{:5}.{:06}] ", record.nanoseconds / kSecond, record.nanoseconds % kSecond / 1000);
  std::string out;
  for (size_t at = 0;;) {
    const size_t end = std::min(record.text.find('\n', at), record.text.size());
    out += time + printable(std::string_view(record.text).substr(at, end - at)) + "\n";
    if (end == record.text.size()) return out;
    at = end + 1;
  }
}

}  // namespace retrovisor
