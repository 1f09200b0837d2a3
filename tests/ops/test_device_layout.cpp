#include "manyhop/ops/cuda/layout.hpp"

#include <doctest/doctest.h>

#include <algorithm>
#include <set>
#include <vector>

#include "manyhop/graphs/patterns/pattern.hpp"
#include "tests/support/near.hpp"

using namespace manyhop;
using namespace manyhop::ops::cuda;
using namespace manyhop::test;

namespace {

using Edge = std::pair<Index, Index>;

std::vector<Edge> edges_of(const Graph& graph) {
  std::vector<Edge> edges;
  for (Offset i = 0; i < graph.n_rows(); ++i) {
    for (const Index j : graph.row(i)) edges.emplace_back(static_cast<Index>(i), j);
  }
  return edges;
}

std::size_t at(std::int64_t i) { return static_cast<std::size_t>(i); }

/// Every edge of the graph is in one cell or one task, and its name is its place.
void check(const Graph& graph, const LayoutOptions& options) {
  const Tiling tiling = make_tiling(graph);
  const Layout layout = make_layout(graph, tiling, options);
  const EdgeOrder order = edge_order(graph, tiling, layout, {});
  const std::vector<Edge> edges = edges_of(graph);
  std::vector<int> seen(edges.size());
  const auto meet = [&](std::int64_t name, Index row, Index column) {
    REQUIRE(name >= 0);
    REQUIRE(name < static_cast<std::int64_t>(edges.size()));
    CHECK(edges[at(name)] == Edge{row, column});
    ++seen[at(name)];
  };
  std::int64_t next_slot = 0;
  for (std::int64_t p = 0; p < layout.panels(); ++p) {
    const TaskRange range = layout.panel_tasks[at(p)];
    for (std::int32_t t = range.begin; t < range.end; ++t) {
      const TileTask& task = layout.tile_tasks[at(t)];
      CHECK(task.panel == p);
      CHECK(task.end - task.begin <= options.chunks_a_task);
      CHECK(task.slot == (range.end - range.begin > 1 ? next_slot++ : -1));
      for (std::int64_t chunk = task.begin; chunk < task.end; ++chunk) {
        for (int c = 0; c < kChunkColumns; ++c) {
          const Index column = layout.chunk_columns[at(chunk * kChunkColumns + c)];
          REQUIRE(column >= 0);
          REQUIRE(column < graph.n_cols());
          for (int r = 0; r < kPanelRows; ++r) {
            const bool there = (layout.chunk_masks[at(chunk * kChunkColumns + c)] >> r & 1U) != 0;
            const std::int64_t name = order.cells[at(chunk * kChunkCells + fragment_cell(r, c))];
            CHECK((name >= 0) == there);
            if (there) meet(name, layout.panel_rows[at(p * kPanelRows + r)], column);
          }
        }
      }
    }
  }
  CHECK(next_slot == layout.slots);
  for (const EdgeTask& task : layout.edge_tasks) {
    CHECK(task.end - task.begin <= options.edges_a_task);
    for (std::int64_t e = task.begin; e < task.end; ++e) {
      meet(order.edges[at(e)], static_cast<Index>(task.row), layout.columns[at(e)]);
    }
  }
  for (Offset i = 0; i < graph.n_rows(); ++i) {
    const TaskRange range = layout.row_tasks[at(i)];
    if (!options.tiles) CHECK(range.end > range.begin);
    for (std::int32_t t = range.begin; t < range.end; ++t) CHECK(layout.edge_tasks[at(t)].row == i);
    if (options.tiles) CHECK(layout.panel_rows[at(layout.row_places[at(i)])] == i);
  }
  CHECK(std::all_of(seen.begin(), seen.end(), [](int times) { return times == 1; }));
}

}  // namespace

TEST_CASE("layout: every edge once, in tasks of bounded size") {
  std::vector<Graph> graphs{random_graph(60, 60, 0.1, 1), star_graph(300), empty_graph(9, 9),
                            empty_graph(0, 0), random_graph(30, 90, 0.4, 2)};
  for (const char* text :
       {"full", "window(20)", "diffuser(16,16,8,seed=1)", "overlap(32,16)|random(4,seed=2)"}) {
    graphs.push_back(pattern(text, 150));
  }
  for (const Graph& graph : graphs) {
    check(graph, {});
    check(graph, {.tiles = true, .chunks_a_task = 2, .edges_a_task = 3});
    check(graph, {.tiles = false, .chunks_a_task = 1, .edges_a_task = 7});
  }
}

TEST_CASE("layout: places of cells are a permutation") {
  std::set<int> places;
  for (int r = 0; r < kPanelRows; ++r) {
    for (int c = 0; c < kChunkColumns; ++c) places.insert(fragment_cell(r, c));
  }
  CHECK(places.size() == kChunkCells);
  CHECK(*places.begin() == 0);
  CHECK(*places.rbegin() == kChunkCells - 1);
}

TEST_CASE("layout: edges of the transpose are called what the graph calls them") {
  for (const Graph& graph : {random_graph(40, 25, 0.2, 1), pattern("causal", 20), empty_graph(3, 4)}) {
    const std::vector<std::int64_t> names = transposed_edges(graph);
    const std::vector<Edge> edges = edges_of(graph);
    const std::vector<Edge> back = edges_of(graph.transpose());
    REQUIRE(names.size() == back.size());
    for (std::size_t e = 0; e < back.size(); ++e)
      CHECK(edges[at(names[e])] == Edge{back[e].second, back[e].first});
  }
}
