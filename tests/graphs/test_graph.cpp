#include "manyhop/graphs/graph.hpp"

#include <doctest/doctest.h>
#include <rapidcheck.h>

#include <cmath>
#include <limits>
#include <map>
#include <memory>
#include <set>
#include <thread>
#include <utility>
#include <vector>

#include "manyhop/graphs/base/error.hpp"
#include "manyhop/graphs/runs.hpp"

using namespace manyhop;

namespace {

using Cells = std::set<std::pair<Index, Index>>;

Cells cells(const Graph& graph) {
  Cells out;
  for (Offset i = 0; i < graph.n_rows(); ++i) {
    for (const Index j : graph.row(i)) out.insert({static_cast<Index>(i), j});
  }
  return out;
}

// Rows hold columns begin(i) .. end(i) - 1.
Graph band(Offset n, auto begin, auto end) {
  return build_rows(n, n, [=](Offset i, RunList& out) {
    append_run(out, {static_cast<Index>(begin(i)), static_cast<Index>(end(i))});
  });
}

Graph causal(Offset n) {
  return band(
      n, [](Offset) { return 0; }, [](Offset i) { return i + 1; });
}

// The same edges through from_csr, which always stores them.
Graph written(const Graph& graph) {
  const std::vector<Offset> indptr(graph.indptr().begin(), graph.indptr().end());
  std::vector<Index> indices;
  for (Offset i = 0; i < graph.n_rows(); ++i) {
    graph.for_each_run(i, [&](Run run) {
      for (Index c = run.begin; c < run.end; ++c) indices.push_back(c);
    });
  }
  return Graph::from_csr(graph.n_rows(), graph.n_cols(), indptr, indices);
}

struct Drawn {
  Offset rows, cols;
  std::vector<Index> r, c;
  std::vector<double> w;
};

Drawn draw() {
  Drawn d;
  d.rows = *rc::gen::inRange<Offset>(0, 12);
  d.cols = *rc::gen::inRange<Offset>(0, 12);
  const std::size_t m = d.rows * d.cols == 0 ? 0 : *rc::gen::inRange<std::size_t>(0, 60);
  for (std::size_t e = 0; e < m; ++e) {
    d.r.push_back(*rc::gen::inRange<Index>(0, static_cast<Index>(d.rows)));
    d.c.push_back(*rc::gen::inRange<Index>(0, static_cast<Index>(d.cols)));
    d.w.push_back(*rc::gen::inRange(-1000, 1000) / 7.0);
  }
  return d;
}

}  // namespace

//        0 1 2
//   0    . a b      a = 1 + 4 (twice), b = 2
//   1    . . .
//   2    c . .      c = 3
TEST_CASE("from_edges sorts, merges and adds") {
  const std::vector<Index> rows{0, 0, 2, 0};
  const std::vector<Index> cols{2, 1, 0, 1};
  const std::vector<double> weights{2, 1, 3, 4};
  const Graph graph = Graph::from_edges(3, 3, rows, cols, weights);
  CHECK(std::vector<Offset>(graph.indptr().begin(), graph.indptr().end()) == std::vector<Offset>{0, 2, 2, 3});
  CHECK(std::vector<Index>(graph.indices().begin(), graph.indices().end()) == std::vector<Index>{1, 2, 0});
  CHECK(std::vector<double>(graph.weights().begin(), graph.weights().end()) == std::vector<double>{5, 2, 3});
  const Graph& back = graph.transpose();
  CHECK(cells(back) == Cells{{0, 2}, {1, 0}, {2, 0}});
  CHECK(std::vector<double>(back.weights().begin(), back.weights().end()) == std::vector<double>{3, 5, 2});
  CHECK(&graph.transpose() == &back);
  CHECK(cells(graph.rows(1, 3)) == Cells{{1, 0}});
  CHECK(graph.rows(1, 3).weights()[0] == 3);
  CHECK(graph.rows(2, 2).n_rows() == 0);
  CHECK(graph.degree(1) == 0);
  CHECK_FALSE(graph.without_weights().weighted());
  CHECK(graph.without_weights().hash() == graph.hash());
}

