#include "manyhop/graphs/reorder.hpp"

#include <doctest/doctest.h>

#include <algorithm>
#include <numeric>
#include <string>
#include <vector>

#include "manyhop/graphs/base/error.hpp"
#include "manyhop/graphs/base/random.hpp"
#include "manyhop/graphs/patterns/pattern.hpp"

using namespace manyhop;

namespace {

constexpr Reorder kKinds[] = {Reorder::none, Reorder::degree, Reorder::rcm, Reorder::cluster,
                              Reorder::automatic};

std::size_t at(Offset i) { return static_cast<std::size_t>(i); }

// The same graph under other numbers, written out.
Graph shuffled(const Graph& graph, std::uint64_t seed) {
  std::vector<Index> place(at(graph.n_rows()));
  std::iota(place.begin(), place.end(), Index{0});
  CounterRng rng(seed, 1, 1);
  for (std::size_t i = place.size(); i > 1; --i) std::swap(place[i - 1], place[rng.below(i)]);
  std::vector<Index> rows;
  std::vector<Index> cols;
  for (Offset i = 0; i < graph.n_rows(); ++i) {
    for (const Index j : graph.row(i)) {
      rows.push_back(place[at(i)]);
      cols.push_back(place[at(j)]);
    }
  }
  return Graph::from_edges(graph.n_rows(), graph.n_cols(), rows, cols);
}

std::vector<Graph> graphs() {
  std::vector<Graph> all;
  for (const char* text : {"window(5)", "diffuser(16, 8, 4)", "regular(6)", "bigbird(16, 2)", "full",
                           "self - self", "causal & window(9)", "global(3)", "block(32) | random(3)"}) {
    all.push_back(pattern(text, 200));
    all.push_back(shuffled(all.back(), 5));
  }
  all.push_back(pattern("full", 1));
  all.push_back(Graph());
  return all;
}

double dense_share(const Tiling& tiling) {
  return static_cast<double>(tiling.dense_edges) /
         static_cast<double>(tiling.dense_edges + tiling.irregular_edges);
}

}  // namespace

TEST_CASE("reorder: every order is a permutation and moves every edge") {
  for (const Graph& graph : graphs()) {
    for (const Reorder kind : kKinds) {
      INFO(graph.text(), " ", name_of(kind));
      std::vector<Index> order = vertex_order(graph, kind);
      const Reordered result = reorder(graph, kind);
      CHECK(vertex_order(graph, kind) == order);
      if (!result.order.empty()) {
        CHECK(result.order == order);
        REQUIRE(result.graph.nnz() == graph.nnz());
        REQUIRE(result.edges.size() == at(graph.nnz()));
        for (Offset i = 0; i < graph.n_rows(); ++i) {
          const Offset old_row = order[at(i)];
          for (Offset e = result.graph.indptr()[at(i)]; e < result.graph.indptr()[at(i) + 1]; ++e) {
            const Offset old_edge = result.edges[at(e)];
            REQUIRE(old_edge >= graph.indptr()[at(old_row)]);
            REQUIRE(old_edge < graph.indptr()[at(old_row) + 1]);
            REQUIRE(order[at(result.graph.indices()[at(e)])] == graph.indices()[at(old_edge)]);
          }
        }
      } else {
        CHECK((kind == Reorder::none || kind == Reorder::automatic || graph.n_rows() == 0));
        CHECK(result.graph.same_edges(graph));
      }
      CHECK(result.tiling.dense_edges + result.tiling.irregular_edges == graph.nnz());
      std::sort(order.begin(), order.end());
      std::vector<Index> all(at(graph.n_rows()));
      std::iota(all.begin(), all.end(), Index{0});
      CHECK(order == all);
    }
  }
}

TEST_CASE("reorder: finds the tiles of shuffled graphs again") {
  struct Expected {
    const char* text;
    Offset n;
    double share;  // of the edges in dense columns, at least
  };
  for (const auto& [text, n, share] :
       {Expected{"overlap(64, 32)", 1000, 0.95},
        {"window(32)", 1024, 0.9},
        {"overlap(64, 32) | lift(regular(1, seed=1), 64) | global(64)", 1024, 0.98},
        {"block(32)", 999, 0.999}}) {
    const Graph graph = shuffled(pattern(text, n), 3);
    INFO(std::string(text));
    CHECK(dense_share(make_tiling(graph)) < share - 0.2);
    const Reordered found = reorder(graph, Reorder::automatic);
    CHECK(dense_share(found.tiling) >= share);
    CHECK(tile_cost(found.tiling) < tile_cost(make_tiling(graph)));
  }
  // Under random edges the band is found all the same: as dense as in the order it was made in.
  const Graph plain = pattern("diffuser(64, 64, 64)", 2048);
  const double in_order = dense_share(make_tiling(plain));
  CHECK(dense_share(reorder(shuffled(plain, 4), Reorder::automatic).tiling) > in_order - 0.02);
}

TEST_CASE("reorder: automatic leaves alone what no order helps") {
  CHECK(reorder(pattern("regular(8)", 512), Reorder::automatic).order.empty());
  CHECK(reorder(pattern("window(32)", 512), Reorder::automatic).order.empty());
  CHECK(reorder(pattern("full", 512), Reorder::automatic).graph.implicit());
}

TEST_CASE("reorder: global tokens come first, degrees fall") {
  const Graph graph = shuffled(pattern("window(3) | global(5)", 300), 9);
  for (const Reorder kind : {Reorder::degree, Reorder::rcm, Reorder::cluster}) {
    const auto order = vertex_order(graph, kind);
    for (std::size_t i = 0; i < 5; ++i) CHECK(graph.degree(order[i]) == 300);
  }
  const auto order = vertex_order(graph, Reorder::degree);
  for (std::size_t i = 1; i < order.size(); ++i) CHECK(graph.degree(order[i - 1]) >= graph.degree(order[i]));
}

TEST_CASE("reorder: rectangles are refused with both sizes") {
  CHECK_THROWS_WITH_AS(reorder(pattern("full", 3, 4), Reorder::rcm),
                       "reorder: the graph is 3 x 4, a square one is wanted", ValueError);
}
