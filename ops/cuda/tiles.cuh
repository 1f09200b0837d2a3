// What kernels over dense columns are made of, bf16 on the tensor cores: a warp takes some chunks (32 rows x
// 16 columns) of a panel.
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

  __device__ __forceinline__ explicit PanelRows(const Index* rows, std::int64_t count = kPanelRows) {
#pragma unroll
    for (int m = 0; m < 2; ++m) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int place = fragment_row(m, half);
        row[m][half] = place < count ? rows[place] : -1;
      }
    }
  }
  /// Rows first .. end - 1, of 32 at most.
  __device__ __forceinline__ PanelRows(std::int64_t first, std::int64_t end) {
#pragma unroll
    for (int m = 0; m < 2; ++m) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const std::int64_t i = first + fragment_row(m, half);
        row[m][half] = i < end ? i : -1;
      }
    }
  }
};

/// Neighbouring rows as the columns of a chunk; the last one stands for those past the end.
struct Sequence {
  std::int64_t first = 0;
  std::int64_t end = 0;

  __device__ __forceinline__ std::int64_t operator[](int column) const {
    return first + column < end ? first + column : end - 1;
  }
};

/// Features that 4 lanes load at once: the inner indices of two products.
template <class T>
inline constexpr int kBlock = 4 * Piece<T>::kSize;
/// Words of the weights of a chunk: pairs of bf16, or floats.
template <class T>
inline constexpr int kCellWords = kChunkCells * static_cast<int>(sizeof(T)) / 4;

/// 32 rows of a panel and kBlock<T> features as the A operand of two products.
template <class T>
struct RowOperand {
  std::uint32_t word[2][2][4];  // [row tile][half][word]

  __device__ __forceinline__ void load(const Rows<T>& from, std::int64_t unit, const PanelRows& rows,
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
  __device__ static __forceinline__ void load_row(const T* row, std::uint32_t (&to)[4]) {
    const uint4 words = *reinterpret_cast<const uint4*>(row + lane_id() % 4 * Piece<T>::kSize);
    to[0] = words.x;
    to[1] = words.y;
    to[2] = words.z;
    to[3] = words.w;
  }
};

/// 32 rows x 16 columns of weights in the order in which they are stored (fragment_cell()) and multiplied.
template <class T>
struct Weights {
  static constexpr int kWords = 2 * static_cast<int>(sizeof(T));  // of a lane in a row tile
  std::uint32_t word[2][kWords];

