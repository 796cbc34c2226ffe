// The few AML terms that our DSDT needs, as bytes. Source: ACPI Specification 6.5, chapter 20 (encoding) and 6.4
// (resources).
#pragma once

#include <cstdint>
#include <initializer_list>
#include <string_view>
#include <vector>

namespace retrovisor::aml {

using Aml = std::vector<uint8_t>;

Aml join(std::initializer_list<Aml> parts);
Aml integer(uint64_t value);
// Names are given as AML spells them: segments of four characters, filled up with '_'.
Aml name(std::string_view name, const Aml& value);
Aml scope(std::string_view name, const Aml& terms);
Aml device(std::string_view name, const Aml& terms);
Aml package(std::initializer_list<Aml> elements);
// "PNP0501" as the compressed 32-bit integer that EisaId() gives.
Aml eisa_id(std::string_view id);
// A buffer with a resource template; the end tag is added.
Aml resources(const Aml& descriptors);
// Resource descriptors: fixed I/O ports (16-bit decode), and an edge-triggered, active high ISA interrupt.
Aml io(uint16_t port, uint8_t count);
Aml irq(unsigned line);

}  // namespace retrovisor::aml
