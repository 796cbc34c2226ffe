#include "vmm/devices/suspend.h"

#include <algorithm>
#include <array>
#include <string_view>

#include "vmm/board/device_context.h"
#include "vmm/devices/machine_map.h"

namespace retrovisor {
namespace {

constexpr uint32_t kEndRealMode = 0x100000;
constexpr unsigned kTableHeader = 36, kRsdtOfRsdp = 16, kLengthOfTable = 4, kFacsOfFadt = 36, kVectorOfFacs = 12;
constexpr unsigned kMostTables = 64;  // looked at; what the guest writes there is not to be believed

// Guest memory as little-endian fields. Nothing where there is no RAM.
class Tables {
 public:
  explicit Tables(const DmaPort& dma) : dma_(dma) {}
  std::optional<uint32_t> u32(uint64_t at) const {
    std::array<uint8_t, 4> b{};
    if (!dma_.read(PhysAddr(at), b)) return std::nullopt;
    return b[0] | static_cast<uint32_t>(b[1]) << 8 | static_cast<uint32_t>(b[2]) << 16 | static_cast<uint32_t>(b[3]) << 24;
  }
  bool begins(uint64_t at, std::string_view signature) const {
    std::array<uint8_t, 8> b{};
    const auto bytes = std::span(b).first(signature.size());
    return dma_.read(PhysAddr(at), bytes) && std::equal(bytes.begin(), bytes.end(), signature.begin());
  }

 private:
  const DmaPort& dma_;
};

}  // namespace

Suspend::Suspend(DeviceContext& context) : vcpus_(context.vcpus()), dma_(context.dma()), restart_(context) {}

void Suspend::stop_processors() {
  for (const auto& v : vcpus_) {
    v->state.activity = Activity::wait_for_sipi;
    v->state.init_pending = v->state.sipi_pending = false;
  }
}

bool Suspend::wake() {
  const auto vector = waking_vector();
  if (!vector || *vector == 0 || *vector >= kEndRealMode) return false;
  return restart_.restart_at({static_cast<uint16_t>(*vector >> 4), static_cast<uint16_t>(*vector & 15)});
}

std::optional<uint32_t> Suspend::waking_vector() const {
  const Tables in(dma_);
  if (!in.begins(machine_map::kRsdp, "RSD PTR ")) return std::nullopt;
  const auto rsdt = in.u32(machine_map::kRsdp + kRsdtOfRsdp);
  if (!rsdt || !in.begins(*rsdt, "RSDT")) return std::nullopt;
  const uint32_t length = in.u32(uint64_t{*rsdt} + kLengthOfTable).value_or(0);
  const uint32_t tables = length < kTableHeader ? 0 : std::min((length - kTableHeader) / 4, kMostTables);
  for (uint32_t i = 0; i < tables; ++i) {
    const auto table = in.u32(uint64_t{*rsdt} + kTableHeader + 4 * i);
    if (!table || !in.begins(*table, "FACP")) continue;
    const auto facs = in.u32(uint64_t{*table} + kFacsOfFadt);
    if (!facs || !in.begins(*facs, "FACS")) return std::nullopt;
    return in.u32(uint64_t{*facs} + kVectorOfFacs);
  }
  return std::nullopt;
}

}  // namespace retrovisor
