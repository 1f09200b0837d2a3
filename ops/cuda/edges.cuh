// Kernels over single edges: a warp takes a task (up to some hundred edges of a row), several lanes share the
// 16-byte pieces of a neighbour's row, and so several edges are in flight at once. Every storage type; the
// whole graph in f32 and f64, what no tile holds in bf16.
#pragma once

#include "manyhop/ops/cuda/finish.cuh"

namespace manyhop::ops::cuda {

/// The part of a row of D features that one lane holds: every kLanes-th piece.
template <class T, int D>
struct Part {
  using C = EdgeValue<T>;
  static constexpr int kSize = Piece<T>::kSize;
  static constexpr int kPieces = D / kSize;
  static constexpr int kLanes = kPieces < 32 ? kPieces : 32;
  static constexpr int kOwn = kPieces / kLanes;
  static constexpr int kAtOnce = 32 / kLanes;  // rows that a warp holds
  C value[kOwn][kSize];

  __device__ __forceinline__ void clear() {
#pragma unroll
    for (int o = 0; o < kOwn; ++o) {
#pragma unroll
      for (int f = 0; f < kSize; ++f) value[o][f] = 0;
    }
  }
  __device__ static __forceinline__ int feature(int own, int lane) { return (own * kLanes + lane) * kSize; }
  __device__ __forceinline__ void load(const T* row, int lane) {
#pragma unroll
    for (int o = 0; o < kOwn; ++o) Piece<T>::load(row + feature(o, lane), value[o]);
  }
  __device__ __forceinline__ C dot(const Part& other) const {
    C sum = 0;
#pragma unroll
    for (int o = 0; o < kOwn; ++o) {
#pragma unroll
      for (int f = 0; f < kSize; ++f) sum += value[o][f] * other.value[o][f];
    }
    return sum;
  }
  __device__ __forceinline__ void add(C factor, const Part& other) {
#pragma unroll
    for (int o = 0; o < kOwn; ++o) {
#pragma unroll
      for (int f = 0; f < kSize; ++f) value[o][f] += factor * other.value[o][f];
    }
  }
  /// Over the lanes that share a row.
  __device__ static __forceinline__ C over_row(C partial) {
#pragma unroll
    for (int lanes = kLanes / 2; lanes > 0; lanes /= 2) partial += shuffle_xor(partial, lanes);
    return partial;
  }
  /// Over the rows that the warp holds.
  __device__ __forceinline__ void over_rows() {
#pragma unroll
    for (int lanes = kLanes; lanes < 32; lanes *= 2) {
#pragma unroll
      for (int o = 0; o < kOwn; ++o) {
#pragma unroll
        for (int f = 0; f < kSize; ++f) value[o][f] += shuffle_xor(value[o][f], lanes);
      }
    }
  }
};

/// The single edges of a layout.
struct Edges {
  const EdgeTask* tasks = nullptr;
  std::int64_t count = 0;  // tasks
  const Index* columns = nullptr;
  const std::int64_t* order = nullptr;    // names of the edges outside; null where nobody asks
  std::int64_t stride = 0;                // values of a unit and the next are this far apart
  const TaskRange* only_split = nullptr;  // tasks of each row, where rows of one task are left to edge_attend

  __device__ __forceinline__ bool skips(const EdgeTask& task) const {
    return only_split != nullptr && only_split[task.row].end - only_split[task.row].begin == 1;
  }
};

/// What turns a product of features into a weight.
template <class C>
struct Scores {
  C scale = 1;
  const C* bias = nullptr;  // by edge name
  std::int64_t bias_batch = 0;
  std::int64_t bias_head = 0;
  const C* lse = nullptr;  // [unit][n]: of the layout's rows, or of its columns (a transposed layout)
  std::int64_t lse_n = 0;
  bool lse_by_column = false;
  DeviceDropout dropout{};

