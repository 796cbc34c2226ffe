#include "vmm/state_io.h"

#include <gtest/gtest.h>

namespace retrovisor {
namespace {

std::vector<uint8_t> sample() {
  StateWriter out;
  out.section("pit");
  out.u16("count", 0x1234);
  out.boolean("gate", true);
  out.section("uart");
  const uint8_t fifo[] = {1, 2, 3};
  out.bytes("fifo", fifo);
  return out.take();
}

TEST(StateIo, reads_back_what_was_written) {
  const auto state = sample();
  StateReader in(state);
  uint16_t count = 0;
  bool gate = false;
  std::vector<uint8_t> fifo;
  in.section("pit");
  in.u16("count", count);
  in.boolean("gate", gate);
  in.section("uart");
  in.bytes("fifo", fifo, 16);
  ASSERT_TRUE(in.finish().ok());
  EXPECT_TRUE(in.at_end());
  EXPECT_EQ(count, 0x1234);
  EXPECT_TRUE(gate);
  EXPECT_EQ(fifo, (std::vector<uint8_t>{1, 2, 3}));
}

TEST(StateIo, names_the_field_that_is_not_the_expected_one) {
  const auto state = sample();
  StateReader in(state);
  uint16_t v = 7;
  in.section("pit");
  in.u16("latch", v);
  EXPECT_EQ(v, 0);
  ASSERT_FALSE(in.finish().ok());
  EXPECT_NE(in.finish().error().message.find("pit.count where pit.latch"), std::string::npos);
}

TEST(StateIo, refuses_too_long_values_and_impossible_booleans) {
  const auto state = sample();
  StateReader in(state);
  uint8_t narrow = 0;
  in.section("pit");
  in.u8("count", narrow);
  EXPECT_FALSE(in.ok());
  StateWriter out;
  out.section("a");
  out.u8("b", 2);
  StateReader flags(out.data());
  bool b = false;
  flags.section("a");
  flags.boolean("b", b);
  EXPECT_FALSE(flags.ok());
}

TEST(StateIo, every_truncation_is_an_error) {
  const auto state = sample();
  for (size_t size = 0; size < state.size(); ++size) {
    StateReader in(std::span<const uint8_t>(state).first(size));
    uint16_t count = 0;
    bool gate = false;
    std::vector<uint8_t> fifo;
    in.section("pit");
    in.u16("count", count);
    in.boolean("gate", gate);
    in.section("uart");
    in.bytes("fifo", fifo, 16);
    EXPECT_FALSE(in.finish().ok()) << size;
  }
}

TEST(StateIo, lists_fields_by_full_name) {
  const auto fields = state_fields(sample());
  ASSERT_EQ(fields.size(), 3u);
  EXPECT_EQ(fields[0].name, "pit.count");
  EXPECT_EQ(fields[2].name, "uart.fifo");
  EXPECT_EQ(fields[2].value.size(), 3u);
}

}  // namespace
}  // namespace retrovisor
