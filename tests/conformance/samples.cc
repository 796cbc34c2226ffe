// The format, one item a line:
//
//   conformance-samples 1
//   processor AuthenticAMD family 25 model 1 stepping 1
//   model amd
//   flags 8d5                      RFLAGS bits that were recorded (all, without this line)
//   no-vectors                     x87 and SSE registers were not recorded
//   base intel-flags.zst           the samples are those of another file; only answers that differ follow, as "@number > answer"
//   left-out ANDN r,r 63           samples of the source that were not taken over
//   form SHL r,CL                  name of what follows
//   64 48d3e0 rcx=41 rax=8000 > rax=10000 flags=a06
//   32 f7f1 rcx=0 > #DE
//
// A sample is its mode, the code, the values before, and behind ">" what changed. A value that is not named is that of
// sample_start before, and unchanged after. Registers are hexadecimal numbers, memory is "@offset=bytes" from the arena's begin.
// An exception is "#" and its name, then "error=", "cr2=", "rip=" (of the instruction, unless told).
#include "tests/conformance/samples.h"

#include <fmt/format.h>
#include <zstd.h>

#include <algorithm>
#include <charconv>
#include <cstring>
#include <fstream>
#include <iterator>
#include <optional>

#include "tests/conformance/closeness.h"
#include "tests/conformance/compare.h"
#include "tests/conformance/soft.h"
#include "vmm/assert.h"
#include "vmm/cpu/registers.h"

