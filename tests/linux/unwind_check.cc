// Compares the stacks that the unwinder finds in a recording with those of a shadow stack, which follows the calls and returns that the
// guest executes, at random positions. One vCPU.
// Usage: unwind_check TRACE KERNEL INITRD POSITIONS [SEED [FROM]]
//
// A task's chain of calls is whole from where it is known to be empty: where the kernel is entered from user mode, or a new task begins. Of
// others (the boot's own, which becomes the idle task) the newest calls are known, and they alone are compared.
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cstdlib>
#include <cstring>
#include <map>
#include <random>
#include <string>
#include <unordered_map>
#include <vector>

#include "analysis/linux/kernel.h"
#include "replay/replay_session.h"
#include "tests/replay/check_tool.h"
#include "vmm/cpu/registers.h"

namespace retrovisor {
namespace {

struct Chain {
  struct Call {
    uint64_t at;     // where the return address lies
    uint64_t back;   // it
    bool interrupt;  // an interrupt or exception: the instruction at `back` has not been finished
  };
  std::vector<Call> calls;  // oldest first
  bool whole = false;
};


class Shadow {
 public:
  Shadow(Machine& machine, const LinuxKernel& kernel) : machine_(machine) {
    const auto place = [&](const char* name) { return kernel.address_of(name).value_or(0); };
    switch_begin_ = place("__switch_to_asm");
    if (switch_begin_ == 0) fail("the kernel has no __switch_to_asm");
    switch_end_ = switch_begin_ + kernel.place_of(switch_begin_)->size;
    new_task_ = {place("ret_from_fork"), place("ret_from_fork_asm")};
  }

  // Before each instruction.
  void instruction() {
    const CpuState& s = state();
    if (delivered_) {
      delivered_ = false;
      const uint64_t at = s.gpr[RSP] + (has_error_ ? 8 : 0);  // RIP, CS, RFLAGS, RSP, SS
      const uint64_t rip = word(at), cs = word(at + 8), rsp = word(at + 24);
      advance((cs & 3) == 3, rip, rsp);
      if ((cs & 3) == 3) {
        enter();
      } else {
        chain_.calls.push_back({at, rip, true});
      }
      last_user_ = false;
    } else {
      advance(s.cpl() == 3, s.rip, s.gpr[RSP]);
    }
    last_user_ = s.cpl() == 3;
    last_rip_ = s.rip;
    last_rsp_ = s.gpr[RSP];
    last_ = last_user_ ? Kind::other : kind_at(s.rip);
    if (s.rip == switch_begin_ && !last_user_) {
      from_ = s.gpr[RDI];
      to_ = s.gpr[RSI];
    }
  }
  void delivered(bool exception, uint8_t vector) {
    delivered_ = true;
    has_error_ = exception && (vector == vec::DF || (vector >= vec::TS && vector <= vec::PF) || vector == vec::AC);
  }

  const Chain& chain() const { return chain_; }
  uint64_t odd_returns() const { return odd_returns_; }

 private:
  enum class Kind : uint8_t { other, call, ret, iret };
  struct Decoded {
    uint64_t bytes = 0;
    Kind kind{};
  };

  const CpuState& state() const { return machine_.vcpu(VcpuId(0)).state; }
  uint64_t word(uint64_t at) const { return MachineMemory(machine_.memory(), state()).get<uint64_t>(at).value_or(0); }

  Kind kind_at(uint64_t rip) {
    std::array<uint8_t, 8> b{};
    MachineMemory(machine_.memory(), state()).read(rip, b);
    const auto bytes = std::bit_cast<uint64_t>(b);
    Decoded& d = kinds_[rip];
    if (d.bytes == bytes) return d.kind;
    size_t i = 0;
    const auto is_prefix = [](uint8_t x) {
      return x == 0xf3 || x == 0xf2 || x == 0x66 || x == 0x2e || x == 0x3e || x == 0x36 || x == 0x26 || x == 0x64 || x == 0x65 ||
             (x & 0xf0) == 0x40;
    };
    while (i < 6 && is_prefix(b[i])) ++i;
    d = {bytes, Kind::other};
    if (b[i] == 0xe8 || (b[i] == 0xff && (b[i + 1] >> 3 & 7) == 2)) d.kind = Kind::call;
    if (b[i] == 0xc3 || b[i] == 0xc2) d.kind = Kind::ret;
    if (b[i] == 0xcf) d.kind = Kind::iret;
    return d.kind;
  }

