// Several processors in flat 32-bit protected mode, each with its own data behind FS, set up without firmware or start-up code: for
// tests of what happens where vCPUs' turns end.
#pragma once

#include <xxhash.h>

#include <cstring>
#include <initializer_list>
#include <memory>
#include <vector>

#include "vmm/boot/loader.h"
#include "vmm/machine/machine.h"
#include "vmm/quiet_boundary.h"

namespace retrovisor {

// Turns of a length each: `instructions`, or with a seed, which is not zero, 1 to `instructions` by a hash of it and of where the turn
// begins.
struct HashedTurns {
  uint64_t instructions = 1;
  uint64_t seed = 0;
  uint64_t length(uint64_t position) const {
    if (seed == 0) return instructions;
    const uint64_t key[] = {seed, position};
    return 1 + XXH3_64bits(key, sizeof key) % instructions;
  }
};

// One vCPU after the other, for such turns.
class HashedScheduler final : public Scheduler {
 public:
  explicit HashedScheduler(HashedTurns turns) : turns_(turns) {}
  Turn next(Position now, VcpuId last, Runnable runnable, uint32_t vcpus) const override {
    for (uint32_t i = 1; i <= vcpus; ++i) {
      const VcpuId id((last.value + i) % vcpus);
      if (runnable.has(id)) return {id, turns_.length(now.value)};
    }
    return {last, 1};
  }

 private:
  HashedTurns turns_;
};

class SmpBench {
 public:
  static constexpr uint32_t kIdt = 0x1000, kGdt = 0x2000, kData = 0x4000, kDataSize = 0x100, kStacks = 0x200000, kStackSize = 0x40000;
  static constexpr uint16_t kCodeSelector = 8, kDataSelector = 16;
  static constexpr uint32_t kIcrLow = 0xfee00300, kIcrHigh = 0xfee00310, kEoi = 0xfee000b0, kSvr = 0xfee000f0;

  SmpBench(uint32_t vcpus, HashedTurns turns) : SmpBench(vcpus, [turns] { return std::make_unique<HashedScheduler>(turns); }) {}
  SmpBench(uint32_t vcpus, SchedulerFactory scheduler) {
    MachineConfig config;
    config.memory_size = kMinRam;
    config.vcpus = vcpus;
    config.scheduler = std::move(scheduler);
    auto created = Machine::create(config, boundary_);
    RV_ASSERT(created.ok());
    machine = std::move(created).value();
    put<uint64_t>(kGdt + kCodeSelector, 0x00cf9b000000ffff);
    put<uint64_t>(kGdt + kDataSelector, 0x00cf93000000ffff);
    for (uint32_t i = 0; i < vcpus; ++i) {
      CpuState& s = cpu(i);
      s.cr0 = cr0::PE | cr0::ET | cr0::NE;
      constexpr uint32_t flat = seg::P | seg::S | seg::G | seg::DB;
      for (Segment& g : s.segment) g = {0, 0xffffffff, flat | 3, kDataSelector};
      s.segment[CS] = {0, 0xffffffff, flat | 11, kCodeSelector};
      s.segment[FS].base = data(i);
      s.gdtr = {kGdt, 0x17};
      s.idtr = {kIdt, 0x7ff};
      s.gpr[RAX] = kDataSelector;
      s.gpr[RSP] = stack(i);
      s.rflags = flag::fixed;
      s.activity = Activity::running;
      machine->engine().state_changed(machine->vcpu(VcpuId(i)));
    }
  }

  CpuState& cpu(uint32_t i) { return machine->vcpu(VcpuId(i)).state; }
  static uint32_t data(uint32_t i) { return kData + i * kDataSize; }
  static uint32_t stack(uint32_t i) { return kStacks + (i + 1) * kStackSize; }
  template <class T>
  void put(uint32_t at, T value) { std::memcpy(machine->memory().host(PhysAddr(at)), &value, sizeof value); }
  uint32_t word(uint32_t at) {
    uint32_t value = 0;
    std::memcpy(&value, machine->memory().host(PhysAddr(at)), sizeof value);
    return value;
  }
  // An interrupt gate.
  void gate(uint8_t vector, uint32_t handler) {
    put<uint64_t>(kIdt + vector * 8u, (handler & 0xffff) | uint64_t{kCodeSelector} << 16 | uint64_t{0x8e00} << 32 |
                                          uint64_t{handler & 0xffff0000} << 32);
  }

  std::unique_ptr<Machine> machine;

 private:
  QuietBoundary boundary_;
};

// Assembles the few instructions these tests are made of.
class SmpCode {
 public:
  explicit SmpCode(uint32_t at) : begin_(at) {}
  uint32_t here() const { return begin_ + static_cast<uint32_t>(bytes_.size()); }
  void plain(std::initializer_list<uint8_t> code) { bytes_.insert(bytes_.end(), code); }
  void word(uint32_t value) {
    for (unsigned i = 0; i < 4; ++i) bytes_.push_back(static_cast<uint8_t>(value >> 8 * i));
  }
  void nop() { plain({0x90}); }
  void sti() { plain({0xfb}); }
  void cli() { plain({0xfa}); }
  void hlt() { plain({0xf4}); }
  void iret() { plain({0xcf}); }
  void mov_ss() { plain({0x8e, 0xd0}); }                            // mov ss, eax
  void inc(uint32_t address) { plain({0xff, 0x05}); word(address); }
  void inc_own(uint32_t offset) { plain({0x64, 0xff, 0x05}); word(offset); }
  void dec_own(uint32_t offset) { plain({0x64, 0xff, 0x0d}); word(offset); }
  void compare_own(uint32_t offset) { plain({0x64, 0x83, 0x3d}); word(offset); plain({0}); }
  void store(uint32_t address, uint32_t value) { plain({0xc7, 0x05}); word(address); word(value); }
  void jump(uint32_t target) { plain({0xe9}); word(target - here() - 4); }
  void jump_if_not_zero(uint32_t target) { plain({0x0f, 0x85}); word(target - here() - 4); }
  void put_into(SmpBench& bench) const { bench.machine->memory().write(PhysAddr(begin_), bytes_); }

 private:
  uint32_t begin_;
  std::vector<uint8_t> bytes_;
};

}  // namespace retrovisor
