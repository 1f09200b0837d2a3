// The normalised matrix A of a diffusion, with its dangling rows or columns, as a product y = A x and y = A^T
// x.
#pragma once

#include <optional>
#include <vector>

#include "manyhop/engine/diffusion.hpp"
#include "manyhop/ops/cuda/signals.hpp"
#include "manyhop/ops/graph_spmm.hpp"

namespace manyhop::diffusion {

/// Norms in which residuals and bounds are measured, column by column.
enum class Norm : std::uint8_t { max, one, two };

template <class T>
class Walk {
 public:
  /// Checks the graph, the weights and the combination; x [n][stride] is kept (restart reads it).
  /// Throws ValueError naming the entry.
  Walk(const Context& ctx, const Graph& graph, const DiffuseOptions& options);

  Offset size() const { return graph_.n_rows(); }
  Norm norm() const { return norm_; }
  /// ||A|| in that norm: at most 1, or for `none` the largest absolute row sum.
  double strength() const { return strength_; }

  /// A and A^T on the device, put there by the first call; and what the empty rows or columns of A give.
  const ops::cuda::DeviceProduct& device() const;
  const ops::cuda::DeviceProduct& device_transposed() const;
  ops::cuda::EmptyLines empty_lines() const;

  /// The block that `restart` returns to; needs x >= 0. Throws ValueError naming the first negative entry.
  void start(const T* x, Offset columns);
  void apply(const T* x, T* y) const;
  void apply_transposed(const T* x, T* y) const;

  /// dx += the part of factor d<g, A(x0) z> that goes through x0 (restart only).
  void restart_gradient(const T* g, const T* z, double factor, T* dx) const;

  /// The weights that sums and scales belong to are the graph's times this power of two.
  double weight_unit() const { return weight_unit_; }
  /// Throws ValueError naming s unless (1 - teleport) ||A|| < 1, which normalization none can miss.
  void require_contraction() const;

  const std::vector<double>& row_sums() const { return row_sums_; }
  const std::vector<double>& col_sums() const { return col_sums_; }
  const std::vector<double>& row_scale() const { return row_scale_; }
  const std::vector<double>& col_scale() const { return col_scale_; }
  Offset stride() const { return ops::block_stride(columns_); }
  Offset columns() const { return columns_; }
  const Graph& graph() const { return graph_; }

 private:
  ops::ScaledGraph scaled() const;
  ops::ScaledGraph scaled_transposed() const;
  void rescale_weights();
  void sums();
  std::vector<double> dangling_sum(const T* x) const;  // by column of x
  std::vector<double> all_sum(const T* x) const;

  Graph graph_;
  DiffuseOptions options_;
  Backend backend_;
  Norm norm_ = Norm::max;
  double strength_ = 1;
  double weight_unit_ = 1;
  bool by_runs_ = false;
  std::vector<double> row_sums_, col_sums_;    // of weights
  std::vector<double> row_scale_, col_scale_;  // empty: 1
  std::vector<Index> dangling_;  // rows (row) or columns (col) whose sum is 0 and that are not left zero
  mutable std::optional<ops::cuda::DeviceProduct> device_, device_transposed_;
  Offset columns_ = 0;
  const T* x0_ = nullptr;
  std::vector<double> x0_sum_;
};

/// Norm of each column of a - b (b may be null).
template <class T>
std::vector<double> column_norms(Norm norm, const T* a, const T* b, Offset n, Offset columns);

}  // namespace manyhop::diffusion
