// Softmax of edge values over the edges of each row.
#pragma once

#include "manyhop/graphs/base/tensor.hpp"
#include "manyhop/graphs/graph.hpp"
#include "manyhop/ops/context.hpp"

namespace manyhop {

/// weights[h, e] = exp(scores[h, e] - lse[h, i]),   lse[h, i] = ln sum_{e in row i} exp(scores[h, e]).
///
/// Shapes   scores and weights [h, m], or both [m]; lse [h, n_rows] ([n_rows] with [m]) or empty. E: float,
/// double. Effects  overwrites weights and lse; weights may be scores itself, any other overlap is not
/// allowed. Cost     h m exponentials; rows run in parallel in chunks of equal work. Edge     a row without
/// edges has lse = -inf; a row whose scores are all -inf has zero weights and lse = -inf.
///          Any finite scores are safe (the row's largest is subtracted first). A NaN or +inf score makes its
///          own row NaN and no other.
/// Throws   ValueError when extents disagree or the backend is not in this build; Interrupted.
/// Order    rows are summed in blocks of fixed size: same bits for any thread count.
template <class E>
void edge_softmax(const Context& ctx, const Graph& graph, TensorView<const E> scores, TensorView<E> weights,
                  TensorView<E> lse = {});

/// g_scores[h, e] = A (g_weights - sum_{row i} A g_weights) + A g_lse[h, i],   A = weights[h, e].
///
/// Shapes   weights, g_weights, g_scores [h, m]; g_lse [h, n_rows] or empty (zero).
/// Effects  overwrites g_scores, which may be g_weights itself.
/// Cost     4 h m flops.
/// Edge     a row of zero weights gets zeros.
template <class E>
void edge_softmax_backward(const Context& ctx, const Graph& graph, TensorView<const E> weights,
                           TensorView<const E> g_weights, TensorView<const E> g_lse, TensorView<E> g_scores);

}  // namespace manyhop