TEST_CASE("weights of duplicates add in input order") {
  const std::vector<Index> zero{0, 0, 0};
  const Graph graph = Graph::from_edges(1, 1, zero, zero, std::vector<double>{1e16, 1, -1e16});
  CHECK(graph.weights()[0] == 0);  // (1e16 + 1) - 1e16 in doubles
  const Graph other = Graph::from_edges(1, 1, zero, zero, std::vector<double>{1e16, -1e16, 1});
  CHECK(other.weights()[0] == 1);
}

TEST_CASE("empty graphs") {
  const Graph none;
  CHECK(none.nnz() == 0);
  CHECK(none.transpose().n_rows() == 0);
  CHECK(none.indices().empty());
  CHECK(none.rows(0, 0).nnz() == 0);
  CHECK(none.same_edges(Graph::from_edges(0, 0, {}, {})));
  CHECK(none.hash() == Graph::from_runs(0, 0, {0}, {}).hash());
  const Graph isolated = Graph::from_edges(5, 3, {}, {});
  CHECK(isolated.transpose().n_rows() == 3);
  CHECK(isolated.hash() != Graph::from_edges(3, 5, {}, {}).hash());
  CHECK(Graph::from_edges(0, 4, {}, {}).hash() != Graph::from_edges(4, 0, {}, {}).hash());
  CHECK(batch({}).n_rows() == 0);
  CHECK(batch({}).row_offsets().size() == 1);
}

TEST_CASE("bad arrays are refused with the first bad entry") {
  using V = std::vector<Index>;
  const double nan = std::numeric_limits<double>::quiet_NaN();
  CHECK_THROWS_WITH_AS(Graph::from_csr(2, 2, {0, 1, 2}, {0, 2}),
                       "indices[1] (row 1): column 2 is outside 0 .. 1", ValueError);
  CHECK_THROWS_AS(Graph::from_csr(1, 3, {0, 2}, {1, 1}), ValueError);
  CHECK_THROWS_AS(Graph::from_csr(1, 3, {0, 2}, {2, 1}), ValueError);
  CHECK_THROWS_AS(Graph::from_csr(1, 3, {0, 1}, {-1}), ValueError);
  CHECK_THROWS_AS(Graph::from_csr(2, 2, {0, 2, 1}, {0}), ValueError);
  CHECK_THROWS_AS(Graph::from_csr(2, 2, {1, 1, 1}, {0}), ValueError);
  CHECK_THROWS_AS(Graph::from_csr(2, 2, {0, 1, 1}, {0, 1}), ValueError);
  CHECK_THROWS_AS(Graph::from_csr(2, 2, {}, {}), ValueError);
  CHECK_THROWS_AS(Graph::from_csr(1, 1, {0, 1}, {0}, {nan}), ValueError);
  CHECK_THROWS_AS(Graph::from_csr(1, 1, {0, 1}, {0}, {1, 2}), ValueError);
  CHECK_THROWS_AS(Graph::from_csr(-1, 1, {}, {}), ValueError);
  CHECK_THROWS_AS(Graph::from_edges(Offset{1} << 40, 1, {}, {}), ValueError);
  CHECK_THROWS_WITH_AS(Graph::from_edges(2, 2, V{0, 2}, V{0, 0}), "edge 1: row 2 is outside 0 .. 1",
                       ValueError);
  CHECK_THROWS_AS(Graph::from_edges(2, 2, V{0}, V{-1}), ValueError);
  CHECK_THROWS_AS(Graph::from_edges(2, 2, V{0}, V{}), ValueError);
  CHECK_THROWS_AS(Graph::from_runs(1, 4, {0, 1}, {{2, 2}}), ValueError);
  CHECK_THROWS_AS(Graph::from_runs(1, 4, {0, 1}, {{2, 5}}), ValueError);
  CHECK_THROWS_AS(Graph::from_runs(1, 4, {0, 1}, {{-1, 2}}), ValueError);
  CHECK_THROWS_AS(Graph::from_runs(1, 4, {0, 2}, {{2, 3}, {1, 2}}), ValueError);
  CHECK_THROWS_AS(Graph::from_runs(2, 4, {0, 5, 1}, {{2, 3}}), ValueError);
  CHECK_THROWS_AS(Graph::from_runs(2, 4, {0, -5, 1}, {{2, 3}}), ValueError);
  CHECK_THROWS_AS(build_rows(Offset{1} << 40, 1, [](Offset, RunList&) {}), ValueError);
  const Graph graph = causal(3);
  CHECK_THROWS_AS(graph.rows(-1, 2), ValueError);
  CHECK_THROWS_AS(graph.rows(2, 1), ValueError);
  CHECK_THROWS_AS(graph.rows(0, 4), ValueError);
  CHECK_THROWS_AS(graph.with_weights({1}), ValueError);
  CHECK_THROWS_AS(graph.with_weights({1, 2, 3, nan, 5, 6}), ValueError);
}

