// Kernels over dense columns, bf16 on the tensor cores: a warp takes some chunks (32 rows x 16 columns) of a
// panel.
//
// No operand passes through shared memory. A product's inner index may run in any order as long as both
// operands agree, so lane (g, t) = (lane / 4, lane % 4) loads 16 neighbouring bytes and calls them what the
// product wants:
//   scores   of each 32 features, lane t holds features 8 t .. 8 t + 7 of rows g, g + 8, ... and of column g:
//   words
//            0, 1 are the inner pairs of one product, words 2, 3 those of the next
//   hop      output column (tile j, place g) is feature 8 g + j: lane (g, t) loads features 8 g .. 8 g + 7 of
//   columns
//            2 t, 2 t + 1, 2 t + 8, 2 t + 9 and zips pairs of columns into the operand
// Scores leave the tensor cores in the order in which weights enter them, so weights are stored in that
// order.
#pragma once

#include "manyhop/ops/cuda/edges.cuh"

namespace manyhop::ops::cuda {

/// The tiles of a layout.
struct Tiles {
  const TileTask* tasks = nullptr;
  std::int64_t count = 0;
  const Index* panel_rows = nullptr;
  const Index* columns = nullptr;
  const std::uint32_t* masks = nullptr;
  const std::int64_t* order = nullptr;  // names of the cells; null where nobody asks
  std::int64_t chunks = 0;
};

/// Which row of its panel register pair `half` of row tile `m` holds.
__device__ __forceinline__ int fragment_row(int m, int half) { return m * 16 + half * 8 + lane_id() / 4; }

/// The four rows of a panel that a lane's registers hold, as numbers of the graph; -1: none.
struct PanelRows {
  std::int64_t row[2][2];

  __device__ __forceinline__ explicit PanelRows(const Index* rows) {
#pragma unroll
    for (int m = 0; m < 2; ++m) {
#pragma unroll
      for (int half = 0; half < 2; ++half) row[m][half] = rows[fragment_row(m, half)];
    }
  }
};

/// Rows of 32 x 32 features (32 rows of a panel) as the A operand of two products.
struct RowOperand {
  std::uint32_t word[2][2][4];  // [row tile][half][word]

  __device__ __forceinline__ void load(const Rows<bf16>& from, std::int64_t unit, const PanelRows& rows,
                                       int feature) {
#pragma unroll
    for (int m = 0; m < 2; ++m) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const std::int64_t row = rows.row[m][half] < 0 ? 0 : rows.row[m][half];
        load_row(from.row(unit, row) + feature, word[m][half]);
      }
    }
  }
  __device__ static __forceinline__ void load_row(const bf16* row, std::uint32_t (&to)[4]) {
    const uint4 words = *reinterpret_cast<const uint4*>(row + lane_id() % 4 * 8);
    to[0] = words.x;
    to[1] = words.y;
    to[2] = words.z;
    to[3] = words.w;
  }
};

/// 32 rows x 16 columns as the tensor cores leave them: [row tile][column tile][register].
struct Cells {
  float value[2][2][4];

  __device__ __forceinline__ void clear() {
#pragma unroll
    for (int m = 0; m < 2; ++m) {
#pragma unroll
      for (int j = 0; j < 2; ++j) {
#pragma unroll
        for (int i = 0; i < 4; ++i) value[m][j][i] = 0;
      }
    }
  }
  /// Adds the products of 32 features of the panel's rows with those of 16 columns.
  __device__ __forceinline__ void add(const RowOperand& rows, const std::uint32_t (&column)[2][4]) {
#pragma unroll
    for (int step = 0; step < 2; ++step) {
#pragma unroll
      for (int m = 0; m < 2; ++m) {
        const std::uint32_t a[4] = {rows.word[m][0][2 * step], rows.word[m][1][2 * step],
                                    rows.word[m][0][2 * step + 1], rows.word[m][1][2 * step + 1]};
#pragma unroll
        for (int j = 0; j < 2; ++j) multiply(value[m][j], a, column[j][2 * step], column[j][2 * step + 1]);
      }
    }
  }
  /// As the A operand of a product with 16 rows.
  __device__ __forceinline__ void operand(std::uint32_t (&a)[2][4]) const {
#pragma unroll
    for (int m = 0; m < 2; ++m) {
#pragma unroll
      for (int j = 0; j < 2; ++j) {
        a[m][2 * j] = pack(value[m][j][0], value[m][j][1]);
        a[m][2 * j + 1] = pack(value[m][j][2], value[m][j][3]);
      }
    }
  }
  /// f(value, row tile, half, column of the chunk, place of the cell in its fragment).
  template <class F>
  __device__ __forceinline__ void each(F&& f) {
#pragma unroll
    for (int m = 0; m < 2; ++m) {
#pragma unroll
      for (int j = 0; j < 2; ++j) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          f(value[m][j][i], m, i / 2, j * 8 + lane_id() % 4 * 2 + i % 2,
            (m * 32 + lane_id()) * 8 + (i / 2 + 2 * j) * 2 + i % 2);
        }
      }
    }
  }
};

