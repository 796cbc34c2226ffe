#include "gdbstub/packet.h"

#include <gtest/gtest.h>

#include "gdbstub/hex.h"

namespace retrovisor::gdb {
namespace {

using Kind = PacketReader::Item::Kind;

// What one piece of a stream gives, in short words.
std::string words(PacketReader& reader, std::string_view bytes) {
  reader.feed(bytes);
  std::string out;
  while (auto item = reader.next()) {
    if (!out.empty()) out += ' ';
    switch (item->kind) {
      case Kind::packet: out += "[" + item->payload + "]"; break;
      case Kind::damaged: out += "damaged"; break;
      case Kind::interrupt: out += "interrupt"; break;
      case Kind::ack: out += "+"; break;
      case Kind::nack: out += "-"; break;
      case Kind::garbage: out += "garbage"; break;
    }
  }
  return out;
}

std::string words(std::string_view bytes) {
  PacketReader reader;
  return words(reader, bytes);
}

TEST(Packet, frames_payload_with_its_sum) {
  EXPECT_EQ(frame(""), "$#00");
  EXPECT_EQ(frame("OK"), "$OK#9a");
  EXPECT_EQ(frame(std::string(3, '\xff')), "$\xff\xff\xff#fd");
}

TEST(Packet, escapes_what_framing_would_take_for_its_own) {
  EXPECT_EQ(escape("a#b$c}d*e"),
            "a}\x03"
            "b}\x04"
            "c}]d}\x0a"
            "e");
}

TEST(Packet, reads_back_what_it_framed) {
  std::string all;
  for (int i = 0; i < 256; ++i) all += static_cast<char>(i);
  EXPECT_EQ(words(frame(escape(all))), "[" + all + "]");
}

TEST(Packet, reads_packets_acknowledgements_and_interrupts) {
  EXPECT_EQ(words("+$g#67-\x03$?#3f"), "+ [g] - interrupt [?]");
}

TEST(Packet, reads_packet_that_comes_byte_by_byte) {
  PacketReader reader;
  std::string out;
  for (const char c : frame("m100,4")) {
    out += words(reader, std::string_view(&c, 1));
    EXPECT_EQ(reader.partial(), out.empty());
  }
  EXPECT_EQ(out, "[m100,4]");
}

TEST(Packet, rejects_wrong_checksum) {
  EXPECT_EQ(words("$g#66"), "damaged");
  EXPECT_EQ(words("$g#zz$g#67"), "damaged [g]");
}

TEST(Packet, forgets_packet_that_another_interrupts) { EXPECT_EQ(words("$m12$g#67"), "[g]"); }

TEST(Packet, takes_packet_of_full_size_and_no_more) {
  const std::string full(kPacketSize, 'x');
  EXPECT_EQ(words(frame(full)), "[" + full + "]");
  EXPECT_EQ(words(frame(full + "x")), "damaged");
}

TEST(Packet, gives_up_on_endless_packet_and_endless_garbage) {
  EXPECT_NE(words("$" + std::string(3 * kPacketSize, 'x')).find("garbage"), std::string::npos);
  EXPECT_EQ(words(std::string(kMaxGarbage, 'x')), "garbage");
}

TEST(Packet, signs_are_taken_from_between_packets_and_packets_stay) {
  PacketReader reader;
  reader.feed("+\x03$g#67-+\x03$X0,1:\x03#");
  const auto signs = reader.take_signs();
  EXPECT_TRUE(signs.interrupt);
  EXPECT_TRUE(signs.packet);
  EXPECT_EQ(signs.acks, 2u);
  EXPECT_FALSE(reader.take_signs().interrupt);
  EXPECT_EQ(words(reader, "a2"), "[g] damaged");
}

TEST(Packet, byte_three_inside_a_packet_is_no_sign) {
  PacketReader reader;
  reader.feed("$X0,1:\x03");
  EXPECT_EQ(words(reader, "\x03"), "");
  reader.feed("+-\x03#");
  const auto signs = reader.take_signs();
  EXPECT_FALSE(signs.interrupt);
  EXPECT_TRUE(signs.packet);
  EXPECT_EQ(signs.acks, 0u);
}

// Data where the checksum counts it, an interrupt where the packet is whole only without it.
TEST(Packet, byte_three_in_the_middle_is_data_or_an_interrupt_as_the_checksum_says) {
  const auto item = [](std::string_view bytes) {
    PacketReader reader;
    reader.feed(bytes);
    return reader.next().value_or(PacketReader::Item{});
  };
  EXPECT_EQ(words(frame("X0,1:\x03")), "[X0,1:\x03]");
  EXPECT_FALSE(item(frame("X0,1:\x03")).interrupted);
  for (const char* bytes : {"$vC\x03ont?#49", "$vCont?\x03\x03#49", "$vCont?#\x03""49", "$vCont?#4\x03""9"}) {
    EXPECT_EQ(item(bytes).payload, "vCont?") << bytes;
    EXPECT_TRUE(item(bytes).interrupted) << bytes;
  }
  EXPECT_EQ(words("$vCo\x03nt?#48"), "damaged");
}

TEST(Packet, copies_right_behind_a_packet_are_dropped) {
  PacketReader reader;
  EXPECT_EQ(words(reader, ""), "");
  reader.feed("$?#3f$?#3f$?#3f+$?#3f");
  EXPECT_EQ(reader.next()->payload, "?");
  EXPECT_EQ(reader.drop_copies(), 2u);
  EXPECT_EQ(words(reader, ""), "+ [?]");
}

TEST(Packet, lone_escape_at_the_end_is_dropped) { EXPECT_EQ(words(frame("a}")), "[a]"); }

TEST(Hex, reads_numbers_of_at_most_sixteen_digits) {
  EXPECT_EQ(number_of_hex("ffffffff81000000"), 0xffffffff81000000);
  EXPECT_EQ(number_of_hex("10000000000000000"), std::nullopt);
  EXPECT_EQ(number_of_hex(""), std::nullopt);
  EXPECT_EQ(number_of_hex("12x"), std::nullopt);
}

TEST(Hex, reads_whole_bytes_only) {
  EXPECT_EQ(bytes_of_hex("0aFf"), (std::vector<uint8_t>{10, 255}));
  EXPECT_EQ(bytes_of_hex("0aF"), std::nullopt);
  EXPECT_EQ(bytes_of_hex("0g"), std::nullopt);
}

}  // namespace
}  // namespace retrovisor::gdb
