// Reading traces. The first byte says how the rest becomes a file: as it is, or as a list of payloads that are framed,
// compressed and checksummed properly, so that what lies behind the checksums is reached.
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>

#include "tests/fuzz/target.h"
#include "traces/chunk.h"
#include "traces/describe.h"
#include "traces/fields.h"
#include "traces/payloads.h"
#include "traces/reader.h"
#include "traces/verify.h"

namespace retrovisor::fuzz {
namespace {

enum Form : uint8_t { raw_file = 0, framed = 1, framed_and_cut = 2 };
constexpr size_t kMarks = 8;

// A file in memory.
class MemoryFile {
 public:
  explicit MemoryFile(std::span<const uint8_t> bytes) : fd_(::memfd_create("trace", MFD_CLOEXEC)) {
    FUZZ_CHECK(fd_ >= 0 && ::write(fd_, bytes.data(), bytes.size()) == static_cast<ssize_t>(bytes.size()));
  }
  ~MemoryFile() { ::close(fd_); }
  MemoryFile(const MemoryFile&) = delete;
  MemoryFile& operator=(const MemoryFile&) = delete;
  std::string path() const { return "/proc/self/fd/" + std::to_string(fd_); }

 private:
  int fd_;
};

// `in`: per chunk a kind, a size of 16 bits, and as many bytes of payload.
Bytes frame(Input in) {
  Bytes out(kFileMagic.begin(), kFileMagic.end());
  append(out, kTraceFormatVersion);
  ChunkCodec codec;
  ChecksumSeed seed = 0;
  for (uint32_t sequence = 0; !in.empty(); ++sequence) {
    const auto kind = static_cast<ChunkKind>(in.byte());
    const size_t size = in.number<uint16_t>();
    const auto sum = codec.encode(kind, sequence, seed, in.bytes(size), out);
    FUZZ_CHECK(sum.ok());
    if (sequence == 0) seed = *sum;
  }
  return out;
}

size_t describe_item(const TraceItem& item) {
  if (const auto* e = std::get_if<TraceEvent>(&item)) return describe_at(*e).size();
  if (const auto* end = std::get_if<EndRecord>(&item)) return describe(end->stop).size();
  if (const auto* d = std::get_if<DigestRecord>(&item)) {
    FUZZ_CHECK(d->fields.empty() || d->fields.size() == d->names->size());
    size_t n = 1;
    for (const FieldValue& v : d->fields) n += to_string(v).size();
    return n;
  }
  const auto& k = std::get<KeyFrame>(item);
  FUZZ_CHECK(k.contents.size() == k.pages.size() * kPageSize);
  return 1;
}

Position position_of(const TraceItem& item) {
  return std::visit(
      [](const auto& x) {
        if constexpr (requires { x.event; })
          return x.event.position;
        else
          return x.position;
      },
      item);
}

void read(const std::string& path) {
  auto opened = TraceReader::open(path, {.any_machine_model = true});
  if (!opened) {
    FUZZ_CHECK(!opened.error().message.empty() && !opened.error().where.empty());
    return;
  }
  TraceReader& reader = **opened;
  Position last;
  std::vector<std::pair<TraceReader::Mark, Position>> marks;  // and the position of the item behind each
  size_t items = 0;
  for (;;) {
    const bool keep = marks.size() < kMarks && items % 3 == 0;
    TraceReader::Mark mark;
    if (keep) mark = reader.mark();
    const auto item = reader.next();
    if (!item) {
      FUZZ_CHECK(!item.error().message.empty() && !item.error().where.empty());
      FUZZ_CHECK(!reader.next().ok());
      return;
    }
    if (!item->has_value()) break;
    ++items;
    const Position at = position_of(**item);
    FUZZ_CHECK(at >= last && at.value < kMaxPosition);
    last = at;
    FUZZ_CHECK(describe_item(**item) != 0);
    if (keep) marks.emplace_back(std::move(mark), at);
  }
  FUZZ_CHECK(reader.through() >= last && reader.end_offset() + reader.torn_bytes() == reader.file_size());
  FUZZ_CHECK(!reader.complete() || reader.torn_bytes() == 0);
  for (const auto& [mark, at] : marks) {
    FUZZ_CHECK(reader.seek(mark).ok());
    const auto item = reader.next();
    FUZZ_CHECK(item.ok() && item->has_value() && position_of(**item) == at);
  }
}

void append_chunk(Bytes& out, ChunkKind kind, std::span<const uint8_t> payload) {
  append(out, static_cast<uint8_t>(kind));
  append(out, static_cast<uint16_t>(payload.size()));
  append(out, payload);
}

// A short trace with one of everything, as payloads.
Bytes sample() {
  Bytes out{framed};
  TraceHeader header;
  header.engine = "soft";
  header.memory_size = uint64_t{64} << 20;
  header.command_line = "console=ttyS0";
  header.images.push_back({ImageRole::kernel, "vmlinuz", "", 5, ImageDigest{1, 2, 3}});
  header.flat_address = 0x1000;
  header.seed = 7;
  header.journal_mask = kJournalFull;
  header.digest_detail = DigestDetail::full;
  header.options.emplace_back("note", "text");
  append_chunk(out, ChunkKind::header, encode_header(header));
  const std::vector<std::string> names{"clock.position", "cpu0.rax", "uart.fifo"};
  append_chunk(out, ChunkKind::field_names, encode_field_names(names));

  LogEncoder log;
  log.event({EventKind::wall_clock, VcpuId(0), Position(0), 1'700'000'000, 0, 0}, {});
  log.event({EventKind::console_input, VcpuId(0), Position(9), 0, 3, 99}, Bytes{'l', 's', '\n'});
  log.event({EventKind::port_write, VcpuId(0), Position(20), 0x3f8, 1, 0x41}, {});
  log.event({EventKind::interrupt, VcpuId(1), Position(20), 0x30, 1, 0}, {});
  DigestRecord digest;
  digest.position = Position(100);
  digest.state = {1, 2, 3};
  digest.detail = DigestDetail::full;
  digest.names = std::make_shared<const std::vector<std::string>>(names);
  digest.fields = {field_value(Bytes(8, 1)), field_value(Bytes(8, 2)), field_value(Bytes(40, 3))};
  digest.pages = {{3, 4}, {500, 6}};
  log.digest(digest, encode_fields({}, digest.fields), true);
  std::vector<FieldValue> changed = digest.fields;
  changed[1] = field_value(Bytes(8, 9));
  DigestRecord second = digest;
  second.position = Position(200);
  log.digest(second, encode_fields(digest.fields, changed), false);
  append_chunk(out, ChunkKind::log, log.finish(Position(300)));

  KeyFrame frame;
  frame.position = Position(300);
  frame.cpu = {1, 2, 3};
  frame.devices = {4};
  frame.events = 4;
  frame.digests = 2;
  append_chunk(out, ChunkKind::key_frame, encode_key_frame(frame));
  append_chunk(out, ChunkKind::end, encode_end({Position(301), {StopReason::debug_exit, 3}, {3, 9, 15}, 4, 2}));
  return out;
}

}  // namespace

size_t max_input() { return 16384; }

void run(std::span<const uint8_t> data) {
  Input in(data);
  const auto form = static_cast<Form>(in.byte() % 3);
  size_t cut = 0;
  if (form == framed_and_cut) cut = in.number<uint16_t>();
  Bytes built;
  if (form != raw_file) built = frame(in);
  std::span<const uint8_t> bytes = form == raw_file ? in.rest() : built;
  if (form == framed_and_cut) bytes = bytes.first(bytes.size() - std::min(bytes.size(), cut));
  const MemoryFile file(bytes);
  read(file.path());
  const auto summary = verify_trace(file.path(), {.any_machine_model = true});
  if (summary) FUZZ_CHECK(!summary->completeness().empty());
  // Who passes key frames sees no other trace than who reads them.
  for (const auto how : {TraceReader::KeyFrames::check, TraceReader::KeyFrames::skip}) {
    const auto other = verify_trace(file.path(), {.any_machine_model = true, .key_frames = how});
    if (!summary) continue;
    FUZZ_CHECK(other.ok() && other->key_frames.size() == summary->key_frames.size());
    FUZZ_CHECK(other->through == summary->through && other->digests == summary->digests && other->chunks == summary->chunks);
  }
}

std::vector<Bytes> seeds() {
  const Bytes whole = sample();
  Bytes cut = whole;
  cut[0] = framed_and_cut;
  cut.insert(cut.begin() + 1, {20, 0});
  Bytes raw{raw_file};
  append(raw, frame(Input(std::span(whole).subspan(1))));
  return {whole, cut, raw};
}

}  // namespace retrovisor::fuzz
