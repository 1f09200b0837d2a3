// SparseK's projection and its derivatives on a CUDA device. No CUDA type; see ops/sparsek.hpp for what they
// compute.
#pragma once

#include <cstddef>
#include <span>

#include "manyhop/graphs/base/types.hpp"
#include "manyhop/ops/cuda/attention.hpp"

namespace manyhop::ops::cuda {

/// Rows of a matrix, or of a flat array cut by offsets (on the host, [rows + 1]).
template <class T>
struct ScoreRows {
  T* data = nullptr;
  Offset row = 0;   // elements between rows; between elements of a flat array where there are offsets
  Offset step = 1;  // elements between scores
};

/// What the rows of a call have in common. Arrays by row lie on the host; `tau` and the gradients by row
/// where the tensors lie.
struct SparsekRows {
  Stream stream{};
  std::size_t memory_limit = 0;
  Offset rows = 0;
  Offset size = 0;  // of each row, where there are no offsets
  std::span<const Offset> offsets{};
  double k = 0;
  std::span<const double> row_k{};
  double temperature = 1;

  Offset scores() const { return offsets.empty() ? rows * size : offsets.back(); }
};

template <class T>
void sparsek(const SparsekRows& call, ScoreRows<const T> z, ScoreRows<T> p, double* tau);

/// out = s (change / temperature - mean over s of that) + s / |s| by_k, with s the entries where 0 < p < 1:
/// the directional derivative, and without by_k the gradient. `means` (of change over s) and `temperatures`
/// (-<out, z> / temperature) by row; null ones are not computed, nor is `out` without data.
template <class T>
void sparsek_derivative(const SparsekRows& call, ScoreRows<const T> p, ScoreRows<const T> change,
                        ScoreRows<T> out, ScoreRows<const T> z, std::span<const double> by_k, double* means,
                        double* temperatures);

}  // namespace manyhop::ops::cuda
