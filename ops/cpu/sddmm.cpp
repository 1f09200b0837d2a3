#include "manyhop/ops/backends.hpp"
#include "manyhop/ops/cpu/edge_loops.hpp"

namespace manyhop::ops::cpu {

template <class T>
void sddmm(const Context& ctx, const Graph& graph, TensorView<const T> q, TensorView<const T> k, double scale,
           TensorView<const EdgeValue<T>> bias, TensorView<EdgeValue<T>> scores) {
  using E = EdgeValue<T>;
  const DenseInputs<E> inputs(ctx, q, k);
  const E factor = static_cast<E>(scale);
  edge_dots(graph, inputs[0], inputs[1], [&](Offset h, Offset e, Offset count, const E* dots) {
    if (bias.empty()) {
      for (Offset b = 0; b < count; ++b) scores(h, e + b) = factor * dots[b];
      return;
    }
    const Offset bias_head = bias.extent[0] == 1 ? 0 : h;
    for (Offset b = 0; b < count; ++b) scores(h, e + b) = factor * dots[b] + bias(bias_head, e + b);
  });
}

template <class T>
void sddmm_backward(const Context& ctx, const Graph& graph, TensorView<const T> q, TensorView<const T> k,
                    double scale, TensorView<const EdgeValue<T>> g, TensorView<T> dq, TensorView<T> dk,
                    TensorView<EdgeValue<T>> dbias) {
  using E = EdgeValue<T>;
  const DenseInputs<E> inputs(ctx, q, k);
  if (!dq.empty()) weighted_rows(graph, g, inputs[1], scale, dq);
  if (!dk.empty()) weighted_columns(graph, g, inputs[0], scale, dk);
  if (dbias.empty()) return;
  const bool shared = dbias.extent[0] == 1;
  parallel_ranges(graph.nnz(), kEdgeGrain, [&](Offset begin, Offset end) {
    for (Offset e = begin; e < end; ++e) {
      E sum = 0;
      for (Offset h = 0; h < q.extent[0]; ++h) {
        sum += g(h, e);
        if (!shared) dbias(h, e) = g(h, e);
      }
      if (shared) dbias(0, e) = sum;
    }
  });
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

}  // namespace manyhop::ops::cpu
