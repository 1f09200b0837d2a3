// Kernels of a graph's product with a block of columns: a warp for each task of a row.
#pragma once

#include "manyhop/ops/cuda/device.cuh"
#include "manyhop/ops/cuda/layout.hpp"

namespace manyhop::ops::cuda {

template <class C>
struct ProductCall {
  const EdgeTask* tasks = nullptr;
  std::int64_t task_count = 0;
  const TaskRange* row_tasks = nullptr;
  const Index* split_rows = nullptr;
  std::int64_t split_count = 0;
  const Index* columns = nullptr;
  const double* weights = nullptr;    // null: ones
  const double* row_scale = nullptr;  // null: ones
  const double* col_scale = nullptr;  // null: ones
  const C* x = nullptr;               // [n_cols][stride]
  C* y = nullptr;                     // [n_rows][stride]
  double* parts = nullptr;            // [task_count][stride], of split rows
  std::int64_t stride = 1;
  int width = 1;  // lanes side by side in a row of x: 1, 8, 16 or 32, a divisor of the stride

  __device__ __forceinline__ double scaled(std::int64_t row, double sum) const {
    return row_scale == nullptr ? sum : row_scale[row] * sum;
  }
};

/// Lanes of equal place in a row of x take every (32 / width)-th edge of the task; a tree adds them.
template <class C>
__global__ void __launch_bounds__(128) product_tasks(ProductCall<C> p) {
  const std::int64_t number = warp_id();
  if (number >= p.task_count) return;
  const EdgeTask task = p.tasks[number];
  const TaskRange range = p.row_tasks[task.row];
  const bool whole = range.end - range.begin == 1;
  const int groups = static_cast<int>(kWarp) / p.width;
  const int group = lane_id() / p.width;
  for (std::int64_t block = 0; block < p.stride; block += p.width) {
    const std::int64_t f = block + lane_id() % p.width;
    double sum = 0;
    for (std::int64_t e = task.begin + group; e < task.end; e += groups) {
      const Index j = p.columns[e];
      double value = static_cast<double>(p.x[j * p.stride + f]);
      if (p.col_scale != nullptr) value *= p.col_scale[j];
      if (p.weights != nullptr) value *= p.weights[e];
      sum += value;
    }
    for (int lanes = kWarp / 2; lanes >= p.width; lanes /= 2) sum += shuffle_xor(sum, lanes);
    if (group != 0) continue;
    if (whole) {
      p.y[task.row * p.stride + f] = static_cast<C>(p.scaled(task.row, sum));
    } else {
      p.parts[number * p.stride + f] = sum;
    }
  }
}

/// A thread for each number of a split row.
template <class C>
__global__ void __launch_bounds__(128) product_split_rows(ProductCall<C> p) {
  const std::int64_t i = thread_id() / p.stride;
  const std::int64_t f = thread_id() % p.stride;
  if (i >= p.split_count) return;
  const std::int64_t row = p.split_rows[i];
  const TaskRange range = p.row_tasks[row];
  double sum = 0;
  for (std::int64_t task = range.begin; task < range.end; ++task) sum += p.parts[task * p.stride + f];
  p.y[row * p.stride + f] = static_cast<C>(p.scaled(row, sum));
}

}  // namespace manyhop::ops::cuda
