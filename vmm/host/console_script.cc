#include "vmm/host/console_script.h"

#include <algorithm>

namespace retrovisor {
namespace {

class Parser {
 public:
  Parser(std::string_view text, const std::string& file) : text_(text), file_(file) {}

  Result<std::vector<ScriptStep>> run() {
    if (text_.size() > kMaxScriptBytes) return error("the script is longer than 4 MiB");
    for (skip_blanks(); !at_end(); skip_blanks()) RV_TRY(clause());
    return std::move(steps_);
  }

 private:
  bool at_end() const { return offset_ == text_.size(); }
  char peek() const { return at_end() ? '\0' : text_[offset_]; }
  Error error(std::string message) const {
    return {ErrorCode::bad_argument, std::move(message), file_ + " line " + std::to_string(line_)};
  }

  void skip_blanks() {
    for (; !at_end(); ++offset_) {
      const char c = text_[offset_];
      if (c == '#') {
        offset_ = std::min(text_.find('\n', offset_), text_.size());
        if (at_end()) return;
        ++line_;
      } else if (c == '\n') {
        ++line_;
      } else if (c != ' ' && c != '\t' && c != '\r') {
        return;
      }
    }
  }

  // What stands up to the next blank; at least one character.
  std::string_view word() {
    const size_t end = std::min(text_.find_first_of(" \t\r\n#\"", offset_ + (at_end() ? 0 : 1)), text_.size());
    const std::string_view found = text_.substr(offset_, end - offset_);
    offset_ = end;
    return found;
  }

  Result<void> clause() {
    const std::string_view verb = word();
    const unsigned verb_line = line_;
    skip_blanks();
    if (line_ != verb_line || at_end()) {
      line_ = verb_line;
      return error("nothing follows '" + printable(verb) + "' on its line");
    }
    ScriptStep step;
    step.line = verb_line;
    if (verb == "after" || verb == "send") {
      step.kind = verb == "after" ? ScriptStep::Kind::after : ScriptStep::Kind::send;
      RV_TRY(string(step.text));
      if (step.text.empty()) return error("an empty text");
      if (verb == "after" && step.text.size() > kMaxScriptPattern)
        return error("a text of more than 4096 bytes to wait for");
    } else if (verb == "at" || verb == "wait") {
      bool time = false;
      RV_TRY(moment(step.number, time));
      if (verb == "at") {
        step.kind = time ? ScriptStep::Kind::at_time : ScriptStep::Kind::at_position;
      } else {
        step.kind = time ? ScriptStep::Kind::wait_time : ScriptStep::Kind::wait_position;
      }
    } else {
      return error("'" + printable(verb) + "' is not one of after, at, wait, send");
    }
    steps_.push_back(std::move(step));
    return {};
  }

  static std::string printable(std::string_view text) {
    std::string out;
    for (const char c : text.substr(0, 40)) out += c >= ' ' && c <= '~' ? c : '?';
    return out;
  }

  static int hex_digit(char c) {
    if (c >= '0' && c <= '9') return c - '0';
    if (c >= 'a' && c <= 'f') return c - 'a' + 10;
    if (c >= 'A' && c <= 'F') return c - 'A' + 10;
    return -1;
  }

  Result<void> string(std::string& out) {
    if (peek() != '"') return error("a text in double quotes is missing");
    for (++offset_; !at_end(); ++offset_) {
      const char c = text_[offset_];
      if (c == '"') {
        ++offset_;
        return {};
      }
      if (c == '\n') break;
      if (c != '\\') {
        out += c;
        continue;
      }
      ++offset_;
      switch (peek()) {
        case 'n': out += '\n'; break;
        case 'r': out += '\r'; break;
        case 't': out += '\t'; break;
        case 'b': out += '\b'; break;
        case 'e': out += '\x1b'; break;
        case '0': out += '\0'; break;
        case '"': out += '"'; break;
        case '\\': out += '\\'; break;
        case 'x': {
          const int high = offset_ + 1 < text_.size() ? hex_digit(text_[offset_ + 1]) : -1;
          const int low = offset_ + 2 < text_.size() ? hex_digit(text_[offset_ + 2]) : -1;
          if (high < 0 || low < 0) return error("\\x wants two hexadecimal digits");
          out += static_cast<char>(high * 16 + low);
          offset_ += 2;
          break;
        }
        case 'c': {
          const char key = offset_ + 1 < text_.size() ? text_[offset_ + 1] : '\0';
          if (key < '@' || key > '~' || key == '`') return error("\\c wants a letter: \\cC is Ctrl-C");
          out += static_cast<char>(key & 0x1f);
          ++offset_;
          break;
        }
        default: return error("an unknown escape; known are \\n \\r \\t \\b \\e \\0 \\\" \\\\ \\xHH \\cX");
      }
    }
    return error("the closing quote is missing");
  }

