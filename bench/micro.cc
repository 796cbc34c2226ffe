// Micro-benchmarks of what a run spends its time on. Each engine loop runs a few instructions of flat 64-bit code over and
// over; the rate printed as items is retired guest instructions per second.
#include <benchmark/benchmark.h>

#include <cstring>
#include <memory>
#include <vector>

#include "vmm/boot/loader.h"
#include "vmm/machine/machine.h"
#include "vmm/quiet_boundary.h"
#include "vmm/soft/decode.h"

namespace retrovisor {
namespace {

struct FlatGuest {
  explicit FlatGuest(const std::vector<uint8_t>& code) {
    MachineConfig config;
    config.memory_size = uint64_t{64} << 20;
    auto created = Machine::create(config, boundary);
    RV_ASSERT(created.ok());
    machine = std::move(created).value();
    BootImages images;
    images.kernel = code;
    images.flat_address = 0x100000;
    auto loaded = machine->load(images);
    RV_ASSERT(loaded.ok());
    machine->vcpu(VcpuId(0)).state.gpr[RSP] = 0x200000;
    machine->vcpu(VcpuId(0)).state.gpr[RBX] = 0x300000;
  }
  QuietBoundary boundary;
  std::unique_ptr<Machine> machine;
};

constexpr uint64_t kStep = 1 << 20;

void run_loop(benchmark::State& state, const std::vector<uint8_t>& code) {
  FlatGuest guest(code);
  for (auto _ : state) guest.machine->run_until(guest.machine->position() + kStep);
  state.SetItemsProcessed(static_cast<int64_t>(state.iterations()) * static_cast<int64_t>(kStep));
}

// add rax, rcx; xor rdx, rax; lea rsi, [rax+rdx*2+5]; sub rcx, 1; jmp
void arithmetic_loop(benchmark::State& state) {
  run_loop(state, {0x48, 0x01, 0xc8, 0x48, 0x31, 0xc2, 0x48, 0x8d, 0x74, 0x50, 0x05, 0x48, 0x83, 0xe9, 0x01, 0xeb, 0xef});
}
BENCHMARK(arithmetic_loop);

// mov rax, [rbx]; add [rbx+8], rax; mov [rbx+16], rcx; cmp rax, rcx; jne/jmp
void memory_loop(benchmark::State& state) {
  run_loop(state, {0x48, 0x8b, 0x03, 0x48, 0x01, 0x43, 0x08, 0x48, 0x89, 0x4b, 0x10, 0x48, 0x39, 0xc8, 0x75, 0xf0, 0xeb, 0xee});
}
BENCHMARK(memory_loop);

// call next; jmp; next: push rax; pop rdx; ret
void call_loop(benchmark::State& state) {
  run_loop(state, {0xe8, 0x02, 0x00, 0x00, 0x00, 0xeb, 0xf9, 0x50, 0x5a, 0xc3});
}
BENCHMARK(call_loop);

// in al, 0x61; jmp: a device access each round
void port_loop(benchmark::State& state) { run_loop(state, {0xe4, 0x61, 0xeb, 0xfc}); }
BENCHMARK(port_loop);

void decode_instructions(benchmark::State& state) {
  const uint8_t code[] = {0x48, 0x8b, 0x84, 0x24, 0x90, 0, 0, 0, 0x66, 0x0f, 0x6f, 0x05, 1, 2, 3, 4, 0xc3};
  for (auto _ : state) {
    for (size_t at = 0; at < sizeof code;) {
      soft::Insn insn;
      const auto status = soft::decode(code + at, sizeof code - at, 2, insn);
      benchmark::DoNotOptimize(status);
      at += insn.length;
    }
  }
  state.SetItemsProcessed(static_cast<int64_t>(state.iterations()) * 3);
}
BENCHMARK(decode_instructions);

// Decodes and emits 64 blocks of eight instructions each, runs each once, and throws them away; the rate is blocks.
void build_blocks(benchmark::State& state) {
  constexpr size_t kBlocks = 64;
  // mov rax, [rbx]; add rax, [rbx+rcx*8+16]; lea rdx, [rax+rcx]; mov [rbx+8], rdx; shl rdx, 3; movzx esi, dl; cmp rsi, rax; je
  // to what is next anyway
  const std::vector<uint8_t> block = {0x48, 0x8b, 0x03, 0x48, 0x03, 0x44, 0xcb, 0x10, 0x48, 0x8d, 0x14, 0x08, 0x48, 0x89, 0x53, 0x08,
                                      0x48, 0xc1, 0xe2, 0x03, 0x0f, 0xb6, 0xf2, 0x48, 0x39, 0xc6, 0x74, 0x00};
  std::vector<uint8_t> code;
  for (size_t i = 0; i < kBlocks; ++i) code.insert(code.end(), block.begin(), block.end());
  const auto back = -static_cast<int32_t>(code.size()) - 5;
  code.push_back(0xe9);  // jmp to the first
  for (unsigned i = 0; i < 4; ++i) code.push_back(static_cast<uint8_t>(static_cast<uint32_t>(back) >> 8 * i));
  FlatGuest guest(code);
  const uint64_t round = kBlocks * 8 + 1;
  for (auto _ : state) {
    guest.machine->memory().write(PhysAddr(0x100000), code);
    guest.machine->run_until(guest.machine->position() + round);
  }
  state.SetItemsProcessed(static_cast<int64_t>(state.iterations()) * static_cast<int64_t>(kBlocks));
}
BENCHMARK(build_blocks);

// A digest after state.range(0) pages were written.
void digest(benchmark::State& state) {
  FlatGuest guest({0xeb, 0xfe});
  const std::vector<uint8_t> word(8, 0x5a);
  for (auto _ : state) {
    for (int64_t page = 0; page < state.range(0); ++page)
      guest.machine->memory().write(PhysAddr(0x400000 + static_cast<uint64_t>(page) * kPageSize), word);
    benchmark::DoNotOptimize(guest.machine->digest());
  }
  state.SetItemsProcessed(static_cast<int64_t>(state.iterations()) * state.range(0));
}
BENCHMARK(digest)->Arg(1)->Arg(1000);

}  // namespace
}  // namespace retrovisor

BENCHMARK_MAIN();