namespace retrovisor::conformance {
namespace {

constexpr std::string_view kMagic = "conformance-samples 1";
constexpr size_t kMostText = size_t{64} << 20;
constexpr unsigned kSt = 32, kXmm = 160;  // in the FXSAVE image

uint8_t* bytes_of(State& s) { return reinterpret_cast<uint8_t*>(&s); }
const uint8_t* bytes_of(const State& s) { return reinterpret_cast<const uint8_t*>(&s); }

// --- text ------------------------------------------------------------------------------------------------------------

std::string number_text(const uint8_t* bytes, size_t size) {
  std::string out;
  for (size_t i = size; i-- > 0;) {
    if (!out.empty()) out += fmt::format("{:02x}", bytes[i]);
    else if (bytes[i] != 0) out = fmt::format("{:x}", bytes[i]);
  }
  return out.empty() ? "0" : out;
}

int digit_of(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

bool parse_number(std::string_view text, uint8_t* bytes, size_t size) {
  if (text.empty() || text.size() > 2 * size) return false;
  std::fill(bytes, bytes + size, uint8_t{0});
  for (size_t i = 0; i < text.size(); ++i) {
    const int digit = digit_of(text[text.size() - 1 - i]);
    if (digit < 0) return false;
    bytes[i / 2] = static_cast<uint8_t>(bytes[i / 2] | digit << (i % 2 * 4));
  }
  return true;
}

std::optional<uint64_t> parse_number(std::string_view text) {
  uint64_t v = 0;
  if (!parse_number(text, reinterpret_cast<uint8_t*>(&v), sizeof v)) return std::nullopt;
  return v;
}

std::optional<std::vector<uint8_t>> parse_bytes(std::string_view text) {
  if (text.empty() || text.size() % 2 != 0) return std::nullopt;
  std::vector<uint8_t> out;
  for (size_t i = 0; i < text.size(); i += 2) {
    const int high = digit_of(text[i]), low = digit_of(text[i + 1]);
    if (high < 0 || low < 0) return std::nullopt;
    out.push_back(static_cast<uint8_t>(high << 4 | low));
  }
  return out;
}

std::string bytes_text(const std::vector<uint8_t>& bytes) {
  std::string out;
  for (const uint8_t b : bytes) out += fmt::format("{:02x}", b);
  return out;
}

std::string_view take_word(std::string_view& line) {
  line.remove_prefix(std::min(line.find_first_not_of(' '), line.size()));
  const std::string_view word = line.substr(0, line.find(' '));
  line.remove_prefix(word.size());
  return word;
}

constexpr std::string_view kModeNames[kModes] = {"64", "32", "16"};

bool parse_value(std::string_view word, State& state, std::vector<Patch>& memory) {
  const size_t equals = word.find('=');
  if (equals == std::string_view::npos) return false;
  const std::string_view name = word.substr(0, equals), value = word.substr(equals + 1);
  if (name.starts_with('@')) {
    const auto offset = parse_number(name.substr(1));
    auto bytes = parse_bytes(value);
    if (!offset || !bytes || *offset > kArenaSize || bytes->size() > kArenaSize - *offset) return false;
    memory.push_back({static_cast<uint32_t>(*offset), std::move(*bytes)});
    return true;
  }
  const auto& all = state_parts();
  const auto field = std::find_if(all.begin(), all.end(), [&](const StatePart& f) { return f.name == name; });
  return field != all.end() && parse_number(value, bytes_of(state) + field->offset, field->size);
}

// What is behind ">".
bool parse_answer(std::string_view line, Sample& out) {
  out.after = out.before;
  out.memory_after.clear();
  out.vector = kNoFault;
  out.error_code = 0;
  out.cr2 = 0;
  for (std::string_view word = take_word(line); !word.empty(); word = take_word(line)) {
    if (word.starts_with('#')) {
      out.vector = 0;
      while (out.vector < 20 && word != vector_name(out.vector)) ++out.vector;
      if (out.vector == 20) return false;
    } else if (word.starts_with("error=") || word.starts_with("cr2=")) {
      const auto value = parse_number(word.substr(word.find('=') + 1));
      if (!value) return false;
      if (word.starts_with("cr2=")) out.cr2 = *value;
      else out.error_code = static_cast<uint32_t>(*value);
    } else if (!parse_value(word, out.after, out.memory_after)) {
      return false;
    }
  }
  return true;
}

bool parse_sample(std::string_view line, const std::string& form, Sample& out) {
  out.form = form;
  const std::string_view mode = take_word(line);
  const auto* known = std::find(std::begin(kModeNames), std::end(kModeNames), mode);
  if (known == std::end(kModeNames)) return false;
  out.mode = static_cast<Mode>(known - std::begin(kModeNames));
  auto code = parse_bytes(take_word(line));
  if (!code || code->size() > kSlotSize - 16) return false;
  out.code = std::move(*code);
  out.before = sample_start(out.mode);
  for (std::string_view word = take_word(line); word != ">"; word = take_word(line)) {
    if (word.empty() || !parse_value(word, out.before, out.memory_before)) return false;
  }
  return parse_answer(line, out);
}

// --- files -----------------------------------------------------------------------------------------------------------

Result<std::string> read_text(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  if (!in) return Error{ErrorCode::io, "cannot open it", path};
  std::string text{std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>()};
  if (!path.ends_with(".zst")) return text;
  const auto size = ZSTD_getFrameContentSize(text.data(), text.size());
  if (size == ZSTD_CONTENTSIZE_ERROR || size == ZSTD_CONTENTSIZE_UNKNOWN || size > kMostText) {
    return Error{ErrorCode::io, "is not compressed by zstd with its size", path};
  }
  std::string out(size, '\0');
  if (ZSTD_decompress(out.data(), out.size(), text.data(), text.size()) != size) {
    return Error{ErrorCode::io, "cannot be decompressed", path};
  }
  return out;
}

Result<void> write_text(const std::string& path, std::string text) {
  if (path.ends_with(".zst")) {
    std::string packed(ZSTD_compressBound(text.size()), '\0');
    const size_t size = ZSTD_compress(packed.data(), packed.size(), text.data(), text.size(), 19);
    if (ZSTD_isError(size) != 0) return Error{ErrorCode::io, ZSTD_getErrorName(size), path};
    packed.resize(size);
    text = std::move(packed);
  }
  std::ofstream out(path, std::ios::binary | std::ios::trunc);
  out << text;
  if (!out.flush()) return Error{ErrorCode::io, "cannot be written", path};
  return {};
}

std::string values_text(const State& now, const State& base, const std::vector<Patch>& memory) {
  std::string out;
  for (const StatePart& f : state_parts()) {
    if (std::memcmp(bytes_of(now) + f.offset, bytes_of(base) + f.offset, f.size) == 0) continue;
    out += fmt::format(" {}={}", f.name, number_text(bytes_of(now) + f.offset, f.size));
  }
  for (const Patch& p : memory) out += fmt::format(" @{:x}={}", p.offset, bytes_text(p.bytes));
  return out;
}

std::string answer_text(const Sample& s) {
  std::string out = ">";
  if (s.vector != kNoFault) out += fmt::format(" {}", vector_name(s.vector));
  if (s.error_code != 0) out += fmt::format(" error={:x}", s.error_code);
  if (s.cr2 != 0) out += fmt::format(" cr2={:x}", s.cr2);
  State after = s.after;
  if (s.vector == kNoFault) {  // where the way out has led to
    after.rip = s.before.rip;
    after.selector[CS] = s.before.selector[CS];
  }
  return out + values_text(after, s.before, s.memory_after);
}

std::string sample_text(const Sample& s) {
  return fmt::format("{} {}{} {}", kModeNames[static_cast<unsigned>(s.mode)], bytes_text(s.code),
                     values_text(s.before, sample_start(s.mode), s.memory_before), answer_text(s));
}

std::string beside(const std::string& path, const std::string& name) {
  return path.substr(0, path.rfind('/') == std::string::npos ? 0 : path.rfind('/') + 1) + name;
}

// The same, as far as it was recorded.
bool same_answer(const SampleFile& file, const Sample& a, const Sample& b) {
  const auto told = [&](Sample s) {
    s.after.rflags &= file.flags_mask;
    if (!file.vectors) s.after.fx = {};
    return answer_text(s);
  };
  return told(a) == told(b);
}

// Results of these lie within an error bound; the engine has a function of its own.
bool approximate(std::string form) {
  if (form.ends_with('~')) return true;  // the recorder's mark
  static constexpr std::string_view kForms[] = {"f2xm1", "fyl2x", "fyl2xp1", "fsin", "fcos", "fsincos", "fptan", "fpatan"};
  for (char& c : form) c = c >= 'A' && c <= 'Z' ? static_cast<char>(c + 32) : c;
  return std::find(std::begin(kForms), std::end(kForms), form) != std::end(kForms);
}

// Samples without vectors store such results at RSI+32 and +48, and the status word at +60: what lies within the bound, and
// then C1 (which way it was rounded), is taken over.
void forgive_approximation(const Outcome& got, Outcome& want) {
  constexpr uint32_t kResults = kPageSize;  // the line RSI points at
  constexpr uint8_t kC1 = 2;
  const auto line = [](auto& outcome) {
    auto* const end = outcome.lines.data() + std::min(outcome.lines_count, kMaxLines);
    return std::find_if(outcome.lines.data(), end, [](const Line& l) { return l.offset == kResults; });
  };
  if (got.lines_count != want.lines_count || want.lines_count != 1) return;
  const Line& g = *line(got);
  Line& w = *line(want);
  if (g.offset != kResults || w.offset != kResults) return;
  for (const unsigned at : {32u, 48u}) {
    if (!close_extended(&w.bytes[at], &g.bytes[at])) return;
    std::copy_n(&g.bytes[at], 10, &w.bytes[at]);
  }
  w.bytes[61] = static_cast<uint8_t>((w.bytes[61] & ~kC1) | (g.bytes[61] & kC1));
}

}  // namespace

const std::vector<StatePart>& state_parts() {
  static const std::vector<StatePart> all = [] {
    std::vector<StatePart> out;
    static constexpr const char* kGpr[16] = {"rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi",
                                             "r8",  "r9",  "r10", "r11", "r12", "r13", "r14", "r15"};
    static constexpr const char* kSegments[6] = {"es", "cs", "ss", "ds", "fs", "gs"};
    const size_t fx = offsetof(State, fx);
    for (size_t i = 0; i < 16; ++i) out.push_back({kGpr[i], offsetof(State, gpr) + 8 * i, 8});
    out.push_back({"flags", offsetof(State, rflags), 8});
    out.push_back({"rip", offsetof(State, rip), 8});
    out.push_back({"fsb", offsetof(State, fs_base), 8});
    out.push_back({"gsb", offsetof(State, gs_base), 8});
    for (size_t i = 0; i < 6; ++i) out.push_back({kSegments[i], offsetof(State, selector) + 2 * i, 2});
    out.push_back({"fcw", fx, 2});
    out.push_back({"fsw", fx + 2, 2});
    out.push_back({"ftw", fx + 4, 1});
    out.push_back({"mxcsr", fx + 24, 4});
    for (size_t i = 0; i < 8; ++i) out.push_back({fmt::format("st{}", i), fx + kSt + 16 * i, 10});
    for (size_t i = 0; i < 16; ++i) out.push_back({fmt::format("x{}", i), fx + kXmm + 16 * i, 16});
    return out;
  }();
  return all;
}

State sample_start(Mode mode) {
  State s = empty_sequence(mode).start;
  s.gpr[RSI] = kArena + kPageSize;
  return s;
}

Result<SampleFile> read_samples(const std::string& path) {
  auto text = read_text(path);
  if (!text.ok()) return text.error();
  SampleFile file;
  std::string form;
  std::string_view rest = *text;
  uint64_t number = 0;
  while (!rest.empty()) {
    std::string_view line = rest.substr(0, rest.find('\n'));
    rest.remove_prefix(std::min(rest.size(), line.size() + 1));
    const auto bad = [&](const char* what) {
      return Error{ErrorCode::io, fmt::format("line {}: {}", number, what), path};
    };
    if (++number == 1) {
      if (line != kMagic) return bad("this is no file of samples");
      continue;
    }
    std::string_view words = line;
    const std::string_view first = take_word(words);
    const std::string_view tail = words.empty() ? words : words.substr(1);
    if (first == "processor") {
      file.processor = tail;
    } else if (first == "model") {
      const auto model = processor_model_named(tail);
      if (!model) return bad("no processor model");
      file.model = *model;
    } else if (first == "flags") {
      const auto mask = parse_number(tail);
      if (!mask) return bad("no number");
      file.flags_mask = *mask;
    } else if (first == "no-vectors") {
      file.vectors = false;
    } else if (first == "left-out") {
      const size_t space = tail.rfind(' ');
      uint64_t count = 0;
      if (space == std::string_view::npos) return bad("no number");
      std::from_chars(tail.data() + space + 1, tail.data() + tail.size(), count);
      file.left_out[std::string(tail.substr(0, space))] = count;
    } else if (first == "base") {
      if (!file.base.empty() || tail.find('/') != std::string_view::npos) return bad("no name of a file beside this one");
      auto base = read_samples(beside(path, std::string(tail)));
      if (!base.ok()) return base.error();
      if (!base->base.empty()) return bad("its base has a base, too");
      file.samples = std::move(base->samples);
      file.flags_mask = base->flags_mask;
      file.vectors = base->vectors;
      file.left_out = std::move(base->left_out);
      file.base = tail;
    } else if (first.starts_with('@')) {
      uint64_t index = 0;
      std::from_chars(first.data() + 1, first.data() + first.size(), index);
      if (index >= file.samples.size() || take_word(words) != ">") return bad("no answer to a sample");
      if (!parse_answer(words, file.samples[index])) return bad("no answer");
    } else if (first == "form") {
      form = tail;
    } else if (!first.empty()) {
      if (!parse_sample(line, form, file.samples.emplace_back())) return bad("no sample");
    }
  }
  return file;
}

Result<void> write_samples(const std::string& path, const SampleFile& file) {
  std::string text = fmt::format("{}\nprocessor {}\nmodel {}\n", kMagic, file.processor, name_of(file.model));
  if (!file.base.empty()) {
    auto base = read_samples(beside(path, file.base));
    if (!base.ok()) return base.error();
    RV_ASSERT(base->samples.size() == file.samples.size());
    text += fmt::format("base {}\n", file.base);
    for (size_t i = 0; i < file.samples.size(); ++i) {
      if (!same_answer(file, base->samples[i], file.samples[i])) text += fmt::format("@{} {}\n", i, answer_text(file.samples[i]));
    }
    return write_text(path, std::move(text));
  }
  if (file.flags_mask != ~uint64_t{0}) text += fmt::format("flags {:x}\n", file.flags_mask);
  if (!file.vectors) text += "no-vectors\n";
  for (const auto& [form, count] : file.left_out) text += fmt::format("left-out {} {}\n", form, count);
  std::string_view form;
  for (const Sample& s : file.samples) {
    if (s.form != form) text += fmt::format("form {}\n", form = s.form);
    text += sample_text(s) + '\n';
  }
  return write_text(path, std::move(text));
}

Sequence as_sequence(const Sample& sample) {
  Sequence sequence = empty_sequence(sample.mode);
  sequence.start = sample.before;
  // Code of several instructions: cut anywhere, nothing looks at the pieces one by one.
  for (size_t at = 0; at < sample.code.size();) {
    Item item;
    item.name = "sample";
    item.length = static_cast<uint8_t>(std::min(sample.code.size() - at, item.bytes.size()));
    std::copy_n(sample.code.begin() + static_cast<ptrdiff_t>(at), item.length, item.bytes.begin());
    item.mode = sample.mode;
    item.approximate = approximate(sample.form);
    if (item.approximate) item.undefines = status::C1;  // which way the result was rounded
    sequence.items.push_back(item);
    at += item.length;
  }
  return sequence;
}

void fill_arena(const Sample& sample, ArenaBytes& out) {
  out.fill(0);
  for (const Patch& p : sample.memory_before) std::copy(p.bytes.begin(), p.bytes.end(), out.begin() + p.offset);
}

Outcome expected(const Sample& sample) {
  Outcome out;
  out.vector = sample.vector;
  out.error_code = sample.error_code;
  out.cr2 = sample.cr2;
  out.state = sample.after;
  if (sample.vector == kNoFault) {  // behind the way out
    out.state.rip = kExit;
    out.state.selector[CS] = kUserCs;
  }
  ArenaBytes before, after;
  fill_arena(sample, before);
  after = before;
  for (const Patch& p : sample.memory_after) std::copy(p.bytes.begin(), p.bytes.end(), after.begin() + p.offset);
  const auto page = [&](unsigned p) { return after.data() + p * kPageSize; };
  collect_lines(before.data(), page, [](unsigned, unsigned, const uint8_t*) {}, out);
  return out;
}

Result<uint64_t> check_samples(const SampleFile& file, ProcessorModel model, unsigned to_report) {
  auto soft = SoftRunner::create(true, model);
  if (!soft.ok()) return soft.error();
  Batch batch;
  batch.count = 1;
  auto got = std::make_unique<Outcome>();
  uint64_t found = 0;
  std::map<std::string, uint64_t> by_form;
  for (const Sample& sample : file.samples) {
    Sequence sequence = as_sequence(sample);
    if (model == file.model) sequence.settle(vendor_of(model));
    sequence.write(batch.code.data());
    fill_arena(sample, batch.arena);
    batch.states[0] = sequence.start;
    (*soft)->load(batch);
    (*soft)->run(batch.states[0], *got);
    Outcome want = expected(sample);
    // What was not recorded cannot differ.
    want.state.rflags = (want.state.rflags & file.flags_mask) | (got->state.rflags & ~file.flags_mask);
    if (!file.vectors) want.state.fx = got->state.fx;
    std::copy_n(got->state.fx.begin() + 6, 18, want.state.fx.begin() + 6);  // FOP, FIP, FDP
    if (!file.vectors && approximate(sample.form)) forgive_approximation(*got, want);
    const std::string text = differences(sequence, want, *got);
    if (text.empty()) continue;
    ++by_form[sample.form];
    if (found++ >= to_report) continue;
    fmt::print("DIFFERENCE in {}: (native: the sample)\n{}\n{}{}", sample.form, sample_text(sample), disassemble(sequence), text);
  }
  fmt::print("{} samples of {}, compared as {}: {} differences\n", file.samples.size(), file.processor, name_of(model), found);
  for (const auto& [form, count] : by_form) fmt::print("  {} of {}\n", count, form);
  uint64_t left_out = 0;
  std::string forms;
  for (const auto& [form, count] : file.left_out) {
    left_out += count;
    forms += fmt::format("{}{} ({})", forms.empty() ? "" : ", ", form, count);
  }
  if (left_out != 0) {
    fmt::print("{} samples of instructions that the CPU model does not have are not in the file: {}\n", left_out, forms);
  }
  return found;
}

}  // namespace retrovisor::conformance
