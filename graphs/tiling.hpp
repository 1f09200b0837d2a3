// A token graph cut into what runs fast: panels of up to 32 rows, each with dense columns (segments of
// consecutive columns that enough rows of the panel have, masked where not all do) and an irregular rest of
// single edges. Found from structure, never from a pattern's name.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "manyhop/graphs/graph.hpp"

namespace manyhop {

inline constexpr int kPanelRows = 32;  // one bit of a mask word for each row
/// A dense column costs a panel what a third of its rows cost as single edges: at d = 64 a gathered edge
/// takes about as long as a column of three rows' worth of tile work when its source is in L2.
inline constexpr int kEdgesOfColumn = 3;

/// Columns begin .. begin + count - 1, dense in a panel. mask < 0: every row of the panel has every column.
struct Segment {
  Index begin = 0;
  Index count = 0;
  Offset mask = -1;  // first of `count` mask words in Tiling::masks; bit r: row r of the panel has the column
};

struct Panel {
  Offset first = 0;    // first position in Tiling::rows
  int count = 0;       // rows, 1 .. kPanelRows
  Offset segment = 0;  // segments [segment, segment_end)
  Offset segment_end = 0;
  Offset dense_cols = 0;  // sum of their counts
  Offset values =
      0;  // first value of the panel: dense_cols x kPanelRows column by column, then the rest by row
};

struct Tiling {
  std::vector<Index>
      rows;  // row at each position: rows with very many edges first, then the others as they come
  std::vector<Panel> panels;
  std::vector<Segment> segments;
  std::vector<std::uint32_t> masks;
  std::vector<Offset> rest_indptr;  // by position, rows.size() + 1
  std::vector<Index> rest;          // columns of single edges, increasing within a row
  Offset value_count = 0;           // of all panels together
  Offset max_panel_values = 0;      // of the largest panel
  Offset max_panel_cols = 0;        // most dense columns of a panel
  Offset dense_edges = 0;           // edges inside segments
  Offset irregular_edges = 0;       // edges of the rest
  Offset padding = 0;               // cells of segments that are no edge

  std::size_t bytes() const;
  Offset panel_values(const Panel& panel) const {
    const auto first = static_cast<std::size_t>(panel.first);
    return panel.dense_cols * kPanelRows + rest_indptr[first + static_cast<std::size_t>(panel.count)] -
           rest_indptr[first];
  }
};

/// Tiles the rows below `row_limit` and the columns below `col_limit` (negative: all).
/// Cost O(runs + edges outside of dense segments), parallel; the same tiling for any thread count.
Tiling make_tiling(const Graph& graph, Offset row_limit = -1, Offset col_limit = -1);

/// The single edges of a tiling column by column, for products with the transpose.
struct RestByColumn {
  std::vector<Offset> indptr;  // n_cols + 1
  std::vector<Index> rows;     // of each edge; within a column in the order of Tiling::rows
  std::vector<Offset> slots;   // for each edge in the order of Tiling::rest its place in `rows`

  std::size_t bytes() const;
};
RestByColumn rest_by_column(const Tiling& tiling, Offset n_cols);

/// Calls f(edge, value) for the edges of the panel's row `r` in CSR order: `edge` is the position in
/// graph.indices(), `value` the position within the panel's values. An implicit graph is not written out.
template <class F>
void for_each_panel_edge(const Graph& graph, const Tiling& tiling, const Panel& panel, int r, F&& f) {
  const auto position = static_cast<std::size_t>(panel.first + r);
  const Index row = tiling.rows[position];
  Offset edge = graph.indptr()[static_cast<std::size_t>(row)];
  Offset segment = panel.segment;
  Offset before = 0;  // dense columns in earlier segments
  Offset rest = tiling.rest_indptr[position];
  const Offset rest_end = tiling.rest_indptr[position + 1];
  const Offset rest_base =
      panel.dense_cols * kPanelRows - tiling.rest_indptr[static_cast<std::size_t>(panel.first)];
  graph.for_each_run(row, [&](Run run) {
    for (Index c = run.begin; c < run.end; ++c, ++edge) {
      if (rest < rest_end && tiling.rest[static_cast<std::size_t>(rest)] == c) {
        f(edge, rest_base + rest++);
        continue;
      }
      while (segment < panel.segment_end) {
        const Segment& s = tiling.segments[static_cast<std::size_t>(segment)];
        if (c < s.begin + s.count) break;
        before += s.count;
        ++segment;
      }
      if (segment == panel.segment_end) return;  // past the column limit
      f(edge, (before + c - tiling.segments[static_cast<std::size_t>(segment)].begin) * kPanelRows + r);
    }
  });
}

}  // namespace manyhop
