// Reset control register, port 0xcf9. Source: Intel 82371SB (PIIX3) data sheet 2.5.3 (RC).
//
// The register is a byte inside the port range of PCI configuration mechanism 1, which is absent: wider accesses to
// 0xcf8-0xcfb do not reach it and read as all ones.
#pragma once

#include "vmm/bus.h"
#include "vmm/platform.h"

namespace retrovisor {

class ResetControl final : public PortDevice {
 public:
  static constexpr uint16_t kFirstPort = 0xcf8;
  static constexpr unsigned kPorts = 4;

  explicit ResetControl(MachineControl& control) : control_(control) {}

  std::string_view name() const override { return "reset_control"; }
  void reset() override { value_ = 0; }
  void save(StateWriter& out) const override;
  void restore(StateReader& in) override;
  uint32_t read(uint16_t port, unsigned size) override;
  void write(uint16_t port, unsigned size, uint32_t value) override;
  unsigned port_width() const override { return 4; }

 private:
  MachineControl& control_;
  uint8_t value_ = 0;
};

}  // namespace retrovisor
