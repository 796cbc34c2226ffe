// Where bytes enter and leave a machine: a console, a network port, a disk's contents. The boundary knows endpoints by number, name
// and kind, never by the device behind one.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "vmm/result.h"
#include "vmm/types.h"

namespace retrovisor {

// Numbers are part of the trace format: append only.
enum class EndpointKind : uint8_t {
  stream = 0,   // bytes, in no portions
  packets = 1,  // whole packets
  blocks = 2,   // contents, by offset, that can change on the host
  directory = 3,  // files by path, that can change on the host
};

// In the order in which a machine's devices name them, from 0 on.
using EndpointId = Strong<struct EndpointTag, uint32_t>;

struct Endpoint {
  std::string name;  // "uart0"
  EndpointKind kind{};
  bool input = true;     // false: nothing ever comes in
  bool console = false;  // where guest kernels print, and where they are typed to
  bool operator==(const Endpoint&) const = default;
};

// A device that takes what comes in at its endpoint.
class EndpointReceiver {
 public:
  virtual ~EndpointReceiver() = default;
  // Streams: how many bytes it can take now. Packets: the longest it can take now; 0: none.
  virtual size_t room() const = 0;
  // At most so many bytes, or one packet.
  virtual void receive(std::span<const uint8_t> bytes) = 0;
};

using EndpointOutput = std::function<void(std::span<const uint8_t>)>;
// Contents from an offset on; an error: they cannot be read.
using EndpointBlocks = std::function<Result<void>(uint64_t offset, std::span<uint8_t> out)>;

// What a device asks of a directory. The answer's form is an agreement between the device and who serves the endpoint.
struct DirectoryQuestion {
  enum class What : uint8_t { attributes = 0, names = 1, contents = 2 };  // of a file; in a directory; of a file, from `offset` on
  What what{};
  std::string path;     // from the endpoint's root, with '/' between names
  uint64_t offset = 0;  // where names or contents go on
  uint32_t most = 0;    // bytes of the answer; at most kMostDirectoryAnswer
};
inline constexpr uint32_t kMostDirectoryAnswer = 1 << 16;
// Says all of a question: which of them a recorded answer belongs to.
uint64_t hash_of(const DirectoryQuestion& question);
// An error: there is no answer (no such file, or it cannot be read).
using EndpointDirectory = std::function<Result<std::vector<uint8_t>>(const DirectoryQuestion&)>;

// What the machine does with what its devices send and ask for: Boundary's calls, at the moment.
struct Outside {
  std::function<void(EndpointId, std::span<const uint8_t>)> transmit;
  std::function<Result<void>(EndpointId, uint64_t offset, std::span<uint8_t> out)> read_blocks;
  std::function<Result<std::vector<uint8_t>>(EndpointId, const DirectoryQuestion&)> ask_directory;
};

}  // namespace retrovisor