  void enter() { chain_ = {{}, true}; }

  // The instruction before has been executed, if it has, and this is where it led.
  void advance(bool user, uint64_t rip, uint64_t rsp) {
    if (last_user_) {
      if (!user) enter();
      return;
    }
    if (user || (rip == last_rip_ && rsp == last_rsp_)) return;
    auto& calls = chain_.calls;
    switch (last_) {
      case Kind::call: calls.push_back({rsp, word(rsp), false}); return;
      case Kind::ret: {
        auto known = std::find_if(calls.rbegin(), calls.rend(), [&](const auto& c) { return c.at == last_rsp_; });
        // Entry code moves its return address to save registers below it.
        if (known == calls.rend() && !calls.empty() && calls.back().back == rip) known = calls.rbegin();
        if (known == calls.rend()) ++odd_returns_;
        if (known != calls.rend()) calls.erase(std::prev(known.base()), calls.end());
        return;
      }
      case Kind::iret: {  // also used to go on at the next instruction, without an interrupt before
        const auto known = std::find_if(calls.rbegin(), calls.rend(), [&](const auto& c) { return c.interrupt && c.at == last_rsp_; });
        if (known != calls.rend()) calls.erase(std::prev(known.base()), calls.end());
        return;
      }
      case Kind::other: break;
    }
    const bool switches = last_rip_ >= switch_begin_ && last_rip_ < switch_end_ && (rsp > last_rsp_ ? rsp - last_rsp_ : last_rsp_ - rsp) > 64;
    if (!switches) return;
    chains_[from_] = std::move(chain_);
    const auto next = chains_.find(to_);
    if (next != chains_.end() && !is_new(rsp)) {
      chain_ = std::move(next->second);
      return;
    }
    chain_ = {{}, true};
    for (uint64_t at = rsp; at < rsp + 10 * 8; at += 8)
      if (is_start(word(at))) chain_.calls.push_back({at, word(at), false});
  }
  bool is_start(uint64_t ip) const { return ip != 0 && (ip == new_task_[0] || ip == new_task_[1]); }
  // A task_struct may have been another task's before.
  bool is_new(uint64_t rsp) const {
    for (uint64_t at = rsp; at < rsp + 10 * 8; at += 8)
      if (is_start(word(at))) return true;
    return false;
  }

  Machine& machine_;
  Chain chain_;
  std::map<uint64_t, Chain> chains_;  // of the tasks that do not run, by task_struct
  std::unordered_map<uint64_t, Decoded> kinds_;
  bool delivered_ = false, has_error_ = false;
  bool last_user_ = false;
  uint64_t last_rip_ = 0, last_rsp_ = 0;
  Kind last_ = Kind::other;
  uint64_t from_ = 0, to_ = 0;
  uint64_t switch_begin_ = 0, switch_end_ = 0;
  std::array<uint64_t, 2> new_task_{};
  uint64_t odd_returns_ = 0;
};

struct Count {
  uint64_t kernel = 0, user = 0, whole = 0, frames = 0, different = 0, deepest = 0;
};

class Check {
 public:
  Check(Machine& machine, const LinuxKernel& kernel, std::vector<uint64_t> positions)
      : machine_(machine), kernel_(kernel), shadow_(machine, kernel), positions_(std::move(positions)) {}

  bool hit(const Observation& o) {
    if (o.kind != Observation::Kind::instruction) {
      shadow_.delivered(o.kind == Observation::Kind::exception, o.number);
      return false;
    }
    shadow_.instruction();
    if (next_ < positions_.size() && o.position.value >= positions_[next_]) {
      ++next_;
      compare(o.position);
    }
    return false;
  }

  Count count;
  uint64_t odd_returns() const { return shadow_.odd_returns(); }

