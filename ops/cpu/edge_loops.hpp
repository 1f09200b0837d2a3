// The three loops that the unfused operators and their gradients are made of: dot products on edges, weighted
// sums of rows, weighted sums of columns. Work is cut by edges, never by threads.
#pragma once

#include <fmt/format.h>

#include <algorithm>
#include <type_traits>
#include <vector>

#include "manyhop/graphs/base/error.hpp"
#include "manyhop/graphs/base/parallel.hpp"
#include "manyhop/graphs/base/tensor.hpp"
#include "manyhop/graphs/graph.hpp"
#include "manyhop/ops/context.hpp"
#include "manyhop/ops/cpu/row_kernels.hpp"
#include "manyhop/ops/edge_value.hpp"

namespace manyhop::ops::cpu {

inline constexpr Offset kEdgeGrain = 4096;  // edges of a task

/// A dense input as the kernels want it: [heads, rows, width] with inner stride 1.
template <class E>
struct DenseRows {
  const E* data = nullptr;
  Offset heads = 0;
  Offset width = 0;
  Offset head_stride = 0;
  Offset row_stride = 0;
  const E* head(Offset h) const { return data + h * head_stride; }
  const E* row(Offset h, Offset i) const { return data + h * head_stride + i * row_stride; }
};

/// Views that can be read in place are; others (bf16, inner stride not 1) are copied to the context's
/// workspace.
template <class E>
class DenseInputs {
 public:
  template <class... T>
  DenseInputs(const Context& ctx, TensorView<const T>... views) {
    const std::size_t bytes = (std::size_t{0} + ... + bytes_of(views));
    if (bytes > ctx.limit()) {
      throw LimitError(
          fmt::format("memory limit: packing the inputs takes {} bytes, the limit is {}; give float or "
                      "double views whose inner stride is 1",
                      bytes, ctx.limit()));
    }
    if (bytes > 0) cursor_ = ctx.workspace.reserve(bytes);
    (rows_.push_back(rows_of(views)), ...);
  }
  const DenseRows<E>& operator[](std::size_t i) const { return rows_[i]; }

 private:
  template <class T>
  static bool in_place(TensorView<const T> view) {
    return std::is_same_v<T, E> && (view.stride[2] == 1 || view.extent[2] <= 1);
  }
  template <class T>
  static std::size_t bytes_of(TensorView<const T> view) {
    return in_place(view) ? 0 : (static_cast<std::size_t>(view.size()) * sizeof(E) + 63) / 64 * 64;
  }
  template <class T>
  DenseRows<E> rows_of(TensorView<const T> view) {
    if constexpr (std::is_same_v<T, E>) {
      if (in_place(view)) return {view.data, view.extent[0], view.extent[2], view.stride[0], view.stride[1]};
    }
    const auto [heads, rows, width, unused] = view.extent;
    E* copy = reinterpret_cast<E*>(cursor_);
    cursor_ += bytes_of(view);
    parallel_ranges(heads * rows, 64, [&, rows = rows, width = width](Offset begin, Offset end) {
      for (Offset r = begin; r < end; ++r) {
        for (Offset c = 0; c < width; ++c) copy[r * width + c] = widen(view(r / rows, r % rows, c));
      }
    });
    return {copy, heads, width, rows * width, width};
  }

