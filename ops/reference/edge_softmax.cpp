// Plain loops, sums in double: the definition of correct.
#include <cmath>
#include <limits>

#include "manyhop/graphs/base/parallel.hpp"
#include "manyhop/ops/backends.hpp"

namespace manyhop::ops::reference {

template <class E>
void edge_softmax(const Context&, const Graph& graph, TensorView<const E> scores, TensorView<E> weights,
                  TensorView<E> lse) {
  constexpr double kInfinity = std::numeric_limits<double>::infinity();
  const Offset* indptr = graph.indptr().data();
  for (Offset h = 0; h < scores.extent[0]; ++h) {
    for (Offset i = 0; i < graph.n_rows(); ++i) {
      check_stop();
      double largest = -kInfinity;
      for (Offset e = indptr[i]; e < indptr[i + 1]; ++e) {
        const double score = scores(h, e);
        if (!(score <= largest)) largest = score;  // a NaN is taken and stays
      }
      // All edges masked by -inf: nothing is received, as in a row without edges.
      const double shift = largest == -kInfinity ? 0 : largest;
      double sum = 0;
      for (Offset e = indptr[i]; e < indptr[i + 1]; ++e) sum += std::exp(scores(h, e) - shift);
      for (Offset e = indptr[i]; e < indptr[i + 1]; ++e) {
        weights(h, e) = sum == 0 ? E{0} : static_cast<E>(std::exp(scores(h, e) - shift) / sum);
      }
      if (!lse.empty()) lse(h, i) = static_cast<E>(shift + std::log(sum));
    }
  }
}

template <class E>
void edge_softmax_backward(const Context&, const Graph& graph, TensorView<const E> weights,
                           TensorView<const E> g_weights, TensorView<const E> g_lse, TensorView<E> g_scores) {
  const Offset* indptr = graph.indptr().data();
  for (Offset h = 0; h < weights.extent[0]; ++h) {
    for (Offset i = 0; i < graph.n_rows(); ++i) {
      check_stop();
      double mean = 0;
      for (Offset e = indptr[i]; e < indptr[i + 1]; ++e) {
        mean += double{weights(h, e)} * double{g_weights(h, e)};
      }
      const double from_lse = g_lse.empty() ? 0 : double{g_lse(h, i)};
      for (Offset e = indptr[i]; e < indptr[i + 1]; ++e) {
        g_scores(h, e) = static_cast<E>(weights(h, e) * (g_weights(h, e) - mean + from_lse));
      }
    }
  }
}

#define MANYHOP_INSTANTIATE(E)                                                                    \
  template void edge_softmax<E>(const Context&, const Graph&, TensorView<const E>, TensorView<E>, \
                                TensorView<E>);                                                   \
  template void edge_softmax_backward<E>(const Context&, const Graph&, TensorView<const E>,       \
                                         TensorView<const E>, TensorView<const E>, TensorView<E>);
MANYHOP_INSTANTIATE(float)
MANYHOP_INSTANTIATE(double)
#undef MANYHOP_INSTANTIATE

}  // namespace manyhop::ops::reference
