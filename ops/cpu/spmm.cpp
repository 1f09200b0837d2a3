#include "manyhop/ops/backends.hpp"
#include "manyhop/ops/cpu/edge_loops.hpp"

namespace manyhop::ops::cpu {

template <class T>
void spmm(const Context& ctx, const Graph& graph, TensorView<const EdgeValue<T>> weights,
          TensorView<const T> x, TensorView<T> out) {
  const DenseInputs<EdgeValue<T>> inputs(ctx, x);
  weighted_rows(graph, weights, inputs[0], 1, out);
}

template <class T>
void spmm_backward(const Context& ctx, const Graph& graph, TensorView<const EdgeValue<T>> weights,
                   TensorView<const T> x, TensorView<const T> g, TensorView<EdgeValue<T>> dweights,
                   TensorView<T> dx) {
  using E = EdgeValue<T>;
  const DenseInputs<E> inputs(ctx, x, g);
  if (!dx.empty()) weighted_columns(graph, weights, inputs[1], 1, dx);
  if (dweights.empty()) return;
  const bool shared = dweights.extent[0] == 1;
  if (g.extent[0] == 0) {  // a sum over no heads
    for (Offset e = 0; e < dweights.extent[0] * graph.nnz(); ++e) dweights(0, e) = 0;
  }
  edge_dots(graph, inputs[1], inputs[0], [&](Offset h, Offset e, Offset count, const E* dots) {
    for (Offset b = 0; b < count; ++b) {
      E& value = dweights(shared ? 0 : h, e + b);
      value = shared && h > 0 ? value + dots[b] : dots[b];
    }
  });
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

}  // namespace manyhop::ops::cpu
