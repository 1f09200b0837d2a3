// Bytes from and to the file system: whole files in, atomic files out.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace manyhop {

/// Whether a name ends in a suffix, capitals or not: graph.NPZ is an archive as graph.npz is.
bool has_suffix(std::string_view path, std::string_view suffix);

/// Where bytes written to `path` end: itself, or what its chain of symbolic links leads to, there or not.
/// Throws FileError for links without an end.
std::string link_target(const std::string& path);

/// read_file() that refuses what is longer than `limit` (0: half of the machine's memory) as soon as it has
/// come: a stream may have no end.   Throws LimitError.
std::string read_file_within(const std::string& path, std::size_t limit);

/// A file that appears under its name only when it is whole. Bytes go to a temporary name in the folder of
/// the target (created with O_EXCL) and commit() renames it; without commit the destructor removes it. "-" is
/// standard output; an existing target that is not a regular file (a pipe, a device) is written in place. A
/// symbolic link stays, and its target is written, in a folder that must be there.
/// Throws FileError with the system's reason, Interrupted when the stop flag of the scope is raised.
class AtomicFile {
 public:
  explicit AtomicFile(const std::string& path);
  ~AtomicFile();
  AtomicFile(const AtomicFile&) = delete;
  AtomicFile& operator=(const AtomicFile&) = delete;

  /// Appends; small pieces are gathered into blocks of 1 MiB.
  void write(std::string_view bytes);
  /// Flushes, closes and renames. Nothing may be written afterwards.
  void commit();

 private:
  void flush();
  void put(std::string_view bytes);
  void discard() noexcept;

  std::string path_;       // as the caller named it, for messages
  std::string target_;     // where it ends (links followed)
  std::string temporary_;  // empty when written in place
  std::string buffer_;
  int file_ = -1;
  int slot_ = -1;
};

/// Removes the temporary names of all unfinished AtomicFiles. Safe to call from a signal handler.
void remove_pending_files() noexcept;

}  // namespace manyhop