TEST_CASE("touching runs are joined") {
  const Graph graph = Graph::from_runs(2, 6, {0, 3, 4}, {{0, 2}, {2, 3}, {4, 5}, {5, 6}});
  const Graph same =
      Graph::from_edges(2, 6, std::vector<Index>{0, 0, 0, 0, 1}, std::vector<Index>{0, 1, 2, 4, 5});
  CHECK(graph.same_edges(same));
  // The same on a graph that stays implicit.
  std::vector<Offset> indptr{0};
  std::vector<Run> runs;
  for (int i = 0; i < 100; ++i) {
    runs.push_back({0, 1000});
    runs.push_back({1000, 5000});
    indptr.push_back(static_cast<Offset>(runs.size()));
  }
  const Graph split = Graph::from_runs(100, 5000, indptr, runs);
  REQUIRE(split.implicit());
  const Graph whole = build_rows(100, 5000, [](Offset, RunList& out) { out.push_back({0, 5000}); });
  CHECK(split.hash() == whole.hash());
  CHECK(split.same_edges(whole));
}

TEST_CASE("columns up to 2^31 - 2 fit") {
  const Index last = 2147483646;
  const Graph graph = Graph::from_csr(2, kMaxVertices, {0, 2, 3}, {last - 1, last, last});
  int count = 0;
  graph.for_each_run(0, [&](Run run) {
    CHECK(run.begin == last - 1);
    CHECK(run.end == 2147483647);
    ++count;
  });
  CHECK(count == 1);
  const Graph full = Graph::from_runs(3, kMaxVertices, {0, 1, 2, 3}, std::vector<Run>(3, {0, 2147483647}));
  CHECK(full.nnz() == 3 * kMaxVertices);
  CHECK(full.implicit());
  CHECK(intersect(full.rows(0, 2), graph).same_edges(graph));
}

TEST_CASE("implicit and explicit storage answer alike") {
  const Offset n = 700;
  const std::vector<Graph> graphs{
      causal(n),
      band(
          n, [](Offset) { return 0; }, [](Offset) { return 700; }),
      band(
          n, [](Offset i) { return i < 100 ? 0 : i / 3; }, [](Offset i) { return i % 2 ? 700 : 690; })};
  for (const Graph& graph : graphs) {
    REQUIRE(graph.implicit());
    const Graph plain = written(graph);
    CHECK(graph.hash() == plain.hash());
    CHECK(graph.same_edges(plain));
    CHECK(graph.transpose().same_edges(plain.transpose()));
    CHECK(graph.transpose().hash() == plain.transpose().hash());
    CHECK(graph.transpose().transpose().same_edges(graph));
    CHECK(graph.rows(5, 600).same_edges(plain.rows(5, 600)));
    CHECK(graph.bytes() < plain.bytes());
    CHECK(graph.implicit());
    const Graph weighted =
        graph.with_weights(std::vector<double>(static_cast<std::size_t>(graph.nnz()), 2.0));
    CHECK_FALSE(weighted.implicit());
    CHECK(weighted.hash() == graph.hash());
    CHECK(std::equal(graph.indices().begin(), graph.indices().end(), plain.indices().begin()));
    CHECK_FALSE(graph.implicit());
    CHECK(graph.hash() == plain.hash());
  }
}

TEST_CASE("copies and readers while another thread writes the edges") {
  for (int round = 0; round < 20; ++round) {
    const Graph graph = causal(500);
    std::vector<std::thread> threads;
    for (int t = 0; t < 4; ++t) {
      threads.emplace_back([&graph, t] {
        if (t % 2 == 0) {
          graph.row(3);
        } else {
          const Graph copy = graph.labelled("causal", Source::pattern);
          copy.indices();
          graph.transpose();
        }
      });
    }
    for (std::thread& thread : threads) thread.join();
    CHECK(graph.indices().size() == 125250);
  }
}

