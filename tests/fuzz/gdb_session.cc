// The debugger's side of the wire: any bytes are answered, ignored or hung up on, and the recorded run stays what it is.
#include <string>

#include "gdbstub/hex.h"
#include "tests/fuzz/target.h"
#include "tests/unit/gdbstub/client.h"
#include "tests/unit/record/two_processors.h"

namespace retrovisor::fuzz {
namespace {

using gdb::Client;
using gdb::FakeTimeline;
using gdb::frame;

constexpr size_t kMostPackets = 64;

std::vector<std::string> lines(std::string_view text) {
  std::vector<std::string> out;
  while (!text.empty() && out.size() < kMostPackets) {
    const size_t end = std::min(text.find('\n'), text.size());
    out.emplace_back(text.substr(0, end));
    text.remove_prefix(std::min(end + 1, text.size()));
  }
  return out;
}

constexpr uint64_t kEndOfTwo = 1000;
FakeTimeline* two_vcpus() { return new FakeTimeline(two_processors::images(true), 2, kEndOfTwo); }

StateDigest digest_at(FakeTimeline& timeline, Position position) {
  FUZZ_CHECK(timeline.seek(position).ok());
  return timeline.machine().digest();
}

}  // namespace

size_t max_input() { return 4096; }

// The first byte: bytes as they are, or lines that are each made a packet (or, behind a tab, a monitor command); one vCPU or
// two.
void run(std::span<const uint8_t> data) {
  if (data.empty()) return;
  const std::string_view text(reinterpret_cast<const char*>(data.data()) + 1, data.size() - 1);
  const bool several = (data[0] & 2) != 0;
  Client client(several ? two_vcpus() : new FakeTimeline);
  if (data[0] % 2 == 0) {
    client.raw({std::string(text)});
  } else {
    std::vector<std::string> packets = lines(text);
    for (std::string& p : packets)
      if (p.starts_with('\t')) p = "qRcmd," + gdb::hex_bytes(std::string_view(p).substr(1));
    client.say(packets);
  }
  FUZZ_CHECK(!client.timeline().diverted());
  FUZZ_CHECK(client.timeline().position() <= client.timeline().end());
  // History is as it was.
  if (several) {
    FakeTimeline fresh(two_processors::images(true), 2, kEndOfTwo);
    FUZZ_CHECK(digest_at(client.timeline(), Position(70)) == digest_at(fresh, Position(70)));
    return;
  }
  FUZZ_CHECK(client.timeline().seek(Position(100)).ok());
  const CpuState& s = client.timeline().machine().vcpu(VcpuId(0)).state;
  FUZZ_CHECK(s.rip == gdb::kStore && s.gpr[RCX] == 13);
  FUZZ_CHECK(client.timeline().machine().memory().host(PhysAddr(gdb::kCounter))[0] == 12);
}

std::vector<Bytes> seeds() {
  std::vector<Bytes> out;
  for (const std::string& text :
       {"0+" + frame("qSupported:swbreak+") + "+" + frame("g") + "-\x03" + frame("?"),
        std::string("1g\nZ0,10000e,1\nc\nm10000e,10\nbc\nz0,10000e,1\nvCont;s:1\nbs\np10\n"),
        std::string("1Z2,180000,4\nc\nm180000,4\nbc\nP0=1122334455667788\nM180000,2:abcd\nX180000,2:}]a\ns\nD\n"),
        std::string("1qXfer:features:read:target.xml:0,ffb\nqfThreadInfo\nHg1\nT1\nQqemu.PhyMemMode:1\nm0,100\nvRun;\nk\n"),
        std::string("1M7ff00,8:e0ff070000000000\nP7=00ff070000000000\nP10=2300100000000000\nZ0,7ffe0,1\nvCont;c\ng\n"),
        std::string(
            "1\tseek 100\n\tpt $rip\n\tlast-write 0x180000 4\n\tbreak-on io\nc\n\tregs\n\tinfo devices pit\n\tgo-live\ns\n"),
        std::string("3\tseek 70\n?\nHg1\nvCont;s:1;c\nbs\nHg2\nbs\nZ0,10005b,1\nc\nHg1\nbs\n\tbreak-on vcpu 1\nbc\n"),
        std::string("3Hc2\ns\nbs\nqThreadExtraInfo,2\nvCont;r100047,10005a:1\n\tregs 1\nP10=2300100000000000\ns\n"),
        std::string("1vCont;r100000,100020:1\nG00\nvCont;c\nbs\n!\nR00\n")})
    out.emplace_back(text.begin(), text.end());
  return out;
}

}  // namespace retrovisor::fuzz
