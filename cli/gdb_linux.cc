#include "cli/gdb_linux.h"

#include <fmt/format.h>
#include <xxhash.h>

#include <cstring>
#include <memory>
#include <string_view>

#include "analysis/linux/kernel.h"
#include "cli/linux_views.h"

namespace retrovisor::cli {
namespace {

using gdb::Execution;
using gdb::MonitorCommand;
using Words = MonitorCommand::Words;

constexpr size_t kMostFrames = 256;
constexpr uint64_t kUserFrame = ~uint64_t{15};

Result<std::string> show(const LinuxViewCommand& view, KnownKernel& known, Execution& e, Words words) {
  RV_TRY(const LinuxKernel* const kernel, known.in(e.machine()));
  RV_TRY(const auto memory, KernelsMemory::of(e.machine(), *kernel, e.selected()));
  return view.run({e.machine(), *kernel, *memory, words, e.selected(), false});
}

// For the script of --init: a sum of all that follows, the number of frames, and of each what the script's FRAME takes apart.
std::vector<uint8_t> frames_for_script(KnownKernel& known, Execution& e) {
  std::vector<uint64_t> numbers{0, 0};
  const auto kernel = known.in(e.machine());
  const FrameRegisters first = FrameRegisters::of(e.machine().vcpu(e.selected()).state);
  if (kernel && (*kernel)->has_orc() && !first.user) {
    const MachineMemory memory(e.machine().memory(), e.machine().vcpu(e.selected()).state);
    const auto frames = (*kernel)->unwinder(memory).frames(first, kMostFrames);
    numbers[1] = frames.size();
    for (const FrameRegisters& frame : frames) {
      const auto place = (*kernel)->place_of(frame.code());
      uint64_t valid = 0;
      for (size_t i = 0; i < frame.gpr.size(); ++i) valid |= uint64_t{frame.gpr[i].has_value()} << i;
      // gdb wants a caller's frame to lie higher on the stack; a program's stack does not.
      const uint64_t at = frame.user ? kUserFrame : frame.cfa != 0 ? frame.cfa : frame.sp();
      numbers.insert(numbers.end(), {frame.ip, place ? frame.code() - place->offset : 0, at, valid});
      for (const auto& value : frame.gpr) numbers.push_back(value.value_or(0));
    }
  }
  numbers[0] = XXH3_64bits(numbers.data() + 1, (numbers.size() - 1) * 8);
  std::vector<uint8_t> out(numbers.size() * 8);
  std::memcpy(out.data(), numbers.data(), out.size());
  return out;
}

}  // namespace

LinuxView linux_view() {
  const auto known = std::make_shared<KnownKernel>();
  LinuxView out;
  for (const LinuxViewCommand& view : linux_views())
    out.commands.push_back({view.name, view.usage, view.help, [known, &view](Execution& e, Words words) { return show(view, *known, e, words); }});
  out.window = [known](Execution& e) { return frames_for_script(*known, e); };
  return out;
}

// gdb has no unwinder for ORC, and what it may ask for while it unwinds is memory (a packet of its own would make it forget the frame it
// is about). So the server shows all frames of where it stands in a window of memory, and the script finds there whose caller is asked for. A
// caller at 0 is the end for gdb.
std::string gdb_unwinder_script() {
  return fmt::format("python\nRETROVISOR_FRAMES = {:#x}\n", gdb::kWindow) + R"(
import gdb, gdb.FrameDecorator, gdb.unwinder, itertools, struct

class RetrovisorFrameId:
    def __init__(self, sp, pc):
        self.sp, self.pc = gdb.Value(sp), gdb.Value(pc)

class RetrovisorUnwinder(gdb.unwinder.Unwinder):
    """Frames of a recorded Linux kernel, by its own unwind tables."""
    NAMES = ("rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi", "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15")
    FRAME = struct.Struct("<20Q")  # RIP, its function, address of the frame, which registers are known, their values

    def __init__(self):
        super().__init__("retrovisor")
        self.head, self.frames = b"", {}

    def table(self):
        """The frames of the selected thread, by RIP and RSP."""
        memory = gdb.selected_inferior()
        head = memory.read_memory(RETROVISOR_FRAMES, 16).tobytes()
        if head != self.head:
            count = struct.unpack("<2Q", head)[1]
            frames = list(self.FRAME.iter_unpack(memory.read_memory(RETROVISOR_FRAMES + 16, count * self.FRAME.size))) if count else []
            self.frames = {(f[0], f[4 + 4]): (f, caller) for f, caller in zip(frames, frames[1:] + [None])}
            self.head = head
        return self.frames

    def __call__(self, frame):
        try:
            here = tuple(int(frame.read_register(name)) & 0xffffffffffffffff for name in ("rip", "rsp"))
            known, caller = self.table()[here]
        except (gdb.error, gdb.MemoryError, KeyError, ValueError):
            return None
        info = frame.create_unwind_info(RetrovisorFrameId(known[2], known[1]))
        info.add_saved_register("rip", gdb.Value(caller[0] if caller else 0))
        if not caller:
            info.add_saved_register("rsp", gdb.Value(known[2]))
        for number, name in enumerate(self.NAMES):
            if caller and caller[3] >> number & 1:
                info.add_saved_register(name, gdb.Value(caller[4 + number]))
        return info

class RetrovisorFrame(gdb.FrameDecorator.FrameDecorator):
    def function(self):
        name = super().function()
        return name if isinstance(name, str) else self.inferior_frame().name() or "??"

class RetrovisorEnd:
    """A backtrace ends where nobody knows the caller, and not a line later."""
    def __init__(self):
        self.name, self.priority, self.enabled = "retrovisor", 100, True
        gdb.frame_filters[self.name] = self

    def filter(self, frames):
        known = itertools.takewhile(lambda frame: frame.inferior_frame().pc() != 0 or frame.inferior_frame().level() == 0, frames)
        return map(RetrovisorFrame, known)

RetrovisorEnd()
gdb.unwinder.register_unwinder(None, RetrovisorUnwinder(), replace=True)
end
)";
}

}  // namespace retrovisor::cli
