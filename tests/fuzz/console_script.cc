// Console scripts: any text is parsed or refused, and playing one depends on the moments it is asked at alone.
#include <algorithm>

#include "tests/fuzz/target.h"
#include "vmm/host/console_script.h"

namespace retrovisor::fuzz {
namespace {

constexpr size_t kRounds = 64;

std::span<const uint8_t> bytes_of(std::string_view text) {
  return {reinterpret_cast<const uint8_t*>(text.data()), text.size()};
}

// What the script types while the guest prints the script's own texts and time goes on. `whole`: output comes at once, or
// byte by byte, and input is taken in large or in small pieces.
Bytes play(const std::vector<ScriptStep>& steps, bool whole) {
  ScriptPlayer player(steps);
  Bytes typed;
  Moment at;
  for (size_t round = 0; round < kRounds && !player.finished(); ++round) {
    const ScriptStep* step = player.current();
    FUZZ_CHECK(step != nullptr && step->line >= 1);
    const std::string_view text = steps[round % steps.size()].text;
    if (whole) {
      player.output(bytes_of(text));
    } else {
      for (const char& c : text) player.output(bytes_of({&c, 1}));
    }
    for (;;) {
      uint8_t buffer[64];
      const size_t n = player.read(at, std::span(buffer, whole ? sizeof buffer : 1));
      FUZZ_CHECK(n <= (whole ? sizeof buffer : 1));
      if (n == 0) break;
      typed.insert(typed.end(), buffer, buffer + n);
    }
    const auto next = player.next_time(at);
    FUZZ_CHECK(!next || next->value < uint64_t{1} << 63);
    at.position += uint64_t{1} << (round % 40);
    at.time = std::max(at.time + (at.position.value & 0xffff), next.value_or(VirtualTime{}));
  }
  return typed;
}

}  // namespace

size_t max_input() { return 4096; }

void run(std::span<const uint8_t> data) {
  const auto steps = parse_script({reinterpret_cast<const char*>(data.data()), data.size()}, "script");
  if (!steps) {
    FUZZ_CHECK(!steps.error().message.empty() && steps.error().where.starts_with("script line "));
    return;
  }
  size_t bytes = 0;
  for (const ScriptStep& step : *steps) {
    bytes += step.text.size();
    FUZZ_CHECK(step.text.size() <= data.size() && step.number < uint64_t{1} << 62);
    FUZZ_CHECK((step.kind == ScriptStep::Kind::after || step.kind == ScriptStep::Kind::send) == !step.text.empty());
  }
  FUZZ_CHECK(bytes <= data.size());
  if (!steps->empty()) FUZZ_CHECK(play(*steps, true) == play(*steps, false));
}

std::vector<Bytes> seeds() {
  std::vector<Bytes> out;
  for (const std::string_view text :
       {"# log in\nafter \"login: \"  send \"root\\n\"\nafter \"# \" wait 100ms send \"uname -a\\n\"\n",
        "at 120'000'000 send \"\\x1b[A\\cC\\t\\r\\b\\e\\0\\\"\\\\\"\n at 2.5s send \"x\" wait 30us wait 7ns wait 1_000\n",
        "after \"aabaab\" send \"aab\" after \"aab\" send \"aabaa\"", "at 2305843009213693952 send \"x\"",
        "wait 1.999999999s"}) {
    const auto b = bytes_of(text);
    out.emplace_back(b.begin(), b.end());
  }
  return out;
}

}  // namespace retrovisor::fuzz
