#include "vmm/host/terminal_queries.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <string_view>

namespace retrovisor {
namespace {

constexpr uint8_t kEnquiry = 0x05, kBell = 0x07, kCancel = 0x18, kSubstitute = 0x1a, kEscape = 0x1b, kDelete = 0x7f;
// Longer sequences than anybody means are dropped.
constexpr size_t kMostControl = 256, kMostCommand = 4096;

// A control sequence between its introducer and its final byte: a mark (one of < = > ?), parameters, intermediates.
struct Control {
  char mark = 0;
  std::string_view parameters;
  std::string_view intermediates;
};

Control split(std::string_view text) {
  Control c;
  if (!text.empty() && text[0] >= '<' && text[0] <= '?') {
    c.mark = text[0];
    text.remove_prefix(1);
  }
  const size_t end = std::min(text.find_first_of(" !\"#$%&'()*+,-./"), text.size());
  c.parameters = text.substr(0, end);
  c.intermediates = text.substr(end);
  return c;
}

unsigned number(std::string_view text) {
  unsigned value = 0;
  std::from_chars(text.data(), text.data() + text.size(), value);
  return value;
}

template <class F>
void for_each_field(std::string_view text, F f) {
  for (;;) {
    const size_t end = std::min(text.find(';'), text.size());
    f(text.substr(0, end));
    if (end == text.size()) return;
    text.remove_prefix(end + 1);
  }
}

// Window operations that report (ctlseqs, XTWINOPS).
bool reports(unsigned operation) {
  constexpr std::array<unsigned, 9> kReports = {11, 13, 14, 15, 16, 18, 19, 20, 21};
  return std::find(kReports.begin(), kReports.end(), operation) != kReports.end();
}

// Private modes in which a terminal sends by itself: mouse, focus, bracketed paste, changes of colours and of size.
bool talks(unsigned mode) {
  constexpr std::array<unsigned, 14> kTalking = {9,    1000, 1001, 1002, 1003, 1004, 1005,
                                                 1006, 1015, 1016, 2004, 2031, 2048, 5522};
  return std::find(kTalking.begin(), kTalking.end(), mode) != kTalking.end();
}

bool is_query(const Control& c, char final) {
  const std::string_view i = c.intermediates;
  if (i.empty()) {
    switch (final) {
      case 'c': return c.mark != '?';                                               // DA1, DA2, DA3
      case 'n': return c.mark == 0 || c.mark == '?';                                // DSR
      case 'x': return c.mark == 0;                                                 // DECREQTPARM
      case 't': return c.mark == 0 && reports(number(c.parameters));                // XTWINOPS
      case 'q': return c.mark == '>';                                               // XTVERSION
      case 'u': return c.mark != 0;                                                 // kitty's keyboard: asks, or changes keys
      case 'S': return c.mark == '?';                                               // XTSMGRAPHICS
      case 'm': return c.mark == '?' || c.mark == '>';                              // XTQMODKEYS, XTMODKEYS
      case 'g': return c.mark == '?';                                               // XTQFMTKEYS
      default: return false;
    }
  }
  switch (final) {
    case 'p': return i == "$";                              // DECRQM
    case 'w': return i == "$" || i == "'";                  // DECRQPSR, DECEFR
    case 'u': return i == "$" || i == "&";                  // DECRQTSR, DECRQUPSS
    case 'y': return i == "*";                              // DECRQCRA
    case 'x': return i == "+";                              // DECRQPKFM
    case 'v': return i == "\"";                             // DECRQDE
    case 'z': return i == "'";                              // DECELR
    case '|': return i == "'" || i == "#";                  // DECRQLP, XTREPORTSGR
    case 'R': return i == "#";                              // XTREPORTCOLORS
    default: return false;
  }
}

bool is_query(std::string_view command) {
  const std::string_view kind = command.substr(0, command.find(';'));
  if (kind == "0" || kind == "1" || kind == "2") return false;  // titles may hold anything
  if (kind == "60" || kind == "61" || kind == "5522") return true;
  if (command.starts_with("1337;Report") || command.starts_with("1337;Request")) return true;
  bool found = command.find("=?") != std::string_view::npos && (kind == "21" || kind == "99");
  for_each_field(command, [&](std::string_view field) { found = found || field.starts_with('?'); });
  return found;
}

}  // namespace

void TerminalQueries::filter(std::span<const uint8_t> bytes, std::vector<uint8_t>& out) {
  for (const uint8_t b : bytes) byte(b, out);
}

void TerminalQueries::show_held(std::vector<uint8_t>& out) {
  out.insert(out.end(), held_.begin(), held_.end());
  held_.clear();
  state_ = State::ground;
}

// A control character is obeyed at once, also within a sequence.
void TerminalQueries::c0(uint8_t b, std::vector<uint8_t>& out) {
  if (b == kEnquiry)
    ++seen_;
  else
    out.push_back(b);
}

// An 8-bit control. False: it begins nothing that is of interest here.
bool TerminalQueries::introduce(uint8_t c1) {
  text_.clear();
  string_escape_ = false;
  switch (c1) {
    case 0x9b: state_ = State::control; return true;
    case 0x9d: state_ = State::command; return true;
    case 0x90:
    case 0x98:
    case 0x9e:
    case 0x9f: state_ = State::string; return true;
    case 0x9a:  // DECID
      ++seen_;
      held_.clear();
      state_ = State::ground;
      return true;
    default: return false;
  }
}

void TerminalQueries::ground(uint8_t b, std::vector<uint8_t>& out) {
  if (continuation_ != 0 && (b & 0xc0) == 0x80) {
    --continuation_;
    out.push_back(b);
    return;
  }
  continuation_ = 0;
  if (b == kEscape) {
    held_.assign(1, b);
    state_ = State::escape;
  } else if (b == 0xc2) {
    held_.assign(1, b);
    state_ = State::lead_c2;
  } else if (b >= 0x80 && b < 0xa0) {
    held_.assign(1, b);
    if (!introduce(b)) show_held(out);
  } else {
    if (b >= 0xc3 && b < 0xf8) continuation_ = b < 0xe0 ? 1 : b < 0xf0 ? 2 : 3;
    c0(b, out);
  }
}

void TerminalQueries::byte(uint8_t b, std::vector<uint8_t>& out) {
  const bool in_text = state_ == State::command || state_ == State::string;
  if (state_ == State::ground) return ground(b, out);
  if (state_ == State::lead_c2) {
    held_.push_back(b);
    if (introduce(b)) return;
    held_.pop_back();
    show_held(out);
    if ((b & 0xc0) == 0x80)
      out.push_back(b);
    else
      ground(b, out);
    return;
  }
  if (b == kCancel || b == kSubstitute) {  // gives the sequence up
    held_.clear();
    state_ = State::ground;
    return;
  }
  if (in_text) {
    const bool terminator = string_escape_ ? b == '\\' : b == kBell;
    if (terminator || (string_escape_ && state_ == State::string)) {
      if (state_ == State::command) {
        held_.push_back(b);
        return end_command(out);
      }
      state_ = State::ground;
      held_.clear();
      if (!terminator) {  // the escape began something else
        held_.assign(1, kEscape);
        state_ = State::escape;
        byte(b, out);
      }
      return;
    }
    if (string_escape_) {  // likewise: a command that is given up
      held_.assign(1, kEscape);
      state_ = State::escape;
      return byte(b, out);
    }
    string_escape_ = b == kEscape;
    if (state_ == State::string) return;
    held_.push_back(b);
    if (!string_escape_) text_ += static_cast<char>(b);
    // As UTF-8, the terminator is these two bytes.
    if (text_.ends_with("\xc2\x9c")) return end_command(out);
    if (text_.size() > kMostCommand) {
      held_.clear();
      state_ = State::string;
    }
    return;
  }
  if (b == kEscape) {  // begins again
    held_.assign(1, b);
    state_ = State::escape;
    return;
  }
  if (b < 0x20) return c0(b, out);
  if (b == kDelete) return;
  if (b > kDelete) {  // no part of a sequence
    held_.clear();
    state_ = State::ground;
    return ground(b, out);
  }
  held_.push_back(b);
  if (state_ == State::escape) {
    if (b < 0x30) {
      if (held_.size() > kMostControl) state_ = State::ground;
      return;
    }
    // ESC and a letter from the columns 4 and 5 is the 8-bit control 0x40 above; only without intermediates.
    if (held_.size() != 2 || b < 0x40 || b > 0x5f || !introduce(static_cast<uint8_t>(b + 0x40))) show_held(out);
    return;
  }
  if (b >= 0x40) return end_control(b, out);
  if (text_.size() < kMostControl) text_ += static_cast<char>(b);
}

void TerminalQueries::end_control(uint8_t final, std::vector<uint8_t>& out) {
  const Control c = split(text_);
  const bool too_long = text_.size() >= kMostControl;
  if (too_long || is_query(c, static_cast<char>(final))) {
    ++seen_;
    held_.clear();
    state_ = State::ground;
    return;
  }
  if (c.mark == '?' && final == 'h') {
    std::string kept;
    bool dropped = false;
    for_each_field(c.parameters, [&](std::string_view field) {
      if (talks(number(field))) {
        dropped = true;
      } else {
        kept += kept.empty() ? "\x1b[?" : ";";
        kept += field;
      }
    });
    if (dropped) {
      held_.assign(kept.begin(), kept.end());
      if (!kept.empty()) held_.push_back(final);
    }
  }
  show_held(out);
}

void TerminalQueries::end_command(std::vector<uint8_t>& out) {
  if (is_query(text_)) {
    ++seen_;
    held_.clear();
  }
  show_held(out);
}

}  // namespace retrovisor
