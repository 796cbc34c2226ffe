// A kernel of a few KiB, made by hand, with what the views of a kernel look at: types, a log, tasks, modules. For tests.
#pragma once

#include <array>
#include <cstring>
#include <string_view>
#include <vector>

#include "analysis/linux/kernel.h"
#include "tests/unit/linux/btf_bytes.h"

namespace retrovisor {

class SmallKernel {
 public:
  static constexpr uint64_t kBase = 0xffffffff81000000, kSize = 0x4000;
  // Where things lie.
  static constexpr uint64_t kPrb = kBase + 0x100, kRing = kBase + 0x140, kDescriptors = kBase + 0x200, kInfos = kBase + 0x300, kText = kBase + 0x400;
  static constexpr uint64_t kInit = kBase + 0x1000, kTask = 0x200, kSignal = kBase + 0x2000, kWorker = kBase + 0x2200, kIdle = kBase + 0x2400;
  static constexpr uint64_t kModules = kBase + 0x3000, kFirstModule = kBase + 0x3100, kModule = 0x100, kUse = kBase + 0x3400;
  static constexpr unsigned kCountBits = 2, kTextBits = 7;
  static constexpr uint64_t kFirstId = 6;  // of the log's first record that is there

  SmallKernel() : memory(kSize) {
    make_types();
    make_log();
    make_tasks();
    make_modules();
    symbols.symbols = {{kBase, 'T', "_text"},        {kPrb + 8, 'd', "prb"},     {kPrb, 'd', "prb"},     {kInit, 'D', "init_task"},
                       {kModules, 'd', "modules"},   {kIdle, 'd', "runqueues"},  {kIdle + 0x10, 'D', "__per_cpu_offset"},
                       {kBase + kSize, 'D', "__start_BTF"}, {kBase + memory.size(), 'D', "__stop_BTF"}, {kBase + memory.size(), 'B', "_end"}};
  }

  template <class T>
  void put(uint64_t at, T value) {
    std::memcpy(memory.data() + (at - kBase), &value, sizeof value);
  }
  void words(uint64_t at, std::string_view text) { std::memcpy(memory.data() + (at - kBase), text.data(), text.size()); }
  ImageMemory image() const { return {kBase, memory}; }
  std::unique_ptr<LinuxKernel> kernel() const { return LinuxKernel::of(symbols, image()); }

