// What the verbs print and write: aligned tables for people, one JSON object for scripts, files only when
// everything has been computed.
#pragma once

#include <functional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace manyhop::cli {

/// Columns padded to their widest cell; the first column is left-aligned, the others right-aligned.
class Table {
 public:
  explicit Table(std::vector<std::string> header) : rows_{std::move(header)} {}
  void add(std::vector<std::string> row) { rows_.push_back(std::move(row)); }
  std::string text() const;

 private:
  std::vector<std::vector<std::string>> rows_;
};

/// Name and value, one a line, values aligned.
class Fields {
 public:
  void add(std::string name, std::string value) { rows_.emplace_back(std::move(name), std::move(value)); }
  std::string text() const;
  const std::vector<std::pair<std::string, std::string>>& rows() const { return rows_; }

 private:
  std::vector<std::pair<std::string, std::string>> rows_;
};

std::string bytes_text(double bytes);      // 1.5 MiB
std::string seconds_text(double seconds);  // 12.3 ms
std::string number_text(double value);     // 6 significant digits; "-" when undefined

/// Writes to standard output and flushes. Throws std::runtime_error when the system refuses.
void print(std::string_view text);
/// To standard error. One that is closed or full keeps no result back and ends no run.
void tell(std::string_view text);
/// One line on standard error.
void note(std::string_view text);

/// Takes the numbers 0, 1 and 2 where the program was started without them, so that no file gets one: what is
/// printed would go into it. Reading and writing there fails as it would have. Call before any file is
/// opened.
void hold_standard_streams();

/// Refuses an output path before any work: an unknown suffix (the message lists `suffixes`), a folder that is
/// missing or not writable, a path that is a folder. "-" (standard output) passes.   Throws ValueError.
void check_output(std::string_view option, const std::string& path, const std::vector<std::string>& suffixes);

/// Files of one run. They are written together at the end; when one fails or the run is interrupted, those
/// that did not exist before are removed again.
class Outputs {
 public:
  void add(std::string path, std::function<void(const std::string&)> write) {
    files_.emplace_back(std::move(path), std::move(write));
  }
  /// Throws OutputFailure, Interrupted.
  void commit();

 private:
  std::vector<std::pair<std::string, std::function<void(const std::string&)>>> files_;
};

}  // namespace manyhop::cli
