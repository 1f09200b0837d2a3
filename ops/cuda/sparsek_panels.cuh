// SparseK attention in bf16 on the tensor cores: a warp takes 32 rows and the keys that they use, 16 at a
// time, or 32 of those keys and the rows of a panel. A cell that no row uses has weight 0, so a value that
// is not finite reaches the rows of its panel.
#pragma once

#include "manyhop/ops/cuda/sparsek_rows.cuh"
#include "manyhop/ops/cuda/tiles.cuh"

namespace manyhop::ops::cuda {

/// Sums over the lanes that hold the cells of a row.
__device__ __forceinline__ float over_cells(float value) {
  value += shuffle_xor(value, 1);
  return value + shuffle_xor(value, 2);
}

/// 32 rows and the list of their panel.
struct RowPanel {
  std::int64_t panel;
  const Index* keys;
  std::int32_t count;
  PanelRows rows;

  __device__ __forceinline__ RowPanel(const SelectedKeys& selected, const KeyLists& lists, std::int64_t unit,
                                      std::int64_t number)
      : panel(number),
        keys(lists.keys + lists.place(unit / selected.share, number) * lists.stride),
        count(lists.counts[lists.place(unit / selected.share, number)]),
        rows(number * kPanelRows, selected.n) {}
};

/// 32 keys of a panel's list, and the panel's rows.
struct KeyPanel {
  std::int64_t panel;
  std::int64_t place;  // of the first key
  std::int64_t begin = 0;
  std::int64_t end = 0;
  bool there = false;
  const Index* keys = nullptr;
  std::int64_t count = 0;  // of keys

  __device__ __forceinline__ KeyPanel(const SelectedKeys& selected, const KeyLists& lists, std::int64_t unit,
                                      std::int64_t first, std::int64_t last, std::int64_t number) {
    const std::int64_t groups = lists.stride / kPanelRows;
    panel = first + number / groups;
    place = number % groups * kPanelRows;
    if (panel >= last) return;
    const std::int64_t list = lists.place(unit / selected.share, panel);
    there = place < lists.counts[list];
    if (!there) return;
    keys = lists.keys + list * lists.stride + place;
    count = lists.counts[list] - place < kPanelRows ? lists.counts[list] - place : kPanelRows;
    begin = panel * lists.height;
    end = begin + lists.height < selected.n ? begin + lists.height : selected.n;
    // Rows before the first of the keys, which go upwards, use none of them.
    const std::int64_t skipped = (keys[0] - begin) / kChunkColumns * kChunkColumns;
    if (skipped > 0) begin += skipped;
  }
};

/// f(value, row tile, half, column, row i, key j) of the cells where row i uses key j; the others become 0.
template <class F>
__device__ __forceinline__ void each_selected(Cells& cells, const SelectedKeys& selected, std::int64_t at,
                                              const PanelRows& rows, const Index* keys, std::int64_t count,
                                              F&& f) {
  cells.each([&](float& value, int m, int half, int column, int) {
    const std::int64_t i = rows.row[m][half];
    const std::int64_t j = keys[column];
    if (column >= count || i < j || i >= selected.end(at, j)) {
      value = 0;
      return;
    }
    f(value, m, half, column, i, j);
  });
}
/// The same where rows of the cells are keys, and columns are the graph's rows.
template <class F>
__device__ __forceinline__ void each_selecting(Cells& cells, const SelectedKeys& selected, std::int64_t at,
                                               const PanelRows& keys, Sequence rows, F&& f) {
  cells.each([&](float& value, int m, int half, int column, int) {
    const std::int64_t j = keys.row[m][half];
    const std::int64_t i = rows.first + column;
    if (i >= rows.end || j < 0 || i < j || i >= selected.end(at, j)) {
      value = 0;
      return;
    }
    f(value, m, half, column, i, j);
  });
}

template <class T, int D>
__global__ void __launch_bounds__(128) panel_lse(Attending<T> p) {
  const std::int64_t number = warp_id();
  if (number >= p.lists.panels) return;
  const std::int64_t unit = blockIdx.y;
  const std::int64_t at = p.selected.first(unit);
  const RowPanel panel(p.selected, p.lists, unit, number);
  RowOperands<T, D> q;
  q.start(p.q, unit, panel.rows);
  SoftmaxSum<float> sum[2][2];
  for (std::int32_t first = 0; first < panel.count; first += kChunkColumns) {
    const Index* keys = panel.keys + first;
    Cells cells;
    q.scores(p.q, p.k, unit, panel.rows, keys, cells);
    each_selected(cells, p.selected, at, panel.rows, keys, panel.count - first,
                  [&](float value, int m, int half, int, std::int64_t i, std::int64_t j) {
                    sum[m][half].add(p.scale * value, p.selected.gate_scores ? p.gate(at, i, j).gate : 1.0F);
                  });
  }
#pragma unroll
  for (int m = 0; m < 2; ++m) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const SoftmaxSum<float> mine = over_lanes(sum[m][half], 1, 4);
      const std::int64_t i = panel.rows.row[m][half];
      if (lane_id() % 4 == 0 && i >= 0) p.lse[unit * p.selected.n + i] = mine.log_sum();
    }
  }
}