  __device__ __forceinline__ C biased(C product, const Units& units, std::int64_t unit,
                                      const std::int64_t* order, std::int64_t edge) const {
    const C score = scale * product;
    if (bias == nullptr) return score;
    return score + bias[unit / units.heads * bias_batch + unit % units.heads * bias_head + order[edge]];
  }
  __device__ __forceinline__ C lse_of(std::int64_t unit, std::int64_t row, std::int64_t column) const {
    return lse[unit * lse_n + (lse_by_column ? column : row)];
  }
};

template <class T>
struct EdgeScores {
  using C = EdgeValue<T>;
  Units units{};
  Edges edges{};
  Rows<T> x{};  // of the layout's rows
  Rows<T> y{};  // of its columns
  Scores<C> scores{};
  C* values = nullptr;            // [blockIdx.y][edges]: scores, or weights where scores.lse is given
  SoftmaxSum<C>* sums = nullptr;  // [blockIdx.y][tasks], where it is not
};

/// Scores of a task's edges into `values`, and their softmax sum; or, with a known lse, weights.
template <class T, int D>
__device__ __forceinline__ SoftmaxSum<EdgeValue<T>> score_task(const EdgeTask& task, const Units& units,
                                                               std::int64_t unit, const Edges& edges,
                                                               const Rows<T>& x_rows, const Rows<T>& y_rows,
                                                               const Scores<EdgeValue<T>>& scores,
                                                               EdgeValue<T>* values) {
  using C = EdgeValue<T>;
  using P = Part<T, D>;
  const std::int64_t cols = task.row < units.rows(unit) ? units.cols(unit) : 0;
  const int lane = lane_id() % P::kLanes;
  const int which = lane_id() / P::kLanes;
  P x;
  x.load(x_rows.row(unit, task.row), lane);
  SoftmaxSum<C> sum;
  for (std::int64_t first = task.begin; first < task.end; first += P::kAtOnce) {
    const std::int64_t edge = first + which;
    const bool there = edge < task.end;
    const std::int64_t column = there ? edges.columns[edge] : 0;
    P y;
    y.load(y_rows.row(unit, column), lane);
    const C product = P::over_row(x.dot(y));
    if (!there) continue;
    C score = column < cols ? scores.biased(product, units, unit, edges.order, edge) : minus_infinity<C>();
    if (scores.lse != nullptr) {
      score = column < cols ? softmax_weight(score, scores.lse_of(unit, task.row, column)) : C{0};
      if (scores.dropout.active())
        score *= static_cast<C>(scores.dropout.edge_factor(unit, edges.order[edge]));
    } else {
      sum.add(score);
    }
    if (lane == 0) values[edge] = score;
  }
  return over_lanes(sum, P::kLanes, 32);
}

/// Scores to weights, in place.
template <class C>
__device__ __forceinline__ void weigh_task(const EdgeTask& task, std::int64_t unit, const Edges& edges,
                                           const DeviceDropout& dropout, C lse, C* values) {
  for (std::int64_t edge = task.begin + lane_id(); edge < task.end; edge += kWarp) {
    C weight = softmax_weight(values[edge], lse);
    if (dropout.active()) weight *= static_cast<C>(dropout.edge_factor(unit, edges.order[edge]));
    values[edge] = weight;
  }
}

/// The sum over a task's edges of weight times the neighbour's row; each row of lanes has some of the edges.
template <class T, int D>
__device__ __forceinline__ void gather_task(const EdgeTask& task, std::int64_t unit, const Edges& edges,
                                            const Rows<T>& rows, const EdgeValue<T>* values,
                                            Part<T, D>& sum) {
  using P = Part<T, D>;
  sum.clear();
#pragma unroll 4
  for (std::int64_t edge = task.begin + lane_id() / P::kLanes; edge < task.end; edge += P::kAtOnce) {
    P z;
    z.load(rows.row(unit, edges.columns[edge]), lane_id() % P::kLanes);
    sum.add(values[edge], z);
  }
}

template <class T, int D>
__global__ void __launch_bounds__(128) edge_scores(EdgeScores<T> p) {
  const std::int64_t number = warp_id();
  if (number >= p.edges.count) return;
  const EdgeTask task = p.edges.tasks[number];
  if (p.edges.skips(task)) return;
  const std::int64_t unit = p.units.unit();
  const auto sum = score_task<T, D>(task, p.units, unit, p.edges, p.x, p.y, p.scores,
                                    p.values + static_cast<std::int64_t>(blockIdx.y) * p.edges.stride);
  if (p.sums != nullptr && lane_id() == 0)
    p.sums[static_cast<std::int64_t>(blockIdx.y) * p.edges.count + number] = sum;
}

template <class C>
struct EdgeWeights {
  Units units{};
  Edges edges{};
  Scores<C> scores{};
  C* values = nullptr;
};

template <class C>
__global__ void __launch_bounds__(128) edge_weights(EdgeWeights<C> p) {
  const std::int64_t number = warp_id();
  if (number >= p.edges.count) return;
  const EdgeTask task = p.edges.tasks[number];
  if (p.edges.skips(task)) return;
  const std::int64_t unit = p.units.unit();
  weigh_task(task, unit, p.edges, p.scores.dropout, p.scores.lse[unit * p.scores.lse_n + task.row],
             p.values + static_cast<std::int64_t>(blockIdx.y) * p.edges.stride);
}

/// Ends a task of single edges: its row where no other task and no tile adds to it, else a part of it.
template <class T, int D>
__device__ __forceinline__ void end_task(Part<T, D>& sum, const EdgeTask& task, std::int64_t number,
                                         std::int64_t unit, const TaskRange* row_tasks,
                                         const Parts<EdgeValue<T>>& parts, const Finish<T>& finish) {
  using P = Part<T, D>;
  sum.over_rows();
  if (lane_id() >= P::kLanes) return;
  const bool whole = row_tasks != nullptr && row_tasks[task.row].end - row_tasks[task.row].begin == 1;
#pragma unroll
  for (int o = 0; o < P::kOwn; ++o) {
    const int feature = P::feature(o, lane_id());
    if (whole) {
      finish.write(unit, task.row, feature, sum.value[o]);
    } else {
      EdgeValue<T>* part = parts.of(number) + feature;
#pragma unroll
      for (int f = 0; f < P::kSize; ++f) part[f] = sum.value[o][f];
    }
  }
}

template <class T>
struct EdgeHop {
  using C = EdgeValue<T>;
  Units units{};
  Edges edges{};
  const C* values = nullptr;             // weights [blockIdx.y][edges]
  Rows<T> z{};                           // of the layout's columns
  const TaskRange* row_tasks = nullptr;  // null: tiles add to every row
  Parts<C> parts{};
  Finish<T> finish{};
};

/// One hop over single edges.
template <class T, int D>
__global__ void __launch_bounds__(128) edge_hop(EdgeHop<T> p) {
  const std::int64_t number = warp_id();
  if (number >= p.edges.count) return;
  const EdgeTask task = p.edges.tasks[number];
  if (p.edges.skips(task)) return;
  const std::int64_t unit = p.units.unit();
  Part<T, D> sum;
  gather_task(task, unit, p.edges, p.z, p.values + static_cast<std::int64_t>(blockIdx.y) * p.edges.stride,
              sum);
  end_task(sum, task, number, unit, p.row_tasks, p.parts, p.finish);
}

/// Scores, softmax and the first hop of rows of one task in a layout without tiles: a row's scores are read
/// back from the cache they were written to.
template <class T>
struct EdgeAttend {
  using C = EdgeValue<T>;
  Units units{};
  Edges edges{};
  Rows<T> x{};
  Rows<T> y{};
  Rows<T> z{};
  Scores<C> scores{};
  C* values = nullptr;  // [blockIdx.y][edges]: weights in the end
  C* lse = nullptr;     // [unit][n]
  const TaskRange* row_tasks = nullptr;
  Finish<T> finish{};
};

template <class T, int D>
__global__ void __launch_bounds__(128) edge_attend(EdgeAttend<T> p) {
  using C = EdgeValue<T>;
  const std::int64_t number = warp_id();
  if (number >= p.edges.count) return;
  const EdgeTask task = p.edges.tasks[number];
  if (p.row_tasks[task.row].end - p.row_tasks[task.row].begin > 1) return;
  const std::int64_t unit = p.units.unit();
  C* values = p.values + static_cast<std::int64_t>(blockIdx.y) * p.edges.stride;
  const C lse = score_task<T, D>(task, p.units, unit, p.edges, p.x, p.y, p.scores, values).log_sum();
  if (lane_id() == 0) p.lse[unit * p.units.n_rows + task.row] = lse;
  sync_warp();  // a score was written by one lane and is read by others
  weigh_task(task, unit, p.edges, p.scores.dropout, lse, values);
  sync_warp();
  Part<T, D> sum;
  gather_task(task, unit, p.edges, p.z, values, sum);
  end_task(sum, task, number, unit, p.row_tasks, Parts<C>{}, p.finish);
}

/// Rows t = 0, 1, ..: `first`, then `rest` + (t - 1) step. (Z_0 = V lies by key/value head, the others by
/// head.)
template <class T>
struct Series {
  Rows<T> first{};
  Rows<T> rest{};
  std::int64_t step = 0;

