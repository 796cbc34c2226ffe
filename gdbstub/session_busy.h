// What a session does for its client, for as long as it does it.
#pragma once

#include "gdbstub/session.h"

namespace retrovisor::gdb {

class Session::Busy {
 public:
  Busy(Session& session, Doing doing, KeepAlive::Sign sign) : session_(session), before_(session.doing_) {
    session_.doing_ = doing;
    session_.stopping_ = session_.left_ = false;
    session_.keep_alive_.busy(sign);
    session_.heard_ = KeepAlive::Clock::now();
  }
  ~Busy() {
    session_.doing_ = before_;
    session_.stopping_ = session_.left_ = false;
    session_.keep_alive_.busy(KeepAlive::Sign::none);
  }
  Busy(const Busy&) = delete;
  Busy& operator=(const Busy&) = delete;

 private:
  Session& session_;
  Doing before_;
};

}  // namespace retrovisor::gdb
