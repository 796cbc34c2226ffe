// Buses and interrupt lines: all that a device sees of the machine, beside its clock and the boundary.
#pragma once

#include <string_view>
#include <vector>

#include "vmm/journal.h"
#include "vmm/state_io.h"
#include "vmm/types.h"

namespace retrovisor {

// Anything with state that is part of the machine.
class Device {
 public:
  virtual ~Device() = default;
  // Name of the device's section in machine state: "pit8254", "lapic3".
  virtual std::string_view name() const = 0;
  // Power-on state.
  virtual void reset() = 0;
  virtual void save(StateWriter& out) const = 0;   // calls out.section(name()) first
  virtual void restore(StateReader& in) = 0;       // every field checked as if hostile; errors through StateReader::check
};

// Port accesses reach a device with at most its `port_width` bytes; the bus splits wider ones into consecutive ports.
class PortDevice : public Device {
 public:
  virtual uint32_t read(uint16_t port, unsigned size) = 0;
  virtual void write(uint16_t port, unsigned size, uint32_t value) = 0;
  virtual unsigned port_width() const { return 1; }
};

// Accesses reach the device with size 1, 2, 4 or 8 and an offset into its range; offset + size never passes the end.
class MmioDevice : public Device {
 public:
  virtual uint64_t mmio_read(uint64_t offset, unsigned size) = 0;
  virtual void mmio_write(uint64_t offset, unsigned size, uint64_t value) = 0;
};

class PortBus {
 public:
  explicit PortBus(Journal& journal) : journal_(journal) {}
  // Later mappings do not override earlier ones: overlap is a bug.
  void map(uint16_t first, unsigned count, PortDevice& device);
  // Ports nobody answers read as all ones; writes to them vanish.
  uint32_t read(uint16_t port, unsigned size);
  void write(uint16_t port, unsigned size, uint32_t value);

 private:
  struct Mapping {
    uint32_t first;
    uint32_t count;
    PortDevice* device;
  };
  PortDevice* find(uint32_t port) const;

  Journal& journal_;
  std::vector<Mapping> mappings_;
};

class MmioBus {
 public:
  explicit MmioBus(Journal& journal) : journal_(journal) {}
  void map(PhysRange range, MmioDevice& device);
  // Moves a device's range (the local APIC can be relocated).
  void remap(MmioDevice& device, PhysRange range);
  // Addresses nobody answers read as all ones; writes to them vanish.
  uint64_t read(PhysAddr addr, unsigned size);
  void write(PhysAddr addr, unsigned size, uint64_t value);

 private:
  struct Mapping {
    PhysRange range;
    MmioDevice* device;
  };
  const Mapping* find(PhysAddr addr, unsigned size) const;

  Journal& journal_;
  std::vector<Mapping> mappings_;
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