  // A record; its place is that of `id`.
  void record(uint64_t id, uint64_t state, uint64_t begin, uint64_t next, std::string_view text) {
    const uint64_t index = id % (1 << kCountBits), descriptor = kDescriptors + 24 * index, info = kInfos + 32 * index;
    put(descriptor, id | state << 62);
    put(descriptor + 8, begin);
    put(descriptor + 16, next);
    put(info, id - 4);
    put(info + 8, uint64_t{1'234'567'890} * id);
    put(info + 16, static_cast<uint16_t>(text.size()));
    put(info + 18, uint8_t{3});
    put(info + 19, static_cast<uint8_t>(6 << 5 | 2));
    put(info + 20, static_cast<uint32_t>(id));
    if ((begin & 1) != 0) return;
    const bool wraps = begin >> kTextBits != (next - 1) >> kTextBits;
    words(kText + (wraps ? 0 : begin % (1 << kTextBits)) + 8, text);
  }
  static uint64_t task(unsigned number) { return kInit + kTask * number; }
  static uint64_t module(unsigned number) { return kFirstModule + kModule * number; }
  // Puts a node into a list, at its end.
  void link(uint64_t head, uint64_t node) {
    uint64_t last = 0;
    std::memcpy(&last, memory.data() + (head + 8 - kBase), 8);
    put(node, head);
    put(node + 8, last);
    put(last, node);
    put(head + 8, node);
  }
  void empty_list(uint64_t head) {
    put(head, head);
    put(head + 8, head);
  }

  std::vector<uint8_t> memory;
  KernelSymbols symbols;

 private:
  void make_types() {
    BtfBytes b;
    const uint32_t u64 = b.integer("unsigned long", 8), u32 = b.integer("unsigned int", 4), int_ = b.integer("int", 4, 1),
                   u16 = b.integer("unsigned short", 2), u8 = b.integer("unsigned char", 1), char_ = b.integer("char", 1, 1),
                   pointer = b.add(Btf::Kind::pointer, "", 0);
    const auto text = [&](uint32_t n) { return b.array(char_, int_, n); };
    const uint32_t list = b.structure("list_head", 16, {{"next", pointer, 0}, {"prev", pointer, 64}});
    const uint32_t count64 = b.structure("", 8, {{"counter", u64, 0}}), count32 = b.structure("", 4, {{"counter", int_, 0}});
    const uint32_t lpos = b.structure("prb_data_blk_lpos", 16, {{"begin", u64, 0}, {"next", u64, 64}});
    b.structure("prb_desc", 24, {{"state_var", count64, 0}, {"text_blk_lpos", lpos, 64}});
    const uint32_t descriptors = b.structure(
        "prb_desc_ring", 40, {{"count_bits", u32, 0}, {"descs", pointer, 64}, {"infos", pointer, 128}, {"head_id", count64, 192}, {"tail_id", count64, 256}});
    const uint32_t data = b.structure("prb_data_ring", 16, {{"size_bits", u32, 0}, {"data", pointer, 64}});
    b.structure("printk_ringbuffer", 56, {{"desc_ring", descriptors, 0}, {"text_data_ring", data, 320}});
    b.structure("printk_info", 32, {{"seq", u64, 0}, {"ts_nsec", u64, 64}, {"text_len", u16, 128}, {"facility", u8, 144},
                                    {"flags", u8, 152 | 5 << 24}, {"level", u8, 157 | 3 << 24}, {"caller_id", u32, 160}}, true);
    const uint32_t thread = b.structure("thread_struct", 8, {{"sp", u64, 0}});
    b.structure("task_struct", 256, {{"__state", u32, 0}, {"cpu", u32, 32}, {"stack", pointer, 64}, {"flags", u32, 128}, {"on_cpu", int_, 160},
                                     {"tasks", list, 192}, {"mm", pointer, 320}, {"exit_state", int_, 384}, {"pid", int_, 416}, {"tgid", int_, 448},
                                     {"real_parent", pointer, 512}, {"signal", pointer, 576}, {"thread_node", list, 640}, {"comm", text(16), 768},
                                     {"thread", thread, 896}, {"worker_private", pointer, 960}});
    b.structure("signal_struct", 16, {{"thread_head", list, 0}});
    b.structure("kthread", 8, {{"data", pointer, 0}});
    b.structure("worker", 40, {{"pool", pointer, 0}, {"current_work", pointer, 64}, {"desc", text(24), 128}});
    b.structure("rq", 8, {{"idle", pointer, 0}});
    const uint32_t layout = b.structure("module_layout", 16, {{"base", pointer, 0}, {"size", u32, 64}});
    b.structure("module", 208, {{"state", u32, 0}, {"list", list, 64}, {"name", text(56), 192}, {"core_layout", layout, 640}, {"init_layout", layout, 768},
                                {"source_list", list, 896}, {"refcnt", count32, 1024}, {"init", pointer, 1088}, {"exit", pointer, 1152}});
    b.structure("module_use", 48, {{"source_list", list, 0}, {"target_list", list, 128}, {"source", pointer, 256}, {"target", pointer, 320}});
    const auto bytes = b.build();
    memory.insert(memory.end(), bytes.begin(), bytes.end());
  }

  void make_log() {
    put(kPrb, kRing);  // the other `prb` leads nowhere
    put(kRing, uint32_t{kCountBits});
    put(kRing + 8, kDescriptors);
    put(kRing + 16, kInfos);
    put(kRing + 24, kFirstId + 3);
    put(kRing + 32, kFirstId);
    put(kRing + 40, uint32_t{kTextBits});
    put(kRing + 48, kText);
    constexpr uint64_t kWrap = 1 << kTextBits, kFinal = 2;
    record(kFirstId, kFinal, kWrap + 64, kWrap + 88, "two\nlines");
    record(kFirstId + 1, kFinal, kWrap + 88, 2 * kWrap + 64, "one that begins at the buffer's beginning");
    record(kFirstId + 2, kFinal, 3, 3, "");
    record(kFirstId + 3, 1, 2 * kWrap + 88, 2 * kWrap + 112, "not yet\x1b");
  }

  void one_task(unsigned number, int pid, int tgid, std::string_view name, uint32_t state, uint32_t flags) {
    const uint64_t at = task(number), signal = kSignal + 0x20 * number;
    put(at, state);
    put(at + 8, at + 0x1000);
    put(at + 16, flags);
    put(at + 52, pid);
    put(at + 56, tgid);
    put(at + 64, task(number == 0 ? 0 : 1));
    words(at + 96, name);
    if (pid != tgid) {
      put(at + 72, kSignal + 0x20 * (number - 1));
      return link(kSignal + 0x20 * (number - 1), at + 80);
    }
    put(at + 72, signal);
    empty_list(signal);
    link(signal, at + 80);
    if (number != 0) link(kInit + 24, at + 24);
  }
  void make_tasks() {
    empty_list(kInit + 24);
    one_task(0, 0, 0, "swapper/0", 0, 0x200000);
    one_task(1, 1, 1, "init", 1, 0);
    one_task(2, 7, 7, "kworker/0:1", 0x402, 0x200020);
    one_task(3, 20, 20, "shell", 0, 0);
    one_task(4, 21, 20, "thread", 2, 0);
    one_task(5, 9, 9, "gone", 0, 0);
    put(task(5) + 48, 0x20);
    put(task(3) + 20, 1);
    put(task(2) + 120, kWorker);       // struct kthread
    put(kWorker, kWorker + 0x10);      // struct worker
    put(kWorker + 0x10, kWorker);
    words(kWorker + 0x20, "events");
    put(kIdle, kInit);
  }

  void make_modules() {
    empty_list(kModules);
    for (unsigned i = 0; i < 2; ++i) {
      const uint64_t at = module(i);
      words(at + 24, i == 0 ? "second" : "first");
      put(at + 80, uint64_t{0xffffffffc0000000} + 0x10000 * i);
      put(at + 88, uint32_t{0x4000} + i);
      put(at + 104, uint32_t{0x1000});
      empty_list(at + 112);
      put(at + 128, 1 + static_cast<int>(i));
      link(kModules, at + 8);
    }
    put(module(0) + 136, kBase + 1);
    link(module(1) + 112, kUse);  // the second uses the first
    put(kUse + 32, module(0));
  }
};

}  // namespace retrovisor
