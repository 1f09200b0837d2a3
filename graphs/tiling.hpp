// A token graph cut into what runs fast: panels of up to 32 rows, each with dense columns (segments of
// consecutive columns that most rows of the panel have, masked where not all do) and an irregular rest of
// single edges. Found from structure, never from a pattern's name.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "manyhop/graphs/graph.hpp"

namespace manyhop {

inline constexpr int kPanelRows = 32;  // one bit of a mask word for each row

/// Columns begin .. begin + count - 1, dense in a panel. masks < 0: every row has every column.
struct Segment {
  Index begin = 0;
  Index count = 0;
  Offset mask = -1;  // first of `count` mask words in Tiling::masks; bit r: row r of the panel has the column
};

struct Panel {
  Offset first = 0;    // first position in Tiling::rows
  int count = 0;       // rows, <= kPanelRows
  Offset segment = 0;  // segments [segment, segment_end)
  Offset segment_end = 0;
  Offset dense_cols = 0;  // sum of their counts
  Offset values = 0;      // where this panel's values start: first dense_cols x kPanelRows, then the rest
};

struct Tiling {
  std::vector<Index> rows;  // row of each position; rows of one panel are neighbours in some useful order
  std::vector<Panel> panels;
  std::vector<Segment> segments;
  std::vector<std::uint32_t> masks;
  std::vector<Offset> rest_indptr;  // by position, n_rows + 1
  std::vector<Index> rest;          // columns of single edges
  Offset value_count = 0;           // of all panels
  Offset max_panel_values = 0;      // of the largest panel
  Offset dense_edges = 0;           // edges inside segments
  Offset irregular_edges = 0;       // edges of the rest
  Offset padding = 0;               // masked-out cells of segments

  std::size_t bytes() const;
};

Tiling make_tiling(const Graph& graph);

}  // namespace manyhop
