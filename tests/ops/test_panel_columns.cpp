// Single edges by row and by column: the same sums, bit for bit, and those of a plain loop.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#include "manyhop/graphs/base/memory.hpp"
#include "manyhop/graphs/base/random.hpp"
#include "manyhop/graphs/patterns/pattern.hpp"
#include "manyhop/ops/cpu/panel_kernels.hpp"

using namespace manyhop;
using namespace manyhop::ops::cpu;

namespace {

std::size_t at(Offset i) { return static_cast<std::size_t>(i); }

// Kernels load whole lines.
template <class C>
using Lines = std::vector<C, BlockAllocator<C>>;

template <class C>
void compare(const Graph& graph, Offset width) {
  const Offset n = graph.n_rows();
  const Tiling tiling = make_tiling(graph);
  const RestByColumn columns = rest_by_column(tiling, n);
  REQUIRE(tiling.irregular_edges > 0);
  CounterRng rng(7, 0, 0);
  const auto drawn = [&](Offset count) {
    Lines<C> values(at(count));
    for (C& value : values) value = static_cast<C>(rng.below(2001)) / C{1000} - C{1};
    return values;
  };
  const Lines<C> g_data = drawn(n * width);
  const Lines<C> z_data = drawn(n * width);
  Lines<C> scattered(at(n * width));
  Lines<C> gathered(at(n * width));
  Lines<C> pulled(at(n * width));
  const Rows<const C> g{g_data.data(), n, width};
  const Rows<const C> z{z_data.data(), n, width};

  const Lines<C> by_row = drawn(tiling.irregular_edges);
  Lines<C> by_column(at(tiling.irregular_edges));
  for (Offset e = 0; e < tiling.irregular_edges; ++e)
    by_column.data()[columns.slots[at(e)]] = by_row.data()[e];
  std::vector<C> dots(at(tiling.irregular_edges), C{1});
  std::vector<C> pulled_dots(at(tiling.irregular_edges), C{7});

  std::vector<C> values(at(tiling.max_panel_values));
  for (Offset block = 0; block < width; block += Rows<C>::kBlock) {
    for (const Panel& panel : tiling.panels) {
      const PanelView view{&tiling, &panel, nullptr};
      const C* rows[kPanelRows];
      for (int r = 0; r < panel.count; ++r) rows[r] = g.row(block, view.row(r));
      const Offset first = tiling.rest_indptr[at(panel.first)];
      const Offset last = tiling.rest_indptr[at(panel.first + panel.count)];
      sddmm_rest<C>(view, rows, z, block, dots.data() + first, block > 0);
      std::copy(by_row.data() + first, by_row.data() + last, values.data() + panel.dense_cols * kPanelRows);
      scatter_rest<C>(view, values.data(), rows, block, std::min(block + Rows<C>::kBlock, width),
                      {scattered.data(), n, width});
    }
    const Rows<C> sums{gathered.data(), n, width};
    gather_columns<C>(columns, by_column.data(), g, block, 0, n, sums);
    // In two parts, as threads share columns.
    for (const Offset begin : {Offset{0}, n / 3}) {
      pull_columns<C>(columns, by_column.data(), g, z, block, begin, begin == 0 ? n / 3 : n,
                      {pulled.data(), n, width}, pulled_dots.data(), block > 0);
    }
  }
  INFO(width, " features of ", sizeof(C), " bytes");
  for (Offset i = 0; i < n * width; ++i) {
    REQUIRE(gathered.data()[i] == scattered.data()[i]);
    REQUIRE(pulled.data()[i] == scattered.data()[i]);
  }
  for (Offset position = 0, e = 0; position < n; ++position) {
    const Index row = tiling.rows[at(position)];
    for (; e < tiling.rest_indptr[at(position + 1)]; ++e) {
      REQUIRE(pulled_dots[at(columns.slots[at(e)])] == dots[at(e)]);
      double want = 0;
      for (Offset f = 0; f < width; ++f) {
        const Offset block = f / Rows<C>::kBlock * Rows<C>::kBlock;
        want += static_cast<double>(g.row(block, row)[f - block]) *
                static_cast<double>(z.row(block, tiling.rest[at(e)])[f - block]);
      }
      REQUIRE(std::abs(static_cast<double>(dots[at(e)]) - want) <
              (sizeof(C) == 4 ? 1e-5 : 1e-14) * static_cast<double>(1 + width));
    }
  }
}

}  // namespace

TEST_CASE("sums over columns and dot products of their edges are those by row, bit for bit") {
  // Columns of no edge and few, of about 30.
  for (const char* const text :
       {"random(3, seed=2)", "random(30, seed=3) | window(1)", "random(1, seed=9)"}) {
    const Graph graph = pattern(text, 211);
    for (const Offset width : {16, 32, 48, 64, 80}) {
      compare<float>(graph, width);
      compare<double>(graph, width);
    }
  }
}

// Rows from beyond L2 are asked for by other loops.
TEST_CASE("sums over columns of many rows") { compare<float>(pattern("random(2, seed=5)", 20000), 32); }
