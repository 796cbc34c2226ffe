// Breakpoints and watchpoints as the debugger has set them (Z0 to Z4). They are observers of the run: guest memory stays as
// the guest wrote it.
#pragma once

#include <cstdint>
#include <vector>

#include "replay/timeline.h"

namespace retrovisor::gdb {

// Numbers of the Z packets.
enum class PointType : uint8_t { software = 0, hardware = 1, write_watch = 2, read_watch = 3, access_watch = 4 };

class Breakpoints {
 public:
  static constexpr size_t kMaxPoints = 4096;
  static constexpr uint64_t kMaxWatchSize = uint64_t{1} << 20;

  // `size` is that of the watched bytes; of breakpoints it is not looked at. Setting one again changes nothing. False: too
  // many, or too large.
  bool insert(PointType type, uint64_t address, uint64_t size);
  // Removing one that is not there is no error.
  void remove(PointType type, uint64_t address, uint64_t size);
  void clear() { points_.clear(); }

  // The type of a breakpoint at `address`, if there is one.
  std::optional<PointType> code_at(uint64_t address) const;
  std::vector<uint64_t> code() const;
  std::vector<Watch> watches() const;
  // The type of the watch with this index in watches().
  PointType watch_type(size_t index) const;

 private:
  struct Point {
    PointType type;
    uint64_t address;
    uint64_t size;
    bool operator==(const Point&) const = default;
  };
  std::vector<Point> points_;
};

}  // namespace retrovisor::gdb
