// The subcommands. Each adds itself to the command line and sets `action` when it is the one that was asked for.
#pragma once

#include <CLI/CLI.hpp>

#include "cli/options.h"

namespace retrovisor::cli {

void add_run(CLI::App& app, Action& action);
void add_record(CLI::App& app, Action& action);
void add_replay(CLI::App& app, Action& action);
void add_trace(CLI::App& app, Action& action);
void add_trace_convert(CLI::App& trace, Action& action);  // `trace convert`; likewise
void add_trace_dump(CLI::App& trace, Action& action);  // `trace dump`; added by add_trace
void add_gdb(CLI::App& app, Action& action);
void add_debug(CLI::App& app, Action& action);
void add_linux(CLI::App& app, Action& action);
void add_symbols(CLI::App& app, Action& action);
void add_doctor(CLI::App& app, Action& action);
void add_dev(CLI::App& app, Action& action);

}  // namespace retrovisor::cli
