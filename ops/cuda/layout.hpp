// How a graph lies in the memory of a device: dense columns of a panel in chunks of 16 with their masks,
// single edges in CSR order, and the tasks that warps take. Plain arrays, made on the host; no CUDA type.
#pragma once

#include <cstdint>
#include <vector>

#include "manyhop/graphs/graph.hpp"
#include "manyhop/graphs/tiling.hpp"

namespace manyhop::ops::cuda {

inline constexpr int kChunkColumns = 16;
inline constexpr int kChunkCells = kPanelRows * kChunkColumns;

/// Chunks [begin, end) of a panel. A panel that one task covers has slot -1; the sums of the tasks of a split
/// panel go to the slots, and the last step adds them in their order.
struct TileTask {
  std::int64_t begin = 0;
  std::int64_t end = 0;
  std::int32_t panel = 0;
  std::int32_t slot = -1;
};

/// Single edges [begin, end) of a row.
struct EdgeTask {
  std::int64_t begin = 0;
  std::int64_t end = 0;
  std::int64_t row = 0;
};

/// A range of tasks: of a row, or of a panel.
struct TaskRange {
  std::int32_t begin = 0;
  std::int32_t end = 0;
};

struct LayoutOptions {
  bool tiles = true;                // false: every edge is a single one
  std::int64_t chunks_a_task = 32;  // of a tile task at most
  std::int64_t edges_a_task = 512;  // of an edge task at most
};

struct Layout {
  Offset n_rows = 0;
  Offset n_cols = 0;
  std::vector<Index> panel_rows;           // panels x 32: the row, -1 past the last one
  std::vector<Index> chunk_columns;        // chunks x 16; a chunk that is not full repeats its last column
  std::vector<std::uint32_t> chunk_masks;  // chunks x 16; bit r: row r of the panel has the column
  std::vector<TileTask> tile_tasks;        // by panel
  std::vector<TaskRange> panel_tasks;      // of each panel
  std::vector<std::int32_t> split_panels;  // panels of several tasks
  std::int32_t slots = 0;                  // of all split panels together
  std::vector<Index> columns;              // of single edges
  std::vector<EdgeTask> edge_tasks;        // by position of the row; without tiles every row has one or more
  std::vector<TaskRange> row_tasks;        // of each row
  std::vector<Index> split_rows;           // rows of several tasks, where there are no tiles
  std::vector<std::int64_t> row_places;    // panel x 32 + row in the panel, of each row; empty without tiles

  std::int64_t panels() const { return static_cast<std::int64_t>(panel_tasks.size()); }
  std::int64_t chunks() const { return static_cast<std::int64_t>(chunk_columns.size()) / kChunkColumns; }
  std::int64_t edges() const { return static_cast<std::int64_t>(columns.size()); }
  bool tiled() const { return !row_places.empty(); }
  std::size_t bytes() const;
};

/// Where each cell and single edge of a layout stands in the caller's edge order; for bias, weights and
/// dropout.
struct EdgeOrder {
  std::vector<std::int64_t> cells;  // chunks x 512 by fragment_cell(); -1: no edge
  std::vector<std::int64_t> edges;  // of Layout::columns
};

/// The number of a task, or how many there are, in the type that stores it. Throws LimitError at 2^31.
std::int32_t task_number(std::size_t number);

/// Cost O(n + m); `tiling` is the graph's, and not read where options.tiles is false.
Layout make_layout(const Graph& graph, const Tiling& tiling, const LayoutOptions& options);

/// `order`: what the edges of this graph are called outside (transposed_edges()), or empty: as they come.
EdgeOrder edge_order(const Graph& graph, const Tiling& tiling, const Layout& layout,
                     const std::vector<std::int64_t>& order);

/// For each edge of graph.transpose() in its CSR order the edge of `graph`.
std::vector<std::int64_t> transposed_edges(const Graph& graph);

/// The place of cell (row, column) of a chunk among its 512 values, in the order of the A operand of the
/// tensor cores' m16n8k16 product (PTX ISA, "Matrix fragments for mma.m16n8k16"): 16 rows, lane, register,
/// half.
constexpr int fragment_cell(int row, int column) {
  const int lane = row % 8 * 4 + column % 8 / 2;
  const int reg = row % 16 / 8 + 2 * (column / 8);
  return (row / 16 * 32 + lane) * 8 + reg * 2 + column % 2;
}

}  // namespace manyhop::ops::cuda
