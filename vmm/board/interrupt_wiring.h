// Interrupt lines between devices and controllers: a device drives a line, and every controller that has taken it hears of it.
#pragma once

#include <vector>

#include "vmm/bus.h"

namespace retrovisor {

// One line, or a group of numbered ones, that several listen to, in the order in which they were added.
class FanOut final : public IrqSink {
 public:
  void add(IrqSink& sink) { sinks_.push_back(&sink); }
  // Told behind all that are only added: it passes the level on, and they should know by then.
  void add_last(IrqSink& sink) { last_.push_back(&sink); }
  void set_irq(unsigned line, bool level) override {
    for (IrqSink* sink : sinks_) sink->set_irq(line, level);
    for (IrqSink* sink : last_) sink->set_irq(line, level);
  }

 private:
  std::vector<IrqSink*> sinks_, last_;
};

inline constexpr unsigned kIsaLines = 16;

struct InterruptWiring {
  FanOut isa;       // lines below kIsaLines
  FanOut gsi;       // pins of the IO-APIC, by global system interrupt
  FanOut pic_intr;  // INTR of the 8259A pair: LINT0 of every local APIC, and a pin of the IO-APIC
};

}  // namespace retrovisor
