// Every atom on a few tokens, drawn by hand: row i of the picture is row i of the graph, '#' is an edge.
#include <doctest/doctest.h>
#include <fmt/format.h>

#include <string>
#include <vector>

#include "manyhop/graphs/base/error.hpp"
#include "manyhop/graphs/patterns/pattern.hpp"

using namespace manyhop;

namespace {

std::string picture(const Graph& graph) {
  std::string out;
  for (Offset i = 0; i < graph.n_rows(); ++i) {
    std::string row(static_cast<std::size_t>(graph.n_cols()), '.');
    for (const Index j : graph.row(i)) row[static_cast<std::size_t>(j)] = '#';
    out += (i > 0 ? " " : "") + row;
  }
  return out;
}

std::string draw(std::string_view text, Offset n) { return picture(pattern(text, n)); }
std::string draw(std::string_view text, Offset rows, Offset cols) {
  return picture(pattern(text, rows, cols));
}

// Multiplicities instead of '#'.
std::string weighted_picture(const Graph& graph) {
  std::string out;
  std::size_t e = 0;
  for (Offset i = 0; i < graph.n_rows(); ++i) {
    std::string row(static_cast<std::size_t>(graph.n_cols()), '.');
    for (const Index j : graph.row(i)) {
      const double weight = graph.weighted() ? graph.weights()[e] : 1;
      row[static_cast<std::size_t>(j)] = static_cast<char>('0' + static_cast<int>(weight));
      ++e;
    }
    out += (i > 0 ? " " : "") + row;
  }
  return out;
}

}  // namespace

TEST_CASE("local atoms as drawn") {
  CHECK(draw("window(1)", 4) == "##.. ###. .### ..##");
  CHECK(draw("window(1, step=2)", 5) == "#.#.. .#.#. #.#.# .#.#. ..#.#");
  CHECK(draw("window(1, ring=true)", 5) == "##..# ###.. .###. ..### #..##");
  CHECK(draw("window(1, 2, true)", 5) == "#.##. .#.## #.#.# ##.#. .##.#");
  CHECK(draw("window(9, 2, true)", 4) == "#.#. .#.# #.#. .#.#");
  CHECK(draw("window(9)", 3) == "### ### ###");
  CHECK(draw("window(0)", 3) == "#.. .#. ..#");
  CHECK(draw("overlap(4, 2)", 6) == "####.. ####.. ###### ###### ..#### ..####");
  CHECK(draw("overlap(2, 3)", 7) == "##..... ##..... ....... ...##.. ...##.. ....... ......#");
  CHECK(draw("overlap(3, 1)", 4) == "###. #### #### .###");
  CHECK(draw("block(2)", 5) == "##... ##... ..##. ..##. ....#");
  CHECK(draw("self", 2) == "#. .#");
  CHECK(draw("full", 2) == "## ##");
  CHECK(draw("causal", 3) == "#.. ##. ###");
  CHECK(draw("global(1)", 3) == "### #.. #..");
  CHECK(draw("global(ids=[2, 0])", 4) == "#### #.#. #### #.#.");
  CHECK(draw("strided(2)", 5) == "###.# ####. ##### .#### #.###");
  CHECK(draw("strided(1)", 2) == "## ##");
  CHECK(draw("logsparse", 6) == "###.#. ####.# #####. .##### #.#### .#.###");
  CHECK(draw("axial(2, 3)", 6) == "####.. ###.#. ###..# #..### .#.### ..####");
  CHECK(draw("grid(2, 3, 1)", 6) == "##.##. ###### .##.## ##.##. ###### .##.##");
}

TEST_CASE("atoms on rectangles") {
  CHECK(draw("causal", 2, 4) == "###. ####");
  CHECK(draw("causal", 4, 2) == ".. .. #. ##");
  CHECK(draw("window(1)", 2, 4) == "##.. ###.");
  CHECK(draw("window(1)", 4, 2) == "## ## .# ..");
  CHECK(draw("window(1, 2)", 4, 2) == "#. .# #. .#");
  CHECK(draw("block(2)", 3, 5) == "##... ##... ..##.");
  CHECK(draw("global(1)", 3, 2) == "## #. #.");
  CHECK(draw("global(ids=[2])", 3, 2) == ".. .. ##");
  CHECK(draw("full - self", 2, 3) == ".## #.#");
  CHECK(draw("strided(2)", 2, 5) == "###.# ####.");
  CHECK(draw("strided(2)", 5, 2) == "## ## ## .# #.");
  CHECK(draw("logsparse", 5, 2) == "## ## ## .# #.");
  CHECK(draw("t(causal)", 4, 2) == "## ## ## .#");
  CHECK(draw("lift(self, 2)", 3, 5) == "##... ##... ..##.");
}

