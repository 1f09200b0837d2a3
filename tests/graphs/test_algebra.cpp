#include <doctest/doctest.h>
#include <rapidcheck.h>

#include <algorithm>
#include <chrono>
#include <queue>
#include <set>
#include <utility>
#include <vector>

#include "manyhop/graphs/base/error.hpp"
#include "manyhop/graphs/graph.hpp"
#include "manyhop/graphs/patterns/pattern.hpp"
#include "manyhop/graphs/runs.hpp"

using namespace manyhop;

namespace {

using Cells = std::set<std::pair<Index, Index>>;

Graph graph_of(Offset rows, Offset cols, const Cells& cells) {
  std::vector<Index> r;
  std::vector<Index> c;
  for (const auto& [i, j] : cells) {
    r.push_back(i);
    c.push_back(j);
  }
  return Graph::from_edges(rows, cols, r, c);
}

Cells draw(Offset rows, Offset cols) {
  if (rows == 0 || cols == 0) return {};
  return *rc::gen::container<Cells>(rc::gen::pair(rc::gen::inRange<Index>(0, static_cast<Index>(rows)),
                                                  rc::gen::inRange<Index>(0, static_cast<Index>(cols))));
}

// Labels by search over rows and columns; numbered by first vertex.
Components searched(const Graph& graph) {
  const Offset shift = graph.square() ? 0 : graph.n_rows();
  const auto total =
      static_cast<std::size_t>(graph.square() ? graph.n_rows() : graph.n_rows() + graph.n_cols());
  std::vector<std::set<std::size_t>> next(total);
  for (Offset i = 0; i < graph.n_rows(); ++i) {
    for (const Index j : graph.row(i)) {
      const auto u = static_cast<std::size_t>(i);
      const auto v = static_cast<std::size_t>(j + shift);
      if (u != v) {
        next[u].insert(v);
        next[v].insert(u);
      }
    }
  }
  Components result;
  result.label.assign(total, -1);
  for (std::size_t s = 0; s < total; ++s) {
    if (next[s].empty()) ++result.isolated;
    if (result.label[s] >= 0) continue;
    std::queue<std::size_t> queue({s});
    result.label[s] = static_cast<Index>(result.count);
    while (!queue.empty()) {
      const std::size_t u = queue.front();
      queue.pop();
      for (const std::size_t v : next[u]) {
        if (result.label[v] < 0) {
          result.label[v] = static_cast<Index>(result.count);
          queue.push(v);
        }
      }
    }
    ++result.count;
  }
  return result;
}

void same_components(const Graph& graph) {
  const Components mine = components(graph);
  const Components other = searched(graph);
  RC_ASSERT(mine.count == other.count);
  RC_ASSERT(mine.isolated == other.isolated);
  RC_ASSERT(mine.label == other.label);
}

}  // namespace