  std::vector<DenseRows<E>> rows_;
  std::byte* cursor_ = nullptr;
};

/// body(begin, end) over rows in chunks of about kEdgeGrain edges and rows together.
template <class F>
void balanced_rows(const Graph& graph, Offset heads, F&& body) {
  const Offset* indptr = graph.indptr().data();
  const Offset n = graph.n_rows();
  const auto first_from = [&](Offset work) {
    Offset low = 0;
    Offset high = n;
    while (low < high) {
      const Offset middle = low + (high - low) / 2;
      if (indptr[middle] + middle < work) {
        low = middle + 1;
      } else {
        high = middle;
      }
    }
    return low;
  };
  const Offset chunks = (n + graph.nnz() + kEdgeGrain - 1) / kEdgeGrain;
  parallel_for(heads * chunks, [&](Offset task) {
    const Offset chunk = task % chunks;
    body(task / chunks, first_from(chunk * kEdgeGrain), first_from((chunk + 1) * kEdgeGrain));
  });
}

/// store(h, e, count, values): values[x] = <a[h, i], b[h / group, j]> of edges e .. e + count - 1; for one e,
/// heads come in increasing order on one thread.
template <class E, class F>
void edge_dots(const Graph& graph, const DenseRows<E>& a, const DenseRows<E>& b, F&& store) {
  if (a.heads == 0) return;
  const RowKernels<E> kernels = row_kernels<E>();
  const auto indptr = graph.indptr();
  const Index* indices = graph.indices().data();
  const Offset group = a.heads / b.heads;
  parallel_ranges(graph.nnz(), kEdgeGrain, [&](Offset begin, Offset end) {
    const Offset first = std::upper_bound(indptr.begin(), indptr.end(), begin) - indptr.begin() - 1;
    E values[kEdgeBlock];
    for (Offset h = 0; h < a.heads; ++h) {
      const Offset* row_end = indptr.data() + first + 1;
      for (Offset e = begin; e < end;) {
        while (*row_end <= e) ++row_end;
        const Offset i = row_end - indptr.data() - 1;
        const Offset count = std::min({kEdgeBlock, *row_end - e, end - e});
        kernels.dots(a.row(h, i), b.head(h / group), b.row_stride, indices + e, count, a.width, values);
        store(h, e, count, values);
        e += count;
      }
    }
  });
}

/// out[h, i] = scale * sum over edges (i <- j) of w[h, e] x[h / group, j].
template <class T, class E = EdgeValue<T>>
void weighted_rows(const Graph& graph, TensorView<const E> w, const DenseRows<E>& x, double scale,
                   TensorView<T> out) {
  const Offset heads = out.extent[0];
  if (heads == 0) return;
  const RowKernels<E> kernels = row_kernels<E>();
  const Offset* indptr = graph.indptr().data();
  const Index* indices = graph.indices().data();
  const Offset group = heads / x.heads;
  balanced_rows(graph, heads, [&](Offset h, Offset begin, Offset end) {
    const Offset w_head = w.extent[0] == 1 ? 0 : h;
    std::vector<E> sums(static_cast<std::size_t>(x.width));
    E block[kEdgeBlock];
    for (Offset i = begin; i < end; ++i) {
      std::fill(sums.begin(), sums.end(), E{0});
      for (Offset e = indptr[i]; e < indptr[i + 1]; e += kEdgeBlock) {
        const Offset count = std::min(kEdgeBlock, indptr[i + 1] - e);
        for (Offset b = 0; b < count; ++b) block[b] = w(w_head, e + b);
        kernels.add_weighted(block, indices + e, count, x.head(h / group), x.row_stride, x.width,
                             sums.data());
      }
      for (Offset c = 0; c < x.width; ++c) {
        out(h, i, c) = narrow<T>(static_cast<E>(scale) * sums[static_cast<std::size_t>(c)]);
      }
    }
  });
}

/// out[kv, j] = scale * sum over heads h of the group and edges (i <- j) of w[h, e] g[h, i].
template <class T, class E = EdgeValue<T>>
void weighted_columns(const Graph& graph, TensorView<const E> w, const DenseRows<E>& g, double scale,
                      TensorView<T> out) {
  const Offset kv_heads = out.extent[0];
  if (kv_heads == 0) return;
  const RowKernels<E> kernels = row_kernels<E>();
  const Graph& transpose = graph.transpose();
  const Offset* indptr = graph.indptr().data();
  const Index* indices = graph.indices().data();
  const Offset* starts = transpose.indptr().data();
  const Index* receivers = transpose.indices().data();
  const Offset group = g.heads / kv_heads;
  balanced_rows(transpose, 1, [&](Offset, Offset begin, Offset end) {
    std::vector<E> sums(static_cast<std::size_t>(g.width));
    std::vector<Offset> positions;
    E block[kEdgeBlock];
    for (Offset j = begin; j < end; ++j) {
      // Where the edges of column j are in CSR order; found once for all heads.
      const Offset first = starts[j];
      const Offset degree = starts[j + 1] - first;
      positions.resize(static_cast<std::size_t>(degree));
      for (Offset t = 0; t < degree; ++t) {
        const Index i = receivers[first + t];
        positions[static_cast<std::size_t>(t)] =
            std::lower_bound(indices + indptr[i], indices + indptr[i + 1], static_cast<Index>(j)) - indices;
      }
      for (Offset kv = 0; kv < kv_heads; ++kv) {
        std::fill(sums.begin(), sums.end(), E{0});
        for (Offset h = kv * group; h < (kv + 1) * group; ++h) {
          const Offset w_head = w.extent[0] == 1 ? 0 : h;
          for (Offset t = 0; t < degree; t += kEdgeBlock) {
            const Offset count = std::min(kEdgeBlock, degree - t);
            for (Offset b = 0; b < count; ++b) {
              block[b] = w(w_head, positions[static_cast<std::size_t>(t + b)]);
            }
            kernels.add_weighted(block, receivers + first + t, count, g.head(h), g.row_stride, g.width,
                                 sums.data());
          }
        }
        for (Offset c = 0; c < g.width; ++c) {
          out(kv, j, c) = narrow<T>(static_cast<E>(scale) * sums[static_cast<std::size_t>(c)]);
        }
      }
    }
  });
}

}  // namespace manyhop::ops::cpu
