// Plain loops, sums in double: the definition of correct.
#include <vector>

#include "manyhop/graphs/base/parallel.hpp"
#include "manyhop/ops/backends.hpp"

namespace manyhop::ops::reference {

template <class T>
void sddmm(const Context&, const Graph& graph, TensorView<const T> q, TensorView<const T> k, double scale,
           TensorView<const EdgeValue<T>> bias, TensorView<EdgeValue<T>> scores) {
  const Offset* indptr = graph.indptr().data();
  const Index* indices = graph.indices().data();
  for (Offset h = 0; h < q.extent[0]; ++h) {
    const Offset kv = h / (q.extent[0] / k.extent[0]);
    for (Offset i = 0; i < graph.n_rows(); ++i) {
      check_stop();
      for (Offset e = indptr[i]; e < indptr[i + 1]; ++e) {
        double dot = 0;
        for (Offset c = 0; c < q.extent[2]; ++c) {
          dot += double{widen(q(h, i, c))} * double{widen(k(kv, indices[e], c))};
        }
        const double added = bias.empty() ? 0 : double{bias(bias.extent[0] == 1 ? 0 : h, e)};
        scores(h, e) = static_cast<EdgeValue<T>>(scale * dot + added);
      }
    }
  }
}

template <class T>
void sddmm_backward(const Context&, const Graph& graph, TensorView<const T> q, TensorView<const T> k,
                    double scale, TensorView<const EdgeValue<T>> g, TensorView<T> dq, TensorView<T> dk,
                    TensorView<EdgeValue<T>> dbias) {
  const Offset* indptr = graph.indptr().data();
  const Index* indices = graph.indices().data();
  const Offset heads = q.extent[0];
  const Offset group = heads == 0 ? 1 : heads / k.extent[0];
  const Offset width = q.extent[2];
  if (!dq.empty()) {
    for (Offset h = 0; h < heads; ++h) {
      for (Offset i = 0; i < graph.n_rows(); ++i) {
        check_stop();
        for (Offset c = 0; c < width; ++c) {
          double sum = 0;
          for (Offset e = indptr[i]; e < indptr[i + 1]; ++e) {
            sum += double{g(h, e)} * double{widen(k(h / group, indices[e], c))};
          }
          dq(h, i, c) = narrow<T>(scale * sum);
        }
      }
    }
  }
  if (!dk.empty()) {
    std::vector<double> sum(static_cast<std::size_t>(graph.n_cols() * width));
    for (Offset kv = 0; kv < k.extent[0]; ++kv) {
      sum.assign(sum.size(), 0.0);
      for (Offset h = kv * group; h < (kv + 1) * group; ++h) {
        for (Offset i = 0; i < graph.n_rows(); ++i) {
          check_stop();
          for (Offset e = indptr[i]; e < indptr[i + 1]; ++e) {
            for (Offset c = 0; c < width; ++c) {
              sum[static_cast<std::size_t>(indices[e] * width + c)] +=
                  double{g(h, e)} * double{widen(q(h, i, c))};
            }
          }
        }
      }
      for (Offset j = 0; j < graph.n_cols(); ++j) {
        for (Offset c = 0; c < width; ++c)
          dk(kv, j, c) = narrow<T>(scale * sum[static_cast<std::size_t>(j * width + c)]);
      }
    }
  }
  if (!dbias.empty()) {
    const bool shared = dbias.extent[0] == 1;
    for (Offset e = 0; e < graph.nnz(); ++e) {
      double sum = 0;
      for (Offset h = 0; h < heads; ++h) {
        sum += double{g(h, e)};
        if (!shared) dbias(h, e) = g(h, e);
      }
      if (shared) dbias(0, e) = static_cast<EdgeValue<T>>(sum);
    }
  }
}

#define MANYHOP_INSTANTIATE(T)                                                                            \
  template void sddmm<T>(const Context&, const Graph&, TensorView<const T>, TensorView<const T>, double,  \
                         TensorView<const EdgeValue<T>>, TensorView<EdgeValue<T>>);                       \
  template void sddmm_backward<T>(const Context&, const Graph&, TensorView<const T>, TensorView<const T>, \
                                  double, TensorView<const EdgeValue<T>>, TensorView<T>, TensorView<T>,   \
                                  TensorView<EdgeValue<T>>);
MANYHOP_INSTANTIATE(float)
MANYHOP_INSTANTIATE(double)
MANYHOP_INSTANTIATE(bf16)
#undef MANYHOP_INSTANTIATE

}  // namespace manyhop::ops::reference
