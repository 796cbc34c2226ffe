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

// A number as every command reads it: 0x and hexadecimal digits; or digits with ' _ , between them and k, M or G behind; or,
// as addresses are printed, hexadecimal digits with a letter among them.
std::optional<uint64_t> number(std::string_view text) {
  if (text.starts_with("0x") || text.starts_with("0X")) return number_of_hex(text.substr(2));
  uint64_t factor = 1;
  std::string_view digits = text;
  if (!digits.empty()) {
    const char unit = digits.back();
    factor = unit == 'k' ? 1'000 : unit == 'M' ? 1'000'000 : unit == 'G' ? 1'000'000'000 : 1;
    if (factor != 1) digits.remove_suffix(1);
  }
  const auto value = decimal(digits);
  if (!value) return text.find_first_of("abcdefABCDEF") != std::string_view::npos ? number_of_hex(text) : std::nullopt;
  uint64_t product = 0;
  if (__builtin_mul_overflow(*value, factor, &product)) return std::nullopt;
  return product;
}

// By gdb's names for it, with or without $.
std::optional<uint64_t> register_value(Execution& execution, std::string_view name) {
  if (name.starts_with('$')) name.remove_prefix(1);
  constexpr std::pair<std::string_view, std::string_view> kAliases[] = {
      {"pc", "rip"}, {"sp", "rsp"}, {"fp", "rbp"}, {"ps", "eflags"}, {"rflags", "eflags"}};
  for (const auto& [alias, real] : kAliases)
    if (name == alias) name = real;
  const Vcpu& vcpu = execution.machine().vcpu(execution.selected());
  for (const Arch arch : {Arch::x86_64, Arch::i386})
    for (const Register& r : registers(arch)) {
      if (r.name != name || r.bytes > 8) continue;
      uint64_t value = 0;
      const auto bytes = read_register(vcpu, r);
      for (size_t i = 0; i < bytes.size(); ++i) value |= uint64_t{bytes[i]} << (8 * i);
      return value;
    }
  return std::nullopt;
}

std::optional<uint64_t> number_or_register(Execution& execution, std::string_view text) {
  if (text.empty()) return std::nullopt;
  if (const auto value = register_value(execution, text)) return value;
  return number(text);
}

// The same, and one or more with + or - behind it.
std::optional<uint64_t> sum(Execution& execution, std::string_view text) {
  size_t end = std::min(text.find_first_of("+-", 1), text.size());
  auto value = number_or_register(execution, text.substr(0, end));
  while (value && end < text.size()) {
    const char sign = text[end];
    text.remove_prefix(end + 1);
    end = std::min(text.find_first_of("+-"), text.size());
    const auto next = number_or_register(execution, text.substr(0, end));
    value = !next ? std::nullopt : std::optional(sign == '+' ? *value + *next : *value - *next);
  }
  return value;
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
  const auto value = sum(execution, std::string_view(word).substr(relative ? 1 : 0));
  constexpr uint64_t kMost = uint64_t{1} << 62;
  if (!value || *value >= kMost) return bad(fmt::format("'{}' is no position", word));
  if (!relative) return Position(*value);
  if (word[0] == '-') return Position(now.value - std::min(*value, now.value));
  return now + *value;
}

Result<uint64_t> parse_address(Execution& execution, const std::string& word) {
  const auto value = sum(execution, word);
  if (!value) return bad(fmt::format("'{}' is no address", word));
  return *value;
}

Result<uint64_t> parse_number(const std::string& word, uint64_t max) {
  const auto value = number(word);
  if (!value || *value > max) return bad(fmt::format("'{}' is no number up to {}", word, max));
  return *value;
}

Result<uint64_t> parse_number(Execution& execution, const std::string& word, uint64_t max) {
  const auto value = sum(execution, word);
  if (!value || *value > max) return bad(fmt::format("'{}' is no number up to {}", word, max));
  return *value;
}

Monitor::Monitor(Execution& execution, std::vector<MonitorCommand> more) : execution_(execution) {
  add_history_commands(commands_);
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
        "Numbers are decimal, 0x or a register, wherever they stand: 1500000, 1'500'000, 200M, 0x100000, $rsp, $rsp+0x10;\n"
        "with a letter among the digits they are hexadecimal without 0x, too: ffffffff81000000.\n"
        "A POSITION counts instructions; +1k and -1k are from here; begin, end.\n";
  return out;
}

std::string Monitor::run(const std::string& line) {
  const std::vector<std::string> words = words_of(line);
  if (words.empty() || words[0] == "help") return help(std::span(words).subspan(words.empty() ? 0 : 1));
  for (const MonitorCommand& c : commands_) {
    if (c.name != words[0]) continue;
    const std::optional<Position> before = place();
    auto answer = c.run(execution_, std::span(words).subspan(1));
    const bool interrupted = execution_.target().interrupted();
    std::string out = answer      ? std::move(*answer)
                      : interrupted ? answer.error().text() + "\n"
                                    : fmt::format("{}\nusage: monitor {} {}\n", answer.error().text(), c.name, c.usage);
    if (c.moves || place() == before || execution_.diverted()) return out;
    const DebugTarget::Hold hold(execution_.target());
    if (auto back = execution_.seek(*before); !back) out += back.error().text() + "\n";
    return out;
  }
  return fmt::format("no command '{}'; try: monitor help\n", words[0]);
}

// In the recorded run.
std::optional<Position> Monitor::place() const {
  if (execution_.timeline() == nullptr) return std::nullopt;
  return execution_.timeline()->position();
}

}  // namespace retrovisor::gdb
