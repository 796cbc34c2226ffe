#include "traces/payloads.h"

#include <flatbuffers/flatbuffers.h>
#include <fmt/format.h>

#include <algorithm>
#include <functional>

#include "traces/fields.h"
#include "traces/trace_generated.h"

namespace retrovisor {
namespace {

// Tables are at most two deep; a header names few images.
constexpr flatbuffers::uoffset_t kMaxDepth = 8;
constexpr flatbuffers::uoffset_t kMaxTables = 4096;
constexpr size_t kMaxImages = 256;
constexpr size_t kMaxDevices = 256;
constexpr uint32_t kMaxKeyFrameParts = 1 << 20;

Error bad(std::string message) { return {ErrorCode::bad_trace, std::move(message), {}}; }

// Can an end marker have it? No recording ends with a debugger's stop, or with an engine that gave up.
constexpr bool ends_recording(uint8_t number) {
  const auto reason = static_cast<StopReason>(number);
  return reason <= kLastStopReason && reason != StopReason::observed && reason != StopReason::engine_failed;
}

template <class T>
const T* root(std::span<const uint8_t> payload) {
  flatbuffers::Verifier verifier(payload.data(), payload.size(), kMaxDepth, kMaxTables);
  return verifier.VerifyBuffer<T>(nullptr) ? flatbuffers::GetRoot<T>(payload.data()) : nullptr;
}

std::vector<uint8_t> bytes_of(const flatbuffers::FlatBufferBuilder& b) {
  return {b.GetBufferPointer(), b.GetBufferPointer() + b.GetSize()};
}

std::string text(const flatbuffers::String* s) { return s == nullptr ? std::string() : s->str(); }

template <class T>
std::vector<T> copy(const flatbuffers::Vector<T>* v) {
  return v == nullptr ? std::vector<T>() : std::vector<T>(v->begin(), v->end());
}

using Options = std::vector<std::pair<std::string, std::string>>;

flatbuffers::Offset<flatbuffers::Vector<flatbuffers::Offset<fb::Option>>> encode_options(flatbuffers::FlatBufferBuilder& b,
                                                                                         const Options& options) {
  std::vector<flatbuffers::Offset<fb::Option>> out;
  for (const auto& [name, value] : options) {
    const auto n = b.CreateString(name);
    const auto v = b.CreateString(value);
    out.push_back(fb::CreateOption(b, n, v));
  }
  return b.CreateVector(out);
}

Options decode_options(const flatbuffers::Vector<flatbuffers::Offset<fb::Option>>* in) {
  Options out;
  if (in == nullptr) return out;
  for (const fb::Option* o : *in) out.emplace_back(text(o->name()), text(o->value()));
  return out;
}

}  // namespace

std::vector<uint8_t> encode_header(const TraceHeader& h) {
  flatbuffers::FlatBufferBuilder b;
  std::vector<flatbuffers::Offset<fb::Image>> images;
  for (const TraceImage& i : h.images) {
    const auto name = b.CreateString(i.name);
    const auto arguments = b.CreateString(i.arguments);
    const auto digest = b.CreateVector(i.digest.data(), i.digest.size());
    images.push_back(fb::CreateImage(b, static_cast<fb::ImageRole>(i.role), name, arguments, i.size, digest));
  }
  std::vector<flatbuffers::Offset<fb::Device>> devices;
  for (const TraceDevice& d : h.devices) {
    const auto type = b.CreateString(d.device.type);
    const auto given = encode_options(b, d.device.options);
    devices.push_back(fb::CreateDevice(b, type, d.version, given));
  }
  const auto device_vector = b.CreateVector(devices);
  const auto image_vector = b.CreateVector(images);
  const auto option_vector = encode_options(b, h.options);
  const auto tool = b.CreateString(h.tool_version);
  const auto engine = b.CreateString(h.engine);
  const auto cpu_model = b.CreateString(h.cpu_model);
  const auto command_line = b.CreateString(h.command_line);
  fb::HeaderBuilder out(b);
  out.add_format_version(kTraceFormatVersion);
  out.add_machine_model(h.machine_model);
  out.add_tool_version(tool);
  out.add_engine(engine);
  out.add_memory_size(h.memory_size);
  out.add_vcpus(h.vcpus);
  out.add_stop_on_panic(h.stop_on_panic);
  out.add_cpu_model(cpu_model);
  out.add_cpu_table_digest(h.cpu_table_digest);
  out.add_command_line(command_line);
  out.add_images(image_vector);
  if (h.flat_address) out.add_flat_address(*h.flat_address);
  out.add_flat_mode(h.flat_mode);
  out.add_time_mode(static_cast<uint8_t>(h.time_mode));
  out.add_position_unit(static_cast<uint8_t>(h.position_unit));
  out.add_time_source(static_cast<uint8_t>(h.time_source));
  out.add_processor_model(static_cast<uint8_t>(h.processor_model));
  out.add_user_tsc(static_cast<uint8_t>(h.user_tsc));
  if (h.seed) out.add_seed(*h.seed);
  if (h.rtc) out.add_rtc(*h.rtc);
  out.add_journal_mask(h.journal_mask);
  out.add_digest_interval(h.digest_interval);
  out.add_digest_detail(static_cast<uint8_t>(h.digest_detail));
  out.add_options(option_vector);
  if (!h.devices.empty()) out.add_devices(device_vector);
  b.Finish(out.Finish());
  return bytes_of(b);
}

Result<TraceHeader> decode_header(std::span<const uint8_t> payload, uint32_t format_version) {
  const auto* in = root<fb::Header>(payload);
  if (in == nullptr) return bad("header chunk is not a valid FlatBuffer");
  if (in->format_version() != format_version)
    return bad(
        fmt::format("the file says format version {}, its header chunk says {}", format_version, in->format_version()));
  TraceHeader h;
  h.machine_model = in->machine_model();
  h.tool_version = text(in->tool_version());
  h.engine = text(in->engine());
  h.memory_size = in->memory_size();
  h.vcpus = in->vcpus();
  h.stop_on_panic = in->stop_on_panic();
  h.cpu_model = text(in->cpu_model());
  h.cpu_table_digest = in->cpu_table_digest();
  h.command_line = text(in->command_line());
  if (const auto* images = in->images(); images != nullptr) {
    if (images->size() > kMaxImages) return bad("header names too many images");
    for (const fb::Image* i : *images) {
      TraceImage& out = h.images.emplace_back();
      if (i->role() > fb::ImageRole::MAX) return bad("header names an image of unknown role");
      if (i->digest() == nullptr || i->digest()->size() != out.digest.size())
        return bad("header has an image digest of wrong size");
      out.role = static_cast<ImageRole>(i->role());
      out.name = text(i->name());
      out.arguments = text(i->arguments());
      out.size = i->size();
      std::copy(i->digest()->begin(), i->digest()->end(), out.digest.begin());
    }
  }
  h.flat_address = in->flat_address();
  h.flat_mode = in->flat_mode();
  if (in->time_mode() > static_cast<uint8_t>(TimeMode::real_time)) return bad("header has an unknown time mode");
  h.time_mode = static_cast<TimeMode>(in->time_mode());
  if (in->position_unit() > static_cast<uint8_t>(PositionUnit::events) || in->time_source() > static_cast<uint8_t>(TimeSource::events) ||
      (in->position_unit() != 0 && in->time_source() == 0))
    return bad("header has an unknown kind of positions or time");
  h.position_unit = static_cast<PositionUnit>(in->position_unit());
  h.time_source = static_cast<TimeSource>(in->time_source());
  if (in->processor_model() > static_cast<uint8_t>(kLastProcessorModel))
    return bad(fmt::format("header has an unknown processor model, number {}", in->processor_model()));
  h.processor_model = static_cast<ProcessorModel>(in->processor_model());
  if (in->user_tsc() > static_cast<uint8_t>(UserTsc::by_exception)) return bad("header has an unknown way to read the TSC");
  h.user_tsc = static_cast<UserTsc>(in->user_tsc());
  h.seed = in->seed();
  h.rtc = in->rtc();
  h.journal_mask = in->journal_mask();
  h.digest_interval = in->digest_interval();
  if (in->digest_detail() > static_cast<uint8_t>(DigestDetail::full)) return bad("header has an unknown digest detail");
  h.digest_detail = static_cast<DigestDetail>(in->digest_detail());
  h.options = decode_options(in->options());
  if (const auto* devices = in->devices(); devices != nullptr) {
    if (devices->size() > kMaxDevices) return bad("header names too many devices");
    for (const fb::Device* d : *devices) h.devices.push_back({{text(d->type()), decode_options(d->options())}, d->version()});
  }
  // The machine refuses what it cannot build; this only keeps later arithmetic in range.
  if (h.vcpus == 0 || h.vcpus > kMaxVcpus) return bad(fmt::format("header asks for {} vCPUs", h.vcpus));
  return h;
}

std::vector<uint8_t> encode_field_names(const std::vector<std::string>& names) {
  flatbuffers::FlatBufferBuilder b;
  const auto vector = b.CreateVectorOfStrings(names);
  b.Finish(fb::CreateFieldNames(b, vector));
  return bytes_of(b);
}

Result<std::vector<std::string>> decode_field_names(std::span<const uint8_t> payload) {
  const auto* in = root<fb::FieldNames>(payload);
  if (in == nullptr || in->names() == nullptr) return bad("field-names chunk is not a valid FlatBuffer");
  if (in->names()->size() > kMaxFields) return bad("field-names chunk has too many names");
  std::vector<std::string> out;
  for (const auto* name : *in->names()) {
    if (name->size() > kMaxFieldName) return bad("field-names chunk has a name that is too long");
    out.push_back(name->str());
  }
  return out;
}

std::vector<uint8_t> encode_key_frame(const KeyFrame& f) {
  flatbuffers::FlatBufferBuilder b;
  const auto cpu = b.CreateVector(f.cpu);
  const auto devices = b.CreateVector(f.devices);
  const auto pages = b.CreateVector(f.pages);
  const auto contents = b.CreateVector(f.contents);
  b.Finish(fb::CreateKeyFrame(b, f.position.value, f.part, f.parts, f.delta, cpu, devices, pages, contents, f.state.cpu,
                              f.state.memory, f.state.devices, f.events, f.digests));
  return bytes_of(b);
}

Result<KeyFrame> decode_key_frame(std::span<const uint8_t> payload) {
  const auto* in = root<fb::KeyFrame>(payload);
  if (in == nullptr) return bad("key-frame chunk is not a valid FlatBuffer");
  KeyFrame f;
  f.position = Position(in->position());
  f.part = in->part();
  f.parts = in->parts();
  f.delta = in->delta();
  if (in->position() >= kMaxPosition) return bad("key frame has an impossible position");
  if (f.parts == 0 || f.parts > kMaxKeyFrameParts || f.part >= f.parts)
    return bad("key frame has an impossible part number");
  f.cpu = copy(in->cpu());
  f.devices = copy(in->devices());
  f.pages = copy(in->pages());
  f.contents = copy(in->contents());
  f.state = {in->state_cpu(), in->state_memory(), in->state_devices()};
  f.events = in->events();
  f.digests = in->digests();
  if (f.contents.size() != f.pages.size() * kPageSize)
    return bad("key frame does not hold 4096 bytes for each of its pages");
  if (std::adjacent_find(f.pages.begin(), f.pages.end(), std::greater_equal<>()) != f.pages.end())
    return bad("key frame lists its pages out of order");
  return f;
}

std::vector<uint8_t> encode_end(const EndRecord& e) {
  flatbuffers::FlatBufferBuilder b;
  std::vector<flatbuffers::Offset<fb::LostFault>> faults;
  for (const ChainedFault& f : e.faults)
    faults.push_back(fb::CreateLostFault(b, f.interrupt, f.vector, f.has_error, f.error, f.rip, f.address));
  const auto list = faults.empty() ? 0 : b.CreateVector(faults);
  b.Finish(fb::CreateEnd(b, e.position.value, static_cast<uint8_t>(e.stop.reason), e.stop.detail, e.state.cpu,
                         e.state.memory, e.state.devices, e.events, e.digests, list));
  return bytes_of(b);
}

Result<EndRecord> decode_end(std::span<const uint8_t> payload) {
  const auto* in = root<fb::End>(payload);
  if (in == nullptr) return bad("end chunk is not a valid FlatBuffer");
  if (in->position() >= kMaxPosition) return bad("end chunk has an impossible position");
  if (!ends_recording(in->reason()))
    return bad(fmt::format("end chunk has an unknown stop reason {}", in->reason()));
  EndRecord e;
  e.position = Position(in->position());
  e.stop = {static_cast<StopReason>(in->reason()), in->detail()};
  e.state = {in->cpu(), in->memory(), in->devices()};
  e.events = in->events();
  e.digests = in->digests();
  if (const auto* faults = in->faults(); faults != nullptr) {
    if (faults->size() > kMaxFaultChain) return bad("end chunk tells of too many exceptions");
    for (const auto* f : *faults) {
      if (f == nullptr) return bad("end chunk lacks an exception");
      e.faults.push_back({f->interrupt(), f->vector(), f->has_error(), f->error(), f->rip(), f->address()});
    }
  }
  return e;
}

}  // namespace retrovisor