/// Columns j * 8 + g of a chunk, for scores.
__device__ __forceinline__ void load_columns(const Rows<bf16>& from, std::int64_t unit, const Index* columns,
                                             int feature, std::uint32_t (&to)[2][4]) {
#pragma unroll
  for (int j = 0; j < 2; ++j) {
    RowOperand::load_row(from.row(unit, columns[j * 8 + lane_id() / 4]) + feature, to[j]);
  }
}

/// The masks of columns j * 8 + 2 t + c, 0 where the batch item ends before the column.
struct CellMask {
  std::uint32_t word[2][2];

  __device__ __forceinline__ CellMask(const std::uint32_t* masks, const Index* columns, std::int64_t cols) {
#pragma unroll
    for (int j = 0; j < 2; ++j) {
#pragma unroll
      for (int c = 0; c < 2; ++c) {
        const int column = j * 8 + lane_id() % 4 * 2 + c;
        word[j][c] = columns[column] < cols ? masks[column] : 0U;
      }
    }
  }
  __device__ __forceinline__ bool has(int m, int half, int column) const {
    return (word[column / 8][column % 2] >> fragment_row(m, half) & 1U) != 0;
  }
};

/// Whether a row of the panel is there and inside its batch item.
__device__ __forceinline__ bool inside(const PanelRows& rows, int m, int half, std::int64_t n) {
  return rows.row[m][half] >= 0 && rows.row[m][half] < n;
}

struct TileScores {
  Units units{};
  Tiles tiles{};
  Rows<bf16> x{};
  Rows<bf16> y{};
  Scores<float> scores{};
  SoftmaxSum<float>* sums = nullptr;  // [blockIdx.y][tasks][32]
};

/// The rows' operands for all features, kept in registers where there are up to 128.
template <int D>
struct RowOperands {
  static constexpr bool kKept = D <= 128;
  RowOperand block[kKept ? D / 32 : 1];

  __device__ __forceinline__ void start(const Rows<bf16>& x, std::int64_t unit, const PanelRows& rows) {
    if constexpr (kKept) {
#pragma unroll
      for (int b = 0; b < D / 32; ++b) block[b].load(x, unit, rows, b * 32);
    }
  }
  __device__ __forceinline__ void scores(const Rows<bf16>& x, const Rows<bf16>& y, std::int64_t unit,
                                         const PanelRows& rows, const Index* columns, Cells& cells) {
    cells.clear();
#pragma unroll
    for (int b = 0; b < D / 32; ++b) {
      std::uint32_t column[2][4];
      load_columns(y, unit, columns, b * 32, column);
      if constexpr (!kKept) block[0].load(x, unit, rows, b * 32);
      cells.add(block[kKept ? b : 0], column);
    }
  }
};

/// Softmax sums of the rows of a task.
template <int D>
__global__ void __launch_bounds__(128) tile_scores(TileScores p) {
  const std::int64_t number = warp_id();
  if (number >= p.tiles.count) return;
  const TileTask task = p.tiles.tasks[number];
  const std::int64_t unit = p.units.unit();
  const std::int64_t cols = p.units.cols(unit);
  const std::int64_t n = p.units.rows(unit);
  const PanelRows rows(p.tiles.panel_rows + static_cast<std::int64_t>(task.panel) * kPanelRows);
  RowOperands<D> x;
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
      SoftmaxSum<float>& mine = sum[m][half];
#pragma unroll
      for (int lanes = 1; lanes < 4; lanes *= 2) {
        SoftmaxSum<float> other;
        other.most = shuffle_xor(mine.most, lanes);
        other.sum = shuffle_xor(mine.sum, lanes);
        if ((lane_id() & lanes) == 0) {
          mine.add(other);
        } else {
          other.add(mine);
          mine = other;
        }
      }
      if (lane_id() % 4 == 0) {
        p.sums[(static_cast<std::int64_t>(blockIdx.y) * p.tiles.count + number) * kPanelRows +
               fragment_row(m, half)] = mine;
      }
    }
  }
}

/// The sums of a hop of 32 rows and W features from `feature` on: [row tile][output tile j][register].
template <int W>
struct PanelSums {
  static constexpr int kTiles = W / 8;  // 8 features of each lane where W = 64, 4 where W = 32
  float value[2][kTiles][4];

