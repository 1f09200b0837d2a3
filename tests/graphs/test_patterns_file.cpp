// file("path") as an atom: sizes, weights, direction, options.
#include <doctest/doctest.h>
#include <unistd.h>

#include <cstdio>
#include <string>

#include "manyhop/graphs/base/error.hpp"
#include "manyhop/graphs/io/io.hpp"
#include "manyhop/graphs/patterns/pattern.hpp"

using namespace manyhop;

namespace {

// A file that lives as long as the test; its folder is the working one.
struct Scratch {
  std::string path;
  Scratch(const std::string& suffix, const std::string& text)
      : path("pattern_file_" + std::to_string(getpid()) + suffix) {
    write_atomically(path, text);
  }
  ~Scratch() { std::remove(path.c_str()); }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  std::string atom() const { return "file(\"" + path + "\")"; }
};

}  // namespace

TEST_CASE("an edge list as an atom: u sends to v, weights stay when it stands alone") {
  const Scratch file(".el", "0 1 2.5\n2 1 4\n1 2 1\n");
  const Graph graph = pattern(file.atom(), 3);
  CHECK(graph.nnz() == 3);
  CHECK(graph.row(1).size() == 2);  // 1 receives from 0 and 2
  REQUIRE(graph.weighted());
  CHECK(graph.weights()[0] == 2.5);
  CHECK(graph.text() == file.atom());
  CHECK(pattern("t(" + file.atom() + ")", 3).weighted());
  const Graph joined = pattern(file.atom() + " | self", 3);
  CHECK_FALSE(joined.weighted());
  CHECK(joined.nnz() == 6);
  CHECK(implied_size(file.atom() + " | self") == 3);
}

TEST_CASE("a file of another size than the tokens is refused with both sizes") {
  const Scratch file(".el", "0 1\n2 1\n");
  const std::string message =
      "pattern, column 8: file \"" + file.path + "\" holds a graph of 3 x 3, the pattern is on 4 x 4 tokens";
  CHECK_THROWS_WITH_AS((void)pattern("self | " + file.atom(), 4), message.c_str(), ValueError);
  CHECK_THROWS_AS((void)pattern("file(\"no such file.el\")", 4), FileError);
}

TEST_CASE("edge-list options reach the atom") {
  const Scratch file(".el", "0 1\n");
  LoadOptions files;
  files.undirected = true;
  files.n = 4;
  const PatternOptions options{.files = &files};
  CHECK(pattern(file.atom(), 4, std::nullopt, options).nnz() == 2);
  CHECK(implied_size(file.atom(), options) == 4);
}

TEST_CASE("standard input is no file of a pattern, wherever its size or its edges are wanted") {
  const char* message =
      "pattern, column 8: file \"-\" is standard input, which a pattern cannot read; name a file";
  CHECK_THROWS_WITH_AS((void)pattern("self | file(\"-\")", 3), message, ValueError);
  CHECK_THROWS_WITH_AS((void)implied_size("self | file ( \"-\" )"), message, ValueError);
}
