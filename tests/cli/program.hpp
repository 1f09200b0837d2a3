// Runs the real program and keeps what it said.
#pragma once

#include <sys/types.h>

#include <filesystem>
#include <nlohmann/json.hpp>
#include <set>
#include <string>
#include <vector>

namespace manyhop::test {

struct Said {
  int code = -1;  // exit status; 128 + signal when a signal ended it
  std::string out;
  std::string err;
  double seconds = 0;
};

struct Setting {
  std::string input = {};               // standard input
  std::vector<std::string> extra = {};  // NAME=value of the environment
  std::size_t address_space = 0;        // bytes; not under sanitizers, which reserve terabytes
  std::size_t file_size = 0;            // bytes that a file may have
  int interrupt_after_ms = -1;          // signal that long after the start
  double* after_signal = nullptr;       // seconds from the signal to the end
  int signal = 2;                       // SIGINT
  int closed = -1;                      // this one of the streams 0, 1, 2 is closed
  std::string out = {};                 // file that standard output goes to
  std::string err = {};                 // and standard error
};

/// A folder of its own, removed at the end.
class Folder {
 public:
  Folder();
  ~Folder();
  Folder(const Folder&) = delete;
  Folder& operator=(const Folder&) = delete;
  std::string operator/(const std::string& name) const { return (path_ / name).string(); }
  std::set<std::string> names() const;
  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
};

Said run_program(const std::vector<std::string>& arguments, const Setting& setting = {});
/// Expects exit code 0 and one JSON object on standard output.
nlohmann::json run_json(std::vector<std::string> arguments, const Setting& setting = {}, int code = 0);
/// Expects exit code 2 (or `code`), nothing on standard output, one line "manyhop: ..." with `part` on
/// standard error, and all of that soon. Returns the line.
std::string refused(const std::vector<std::string>& arguments, const std::string& part,
                    const Setting& setting = {});

std::string text_of(const std::string& path);
void write_text(const std::string& path, const std::string& text);
std::string example(const std::string& name);

/// Factor on time limits: sanitizers slow a program down.
double patience();

}  // namespace manyhop::test
