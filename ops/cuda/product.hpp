// Products of a graph with vectors on a CUDA device, for what repeats them: diffusion and eigen-solvers. No
// CUDA type: a build without CUDA links not_compiled.cpp.
#pragma once

#include <cstddef>
#include <memory>

#include "manyhop/ops/graph_spmm.hpp"

namespace manyhop::ops::cuda {

/// y = A x as graph_spmm has it, A in device memory: its edges, weights and scales go there once, x and y
/// with each product.
///
/// Memory   4 bytes an edge, 8 more with weights, 24 a row or 512 edges; x and y beside it. Order   a row's
/// edges are summed in double in one order, rows of many edges in parts that are added in order: the same
/// bits in every run. Errors   ValueError without a device, LimitError without the memory. One caller at a
/// time.
class DeviceProduct {
 public:
  struct Data;
  explicit DeviceProduct(const ScaledGraph& a);

  /// x [n_cols][block_stride(columns)], y [n_rows][block_stride(columns)], on the host.
  template <class C>
  void apply(const C* x, C* y, Offset columns) const;
  std::size_t bytes() const;
  const Data& data() const { return *data_; }

 private:
  std::shared_ptr<Data> data_;
};

}  // namespace manyhop::ops::cuda