  __device__ __forceinline__ void clear() {
#pragma unroll
    for (int m = 0; m < 2; ++m) {
#pragma unroll
      for (int j = 0; j < kTiles; ++j) {
#pragma unroll
        for (int i = 0; i < 4; ++i) value[m][j][i] = 0;
      }
    }
  }
  __device__ static __forceinline__ void load(const bf16* row, std::uint32_t (&to)[kTiles / 2]) {
    const bf16* from = row + lane_id() / 4 * kTiles;
    if constexpr (kTiles == 8) {
      const uint4 words = *reinterpret_cast<const uint4*>(from);
      to[0] = words.x;
      to[1] = words.y;
      to[2] = words.z;
      to[3] = words.w;
    } else {
      const uint2 words = *reinterpret_cast<const uint2*>(from);
      to[0] = words.x;
      to[1] = words.y;
    }
  }
  /// Adds the weights of a chunk times the rows of its columns.
  __device__ __forceinline__ void add(const std::uint32_t (&a)[2][4], const Rows<bf16>& z, std::int64_t unit,
                                      const Index* columns, int feature) {
    std::uint32_t row[2][2][kTiles / 2];  // [inner half][first or next column][word]
#pragma unroll
    for (int half = 0; half < 2; ++half) {
#pragma unroll
      for (int c = 0; c < 2; ++c) {
        load(z.row(unit, columns[half * 8 + lane_id() % 4 * 2 + c]) + feature, row[half][c]);
      }
    }
#pragma unroll
    for (int j = 0; j < kTiles; j += 2) {
      const std::uint32_t even0 = low_halves(row[0][0][j / 2], row[0][1][j / 2]);
      const std::uint32_t even1 = low_halves(row[1][0][j / 2], row[1][1][j / 2]);
      const std::uint32_t odd0 = high_halves(row[0][0][j / 2], row[0][1][j / 2]);
      const std::uint32_t odd1 = high_halves(row[1][0][j / 2], row[1][1][j / 2]);
#pragma unroll
      for (int m = 0; m < 2; ++m) {
        multiply(value[m][j], a[m], even0, even1);
        multiply(value[m][j + 1], a[m], odd0, odd1);
      }
    }
  }
  /// f(row tile, half, first feature of a piece of 8, the piece).
  template <class F>
  __device__ __forceinline__ void each_piece(F&& f) {
#pragma unroll
    for (int m = 0; m < 2; ++m) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        if constexpr (kTiles == 8) {
#pragma unroll
          for (int c = 0; c < 2; ++c) {
            float piece[8];
#pragma unroll
            for (int j = 0; j < 8; ++j) piece[j] = value[m][j][half * 2 + c];
            f(m, half, (lane_id() % 4 * 2 + c) * 8, piece);
          }
        } else {
          float piece[8];
#pragma unroll
          for (int j = 0; j < 8; ++j) piece[j] = value[m][j % 4][half * 2 + j / 4];
          f(m, half, lane_id() % 4 * 8, piece);
        }
      }
    }
  }
};

/// Ends a task of a panel: its rows where it is the only one, with the single edges' parts, else a part of
/// them.
template <int W>
__device__ __forceinline__ void end_panel(PanelSums<W>& sums, const TileTask& task, const PanelRows& rows,
                                          std::int64_t unit, int feature, const TaskRange* row_tasks,
                                          const Parts<float>& edge_parts, const Parts<float>& panel_parts,
                                          const Finish<bf16>& finish) {
  sums.each_piece([&](int m, int half, int offset, float(&piece)[8]) {
    const int from = feature + offset;
    if (task.slot >= 0) {
      float* part =
          panel_parts.of(static_cast<std::int64_t>(task.slot) * kPanelRows + fragment_row(m, half)) + from;
#pragma unroll
      for (int f = 0; f < 8; ++f) part[f] = piece[f];
      return;
    }
    const std::int64_t row = rows.row[m][half];
    if (row < 0) return;
    if (edge_parts.data != nullptr) edge_parts.add(row_tasks[row], from, piece);
    finish.write(unit, row, from, piece);
  });
}

struct TileHop {
  Units units{};
  Tiles tiles{};
  Rows<bf16> x{};  // for tile_hop with kMake
  Rows<bf16> y{};
  Scores<float> scores{};
  std::uint32_t* values = nullptr;  // weights [blockIdx.y][chunks][256] as pairs
  Rows<bf16> z{};
  const TaskRange* row_tasks = nullptr;
  Parts<float> edge_parts{};   // no data: no single edges
  Parts<float> panel_parts{};  // tasks = slots x 32
  Finish<bf16> finish{};
  int feature = 0;
};

