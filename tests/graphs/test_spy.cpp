#include "manyhop/graphs/spy.hpp"

#include <doctest/doctest.h>
#include <rapidcheck.h>

#include <algorithm>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "manyhop/graphs/base/error.hpp"
#include "manyhop/graphs/runs.hpp"

using namespace manyhop;

namespace {

Graph causal(Offset n) {
  return build_rows(n, n, [](Offset i, RunList& out) { out.push_back({0, static_cast<Index>(i + 1)}); });
}

Graph full(Offset rows, Offset cols) {
  return build_rows(rows, cols, [cols](Offset, RunList& out) {
    append_run(out, {0, static_cast<Index>(cols)});
  });
}

std::size_t count(const std::string& text, const std::string& piece) {
  std::size_t found = 0;
  for (std::size_t p = text.find(piece); p != std::string::npos; p = text.find(piece, p + 1)) ++found;
  return found;
}

// Lines between the top and the bottom of the frame, without the frame.
std::vector<std::string> picture(const std::string& text) {
  const std::string bar = "\u2502";
  std::vector<std::string> lines;
  for (std::size_t at = 0; at < text.size();) {
    const std::size_t end = text.find('\n', at);
    const std::string line = text.substr(at, end - at);
    const std::size_t open = line.find(bar);
    if (open != std::string::npos) {
      const std::size_t close = line.rfind(bar);
      lines.push_back(line.substr(open + bar.size(), close - open - bar.size()));
    }
    at = end + 1;
  }
  return lines;
}

}  // namespace

// 4 x 4, bins of 2 x 2:   x x | . .
//                         . x | . .
//                         ----+----
//                         . . | . x
//                         x x | x x
TEST_CASE("spy grid counts edges by bin") {
  const std::vector<Index> rows{0, 0, 1, 2, 3, 3, 3, 3};
  const std::vector<Index> cols{0, 1, 1, 3, 0, 1, 2, 3};
  const SpyGrid grid = spy_grid(Graph::from_edges(4, 4, rows, cols), 2, 2);
  CHECK(grid.count == std::vector<Offset>{3, 0, 2, 3});
  CHECK(grid.share(0, 0) == 0.75);
  CHECK(grid.share(1, 0) == 0.5);
}

TEST_CASE("spy grid equals a count edge by edge on any graph") {
  CHECK(rc::check("spy grid", [] {
    const auto n = *rc::gen::inRange<Index>(1, 40);
    const auto m = *rc::gen::inRange<Index>(1, 60);
    const int height = *rc::gen::inRange(1, 50);
    const int width = *rc::gen::inRange(1, 50);
    const auto edges = *rc::gen::container<std::vector<std::pair<Index, Index>>>(
        rc::gen::pair(rc::gen::inRange<Index>(0, n), rc::gen::inRange<Index>(0, m)));
    std::vector<Index> rows;
    std::vector<Index> cols;
    for (const auto& [r, c] : edges) {
      rows.push_back(r);
      cols.push_back(c);
    }
    const Graph graph = Graph::from_edges(n, m, rows, cols);
    const SpyGrid grid = spy_grid(graph, height, width);
    RC_ASSERT(grid.height == std::min<int>(height, n));
    RC_ASSERT(grid.width == std::min<int>(width, m));
    std::vector<Offset> expected(grid.count.size());
    for (Offset i = 0; i < n; ++i) {
      for (const Index j : graph.row(i)) {
        ++expected[static_cast<std::size_t>((i * grid.height / n) * grid.width + j * grid.width / m)];
      }
    }
    RC_ASSERT(grid.count == expected);
  }));
}

TEST_CASE("spy never writes the edges of an implicit graph") {
  const Graph graph = causal(3000);
  REQUIRE(graph.implicit());
  const SpyGrid grid = spy_grid(graph, 100, 100);
  Offset sum = 0;
  for (const Offset c : grid.count) sum += c;
  CHECK(sum == graph.nnz());
  CHECK(grid.edges(7, 3) == 900);
  CHECK(grid.edges(7, 7) == 465);
  CHECK(grid.edges(3, 7) == 0);
  spy_svg(graph);
  spy_braille(graph, 40, 20);
  CHECK(graph.implicit());
}

