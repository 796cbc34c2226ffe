// One client's session: reads packets, does what they say, answers. Which packets there are: docs/gdb-protocol.md.
// Source of the protocol: Debugging with GDB, appendix E; for LLDB's packets its docs/resources/lldbgdbremote.md.
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "gdbstub/execution.h"
#include "gdbstub/monitor.h"
#include "gdbstub/packet.h"
#include "gdbstub/registers.h"
#include "gdbstub/transport.h"

namespace retrovisor::gdb {

struct SessionOptions {
  Arch arch = Arch::x86_64;
  std::vector<MonitorCommand> commands;  // monitor commands beside our own
  // A client that has begun a packet has so long to end it.
  std::chrono::milliseconds packet_timeout{10'000};
};

enum class SessionEnd : uint8_t {
  detached,  // D
  killed,    // k, vKill
  vanished,  // no more bytes come, or they are no packets
  exited,    // a live machine has ended, and the client knows
  stopped,   // the host wants the server to end
};

class Session {
 public:
  // `execution` and `connection` outlive the session.
  Session(Execution& execution, Connection& connection, SessionOptions options);
  // Until the client or the host ends it. Breakpoints and diversions do not outlive it.
  SessionEnd serve();

 private:
  using Packet = std::string_view;

  // --- session.cc: the stream, and which packet is which
  std::optional<SessionEnd> receive();
  void handle(Packet packet);
  void handle_v(Packet rest);
  void kill();
  void send(std::string_view payload);
  void send_ok() { send("OK"); }
  // "Enn": clients of all ages know it.
  void send_error(unsigned code);
  // With its text where clients know that form.
  void send_error(const Error& error);
  void console(std::string_view text);
  bool poll();

  // --- session_queries.cc: q and Q
  void query(Packet rest);
  void set(Packet rest);
  void supported(Packet features);
  void transfer(const std::string& object, Packet range);
  void monitor(Packet hex);
  bool thread_query(Packet rest);
  bool identity_query(Packet rest);

  // --- session_state.cc: registers and memory
  void read_registers();
  void write_registers(Packet hex);
  void read_one_register(Packet rest);
  void write_one_register(Packet rest);
  void read_memory(Packet rest);
  void write_memory(Packet rest, bool binary);
  void point(Packet rest, bool insert);

  // --- session_run.cc: running and stopping
  void resume(Packet actions);             // vCont;...
  void resume_old(char how, Packet rest);  // c, s, C, S
  void resume_back(Packet rest);           // bs, bc
  void restart(bool answer);               // R, vRun
  void step(VcpuId vcpu);
  void say_end(const TimelineStop& stop);
  void report(const Result<TimelineStop>& stop);
  std::string stop_reply(const TimelineStop& stop);
  // The client is told of the last stop, and takes its vCPU for the selected one.
  void send_stop();
  VcpuId stepping() const { return running_.value_or(execution_.selected()); }

  std::optional<VcpuId> thread_id(Packet text) const;  // 0 and -1: any, which is the selected one
  Vcpu& general() { return execution_.machine().vcpu(execution_.selected()); }

  Execution& execution_;
  Connection& connection_;
  SessionOptions options_;
  PacketReader reader_;
  Monitor monitor_;
  std::optional<SessionEnd> end_;
  std::string last_sent_;  // framed, for a '-'
  unsigned resent_ = 0;
  bool acks_ = true;
  bool acks_end_ = false;                                         // after the next answer
  bool swbreak_ = false, hwbreak_ = false, error_texts_ = false;  // what the client knows
  bool is_gdb_ = false;
  bool quiet_end_ = false;  // the last resume found the end of history and did not say so: step()
  bool physical_memory_ = false;
  bool extended_ = false;          // extended-remote: the client outlives the program
  std::string stop_reply_;         // for '?'
  VcpuId stop_vcpu_;               // that it names
  std::optional<VcpuId> running_;  // of Hc; none: the selected one, Hg's
};

}  // namespace retrovisor::gdb
