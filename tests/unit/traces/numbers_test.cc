// The numbers that traces store for enumerators (traces/trace.fbs). What stands here never changes; new ones are put behind.
#include <gtest/gtest.h>

#include <utility>
#include <vector>

#include "traces/chunk.h"
#include "traces/payloads.h"
#include "vmm/boot/loader.h"

namespace retrovisor {
namespace {

template <class E>
constexpr bool numbered(std::initializer_list<E> in_order, unsigned first = 0) {
  for (const E e : in_order)
    if (static_cast<unsigned>(e) != first++) return false;
  return true;
}

using enum StopReason;
static_assert(numbered({position, power_off, reset, triple_fault, debug_exit, guest_panic, halted_forever, stuck, host_request, observed,
                        engine_failed}));
static_assert(static_cast<unsigned>(kLastStopReason) == 10);
static_assert(numbered({PositionUnit::instructions, PositionUnit::events}));
static_assert(numbered({TimeSource::instructions, TimeSource::events}));
static_assert(numbered({TimeMode::virtual_time, TimeMode::real_time}));
static_assert(numbered({ProcessorModel::model, ProcessorModel::amd, ProcessorModel::intel, ProcessorModel::amd_zen3}));
static_assert(numbered({UserTsc::direct, UserTsc::by_exception}));
static_assert(numbered({DigestDetail::sums, DigestDetail::fields, DigestDetail::full}));
static_assert(numbered({ImageRole::kernel, ImageRole::initrd, ImageRole::module}));
static_assert(numbered({FlatMode::real16, FlatMode::protected32, FlatMode::long64}));
static_assert(numbered({ChunkKind::header, ChunkKind::log, ChunkKind::field_names, ChunkKind::key_frame, ChunkKind::end}, 1));
static_assert(numbered({EventKind::interrupt, EventKind::timer, EventKind::port_read, EventKind::port_write, EventKind::mmio_read,
                        EventKind::mmio_write, EventKind::tsc_read, EventKind::rdrand, EventKind::dma, EventKind::vcpu_switch,
                        EventKind::exception, EventKind::exception_lost}));
static_assert(numbered({EventKind::wall_clock, EventKind::entropy, EventKind::console_input, EventKind::idle_wait, EventKind::packet,
                        EventKind::disk_read, EventKind::host_stop, EventKind::time_passed, EventKind::deliver, EventKind::landing,
                        EventKind::directory_read},
                       32));
static_assert(numbered({InterruptSource::local_apic, InterruptSource::pic, InterruptSource::nmi}));  // in an interrupt's event
// In states, which key frames hold.
static_assert(numbered({Activity::running, Activity::halted, Activity::wait_for_sipi, Activity::shutdown}));
static_assert(numbered({Shadow::none, Shadow::interrupts, Shadow::debug}));

// Byte by byte: what an end marker says, and what is no reason to end a recording.
TEST(TraceNumbers, end_markers_hold_every_reason_that_ends_a_recording) {
  for (unsigned number = 0; number < 256; ++number) {
    EndRecord e;
    e.stop.reason = static_cast<StopReason>(number);
    const auto read = decode_end(encode_end(e));
    ASSERT_EQ(read.ok(), number <= 8) << number;
    if (read) EXPECT_EQ(static_cast<unsigned>(read->stop.reason), number);
    else EXPECT_NE(read.error().text().find("unknown stop reason " + std::to_string(number)), std::string::npos);
  }
}

}  // namespace
}  // namespace retrovisor
