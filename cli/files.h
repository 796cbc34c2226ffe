// The files that a command reads and writes. No output is one of the command's own inputs or outputs, and none takes the place
// of an older file before it is whole.
#pragma once

#include <sys/types.h>

#include <string>
#include <string_view>
#include <vector>

#include "vmm/result.h"

namespace retrovisor::cli {

// What stands behind the name of a file that is not whole yet.
inline constexpr std::string_view kPartialSuffix = ".partial";

// Where a path leads, through symbolic links: a file, or the place for one.
struct Place {
  std::string path;       // without a symbolic link at its end
  std::string name;       // its last component
  bool exists = false;
  bool directory = false;
  bool regular = false;
  bool descriptor = false;  // /dev/stdout, /dev/fd/3 and the like: what this process has open already
  mode_t mode = 0;
  dev_t device = 0;       // of the file; of its directory if there is no file
  ino_t inode = 0;

  // Written as it is: nothing can be put beside a device, a pipe, or a file that somebody has opened for us.
  bool stream() const { return descriptor || (exists && !regular && !directory); }
};
Result<Place> find_place(const std::string& path, const std::string& option);

// What a command names on its command line, to be checked before anything is written. The standard streams belong to it too,
// where they are files: guest output appended to the trace that is replayed destroys it as well.
class CommandFiles {
 public:
  // Empty paths are left out.
  void input(std::string option, const std::string& path);
  void output(std::string option, const std::string& path);
  // "unix:PATH" makes a socket; anything else is no file.
  void listener(std::string option, const std::string& where);
  // An error if an output is another of the files, by name, link or inode, or cannot be where it is wanted. If it is about
  // standard error, that leads elsewhere from then on, so that the error itself can be told.
  Result<void> check() const;

 private:
  struct Named {
    std::string option;
    std::string path;
    bool written = false;
  };
  std::vector<Named> files_;
};

// A file that is written as NAME.partial and gets its name when it is whole. Streams (Place::stream) are written as they are.
class OutputFile {
 public:
  // Begins NAME.partial, empty. `option` is named in errors. Fails if another process is at it.
  static Result<OutputFile> create(const std::string& path, const std::string& option);
  OutputFile(OutputFile&& other) noexcept;
  OutputFile& operator=(OutputFile&&) = delete;
  ~OutputFile();  // takes what has not become whole away, unless keep() was called

  // What to open.
  const std::string& path() const { return path_; }
  // Opened for writing; owned by this object.
  int fd() const { return fd_; }
  Result<void> write(std::string_view bytes);
  // What there is is worth keeping, whatever happens.
  void keep() { kept_ = true; }
  // It is whole: gives it its name, and the mode of the file whose place it takes. With `sync` that is on disk afterwards.
  Result<void> commit(bool sync = false);

 private:
  OutputFile() = default;
  Error error(const std::string& what) const;

  std::string option_;
  std::string name_;  // as the user gave it
  Place place_;
  std::string path_;
  int fd_ = -1;
  bool beside_ = false;
  bool kept_ = false;
};

// All of a small file at once.
Result<void> write_output(const std::string& path, const std::string& option, std::string_view bytes);

// The trace that `path` means: itself or, if there is none, the unfinished one beside it. Says which, and if there is a newer
// unfinished one. An error if a standard stream would write into it: whoever reads a trace begins here.
Result<std::string> find_trace(const std::string& path, const std::string& option = "TRACE");

}  // namespace retrovisor::cli
