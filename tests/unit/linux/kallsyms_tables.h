// kallsyms tables as scripts/kallsyms.c of Linux writes them, for tests.
#pragma once

#include <array>
#include <cstring>
#include <string>
#include <utility>
#include <vector>

#include "analysis/linux/kallsyms.h"

namespace retrovisor {

inline constexpr uint64_t kBase = kLinkedText + 0x12600000;

class Tables {
 public:
  enum class Layout { before_6_4, from_6_4 };
  Tables() {
    for (size_t i = 0; i < 256; ++i) tokens_[i] = i >= 0x21 && i < 0x7f ? std::string(1, static_cast<char>(i)) : "x";
    tokens_[0x80] = "Tsys_";
    tokens_[0x81] = "_handle";
  }

  void add(uint64_t address, const std::string& type_and_name) { symbols_.emplace_back(address, type_and_name); }

  std::vector<uint8_t> build(Layout layout) {
    bytes_.assign(4096, 0xcc);  // code
    if (layout == Layout::before_6_4) put_addresses();
    align();
    number<uint32_t>(static_cast<uint32_t>(symbols_.size()));
    align();
    const size_t names = bytes_.size();
    std::vector<uint32_t> markers;
    for (size_t i = 0; i < symbols_.size(); ++i) {
      if (i % 256 == 0) markers.push_back(static_cast<uint32_t>(bytes_.size() - names));
      put_name(symbols_[i].second);
    }
    align();
    for (const uint32_t m : markers) number(m);
    align();
    std::vector<uint16_t> index;
    const size_t tokens = bytes_.size();
    token_table = tokens;
    for (const std::string& t : tokens_) {
      index.push_back(static_cast<uint16_t>(bytes_.size() - tokens));
      bytes_.insert(bytes_.end(), t.begin(), t.end());
      bytes_.push_back(0);
    }
    align();
    for (const uint16_t i : index) number(i);
    if (layout == Layout::from_6_4) put_addresses();
    bytes_.insert(bytes_.end(), 1000, 0x90);
    return bytes_;
  }

  size_t token_table = 0;

 private:
  void align() {
    while (bytes_.size() % 8 != 0) bytes_.push_back(0);
  }
  template <class T>
  void number(T value) {
    const size_t at = bytes_.size();
    bytes_.resize(at + sizeof value);
    std::memcpy(bytes_.data() + at, &value, sizeof value);
  }
  void put_addresses() {
    align();
    for (const auto& [address, name] : symbols_)
      number(address < kBase ? static_cast<int32_t>(address) : static_cast<int32_t>(kBase - 1 - address));
    align();
    number<uint64_t>(kBase);
  }
  void put_name(std::string name) {
    std::vector<uint8_t> out;
    while (!name.empty()) {
      uint8_t token = static_cast<uint8_t>(name[0]);
      for (const uint8_t t : {uint8_t{0x80}, uint8_t{0x81}})
        if (name.starts_with(tokens_[t])) token = t;
      out.push_back(token);
      name.erase(0, tokens_[token].size());
    }
    if (out.size() > 0x7f) {
      bytes_.push_back(static_cast<uint8_t>(out.size() | 0x80));
      bytes_.push_back(static_cast<uint8_t>(out.size() >> 7));
    } else {
      bytes_.push_back(static_cast<uint8_t>(out.size()));
    }
    bytes_.insert(bytes_.end(), out.begin(), out.end());
  }

  std::array<std::string, 256> tokens_;
  std::vector<std::pair<uint64_t, std::string>> symbols_;
  std::vector<uint8_t> bytes_;
};

inline Tables some_tables() {
  Tables t;
  t.add(0, "Afixed_percpu_data");
  t.add(0x1f000, "Acpu_info");
  t.add(kBase, "T_text");
  t.add(kBase + 0x40, "Tsys_read");
  t.add(kBase + 0x80, "tsysrq_handle_crash");
  for (uint64_t i = 0; i < 1000; ++i) t.add(kBase + 0x1000 + 16 * i, "tfunction_" + std::to_string(i));
  t.add(kBase + 0x10000, "T_etext");
  t.add(kBase + 0x10010, "d" + std::string(200, 'n'));
  t.add(kBase + 0x11000, "D__init_begin");
  t.add(kBase + 0x11000, "T_sinittext");
  t.add(kBase + 0x11000, "Tstart_kernel");
  t.add(kBase + 0x11800, "wearly_hook");
  t.add(kBase + 0x12000, "T_einittext");
  t.add(kBase + 0x12000, "dinit_data");
  t.add(kBase + 0x12800, "Wmaybe_there");
  t.add(kBase + 0x13000, "tmodule_exit");
  t.add(kBase + 0x14000, "Ddata_again");
  t.add(kBase + 0x20000, "B_end");
  return t;
}

}  // namespace retrovisor
