#include "gdbstub/server.h"

namespace retrovisor::gdb {
namespace {

std::string_view text(SessionEnd end) {
  switch (end) {
    case SessionEnd::detached: return "the client has detached";
    case SessionEnd::killed: return "the client has killed the machine";
    case SessionEnd::vanished: return "the client is gone";
    case SessionEnd::exited: return "the machine has ended";
    case SessionEnd::stopped: return "asked to end";
  }
  return "";
}

}  // namespace

SessionEnd serve(DebugTarget& target, Connection& connection, const SessionOptions& options) {
  Execution execution(target);
  const SessionEnd end = Session(execution, connection, options).serve();
  if (end == SessionEnd::killed && target.timeline() != nullptr) {
    // Of no matter if it fails: the next client is told.
    static_cast<void>(execution.seek(target.timeline()->begin()));
  }
  return end;
}

Result<SessionEnd> serve(DebugTarget& target, Door& door, const ServerOptions& options) {
  for (;;) {
    RV_TRY(auto connection, door.next());
    if (connection == nullptr) return SessionEnd::stopped;
    if (options.log) options.log("a client has connected");
    const SessionEnd end = serve(target, *connection, options.session);
    door.left();
    if (options.log) options.log(text(end));
    const bool left = target.timeline() == nullptr && (end == SessionEnd::killed || end == SessionEnd::detached);
    if (options.once || left || end == SessionEnd::stopped || end == SessionEnd::exited) return end;
  }
}

}  // namespace retrovisor::gdb
