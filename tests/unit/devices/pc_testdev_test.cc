#include "vmm/devices/pc_testdev.h"

#include "tests/unit/devices/board.h"

namespace retrovisor::test {
namespace {

DeviceList with_testdev() {
  DeviceList list = pc_devices();
  list.push_back({"pc-testdev", {}});
  return list;
}

TEST(PcTestdev, keeps_its_register_and_memory_in_any_width) {
  Board board(1, 0, with_testdev());
  board.ports.write(board.running, 0xe0, 4, 0x12345678);
  EXPECT_EQ(board.in(0xe1), 0x56);
  board.ports.write(board.running, 0xe2, 2, 0xabcd);
  EXPECT_EQ(board.ports.read(board.running, 0xe0, 4), 0xabcd5678u);
  board.ports.write(board.running, 0xe4, 4, 0xff000000);
  EXPECT_EQ(board.ports.read(board.running, 0xe4, 4), 0u);
  board.mmio.write(board.running, PhysAddr(0xff000ff8), 8, 0x1122334455667788);
  EXPECT_EQ(board.mmio.read(board.running, PhysAddr(0xff000ffa), 2), 0x5566u);
  board.mmio.write(board.running, PhysAddr(0xff00ffff), 1, 0x5a);
  EXPECT_EQ(board.mmio.read(board.running, PhysAddr(0xff00ffff), 1), 0x5au);
  EXPECT_EQ(board.mmio.read(board.running, PhysAddr(0xff00fffe), 4), 0xffffffffu) << "passes the end";
  const auto state = board.save();
  Board other(1, 0, with_testdev());
  ASSERT_TRUE(other.restore(state).ok());
  EXPECT_EQ(other.save(), state);
  other.board->reset({});
  EXPECT_EQ(other.mmio.read(other.running, PhysAddr(0xff000ff8), 8), 0u);
}

TEST(PcTestdev, drives_isa_lines_and_pins_of_the_io_apic) {
  Board board(1, 0, with_testdev());
  board.init_pics(1 << 5);
  board.out(0x2005, 1);
  EXPECT_EQ(board.take(), 0x25);
  board.out(0x2005, 0);
  board.apic(0xf0, 0x1ff);
  board.redirect(20, 0x61);
  board.out(0x2014, 0x80);
  EXPECT_EQ(board.take(), 0x61);
  EXPECT_EQ(board.in(0x2014), 0);
  EXPECT_EQ(board.in(0x2018), 0xff) << "there are 24";
}

}  // namespace
}  // namespace retrovisor::test
