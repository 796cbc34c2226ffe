// What an engine has to be asked that lets the host's processor execute guest code: its state lies in the host's kernel, a run can be
// interrupted where no instruction count says where, and what the guest writes is not seen.
#pragma once

#include <cstdint>

#include "vmm/vcpu.h"

namespace retrovisor {

class HostEngine {
 public:
  virtual ~HostEngine() = default;
  // Finishes the instruction whose event was the last, if it is not finished yet. True: it had another event.
  virtual bool settle(Vcpu& vcpu) = 0;
  // Can an interrupt be delivered before the next instruction?
  virtual bool can_deliver(Vcpu& vcpu) = 0;
  // Brings parts of the state up to date that run() leaves aside.
  virtual void complete(Vcpu& vcpu) = 0;
  // Marks pages dirty that were written unseen, and takes back whatever the engine had put into guest memory.
  virtual void find_dirty() = 0;
  // Whether run() may return EngineStop::kicked.
  virtual void allow_kicks(bool on) = 0;
  // The host's count of instructions since the last event; 0: there is none.
  virtual uint64_t progress() = 0;
};

}  // namespace retrovisor
