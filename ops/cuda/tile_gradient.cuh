// The gradient of scores and features over dense columns.
#pragma once

#include "manyhop/ops/cuda/tiles.cuh"

namespace manyhop::ops::cuda {

template <class T>
struct TileGradient {
  Units units{};
  Tiles tiles{};
  Gradient<T> gradient{};
  const TaskRange* row_tasks = nullptr;
  Parts<float> edge_parts{};
  Parts<float> panel_parts{};
  Finish<T> finish{};
  int width = 0;    // features of x and y
  int feature = 0;  // of the W that this launch writes
};

/// See Gradient. Two chunks at a time: what is loaded of the panel's rows for a hop serves both.
template <class T, int W>
__global__ void __launch_bounds__(128) tile_gradient(TileGradient<T> p) {
  constexpr int kGroup = 2;
  const std::int64_t number = warp_id();
  if (number >= p.tiles.count) return;
  const TileTask task = p.tiles.tasks[number];
  const std::int64_t unit = p.units.unit();
  const Gradient<T>& g = p.gradient;
  const std::int64_t cols = p.units.cols(unit);
  const std::int64_t n = p.units.rows(unit);
  const PanelRows rows(p.tiles.panel_rows + static_cast<std::int64_t>(task.panel) * kPanelRows);
  PanelSums<T, W> sums;
  sums.clear();
  for (std::int64_t first = task.begin; first < task.end; first += kGroup) {
    const Index* columns[kGroup];
#pragma unroll
    for (int c = 0; c < kGroup; ++c) {
      columns[c] = p.tiles.columns + (first + c < task.end ? first + c : first) * kChunkColumns;
    }
    Cells score[kGroup];
    Cells change[kGroup];
#pragma unroll
    for (int c = 0; c < kGroup; ++c) {
      score[c].clear();
      change[c].clear();
    }
    RowOperand<T> operand;
    for (int feature = 0; feature < p.width; feature += kBlock<T>) {
      operand.load(g.x, unit, rows, feature);
#pragma unroll
      for (int c = 0; c < kGroup; ++c) {
        std::uint32_t column[2][4];
        load_columns(g.y, unit, columns[c], feature, column);
        score[c].add(operand, column);
      }
    }
    for (int t = g.begin; t < g.end; ++t) {
      const Rows<T> u =
          t == 0 ? g.u.first
                 : Rows<T>{g.u.rest.data + (t - 1) * g.u.step, g.u.rest.n, p.width, g.u.rest.share};
      const Rows<T> w =
          t == 0 ? g.w.first
                 : Rows<T>{g.w.rest.data + (t - 1) * g.w.step, g.w.rest.n, p.width, g.w.rest.share};
      for (int feature = 0; feature < p.width; feature += kBlock<T>) {
        operand.load(u, unit, rows, feature);
#pragma unroll
        for (int c = 0; c < kGroup; ++c) {
          std::uint32_t column[2][4];
          load_columns(w, unit, columns[c], feature, column);
          change[c].add(operand, column);
        }
      }
    }
#pragma unroll
    for (int c = 0; c < kGroup; ++c) {
      if (first + c >= task.end) break;
      const std::int64_t chunk = first + c;
      const std::int64_t* order = p.tiles.order == nullptr ? nullptr : p.tiles.order + chunk * kChunkCells;
      const CellMask mask(p.tiles.masks + chunk * kChunkColumns, columns[c], cols);
      Cells& gradient = change[c];
      const Cells& product = score[c];
      gradient.each([&](float& value, int m, int half, int column, int cell) {
        if (!mask.has(m, half, column) || !inside(rows, m, half, n)) {
          value = 0;
          return;
        }
        const std::int64_t row = rows.row[m][half];
        const float lse = g.scores.lse_of(unit, row, columns[c][column]);
        const float raw = product.value[m][column / 8][half * 2 + column % 2];
        const float biased = g.scores.biased(raw, p.units, unit, order, cell);
        const float weight = quick_weight(biased, lse);
        float da = value * g.keep;
        if (g.scores.dropout.active())
          da *= static_cast<float>(g.scores.dropout.edge_factor(unit, order[cell]));
        const float dot = g.dots[unit * g.scores.lse_n + (g.scores.lse_by_column ? columns[c][column] : row)];
        const float ds = weight * (da - dot);
        if (g.bias != nullptr && p.feature == 0) g.bias[unit * g.bias_n + order[cell]] += ds;
        value = ds * g.scores.scale;
      });
      sums.add(gradient.template weights<T>(), g.y, unit, columns[c], p.feature);
    }
  }
  end_panel(sums, task, rows, unit, p.feature, p.row_tasks, p.edge_parts, p.panel_parts, p.finish);
}

}  // namespace manyhop::ops::cuda
