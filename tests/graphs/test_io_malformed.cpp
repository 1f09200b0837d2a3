// Every file of data/malformed is refused with a FileError that names the file, the place and the reason that
// expected.tsv lists for it.
#include <doctest/doctest.h>

#include <filesystem>
#include <map>
#include <set>

#include "manyhop/graphs/base/error.hpp"
#include "manyhop/graphs/io/io.hpp"

namespace manyhop {
namespace {

void read_any(const std::string& path) {
  if (path.ends_with(".npy")) {
    load_npy(path);
  } else if (path.ends_with(".safetensors")) {
    load_safetensors(path);
  } else {
    load(path);
  }
}

TEST_CASE("malformed files are refused by name, place and reason") {
  const std::string folder = MANYHOP_TEST_DATA "/malformed/";
  std::map<std::string, std::string> expected;
  const std::string table = read_file(folder + "expected.tsv");
  for (std::size_t begin = 0; begin < table.size();) {
    const std::size_t tab = table.find('\t', begin);
    const std::size_t end = table.find('\n', tab);
    expected[table.substr(begin, tab - begin)] = table.substr(tab + 1, end - tab - 1);
    begin = end + 1;
  }
  CHECK(expected.size() >= 100);
  std::set<std::string> seen;
  for (const auto& entry : std::filesystem::directory_iterator(folder)) {
    const std::string name = entry.path().filename().string();
    if (name == "expected.tsv") continue;
    CAPTURE(name);
    REQUIRE(expected.contains(name));
    seen.insert(name);
    std::string message = "nothing was thrown";
    try {
      read_any(folder + name);
    } catch (const FileError& error) {
      message = error.what();
    }
    CAPTURE(message);
    CHECK(message.starts_with(folder + name + ": "));
    CHECK((message.find(": line ") != std::string::npos || message.find(": byte ") != std::string::npos));
    CHECK(message.find(expected[name]) != std::string::npos);
  }
  CHECK(seen.size() == expected.size());
}

}  // namespace
}  // namespace manyhop