TEST_CASE("edges that no memory holds are refused before they are written") {
  constexpr Offset n = Offset{1} << 22;
  const Graph graph = build_rows(n, n, [](Offset, RunList& out) {
    out.push_back({0, static_cast<Index>(n)});
  });
  CHECK_THROWS_AS(graph.indices(), LimitError);
  CHECK(graph.implicit());
}

TEST_CASE("graph laws") {
  CHECK(rc::check("from_edges is a map of sums", [] {
    const Drawn d = draw();
    std::map<std::pair<Index, Index>, double> oracle;
    for (std::size_t e = 0; e < d.r.size(); ++e) oracle[{d.r[e], d.c[e]}] += d.w[e];
    const Graph graph = Graph::from_edges(d.rows, d.cols, d.r, d.c, d.w);
    RC_ASSERT(graph.nnz() == static_cast<Offset>(oracle.size()));
    std::size_t e = 0;
    for (const auto& [cell, weight] : oracle) {
      RC_ASSERT(graph.indices()[e] == cell.second);
      RC_ASSERT(graph.indptr()[static_cast<std::size_t>(cell.first)] <= static_cast<Offset>(e));
      RC_ASSERT(static_cast<Offset>(e) < graph.indptr()[static_cast<std::size_t>(cell.first) + 1]);
      RC_ASSERT(graph.weights()[e] == weight);
      ++e;
    }
  }));
  CHECK(rc::check("transpose mirrors, twice is nothing", [] {
    const Drawn d = draw();
    const Graph graph = Graph::from_edges(d.rows, d.cols, d.r, d.c, d.w);
    const Graph& t = graph.transpose();
    Cells mirrored;
    for (const auto& [i, j] : cells(graph)) mirrored.insert({j, i});
    RC_ASSERT(cells(t) == mirrored);
    const Graph& back = t.transpose();
    RC_ASSERT(back.same_edges(graph));
    RC_ASSERT(std::equal(back.weights().begin(), back.weights().end(), graph.weights().begin()));
  }));
  CHECK(rc::check("hash tells edited graphs apart", [] {
    Drawn d = draw();
    RC_PRE(d.rows > 0 && d.cols > 0);
    const Graph before = Graph::from_edges(d.rows, d.cols, d.r, d.c);
    d.r.push_back(*rc::gen::inRange<Index>(0, static_cast<Index>(d.rows)));
    d.c.push_back(*rc::gen::inRange<Index>(0, static_cast<Index>(d.cols)));
    const Graph after = Graph::from_edges(d.rows, d.cols, d.r, d.c);
    RC_ASSERT((before.hash() == after.hash()) == (cells(before) == cells(after)));
    RC_ASSERT(before.same_edges(after) == (cells(before) == cells(after)));
    RC_ASSERT(Graph::from_edges(d.rows + 1, d.cols, d.r, d.c).hash() != after.hash());
  }));
  CHECK(rc::check("a batch is block-diagonal", [] {
    std::vector<Graph> items;
    Cells expected;
    std::vector<double> weights;
    Offset row = 0;
    Offset col = 0;
    bool any = false;
    for (int s = *rc::gen::inRange(0, 4); s > 0; --s) {
      const Drawn d = draw();
      const bool with = *rc::gen::arbitrary<bool>();
      items.push_back(Graph::from_edges(d.rows, d.cols, d.r, d.c, with ? d.w : std::vector<double>()));
      any = any || items.back().weighted();
    }
    for (const Graph& item : items) {
      for (const auto& [i, j] : cells(item)) {
        expected.insert({static_cast<Index>(i + row), static_cast<Index>(j + col)});
      }
      for (Offset e = 0; e < item.nnz(); ++e) {
        weights.push_back(item.weighted() ? item.weights()[static_cast<std::size_t>(e)] : 1.0);
      }
      row += item.n_rows();
      col += item.n_cols();
    }
    const Graph joined = batch(items);
    RC_ASSERT(joined.n_rows() == row);
    RC_ASSERT(joined.n_cols() == col);
    RC_ASSERT(cells(joined) == expected);
    RC_ASSERT(joined.row_offsets().size() == items.size() + 1);
    RC_ASSERT(joined.weighted() == any);
    if (any) RC_ASSERT(std::equal(weights.begin(), weights.end(), joined.weights().begin()));
  }));
}
