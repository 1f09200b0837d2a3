#include "output.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cmath>
#include <cstdio>
#include <filesystem>
#include <stdexcept>
#include <system_error>

#include "manyhop/graphs/base/error.hpp"
#include "manyhop/graphs/base/parallel.hpp"
#include "manyhop/graphs/io/files.hpp"
#include "progress.hpp"
#include "signals.hpp"

namespace manyhop::cli {
namespace {

// Characters on the screen: bytes of UTF-8 that do not continue another.
std::size_t width_of(std::string_view text) {
  return static_cast<std::size_t>(std::count_if(
      text.begin(), text.end(), [](char c) { return (static_cast<unsigned char>(c) & 0xC0U) != 0x80U; }));
}

}  // namespace

std::string Table::text() const {
  std::vector<std::size_t> width;
  for (const auto& row : rows_) {
    width.resize(std::max(width.size(), row.size()));
    for (std::size_t c = 0; c < row.size(); ++c) width[c] = std::max(width[c], width_of(row[c]));
  }
  std::string out;
  for (const auto& row : rows_) {
    for (std::size_t c = 0; c < row.size(); ++c) {
      const std::string pad(width[c] - width_of(row[c]), ' ');
      if (c == 0) {
        out += row[c] + (row.size() > 1 ? pad : "");
      } else {
        out += "  " + pad + row[c];
      }
    }
    out += '\n';
  }
  return out;
}

std::string Fields::text() const {
  std::size_t width = 0;
  for (const auto& [name, value] : rows_) width = std::max(width, width_of(name));
  std::string out;
  for (const auto& [name, value] : rows_)
    out.append(name).append(width - width_of(name) + 2, ' ').append(value).append(1, '\n');
  return out;
}

std::string bytes_text(double bytes) {
  constexpr std::array<const char*, 5> units{"B", "KiB", "MiB", "GiB", "TiB"};
  std::size_t unit = 0;
  while (bytes >= 1024 && unit + 1 < units.size()) {
    bytes /= 1024;
    ++unit;
  }
  return fmt::format("{:.{}f} {}", bytes, unit == 0 ? 0 : 1, units[unit]);
}

std::string seconds_text(double seconds) {
  if (seconds >= 1) return fmt::format("{:.3g} s", seconds);
  if (seconds >= 1e-3) return fmt::format("{:.3g} ms", seconds * 1e3);
  return fmt::format("{:.3g} us", seconds * 1e6);
}

std::string number_text(double value) { return std::isfinite(value) ? fmt::format("{:.6g}", value) : "-"; }

void print(std::string_view text) {
  clear_progress();
  if (std::fwrite(text.data(), 1, text.size(), stdout) != text.size() || std::fflush(stdout) != 0)
    throw std::runtime_error(
        fmt::format("standard output could not be written: {}", std::generic_category().message(errno)));
}

void tell(std::string_view text) {
  clear_progress();
  static_cast<void>(std::fwrite(text.data(), 1, text.size(), stderr));
}

void note(std::string_view text) { tell(fmt::format("manyhop: {}\n", text)); }

void hold_standard_streams() {
  for (const int file : {STDIN_FILENO, STDOUT_FILENO, STDERR_FILENO}) {
    // The lowest free number is taken, which is this one.
    if (fcntl(file, F_GETFD) < 0)
      static_cast<void>(open("/dev/null", file == STDIN_FILENO ? O_WRONLY : O_RDONLY));
  }
}

void check_output(std::string_view option, const std::string& path,
                  const std::vector<std::string>& suffixes) {
  if (path == "-") return;
  if (path.empty())
    throw ValueError(fmt::format("{} is empty: expected a file name, or - for standard output", option));
  const bool known = std::any_of(suffixes.begin(), suffixes.end(), [&](const std::string& suffix) {
    return path.size() > suffix.size() && has_suffix(path, suffix);
  });
  if (!known)
    throw ValueError(fmt::format("{} {}: the suffix names no format that can be written here; expected {}",
                                 option, path, fmt::join(suffixes, ", ")));
  std::error_code error;
  if (std::filesystem::is_directory(path, error))
    throw ValueError(fmt::format("{} {}: is a folder, expected a file name", option, path));
  const bool there = std::filesystem::exists(path, error);
  const std::string target = link_target(path);
  const std::string linked = target == path ? "" : fmt::format("links to {}, ", target);
  if (there && access(path.c_str(), W_OK) != 0)
    throw ValueError(fmt::format("{} {}: {}cannot be written: {}", option, path, linked,
                                 std::generic_category().message(errno)));
  if (there && !std::filesystem::is_regular_file(path, error)) return;  // a pipe is written where it is
  auto folder = std::filesystem::path(target).parent_path();
  if (folder.empty()) folder = ".";
  if (!std::filesystem::is_directory(folder, error))
    throw ValueError(
        fmt::format("{} {}: {}the folder {} does not exist", option, path, linked, folder.string()));
  if (access(folder.c_str(), W_OK | X_OK) != 0)
    throw ValueError(fmt::format("{} {}: {}the folder {} cannot be written: {}", option, path, linked,
                                 folder.string(), std::generic_category().message(errno)));
}

void Outputs::commit() {
  try {
    for (const auto& [path, write] : files_) {
      check_stop();
      std::error_code error;
      const bool fresh = path != "-" && !std::filesystem::exists(path, error);
      if (fresh) forget_on_success(link_target(path));  // the user's link stays
      write(path);
    }
    // From here on the outputs stand, and a signal during the report no longer undoes or denies them.
    while (!finish_work()) check_stop();
  } catch (const Interrupted&) {
    remove_listed();
    throw;
  } catch (const ValueError&) {  // what the format cannot hold
    remove_listed();
    throw;
  } catch (const LimitError&) {
    remove_listed();
    throw;
  } catch (const std::exception& error) {
    remove_listed();
    throw std::runtime_error(error.what());  // the disk's failure, not the caller's mistake
  }
  keep_all();
}

}  // namespace manyhop::cli