/// One hop over dense columns. kMake: D > 0, weights are made from features and a known lse, used and stored.
template <int D, int W>
__global__ void __launch_bounds__(128) tile_hop(TileHop p) {
  const std::int64_t number = warp_id();
  if (number >= p.tiles.count) return;
  const TileTask task = p.tiles.tasks[number];
  const std::int64_t unit = p.units.unit();
  const PanelRows rows(p.tiles.panel_rows + static_cast<std::int64_t>(task.panel) * kPanelRows);
  PanelSums<W> sums;
  sums.clear();
  std::uint32_t* values =
      p.values + static_cast<std::int64_t>(blockIdx.y) * p.tiles.chunks * (kChunkCells / 2);
  const auto use = [&](std::int64_t chunk, const std::uint32_t(&a)[2][4]) {
    sums.add(a, p.z, unit, p.tiles.columns + chunk * kChunkColumns, p.feature);
  };
  if constexpr (D > 0) {
    const std::int64_t cols = p.units.cols(unit);
    const std::int64_t n = p.units.rows(unit);
    RowOperands<D> x;
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
        value = lse == minus_infinity<float>() ? 0.0F : quick_exponential(score - lse);
        if (p.scores.dropout.active())
          value *= static_cast<float>(p.scores.dropout.edge_factor(unit, order[cell]));
      });
      std::uint32_t a[2][4];
      cells.operand(a);
#pragma unroll
      for (int m = 0; m < 2; ++m) {
        *reinterpret_cast<uint4*>(values + chunk * (kChunkCells / 2) + (m * 32 + lane_id()) * 4) =
            uint4{a[m][0], a[m][1], a[m][2], a[m][3]};
      }
      use(chunk, a);
    }
  } else {
#pragma unroll 2
    for (std::int64_t chunk = task.begin; chunk < task.end; ++chunk) {
      std::uint32_t a[2][4];
#pragma unroll
      for (int m = 0; m < 2; ++m) {
        const uint4 words =
            *reinterpret_cast<const uint4*>(values + chunk * (kChunkCells / 2) + (m * 32 + lane_id()) * 4);
        a[m][0] = words.x;
        a[m][1] = words.y;
        a[m][2] = words.z;
        a[m][3] = words.w;
      }
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

struct TileGradient {
  Units units{};
  Tiles tiles{};
  Gradient<bf16> gradient{};
  const TaskRange* row_tasks = nullptr;
  Parts<float> edge_parts{};
  Parts<float> panel_parts{};
  Finish<bf16> finish{};
  int width = 0;    // features of x and y
  int feature = 0;  // of the W that this launch writes
};

/// See Gradient. Two chunks at a time: what is loaded of the panel's rows for a hop serves both.
template <int W>
__global__ void __launch_bounds__(128) tile_gradient(TileGradient p) {
  constexpr int kGroup = 2;
  const std::int64_t number = warp_id();
  if (number >= p.tiles.count) return;
  const TileTask task = p.tiles.tasks[number];
  const std::int64_t unit = p.units.unit();
  const Gradient<bf16>& g = p.gradient;
  const std::int64_t cols = p.units.cols(unit);
  const std::int64_t n = p.units.rows(unit);
  const PanelRows rows(p.tiles.panel_rows + static_cast<std::int64_t>(task.panel) * kPanelRows);
  PanelSums<W> sums;
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
    RowOperand operand;
    for (int feature = 0; feature < p.width; feature += 32) {
      operand.load(g.x, unit, rows, feature);
#pragma unroll
      for (int c = 0; c < kGroup; ++c) {
        std::uint32_t column[2][4];
        load_columns(g.y, unit, columns[c], feature, column);
        score[c].add(operand, column);
      }
    }
    for (int t = g.begin; t < g.end; ++t) {
      const Rows<bf16> u =
          t == 0 ? g.u.first
                 : Rows<bf16>{g.u.rest.data + (t - 1) * g.u.step, g.u.rest.n, p.width, g.u.rest.share};
      const Rows<bf16> w =
          t == 0 ? g.w.first
                 : Rows<bf16>{g.w.rest.data + (t - 1) * g.w.step, g.w.rest.n, p.width, g.w.rest.share};
      for (int feature = 0; feature < p.width; feature += 32) {
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
        const float weight = lse == minus_infinity<float>() ? 0.0F : quick_exponential(biased - lse);
        float da = value * g.keep;
        if (g.scores.dropout.active())
          da *= static_cast<float>(g.scores.dropout.edge_factor(unit, order[cell]));
        const float dot = g.dots[unit * g.scores.lse_n + (g.scores.lse_by_column ? columns[c][column] : row)];
        const float ds = weight * (da - dot);
        if (g.bias != nullptr && p.feature == 0) g.bias[unit * g.bias_n + order[cell]] += ds;
        value = ds * g.scores.scale;
      });
      std::uint32_t a[2][4];
      gradient.operand(a);
      sums.add(a, g.y, unit, columns[c], p.feature);
    }
  }
  end_panel(sums, task, rows, unit, p.feature, p.row_tasks, p.edge_parts, p.panel_parts, p.finish);
}

}  // namespace manyhop::ops::cuda
