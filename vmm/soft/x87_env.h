// Control and environment. Each function picks the handler of an encoding for emit_x87.cc; nullptr means that
// there is no such instruction.
#pragma once

#include "vmm/soft/op.h"

namespace retrovisor::soft {

enum class X87Control : uint8_t {
  wait, nop, ignored,  // FWAIT; FNOP; FNENI, FNDISI and FNSETPM
  clear_exceptions, initialize,
  load_control, store_control, store_status, store_status_ax,
  load_environment, store_environment, restore, save,
  free, free_pop, decrement_top, increment_top,
};
Handler x87_control_handler(X87Control what);

}  // namespace retrovisor::soft
