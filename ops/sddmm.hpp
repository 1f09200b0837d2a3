// Sampled dense-dense matrix product: dot products of q and k on the edges of a graph only.
#pragma once

#include "manyhop/graphs/base/tensor.hpp"
#include "manyhop/graphs/graph.hpp"
#include "manyhop/ops/context.hpp"
#include "manyhop/ops/edge_value.hpp"

namespace manyhop {

template <class T>
struct SddmmOptions {
  double scale = 1;  // attention uses 1 / sqrt(d)
  TensorView<const EdgeValue<T>>
      bias{};  // added after scaling: [m] shared by the heads, or [h, m]; may be absent
};

/// scores[h, e] = scale * <q[h, i], k[h', j]> + bias[h, e]   for edge e = (i <- j) in CSR order.
///
/// Shapes   q [h, n_rows, d], k [h_kv, n_cols, d] with h_kv a divisor of h (head a reads k head a / (h /
/// h_kv)),
///          scores [h, m]; any strides, inner stride 1 is fastest; a missing head axis means one head.
///          T: float, bf16 (fp32 sums), double.
/// Effects  overwrites scores, which must not overlap q or k; scratch of the context when an inner stride is
///          not 1 or T is bf16; writes the edges of an implicit graph.
/// Cost     2 h m d flops; edges run in parallel.
/// Edge     m = 0 writes nothing; d = 0 leaves the bias.
/// Throws   ValueError when extents disagree or the backend is not in this build; Interrupted.
/// Order    each value is one sum over d in fixed order: same bits for any thread count.
/// Source   Nisa et al., "Sampled dense matrix multiplication for high-performance machine learning", HiPC
/// 2018.
template <class T>
void sddmm(const Context& ctx, const Graph& graph, TensorView<const T> q, TensorView<const T> k,
           const SddmmOptions<T>& options, TensorView<EdgeValue<T>> scores);

/// Overwritten; an empty view is not computed. bias is [m] (sum over the heads) or [h, m].
template <class T>
struct SddmmGradients {
  TensorView<T> q{}, k{};
  TensorView<EdgeValue<T>> bias{};
};

/// dq[h, i] = scale * sum_j g[h, e] k[h', j],   dk[h', j] = scale * sum_i g[h, e] q[h, i],   dbias = g.
///
/// Shapes   as in sddmm; g [h, m] is the gradient of scores.
/// Effects  overwrites the gradients asked for; builds the graph's transpose when k's is.
/// Cost     2 h m d flops for each of q and k.
/// Edge     rows (columns) without edges get exact zeros.
/// Order    sums run over edges in CSR order in blocks of fixed size: same bits for any thread count.
template <class T>
void sddmm_backward(const Context& ctx, const Graph& graph, TensorView<const T> q, TensorView<const T> k,
                    double scale, TensorView<const EdgeValue<T>> g, const SddmmGradients<T>& gradients);

}  // namespace manyhop
