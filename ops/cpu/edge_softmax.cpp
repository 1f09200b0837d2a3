#include <cmath>
#include <limits>

#include "manyhop/ops/backends.hpp"
#include "manyhop/ops/cpu/edge_loops.hpp"

namespace manyhop::ops::cpu {

namespace {

// Blocks of a row pass through a buffer, so that strided and contiguous views give the same bits.
template <class F>
void for_each_block(const Offset* indptr, Offset i, F&& body) {
  for (Offset e = indptr[i]; e < indptr[i + 1]; e += kEdgeBlock) {
    body(e, std::min(kEdgeBlock, indptr[i + 1] - e));
  }
}

}  // namespace

template <class E>
void edge_softmax(const Context&, const Graph& graph, TensorView<const E> scores, TensorView<E> weights,
                  TensorView<E> lse) {
  constexpr E kInfinity = std::numeric_limits<E>::infinity();
  const RowKernels<E> kernels = row_kernels<E>();
  const Offset* indptr = graph.indptr().data();
  balanced_rows(graph, scores.extent[0], [&](Offset h, Offset begin, Offset end) {
    E block[kEdgeBlock];
    for (Offset i = begin; i < end; ++i) {
      E largest = -kInfinity;
      for_each_block(indptr, i, [&](Offset e, Offset count) {
        for (Offset b = 0; b < count; ++b) block[b] = scores(h, e + b);
        const E found = kernels.largest(block, count);
        largest = found > largest ? found : largest;
      });
      const E shift = largest == -kInfinity ? E{0} : largest;
      double sum = 0;
      for_each_block(indptr, i, [&](Offset e, Offset count) {
        for (Offset b = 0; b < count; ++b) block[b] = scores(h, e + b);
        sum += kernels.exponentials(block, count, shift);
        for (Offset b = 0; b < count; ++b) weights(h, e + b) = block[b];
      });
      const E factor = sum == 0 ? E{0} : static_cast<E>(1 / sum);
      for (Offset e = indptr[i]; e < indptr[i + 1]; ++e) weights(h, e) *= factor;
      if (!lse.empty()) lse(h, i) = static_cast<E>(double{shift} + std::log(sum));
    }
  });
}

template <class E>
void edge_softmax_backward(const Context&, const Graph& graph, TensorView<const E> weights,
                           TensorView<const E> g_weights, TensorView<const E> g_lse, TensorView<E> g_scores) {
  const Offset* indptr = graph.indptr().data();
  balanced_rows(graph, weights.extent[0], [&](Offset h, Offset begin, Offset end) {
    for (Offset i = begin; i < end; ++i) {
      double mean = 0;
      for (Offset e = indptr[i]; e < indptr[i + 1]; ++e) {
        mean += double{weights(h, e)} * double{g_weights(h, e)};
      }
      const double from_lse = g_lse.empty() ? 0 : double{g_lse(h, i)};
      for (Offset e = indptr[i]; e < indptr[i + 1]; ++e) {
        // In double: the difference cancels where the row's gradients agree.
        g_scores(h, e) = static_cast<E>(double{weights(h, e)} * (double{g_weights(h, e)} - mean + from_lse));
      }
    }
  });
}

#define MANYHOP_INSTANTIATE(E)                                                                    \
  template void edge_softmax<E>(const Context&, const Graph&, TensorView<const E>, TensorView<E>, \
                                TensorView<E>);                                                   \
  template void edge_softmax_backward<E>(const Context&, const Graph&, TensorView<const E>,       \
                                         TensorView<const E>, TensorView<const E>, TensorView<E>);
MANYHOP_INSTANTIATE(float)
MANYHOP_INSTANTIATE(double)
#undef MANYHOP_INSTANTIATE

}  // namespace manyhop::ops::cpu