// 0 <- 1, 1 <- 1, 2 <- 2, 3 <- 4: components {0 1} {2} {3 4}; 2 has only its loop
TEST_CASE("facts by hand") {
  const Graph graph = graph_of(5, 5, {{0, 1}, {1, 1}, {2, 2}, {3, 4}});
  CHECK(components(graph).count == 3);
  CHECK(components(graph).isolated == 1);
  CHECK(components(graph).label == std::vector<Index>{0, 0, 1, 2, 2});
  CHECK(self_loop_count(graph) == 2);
  CHECK(degrees(graph).min == 0);
  CHECK(degrees(graph).max == 1);
  CHECK(degrees(graph).mean == 0.8);
  CHECK_FALSE(is_symmetric(graph));
  CHECK(is_symmetric(symmetrised(graph)));
  CHECK(symmetrised(graph).nnz() == 6);
  CHECK_FALSE(is_symmetric(graph_of(2, 3, {})));
  // One edge too few, anywhere, in rows long enough to be looked at in several chunks.
  const Graph whole = symmetrised(pattern("random(30, seed=3)", 100));
  CHECK(is_symmetric(whole));
  for (Offset gone = 0; gone < whole.nnz(); ++gone) {
    std::vector<Offset> indptr{0};
    std::vector<Index> indices;
    bool loop = false;
    for (Offset i = 0, e = 0; i < 100; ++i) {
      for (const Index j : whole.row(i)) {
        if (e++ != gone)
          indices.push_back(j);
        else
          loop = i == j;
      }
      indptr.push_back(static_cast<Offset>(indices.size()));
    }
    CHECK(is_symmetric(Graph::from_csr(100, 100, indptr, indices)) == loop);
  }
  CHECK_THROWS_AS(symmetrised(graph_of(2, 3, {})), ValueError);
  // Runs that a row and its mirror share, whole, in part, at an offset, or not at all: set for set.
  for (const char* text : {"window(9)", "overlap(16, 5) | random(5, seed=2)",
                           "causal & window(20) | random(3)", "global(11) | window(4) | random(7, seed=1)",
                           "t(causal) & overlap(24, 24)", "random(40, seed=5) | random(1)"}) {
    CAPTURE(text);
    const Graph drawn = pattern(text, 150);
    const Graph both = symmetrised(drawn);
    std::set<std::pair<Index, Index>> wanted;
    for (Index i = 0; i < 150; ++i)
      for (const Index j : drawn.row(i)) {
        wanted.emplace(i, j);
        wanted.emplace(j, i);
      }
    std::set<std::pair<Index, Index>> got;
    for (Index i = 0; i < 150; ++i)
      for (const Index j : both.row(i)) got.emplace(i, j);
    CHECK(got == wanted);
    CHECK(both.nnz() == static_cast<Offset>(wanted.size()));
  }
  CHECK(components(graph_of(2, 3, {{0, 2}})).count == 4);
  CHECK(degrees(Graph()).mean == 0);
  CHECK(components(Graph()).count == 0);
}

TEST_CASE("sizes must agree") {
  CHECK_THROWS_WITH_AS(unite(graph_of(2, 3, {}), graph_of(3, 2, {})),
                       "unite: left graph is 2 x 3, right graph is 3 x 2, equal sizes wanted", ValueError);
}

TEST_CASE("set algebra of graphs and their components") {
  CHECK(rc::check("graphs against std::set", [] {
    const auto rows = *rc::gen::inRange<Offset>(0, 15);
    const auto cols = *rc::gen::inRange<Offset>(0, 15);
    const Cells x = draw(rows, cols);
    const Cells y = draw(rows, cols);
    Cells both = x;
    both.insert(y.begin(), y.end());
    Cells common;
    Cells left;
    for (const auto& cell : x) (y.contains(cell) ? common : left).insert(cell);
    const Graph a = graph_of(rows, cols, x);
    const Graph b = graph_of(rows, cols, y);
    RC_ASSERT(unite(a, b).same_edges(graph_of(rows, cols, both)));
    RC_ASSERT(intersect(a, b).same_edges(graph_of(rows, cols, common)));
    RC_ASSERT(subtract(a, b).same_edges(graph_of(rows, cols, left)));
  }));
  CHECK(rc::check("components against a search", [] {
    const auto rows = *rc::gen::inRange<Offset>(0, 25);
    const auto cols = *rc::gen::arbitrary<bool>() ? rows : *rc::gen::inRange<Offset>(0, 25);
    same_components(graph_of(rows, cols, draw(rows, cols)));
  }));
  CHECK(rc::check("components of long runs", [] {
    const auto n = *rc::gen::inRange<Index>(1, 60);
    const auto spans = *rc::gen::container<std::vector<std::pair<Index, Index>>>(
        static_cast<std::size_t>(n),
        rc::gen::pair(rc::gen::inRange<Index>(0, n), rc::gen::inRange<Index>(0, 12)));
    same_components(build_rows(n, n, [&](Offset i, RunList& out) {
      const auto [begin, length] = spans[static_cast<std::size_t>(i)];
      append_run(out, {begin, std::min(n, begin + length)});
    }));
  }));
}

TEST_CASE("components cost runs, not edges") {
  const Offset n = 200000;  // a band of half the columns: 2 10^10 edges
  const Graph band = build_rows(n, n, [n](Offset i, RunList& out) {
    append_run(out, {static_cast<Index>(std::max<Offset>(0, i - n / 4)),
                     static_cast<Index>(std::min(n, i + n / 4))});
  });
  REQUIRE(band.implicit());
  const auto start = std::chrono::steady_clock::now();
  CHECK(components(band).count == 1);
  CHECK(std::chrono::steady_clock::now() - start < std::chrono::seconds(5));
}
