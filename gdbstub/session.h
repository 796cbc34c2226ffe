// One client's session: reads packets, does what they say, answers. Which packets there are: docs/gdb-protocol.md.
// Source of the protocol: Debugging with GDB, appendix E; for LLDB's packets its docs/resources/lldbgdbremote.md.
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "gdbstub/execution.h"
#include "gdbstub/keep_alive.h"
#include "gdbstub/monitor.h"
#include "gdbstub/packet.h"
#include "gdbstub/registers.h"
#include "gdbstub/transport.h"

namespace retrovisor::gdb {

// No processor's linear address: it is not canonical. "RV" in its upper bytes.
inline constexpr uint64_t kWindow = 0x5256'0000'0000'0000, kMaxWindow = 1 << 20;

struct SessionOptions {
  std::optional<Arch> arch;    // none: arch_of() the machine when the client comes, with
  std::optional<Arch> kernel;  // what the kernel is, if that is known
  std::vector<MonitorCommand> commands;  // monitor commands beside our own
  // What a client reads at kWindow, as if it were memory: for scripts of gdb, whose unwinders may ask for nothing else. It is made when the
  // first byte of it is read. May be empty.
  std::function<std::vector<uint8_t>(Execution&)> window;
  // A client that has begun a packet has so long to end it.
  std::chrono::milliseconds packet_timeout{10'000};
  // What is done before the first packet is answered, while the client is kept waiting: a long way to where it begins. False
  // ends the session.
  std::function<bool(Execution&)> begin;
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

  // --- session_stream.cc: packets come and go, and interrupts in between
  // What the client waits for, which says how it is listened to meanwhile.
  enum class Doing : uint8_t {
    nothing,
    request,  // an interrupt is kept for the next run
    command,  // of the monitor: an interrupt ends it, and so does a client that no longer waits
    run,      // an interrupt ends it
  };
  // Says so, for as long as it lives.
  class Busy;
  std::optional<SessionEnd> receive();
  std::optional<SessionEnd> take(PacketReader::Item& item);
  bool poll();
  // Feeds the reader with what has come, without waiting.
  Connection::Read read_waiting();
  void note(const PacketReader::Signs& signs);
  void acknowledged(unsigned count);
  bool client_has_left();
  bool write(std::string_view text) { return keep_alive_.write(text); }
  void send(std::string_view payload);
  void send_ok() { send("OK"); }
  // "Enn": clients of all ages know it.
  void send_error(unsigned code);
  // With its text where clients know that form.
  void send_error(const Error& error);
  void console(std::string_view text);

  // --- session.cc: which packet is which
  bool begin();
  void stand_here();
  void handle(Packet packet);
  void handle_v(Packet rest);
  void kill();

  // --- session_queries.cc: q and Q
  void query(Packet rest);
  void set(Packet rest);
  void supported(Packet features);
  void transfer(const std::string& object, Packet range);
  void monitor(Packet hex);
  void answer_command(std::string text);
  bool thread_query(Packet rest);
  bool identity_query(Packet rest);

  // --- session_state.cc: registers and memory
  void read_registers();
  void write_registers(Packet hex);
  void read_one_register(Packet rest);
  void write_one_register(Packet rest);
  void read_memory(Packet rest);
  void read_window(uint64_t offset, uint64_t size);
  void write_memory(Packet rest, bool binary);
  void point(Packet rest, bool insert);

  // --- session_run.cc: running and stopping
  void resume(Packet actions);             // vCont;...
  void resume_old(char how, Packet rest);  // c, s, C, S
  void resume_back(Packet rest);           // bs, bc
  void restart(bool answer);               // R, vRun
  void step(VcpuId vcpu);
  // Makes `run` happen and tells how it has ended: at once, if an interrupt has come before it.
  template <class Run>
  void go(Run&& run);
  Result<TimelineStop> settle_interrupt(Result<TimelineStop> stop);
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
  KeepAlive keep_alive_;
  PacketReader reader_;
  Monitor monitor_;
  Arch arch_ = Arch::x86_64;
  std::optional<SessionEnd> end_;
  Doing doing_ = Doing::nothing;
  bool interrupt_ = false;  // one has come that no run has ended by: the next does
  bool stopping_ = false;   // what is being done shall end
  bool left_ = false;       // since the client no longer waits for it
  std::string last_sent_;   // framed, for a '-'
  std::string last_packet_;
  int64_t owed_ = 0;        // acknowledgements for what was sent
  bool client_acks_ = false;
  KeepAlive::Clock::time_point heard_{};  // the client's last acknowledgement, or when it began to wait
  unsigned resent_ = 0;
  bool acks_ = true;
  bool acks_end_ = false;                                         // after the next answer
  bool swbreak_ = false, hwbreak_ = false, error_texts_ = false;  // what the client knows
  bool is_gdb_ = false;
  bool quiet_end_ = false;  // the last resume found the end of history and did not say so: step()
  bool physical_memory_ = false;
  std::vector<uint8_t> window_;  // as it was made last
  bool extended_ = false;          // extended-remote: the client outlives the program
  std::string stop_reply_;         // for '?'
  VcpuId stop_vcpu_;               // that it names
  std::optional<VcpuId> running_;  // of Hc; none: the selected one, Hg's
};

}  // namespace retrovisor::gdb
