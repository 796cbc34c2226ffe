// A scripted client: says its packets one after the other and keeps what is answered.
#pragma once

#include <deque>
#include <string>
#include <vector>

#include "gdbstub/hex.h"
#include "gdbstub/server.h"
#include "tests/unit/gdbstub/fake_timeline.h"

namespace retrovisor::gdb {

class ScriptedConnection final : public Connection {
 public:
  // Pieces of the stream, given one per read; behind them the client is gone.
  explicit ScriptedConnection(std::vector<std::string> pieces) : pieces_(pieces.begin(), pieces.end()) {}

  Read read(std::string& text, std::chrono::milliseconds wait) override {
    if (wait.count() == 0 && !pieces_.empty() && pieces_.front().starts_with(kLater)) {
      if (pieces_.front()[1]-- > '1') return Read::nothing;
      text += pieces_.front().substr(2);
      pieces_.pop_front();
      return Read::bytes;
    }
    if (wait.count() == 0) {  // while the last of them is being answered
      if (while_running.empty() || !pieces_.empty()) return Read::nothing;
      text += std::exchange(while_running, {});
      return Read::bytes;
    }
    if (pieces_.empty()) return wait.count() < 0 ? Read::closed : Read::nothing;
    text += pieces_.front();
    pieces_.pop_front();
    return Read::bytes;
  }
  // A piece that comes while the one before is being answered, at so manieth a look.
  static std::string later(unsigned look, const std::string& bytes) {
    return kLater + std::string(1, static_cast<char>('0' + look)) + bytes;
  }
  bool write(std::string_view text) override {
    sent.feed(text);
    return true;
  }

  std::string while_running;
  PacketReader sent;

 private:
  static constexpr char kLater = '\1';
  std::deque<std::string> pieces_;
};

// Sessions over the counting guest, or another.
class Client {
 public:
  explicit Client(FakeTimeline* timeline = new FakeTimeline)  // its owner from here on
      : timeline_(timeline), target_(std::unique_ptr<Timeline>(timeline_)) {
    timeline_->interrupted = [this] { return target_.interrupted(); };
  }

  FakeTimeline& timeline() { return *timeline_; }
  TimelineTarget& target() { return target_; }
  SessionEnd end{};
  std::string while_running;

  // Answers to `packets`, console texts decoded as "(text)", in a session without acknowledgements.
  std::vector<std::string> say(const std::vector<std::string>& packets) {
    std::vector<std::string> pieces{"+", frame("QStartNoAckMode"), "+", frame("qSupported:swbreak+;hwbreak+")};
    for (const std::string& p : packets) pieces.push_back(frame(p));
    std::vector<std::string> answers = raw(pieces);
    answers.erase(answers.begin(), answers.begin() + std::min<ptrdiff_t>(3, std::ssize(answers)));  // "+", OK, features
    return answers;
  }

  // The same for bytes as they are.
  std::vector<std::string> raw(std::vector<std::string> pieces) {
    SessionOptions options;
    options.arch = Arch::x86_64;  // whatever the code: register numbers are the same everywhere
    return raw(std::move(pieces), options);
  }
  std::vector<std::string> raw(std::vector<std::string> pieces, const SessionOptions& options) {
    ScriptedConnection connection(std::move(pieces));
    connection.while_running = while_running;
    end = serve(target_, connection, options);
    std::vector<std::string> answers;
    while (auto item = connection.sent.next()) {
      if (item->kind == PacketReader::Item::Kind::ack) answers.push_back("+");
      if (item->kind == PacketReader::Item::Kind::nack) answers.push_back("-");
      if (item->kind != PacketReader::Item::Kind::packet) continue;
      const std::string& p = item->payload;
      const auto text = p.size() > 1 && p[0] == 'O' ? bytes_of_hex(p.substr(1)) : std::nullopt;
      answers.push_back(text ? "(" + std::string(text->begin(), text->end()) + ")" : p);
    }
    return answers;
  }

  std::string say1(const std::string& packet) {
    const auto answers = say({packet});
    return answers.size() == 1 ? answers[0] : std::to_string(answers.size()) + " answers";
  }

 private:
  FakeTimeline* timeline_;
  TimelineTarget target_;
};

}  // namespace retrovisor::gdb
