#include "manyhop/ops/cuda/layout.hpp"

#include <algorithm>
#include <numeric>
#include <string>

#include "manyhop/graphs/base/error.hpp"
#include "manyhop/graphs/base/parallel.hpp"

namespace manyhop::ops::cuda {

namespace {

std::size_t at(Offset i) { return static_cast<std::size_t>(i); }

template <class T>
std::size_t bytes_of(const std::vector<T>& values) {
  return values.size() * sizeof(T);
}

void add_edge_tasks(Layout& layout, Offset row, Offset begin, Offset end, std::int64_t most) {
  TaskRange& range = layout.row_tasks[at(row)];
  range.begin = task_number(layout.edge_tasks.size());
  // Parts of equal size: a long row does not end in a short task.
  const Offset parts = std::max<Offset>(1, (end - begin + most - 1) / most);
  for (Offset part = 0; part < parts; ++part) {
    const Offset size = end - begin;
    layout.edge_tasks.push_back({begin + size * part / parts, begin + size * (part + 1) / parts, row});
  }
  range.end = task_number(layout.edge_tasks.size());
}

void add_panel(Layout& layout, const Tiling& tiling, const Panel& panel, std::int64_t most) {
  const std::uint32_t every =
      panel.count == kPanelRows ? ~std::uint32_t{0} : (std::uint32_t{1} << panel.count) - 1;
  const auto number = task_number(layout.panel_tasks.size());
  const std::int64_t first = layout.chunks();
  for (Offset s = panel.segment; s < panel.segment_end; ++s) {
    const Segment& segment = tiling.segments[at(s)];
    for (Index c = 0; c < segment.count; ++c) {
      layout.chunk_columns.push_back(segment.begin + c);
      layout.chunk_masks.push_back(segment.mask < 0 ? every : tiling.masks[at(segment.mask + c)] & every);
    }
  }
  while (layout.chunk_columns.size() % kChunkColumns != 0) {
    layout.chunk_columns.push_back(layout.chunk_columns.back());
    layout.chunk_masks.push_back(0);
  }
  const std::int64_t count = layout.chunks() - first;
  const std::int64_t parts = std::max<std::int64_t>(1, (count + most - 1) / most);
  TaskRange range;
  range.begin = task_number(layout.tile_tasks.size());
  for (std::int64_t part = 0; part < parts; ++part) {
    layout.tile_tasks.push_back({first + count * part / parts, first + count * (part + 1) / parts, number,
                                 parts == 1 ? -1 : layout.slots++});
  }
  range.end = task_number(layout.tile_tasks.size());
  layout.panel_tasks.push_back(range);
  if (parts > 1) layout.split_panels.push_back(number);
}

}  // namespace

std::int32_t task_number(std::size_t number) {
  if (number > 0x7fffffff) {
    throw LimitError("cuda: " + std::to_string(number) +
                     " tasks, fewer than 2^31 rows and parts of rows are wanted");
  }
  return static_cast<std::int32_t>(number);
}

std::size_t Layout::bytes() const {
  return bytes_of(panel_rows) + bytes_of(chunk_columns) + bytes_of(chunk_masks) + bytes_of(tile_tasks) +
         bytes_of(panel_tasks) + bytes_of(split_panels) + bytes_of(columns) + bytes_of(edge_tasks) +
         bytes_of(row_tasks) + bytes_of(split_rows) + bytes_of(row_places);
}

Layout make_layout(const Graph& graph, const Tiling& tiling, const LayoutOptions& options) {
  Layout layout;
  layout.n_rows = graph.n_rows();
  layout.n_cols = graph.n_cols();
  layout.row_tasks.resize(at(graph.n_rows()));
  if (!options.tiles) {
    const auto columns = graph.indices();
    layout.columns.assign(columns.begin(), columns.end());
    const auto indptr = graph.indptr();
    for (Offset i = 0; i < graph.n_rows(); ++i) {
      add_edge_tasks(layout, i, indptr[at(i)], indptr[at(i) + 1], options.edges_a_task);
      const TaskRange range = layout.row_tasks[at(i)];
      if (range.end - range.begin > 1) layout.split_rows.push_back(static_cast<Index>(i));
    }
    return layout;
  }
  layout.row_places.resize(at(graph.n_rows()));
  layout.columns = tiling.rest;
  for (const Panel& panel : tiling.panels) {
    for (int r = 0; r < kPanelRows; ++r) {
      if (r >= panel.count) {
        layout.panel_rows.push_back(-1);
        continue;
      }
      const auto position = at(panel.first + r);
      const Index row = tiling.rows[position];
      layout.panel_rows.push_back(row);
      layout.row_places[at(row)] = layout.panels() * kPanelRows + r;
      const Offset begin = tiling.rest_indptr[position];
      const Offset end = tiling.rest_indptr[position + 1];
      if (end > begin) add_edge_tasks(layout, row, begin, end, options.edges_a_task);
    }
    add_panel(layout, tiling, panel, options.chunks_a_task);
  }
  return layout;
}

EdgeOrder edge_order(const Graph& graph, const Tiling& tiling, const Layout& layout,
                     const std::vector<std::int64_t>& order) {
  EdgeOrder result;
  result.edges.resize(layout.columns.size());
  if (!layout.tiled()) {
    if (order.empty()) {
      std::iota(result.edges.begin(), result.edges.end(), std::int64_t{0});
    } else {
      result.edges = order;
    }
    return result;
  }
  const auto name = [&](Offset edge) { return order.empty() ? edge : order[at(edge)]; };
  result.cells.assign(at(layout.chunks() * kChunkCells), -1);
  parallel_for(layout.panels(), [&](Offset p) {
    const Panel& panel = tiling.panels[at(p)];
    const std::int64_t first = layout.tile_tasks[at(layout.panel_tasks[at(p)].begin)].begin;
    const Offset dense = panel.dense_cols * kPanelRows;
    const Offset rest = tiling.rest_indptr[at(panel.first)];
    for (int r = 0; r < panel.count; ++r) {
      for_each_panel_edge(graph, tiling, panel, r, [&](Offset edge, Offset value) {
        if (value >= dense) {
          result.edges[at(rest + value - dense)] = name(edge);
          return;
        }
        const Offset column = value / kPanelRows;
        result.cells[at((first + column / kChunkColumns) * kChunkCells +
                        fragment_cell(r, static_cast<int>(column % kChunkColumns)))] = name(edge);
      });
    }
  });
  return result;
}

std::vector<std::int64_t> transposed_edges(const Graph& graph) {
  const auto indptr = graph.transpose().indptr();
  std::vector<std::int64_t> next(indptr.begin(), indptr.end());
  std::vector<std::int64_t> order(at(graph.nnz()));
  std::int64_t edge = 0;
  for (Offset i = 0; i < graph.n_rows(); ++i) {
    graph.for_each_run(i, [&](Run run) {
      for (Index j = run.begin; j < run.end; ++j) order[at(next[at(j)]++)] = edge++;
    });
  }
  return order;
}

}  // namespace manyhop::ops::cuda
