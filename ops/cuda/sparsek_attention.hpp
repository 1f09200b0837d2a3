// SparseK attention and its gradients on a CUDA device, for all heads of a call. No CUDA type; see
// engine/sparsek/attention.hpp for what it computes.
#pragma once

#include <cstddef>
#include <cstdint>

#include "manyhop/graphs/base/tensor.hpp"
#include "manyhop/graphs/base/types.hpp"
#include "manyhop/ops/cuda/attention.hpp"

namespace manyhop::ops::cuda {

/// Tensors have rank 4 and the extents of the call, scores rank 3. Where the call has a stream they lie on
/// the device.
template <class T>
struct SparsekCall {
  Stream stream{};
  std::size_t memory_limit = 0;  // bytes of device memory; 0: what is free
  Offset batch = 1;
  int heads = 1;
  int kv_heads = 1;
  int score_heads = 1;
  Offset n = 0;
  int d = 0;
  int d_value = 0;
  TensorView<const T> q, k, v;
  TensorView<const EdgeValue<T>> scores;
  double keys = 0;  // of a row, as gates add up
  Offset cap = 0;   // keys of a row at most: `n` for all of them
  double temperature = 1;
  Offset window = 0;
  Offset sinks = 0;
  bool gate_scores = false;  // else values
  int hops = 1;
  double teleport = 0;
  double scale = 1;
  // Of sums that panels of rows leave for their keys, at a time; at least one panel's. Bits depend on it.
  std::int64_t part_bytes = std::int64_t{1} << 28;
};

/// Of all batch items and score heads. Where a score is NaN nothing else is computed.
struct SparsekCounts {
  Offset selected = 0;
  Offset capped_rows = 0;
  Offset nan_row = -1;  // the first row with one, in the first score head that has one
};

template <class T>
struct SparsekGradients {
  TensorView<const T> g;
  TensorView<T> q, k, v;  // empty ones are not computed
  TensorView<EdgeValue<T>> scores;
};

/// Waits for the device once, when the keys have been selected; and for the result where tensors are on the
/// host. A stream that is being captured is refused (ValueError). All heads run together: memory is O(heads
/// n) rows beside the lists of keys, K + 2 times that for gradients, whose parts by panel take less where the
/// limit wants it. The gradients' sums are in the order of heads and panels of rows: the same bits in every
/// run.
template <class T>
SparsekCounts sparsek_attention(const SparsekCall<T>& call, TensorView<T> out, TensorView<float> lse);
template <class T>
SparsekCounts sparsek_attention_backward(const SparsekCall<T>& call, const SparsekGradients<T>& gradients);

}  // namespace manyhop::ops::cuda
