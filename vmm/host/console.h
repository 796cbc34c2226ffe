// Where console input comes from and where output goes: the user's terminal in raw mode, a pipe, a script, or nowhere.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>

#include "vmm/boundary.h"
#include "vmm/host/output_stream.h"
#include "vmm/host/stop_source.h"
#include "vmm/result.h"

namespace retrovisor {

enum class ConsoleKind : uint8_t {
  none,      // no input
  stdio,     // descriptor 0: the terminal in raw mode if it is one, else whatever comes out of the pipe or file
  terminal,  // as stdio, but an error if it is no terminal
  script,    // a script file (console_script.h)
};

struct ConsoleOptions {
  ConsoleKind kind = ConsoleKind::stdio;
  std::string script_file;  // for ConsoleKind::script
  int input_fd = 0;         // not owned
  int output_fd = 1;        // not owned; -1: output is dropped
  bool greeting = true;     // a terminal says on standard error which keys leave it
};

// What a console's input does while the guest sleeps.
struct InputForecast {
  enum class Kind : uint8_t {
    never,    // no input as long as the guest sleeps
    at_time,  // at guest time `when`; not after the moment asked about: bytes wait to be read
    host,     // whenever descriptor `fd` becomes readable
  };
  Kind kind = Kind::never;
  VirtualTime when;
  int fd = -1;
};

class Console {
 public:
  virtual ~Console() = default;
  // Bytes for the guest that have arrived, at most out.size(). Never blocks.
  virtual size_t read(Moment at, std::span<uint8_t> out) = 0;
  virtual InputForecast forecast(Moment at) = 0;
  // Looks for keys that are meant for us even while the guest takes no input. Never blocks; to be called now and then.
  virtual void attend() {}
  // The guest printed `bytes`. Shown at the latest when flush() is called.
  virtual void output(std::span<const uint8_t> bytes) { output_.write(bytes); }
  void flush() { output_.flush(); }
  // Is a person typing at it? Idle waits should then take the time they say.
  virtual bool interactive() const { return false; }
  // Why guest output was lost; empty if it was not.
  const std::string& output_error() const { return output_.error(); }
  // May input come as the guest goes on, although the forecast is `never`?
  virtual bool comes_by_instructions() const { return false; }
  // Where input stands when no more can come: "the script is over", ...
  virtual std::string input_state() const = 0;
  // Something the user should know at the end, such as a script that was not played to its end; or empty.
  virtual std::string remark() const { return {}; }

 protected:
  Console(int output_fd, StopSource* stop, Answers answers) : output_(output_fd, stop, answers) {}

 private:
  OutputStream output_;
};

// `stop` (not null) is asked for a stop by the escape key and when output has no reader; it outlives the console.
Result<std::unique_ptr<Console>> make_console(const ConsoleOptions& options, StopSource* stop);

}  // namespace retrovisor
