// SparseK attention: each query attends to the keys that causal sparsek keeps for it, to its window and to
// the sinks; the gates let gradients reach the scores that chose the keys.
//
//   A = softmax over the row's keys of scale q_i . k_j,  gate on values: W = A g,  on scores: W = A g / sum A
//   g Z_0 = V,  Z_{t+1} = (1 - a) W Z_t + a V,  out = Z_K
//
// g = 1 for keys of the window and sinks, else the gate p_j^(i) of CausalSelection.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "manyhop/engine/sparsek/selection.hpp"
#include "manyhop/graphs/base/tensor.hpp"
#include "manyhop/ops/context.hpp"
#include "manyhop/ops/edge_value.hpp"

namespace manyhop {

enum class Gate : std::uint8_t { values, scores };

struct SparsekAttentionOptions {
  CausalOptions select{};
  Join join{};
  Gate gate = Gate::values;
  int hops = 1;
  double teleport = 0;
  std::optional<double> scale{};  // 1 / sqrt(d) when absent
  TensorView<float> lse{};  // out: [b, h, n], natural log of the sum of (gated, where gates are on scores)
                            // exponentials; -inf for a row without keys
};

/// What was selected, of all batch items and score heads together.
struct SparsekAttentionInfo {
  Offset selected = 0;     // keys with a gate, over all rows
  Offset capped_rows = 0;  // rows whose gates the cap has changed
};

/// q [b, h, n, d], k [b, h_kv, n, d], v [b, h_kv, n, d_v], out [b, h, n, d_v]; scores [b, h_s, n] with h_s a
/// divisor of h (head a follows scores a / (h / h_s)); a missing batch axis is a batch of one. h_kv divides
/// h. T: float, bf16 (fp32 arithmetic), double.
///
/// Cost     h edges 2 (d + d_v) flops a hop; one head at a time, its rows in parallel. The selection is
///          held as it changes, 20 bytes a token of a score head, never row by row.
/// Edge     a row without keys (k = 0 or masked scores, window = 0, no sinks) is 0 after one hop, a V_i with
///          teleport a. hops = 0 returns V.
/// cuda     heads of up to 256 features; all in one launch, weights made again in each hop. Lists of keys
///          take n / 32 times what a row keeps. Waits once, for the selection. In bf16 a value that is not
///          finite reaches the rows of its panel of 32.
/// Throws   ValueError for shapes that disagree, a NaN score (naming the token), a bad k or cap; LimitError;
///          Interrupted.   Order: same bits for any thread count.
template <class T>
SparsekAttentionInfo sparsek_attention(const Context& ctx, TensorView<const T> q, TensorView<const T> k,
                                       TensorView<const T> v, TensorView<const EdgeValue<T>> scores,
                                       TensorView<T> out, const SparsekAttentionOptions& options = {});

/// Overwritten; empty ones are not computed.
template <class T>
struct SparsekAttentionGradients {
  TensorView<T> q{}, k{}, v{};
  TensorView<EdgeValue<T>> scores{};
};

/// Gradients of sum(out * g). To the scores through every gate and threshold: row i gives its keys with
/// 0 < p < 1 the gradient of the gate less its mean over them (over the temperature).
/// Cost     three times the forward pass, which it runs again; Z of all hops of one head is held.
template <class T>
void sparsek_attention_backward(const Context& ctx, TensorView<const T> q, TensorView<const T> k,
                                TensorView<const T> v, TensorView<const EdgeValue<T>> scores,
                                TensorView<const T> g, const SparsekAttentionGradients<T>& gradients,
                                const SparsekAttentionOptions& options = {});

}  // namespace manyhop