  __device__ __forceinline__ static std::uint32_t* place(std::uint32_t* chunk, int m) {
    return chunk + (m * 32 + lane_id()) * kWords;
  }
  __device__ __forceinline__ void load(std::uint32_t* chunk) {
#pragma unroll
    for (int m = 0; m < 2; ++m) {
#pragma unroll
      for (int w = 0; w < kWords; w += 4) {
        const uint4 words = *reinterpret_cast<const uint4*>(place(chunk, m) + w);
        word[m][w] = words.x;
        word[m][w + 1] = words.y;
        word[m][w + 2] = words.z;
        word[m][w + 3] = words.w;
      }
    }
  }
  __device__ __forceinline__ void store(std::uint32_t* chunk) const {
#pragma unroll
    for (int m = 0; m < 2; ++m) {
#pragma unroll
      for (int w = 0; w < kWords; w += 4) {
        *reinterpret_cast<uint4*>(place(chunk, m) + w) =
            uint4{word[m][w], word[m][w + 1], word[m][w + 2], word[m][w + 3]};
      }
    }
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
  /// Adds the products of kBlock<T> features of the panel's rows with those of 16 columns.
  template <class T>
  __device__ __forceinline__ void add(const RowOperand<T>& rows, const std::uint32_t (&column)[2][4]) {
#pragma unroll
    for (int step = 0; step < 2; ++step) {
#pragma unroll
      for (int m = 0; m < 2; ++m) {
        const std::uint32_t a[4] = {rows.word[m][0][2 * step], rows.word[m][1][2 * step],
                                    rows.word[m][0][2 * step + 1], rows.word[m][1][2 * step + 1]};
#pragma unroll
        for (int j = 0; j < 2; ++j)
          multiply_as<T>(value[m][j], a, column[j][2 * step], column[j][2 * step + 1]);
      }
    }
  }
  /// As the A operand of a product with 16 rows.
  template <class T>
  __device__ __forceinline__ Weights<T> weights() const {
    Weights<T> a;
#pragma unroll
    for (int m = 0; m < 2; ++m) {
#pragma unroll
      for (int j = 0; j < 2; ++j) {
        if constexpr (sizeof(T) == 2) {
          a.word[m][2 * j] = pack(value[m][j][0], value[m][j][1]);
          a.word[m][2 * j + 1] = pack(value[m][j][2], value[m][j][3]);
        } else {
#pragma unroll
          for (int i = 0; i < 4; ++i) a.word[m][4 * j + i] = as_bits(value[m][j][i]);
        }
      }
    }
    return a;
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

/// Columns j * 8 + g of a chunk, for scores. Here and below `columns` [16] is an array or a Sequence.
template <class T, class Columns>
__device__ __forceinline__ void load_columns(const Rows<T>& from, std::int64_t unit, Columns columns,
                                             int feature, std::uint32_t (&to)[2][4]) {
#pragma unroll
  for (int j = 0; j < 2; ++j) {
    RowOperand<T>::load_row(from.row(unit, columns[j * 8 + lane_id() / 4]) + feature, to[j]);
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

/// The rows' operands for all features, kept in registers where they are up to 256 bytes a row.
template <class T, int D>
struct RowOperands {
  static constexpr bool kKept = D * static_cast<int>(sizeof(T)) <= 256;
  RowOperand<T> block[kKept ? D / kBlock<T> : 1];

  __device__ __forceinline__ void start(const Rows<T>& x, std::int64_t unit, const PanelRows& rows) {
    if constexpr (kKept) {
#pragma unroll
      for (int b = 0; b < D / kBlock<T>; ++b) block[b].load(x, unit, rows, b * kBlock<T>);
    }
  }
  template <class Columns>
  __device__ __forceinline__ void scores(const Rows<T>& x, const Rows<T>& y, std::int64_t unit,
                                         const PanelRows& rows, Columns columns, Cells& cells) {
    cells.clear();
#pragma unroll
    for (int b = 0; b < D / kBlock<T>; ++b) {
      std::uint32_t column[2][4];
      load_columns(y, unit, columns, b * kBlock<T>, column);
      if constexpr (!kKept) block[0].load(x, unit, rows, b * kBlock<T>);
      cells.add(block[kKept ? b : 0], column);
    }
  }
};

/// The sums of a hop of 32 rows and W features from `feature` on: [row tile][output tile j][register].
template <class T, int W>
struct PanelSums {
  static constexpr int kTiles = W / 8;  // 8 features of each lane where W = 64, 4 where W = 32
  static constexpr int kWords = kTiles * static_cast<int>(sizeof(T)) / 4;
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
  __device__ static __forceinline__ void load(const T* row, std::uint32_t (&to)[kWords]) {
    const T* from = row + lane_id() / 4 * kTiles;
    if constexpr (kWords >= 4) {
#pragma unroll
      for (int w = 0; w < kWords; w += 4) {
        const uint4 words = *reinterpret_cast<const uint4*>(from + w * 4 / static_cast<int>(sizeof(T)));
        to[w] = words.x;
        to[w + 1] = words.y;
        to[w + 2] = words.z;
        to[w + 3] = words.w;
      }
    } else {
      const uint2 words = *reinterpret_cast<const uint2*>(from);
      to[0] = words.x;
      to[1] = words.y;
    }
  }
  /// Adds the weights of a chunk times the rows of its columns.
  template <class Columns>
  __device__ __forceinline__ void add(const Weights<T>& a, const Rows<T>& z, std::int64_t unit,
                                      Columns columns, int feature) {
    std::uint32_t row[2][2][kWords];  // [inner half][first or next column][word]
#pragma unroll
    for (int half = 0; half < 2; ++half) {
#pragma unroll
      for (int c = 0; c < 2; ++c) {
        load(z.row(unit, columns[half * 8 + lane_id() % 4 * 2 + c]) + feature, row[half][c]);
      }
    }
    if constexpr (sizeof(T) == 2) {
#pragma unroll
      for (int j = 0; j < kTiles; j += 2) {
        const std::uint32_t even0 = low_halves(row[0][0][j / 2], row[0][1][j / 2]);
        const std::uint32_t even1 = low_halves(row[1][0][j / 2], row[1][1][j / 2]);
        const std::uint32_t odd0 = high_halves(row[0][0][j / 2], row[0][1][j / 2]);
        const std::uint32_t odd1 = high_halves(row[1][0][j / 2], row[1][1][j / 2]);
#pragma unroll
        for (int m = 0; m < 2; ++m) {
          multiply(value[m][j], a.word[m], even0, even1);
          multiply(value[m][j + 1], a.word[m], odd0, odd1);
        }
      }
    } else {
      // Inner indices t and t + 4 of a product are columns 2 t and 2 t + 1 of its half.
#pragma unroll
      for (int half = 0; half < 2; ++half) {
#pragma unroll
        for (int m = 0; m < 2; ++m) {
          const std::uint32_t* w = a.word[m] + 4 * half;
          const std::uint32_t left[4] = {w[0], w[2], w[1], w[3]};
#pragma unroll
          for (int j = 0; j < kTiles; ++j) {
            multiply_tf32(value[m][j], left, row[half][0][j], row[half][1][j]);
          }
        }
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
template <class T, int W>
__device__ __forceinline__ void end_panel(PanelSums<T, W>& sums, const TileTask& task, const PanelRows& rows,
                                          std::int64_t unit, int feature, const TaskRange* row_tasks,
                                          const Parts<float>& edge_parts, const Parts<float>& panel_parts,
                                          const Finish<T>& finish) {
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
    constexpr int kSize = Piece<T>::kSize;
#pragma unroll
    for (int first = 0; first < 8; first += kSize) {
      float part[kSize];
#pragma unroll
      for (int f = 0; f < kSize; ++f) part[f] = piece[first + f];
      finish.write(unit, row, from + first, part);
    }
  });
}

}  // namespace manyhop::ops::cuda