  // An integer, with ' or _ between digits, and a unit of time; without a unit it counts instructions.
  Result<void> moment(uint64_t& out, bool& time) {
    const std::string_view text = word();
    uint64_t whole = 0;
    uint64_t fraction = 0;
    uint64_t scale = 1;
    bool digits = false;
    bool point = false;
    size_t i = 0;
    for (; i < text.size(); ++i) {
      const char c = text[i];
      if (c >= '0' && c <= '9') {
        digits = true;
        const auto digit = static_cast<uint64_t>(c - '0');
        if (!point) {
          if (whole > kMost / 10) return error("'" + printable(text) + "' is too large");
          whole = whole * 10 + digit;
        } else if (scale < 1'000'000'000) {
          fraction = fraction * 10 + digit;
          scale *= 10;
        }
      } else if (c == '.' && !point) {
        point = true;
      } else if ((c != '\'' && c != '_') || !digits) {
        break;
      }
    }
    const std::string_view unit = text.substr(i);
    uint64_t factor = 1;
    if (unit == "ns") {
      factor = 1;
    } else if (unit == "us") {
      factor = 1'000;
    } else if (unit == "ms") {
      factor = 1'000'000;
    } else if (unit == "s") {
      factor = 1'000'000'000;
    } else if (!unit.empty() || point) {
      digits = false;
    }
    if (!digits)
      return error("'" + printable(text) +
                   "' is neither a number of instructions nor a time such as 2.5s, 100ms, 30us, 7ns");
    time = !unit.empty();
    if (whole > kMost / factor) return error("'" + printable(text) + "' is too large");
    // Below one: exact, since fraction < 1e9 and factor <= 1e9.
    out = whole * factor + fraction * factor / scale;
    return {};
  }

  static constexpr uint64_t kMost = uint64_t{1} << 61;

  std::string_view text_;
  const std::string& file_;
  size_t offset_ = 0;
  unsigned line_ = 1;
  std::vector<ScriptStep> steps_;
};

}  // namespace

Result<std::vector<ScriptStep>> parse_script(std::string_view text, const std::string& file) {
  return Parser(text, file).run();
}

ScriptPlayer::ScriptPlayer(std::vector<ScriptStep> steps) : steps_(std::move(steps)) {
  pattern_step_ = SIZE_MAX;  // next_pattern() begins at 0
  next_pattern();
}

void ScriptPlayer::next_pattern() {
  do ++pattern_step_;
  while (pattern_step_ < steps_.size() && steps_[pattern_step_].kind != ScriptStep::Kind::after);
  matched_ = 0;
  borders_.clear();
  if (pattern_step_ == steps_.size()) return;
  const std::string& pattern = steps_[pattern_step_].text;
  borders_.resize(pattern.size());
  for (size_t i = 1, k = 0; i < pattern.size(); ++i) {
    while (k > 0 && pattern[i] != pattern[k]) k = borders_[k - 1];
    if (pattern[i] == pattern[k]) ++k;
    borders_[i] = k;
  }
}

void ScriptPlayer::output(std::span<const uint8_t> bytes) {
  for (const uint8_t byte : bytes) {
    if (pattern_step_ == steps_.size()) return;
    const std::string& pattern = steps_[pattern_step_].text;
    const char c = static_cast<char>(byte);
    while (matched_ > 0 && pattern[matched_] != c) matched_ = borders_[matched_ - 1];
    if (pattern[matched_] == c) ++matched_;
    if (matched_ == pattern.size()) next_pattern();
  }
}

void ScriptPlayer::next_step(Moment at) {
  ++step_;
  sent_ = 0;
  began_ = at;
}

// Passes every step that is done at this moment and stops at a `send` with bytes left, or at one to wait for.
void ScriptPlayer::advance(Moment at) {
  for (; !finished(); next_step(at)) {
    const ScriptStep& step = steps_[step_];
    switch (step.kind) {
      case ScriptStep::Kind::after:
        if (step_ >= pattern_step_) return;
        break;
      case ScriptStep::Kind::at_position:
        if (at.position.value < step.number) return;
        break;
      case ScriptStep::Kind::at_time:
        if (at.time.value < step.number) return;
        break;
      case ScriptStep::Kind::wait_position:
        if (at.position - began_.position < step.number) return;
        break;
      case ScriptStep::Kind::wait_time:
        if (at.time - began_.time < step.number) return;
        break;
      case ScriptStep::Kind::send:
        if (sent_ < step.text.size()) return;
        break;
    }
  }
}

size_t ScriptPlayer::read(Moment at, std::span<uint8_t> out) {
  size_t count = 0;
  for (advance(at); count < out.size() && !finished(); advance(at)) {
    const ScriptStep& step = steps_[step_];
    if (step.kind != ScriptStep::Kind::send) break;
    const size_t n = std::min(out.size() - count, step.text.size() - sent_);
    for (size_t i = 0; i < n; ++i) out[count + i] = static_cast<uint8_t>(step.text[sent_ + i]);
    sent_ += n;
    count += n;
  }
  return count;
}

std::optional<VirtualTime> ScriptPlayer::next_time(Moment at) {
  advance(at);
  if (finished()) return std::nullopt;
  const ScriptStep& step = steps_[step_];
  switch (step.kind) {
    case ScriptStep::Kind::send: return at.time;
    case ScriptStep::Kind::at_time: return VirtualTime(step.number);
    case ScriptStep::Kind::wait_time: return began_.time + step.number;
    default: return std::nullopt;
  }
}

}  // namespace retrovisor
