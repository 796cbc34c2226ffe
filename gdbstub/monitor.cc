#include "gdbstub/monitor.h"

#include <fmt/format.h>

#include <algorithm>

#include "gdbstub/hex.h"
#include "gdbstub/registers.h"

namespace retrovisor::gdb {
namespace {

constexpr size_t kMaxWords = 32;

Error bad(std::string message) { return {ErrorCode::bad_argument, std::move(message), ""}; }

std::vector<std::string> words_of(const std::string& line) {
  std::vector<std::string> words;
  size_t at = 0;
  while (at < line.size() && words.size() < kMaxWords) {
    const size_t begin = line.find_first_not_of(" \t\r\n", at);
    if (begin == std::string::npos) break;
    const size_t end = std::min(line.find_first_of(" \t\r\n", begin), line.size());
    words.push_back(line.substr(begin, end - begin));
    // Words are shown again in errors, on somebody's terminal.
    for (char& c : words.back())
      if (c < ' ' || c == 0x7f) c = '?';
    at = end;
  }
  return words;
}

std::optional<uint64_t> decimal(std::string_view text) {
  uint64_t value = 0;
  bool digits = false;
  for (const char c : text) {
    if (digits && (c == '\'' || c == '_' || c == ',')) continue;
    if (c < '0' || c > '9') return std::nullopt;
    digits = true;
    if (__builtin_mul_overflow(value, uint64_t{10}, &value) ||
        __builtin_add_overflow(value, static_cast<uint64_t>(c - '0'), &value))
      return std::nullopt;
  }
  return digits ? std::optional(value) : std::nullopt;
}

std::optional<uint64_t> scaled(std::string_view text) {
  uint64_t factor = 1;
  if (!text.empty()) {
    const char unit = text.back();
    factor = unit == 'k' ? 1'000 : unit == 'M' ? 1'000'000 : unit == 'G' ? 1'000'000'000 : 1;
    if (factor != 1) text.remove_suffix(1);
  }
  const auto value = decimal(text);
  uint64_t product = 0;
  if (!value || __builtin_mul_overflow(*value, factor, &product)) return std::nullopt;
  return product;
}

}  // namespace

std::string grouped(uint64_t number) {
  std::string out = std::to_string(number);
  for (size_t at = out.size(); at > 3;) out.insert(at -= 3, 1, '\'');
  return out;
}

Result<Position> parse_position(Execution& execution, const std::string& word) {
  Timeline* timeline = execution.timeline();
  const Position now = execution.machine().position();
  if (timeline != nullptr && word == "begin") return timeline->begin();
  if (timeline != nullptr && word == "end") return timeline->end();
  const bool relative = word.starts_with('+') || word.starts_with('-');
  const auto value = scaled(std::string_view(word).substr(relative ? 1 : 0));
  constexpr uint64_t kMost = uint64_t{1} << 62;
  if (!value || *value >= kMost) return bad(fmt::format("'{}' is no position", word));
  if (!relative) return Position(*value);
  if (word[0] == '-') return Position(now.value - std::min(*value, now.value));
  return now + *value;
}

Result<uint64_t> parse_address(Execution& execution, const std::string& word) {
  size_t split = word.find_first_of("+-", 1);
  std::string base = word.substr(0, split);
  uint64_t value = 0;
  if (base.starts_with('$')) base.erase(0, 1);
  const Vcpu& vcpu = execution.machine().vcpu(execution.selected());
  bool found = false;
  for (const Register& r : registers(Arch::x86_64)) {
    if (r.name != base || r.bytes > 8) continue;
    const auto bytes = read_register(vcpu, r);
    for (size_t i = 0; i < bytes.size(); ++i) value |= uint64_t{bytes[i]} << (8 * i);
    found = true;
  }
  if (!found) {
    const auto number = number_of_hex(base.starts_with("0x") ? base.substr(2) : base);
    if (!number) return bad(fmt::format("'{}' is no address", word));
    value = *number;
  }
  if (split != std::string::npos) {
    const auto offset = parse_number(word.substr(split + 1), UINT64_MAX);
    if (!offset) return offset.error();
    value = word[split] == '+' ? value + *offset : value - *offset;
  }
  return value;
}

Result<uint64_t> parse_number(const std::string& word, uint64_t max) {
  const auto value = word.starts_with("0x") ? number_of_hex(word.substr(2)) : decimal(word);
  if (!value || *value > max) return bad(fmt::format("'{}' is no number up to {}", word, max));
  return *value;
}

Monitor::Monitor(Execution& execution, std::vector<MonitorCommand> more) : execution_(execution) {
  add_history_commands(commands_);
  add_byte_commands(commands_);
  add_stop_commands(commands_);
  add_machine_commands(commands_);
  for (MonitorCommand& command : more) commands_.push_back(std::move(command));
}

std::string Monitor::help(MonitorCommand::Words words) const {
  std::string out;
  for (const MonitorCommand& c : commands_) {
    if (!words.empty() && words[0] != c.name) continue;
    const std::string head = c.usage.empty() ? c.name : c.name + " " + c.usage;
    out += head.size() < 34 ? fmt::format("{:<34}{}\n", head, c.help) : fmt::format("{}\n{:<34}{}\n", head, "", c.help);
  }
  if (out.empty()) return fmt::format("no command '{}'; try: monitor help\n", words[0]);
  if (words.empty())
    out +=
        "A POSITION counts instructions: 1500000, 1'500'000, 200M, +1k and -1k from here, begin, end.\n"
        "An ADDR is hexadecimal, or a register and an offset: ffffffff81000000, $rsp+0x10.\n";
  return out;
}

std::string Monitor::run(const std::string& line) {
  const std::vector<std::string> words = words_of(line);
  if (words.empty() || words[0] == "help") return help(std::span(words).subspan(words.empty() ? 0 : 1));
  for (const MonitorCommand& c : commands_) {
    if (c.name != words[0]) continue;
    auto answer = c.run(execution_, std::span(words).subspan(1));
    if (answer) return *answer;
    return fmt::format("{}\nusage: monitor {} {}\n", answer.error().text(), c.name, c.usage);
  }
  return fmt::format("no command '{}'; try: monitor help\n", words[0]);
}

}  // namespace retrovisor::gdb
