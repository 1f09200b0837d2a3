// A DeviceProduct's arrays, and its product of vectors that lie on the device already.
#pragma once

#include "manyhop/ops/cuda/product.cuh"
#include "manyhop/ops/cuda/product.hpp"
#include "manyhop/ops/cuda/runtime.cuh"

namespace manyhop::ops::cuda {

struct DeviceProduct::Data {
  Offset n_rows = 0;
  Offset n_cols = 0;
  int device = 0;
  DeviceArray<Index> columns, split_rows;
  DeviceArray<EdgeTask> tasks;
  DeviceArray<TaskRange> row_tasks;
  DeviceArray<double> weights, row_scale, col_scale;
  Buffer vectors;  // x, y and the parts of split rows, kept from call to call

  /// Throws ValueError where the call is on another device.
  void require_device() const;
  /// Doubles that launch() wants beside x and y.
  std::int64_t parts(std::int64_t stride) const { return split_rows.size() > 0 ? tasks.size() * stride : 0; }
  /// y = A x for x [n_cols][stride], y [n_rows][stride] on the device.
  template <class C>
  void launch(const C* x, C* y, double* parts, std::int64_t stride, cudaStream_t stream) const;
};

/// Lanes of a warp side by side in a row of `stride` numbers.
inline int lanes_a_row(std::int64_t stride) {
  return stride % 32 == 0 ? 32 : stride % 16 == 0 ? 16 : stride % 8 == 0 ? 8 : 1;
}

}  // namespace manyhop::ops::cuda
