// Plain loops, sums in double: the definition of correct.
#include <vector>

#include "manyhop/graphs/base/parallel.hpp"
#include "manyhop/ops/backends.hpp"

namespace manyhop::ops::reference {

template <class T>
void spmm(const Context&, const Graph& graph, TensorView<const EdgeValue<T>> weights, TensorView<const T> x,
          TensorView<T> out) {
  const Offset* indptr = graph.indptr().data();
  const Index* indices = graph.indices().data();
  for (Offset h = 0; h < out.extent[0]; ++h) {
    const Offset kv = h / (out.extent[0] / x.extent[0]);
    const Offset w = weights.extent[0] == 1 ? 0 : h;
    for (Offset i = 0; i < graph.n_rows(); ++i) {
      check_stop();
      for (Offset c = 0; c < out.extent[2]; ++c) {
        double sum = 0;
        for (Offset e = indptr[i]; e < indptr[i + 1]; ++e) {
          sum += double{weights(w, e)} * double{widen(x(kv, indices[e], c))};
        }
        out(h, i, c) = narrow<T>(sum);
      }
    }
  }
}

template <class T>
void spmm_backward(const Context&, const Graph& graph, TensorView<const EdgeValue<T>> weights,
                   TensorView<const T> x, TensorView<const T> g, TensorView<EdgeValue<T>> dweights,
                   TensorView<T> dx) {
  const Offset* indptr = graph.indptr().data();
  const Index* indices = graph.indices().data();
  const Offset heads = g.extent[0];
  const Offset group = heads == 0 ? 1 : heads / x.extent[0];
  const Offset width = g.extent[2];
  if (!dweights.empty()) {
    const bool shared = dweights.extent[0] == 1;
    for (Offset i = 0; i < graph.n_rows(); ++i) {
      check_stop();
      for (Offset e = indptr[i]; e < indptr[i + 1]; ++e) {
        double over_heads = 0;
        for (Offset h = 0; h < heads; ++h) {
          double dot = 0;
          for (Offset c = 0; c < width; ++c) {
            dot += double{widen(g(h, i, c))} * double{widen(x(h / group, indices[e], c))};
          }
          over_heads += dot;
          if (!shared) dweights(h, e) = static_cast<EdgeValue<T>>(dot);
        }
        if (shared) dweights(0, e) = static_cast<EdgeValue<T>>(over_heads);
      }
    }
  }
  if (!dx.empty()) {
    std::vector<double> sum(static_cast<std::size_t>(graph.n_cols() * width));
    for (Offset kv = 0; kv < x.extent[0]; ++kv) {
      sum.assign(sum.size(), 0.0);
      for (Offset h = kv * group; h < (kv + 1) * group; ++h) {
        const Offset w = weights.extent[0] == 1 ? 0 : h;
        for (Offset i = 0; i < graph.n_rows(); ++i) {
          check_stop();
          for (Offset e = indptr[i]; e < indptr[i + 1]; ++e) {
            for (Offset c = 0; c < width; ++c) {
              sum[static_cast<std::size_t>(indices[e] * width + c)] +=
                  double{weights(w, e)} * double{widen(g(h, i, c))};
            }
          }
        }
      }
      for (Offset j = 0; j < graph.n_cols(); ++j) {
        for (Offset c = 0; c < width; ++c)
          dx(kv, j, c) = narrow<T>(sum[static_cast<std::size_t>(j * width + c)]);
      }
    }
  }
}

#define MANYHOP_INSTANTIATE(T)                                                                             \
  template void spmm<T>(const Context&, const Graph&, TensorView<const EdgeValue<T>>, TensorView<const T>, \
                        TensorView<T>);                                                                    \
  template void spmm_backward<T>(const Context&, const Graph&, TensorView<const EdgeValue<T>>,             \
                                 TensorView<const T>, TensorView<const T>, TensorView<EdgeValue<T>>,       \
                                 TensorView<T>);
MANYHOP_INSTANTIATE(float)
MANYHOP_INSTANTIATE(double)
MANYHOP_INSTANTIATE(bf16)
#undef MANYHOP_INSTANTIATE

}  // namespace manyhop::ops::reference
