// `monitor` commands: what a recorded machine can tell beyond the protocol. `monitor help` lists them.
#pragma once

#include <functional>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "gdbstub/execution.h"

namespace retrovisor::gdb {

struct MonitorCommand {
  using Words = std::span<const std::string>;  // what follows the command
  std::string name;
  std::string usage;  // of the arguments; may be empty
  std::string help;   // one line
  // The answer, with a newline at its end. An error is shown with the usage.
  std::function<Result<std::string>(Execution&, Words)> run;
  bool moves = false;  // it may leave the machine elsewhere; all others leave it where it is, interrupted or not
};

class Monitor {
 public:
  // `more`: commands that are not ours.
  explicit Monitor(Execution& execution, std::vector<MonitorCommand> more = {});
  // Never fails: what is wrong with `line` is the answer.
  std::string run(const std::string& line);

 private:
  std::string help(MonitorCommand::Words words) const;
  std::optional<Position> place() const;

  Execution& execution_;
  std::vector<MonitorCommand> commands_;
};

// Arguments of commands, for those that are not ours too. All are read alike: decimal with ' or _ between the digits and k, M
// or G behind; 0x; hexadecimal without it where a digit is a letter; a register ($rsp, $pc); sums and differences of these.
// A position: also +N and -N from the present one, begin, end.
Result<Position> parse_position(Execution& execution, const std::string& word);
Result<uint64_t> parse_address(Execution& execution, const std::string& word);
// At most `max`. (Without `execution`: no registers.)
Result<uint64_t> parse_number(Execution& execution, const std::string& word, uint64_t max);
Result<uint64_t> parse_number(const std::string& word, uint64_t max);
// 12'345'678
std::string grouped(uint64_t number);

// The commands, by topic.
void add_history_commands(std::vector<MonitorCommand>& out);  // position, seek, events, checkpoints, last-write, go-live
void add_machine_commands(std::vector<MonitorCommand>& out);  // info, regs, pt, phys
void add_stop_commands(std::vector<MonitorCommand>& out);     // break-on

}  // namespace retrovisor::gdb
