// Buses and interrupt lines: all that a device sees of the machine, beside its clock and the boundary.
#pragma once

#include <optional>
#include <span>
#include <string_view>
#include <vector>

#include "vmm/journal.h"
#include "vmm/result.h"
#include "vmm/state_io.h"
#include "vmm/types.h"

namespace retrovisor {

enum class AddressSpace : uint8_t { ports, memory };

// One access to a device: who makes it, when, where and how wide.
struct BusAccess {
  AddressSpace space{};
  VcpuId vcpu;           // whose instruction it is
  Position position;     // of that instruction
  uint64_t address = 0;  // the port, or the guest-physical address
  uint64_t offset = 0;   // into the claimed range; offset + size never passes its end
  unsigned size = 0;     // bytes: 1, 2 or 4 at ports, 1, 2, 4 or 8 in memory
};

// What devices are told when the machine is switched on.
struct PowerOn {
  uint64_t wall_clock = 0;  // seconds since 1970 (Boundary::wall_clock)
};

// Anything with state that is part of the machine.
class Device {
 public:
  virtual ~Device() = default;
  // Name of the device's section in machine state: "pit8254", "lapic3".
  virtual std::string_view name() const = 0;
  // Power-on state.
  virtual void reset(const PowerOn& at) = 0;
  virtual void save(StateWriter& out) const = 0;   // calls out.section(name()) first
  virtual void restore(StateReader& in) = 0;       // every field checked as if hostile; errors through StateReader::check
  // Accesses to what the device has claimed of a bus. Bits of a value beyond the access's size are of no account.
  virtual uint64_t read(const BusAccess&) { return ~uint64_t{0}; }
  virtual void write(const BusAccess&, uint64_t /*value*/) {}
};

// Where a device answers.
struct Claim {
  uint64_t first = 0;
  uint64_t count = 0;  // 0: nowhere
  Device* device = nullptr;
  unsigned width = 1;    // ports: wider accesses are split into pieces of at most so many bytes
  bool exact = false;    // ports: answers accesses of `width` bytes alone; others pass it by
  std::optional<VcpuId> vcpu = std::nullopt;  // answers this one alone

  bool covers(uint64_t address, uint64_t size, VcpuId who) const {
    const uint64_t offset = address - first;
    return offset < count && count - offset >= size && (!vcpu || *vcpu == who);
  }
};
using ClaimId = size_t;

// Who answers where in one address space. Claims made while a machine is built do not overlap. One that the guest moves may come to
// lie over others; then the one made first answers: by where claims are, not by how they came there.
class Claims {
 public:
  // `unit` what addresses name ("port"). Fails if another device has claimed some of it; the error names both.
  Result<ClaimId> add(std::string_view unit, const Claim& claim);
  // To anywhere; `count` 0 takes it off the bus.
  void move(ClaimId id, uint64_t first, uint64_t count);
  std::span<const Claim> all() const { return all_; }

 private:
  std::vector<Claim> all_;
};

class PortBus {
 public:
  explicit PortBus(Journal& journal) : journal_(journal) {}
  // The device must outlive the bus.
  Result<ClaimId> map(const Claim& claim);
  void move(ClaimId id, uint16_t first, unsigned count) { claims_.move(id, first, count); }
  void unmap(ClaimId id) { claims_.move(id, 0, 0); }
  std::span<const Claim> claims() const { return claims_.all(); }
  // Ports nobody answers read as all ones; writes to them vanish.
  uint32_t read(VcpuId vcpu, uint16_t port, unsigned size);
  void write(VcpuId vcpu, uint16_t port, unsigned size, uint32_t value);

 private:
  struct Target {
    const Claim* claim;  // null: nobody
    unsigned width;
  };
  Target find(VcpuId vcpu, uint16_t port, unsigned at, unsigned size) const;
  BusAccess access(const Target& target, VcpuId vcpu, uint16_t port) const;

  Journal& journal_;
  Claims claims_;
};

class MmioBus {
 public:
  explicit MmioBus(Journal& journal) : journal_(journal) {}
  // The device must outlive the bus.
  Result<ClaimId> map(const Claim& claim);
  void move(ClaimId id, PhysRange range) { claims_.move(id, range.begin.value, range.size); }
  void unmap(ClaimId id) { claims_.move(id, 0, 0); }
  std::span<const Claim> claims() const { return claims_.all(); }
  // Addresses nobody answers read as all ones; writes to them vanish.
  uint64_t read(VcpuId vcpu, PhysAddr addr, unsigned size);
  void write(VcpuId vcpu, PhysAddr addr, unsigned size, uint64_t value);

 private:
  const Claim* find(VcpuId vcpu, PhysAddr addr, unsigned size) const;

  Journal& journal_;
  Claims claims_;
};

// The receiving end of interrupt lines.
class IrqSink {
 public:
  virtual ~IrqSink() = default;
  virtual void set_irq(unsigned line, bool level) = 0;
};

// One line into an interrupt controller; the device drives its level.
class IrqLine {
 public:
  IrqLine() = default;
  IrqLine(IrqSink& sink, unsigned line) : sink_(&sink), line_(line) {}
  void set(bool level) const {
    if (sink_ != nullptr) sink_->set_irq(line_, level);
  }

 private:
  IrqSink* sink_ = nullptr;
  unsigned line_ = 0;
};

}  // namespace retrovisor
