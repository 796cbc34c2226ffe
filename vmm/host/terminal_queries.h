// What makes a terminal answer: a guest that asks for the cursor's place means the terminal of its user. Where nobody reads
// for the guest (a replay, a console script), the answers would be typed into whatever reads that terminal next.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace retrovisor {

// Takes queries out of a stream of output, wherever it is cut into pieces. Control sequences as in ECMA-48 and xterm's
// "Control Sequences" (ctlseqs); 7-bit, 8-bit, and as UTF-8.
class TerminalQueries {
 public:
  // Appends to `out` what of `bytes` a terminal can be shown. Of an unfinished sequence nothing is, until it is finished.
  void filter(std::span<const uint8_t> bytes, std::vector<uint8_t>& out);
  // Queries so far.
  uint64_t seen() const { return seen_; }

 private:
  enum class State : uint8_t {
    ground,
    lead_c2,  // behind 0xc2, with which the UTF-8 forms of the 8-bit controls begin
    escape,
    control,  // a control sequence (CSI)
    command,  // an operating system command (OSC): shown if it is no query
    string,   // any other string (DCS, APC, PM, SOS): never shown
  };

  void byte(uint8_t b, std::vector<uint8_t>& out);
  void ground(uint8_t b, std::vector<uint8_t>& out);
  void c0(uint8_t b, std::vector<uint8_t>& out);
  bool introduce(uint8_t c1);
  void end_control(uint8_t final, std::vector<uint8_t>& out);
  void end_command(std::vector<uint8_t>& out);
  void show_held(std::vector<uint8_t>& out);

  State state_ = State::ground;
  std::vector<uint8_t> held_;  // the sequence so far
  std::string text_;           // of it, what follows the introducer
  bool string_escape_ = false; // within a string: behind an escape, which ends it
  unsigned continuation_ = 0;  // bytes of a UTF-8 character that are to come
  uint64_t seen_ = 0;
};

}  // namespace retrovisor
