#include "cli/files.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <linux/magic.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <climits>
#include <cstring>
#include <optional>
#include <utility>

#include "cli/say.h"

namespace retrovisor::cli {
namespace {

constexpr int kMostLinks = 40;  // as the kernel follows (path_resolution(7))

Error host_error(const std::string& what, const std::string& path, const std::string& option) {
  return {ErrorCode::io, fmt::format("{} {}: {}", what, path, std::strerror(errno)), option};
}

std::string folder_of(const std::string& path) {
  const size_t slash = path.rfind('/');
  if (slash == std::string::npos) return ".";
  return slash == 0 ? "/" : path.substr(0, slash);
}

// A link of /proc is no path: it leads to what a process has open, wherever that is.
bool in_proc(const std::string& path) {
  struct statfs fs {};
  return statfs(folder_of(path).c_str(), &fs) == 0 && fs.f_type == PROC_SUPER_MAGIC;
}

void take(Place& place, const struct stat& status) {
  place.exists = true;
  place.directory = S_ISDIR(status.st_mode);
  place.regular = S_ISREG(status.st_mode);
  place.mode = status.st_mode & 07777;
  place.device = status.st_dev;
  place.inode = status.st_ino;
}

bool same(const Place& a, const Place& b) {
  if (a.exists != b.exists || a.device != b.device || a.inode != b.inode) return false;
  if (!a.exists) return a.name == b.name;  // in one directory
  return a.regular && b.regular;           // any number of readers and writers share a device
}

// What is told about standard error being one of the files must not end up in that file: it goes to standard output, or nowhere
// if that is such a file too.
void redirect_errors(bool to_output) {
  const int nowhere = open("/dev/null", O_WRONLY | O_CLOEXEC);
  dup2(to_output ? STDOUT_FILENO : nowhere, STDERR_FILENO);
  if (nowhere >= 0) close(nowhere);
}

std::string partial_name(const std::string& path) { return path + std::string(kPartialSuffix); }

}  // namespace

Result<Place> find_place(const std::string& path, const std::string& option) {
  Place place;
  place.path = path;
  if (path.empty()) return Error{ErrorCode::bad_argument, "an empty file name", option};
  for (int links = 0;; ++links) {
    place.name = place.path.substr(place.path.rfind('/') + 1);
    struct stat status {};
    if (lstat(place.path.c_str(), &status) != 0) {
      if (errno != ENOENT) return host_error("cannot look at", path, option);
      struct stat folder {};
      if (stat(folder_of(place.path).c_str(), &folder) != 0) return host_error("cannot write", path, option);
      if (place.name.empty()) {
        errno = EISDIR;
        return host_error("cannot write", path, option);
      }
      place.device = folder.st_dev;
      place.inode = folder.st_ino;
      return place;
    }
    if (!S_ISLNK(status.st_mode)) {
      take(place, status);
      return place;
    }
    if (in_proc(place.path)) {
      if (stat(place.path.c_str(), &status) != 0) return host_error("cannot look at", path, option);
      take(place, status);
      place.descriptor = true;
      return place;
    }
    std::array<char, PATH_MAX> target{};
    const ssize_t n = readlink(place.path.c_str(), target.data(), target.size());
    if (n <= 0 || links == kMostLinks) {
      if (n > 0) errno = ELOOP;
      return host_error("cannot look at", path, option);
    }
    const std::string to(target.data(), static_cast<size_t>(n));
    place.path = to.front() == '/' ? to : folder_of(place.path) + "/" + to;
  }
}

void CommandFiles::input(std::string option, const std::string& path) {
  if (!path.empty()) files_.push_back({std::move(option), path, false});
}

void CommandFiles::output(std::string option, const std::string& path) {
  if (!path.empty()) files_.push_back({std::move(option), path, true});
}

void CommandFiles::listener(std::string option, const std::string& where) {
  constexpr std::string_view kUnix = "unix:";
  if (where.starts_with(kUnix)) output(std::move(option), where.substr(kUnix.size()));
}

Result<void> CommandFiles::check() const {
  struct Found {
    const Named* named;
    std::string option;
    bool written;
    Place place;
    std::optional<Place> beside;  // what it is written as first
  };
  std::vector<Found> all;
  for (const Named& file : files_) {
    auto place = find_place(file.path, file.option);
    if (!place && !file.written) continue;  // told by who wants to read it
    if (!place) return place.error();
    Found found{&file, file.option, file.written, *place, {}};
    if (file.written && !place->stream()) {
      RV_TRY(found.beside, find_place(partial_name(place->path), file.option));
    }
    all.push_back(std::move(found));
  }
  constexpr std::array<const char*, 3> kStreams = {"standard input", "standard output", "standard error"};
  for (int fd = 0; fd < 3; ++fd) {
    struct stat status {};
    if (fstat(fd, &status) != 0 || !S_ISREG(status.st_mode)) continue;
    Found found{nullptr, kStreams[static_cast<size_t>(fd)], fd != 0, {}, {}};
    take(found.place, status);
    found.place.descriptor = true;
    all.push_back(std::move(found));
  }
  const auto named_too = [&all](int fd) {
    struct stat status {};
    Place stream;
    if (fstat(fd, &status) == 0) take(stream, status);
    return std::any_of(all.begin(), all.end(), [&](const Found& f) {
      return f.named != nullptr && !f.place.descriptor && (same(f.place, stream) || (f.beside && same(*f.beside, stream)));
    });
  };
  if (named_too(STDERR_FILENO)) redirect_errors(!named_too(STDOUT_FILENO));
  for (size_t i = 0; i < all.size(); ++i) {
    for (size_t k = 0; k < all.size(); ++k) {
      const Found& out = all[i];
      const Found& other = all[k];
      if (i == k || !out.written || (out.named == nullptr && other.named == nullptr)) continue;
      // Two ways to one stream: one writes behind the other.
      if (out.place.descriptor && other.place.descriptor) continue;
      if (same(out.place, other.place))
        return Error{ErrorCode::bad_argument,
                     fmt::format("{} and {} are the same file, {}", out.option, other.option,
                                 out.named != nullptr ? out.named->path : other.named->path),
                     out.option};
      if (out.beside && (same(*out.beside, other.place) || (other.beside && same(*out.beside, *other.beside))))
        return Error{ErrorCode::bad_argument,
                     fmt::format("{} is written as {} first, and that is the file of {}", out.option,
                                 partial_name(out.named->path), other.option),
                     out.option};
    }
  }
  return {};
}

Error OutputFile::error(const std::string& what) const { return host_error(what, name_, option_); }

Result<OutputFile> OutputFile::create(const std::string& path, const std::string& option) {
  RV_TRY(auto place, find_place(path, option));
  OutputFile out;
  out.option_ = option;
  out.name_ = path;
  out.place_ = place;
  if (place.directory) {
    errno = EISDIR;
    return out.error("cannot write");
  }
  if (place.stream()) {
    out.path_ = path;
    // Not from its beginning: whoever opened a file for us may have written to it.
    out.fd_ = open(path.c_str(), O_WRONLY | O_CLOEXEC | O_NOCTTY | O_APPEND);
    if (out.fd_ < 0) return out.error("cannot write");
    return out;
  }
  // A file that may not be written is not replaced either.
  if (place.exists && access(place.path.c_str(), W_OK) != 0) return out.error("cannot write");
  out.path_ = partial_name(place.path);
  out.fd_ = open(out.path_.c_str(), O_WRONLY | O_CREAT | O_CLOEXEC | O_NOCTTY | O_NOFOLLOW, 0666);
  if (out.fd_ < 0) return out.error("cannot write");
  if (flock(out.fd_, LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK) {
    return Error{ErrorCode::io, fmt::format("cannot write {}: another process is writing it", path), option};
  }
  out.beside_ = true;
  if (ftruncate(out.fd_, 0) != 0) return out.error("cannot write");
  return out;
}

OutputFile::OutputFile(OutputFile&& other) noexcept
    : option_(std::move(other.option_)),
      name_(std::move(other.name_)),
      place_(std::move(other.place_)),
      path_(std::move(other.path_)),
      fd_(std::exchange(other.fd_, -1)),
      beside_(std::exchange(other.beside_, false)),
      kept_(other.kept_) {}

OutputFile::~OutputFile() {
  if (beside_ && !kept_) unlink(path_.c_str());
  if (fd_ >= 0) close(fd_);
}

Result<void> OutputFile::write(std::string_view bytes) {
  while (!bytes.empty()) {
    const ssize_t n = ::write(fd_, bytes.data(), bytes.size());
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return error("cannot write");
    bytes.remove_prefix(static_cast<size_t>(n));
  }
  return {};
}

Result<void> OutputFile::commit(bool sync) {
  if (!beside_) return {};
  if (place_.exists && fchmod(fd_, place_.mode) != 0 && errno != EPERM) return error("cannot write");
  if (rename(path_.c_str(), place_.path.c_str()) != 0) return error("cannot write");
  beside_ = false;
  if (!sync) return {};
  const int folder = open(folder_of(place_.path).c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  const bool done = folder >= 0 && (fsync(folder) == 0 || errno == EINVAL || errno == EROFS);
  const int reason = errno;
  if (folder >= 0) close(folder);
  errno = reason;
  if (!done) return error("cannot sync the folder of");
  return {};
}

Result<void> write_output(const std::string& path, const std::string& option, std::string_view bytes) {
  RV_TRY(auto file, OutputFile::create(path, option));
  RV_TRY(file.write(bytes));
  return file.commit();
}

Result<std::string> find_trace(const std::string& path, const std::string& option) {
  const std::string unfinished = partial_name(path);
  struct stat whole {}, partial {};
  const bool is_there = stat(path.c_str(), &whole) == 0;
  const bool instead = !is_there && errno == ENOENT;
  const bool has_partial = stat(unfinished.c_str(), &partial) == 0;
  CommandFiles files;  // before a word is said: it could be said into the trace
  files.input(option, path);
  if (has_partial) files.input(option, unfinished);
  RV_TRY(files.check());
  if (!has_partial || (!is_there && !instead)) return path;
  if (instead) {
    say("{} was not finished: reading {}", path, unfinished);
    return unfinished;
  }
  if (partial.st_mtim.tv_sec > whole.st_mtim.tv_sec ||
      (partial.st_mtim.tv_sec == whole.st_mtim.tv_sec && partial.st_mtim.tv_nsec > whole.st_mtim.tv_nsec))
    say("{} is newer and unfinished; reading the older {}", unfinished, path);
  return path;
}

}  // namespace retrovisor::cli
