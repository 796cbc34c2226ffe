// Queries and settings.
#include <fmt/format.h>

#include <algorithm>

#include "gdbstub/hex.h"
#include "gdbstub/session.h"
#include "gdbstub/session_busy.h"
#include "gdbstub/target_xml.h"

namespace retrovisor::gdb {
namespace {

constexpr unsigned kBadPacket = 22;
constexpr std::string_view kTriple = "x86_64-unknown-unknown";
constexpr std::string_view kTriple32 = "i386-unknown-unknown";

std::string activity_text(const Vcpu& vcpu) {
  const CpuState& s = vcpu.state;
  switch (s.activity) {
    case Activity::halted: return "halted";
    case Activity::wait_for_sipi: return "not started";
    case Activity::shutdown: return "shut down";
    case Activity::running: break;
  }
  const char* mode = s.mode64()            ? "64-bit"
                     : !s.protected_mode() ? "real mode"
                     : s.vm86()            ? "virtual-8086 mode"
                     : s.code_bits() == 32 ? "32-bit"
                                           : "16-bit";
  return fmt::format("{}, CPL {}", mode, s.cpl());
}

}  // namespace

void Session::supported(Packet features) {
  Fields fields(features);
  while (!fields.empty()) {
    const Packet feature = fields.until(';');
    swbreak_ = swbreak_ || feature == "swbreak+";
    hwbreak_ = hwbreak_ || feature == "hwbreak+";
    error_texts_ = error_texts_ || feature == "error-message+";
    is_gdb_ = is_gdb_ || feature == "vContSupported+";  // the one client that says so
  }
  const bool back = execution_.timeline() != nullptr;
  // gdb keeps acknowledging: only so does it find its way again when it has left an answer unread (monitor()).
  send(fmt::format("PacketSize={:x};{}swbreak+;hwbreak+;vContSupported+;{}qXfer:features:read+;qXfer:memory-map:read+;"
                   "error-message+",
                   kPacketSize, back ? "ReverseStep+;ReverseContinue+;" : "", is_gdb_ ? "" : "QStartNoAckMode+;"));
}

// "OFFSET,LENGTH" of an object.
void Session::transfer(const std::string& object, Packet range) {
  Fields fields(range);
  const auto offset = fields.number();
  const auto length = offset && fields.take(",") ? fields.number() : std::nullopt;
  if (!length || *offset > object.size()) return send_error(kBadPacket);
  // Half a packet always has room for its escapes.
  const size_t most = std::min<uint64_t>(*length, kPacketSize / 2 - 1);
  const std::string_view part = std::string_view(object).substr(*offset, most);
  send((*offset + part.size() < object.size() ? "m" : "l") + escape(part));
}

void Session::monitor(Packet hex) {
  const auto bytes = bytes_of_hex(hex);
  if (!bytes) return send_error(kBadPacket);
  const Position before = execution_.machine().position();
  std::string answer;
  {
    // gdb looks for Ctrl-C where a packet comes, and then leaves without the rest of the answer. What it has left unread it
    // passes over when it waits for the next acknowledgement; without acknowledgements it would take it for the next answer.
    const Busy busy(*this, Doing::command, is_gdb_ && acks_ ? KeepAlive::Sign::output : KeepAlive::Sign::noise);
    answer = monitor_.run(std::string(bytes->begin(), bytes->end()));
    keep_alive_.busy(KeepAlive::Sign::none);
    if (acks_) owed_ += keep_alive_.outputs();
    if (end_) return;
    answer += execution_.take_note();
    if (stopping_) answer += "[retrovisor] interrupted\n";
    if (execution_.machine().position() != before) {
      TimelineStop here;
      here.position = execution_.machine().position();
      stop_reply_ = stop_reply(here);
    }
    if (left_ && !acks_) return;  // nobody waits for it
  }
  answer_command(std::move(answer));
}

// gdb can leave between two packets of an answer (see above): it gets one, where one holds it.
void Session::answer_command(std::string text) {
  if (!is_gdb_ || text.empty()) {
    console(text);
    return send_ok();
  }
  constexpr size_t kMost = kPacketSize / 2 - 16;
  const size_t ahead = text.size() > kMost ? text.size() - kMost : 0;
  console(std::string_view(text).substr(0, ahead));
  send(hex_bytes(std::string_view(text).substr(ahead)));
}

bool Session::thread_query(Packet rest) {
  if (rest == "fThreadInfo") {
    quiet_end_ = false;
    std::string out = "m";
    for (uint32_t i = 1; i <= execution_.machine().config().vcpus; ++i) out += fmt::format("{}{:x}", i > 1 ? "," : "", i);
    send(out);
  } else if (rest == "sThreadInfo") {
    send("l");
  } else if (rest == "C") {
    send(fmt::format("QC{:x}", execution_.selected().value + 1));
  } else if (rest.starts_with("ThreadExtraInfo,")) {
    const auto thread = thread_id(rest.substr(16));
    if (thread)
      send(hex_bytes(fmt::format("vCPU {} ({})", thread->value, activity_text(execution_.machine().vcpu(*thread)))));
    else
      send_error(kBadPacket);
  } else {
    return false;
  }
  return true;
}

bool Session::identity_query(Packet rest) {
  const std::string triple = hex_bytes(arch_ == Arch::x86_64 ? kTriple : kTriple32);
  const unsigned pointer = arch_ == Arch::x86_64 ? 8 : 4;
  if (rest == "HostInfo")
    send(fmt::format("triple:{};ptrsize:{};endian:little;hostname:{};", triple, pointer, hex_bytes("retrovisor")));
  else if (rest == "ProcessInfo")
    send(fmt::format("pid:1;parent-pid:0;triple:{};ptrsize:{};endian:little;", triple, pointer));
  else
    return false;
  return true;
}

void Session::query(Packet rest) {
  if (rest.starts_with("Supported")) return supported(rest.size() > 9 ? rest.substr(10) : "");
  constexpr std::string_view kFeatures = "Xfer:features:read:target.xml:", kMap = "Xfer:memory-map:read::";
  if (rest.starts_with(kFeatures)) return transfer(target_xml(arch_), rest.substr(kFeatures.size()));
  if (rest.starts_with(kMap)) return transfer(memory_map_xml(), rest.substr(kMap.size()));
  if (rest.starts_with("Xfer:features:read:")) return send("E00");  // no such annex
  if (rest.starts_with("Rcmd,")) return monitor(rest.substr(5));
  if (rest == "Attached" || rest.starts_with("Attached:")) return send("1");
  if (rest.starts_with("Symbol:")) return send_ok();  // we look no symbols up
  // How QEMU spells them: gdb scripts for its users send these with `maintenance packet`.
  if (rest == "qemu.Supported") return send("PhyMemMode");
  if (rest == "qemu.PhyMemMode") return send(physical_memory_ ? "1" : "0");
  if (thread_query(rest) || identity_query(rest)) return;
  send("");
}

void Session::set(Packet rest) {
  if (rest == "StartNoAckMode") {
    acks_end_ = true;
    return send_ok();
  }
  if (rest.starts_with("qemu.PhyMemMode:")) {
    const auto mode = number_of_hex(rest.substr(16));
    if (!mode || *mode > 1) return send_error(kBadPacket);
    physical_memory_ = *mode == 1;
    return send_ok();
  }
  if (rest == "EnableErrorStrings") {
    // LLDB's form of error texts, "Enn;hex", is another: it does without.
    return send("");
  }
  send("");
}

}  // namespace retrovisor::gdb
