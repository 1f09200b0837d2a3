// The inner loops of the unfused operators, for the best instruction set of the machine. E: float, double.
#pragma once

#include "manyhop/graphs/base/types.hpp"

namespace manyhop::ops::cpu {

/// Sums are made in blocks of this many edges, whose results are added in order: the error of a long row
/// grows with the square root of its length only between blocks, and the order does not depend on who
/// computes it.
inline constexpr Offset kEdgeBlock = 128;

template <class E>
struct RowKernels {
  /// sums[c] += sum over e < count of w[e] * x[cols[e] * stride + c], c < width. count <= kEdgeBlock.
  void (*add_weighted)(const E* w, const Index* cols, Offset count, const E* x, Offset stride, Offset width,
                       E* sums);
  /// out[e] = <q, x + cols[e] * stride>, e < count.
  void (*dots)(const E* q, const E* x, Offset stride, const Index* cols, Offset count, Offset width, E* out);
  /// Largest of values; a NaN among them may be skipped. count >= 1.
  E (*largest)(const E* values, Offset count);
  /// values[e] = exp(values[e] - shift), and their sum. NaN stays NaN.
  double (*exponentials)(E* values, Offset count, E shift);
};

template <class E>
RowKernels<E> row_kernels();

}  // namespace manyhop::ops::cpu
