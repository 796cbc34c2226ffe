#include "vmm/board/aml.h"

#include "vmm/assert.h"
#include "vmm/byte_builder.h"

namespace retrovisor::aml {
namespace {

enum : uint8_t {
  ZeroOp = 0x00,
  OneOp = 0x01,
  NameOp = 0x08,
  BytePrefix = 0x0a,
  WordPrefix = 0x0b,
  DWordPrefix = 0x0c,
  QWordPrefix = 0x0e,
  ScopeOp = 0x10,
  BufferOp = 0x11,
  PackageOp = 0x12,
  ExtOpPrefix = 0x5b,
  DeviceOp = 0x82,
};

// PkgLength (20.2.4) counts itself. One byte up to 63; otherwise 4 bits in the lead byte and a byte or more behind it.
Aml with_length(const Aml& body) {
  Aml out;
  if (body.size() + 1 <= 0x3f) {
    out.push_back(static_cast<uint8_t>(body.size() + 1));
  } else {
    const size_t bytes = body.size() + 2 <= 0xfff ? 1 : 2;
    const size_t length = body.size() + 1 + bytes;
    RV_ASSERT(length <= 0xfffff);
    out.push_back(static_cast<uint8_t>(bytes << 6 | (length & 0xf)));
    for (size_t i = 0; i < bytes; ++i) out.push_back(static_cast<uint8_t>(length >> (4 + 8 * i)));
  }
  out.insert(out.end(), body.begin(), body.end());
  return out;
}

Aml text(std::string_view s) { return Aml(s.begin(), s.end()); }

}  // namespace

Aml join(std::initializer_list<Aml> parts) {
  Aml out;
  for (const Aml& p : parts) out.insert(out.end(), p.begin(), p.end());
  return out;
}

Aml integer(uint64_t value) {
  ByteBuilder b;
  if (value == 0)
    b.u8(ZeroOp);
  else if (value == 1)
    b.u8(OneOp);
  else if (value <= 0xff)
    b.u8(BytePrefix).u8(value);
  else if (value <= 0xffff)
    b.u8(WordPrefix).u16(value);
  else if (value <= 0xffffffff)
    b.u8(DWordPrefix).u32(value);
  else
    b.u8(QWordPrefix).u64(value);
  return b.data();
}

Aml name(std::string_view name, const Aml& value) { return join({{NameOp}, text(name), value}); }
Aml scope(std::string_view name, const Aml& terms) { return join({{ScopeOp}, with_length(join({text(name), terms}))}); }
Aml device(std::string_view name, const Aml& terms) {
  return join({{ExtOpPrefix, DeviceOp}, with_length(join({text(name), terms}))});
}

Aml package(std::initializer_list<Aml> elements) {
  const auto count = static_cast<uint8_t>(elements.size());
  return join({{PackageOp}, with_length(join({{count}, join(elements)}))});
}

Aml eisa_id(std::string_view id) {
  RV_ASSERT(id.size() == 7);
  // Three letters of 5 bits, then four hex digits; stored with the most significant byte first (6.1.5).
  uint32_t value = 0;
  for (const char c : id.substr(0, 3)) value = value << 5 | (static_cast<uint32_t>(c - '@') & 0x1f);
  for (const char c : id.substr(3)) value = value << 4 | static_cast<uint32_t>(c <= '9' ? c - '0' : c - 'A' + 10);
  return join({{DWordPrefix}, ByteBuilder().u32(__builtin_bswap32(value)).data()});
}

Aml resources(const Aml& descriptors) {
  const Aml bytes = join({descriptors, {0x79, 0x00}});  // end tag; checksum 0: not checked
  return join({{BufferOp}, with_length(join({integer(bytes.size()), bytes}))});
}

Aml io(uint16_t port, uint8_t count) { return ByteBuilder().u8(0x47).u8(1).u16(port).u16(port).u8(1).u8(count).data(); }

Aml irq(unsigned line) { return ByteBuilder().u8(0x22).u16(uint64_t{1} << line).data(); }

}  // namespace retrovisor::aml
