// Kernels between the products of a diffusion: sums over rows, empty lines, sums of blocks.
#pragma once

#include "manyhop/ops/cuda/device.cuh"
#include "manyhop/ops/cuda/layout.hpp"

namespace manyhop::ops::cuda {

inline constexpr std::int64_t kRowsAChunk = 1024;

// x, |x|, x^2 added, the largest |x|, all of a - b; a b added.
enum class Fold : std::uint8_t { sum, size, square, largest, product };

/// NaN is larger than all.
__device__ __forceinline__ double folded(Fold fold, double a, double b) {
  if (fold != Fold::largest) return a + b;
  if (a != a || b != b) return a != a ? a : b;
  return a > b ? a : b;
}

template <class C>
struct FoldCall {
  Fold fold = Fold::sum;
  const C* a = nullptr;          // [rows][stride]
  const C* b = nullptr;          // null: 0
  const Index* lines = nullptr;  // null: all rows
  std::int64_t count = 0;        // of the lines, or of all rows
  std::int64_t stride = 1;
  int width = 1;            // lanes side by side in a row
  double* parts = nullptr;  // [chunks][stride]
  double* total = nullptr;  // [stride]
};

/// A warp for each chunk of rows: lanes of equal place take every (32 / width)-th row, a tree joins them.
template <class C>
__global__ void __launch_bounds__(128) fold_rows(FoldCall<C> p) {
  const std::int64_t chunk = warp_id();
  const std::int64_t begin = chunk * kRowsAChunk;
  if (begin >= p.count) return;
  const std::int64_t end = begin + kRowsAChunk < p.count ? begin + kRowsAChunk : p.count;
  const int groups = static_cast<int>(kWarp) / p.width;
  const int group = lane_id() / p.width;
  for (std::int64_t block = 0; block < p.stride; block += p.width) {
    const std::int64_t f = block + lane_id() % p.width;
    double joined = 0;
    for (std::int64_t i = begin + group; i < end; i += groups) {
      const std::int64_t cell =
          (p.lines == nullptr ? i : static_cast<std::int64_t>(p.lines[i])) * p.stride + f;
      double value = static_cast<double>(p.a[cell]);
      if (p.fold == Fold::product) {
        value *= static_cast<double>(p.b[cell]);
      } else if (p.b != nullptr) {
        value -= static_cast<double>(p.b[cell]);
      }
      if (p.fold == Fold::square) value *= value;
      if (p.fold == Fold::size || p.fold == Fold::largest) value = value < 0 ? -value : value;
      joined = folded(p.fold, joined, value);
    }
    for (int lanes = kWarp / 2; lanes >= p.width; lanes /= 2) {
      joined = folded(p.fold, joined, shuffle_xor(joined, lanes));
    }
    if (group == 0) p.parts[chunk * p.stride + f] = joined;
  }
}

/// A warp for each column.
template <class C>
__global__ void __launch_bounds__(128) fold_chunks(FoldCall<C> p) {
  const std::int64_t f = warp_id();
  if (f >= p.stride) return;
  const std::int64_t chunks = (p.count + kRowsAChunk - 1) / kRowsAChunk;
  double joined = 0;
  for (std::int64_t chunk = lane_id(); chunk < chunks; chunk += kWarp) {
    joined = folded(p.fold, joined, p.parts[chunk * p.stride + f]);
  }
  for (int lanes = kWarp / 2; lanes > 0; lanes /= 2) {
    joined = folded(p.fold, joined, shuffle_xor(joined, lanes));
  }
  if (lane_id() == 0) p.total[f] = joined;
}

template <class C>
struct EmptyCall {
  const Index* lines = nullptr;  // rows that take something; null: all
  std::int64_t count = 0;
  std::int64_t stride = 1;
  const C* x = nullptr;                // added to its own row; null: the total is
  const double* total = nullptr;       // [stride]
  double share = 1;                    // of the total
  const C* block0 = nullptr;           // null: the same share for every row
  const double* block0_sum = nullptr;  // [stride], divides; null: 1
  C* y = nullptr;
};

/// A thread for each number of the rows that take something.
template <class C>
__global__ void __launch_bounds__(128) fill_empty(EmptyCall<C> p) {
  const std::int64_t i = thread_id() / p.stride;
  const std::int64_t f = thread_id() % p.stride;
  if (i >= p.count) return;
  const std::int64_t cell = (p.lines == nullptr ? i : static_cast<std::int64_t>(p.lines[i])) * p.stride + f;
  double more = 0;
  if (p.x != nullptr) {
    more = static_cast<double>(p.x[cell]);
  } else if (p.block0_sum == nullptr) {
    more = p.total[f] * p.share;
  } else if (p.block0_sum[f] != 0) {
    more = p.total[f] * ((p.block0 == nullptr ? 1.0 : static_cast<double>(p.block0[cell])) / p.block0_sum[f]);
  }
  p.y[cell] = static_cast<C>(static_cast<double>(p.y[cell]) + more);
}

template <class C>
struct RestartCall {
  const C* b = nullptr;                // [n][stride]
  const double* lost = nullptr;        // [stride], what empty columns hold of f
  const double* along = nullptr;       // [stride], <b, block 0>
  const double* block0_sum = nullptr;  // [stride]
  double factor = 1;
  std::int64_t stride = 1;
  std::int64_t count = 0;  // numbers of a block
  C* to = nullptr;
};

/// A thread for each number of the block: with r = block 0 / sum, d(lost <b, r>) by block 0.
template <class C>
__global__ void __launch_bounds__(128) restart_gradient(RestartCall<C> p) {
  const std::int64_t i = thread_id();
  if (i >= p.count) return;
  const std::int64_t f = i % p.stride;
  const double sum = p.block0_sum[f];
  if (sum == 0) return;
  const double slope = p.lost[f] * (static_cast<double>(p.b[i]) - p.along[f] / sum) / sum;
  p.to[i] = static_cast<C>(static_cast<double>(p.to[i]) + p.factor * slope);
}

template <class C>
struct EdgeGradientCall {
  const EdgeTask* tasks = nullptr;
  std::int64_t task_count = 0;
  const Index* columns = nullptr;
  const C* b = nullptr;  // [n_rows][stride]
  const C* f = nullptr;  // [n_cols][stride]
  double factor = 1;
  std::int64_t stride = 1;
  int width = 1;            // lanes side by side in a row
  double* edges = nullptr;  // by edge
};

/// A warp for each task of a row: lanes of equal place take every (32 / width)-th edge, those side by side
/// share its columns, and a tree adds them.
template <class C>
__global__ void __launch_bounds__(128) edge_gradients(EdgeGradientCall<C> p) {
  const std::int64_t number = warp_id();
  if (number >= p.task_count) return;
  const EdgeTask task = p.tasks[number];
  const int groups = static_cast<int>(kWarp) / p.width;
  const int group = lane_id() / p.width;
  const int place = lane_id() % p.width;
  for (std::int64_t first = task.begin; first < task.end; first += groups) {
    const std::int64_t e = first + group;
    double sum = 0;
    if (e < task.end) {
      const C* const b = p.b + task.row * p.stride;
      const C* const f = p.f + static_cast<std::int64_t>(p.columns[e]) * p.stride;
      for (std::int64_t c = place; c < p.stride; c += p.width)
        sum += static_cast<double>(b[c]) * static_cast<double>(f[c]);
    }
    for (int lanes = p.width / 2; lanes > 0; lanes /= 2) sum += shuffle_xor(sum, lanes);
    if (place == 0 && e < task.end) p.edges[e] += p.factor * sum;
  }
}

template <class C>
struct CombineCall {
  C* to = nullptr;
  const C* from = nullptr;
  double keep = 0;
  double factor = 0;
  std::int64_t count = 0;
};

template <class C>
__global__ void __launch_bounds__(128) combine_blocks(CombineCall<C> p) {
  const std::int64_t i = thread_id();
  if (i >= p.count) return;
  double value = p.factor * static_cast<double>(p.from[i]);
  if (p.keep != 0) value += p.keep * static_cast<double>(p.to[i]);
  p.to[i] = static_cast<C>(value);
}

}  // namespace manyhop::ops::cuda