 private:
  void compare(Position at) {
    const CpuState& s = machine_.vcpu(VcpuId(0)).state;
    if (s.cpl() == 3) {
      ++count.user;
      return;
    }
    const MachineMemory memory(machine_.memory(), s);
    UnwindEnd end{};
    auto frames = kernel_.unwinder(memory).frames(FrameRegisters::of(s), 200, &end);
    if (frames.back().user) frames.pop_back();
    const Chain& chain = shadow_.chain();
    ++count.kernel;
    count.whole += chain.whole;
    count.frames += frames.size();
    count.deepest = std::max<uint64_t>(count.deepest, frames.size());
    bool same = chain.whole ? frames.size() == chain.calls.size() + 1 && (end == UnwindEnd::user || end == UnwindEnd::outermost)
                            : frames.size() >= chain.calls.size() + 1;
    for (size_t i = 0; same && i < chain.calls.size(); ++i) {
      const Chain::Call& c = chain.calls[chain.calls.size() - 1 - i];
      // A thunk puts the address to which it jumps in the place of its return address.
      same = (frames[i + 1].ip == c.back || frames[i + 1].ip == memory.get<uint64_t>(c.at)) && frames[i + 1].exact == c.interrupt;
    }
    if (same) return;
    if (++count.different > 20) return;
    fmt::print("position {}: end {}, chain {}\n  in {}\n", at.value, static_cast<int>(end), chain.whole ? "whole" : "not whole", kernel_.text_of(s.rip));
    for (size_t i = 1; i < std::max(frames.size(), chain.calls.size() + 1); ++i) {
      const bool called = i <= chain.calls.size();
      const Chain::Call* c = called ? &chain.calls[chain.calls.size() - i] : nullptr;
      fmt::print("  {:<44} {}{}\n", i < frames.size() ? kernel_.text_of(frames[i].ip) : "-", called ? kernel_.text_of(c->back) : "-",
                 called && c->interrupt ? " (interrupted)" : "");
    }
  }

  Machine& machine_;
  const LinuxKernel& kernel_;
  Shadow shadow_;
  std::vector<uint64_t> positions_;
  size_t next_ = 0;
};

int run(const std::vector<std::string>& arguments) {
  if (arguments.size() < 4) fail("usage: unwind_check TRACE KERNEL INITRD POSITIONS [SEED [FROM]]");
  const BootImages images = guest_images(arguments[1], arguments[2]);
  const uint64_t wanted = std::stoull(arguments[3]);
  const uint64_t seed = arguments.size() > 4 ? std::stoull(arguments[4]) : 1;
  auto session = take(ReplaySession::open(arguments[0], images));
  Machine& machine = session->machine();
  if (arguments.size() > 5) machine.run_until(Position(std::stoull(arguments[5])));
  // Until the kernel's tables are there.
  std::unique_ptr<LinuxKernel> kernel;
  while (kernel == nullptr && machine.position() < session->end()) {
    machine.run_until(machine.position() + 5'000'000);
    if (auto found = LinuxKernel::find(machine); found && (*found)->has_orc()) kernel = std::move(*found);
  }
  if (kernel == nullptr) fail("no kernel with an ORC table is in the recording");
  const uint64_t begin = machine.position().value, end = session->end().value;
  std::mt19937_64 random(seed);
  std::vector<uint64_t> positions(wanted);
  for (uint64_t& p : positions) p = begin + 1 + random() % (end - begin - 1);
  std::sort(positions.begin(), positions.end());
  Check check(machine, *kernel, std::move(positions));
  Interest interest;
  interest.events = mask_of(Observation::Kind::instruction) | mask_of(Observation::Kind::exception) | mask_of(Observation::Kind::interrupt);
  interest.hit = [&check](const Observation& o) { return check.hit(o); };
  {
    const Subscription observed = machine.observers().subscribe(std::move(interest));
    while (machine.position() < session->end()) {
      const Position before = machine.position();
      machine.run_until(session->end());
      if (machine.position() == before) break;
    }
  }
  const Count& c = check.count;
  fmt::print("{}\n{} positions: {} in the kernel, of {} of them the whole stack is known; {} frames, {} at most; {} differ\n{} odd returns\n",
             kernel->banner(), wanted, c.kernel, c.whole, c.frames, c.deepest, c.different, check.odd_returns());
  // A run in which nothing was compared shows nothing.
  if (c.kernel == 0 || c.whole == 0) return 2;
  return c.different * 1000 > c.kernel ? 1 : 0;
}

}  // namespace
}  // namespace retrovisor

int main(int argc, char** argv) { return retrovisor::run({argv + 1, argv + argc}); }
