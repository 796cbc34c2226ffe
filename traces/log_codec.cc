#include "traces/log_codec.h"

#include <flatbuffers/flatbuffers.h>
#include <fmt/format.h>

#include <algorithm>

#include "traces/trace_generated.h"

namespace retrovisor {
namespace {

constexpr size_t kDigestOverhead = 64;  // rough size of the table around a digest's vectors

Error bad(std::string message) { return {ErrorCode::bad_trace, std::move(message), {}}; }

using Bytes = flatbuffers::Vector<uint8_t>;

std::span<const uint8_t> view(const Bytes* v) {
  return v == nullptr ? std::span<const uint8_t>() : std::span<const uint8_t>(v->data(), v->size());
}

bool all_zero(const std::vector<uint8_t>& v) {
  return std::all_of(v.begin(), v.end(), [](uint8_t b) { return b == 0; });
}

flatbuffers::Offset<Bytes> column(flatbuffers::FlatBufferBuilder& b, const std::vector<uint8_t>& v, bool optional) {
  if (v.empty() || (optional && all_zero(v))) return 0;
  return b.CreateVector(v);
}

bool known_kind(uint8_t kind) {
  return kind <= static_cast<uint8_t>(EventKind::exception_lost) ||
         (kind >= kFirstBoundaryKind && kind <= static_cast<uint8_t>(EventKind::directory_read));
}

}  // namespace

void LogEncoder::advance(Position to) {
  RV_ASSERT(to >= last_ && to.value < kMaxPosition);
  if (empty()) {
    base_ = to;
    last_ = to;
    predictor_ = {};
  }
  const size_t before = positions_.size();
  put_varint(positions_, to - last_);
  raw_size_ += positions_.size() - before + 1;
  last_ = to;
  ++count_;
}

void LogEncoder::event(const JournalEvent& e, std::span<const uint8_t> data) {
  RV_ASSERT(known_kind(static_cast<uint8_t>(e.kind)) && data.size() <= kMaxEventData &&
            (data.empty() || is_boundary(e.kind)));
  RV_ASSERT(e.vcpu.value < kMaxVcpus);
  advance(e.position);
  kinds_.push_back(static_cast<uint8_t>(e.kind));
  vcpus_.push_back(static_cast<uint8_t>(e.vcpu.value));
  const std::array<uint64_t, 3> values{e.a, e.b, e.c};
  auto& last = predictor_.of(e.kind);
  for (size_t i = 0; i < values.size(); ++i) {
    const uint64_t v = values[i] - LogPredictor::bias(e.kind, i, e.position);
    const size_t before = values_[i].size();
    put_varint(values_[i], zigzag(v - last[i]));
    raw_size_ += values_[i].size() - before;
    last[i] = v;
  }
  if (!is_boundary(e.kind)) return;
  put_varint(data_sizes_, data.size());
  data_.insert(data_.end(), data.begin(), data.end());
  raw_size_ += data.size() + 1;
}

void LogEncoder::digest(const DigestRecord& d, std::vector<uint8_t> fields, bool self_contained) {
  advance(d.position);
  kinds_.push_back(kDigestMark);
  CodedDigest& out = digests_.emplace_back();
  out.state = d.state;
  out.detail = d.detail;
  out.at_stop = d.at_stop;
  out.self_contained = self_contained;
  out.fields = std::move(fields);
  out.buckets = d.buckets;
  if (out.detail == DigestDetail::full && d.pages.size() > kMaxDigestPages) out.detail = DigestDetail::fields;
  if (out.detail == DigestDetail::full) {
    uint64_t expected = 0;
    for (const PageHash& p : d.pages) {
      RV_ASSERT(p.page >= expected);
      put_varint(out.pages, p.page - expected);
      out.page_hashes.push_back(p.hash);
      expected = p.page + 1;
    }
  }
  raw_size_ += kDigestOverhead + sizeof out.buckets + out.fields.size() + out.pages.size() + 4 * out.page_hashes.size();
}

std::vector<uint8_t> LogEncoder::finish(Position through) {
  RV_ASSERT(through >= last_);
  flatbuffers::FlatBufferBuilder b(raw_size_ + 1024);
  std::vector<flatbuffers::Offset<fb::Digest>> digests;
  for (const CodedDigest& d : digests_) {
    const bool detailed = d.detail != DigestDetail::sums;
    const auto fields = detailed ? b.CreateVector(d.fields) : 0;
    const auto buckets = detailed ? b.CreateVector(d.buckets.data(), d.buckets.size()) : 0;
    const auto pages = d.detail == DigestDetail::full ? b.CreateVector(d.pages) : 0;
    const auto hashes = d.detail == DigestDetail::full ? b.CreateVector(d.page_hashes) : 0;
    digests.push_back(fb::CreateDigest(b, d.state.cpu, d.state.memory, d.state.devices, static_cast<uint8_t>(d.detail),
                                       d.self_contained, fields, buckets, pages, hashes, d.at_stop));
  }
  const auto digest_vector = digests.empty() ? 0 : b.CreateVector(digests);
  const auto kinds = column(b, kinds_, false);
  const auto positions = column(b, positions_, false);
  const auto vcpus = column(b, vcpus_, true);
  const auto va = column(b, values_[0], true);
  const auto vb = column(b, values_[1], true);
  const auto vc = column(b, values_[2], true);
  const auto sizes = column(b, data_sizes_, false);
  const auto data = column(b, data_, false);
  b.Finish(
      fb::CreateLog(b, base_.value, through.value, count_, kinds, positions, vcpus, va, vb, vc, sizes, data, digest_vector));
  std::vector<uint8_t> out(b.GetBufferPointer(), b.GetBufferPointer() + b.GetSize());
  for (auto* v : {&kinds_, &positions_, &vcpus_, &data_sizes_, &data_, &values_[0], &values_[1], &values_[2]}) v->clear();
  digests_.clear();
  count_ = 0;
  raw_size_ = 0;
  return out;
}

Result<std::unique_ptr<LogDecoder>> LogDecoder::open(std::vector<uint8_t> payload, Position last, EventMask mask) {
  std::unique_ptr<LogDecoder> out(new LogDecoder);
  out->payload_ = std::move(payload);
  flatbuffers::Verifier verifier(out->payload_.data(), out->payload_.size(), 8, kMaxLogItems);
  if (!verifier.VerifyBuffer<fb::Log>(nullptr)) return bad("log chunk is not a valid FlatBuffer");
  const fb::Log* log = flatbuffers::GetRoot<fb::Log>(out->payload_.data());
  out->log_ = log;
  out->mask_ = mask;
  out->position_ = Position(log->base());
  out->through_ = Position(log->through());
  out->count_ = log->count();
  if (out->count_ > kMaxLogItems) return bad("log chunk has too many items");
  if (view(log->kinds()).size() != out->count_) return bad("log chunk does not have one kind for each item");
  if (out->position_ < last) return bad(fmt::format("log chunk goes back from position {} to {}", last.value, log->base()));
  if (out->through_ < out->position_ || log->through() >= kMaxPosition)
    return bad("log chunk has an impossible end position");
  out->kinds_ = ByteCursor(view(log->kinds()));
  out->positions_ = ByteCursor(view(log->positions()));
  out->vcpus_ = ByteCursor(view(log->vcpus()));
  out->data_sizes_ = ByteCursor(view(log->data_sizes()));
  out->data_ = ByteCursor(view(log->data()));
  out->values_ = {ByteCursor(view(log->a())), ByteCursor(view(log->b())), ByteCursor(view(log->c()))};
  out->has_values_ = {log->a() != nullptr, log->b() != nullptr, log->c() != nullptr};
  out->has_vcpus_ = log->vcpus() != nullptr;
  return out;
}

Result<void> LogDecoder::read_digest(const fb::Digest* in, Item& out) const {
  DigestRecord& d = out.digest;
  d = {};
  d.position = position_;
  d.state = {in->cpu(), in->memory(), in->devices()};
  if (in->detail() > static_cast<uint8_t>(DigestDetail::full))
    return bad(fmt::format("unknown digest detail {}", in->detail()));
  d.detail = static_cast<DigestDetail>(in->detail());
  d.at_stop = in->at_stop();
  out.coded_fields = {};
  out.self_contained = in->self_contained();
  if (d.detail == DigestDetail::sums) return {};
  if (in->fields() == nullptr || in->buckets() == nullptr || in->buckets()->size() != kMemoryBuckets)
    return bad("a digest lacks the detail that it says it has");
  out.coded_fields = view(in->fields());
  for (flatbuffers::uoffset_t i = 0; i < kMemoryBuckets; ++i) d.buckets[i] = in->buckets()->Get(i);
  if (d.detail == DigestDetail::fields) return {};
  if (in->pages() == nullptr || in->page_hashes() == nullptr || in->page_hashes()->size() > kMaxDigestPages)
    return bad("a digest lacks the pages that it says it has");
  ByteCursor gaps(view(in->pages()));
  uint64_t page = 0;
  for (const uint32_t hash : *in->page_hashes()) {
    const uint64_t gap = gaps.varint();
    if (!gaps.ok() || gap > kMaxPosition || page + gap > kMaxPosition)
      return bad("a digest has an impossible list of pages");
    page += gap;
    d.pages.push_back({page++, hash});
  }
  if (!gaps.at_end()) return bad("a digest has more pages than hashes of pages");
  return {};
}

Result<void> LogDecoder::next(Item& out) {
  RV_ASSERT(!at_end());
  const uint8_t kind = kinds_.byte();
  const uint64_t delta = positions_.varint();
  if (!positions_.ok()) return bad("the positions of a log chunk are cut off");
  if (delta > through_ - position_) return bad("an event lies beyond the position up to which its log chunk goes");
  position_ += delta;
  out.is_digest = kind == kDigestMark;
  if (out.is_digest) {
    const auto* digests = log_->digests();
    if (digests == nullptr || next_digest_ >= digests->size()) return bad("log chunk has fewer digests than its kinds say");
    RV_TRY(read_digest(digests->Get(next_digest_++), out));
  } else {
    if (!known_kind(kind)) return bad(fmt::format("unknown event kind {}", kind));
    JournalEvent& e = out.event.event;
    e.kind = static_cast<EventKind>(kind);
    if (!is_boundary(e.kind) && (mask_ & mask_of(e.kind)) == 0)
      return bad(fmt::format("event of kind {} is in no journal of this trace", to_string(e.kind)));
    e.position = position_;
    e.vcpu = VcpuId(has_vcpus_ ? vcpus_.byte() : 0);
    if (!vcpus_.ok() || e.vcpu.value >= kMaxVcpus) return bad("an event names an impossible vCPU");
    auto& last = predictor_.of(e.kind);
    for (size_t i = 0; i < last.size(); ++i) {
      if (has_values_[i]) last[i] += unzigzag(values_[i].varint());
      if (!values_[i].ok()) return bad("the values of a log chunk are cut off");
    }
    e.a = last[0] + LogPredictor::bias(e.kind, 0, position_);
    e.b = last[1] + LogPredictor::bias(e.kind, 1, position_);
    e.c = last[2] + LogPredictor::bias(e.kind, 2, position_);
    out.event.data.clear();
    if (is_boundary(e.kind)) {
      const uint64_t size = data_sizes_.varint();
      if (size > kMaxEventData) return bad("an event carries more bytes than the format allows");
      const auto data = data_.bytes(size);
      if (!data_sizes_.ok() || !data_.ok()) return bad("the data of a log chunk is cut off");
      out.event.data.assign(data.begin(), data.end());
    }
  }
  ++index_;
  if (!at_end()) return {};
  const bool whole = positions_.at_end() && vcpus_.at_end() && data_sizes_.at_end() && data_.at_end() &&
                     values_[0].at_end() && values_[1].at_end() && values_[2].at_end() &&
                     next_digest_ == (log_->digests() == nullptr ? 0 : log_->digests()->size());
  if (!whole) return bad("log chunk has more data than items");
  return {};
}

}  // namespace retrovisor
