// Kernels over dense columns: softmax sums, hops, what several tasks of a panel add up to.
#pragma once

#include "manyhop/ops/cuda/tiles.cuh"

namespace manyhop::ops::cuda {

template <class T>
struct TileScores {
  Units units{};
  Tiles tiles{};
  Rows<T> x{};
  Rows<T> y{};
  Scores<float> scores{};
  SoftmaxSum<float>* sums = nullptr;  // [blockIdx.y][tasks][32]
};

/// Softmax sums of the rows of a task.
template <class T, int D>
__global__ void __launch_bounds__(128) tile_scores(TileScores<T> p) {
  const std::int64_t number = warp_id();
  if (number >= p.tiles.count) return;
  const TileTask task = p.tiles.tasks[number];
  const std::int64_t unit = p.units.unit();
  const std::int64_t cols = p.units.cols(unit);
  const std::int64_t n = p.units.rows(unit);
  const PanelRows rows(p.tiles.panel_rows + static_cast<std::int64_t>(task.panel) * kPanelRows);
  RowOperands<T, D> x;
  x.start(p.x, unit, rows);
  SoftmaxSum<float> sum[2][2];
  for (std::int64_t chunk = task.begin; chunk < task.end; ++chunk) {
    const Index* columns = p.tiles.columns + chunk * kChunkColumns;
    const CellMask mask(p.tiles.masks + chunk * kChunkColumns, columns, cols);
    Cells cells;
    x.scores(p.x, p.y, unit, rows, columns, cells);
    cells.each([&](float& value, int m, int half, int column, int cell) {
      if (!mask.has(m, half, column) || !inside(rows, m, half, n)) return;
      const std::int64_t* order = p.tiles.order == nullptr ? nullptr : p.tiles.order + chunk * kChunkCells;
      sum[m][half].add(p.scores.biased(value, p.units, unit, order, cell));
    });
  }
#pragma unroll
  for (int m = 0; m < 2; ++m) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const SoftmaxSum<float> mine = over_lanes(sum[m][half], 1, 4);
      if (lane_id() % 4 == 0) {
        p.sums[(static_cast<std::int64_t>(blockIdx.y) * p.tiles.count + number) * kPanelRows +
               fragment_row(m, half)] = mine;
      }
    }
  }
}

template <class T>
struct TileHop {
  Units units{};
  Tiles tiles{};
  Rows<T> x{};  // for tile_hop with kMake
  Rows<T> y{};
  Scores<float> scores{};
  std::uint32_t* values = nullptr;  // weights [blockIdx.y][chunks][kCellWords<T>]; with kMake null: not kept
  Rows<T> z{};
  const TaskRange* row_tasks = nullptr;
  Parts<float> edge_parts{};   // no data: no single edges
  Parts<float> panel_parts{};  // tasks = slots x 32
  Finish<T> finish{};
  int feature = 0;
};

/// One hop over dense columns. kMake: D > 0, weights are made from features and a known lse, used and, where
/// there is room, stored.
template <class T, int D, int W>
__global__ void __launch_bounds__(128) tile_hop(TileHop<T> p) {
  const std::int64_t number = warp_id();
  if (number >= p.tiles.count) return;
  const TileTask task = p.tiles.tasks[number];
  const std::int64_t unit = p.units.unit();
  const PanelRows rows(p.tiles.panel_rows + static_cast<std::int64_t>(task.panel) * kPanelRows);
  PanelSums<T, W> sums;
  sums.clear();
  std::uint32_t* values = p.values + static_cast<std::int64_t>(blockIdx.y) * p.tiles.chunks * kCellWords<T>;
  const auto use = [&](std::int64_t chunk, const Weights<T>& a) {
    sums.add(a, p.z, unit, p.tiles.columns + chunk * kChunkColumns, p.feature);
  };
  if constexpr (D > 0) {
    const std::int64_t cols = p.units.cols(unit);
    const std::int64_t n = p.units.rows(unit);
    RowOperands<T, D> x;
    x.start(p.x, unit, rows);
    for (std::int64_t chunk = task.begin; chunk < task.end; ++chunk) {
      const Index* columns = p.tiles.columns + chunk * kChunkColumns;
      const std::int64_t* order = p.tiles.order == nullptr ? nullptr : p.tiles.order + chunk * kChunkCells;
      const CellMask mask(p.tiles.masks + chunk * kChunkColumns, columns, cols);
      Cells cells;
      x.scores(p.x, p.y, unit, rows, columns, cells);
      cells.each([&](float& value, int m, int half, int column, int cell) {
        if (!mask.has(m, half, column) || !inside(rows, m, half, n)) {
          value = 0;
          return;
        }
        const float lse = p.scores.lse_of(unit, rows.row[m][half], columns[column]);
        const float score = p.scores.biased(value, p.units, unit, order, cell);
        value = quick_weight(score, lse);
        if (p.scores.dropout.active())
          value *= static_cast<float>(p.scores.dropout.edge_factor(unit, order[cell]));
      });
      const auto a = cells.template weights<T>();
      if (p.values != nullptr) a.store(values + chunk * kCellWords<T>);
      use(chunk, a);
    }
  } else {
#pragma unroll 2
    for (std::int64_t chunk = task.begin; chunk < task.end; ++chunk) {
      Weights<T> a;
      a.load(values + chunk * kCellWords<T>);
      use(chunk, a);
    }
  }
  end_panel(sums, task, rows, unit, p.feature, p.row_tasks, p.edge_parts, p.panel_parts, p.finish);
}

template <class T>
struct CombinePanels {
  Units units{};
  const std::int32_t* panels = nullptr;  // of several tasks
  std::int64_t count = 0;
  const TaskRange* panel_tasks = nullptr;
  const TileTask* tasks = nullptr;
  const Index* panel_rows = nullptr;
  const TaskRange* row_tasks = nullptr;
  Parts<float> edge_parts{};
  Parts<float> panel_parts{};
  Finish<T> finish{};
};

/// Adds the tasks of a split panel; a thread for each piece of each row.
template <class T>
__global__ void __launch_bounds__(128) combine_panels(CombinePanels<T> p) {
  constexpr int kSize = Piece<T>::kSize;
  const int pieces = p.panel_parts.width / kSize;
  const std::int64_t place = thread_id() / pieces;
  if (place >= p.count * kPanelRows) return;
  const std::int32_t panel = p.panels[place / kPanelRows];
  const std::int64_t row = p.panel_rows[static_cast<std::int64_t>(panel) * kPanelRows + place % kPanelRows];
  if (row < 0) return;
  const int feature = static_cast<int>(thread_id() % pieces) * kSize;
  float sum[kSize] = {};
  const TaskRange tasks = p.panel_tasks[panel];
  const std::int64_t slot = p.tasks[tasks.begin].slot;
  for (std::int64_t part = 0; part < tasks.end - tasks.begin; ++part) {
    const float* from = p.panel_parts.of((slot + part) * kPanelRows + place % kPanelRows) + feature;
#pragma unroll
    for (int f = 0; f < kSize; ++f) sum[f] += from[f];
  }
  if (p.edge_parts.data != nullptr) p.edge_parts.add(p.row_tasks[row], feature, sum);
  p.finish.write(p.units.unit(), row, feature, sum);
}

}  // namespace manyhop::ops::cuda
