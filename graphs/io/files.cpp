#include "manyhop/graphs/io/files.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <system_error>

#include "manyhop/graphs/base/error.hpp"
#include "manyhop/graphs/base/machine.hpp"
#include "manyhop/graphs/base/parallel.hpp"
#include "manyhop/graphs/io/io.hpp"

namespace manyhop {

namespace {

constexpr std::size_t kBlock = std::size_t{1} << 20;

// Temporary names that a signal handler may have to remove: plain C strings behind lock-free pointers.
std::array<std::atomic<char*>, 64> pending;
std::array<std::atomic<char*>, 64> removed;  // keeps hold of what a signal handler may not free
std::atomic<unsigned> serial{0};

int remember(const std::string& name) {
  char* copy = ::strdup(name.c_str());
  for (std::size_t s = 0; copy != nullptr && s < pending.size(); ++s) {
    char* none = nullptr;
    if (pending[s].compare_exchange_strong(none, copy)) return static_cast<int>(s);
  }
  std::free(copy);
  return -1;  // more than 64 at once: still removed by the destructor
}

void forget(int slot) noexcept {
  if (slot >= 0) std::free(pending[static_cast<std::size_t>(slot)].exchange(nullptr));
}

std::string reason(int code) { return std::system_category().message(code); }

[[noreturn]] void fail(const std::string& path, const char* action, int code) {
  throw FileError(fmt::format("{}: cannot {}: {}", path, action, reason(code)));
}

// Closes a descriptor on every way out.
struct Descriptor {
  int file;
  ~Descriptor() {
    if (file > 0) ::close(file);
  }
};

constexpr int kMostLinks = 40;  // as the system follows

}  // namespace

bool has_suffix(std::string_view path, std::string_view suffix) {
  if (path.size() < suffix.size()) return false;
  const std::string_view tail = path.substr(path.size() - suffix.size());
  return std::equal(tail.begin(), tail.end(), suffix.begin(), [](char a, char b) {
    return (a >= 'A' && a <= 'Z' ? static_cast<char>(a - 'A' + 'a') : a) == b;
  });
}

std::string link_target(const std::string& path) {
  std::filesystem::path at = path;
  std::error_code problem;
  for (int links = 0; std::filesystem::is_symlink(at, problem); ++links) {
    if (links == kMostLinks) fail(path, "write", ELOOP);
    const std::filesystem::path to = std::filesystem::read_symlink(at, problem);
    if (problem) fail(path, "write", problem.value());
    at = at.parent_path() / to;  // which is `to` where that is absolute
  }
  return at.string();
}

void remove_pending_files() noexcept {
  for (std::size_t s = 0; s < pending.size(); ++s) {
    if (char* name = pending[s].exchange(nullptr); name != nullptr) {
      ::unlink(name);
      removed[s] = name;
    }
  }
}

AtomicFile::AtomicFile(const std::string& path) : path_(path), target_(path) {
  if (path.empty()) throw FileError("output path: the empty text names no file, a path or - wanted");
  if (path.find('\0') != std::string::npos) throw FileError("output path: holds a zero byte");
  if (path == "-") {
    file_ = STDOUT_FILENO;
    return;
  }
  struct stat status {};
  mode_t mode = 0;
  if (::stat(path.c_str(), &status) == 0) {
    if (S_ISDIR(status.st_mode)) fail(path_, "write", EISDIR);
    if (!S_ISREG(status.st_mode)) {
      file_ = ::open(path.c_str(), O_WRONLY | O_CLOEXEC);
      if (file_ < 0) fail(path_, "write", errno);
      return;
    }
    if (::access(path.c_str(), W_OK) != 0) fail(path_, "write", errno);
    mode = status.st_mode & 07777U;
  }
  target_ = link_target(path);
  const std::string folder = target_.substr(0, target_.find_last_of('/') + 1);
  std::error_code ignored;
  if (target_ != path && !folder.empty() && !std::filesystem::is_directory(folder, ignored)) {
    throw FileError(fmt::format("{}: links to {}, and there is no folder {}; make it or name another file",
                                path, target_, folder));
  }
  for (int attempt = 0; attempt < 100 && file_ < 0; ++attempt) {
    temporary_ = fmt::format("{}.manyhop-{}-{}.tmp", folder, ::getpid(), serial++);
    slot_ = remember(temporary_);
    file_ = ::open(temporary_.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    if (file_ >= 0) break;
    const int code = errno;
    forget(std::exchange(slot_, -1));
    temporary_.clear();
    if (code != EEXIST) fail(path_, "write", code);
  }
  if (file_ < 0) fail(path_, "write", EEXIST);
  if (mode != 0) static_cast<void>(::fchmod(file_, mode));
}

AtomicFile::~AtomicFile() { discard(); }

void AtomicFile::discard() noexcept {
  if (file_ > STDERR_FILENO) ::close(file_);
  file_ = -1;
  if (!temporary_.empty()) ::unlink(temporary_.c_str());
  temporary_.clear();
  forget(std::exchange(slot_, -1));
}

void AtomicFile::put(std::string_view bytes) {
  while (!bytes.empty()) {
    check_stop();
    const ::ssize_t done = ::write(file_, bytes.data(), std::min(bytes.size(), kBlock));
    if (done < 0) {
      if (errno == EINTR) continue;
      fail(path_, "write", errno);
    }
    bytes.remove_prefix(static_cast<std::size_t>(done));
  }
}

void AtomicFile::flush() {
  put(buffer_);
  buffer_.clear();
}

void AtomicFile::write(std::string_view bytes) {
  if (buffer_.size() + bytes.size() >= kBlock) flush();
  if (bytes.size() >= kBlock) {
    put(bytes);
  } else {
    buffer_.append(bytes);
  }
}

void AtomicFile::commit() {
  flush();
  check_stop();
  if (file_ > STDERR_FILENO) {
    if (::close(std::exchange(file_, -1)) != 0) fail(path_, "write", errno);
  }
  file_ = -1;
  if (temporary_.empty()) return;
  if (::rename(temporary_.c_str(), target_.c_str()) != 0) fail(path_, "write", errno);
  temporary_.clear();
  forget(std::exchange(slot_, -1));
}

void write_atomically(const std::string& path, std::string_view bytes) {
  AtomicFile file(path);
  file.write(bytes);
  file.commit();
}

std::string read_file(const std::string& path) { return read_file_within(path, 0); }

std::string read_file_within(const std::string& path, std::size_t limit) {
  if (limit == 0) limit = half_of_memory();
  if (path.empty()) throw FileError("input path: the empty text names no file, a path or - wanted");
  if (path.find('\0') != std::string::npos) throw FileError("input path: holds a zero byte");
  const Descriptor input{path == "-" ? STDIN_FILENO : ::open(path.c_str(), O_RDONLY | O_CLOEXEC)};
  if (input.file < 0) fail(path, "read", errno);
  struct stat status {};
  if (::fstat(input.file, &status) != 0) fail(path, "read", errno);
  if (S_ISDIR(status.st_mode)) fail(path, "read", EISDIR);
  std::string bytes;
  std::size_t used = 0;
  // One byte past the size, so that the end of a regular file shows without growing the block again.
  if (S_ISREG(status.st_mode)) {
    const auto size = static_cast<std::size_t>(status.st_size);
    if (size > limit)
      throw LimitError(fmt::format("{}: {} bytes, the memory limit is {}", path, size, limit));
    bytes.resize(size + 1);
  }
  for (;;) {
    check_stop();
    if (used == bytes.size()) bytes.resize(std::max(2 * used, kBlock));
    const ::ssize_t got = ::read(input.file, bytes.data() + used, std::min(bytes.size() - used, 16 * kBlock));
    if (got < 0) {
      if (errno == EINTR) continue;
      fail(path, "read", errno);
    }
    if (got == 0) break;
    used += static_cast<std::size_t>(got);
    if (used > limit) throw LimitError(fmt::format("{}: more than {} bytes, the memory limit", path, limit));
  }
  bytes.resize(used);
  return bytes;
}

}  // namespace manyhop
