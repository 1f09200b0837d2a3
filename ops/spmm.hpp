// Sparse times dense: every row adds what its edges send.
#pragma once

#include "manyhop/graphs/base/tensor.hpp"
#include "manyhop/graphs/graph.hpp"
#include "manyhop/ops/context.hpp"
#include "manyhop/ops/edge_value.hpp"

namespace manyhop {

/// out[h, i] = sum over edges e = (i <- j) of weights[h, e] * x[h', j].
///
/// Shapes   weights [h, m], or [m] shared by the heads; x [h_kv, n_cols, d] with h_kv a divisor of h (head a
/// reads
///          x head a / (h / h_kv)); out [h, n_rows, d]; any strides, inner stride 1 is fastest; a missing
///          head axis means one head. T: float, bf16 (fp32 weights and sums), double. The graph's own weights
///          are not read.
/// Effects  overwrites out, which must not overlap x; scratch of the context when an inner stride is not 1 or
/// T is
///          bf16; writes the edges of an implicit graph.
/// Cost     2 h m d flops, reads about h m d values; rows run in parallel in chunks of equal work.
/// Edge     a row without edges is exactly zero.
/// Throws   ValueError when extents disagree or the backend is not in this build; Interrupted.
/// Order    edges in CSR order, in blocks of fixed size whose sums are added in order: same bits for any
/// thread
///          count.
template <class T>
void spmm(const Context& ctx, const Graph& graph, TensorView<const EdgeValue<T>> weights,
          TensorView<const T> x, TensorView<T> out);

/// Overwritten; an empty view is not computed. weights is [m] (sum over the heads) or [h, m].
template <class T>
struct SpmmGradients {
  TensorView<EdgeValue<T>> weights{};
  TensorView<T> x{};
};

/// dweights[h, e] = <g[h, i], x[h', j]>,   dx[h', j] = sum over edges (i <- j) of weights[h, e] * g[h, i].
///
/// Shapes   as in spmm; g [h, n_rows, d] is the gradient of out.
/// Effects  overwrites the gradients asked for; builds the graph's transpose when x's is.
/// Cost     2 h m d flops for each of the two.
/// Edge     a column without edges gets exact zeros.
template <class T>
void spmm_backward(const Context& ctx, const Graph& graph, TensorView<const EdgeValue<T>> weights,
                   TensorView<const T> x, TensorView<const T> g, const SpmmGradients<T>& gradients);

}  // namespace manyhop