TEST_CASE("expanders and relatives as drawn") {
  CHECK(draw("hypercube", 4) == ".##. #..# #..# .##.");
  CHECK(draw("hypercube", 1) == ".");
  CHECK(draw("paley", 5) == ".#..# #.#.. .#.#. ..#.# #..#.");  // squares mod 5: 1 and 4, so the cycle
  // Inverses mod 5: 1-1, 2-3, 4-4, 0-0.
  CHECK(weighted_picture(pattern("chordal", 5)) == "11..1 111.. .1.2. ..2.1 1..11");
  // s = 1: all eight edges are loops.
  CHECK(weighted_picture(pattern("margulis", 1)) == "8");
  // s = 2, (x, y) = 2 x + y: +-2y and +-2x are 0 and +-1 meet: four loops, two edges on each axis.
  CHECK(weighted_picture(pattern("margulis", 4)) == "422. 24.2 2.42 .224");
  CHECK(draw("debruijn(2)", 4) == "##.. ..## ##.. ..##");
  CHECK(draw("debruijn(2)", 5) == "##... ..##. #...# .##.. ...##");
  CHECK(weighted_picture(pattern("debruijn(3)", 2)) == "21 12");
  CHECK(weighted_picture(pattern("debruijn(4)", 2)) == "22 22");
  CHECK(draw("smallworld(2, 0)", 5) == ".#..# #.#.. .#.#. ..#.# #..#.");
  CHECK(draw("regular(3)", 4) == ".### #.## ##.# ###.");
  CHECK(draw("regular(0)", 3) == "... ... ...");
  CHECK(draw("regular(1)", 2) == ".# #.");
}

TEST_CASE("random atoms that leave no choice") {
  CHECK(draw("random(3)", 3) == "### ### ###");
  CHECK(draw("random(0)", 2) == ".. ..");
  CHECK(draw("random(3, causal=true)", 4) ==
        "#... ##.. ###. " + draw("random(3, causal=true)", 4).substr(15));
  CHECK(draw("random(9, causal=true)", 3) == "#.. ##. ###");
  CHECK(draw("global(2, seed=1)", 2) == "## ##");
}

TEST_CASE("operators as drawn") {
  CHECK(draw("full - causal", 3) == ".## ..# ...");
  CHECK(draw("causal & window(1)", 4) == "#... ##.. .##. ..##");
  CHECK(draw("self | full - self", 2) == ".# #.");
  CHECK(draw("self | (full - self)", 2) == "## ##");
  CHECK(draw("self | full & causal", 2) == "#. ##");
  CHECK(draw("lift(causal, 2)", 5) == "##... ##... ####. ####. #####");
  CHECK(draw("lift(self, 9)", 3) == "### ### ###");
  CHECK(draw("sym(causal)", 3) == "### ### ###");
  CHECK(draw("sym(debruijn(1))", 3) == "#.. .#. ..#");
  CHECK(draw("t(causal)", 3) == "### .## ..#");
  CHECK(draw("hops(window(1) & causal, 2)", 4) == "#... ##.. ###. .###");
  CHECK(draw("hops(window(1) - self, 2)", 4) == "###. #### #### .###");
  CHECK(draw("hops(debruijn(1), 1)", 2) == "#. .#");
  CHECK(draw("hops(window(1), 1e9)", 3) == "### ### ###");
  CHECK(weighted_picture(pattern("t(debruijn(3))", 2)) == "21 12");
  CHECK_FALSE(pattern("margulis | self", 4).weighted());
}

TEST_CASE("composites as drawn") {
  CHECK(draw("longformer(1, 1)", 4) == "#### ###. #### #.##");
  // Super-tokens 0 1 2: window and both ends make it full.
  CHECK(draw("bigbird(2, 0)", 5) == "##### ##### ##### ##### #####");
  CHECK(draw("bigbird(1, 0)", 5) == "##### ###.# ##### #.### #####");
  CHECK(draw("exphormer(0, 1)", 3) == "### ##. #.#");
  CHECK(draw("exphormer(9, 0)", 3) == "### ### ###");
  CHECK(draw("diffuser(2, 0, 0)", 4) == "##.. ###. .### ..##");
  CHECK(draw("diffuser", 3) == "### ### ###");
  CHECK(draw("diffuser", 0).empty());
}
