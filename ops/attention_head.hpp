// One fused attention head: scores, softmax and K hops of diffusion for one (batch item, head), forward and
// backward.
//
//   A = softmax over the edges of a row of (scale q_i . k_j + bias), dropout on A once
//   Z_0 = V,  Z_{t+1} = (1 - a) A Z_t + a V (dropout in every hop),  out = Z_K
//
// The reference loops and the CPU kernels implement the same declarations; the engine cuts calls into heads.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "manyhop/graphs/base/tensor.hpp"
#include "manyhop/graphs/graph.hpp"
#include "manyhop/graphs/tiling.hpp"
#include "manyhop/ops/dropout.hpp"

namespace manyhop::ops {

/// The arithmetic type behind a storage type.
template <class T>
struct Compute {
  using Type = float;
};
template <>
struct Compute<double> {
  using Type = double;
};
template <class T>
using ComputeOf = typename Compute<T>::Type;

enum class HeadBackward : std::uint8_t { stored, checkpointed, implicit };

/// What one head is given. Views are [n, width] with any strides. Rows at or past n_rows and columns at or
/// past n_cols (sequence lengths) are never read.
template <class T>
struct HeadInput {
  const Graph* graph = nullptr;
  const Tiling* tiling = nullptr;  // of the graph, cut to n_rows x n_cols
  const RestByColumn* by_column =
      nullptr;  // of the tiling; the backward pass is faster with it, bits the same
  // Of a reordered graph: the token at each of its vertices, and the place of each of its edges in the edge
  // order of bias and weights. Null: as they come.
  const Index* order = nullptr;
  const Offset* edges = nullptr;
  Offset n_rows = 0;
  Offset n_cols = 0;
  Offset d = 0;
  Offset d_value = 0;
  TensorView<const T> q, k, v;
  int hops = 1;
  double teleport = 0;
  double scale = 1;
  const ComputeOf<T>* bias = nullptr;  // [m] in CSR order
  Dropout edge_dropout;
  Dropout hop_dropout;
  std::uint64_t seed = 0;
  Offset batch = 0;
  Offset head = 0;

  Offset token(Offset vertex) const { return order == nullptr ? vertex : order[vertex]; }
  Offset edge(Offset e) const { return edges == nullptr ? e : edges[e]; }
};

template <class T>
struct HeadOutput {
  TensorView<T> out;                // [n_rows, d_value]
  TensorView<ComputeOf<T>> lse;     // [n_rows], or empty
  ComputeOf<T>* weights = nullptr;  // [m] in CSR order, or null
};

/// Gradients of sum(out g) + sum(lse g_lse). Heads that share k and v (grouped queries) are given one after
/// the other: `first` clears the sums for k and v, `last` writes them.
template <class T>
struct HeadGradient {
  TensorView<const T> g;                 // [n_rows, d_value]
  TensorView<const ComputeOf<T>> g_lse;  // [n_rows], or empty
  TensorView<T> q, k, v;                 // empty ones are not written
  ComputeOf<T>* bias = nullptr;          // [m], added to
  double* teleport = nullptr;            // added to
  HeadBackward mode = HeadBackward::stored;
  bool first = true;
  bool last = true;
  bool own_order = false;  // heads that share k and v come with orders of their own (HeadInput::order)
};

/// The shape that sizes scratch memory.
struct HeadShape {
  Offset n_rows = 0;
  Offset n_cols = 0;
  Offset d = 0;
  Offset d_value = 0;
  int hops = 1;
  Offset value_count = 0;  // of the largest tiling
  Offset max_panel_values = 0;
  Offset max_panel_cols = 0;
  bool irregular = false;  // some tiling has single edges
  bool scattered = false;  // in some they are an eighth of the values or more
  Offset by_column = 0;    // most single edges of a tiling that comes with RestByColumn
  bool backward = false;
  bool shared = false;  // heads share k and v
  HeadBackward mode = HeadBackward::stored;
  bool kept = false;   // A and Z lie in memory that outlives the forward pass
  bool exact = false;  // gradients may follow: Z keeps the type of the arithmetic
  bool half = false;   // bf16 storage: V and Z are bf16 too, with sums in fp32; not where gradients follow
  bool dense = false;  // tiles would save more than they cost where gradients follow, too
  bool tiles = false;  // of bf16: dense columns by tiles, all factors rounded to bf16, sums in fp32

  /// Grows to what heads over this tiling need.
  void cover(const Tiling& tiling) {
    value_count = std::max(value_count, tiling.value_count);
    max_panel_values = std::max(max_panel_values, tiling.max_panel_values);
    max_panel_cols = std::max(max_panel_cols, tiling.max_panel_cols);
    irregular |= tiling.irregular_edges > 0;
    scattered |= tiling.irregular_edges > tiling.value_count / 8;
  }
};

/// Scratch memory of a head and how its loops run.
struct HeadResources {
  HeadShape shape;              // what sized the memory; at least what the head needs
  std::byte* memory = nullptr;  // head_bytes(...) bytes, 64-byte aligned; one for each head in flight
  std::byte* panels = nullptr;  // `threads` blocks of panel_bytes(...)
  std::byte* kept = nullptr;    // kept_bytes(...) bytes of this head: a forward pass fills, a backward reads
  int threads = 1;              // 1: serial inside this head; more: panels and features run in parallel
  bool stored = true;           // A is kept between hops; else it is computed again in each (same bits)
};

namespace reference {
template <class T>
void attention_head(const HeadInput<T>& in, const HeadOutput<T>& out);
/// dk and dv carry the sums over heads that share k and v.
template <class T>
void attention_head_backward(const HeadInput<T>& in, const HeadGradient<T>& gradient, std::vector<double>& dk,
                             std::vector<double>& dv);
}  // namespace reference

namespace cpu {
/// `parallel`: of a head that runs on several threads.
template <class C>
std::size_t head_bytes(const HeadShape& shape, bool stored, bool parallel);
/// What the forward pass of a head may leave for the backward pass: A and Z_1 .. Z_{K-1}.
template <class C>
std::size_t kept_bytes(const HeadShape& shape);
template <class C>
std::size_t panel_bytes(const HeadShape& shape);
template <class T>
void attention_head(const HeadInput<T>& in, const HeadOutput<T>& out, const HeadResources& resources);
template <class T>
void attention_head_backward(const HeadInput<T>& in, const HeadGradient<T>& gradient,
                             const HeadResources& resources);
}  // namespace cpu

}  // namespace manyhop::ops