  __device__ __forceinline__ const T* row(int t, std::int64_t unit, std::int64_t i) const {
    return t == 0 ? first.row(unit, i) : rest.row(unit, i) + (t - 1) * step;
  }
};

/// The gradient of scores and of x, for a layout or its transpose: with p the softmax weight of an edge (row,
/// column), ds = p (keep mask sum_t <u_t[row], w_t[column]> - dot), dx[row] = scale sum over edges of ds
/// y[column].
template <class T>
struct Gradient {
  using C = EdgeValue<T>;
  Rows<T> x{};
  Rows<T> y{};
  Scores<C> scores{};
  Series<T> u{};
  Series<T> w{};
  int begin = 0;  // hops [begin, end)
  int end = 0;
  C keep = 1;
  const C* dots = nullptr;  // like scores.lse
  C* bias = nullptr;        // ds by edge name, [unit][bias_n], added to; null: not wanted
  std::int64_t bias_n = 0;
};

template <class T>
struct EdgeGradient {
  Units units{};
  Edges edges{};
  Gradient<T> gradient{};
  const TaskRange* row_tasks = nullptr;
  Parts<EdgeValue<T>> parts{};
  Finish<T> finish{};
};

template <class T, int D>
__global__ void __launch_bounds__(128) edge_gradient(EdgeGradient<T> p) {
  using C = EdgeValue<T>;
  using P = Part<T, D>;
  const std::int64_t number = warp_id();
  if (number >= p.edges.count) return;
  const EdgeTask task = p.edges.tasks[number];
  const std::int64_t unit = p.units.unit();
  const Gradient<T>& g = p.gradient;
  const std::int64_t cols = task.row < p.units.rows(unit) ? p.units.cols(unit) : 0;
  const int lane = lane_id() % P::kLanes;
  const int which = lane_id() / P::kLanes;
  P x;
  x.load(g.x.row(unit, task.row), lane);
  P sum;
  sum.clear();
  for (std::int64_t first = task.begin; first < task.end; first += P::kAtOnce) {
    const std::int64_t edge = first + which;
    const bool there = edge < task.end;
    const std::int64_t column = there ? p.edges.columns[edge] : 0;
    P y;
    y.load(g.y.row(unit, column), lane);
    const C product = P::over_row(x.dot(y));
    C change = 0;
    for (int t = g.begin; t < g.end; ++t) {
      P u;
      P w;
      u.load(g.u.row(t, unit, task.row), lane);
      w.load(g.w.row(t, unit, column), lane);
      change += u.dot(w);
    }
    change = P::over_row(change) * g.keep;
    if (!there || column >= cols) continue;
    const C score = g.scores.biased(product, p.units, unit, p.edges.order, edge);
    const C weight = softmax_weight(score, g.scores.lse_of(unit, task.row, column));
    if (g.scores.dropout.active())
      change *= static_cast<C>(g.scores.dropout.edge_factor(unit, p.edges.order[edge]));
    const C dot = g.dots[unit * g.scores.lse_n + (g.scores.lse_by_column ? column : task.row)];
    const C ds = weight * (change - dot);
    if (g.bias != nullptr && lane == 0) g.bias[unit * g.bias_n + p.edges.order[edge]] += ds;
    sum.add(g.scores.scale * ds, y);
  }
  end_task(sum, task, number, unit, p.row_tasks, p.parts, p.finish);
}

template <class T>
struct CombineRows {
  Units units{};
  const Index* rows = nullptr;  // of several tasks
  std::int64_t count = 0;
  const TaskRange* row_tasks = nullptr;
  Parts<EdgeValue<T>> parts{};
  Finish<T> finish{};
};

/// Adds the tasks of a split row; a thread for each piece of each row.
template <class T>
__global__ void __launch_bounds__(128) combine_rows(CombineRows<T> p) {
  constexpr int kSize = Piece<T>::kSize;
  const int pieces = p.parts.width / kSize;
  const std::int64_t number = thread_id() / pieces;
  if (number >= p.count) return;
  const int feature = static_cast<int>(thread_id() % pieces) * kSize;
  const std::int64_t row = p.rows[number];
  EdgeValue<T> sum[kSize] = {};
  p.parts.add(p.row_tasks[row], feature, sum);
  p.finish.write(p.units.unit(), row, feature, sum);
}

}  // namespace manyhop::ops::cuda
