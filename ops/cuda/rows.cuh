// Kernels over rows: between the caller's strides and padded rows, sums of tasks to log-sum-exp, and what the
// backward pass needs of each row. A thread for each piece or row.
#pragma once

#include "manyhop/ops/cuda/edges.cuh"

namespace manyhop::ops::cuda {

/// [units][n][width] of the caller, any strides.
template <class T>
struct Strided {
  T* data = nullptr;
  std::int64_t batch = 0;
  std::int64_t head = 0;
  std::int64_t row = 0;
  std::int64_t feature = 0;

  __device__ __forceinline__ T* at(std::int64_t unit, int heads, std::int64_t i, int f) const {
    return data + unit / heads * batch + unit % heads * head + i * row + f * feature;
  }
};

template <class T>
struct Copy {
  Strided<T> outside{};
  T* inside = nullptr;  // [units][n][padded]
  std::int64_t n = 0;
  int heads = 1;
  int width = 0;
  int padded = 0;
  const std::int64_t* lengths = nullptr;  // rows at or past them are zero
  DeviceDropout dropout{};                // on the way in: a gradient passes the last hop's dropout
  int hop = 0;
};

/// Caller's rows to padded rows.
template <class T>
__global__ void __launch_bounds__(128) pack_rows(Copy<T> p) {
  const std::int64_t row = thread_id() / p.padded;
  const int f = static_cast<int>(thread_id() % p.padded);
  if (row >= p.n) return;
  const std::int64_t unit = blockIdx.y;
  const bool there = f < p.width && (p.lengths == nullptr || row < p.lengths[unit / p.heads]);
  T value{};
  if (there) {
    value = *p.outside.at(unit, p.heads, row, f);
    if (p.dropout.active()) {
      const double scaled =
          static_cast<double>(widen_value(value)) * p.dropout.hop_factor(unit, p.hop, row, f);
      value = narrow_value<T>(scaled);
    }
  }
  p.inside[(unit * p.n + row) * p.padded + f] = value;
}

/// Padded rows to the caller's.
template <class T>
__global__ void __launch_bounds__(128) unpack_rows(Copy<T> p) {
  const std::int64_t row = thread_id() / p.width;
  const int f = static_cast<int>(thread_id() % p.width);
  if (row >= p.n) return;
  const std::int64_t unit = blockIdx.y;
  const bool there = p.lengths == nullptr || row < p.lengths[unit / p.heads];
  *p.outside.at(unit, p.heads, row, f) = there ? p.inside[(unit * p.n + row) * p.padded + f] : T{};
}

template <class C>
struct CombineLse {
  Units units{};
  const TaskRange* row_tasks = nullptr;
  const SoftmaxSum<C>* edge_sums = nullptr;  // [blockIdx.y][edge_tasks], or null
  std::int64_t edge_tasks = 0;
  const SoftmaxSum<C>* tile_sums = nullptr;  // [blockIdx.y][tile_tasks][32], or null
  std::int64_t tile_tasks = 0;
  const std::int64_t* row_places = nullptr;
  const TaskRange* panel_tasks = nullptr;
  C* lse = nullptr;         // [unit][n]
  bool only_split = false;  // rows of one task have theirs
};

template <class C>
__global__ void __launch_bounds__(128) combine_lse(CombineLse<C> p) {
  const std::int64_t row = thread_id();
  if (row >= p.units.n_rows) return;
  if (p.only_split && p.row_tasks[row].end - p.row_tasks[row].begin == 1) return;
  const std::int64_t unit = p.units.unit();
  SoftmaxSum<C> sum;
  if (p.edge_sums != nullptr) {
    const TaskRange range = p.row_tasks[row];
    const SoftmaxSum<C>* sums = p.edge_sums + static_cast<std::int64_t>(blockIdx.y) * p.edge_tasks;
    for (std::int32_t task = range.begin; task < range.end; ++task) sum.add(sums[task]);
  }
  if (p.tile_sums != nullptr) {
    const std::int64_t place = p.row_places[row];
    const TaskRange range = p.panel_tasks[place / kPanelRows];
    const SoftmaxSum<C>* sums =
        p.tile_sums + static_cast<std::int64_t>(blockIdx.y) * p.tile_tasks * kPanelRows;
    for (std::int32_t task = range.begin; task < range.end; ++task) {
      sum.add(sums[task * std::int64_t{kPanelRows} + place % kPanelRows]);
    }
  }
  p.lse[unit * p.units.n_rows + row] = sum.log_sum();
}

template <class T>
struct ExportWeights {
  Units units{};
  const std::int64_t* order = nullptr;
  std::int64_t count = 0;                     // cells, or edges
  std::int64_t stride = 0;                    // values of a unit and the next are this far apart
  const EdgeValue<T>* edge_values = nullptr;  // [blockIdx.y][stride]
  const T* cell_values = nullptr;             // [blockIdx.y][stride]
  EdgeValue<T>* out = nullptr;
  std::int64_t out_batch = 0;
  std::int64_t out_head = 0;
};

/// Weights into the caller's edge order; the others stay as they are.
template <class T>
__global__ void __launch_bounds__(128) export_weights(ExportWeights<T> p) {
  const std::int64_t place = thread_id();
  if (place >= p.count || p.order[place] < 0) return;
  const std::int64_t unit = p.units.unit();
  const std::int64_t from = static_cast<std::int64_t>(blockIdx.y) * p.stride + place;
  const EdgeValue<T> value = p.edge_values != nullptr
                                 ? p.edge_values[from]
                                 : static_cast<EdgeValue<T>>(widen_value(p.cell_values[from]));
  p.out[unit / p.units.heads * p.out_batch + unit % p.units.heads * p.out_head + p.order[place]] = value;
}

/// dot_i = sum_t (1 - a) <g_t[i], (A Z_t)[i]> - g_lse_i, from Z_{t+1} = ((1 - a) A Z_t + a V) dropout; and of
/// the same products each row's share of the teleport's gradient, sum_t <g_t[i], V[i] - (A Z_t)[i]>.
template <class T>
struct RowDots {
  using C = EdgeValue<T>;
  Units units{};
  Series<T> g{};  // t = 0 .. hops - 1, after dropout
  Rows<T> z{};    // Z_1; Z_{t+1} lies t steps on
  std::int64_t z_step = 0;
  Rows<T> v{};
  int begin = 0;
  int end = 0;
  double teleport = 0;
  double dropout_scale = 1;  // of hops
  const C* g_lse = nullptr;  // [unit][n]
  C* dots = nullptr;         // [unit][n], or null
  double* teleports =
      nullptr;  // [unit][n], or null: own_factor <g, V> - flow_factor <g, (1 - a) A Z> is added
  double own_factor = 1;
  double flow_factor = 1;
};

template <class T>
__global__ void __launch_bounds__(128) row_dots(RowDots<T> p) {
  const std::int64_t i = warp_id();
  if (i >= p.units.n_rows) return;
  const std::int64_t unit = p.units.unit();
  constexpr int kSize = Piece<T>::kSize;
  double flow = 0;  // sum_t <g_t, (1 - a) A Z_t>
  double own = 0;   // sum_t <g_t, V>
  for (int t = p.begin; t < p.end; ++t) {
    for (int f = lane_id() * kSize; f < p.v.width; f += static_cast<int>(kWarp) * kSize) {
      EdgeValue<T> g[kSize];
      EdgeValue<T> z[kSize];
      EdgeValue<T> v[kSize] = {};
      Piece<T>::load(p.g.row(t, unit, i) + f, g);
      Piece<T>::load(p.z.row(unit, i) + t * p.z_step + f, z);
      if (p.teleport != 0 || p.teleports != nullptr) Piece<T>::load(p.v.row(unit, i) + f, v);
#pragma unroll
      for (int c = 0; c < kSize; ++c) {
        const double with_v = static_cast<double>(g[c]) * static_cast<double>(v[c]);
        own += with_v;
        flow += static_cast<double>(g[c]) * static_cast<double>(z[c]) / p.dropout_scale - p.teleport * with_v;
      }
    }
  }
#pragma unroll
  for (int lanes = 16; lanes > 0; lanes /= 2) {
    flow += shuffle_xor(flow, lanes);
    own += shuffle_xor(own, lanes);
  }
  if (lane_id() != 0) return;
  const std::int64_t at = unit * p.units.n_rows + i;
  if (p.dots != nullptr) {
    p.dots[at] =
        static_cast<EdgeValue<T>>(flow - (p.g_lse == nullptr ? 0.0 : static_cast<double>(p.g_lse[at])));
  }
  if (p.teleports != nullptr) p.teleports[at] += p.own_factor * own - p.flow_factor * flow;
}

/// dv_j += a sum_t g_t[j] + g_V[j], for heads that do not share it.
template <class T>
struct ValueGradient {
  Units units{};  // rows: the graph's columns
  Series<T> g{};
  int hops = 0;
  const T* last = nullptr;  // g_V [unit][n][width], what has come back through all hops; null: none
  double teleport = 0;
  EdgeValue<T>* totals = nullptr;  // [unit / share][n][width]
  std::int64_t n = 0;
  int width = 0;
  int share = 1;
};

template <class T>
__global__ void __launch_bounds__(128) value_gradient(ValueGradient<T> p) {
  constexpr int kSize = Piece<T>::kSize;
  const int pieces = p.width / kSize;
  const std::int64_t j = thread_id() / pieces;
  if (j >= p.n) return;
  const int f = static_cast<int>(thread_id() % pieces) * kSize;
  const std::int64_t unit = p.units.unit();
  EdgeValue<T> sum[kSize] = {};
  EdgeValue<T> piece[kSize];
  for (int t = 0; t < p.hops; ++t) {
    Piece<T>::load(p.g.row(t, unit, j) + f, piece);
#pragma unroll
    for (int c = 0; c < kSize; ++c) sum[c] += static_cast<EdgeValue<T>>(p.teleport) * piece[c];
  }
  if (p.last != nullptr) {
    Piece<T>::load(p.last + (unit * p.n + j) * p.width + f, piece);
#pragma unroll
    for (int c = 0; c < kSize; ++c) sum[c] += piece[c];
  }
  EdgeValue<T>* to = p.totals + (unit / p.share * p.n + j) * p.width + f;
#pragma unroll
  for (int c = 0; c < kSize; ++c) to[c] += sum[c];
}

/// Totals as they are stored.
template <class T>
struct NarrowTotals {
  const EdgeValue<T>* totals = nullptr;
  T* out = nullptr;
  std::int64_t count = 0;
};

template <class T>
__global__ void __launch_bounds__(128) narrow_totals(NarrowTotals<T> p) {
  constexpr int kSize = Piece<T>::kSize;
  const std::int64_t at = thread_id() * kSize;
  if (at >= p.count) return;
  EdgeValue<T> piece[kSize];
#pragma unroll
  for (int c = 0; c < kSize; ++c) piece[c] = p.totals[at + c];
  Piece<T>::store(piece, p.out + at);
}

template <class C>
struct SumRows {
  const C* values = nullptr;  // [units][n]
  std::int64_t n = 0;
  C* out = nullptr;  // [units]
};

/// A warp for each unit, in one order whatever the device.
template <class C>
__global__ void __launch_bounds__(128) sum_rows(SumRows<C> p) {
  if (warp_id() > 0) return;
  C sum = 0;
  const C* values = p.values + static_cast<std::int64_t>(blockIdx.y) * p.n;
  for (std::int64_t i = lane_id(); i < p.n; i += kWarp) sum += values[i];
#pragma unroll
  for (int lanes = 16; lanes > 0; lanes /= 2) sum += shuffle_xor(sum, lanes);
  if (lane_id() == 0) p.out[blockIdx.y] = sum;
}

template <class C>
struct SumUnits {
  const C* values = nullptr;  // [units][n]
  std::int64_t n = 0;
  int batch = 1;
  int heads = 1;
  int head_first = 0;  // heads [head_first, head_end) have these edges
  int head_end = 1;
  C* out = nullptr;
  std::int64_t out_batch = 0;  // 0: summed over the batch
  std::int64_t out_head = 0;   // 0: over the heads
};

/// Gradients of a bias that heads or batch items share; a thread for each edge, in the order of the units.
template <class C>
__global__ void __launch_bounds__(128) sum_units(SumUnits<C> p) {
  const std::int64_t e = thread_id();
  if (e >= p.n) return;
  for (int b = 0; b < p.batch; ++b) {
    for (int h = p.head_first; h < p.head_end; ++h) {
      const std::int64_t to = b * p.out_batch + h * p.out_head + e;
      const bool first = (p.out_batch != 0 || b == 0) && (p.out_head != 0 || h == p.head_first);
      const C value = p.values[(static_cast<std::int64_t>(b) * p.heads + h) * p.n + e];
      p.out[to] = first ? value : p.out[to] + value;
    }
  }
}

template <class T>
struct FinishRows {
  Units units{};
  const EdgeValue<T>* sums = nullptr;  // [blockIdx.y][n][width]; null: 0
  Finish<T> finish{};
};

/// Sums that lie in memory leave as rows of a hop. A thread for each piece.
template <class T>
__global__ void __launch_bounds__(128) finish_rows(FinishRows<T> p) {
  constexpr int kSize = Piece<T>::kSize;
  const int pieces = p.finish.width / kSize;
  const std::int64_t row = thread_id() / pieces;
  const int feature = static_cast<int>(thread_id() % pieces) * kSize;
  if (row >= p.finish.n) return;
  const std::int64_t at =
      (static_cast<std::int64_t>(blockIdx.y) * p.finish.n + row) * p.finish.width + feature;
  EdgeValue<T> sum[kSize];
  for (int f = 0; f < kSize; ++f) sum[f] = p.sums == nullptr ? EdgeValue<T>{0} : p.sums[at + f];
  p.finish.write(p.units.unit(), row, feature, sum);
}

}  // namespace manyhop::ops::cuda
