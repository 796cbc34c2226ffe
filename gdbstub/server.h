// Serves one client after another.
#pragma once

#include <functional>
#include <string>

#include "gdbstub/door.h"
#include "gdbstub/session.h"

namespace retrovisor::gdb {

struct ServerOptions {
  SessionOptions session;
  bool once = false;                          // end after the first client
  std::function<void(std::string_view)> log;  // told of clients that come and go; may be empty
};

// Until the host ends it (the listener's stop descriptor), or with `once` the client has left; a live machine is served
// until it has ended, or the client has detached from it or killed it. A client that detaches or vanishes leaves a recorded
// run where it stands; one that kills it leaves it at the beginning. Errors are those of the listener.
Result<SessionEnd> serve(DebugTarget& target, Door& door, const ServerOptions& options);
// The same for one client that is there already.
SessionEnd serve(DebugTarget& target, Connection& connection, const SessionOptions& options);

}  // namespace retrovisor::gdb