/// What a panel's sums leave with: the rows of a hop.
template <class T, int W>
__device__ __forceinline__ void finish_panel(PanelSums<T, W>& sums, const PanelRows& rows, std::int64_t unit,
                                             int feature, const Finish<T>& finish) {
  sums.each_piece([&](int m, int half, int offset, float(&piece)[8]) {
    if (rows.row[m][half] >= 0) finish.write(unit, rows.row[m][half], feature + offset, piece);
  });
}
/// Or a part for each of 32 keys.
template <class T, int W>
__device__ __forceinline__ void leave_parts(PanelSums<T, W>& sums, const KeyPanel& panel, std::int64_t unit,
                                            std::int64_t stride, int feature,
                                            const PartsOfPanels<float>& parts) {
  sums.each_piece([&](int m, int half, int offset, float(&piece)[8]) {
    const int row = fragment_row(m, half);
    if (row >= panel.count) return;
    float* part = parts.of(unit, panel.panel, stride, panel.place + row) + feature + offset;
#pragma unroll
    for (int f = 0; f < 8; ++f) part[f] = piece[f];
  });
}

template <class T, int D, int W>
__global__ void __launch_bounds__(128) panel_hop(SelectedHop<T> p) {
  const std::int64_t number = warp_id();
  const Attending<T>& a = p.attend;
  if (number >= a.lists.panels) return;
  const std::int64_t unit = blockIdx.y;
  const std::int64_t at = a.selected.first(unit);
  const RowPanel panel(a.selected, a.lists, unit, number);
  RowOperands<T, D> q;
  q.start(a.q, unit, panel.rows);
  PanelSums<T, W> sums;
  sums.clear();
  for (std::int32_t first = 0; first < panel.count; first += kChunkColumns) {
    const Index* keys = panel.keys + first;
    Cells cells;
    q.scores(a.q, a.k, unit, panel.rows, keys, cells);
    each_selected(cells, a.selected, at, panel.rows, keys, panel.count - first,
                  [&](float& value, int, int, int, std::int64_t i, std::int64_t j) {
                    value = a.weight(unit, at, i, j, value);
                  });
    sums.add(cells.template weights<T>(), p.z, unit, keys, p.feature);
  }
  finish_panel(sums, panel.rows, unit, p.feature, p.finish);
}

template <class T, int D, int W>
__global__ void __launch_bounds__(128) panel_hop_back(SelectedHopBack<T> p) {
  const Attending<T>& a = p.attend;
  const std::int64_t unit = blockIdx.y;
  const std::int64_t at = a.selected.first(unit);
  const KeyPanel panel(a.selected, a.lists, unit, p.parts.first, p.parts.end, warp_id());
  if (!panel.there) return;
  const PanelRows keys(panel.keys, panel.count);
  RowOperands<T, D> k;
  k.start(a.k, unit, keys);
  PanelSums<T, W> sums;
  sums.clear();
  for (std::int64_t first = panel.begin; first < panel.end; first += kChunkColumns) {
    const Sequence rows{first, panel.end};
    Cells cells;
    k.scores(a.k, a.q, unit, keys, rows, cells);
    each_selecting(cells, a.selected, at, keys, rows,
                   [&](float& value, int, int, int, std::int64_t i, std::int64_t j) {
                     value = a.weight(unit, at, i, j, value);
                   });
    sums.add(cells.template weights<T>(), p.g, unit, rows, p.feature);
  }
  leave_parts(sums, panel, unit, a.lists.stride, p.feature, p.parts);
}

/// Products of 32 rows with two chunks of columns: of q with k, and of what comes back through hops with
/// what went in. What is loaded of the rows serves both chunks.
template <class T>
struct TwoChunks {
  static constexpr int kCount = 2;
  Cells score[kCount];
  Cells change[kCount];

  template <class Columns>
  __device__ __forceinline__ TwoChunks(const Rows<T>& x, const Rows<T>& y, const Series<T>& u,
                                       const Series<T>& w, int hops, std::int64_t unit, const PanelRows& rows,
                                       const Columns (&columns)[kCount]) {
    add(x, y, unit, rows, columns, score, true);
    for (int t = 0; t < hops; ++t)
      add(at(u, t, x.width), at(w, t, x.width), unit, rows, columns, change, t == 0);
    if (hops > 0) return;
    change[0].clear();
    change[1].clear();
  }

 private:
  __device__ static __forceinline__ Rows<T> at(const Series<T>& s, int t, int width) {
    return t == 0 ? s.first : Rows<T>{s.rest.data + (t - 1) * s.step, s.rest.n, width, s.rest.share};
  }
  template <class Columns>
  __device__ static __forceinline__ void add(const Rows<T>& x, const Rows<T>& y, std::int64_t unit,
                                             const PanelRows& rows, const Columns (&columns)[kCount],
                                             Cells (&to)[kCount], bool first) {
    if (first) {
      to[0].clear();
      to[1].clear();
    }
    for (int feature = 0; feature < x.width; feature += kBlock<T>) {
      RowOperand<T> operand;
      operand.load(x, unit, rows, feature);
#pragma unroll
      for (int c = 0; c < kCount; ++c) {
        std::uint32_t column[2][4];
        load_columns(y, unit, columns[c], feature, column);
        to[c].add(operand, column);
      }
    }
  }
};

