#include "vmm/boot/gzip.h"

#include <zlib.h>

#include <algorithm>

#include "vmm/boot/image_reader.h"

namespace retrovisor {
namespace {

constexpr uint64_t kPiece = uint64_t{1} << 20;
constexpr int kOnlyGzip = 16;  // added to the window's size (zlib.h, inflateInit2)

class Inflater {
 public:
  Inflater() { ready_ = inflateInit2(&stream, kOnlyGzip + MAX_WBITS) == Z_OK; }
  ~Inflater() {
    if (ready_) inflateEnd(&stream);
  }
  Inflater(const Inflater&) = delete;
  Inflater& operator=(const Inflater&) = delete;
  bool ready() const { return ready_; }

  z_stream stream{};

 private:
  bool ready_ = false;
};

}  // namespace

bool is_gzip(std::span<const uint8_t> file) { return file.size() >= 3 && file[0] == 0x1f && file[1] == 0x8b && file[2] == 8; }

Result<std::vector<uint8_t>> gunzip(std::span<const uint8_t> file, uint64_t limit) {
  Inflater inflater;
  if (!inflater.ready()) return Error{ErrorCode::io, "no memory to unpack a gzip file", ""};
  z_stream& in = inflater.stream;
  std::vector<uint8_t> out;
  size_t given = 0;
  for (;;) {
    if (in.avail_in == 0) {
      const size_t piece = std::min<size_t>(file.size() - given, kPiece);
      in.next_in = const_cast<Bytef*>(file.data() + given);  // zlib reads it only
      in.avail_in = static_cast<uInt>(piece);
      given += piece;
    }
    // One byte more than may be, to see that there is more.
    const size_t done = out.size();
    const size_t room = static_cast<size_t>(std::min(limit + 1 - done, kPiece));
    out.resize(done + room);
    in.next_out = out.data() + done;
    in.avail_out = static_cast<uInt>(room);
    const int result = inflate(&in, Z_NO_FLUSH);
    out.resize(done + room - in.avail_out);
    const uint64_t at = given - in.avail_in;
    if (out.size() > limit) return image_error(fmt::format("gzip file unpacks to more than {} bytes", limit), at);
    if (result == Z_STREAM_END) return out;
    if (result == Z_BUF_ERROR && in.avail_in == 0 && given == file.size())
      return image_error(fmt::format("gzip file is truncated: {} bytes", file.size()), at);
    if (result != Z_OK && result != Z_BUF_ERROR)
      return image_error(fmt::format("gzip file is damaged: {}", in.msg != nullptr ? in.msg : "it needs a dictionary"), at);
  }
}

}  // namespace retrovisor
