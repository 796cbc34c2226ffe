// Traces made for tests, and files to put them in.
#pragma once

#include <algorithm>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdint>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

#include "traces/fields.h"
#include "traces/reader.h"
#include "traces/writer.h"

namespace retrovisor {

// A file name of its own for each object, removed with it.
class TempFile {
 public:
  TempFile() {
    std::string name = (std::filesystem::temp_directory_path() / "rv-trace-XXXXXX").string();
    const int fd = mkstemp(name.data());
    EXPECT_GE(fd, 0);
    close(fd);
    path_ = name;
  }
  ~TempFile() { unlink(path_.c_str()); }
  TempFile(const TempFile&) = delete;
  TempFile& operator=(const TempFile&) = delete;

  const std::string& path() const { return path_; }
  std::vector<uint8_t> read() const {
    std::ifstream in(path_, std::ios::binary);
    return {std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>()};
  }
  void write(const std::vector<uint8_t>& bytes) const {
    std::ofstream out(path_, std::ios::binary | std::ios::trunc);
    out.write(reinterpret_cast<const char*>(bytes.data()), static_cast<std::streamsize>(bytes.size()));
  }

 private:
  std::string path_;
};

inline TraceHeader test_header() {
  TraceHeader h;
  h.tool_version = "test";
  h.engine = "soft";
  h.memory_size = uint64_t{64} << 20;
  h.vcpus = 2;
  h.cpu_model = "model";
  h.command_line = "console=ttyS0";
  h.images.push_back({ImageRole::kernel, "vmlinuz", "", 5, ImageDigest{1, 2, 3}});
  h.images.push_back({ImageRole::module, "mod", "a b", 6, ImageDigest{9}});
  h.flat_address = 0x1000;
  h.seed = 7;
  h.journal_mask = kJournalFull;
  h.digest_interval = 1000;
  h.digest_detail = DigestDetail::full;
  h.options.emplace_back("note", "made for a test");
  return h;
}

inline DigestRecord test_digest(Position at, uint64_t salt, const FieldNames& names) {
  DigestRecord d;
  d.position = at;
  d.state = {salt, salt * 3, salt * 5};
  d.detail = DigestDetail::full;
  d.names = names;
  for (size_t i = 0; i < names->size(); ++i) {
    std::vector<uint8_t> value(i, static_cast<uint8_t>(salt * i));
    d.fields.push_back(field_value(value));
  }
  for (size_t i = 0; i < kMemoryBuckets; ++i) d.buckets[i] = static_cast<uint32_t>(salt * 1000 + i);
  for (uint64_t p = salt; p < salt + 5; ++p) d.pages.push_back({p * p, static_cast<uint32_t>(p)});
  return d;
}

inline FieldNames test_names(size_t count = 40) {
  std::vector<std::string> names;
  for (size_t i = 0; i < count; ++i) names.push_back("device.field" + std::to_string(i));
  return std::make_shared<const std::vector<std::string>>(std::move(names));
}

// A short trace with a bit of everything; returns what went into it.
inline std::vector<TraceItem> write_sample(const std::string& path, bool with_end = true) {
  std::vector<TraceItem> items;
  auto writer = TraceWriter::create(path, test_header());
  EXPECT_TRUE(writer.ok());
  TraceWriter& w = **writer;
  const auto event = [&](JournalEvent e) {
    w.event(e);
    items.push_back(TraceEvent{e, {}});
  };
  const auto boundary = [&](JournalEvent e, std::vector<uint8_t> data) {
    w.boundary_event(e.kind, e.position, e.a, e.b, e.c, data);
    items.push_back(TraceEvent{e, std::move(data)});
  };
  const auto digest = [&](DigestRecord d) {
    w.digest(d);
    items.push_back(std::move(d));
  };
  const FieldNames names = test_names();
  boundary({EventKind::wall_clock, VcpuId(0), Position(0), 1700000000, 0, 0}, {});
  boundary({EventKind::entropy, VcpuId(0), Position(0), 0, 0, 0}, std::vector<uint8_t>(32, 0x5a));
  digest(test_digest(Position(0), 1, names));
  event({EventKind::timer, VcpuId(0), Position(1000), 2, 1000, 0});
  event({EventKind::interrupt, VcpuId(1), Position(1000), 0x30, 1, 0});
  EXPECT_TRUE(w.flush(Position(1500)).ok());
  event({EventKind::port_write, VcpuId(0), Position(2000), 0x3f8, 1, 0x41});
  event({EventKind::exception, VcpuId(0), Position(2000), 14, UINT64_MAX, 0xffffffff81000000});
  boundary({EventKind::console_input, VcpuId(0), Position(2001), 0, 3, 99999}, {'l', 's', '\n'});
  digest(test_digest(Position(2048), 2, names));
  EXPECT_TRUE(w.flush(Position(3000)).ok());
  KeyFrame frame;
  frame.position = Position(3000);
  frame.cpu = {1, 2, 3};
  frame.devices = {4};
  frame.pages = {7};
  frame.contents.assign(kPageSize, 0xaa);
  frame.state = {5, 6, 7};
  frame.events = w.events();
  frame.digests = w.digests();
  w.key_frame(frame);
  items.push_back(frame);
  event({EventKind::tsc_read, VcpuId(0), Position(4000), 5000, 0, 0});
  DigestRecord last = test_digest(Position(5000), 3, names);
  last.at_stop = true;
  digest(last);
  if (with_end) {
    const std::vector<ChainedFault> faults = {{true, 0x20, false, 0, 0x1000, 0}, {false, 14, true, 2, 0xffffffff81000000, 0x1234}};
    EXPECT_TRUE(w.end(Position(5000), {StopReason::debug_exit, 3}, {3, 9, 15}, false, faults).ok());
    items.push_back(EndRecord{Position(5000), {StopReason::debug_exit, 3}, {3, 9, 15}, w.events(), w.digests(), faults});
  }
  return items;
}

// All items, or the error.
inline Result<std::vector<TraceItem>> read_all(const std::string& path) {
  auto reader = TraceReader::open(path);
  if (!reader) return reader.error();
  std::vector<TraceItem> out;
  for (;;) {
    auto item = (*reader)->next();
    if (!item) return item.error();
    if (!item->has_value()) return out;
    out.push_back(std::move(**item));
  }
}

inline bool same_event(const TraceEvent& a, const TraceEvent& b) {
  return a.event.kind == b.event.kind && a.event.vcpu == b.event.vcpu && a.event.position == b.event.position &&
         a.event.a == b.event.a && a.event.b == b.event.b && a.event.c == b.event.c && a.data == b.data;
}

inline bool same_item(const TraceItem& a, const TraceItem& b) {
  if (a.index() != b.index()) return false;
  if (const auto* e = std::get_if<TraceEvent>(&a)) return same_event(*e, std::get<TraceEvent>(b));
  if (const auto* d = std::get_if<DigestRecord>(&a)) {
    const auto& o = std::get<DigestRecord>(b);
    const bool names = d->names == nullptr || o.names == nullptr ? d->names == o.names : *d->names == *o.names;
    return names && d->position == o.position && d->state == o.state && d->detail == o.detail && d->at_stop == o.at_stop &&
           d->fields == o.fields && d->buckets == o.buckets && d->pages == o.pages;
  }
  if (const auto* k = std::get_if<KeyFrame>(&a)) {
    const auto& o = std::get<KeyFrame>(b);
    return k->position == o.position && k->part == o.part && k->parts == o.parts && k->delta == o.delta && k->cpu == o.cpu &&
           k->devices == o.devices && k->pages == o.pages && k->contents == o.contents && k->state == o.state &&
           k->events == o.events && k->digests == o.digests;
  }
  const auto& e = std::get<EndRecord>(a);
  const auto& o = std::get<EndRecord>(b);
  const auto same_fault = [](const ChainedFault& x, const ChainedFault& y) {
    return x.interrupt == y.interrupt && x.vector == y.vector && x.has_error == y.has_error && x.error == y.error && x.rip == y.rip &&
           x.address == y.address;
  };
  if (!std::equal(e.faults.begin(), e.faults.end(), o.faults.begin(), o.faults.end(), same_fault)) return false;
  return e.position == o.position && e.stop.reason == o.stop.reason && e.stop.detail == o.stop.detail &&
         e.state == o.state && e.events == o.events && e.digests == o.digests;
}

}  // namespace retrovisor
