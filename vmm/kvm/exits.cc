// What the engine does with KVM's exits.
#include <cstring>

#include <fmt/format.h>

#include "vmm/cpu/msr.h"
#include "vmm/kvm/engine_impl.h"
#include "vmm/kvm/msr_filter.h"
#include "vmm/mmio_split.h"

namespace retrovisor::kvm {

KvmEngine::Next KvmEngine::exited(Vcpu& vcpu) {
  const kvm_run& run = vcpu_->run_area();
  switch (run.exit_reason) {
    case KVM_EXIT_IO: return port_access(vcpu);
    case KVM_EXIT_MMIO: return mmio_access(vcpu);
    case KVM_EXIT_X86_RDMSR: return msr_access(vcpu, false);
    case KVM_EXIT_X86_WRMSR: return msr_access(vcpu, true);
    case KVM_EXIT_HLT: return halt(vcpu);
    case KVM_EXIT_INTERNAL_ERROR:
    case KVM_EXIT_DEBUG: return trapped(vcpu);
    case KVM_EXIT_IRQ_WINDOW_OPEN:
    case KVM_EXIT_INTR: return Next::kicked;
    case KVM_EXIT_SET_TPR:
      return vcpu.intr && kicker_ != nullptr ? Next::window : Next::again;  // run_kvm() has passed the new value on
    case KVM_EXIT_SHUTDOWN: return Next::shutdown;
    case KVM_EXIT_FAIL_ENTRY:
      return unexpected(fmt::format("the processor refuses to enter the guest (KVM_EXIT_FAIL_ENTRY, reason {:#x})",
                                    run.fail_entry.hardware_entry_failure_reason));
    default: return unexpected(fmt::format("KVM_RUN ended with exit reason {}", run.exit_reason));
  }
}

KvmEngine::Next KvmEngine::unexpected(const std::string& what) {
  fail({ErrorCode::unsupported, what + ", which this engine does not know; use --engine=soft", "engine"});
  return Next::failed;
}

KvmEngine::Next KvmEngine::port_access(Vcpu& vcpu) {
  const kvm_run& run = vcpu_->run_area();
  const std::span<uint8_t> data = vcpu_->io_data();
  const unsigned size = run.io.size;
  if (data.size() != uint64_t{size} * run.io.count || (size != 1 && size != 2 && size != 4))
    return unexpected("a port access without its data (KVM_EXIT_IO)");
  pending_ = true;
  for (uint32_t i = 0; i < run.io.count; ++i) {
    uint8_t* at = data.data() + size_t{i} * size;
    platform_.control.synchronous_event();
    uint32_t value = 0;
    if (run.io.direction == KVM_EXIT_IO_OUT) {
      std::memcpy(&value, at, size);
      platform_.ports.write(vcpu.id, run.io.port, size, value);
    } else {
      value = platform_.ports.read(vcpu.id, run.io.port, size);
      std::memcpy(at, &value, size);
    }
  }
  return Next::event;
}

KvmEngine::Next KvmEngine::mmio_access(Vcpu& vcpu) {
  kvm_run& run = vcpu_->run_area();
  const unsigned size = run.mmio.len;
  if (size == 0 || size > 8) return unexpected("an MMIO access without its data (KVM_EXIT_MMIO)");
  pending_ = true;
  const PhysAddr address(run.mmio.phys_addr);
  split_mmio(address.value, size, [&](unsigned offset, unsigned piece) {
    uint64_t value = 0;
    platform_.control.synchronous_event();
    if (run.mmio.is_write != 0) {
      std::memcpy(&value, run.mmio.data + offset, piece);
      platform_.mmio.write(vcpu.id, address + offset, piece, value);
    } else {
      value = platform_.mmio.read(vcpu.id, address + offset, piece);
      std::memcpy(run.mmio.data + offset, &value, piece);
    }
  });
  return Next::event;
}

KvmEngine::Next KvmEngine::msr_access(Vcpu& vcpu, bool write) {
  kvm_run& run = vcpu_->run_area();
  pending_ = true;
  // Registers that KVM should keep come here, too, where it does not know them, refuses the value or takes any (msr_filter.h).
  const bool event = !msr_kept_by_cpu(run.msr.index);
  if (event) platform_.control.synchronous_event();
  const VirtualTime now = platform_.clock.now();
  uint64_t value = run.msr.data;
  bool allowed = true;
  if (write) {
    // All MSRs move together: those that KVM has come here first, and what is written goes there with them.
    const bool carried = msr_field(vcpu.state, run.msr.index) != nullptr;
    if (carried && (in_kvm_ & part::msrs) != 0 && !ok(carrier_->store(*vcpu_, vcpu.state, around_, part::msrs))) return Next::failed;
    allowed = write_msr(vcpu, now, run.msr.index, value);
    if (run.msr.index == msr::APIC_BASE && !show_apic_base(vcpu)) return Next::failed;
    if (carried) {
      in_kvm_ &= ~part::msrs;
      changed_ |= part::msrs;
    }
  } else if (run.msr.index == msr::TSC) {
    value = vcpu.state.tsc(now);
    platform_.journal.log(EventKind::tsc_read, value);
  } else {
    allowed = read_msr(vcpu, now, run.msr.index, value);
  }
  run.msr.error = allowed ? 0 : 1;
  if (!write && allowed) run.msr.data = value;
  if (write && allowed && msr_in_sregs(run.msr.index)) return finish_sregs_write(vcpu, run.msr.index, value);
  return event ? Next::event : Next::again;
}

// EFER and the bases move with SREGS: KVM finishes the instruction with its own, and then gets the new one.
KvmEngine::Next KvmEngine::finish_sregs_write(Vcpu& vcpu, uint32_t index, uint64_t value) {
  const bool drained = drain(vcpu);
  if (failure_) return Next::failed;
  if (!drained) return exited(vcpu);
  (void)write_msr(vcpu, platform_.clock.now(), index, value);
  soft_stale_ = true;
  changed_ |= part::core;
  return Next::again;
}

KvmEngine::Next KvmEngine::halt(Vcpu& vcpu) {
  platform_.control.synchronous_event();
  vcpu.state.activity = Activity::halted;
  return Next::event;
}

// An instruction that KVM does not execute: a breakpoint of ours, or one that it cannot emulate.
KvmEngine::Next KvmEngine::trapped(Vcpu& vcpu) {
  const kvm_run& run = vcpu_->run_area();
  if (stepped() && run.exit_reason == KVM_EXIT_DEBUG) return Next::again;
  if (run.exit_reason == KVM_EXIT_INTERNAL_ERROR && run.internal.suberror != KVM_INTERNAL_ERROR_EMULATION)
    return unexpected(fmt::format("KVM reports an internal error {} (KVM_EXIT_INTERNAL_ERROR)", run.internal.suberror));
  const auto* site = patches_on_ ? patched_site(vcpu.state) : nullptr;
  if (site != nullptr && site->instruction.kind == PatchKind::place) program_reads_tsc(vcpu);
  counts_.patched = patches_.sites().size();
  return assist(vcpu);
}

KvmEngine::Next KvmEngine::assist(Vcpu& vcpu) {
  const uint64_t events = platform_.clock.events();
  ++counts_.assists;
  find_dirty();  // the code as the guest wrote it
  ++counts_.assisted[names_.at_rip(vcpu.state, platform_.memory)];
  switch (run_soft(vcpu, 1)) {
    case EngineStop::triple_fault: return Next::shutdown;
    case EngineStop::halted: return Next::halted;
    case EngineStop::failed: return Next::failed;
    default: return platform_.clock.events() != events ? Next::event : Next::again;
  }
}

}  // namespace retrovisor::kvm
