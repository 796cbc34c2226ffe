// Options that several subcommands share, and the readers of their values.
#pragma once

#include <CLI/CLI.hpp>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "vmm/boot/loader.h"
#include "vmm/host/console.h"
#include "vmm/result.h"
#include "vmm/types.h"

namespace retrovisor::cli {

// What a subcommand does once the command line is read; returns the exit code.
using Action = std::function<int()>;

// What --engine takes. Two of the names have a comma in them, so lists of them need another separator.
inline const std::vector<std::string> kEngineNames = {"auto", "soft", "kvm", "kvm,soft", "kvm,step"};
inline constexpr char kEngineList[] = "auto|soft|kvm|kvm,soft|kvm,step";
// Names what there is if it is none of them.
CLI::Validator engine_name();

// Which guest, and in what machine.
struct GuestOptions {
  std::string kernel;
  std::string initrd;
  std::vector<std::string> modules;
  std::string append;
  std::string memory = "512M";
  std::vector<std::string> devices;  // beside those of a PC
  uint32_t vcpus = 1;
  std::string engine = "auto";
  std::string processor_model;  // empty: "model" in the soft engine, the host's under kvm
  std::string flat_address;
  std::string flat_mode = "long64";
};

// Of --gdb-arch.
inline constexpr const char* kGdbArchHelp =
    "what gdb is told the CPU is: x86-64; i386, so that it takes 32-bit programs and shows 32- and 16-bit code; auto: i386 "
    "while no 64-bit code can run and the kernel is a 32-bit ELF file, or 32-bit code runs when gdb connects";

// How it meets the host, and when it ends.
struct LiveRunOptions {
  std::string console;  // empty: stdio, or none if the run is to be deterministic
  std::string time;     // empty: real at a terminal, else virtual
  unsigned slowdown = 1;
  std::string rtc;
  std::string seed;
  bool deterministic = false;
  bool stop_on_panic = false;
  std::string stop_at;
  std::optional<double> timeout;
  std::string idle_limit = "1h";
  std::string gdb;      // where a debugger may connect; empty: nowhere
  std::string gdb_arch = "auto";
};

// What is said at the end, and by which exit code.
struct ReportOptions {
  std::string json_summary;
  bool fail_on_crash = false;
  bool guest_exit_code = false;
  bool no_summary = false;
};

void add_guest_options(CLI::App& app, GuestOptions& options);
void add_live_options(CLI::App& app, LiveRunOptions& options);
void add_report_options(CLI::App& app, ReportOptions& options);

// Readers of values; `option` is named in the error.
// Bytes: digits and K, M, G or T (powers of 1024).
Result<uint64_t> parse_size(const std::string& text, const std::string& option);
// The same for memory, where a number alone counts MiB as in other tools for virtual machines.
Result<uint64_t> parse_memory(const std::string& text, const std::string& option);
// Nanoseconds: digits and one of s, m, h, d; "none" is 0.
Result<uint64_t> parse_duration(const std::string& text, const std::string& option);
// Instructions: digits, ' or _ between them, and k, M or G (powers of 1000).
Result<Position> parse_position(const std::string& text, const std::string& option);
// An unsigned number, decimal or with 0x.
Result<uint64_t> parse_number(const std::string& text, const std::string& option);
// Seconds since 1970, or 2026-01-31T12:34:56 (UTC).
Result<uint64_t> parse_rtc(const std::string& text, const std::string& option);
Result<FlatMode> parse_flat_mode(const std::string& text);
Result<ConsoleOptions> parse_console(const std::string& text);

}  // namespace retrovisor::cli