template <class T, int W>
__global__ void __launch_bounds__(128) panel_rows_back(SelectedBackward<T> p) {
  const std::int64_t number = warp_id();
  const Attending<T>& a = p.attend;
  const SelectedGradient<T>& g = p.gradient;
  if (number >= a.lists.panels) return;
  const std::int64_t unit = blockIdx.y;
  const std::int64_t at = a.selected.first(unit);
  const RowPanel panel(a.selected, a.lists, unit, number);
  PanelSums<T, W> sums;
  sums.clear();
  float total[2][2] = {};
  float members[2][2] = {};
  for (std::int32_t first = 0; first < panel.count; first += 2 * kChunkColumns) {
    const Index* const keys[2] = {panel.keys + first, panel.keys + first + kChunkColumns};
    TwoChunks<T> chunks(a.q, a.k, g.g, g.z, g.hops, unit, panel.rows, keys);
#pragma unroll
    for (int c = 0; c < 2; ++c) {
      each_selected(
          chunks.change[c], a.selected, at, panel.rows, keys[c], panel.count - first - c * kChunkColumns,
          [&](float& value, int m, int half, int column, std::int64_t i, std::int64_t j) {
            const std::int64_t row = unit * a.selected.n + i;
            const KeyGate<float> gate = a.gate(at, i, j);
            const float score = chunks.score[c].value[m][column / 8][half * 2 + column % 2];
            const float weight = quick_weight(a.scale * score, a.lse[row]);
            const auto change = g.change(a.selected.gate_scores, weight, gate, value * g.keep, g.dots[row]);
            value = a.scale * change.score;
            if (!gate.slopes) return;
            total[m][half] += change.gate;
            members[m][half] += 1;
          });
      sums.add(chunks.change[c].template weights<T>(), a.k, unit, keys[c], p.feature);
    }
  }
  finish_panel(sums, panel.rows, unit, p.feature, p.finish);
  if (p.feature > 0) return;
#pragma unroll
  for (int m = 0; m < 2; ++m) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const float sum = over_cells(total[m][half]);
      const float count = over_cells(members[m][half]);
      const std::int64_t i = panel.rows.row[m][half];
      if (lane_id() % 4 == 0 && i >= 0) g.means[unit * a.selected.n + i] = count > 0 ? sum / count : 0.0F;
    }
  }
}

template <class T, int W>
__global__ void __launch_bounds__(128) panel_keys_back(SelectedBackward<T> p) {
  const Attending<T>& a = p.attend;
  const SelectedGradient<T>& g = p.gradient;
  const std::int64_t unit = blockIdx.y;
  const std::int64_t at = a.selected.first(unit);
  const KeyPanel panel(a.selected, a.lists, unit, p.parts.first, p.parts.end, warp_id());
  if (!panel.there) return;
  const PanelRows keys(panel.keys, panel.count);
  PanelSums<T, W> sums;
  sums.clear();
  float by_score[2][2] = {};
  for (std::int64_t first = panel.begin; first < panel.end; first += 2 * kChunkColumns) {
    const Sequence rows[2] = {{first, panel.end}, {first + kChunkColumns, panel.end}};
    TwoChunks<T> chunks(a.k, a.q, g.z, g.g, g.hops, unit, keys, rows);
#pragma unroll
    for (int c = 0; c < 2; ++c) {
      each_selecting(chunks.change[c], a.selected, at, keys, rows[c],
                     [&](float& value, int m, int half, int column, std::int64_t i, std::int64_t j) {
                       const std::int64_t row = unit * a.selected.n + i;
                       const KeyGate<float> gate = a.gate(at, i, j);
                       const float score = chunks.score[c].value[m][column / 8][half * 2 + column % 2];
                       const float weight = quick_weight(a.scale * score, a.lse[row]);
                       const auto change =
                           g.change(a.selected.gate_scores, weight, gate, value * g.keep, g.dots[row]);
                       value = a.scale * change.score;
                       if (gate.slopes) by_score[m][half] += change.gate - g.means[row];
                     });
      sums.add(chunks.change[c].template weights<T>(), a.q, unit, rows[c], p.feature);
    }
  }
  leave_parts(sums, panel, unit, a.lists.stride, p.feature, p.parts);
  if (p.feature > 0) return;
  PartsOfPanels<float> scores = p.parts;
  scores.width = 1;
  scores.data = g.score_parts;
#pragma unroll
  for (int m = 0; m < 2; ++m) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const float sum = over_cells(by_score[m][half]);
      const int row = fragment_row(m, half);
      if (lane_id() % 4 == 0 && row < panel.count)
        *scores.of(unit, panel.panel, a.lists.stride, panel.place + row) = sum;
    }
  }
}

}  // namespace manyhop::ops::cuda
