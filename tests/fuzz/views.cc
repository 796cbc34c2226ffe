// A kernel whose log, tasks and modules lie in hostile memory: views of it end in bounded time, and with what could be read.
#include "analysis/linux/dmesg.h"
#include "analysis/linux/modules.h"
#include "analysis/linux/tasks.h"
#include "tests/fuzz/target.h"
#include "tests/unit/linux/small_kernel.h"

namespace retrovisor::fuzz {

size_t max_input() { return 4096; }

// Each change: where, how, and what to write. Odd: an address in the kernel; its types stay.
void run(std::span<const uint8_t> data) {
  static const SmallKernel untouched;
  static const auto kernel = untouched.kernel();
  SmallKernel small = untouched;
  Input input(data);
  while (!input.empty()) {
    const uint64_t at = SmallKernel::kBase + input.number<uint16_t>() % (SmallKernel::kSize - 8);
    const uint8_t how = input.byte();
    if ((how & 1) != 0) small.put(at & ~uint64_t{7}, SmallKernel::kBase + input.number<uint16_t>() % (SmallKernel::kSize + 0x100));
    else if ((how & 2) != 0) small.put(at, input.number<uint32_t>());
    else small.put(at, input.number<uint64_t>());
  }
  const ImageMemory memory = small.image();
  if (const auto log = read_log(*kernel, memory)) {
    size_t bytes = 0;
    for (const LogRecord& r : log->records) {
      FUZZ_CHECK(!log_text(r).empty());
      bytes += r.text.size();
    }
    // At most twice a buffer that is said to have 2^27 bytes, and never more than 64 KiB a record.
    FUZZ_CHECK(bytes <= log->records.size() * 65536 && bytes <= uint64_t{2} << 27);
  }
  if (const auto tasks = read_tasks(*kernel, memory)) {
    FUZZ_CHECK(!tasks_text(*tasks).empty());
    for (const KernelTask& t : tasks->tasks) FUZZ_CHECK(!stack_of(*kernel, memory, t, {}, 10).ok());  // there are no tables
  }
  if (const auto modules = read_modules(*kernel, memory)) FUZZ_CHECK(!modules_text(*modules).empty());
}

std::vector<Bytes> seeds() {
  Bytes one, other;
  const auto pointer = [](Bytes& out, uint64_t at, uint64_t to) {
    append(out, static_cast<uint16_t>(at - SmallKernel::kBase));
    out.push_back(1);
    append(out, static_cast<uint16_t>(to - SmallKernel::kBase));
  };
  pointer(one, SmallKernel::task(3) + 24, SmallKernel::task(1) + 24);
  pointer(one, SmallKernel::kRing + 24, SmallKernel::kBase);
  pointer(other, SmallKernel::kUse, SmallKernel::kUse);
  append(other, static_cast<uint16_t>(SmallKernel::kRing - SmallKernel::kBase));
  other.push_back(2);
  append(other, uint32_t{20});
  return {{}, one, other};
}

}  // namespace retrovisor::fuzz
