// The key frames of a trace, and the machine states in them.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "traces/verify.h"
#include "vmm/machine/machine.h"

namespace retrovisor {

class KeyFrames {
 public:
  // `places`: as verify_trace() found them.
  KeyFrames(std::string trace, std::vector<KeyFramePlace> places)
      : trace_(std::move(trace)), places_(std::move(places)), bad_(places_.size()) {}

  // The number of the last usable one at or before `p`.
  std::optional<size_t> before(Position p) const;
  // The number of key frames at or before `p`.
  size_t count_to(Position p) const;
  const KeyFramePlace& operator[](size_t number) const { return places_[number]; }
  size_t size() const { return places_.size(); }
  bool at(Position p) const;
  // The first position behind `p` that has one, or kNoPosition.
  Position next(Position p) const;
  // Bytes of state to be read to restore this one: it may build on others.
  uint64_t cost(size_t number) const;

  struct State {
    std::vector<uint8_t> cpu;
    std::vector<uint8_t> devices;
  };
  // Reads a key frame, and those it builds on. Calls `page` for their pages of RAM in order: the last call for a page has
  // its contents, pages without a call are zero.
  Result<State> read(size_t number, const GuestMemory& memory,
                     const std::function<void(uint64_t page, const uint8_t* bytes)>& page) const;
  // The machine was restored from this key frame: is it in the state that was recorded?
  Result<void> check(size_t number, Machine& machine) const;
  // As an error of its trace.
  Error error(size_t number, std::string message) const;
  // Not to be used again.
  void give_up(size_t number) { bad_[number] = true; }

 private:
  // The whole one that it builds on, maybe itself.
  size_t base(size_t number) const;
  Result<void> read_one(TraceReader& reader, size_t number, const GuestMemory& memory, State& state,
                        const std::function<void(uint64_t page, const uint8_t* bytes)>& page) const;

  std::string trace_;
  std::vector<KeyFramePlace> places_;
  std::vector<bool> bad_;
};

}  // namespace retrovisor