TEST_CASE("spy svg of small and empty graphs") {
  for (const Offset n : {0, 1, 2}) {
    const std::string svg = spy_svg(full(n, n), {.title = "t"});
    CHECK(svg.starts_with("<svg xmlns="));
    CHECK(svg.ends_with("</svg>\n"));
    CHECK(svg.find("n = " + std::to_string(n) + ", " + std::to_string(n * n) + " edges") != svg.npos);
    CHECK(count(svg, "<path") == (n > 0 ? 1 : 0));
  }
  CHECK(spy_svg(full(2, 2)).find("<path class=\"ink\" fill-opacity=\"1\" d=\"M0 0h2v1h-2zM0 1h2v1h-2z\"/>") !=
        std::string::npos);
  CHECK_NOTHROW(spy_svg(full(0, 5)));
  CHECK_NOTHROW(spy_svg(full(5, 0)));
}

TEST_CASE("spy svg shows facts and escapes its title") {
  const std::string svg = spy_svg(causal(4), {.title = "a<b & \"c\" 'd' \x01\xFF"});
  CHECK(svg.find("a&lt;b &amp; &quot;c&quot; &#39;d&#39; \uFFFD\uFFFD") != std::string::npos);
  CHECK(svg.find("n = 4, 10 edges, 2.5 per token") != std::string::npos);
  CHECK(svg.find("\x01") == std::string::npos);
  const std::string labelled = spy_svg(causal(4).labelled("causal", Source::pattern));
  CHECK(labelled.find("<title>causal: n = 4") != std::string::npos);
  CHECK(spy_svg(full(1000, 2000)).find("1,000 x 2,000, 2,000,000 edges, 2000 per token") !=
        std::string::npos);
}

TEST_CASE("spy svg keeps the aspect of a rectangle") {
  const std::string svg = spy_svg(full(1000, 4000));
  CHECK(svg.find("width=\"512\" height=\"128\" viewBox=\"0 0 256 64\"") != std::string::npos);
  const std::string tall = spy_svg(full(4000, 1000), {.title = "", .pixels = 64});
  CHECK(tall.find("width=\"128\" height=\"512\" viewBox=\"0 0 16 64\"") != std::string::npos);
}

TEST_CASE("spy refuses sizes out of range") {
  CHECK_THROWS_AS(spy_svg(full(2, 2), {.title = "", .pixels = 0}), ValueError);
  CHECK_THROWS_AS(spy_svg(full(2, 2), {.title = "", .pixels = 4097}), ValueError);
  CHECK_THROWS_AS(spy_braille(full(2, 2), 0, 3), ValueError);
  CHECK_THROWS_AS(spy_braille(full(2, 2), 3, 1001), ValueError);
  CHECK_THROWS_WITH(spy_braille(full(2, 2), -1, 3), "spy columns: -1 is outside 1 .. 1000");
}

// 4 x 4 identity in one 2 x 1 pair of characters: dots 1, 5, then 3, 8 (0x01 + 0x10, 0x04 + 0x80).
TEST_CASE("spy braille sets the right dots") {
  const std::vector<Index> id{0, 1, 2, 3};
  const Graph graph = Graph::from_edges(4, 4, id, id);
  const std::string text = spy_braille(graph, 2, 1);
  REQUIRE(picture(text).size() == 1);
  CHECK(picture(text)[0] == "\u2811\u2884");
  CHECK(text.find("n = 4, 4 edges, 1 per token\n") != std::string::npos);
}

TEST_CASE("spy braille fits the frame, enlarges small graphs and draws full graphs full") {
  const auto lines = picture(spy_braille(full(2, 2), 4, 2));
  REQUIRE(lines.size() == 2);
  for (const std::string& line : lines) CHECK(line == "\u28FF\u28FF\u28FF\u28FF");
  for (const Offset n : {0, 1, 3, 100, 5000}) {
    for (const auto& line : picture(spy_braille(full(n, n), 30, 10))) CHECK(line.size() <= 30 * 3);
    CHECK(picture(spy_braille(full(n, n), 30, 10)).size() <= 10);
    CHECK(count(spy_braille(full(n, n), 1, 1), "\u2502") == 2);
  }
  CHECK(picture(spy_braille(full(0, 0), 30, 10)) == std::vector<std::string>{"\u2800"});
}

TEST_CASE("spy braille shows every edge of a sparse graph") {
  // One edge among 10^6 cells.
  const std::vector<Index> row{999};
  const std::vector<Index> col{0};
  const auto lines = picture(spy_braille(Graph::from_edges(1000, 1000, row, col), 20, 10));
  REQUIRE(lines.size() == 10);
  CHECK(lines[9].starts_with("\u2840"));
}
