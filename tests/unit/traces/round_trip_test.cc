// What is written is what is read.
#include <cstdio>
#include <cstring>
#include <random>

#include "tests/unit/traces/trace_files.h"
#include "traces/describe.h"
#include "traces/verify.h"

namespace retrovisor {
namespace {

TEST(TraceRoundTrip, header_keeps_every_field) {
  const TempFile file;
  write_sample(file.path());
  const auto reader = TraceReader::open(file.path());
  ASSERT_TRUE(reader.ok()) << reader.error().text();
  const TraceHeader& h = (*reader)->header();
  const TraceHeader want = test_header();
  EXPECT_EQ(h.machine_model, kMachineModelVersion);
  EXPECT_EQ(h.tool_version, want.tool_version);
  EXPECT_EQ(h.engine, want.engine);
  EXPECT_EQ(h.memory_size, want.memory_size);
  EXPECT_EQ(h.vcpus, want.vcpus);
  EXPECT_EQ(h.command_line, want.command_line);
  ASSERT_EQ(h.images.size(), 2u);
  EXPECT_EQ(h.images[1].role, ImageRole::module);
  EXPECT_EQ(h.images[1].arguments, "a b");
  EXPECT_EQ(h.images[0].digest, want.images[0].digest);
  EXPECT_EQ(h.flat_address, want.flat_address);
  EXPECT_EQ(h.seed, want.seed);
  EXPECT_EQ(h.rtc, std::nullopt);
  EXPECT_EQ(h.journal_mask, want.journal_mask);
  EXPECT_EQ(h.digest_detail, DigestDetail::full);
  EXPECT_EQ(h.options, want.options);
}

TEST(TraceRoundTrip, processor_models_keep_their_numbers) {
  const TempFile file;
  const auto write = [&file](unsigned number) {
    TraceHeader header = test_header();
    header.processor_model = static_cast<ProcessorModel>(number);
    auto writer = TraceWriter::create(file.path(), header);
    ASSERT_TRUE(writer.ok());
    ASSERT_TRUE((*writer)->end(Position(1), {}, {}).ok());
  };
  // What recordings hold; never to be given to other models.
  constexpr std::pair<unsigned, std::string_view> kStored[] = {{0, "model"}, {1, "amd"}, {2, "intel"}, {3, "amd-zen3"}};
  for (const auto& [number, name] : kStored) {
    write(number);
    const auto reader = TraceReader::open(file.path());
    ASSERT_TRUE(reader.ok()) << reader.error().text();
    EXPECT_EQ(static_cast<unsigned>((*reader)->header().processor_model), number);
    EXPECT_EQ(name_of((*reader)->header().processor_model), name);
  }
  for (const unsigned number : {static_cast<unsigned>(kLastProcessorModel) + 1, 200u}) {
    write(number);
    const auto reader = TraceReader::open(file.path());
    ASSERT_FALSE(reader.ok());
    EXPECT_NE(reader.error().message.find("processor model, number " + std::to_string(number)), std::string::npos) << reader.error().text();
  }
}

TEST(TraceRoundTrip, exceptions_are_described_by_what_they_have) {
  const auto text = [](uint64_t vector) {
    return describe(JournalEvent{EventKind::exception_lost, VcpuId(0), Position(1), vector, 0x2, 0x1000});
  };
  EXPECT_EQ(text(vec::PF), "exception-lost 14 (#PF) error code 0x2 CR2 0x1000");
  EXPECT_EQ(text(vec::GP), "exception-lost 13 (#GP) error code 0x2");
  EXPECT_EQ(text(vec::DF), "exception-lost 8 (#DF) error code 0x2");
  EXPECT_EQ(text(vec::AC), "exception-lost 17 (#AC) error code 0x2");
  EXPECT_EQ(text(vec::UD), "exception-lost 6 (#UD)");
  EXPECT_EQ(text(vec::DE), "exception-lost 0 (#DE)");
  EXPECT_EQ(text(vec::MF), "exception-lost 16 (#MF)");
  EXPECT_EQ(text(31), "exception-lost 31");
  EXPECT_EQ(text(UINT64_MAX), "exception-lost 18446744073709551615");
}

TEST(TraceRoundTrip, items_come_back_in_order_and_whole) {
  const TempFile file;
  const auto written = write_sample(file.path());
  const auto read = read_all(file.path());
  ASSERT_TRUE(read.ok()) << read.error().text();
  ASSERT_EQ(read->size(), written.size());
  for (size_t i = 0; i < written.size(); ++i) EXPECT_TRUE(same_item(written[i], (*read)[i])) << "item " << i;
}

TEST(TraceRoundTrip, random_events_of_all_kinds_survive_many_chunks) {
  std::mt19937_64 random(1);
  const TempFile file;
  std::vector<TraceEvent> written;
  {
    auto writer = TraceWriter::create(file.path(), test_header());
    ASSERT_TRUE(writer.ok());
    uint64_t position = 0;
    for (int i = 0; i < 50000; ++i) {
      position += random() % 3 == 0 ? 0 : random() >> (random() % 40 + 24);
      JournalEvent e{static_cast<EventKind>(random() % 11),
                     VcpuId(static_cast<uint32_t>(random() % kMaxVcpus)),
                     Position(position % (kMaxPosition - 1)),
                     random() >> (random() % 64),
                     random() >> (random() % 64),
                     random() >> (random() % 64)};
      if (!written.empty() && e.position < written.back().event.position) break;
      std::vector<uint8_t> data;
      if (i % 100 == 0) {
        e.kind = EventKind::packet;
        e.vcpu = VcpuId(0);
        data.resize(random() % 2000);
        for (auto& b : data) b = static_cast<uint8_t>(random());
        (*writer)->boundary_event(e.kind, e.position, e.a, e.b, e.c, data);
      } else {
        (*writer)->event(e);
      }
      written.push_back({e, data});
    }
    ASSERT_TRUE((*writer)->end(written.back().event.position, {}, {}).ok());
  }
  const auto read = read_all(file.path());
  ASSERT_TRUE(read.ok()) << read.error().text();
  ASSERT_EQ(read->size(), written.size() + 1);
  for (size_t i = 0; i < written.size(); ++i)
    ASSERT_TRUE(same_event(written[i], std::get<TraceEvent>((*read)[i]))) << "event " << i;
  const auto summary = verify_trace(file.path());
  ASSERT_TRUE(summary.ok());
  EXPECT_GT(summary->chunks, 10u);
  EXPECT_EQ(summary->total_events, written.size());
}

TEST(TraceRoundTrip, empty_run_is_a_complete_trace) {
  const TempFile file;
  {
    auto writer = TraceWriter::create(file.path(), test_header());
    ASSERT_TRUE(writer.ok());
    ASSERT_TRUE((*writer)->end(Position(0), {StopReason::host_request, 0}, {}, true).ok());
  }
  const auto summary = verify_trace(file.path());
  ASSERT_TRUE(summary.ok()) << summary.error().text();
  EXPECT_TRUE(summary->complete());
  EXPECT_EQ(summary->completeness(), "complete");
  EXPECT_EQ(summary->chunks, 2u);
}

TEST(TraceRoundTrip, changed_field_names_start_a_new_list) {
  const TempFile file;
  const FieldNames few = test_names(3);
  const FieldNames many = test_names(9);
  {
    auto writer = TraceWriter::create(file.path(), test_header());
    ASSERT_TRUE(writer.ok());
    (*writer)->digest(test_digest(Position(1), 1, few));
    (*writer)->digest(test_digest(Position(2), 2, many));
    ASSERT_TRUE((*writer)->end(Position(2), {}, {}).ok());
  }
  const auto read = read_all(file.path());
  ASSERT_TRUE(read.ok()) << read.error().text();
  EXPECT_TRUE(same_item((*read)[0], test_digest(Position(1), 1, few)));
  EXPECT_TRUE(same_item((*read)[1], test_digest(Position(2), 2, many)));
}

TEST(TraceRoundTrip, marks_lead_back_to_every_item) {
  const TempFile file;
  const auto written = write_sample(file.path());
  auto reader = TraceReader::open(file.path());
  ASSERT_TRUE(reader.ok());
  std::vector<TraceReader::Mark> marks;
  for (size_t i = 0; i < written.size(); ++i) {
    marks.push_back((*reader)->mark());
    ASSERT_TRUE((*reader)->next().ok());
  }
  for (size_t i = written.size(); i-- > 0;) {
    ASSERT_TRUE((*reader)->seek(marks[i]).ok());
    for (size_t k = i; k < written.size(); ++k) {
      auto item = (*reader)->next();
      ASSERT_TRUE(item.ok()) << item.error().text();
      ASSERT_TRUE(item->has_value());
      if (auto* d = std::get_if<DigestRecord>(&**item)) {
        if (d->fields.empty()) d->fields = std::get<DigestRecord>(written[k]).fields;  // as seek() says
      }
      EXPECT_TRUE(same_item(written[k], **item)) << "from " << i << " item " << k;
    }
    auto after = (*reader)->next();
    ASSERT_TRUE(after.ok()) << after.error().text();
    EXPECT_FALSE(after->has_value());
    EXPECT_TRUE((*reader)->complete());
  }
}

// A boot: 250 timer interrupts a second for two seconds of two million instructions each, with two timers and noise.
TEST(TraceRoundTrip, boot_sized_trace_stays_small) {
  std::mt19937_64 random(2);
  const TempFile file;
  TraceHeader header = test_header();
  header.digest_detail = DigestDetail::fields;
  auto writer = TraceWriter::create(file.path(), header);
  ASSERT_TRUE(writer.ok());
  TraceWriter& w = **writer;
  const FieldNames names = test_names(400);
  DigestRecord digest;
  digest.detail = DigestDetail::fields;
  digest.names = names;
  digest.fields.resize(400);
  constexpr uint64_t kInstructions = uint64_t{2'000'000'000};
  constexpr uint64_t kDigestEvery = uint64_t{16} << 20;
  constexpr uint64_t kFlushEvery = 25'000'000;  // 100 million instructions a second, a flush each quarter
  uint64_t idle = 0;
  uint64_t next_digest = 0;
  uint64_t next_flush = kFlushEvery;
  for (uint64_t position = 0; position < kInstructions; position += 200'000 + random() % 50'000) {
    while (next_digest <= position) {
      digest.position = Position(next_digest);
      digest.state = {random(), random(), random()};
      for (auto& b : digest.buckets) b = static_cast<uint32_t>(random());
      for (size_t i = 0; i < 60; ++i) {  // what changes: general registers, timers, counters
        const uint64_t value = i < 30 ? 0xffffffff81000000 + random() % 0x1000000 : random() % 0x10000000;
        std::array<uint8_t, 8> raw;
        std::memcpy(raw.data(), &value, 8);
        digest.fields[i * 6] = field_value(raw);
      }
      w.digest(digest);
      next_digest += kDigestEvery;
    }
    if (random() % 4 == 0) idle += random() % 1'000'000;
    w.event({EventKind::timer, VcpuId(0), Position(position), random() % 2, position + idle, 0});
    w.event({EventKind::interrupt, VcpuId(0), Position(position + random() % 100), 0xec, 0, 0});
    if (position > next_flush) {
      ASSERT_TRUE(w.flush(Position(position + 100)).ok());
      next_flush += kFlushEvery;
    }
  }
  ASSERT_TRUE(w.end(Position(kInstructions), {}, {}).ok());
  EXPECT_GT(w.events(), 15'000u);
  EXPECT_LT(w.size(), uint64_t{256} << 10);
  RecordProperty("bytes", static_cast<int>(w.size()));
  std::printf("events %llu digests %llu bytes %llu\n", static_cast<unsigned long long>(w.events()),
              static_cast<unsigned long long>(w.digests()), static_cast<unsigned long long>(w.size()));
}

TEST(TraceDescribe, names_what_happened) {
  EXPECT_EQ(describe_at(JournalEvent{EventKind::interrupt, VcpuId(1), Position(77), 0x30, 1, 0}),
            "at position 77 on vCPU 1: interrupt vector 0x30 from PIC");
  EXPECT_EQ(describe(TraceEvent{{EventKind::console_input, VcpuId(0), Position(1), 0, 2, 9}, {'a', 0xff}}),
            "console-input at endpoint 0, poll 2, at 9 ns, 2 bytes: 61 ff");
  EXPECT_EQ(describe(Stop{StopReason::debug_exit, 3}), "debug exit (code 3)");
  EXPECT_EQ(to_string(image_digest({})),
            "99aa06d3014798d86001c324468d497f");  // XXH3-128 of nothing, as xxhsum -H2 prints it
}

}  // namespace
}  // namespace retrovisor
