// The order of faults, by processor model: recorded on hosts, and checked against the host at hand.
//   fault_order --check MODEL FILE   the soft engine of that model against a recorded table
//   fault_order --host               the soft engine of the host's model against the host itself
//   fault_order --record             prints the host's table
//   fault_order --soft MODEL         prints the soft engine's
#include <fmt/format.h>

#include <cstdio>
#include <fstream>
#include <map>
#include <string_view>

#include "tests/conformance/fault_cases.h"
#include "tests/conformance/native.h"
#include "tests/conformance/soft.h"
#include "vmm/kvm/host_model.h"

namespace retrovisor::conformance {
namespace {

constexpr int kSkipped = 77;  // CTest's SKIP_RETURN_CODE
constexpr unsigned kShown = 1000;
using Table = std::vector<std::pair<std::string, std::string>>;

void prepare(const FaultCase& c, Batch& batch) {
  batch.count = 1;
  c.sequence.write(batch.code.data());
  batch.states[0] = c.sequence.start;
}

Result<Table> of_host() {
  auto native = NativeRunner::create();
  if (!native) return std::move(native).error();
  Batch batch;
  fill_fault_arena(batch.arena);
  Table table;
  for (const FaultCase& c : fault_cases()) {
    prepare(c, batch);
    const auto outcome = (*native)->run(batch);
    if (!outcome) return outcome.error();
    table.emplace_back(c.name, describe_fault(c, batch.arena, **outcome));
  }
  return table;
}

Result<Table> of_soft(ProcessorModel model) {
  auto soft = SoftRunner::create(false, model);
  if (!soft) return std::move(soft).error();
  Batch batch;
  fill_fault_arena(batch.arena);
  Table table;
  for (const FaultCase& c : fault_cases()) {
    prepare(c, batch);
    (*soft)->load(batch);
    Outcome outcome;
    (*soft)->run(c.sequence.start, outcome);
    table.emplace_back(c.name, describe_fault(c, batch.arena, outcome));
  }
  return table;
}

Result<Table> of_file(const char* name) {
  std::ifstream file(name);
  if (!file) return Error{ErrorCode::io, "cannot be read", name};
  Table table;
  for (std::string line; std::getline(file, line);) {
    if (line.empty() || line[0] == '#') continue;
    const size_t tab = line.find('\t');
    if (tab == std::string::npos) return Error{ErrorCode::bad_trace, "no tab in " + line, name};
    table.emplace_back(line.substr(0, tab), line.substr(tab + 1));
  }
  return table;
}

int print(const Result<Table>& table) {
  if (!table) return fmt::print(stderr, "{}\n", table.error().text()), 1;
  for (const auto& [name, text] : *table) fmt::print("{}\t{}\n", name, text);
  return 0;
}

int compare(const Result<Table>& wanted, const Result<Table>& soft) {
  for (const auto* table : {&wanted, &soft})
    if (!*table) return fmt::print(stderr, "{}\n", table->error().text()), 1;
  std::map<std::string_view, std::string_view> have;
  for (const auto& [name, text] : *soft) have.emplace(name, text);
  unsigned differences = 0;
  for (const auto& [name, text] : *wanted) {
    const auto found = have.find(name);
    const std::string_view got = found != have.end() ? found->second : "there is no such case";
    if (got == text) continue;
    if (++differences <= kShown) fmt::print("{}:\n  processor {}\n  soft      {}\n", name, text, got);
  }
  fmt::print("{} of {} cases, {} differences\n", wanted->size(), soft->size(), differences);
  return differences == 0 && !wanted->empty() ? 0 : 1;
}

bool parse(std::string_view text, ProcessorModel& out) {
  if (text == "model") out = ProcessorModel::model;
  else if (text == "amd") out = ProcessorModel::amd;
  else if (text == "intel") out = ProcessorModel::intel;
  else return false;
  return true;
}

int run(int argc, char** argv) {
  const std::string_view what = argc > 1 ? argv[1] : "";
  ProcessorModel model = ProcessorModel::model;
  if (what == "--record" && argc == 2) return print(of_host());
  if (what == "--soft" && argc == 3 && parse(argv[2], model)) return print(of_soft(model));
  if (what == "--check" && argc == 4 && parse(argv[2], model)) return compare(of_file(argv[3]), of_soft(model));
  if (what == "--host" && argc == 2) {
    model = kvm::host_processor_model();
    if (model == ProcessorModel::model) return fmt::print("SKIPPED: the host is neither AMD nor Intel\n"), kSkipped;
    return compare(of_host(), of_soft(model));
  }
  fmt::print(stderr, "usage: fault_order --check MODEL FILE | --host | --record | --soft MODEL\n");
  return 2;
}

}  // namespace
}  // namespace retrovisor::conformance

int main(int argc, char** argv) { return retrovisor::conformance::run(argc, argv); }
