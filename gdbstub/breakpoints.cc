#include "gdbstub/breakpoints.h"

#include <algorithm>

namespace retrovisor::gdb {
namespace {

bool is_code(PointType type) { return type == PointType::software || type == PointType::hardware; }

}  // namespace

bool Breakpoints::insert(PointType type, uint64_t address, uint64_t size) {
  const Point point{type, address, is_code(type) ? 0 : size};
  if (!is_code(type) && (size == 0 || size > kMaxWatchSize || address + size < address)) return false;
  if (std::find(points_.begin(), points_.end(), point) != points_.end()) return true;
  if (points_.size() >= kMaxPoints) return false;
  points_.push_back(point);
  return true;
}

void Breakpoints::remove(PointType type, uint64_t address, uint64_t size) {
  std::erase(points_, Point{type, address, is_code(type) ? 0 : size});
}

std::optional<PointType> Breakpoints::code_at(uint64_t address) const {
  for (const Point& p : points_)
    if (is_code(p.type) && p.address == address) return p.type;
  return std::nullopt;
}

std::vector<uint64_t> Breakpoints::code() const {
  std::vector<uint64_t> out;
  for (const Point& p : points_)
    if (is_code(p.type)) out.push_back(p.address);
  std::sort(out.begin(), out.end());
  out.erase(std::unique(out.begin(), out.end()), out.end());
  return out;
}

std::vector<Watch> Breakpoints::watches() const {
  std::vector<Watch> out;
  for (const Point& p : points_)
    if (!is_code(p.type))
      out.push_back({LinearAddr(p.address), p.size, p.type != PointType::write_watch, p.type != PointType::read_watch});
  return out;
}

PointType Breakpoints::watch_type(size_t index) const {
  for (const Point& p : points_)
    if (!is_code(p.type) && index-- == 0) return p.type;
  return PointType::access_watch;
}

}  // namespace retrovisor::gdb
