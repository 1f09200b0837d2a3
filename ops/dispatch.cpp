// Checks shapes at the public boundary and holds the only switch on the backend.
#include <fmt/format.h>

#include <string_view>

#include "manyhop/graphs/base/error.hpp"
#include "manyhop/graphs/base/parallel.hpp"
#include "manyhop/ops/backends.hpp"
#include "manyhop/ops/edge_softmax.hpp"
#include "manyhop/ops/sddmm.hpp"
#include "manyhop/ops/spmm.hpp"
#include "manyhop/ops/tensor_checks_internal.hpp"

namespace manyhop {

namespace {

using ops::check_data;
using ops::shape_text;

// A missing head axis is one head.
template <class T>
TensorView<T> with_heads(TensorView<T> view, int rank) {
  if (view.rank != rank - 1) return view;
  for (auto axis = static_cast<std::size_t>(rank - 1); axis > 0; --axis) {
    view.extent[axis] = view.extent[axis - 1];
    view.stride[axis] = view.stride[axis - 1];
  }
  view.extent[0] = 1;
  view.stride[0] = 0;
  view.rank = rank;
  return view;
}

template <class T>
TensorView<T> dense(std::string_view op, std::string_view name, TensorView<T> given, Offset rows,
                    std::string_view rows_name) {
  const TensorView<T> view = with_heads(given, 3);
  if (view.rank != 3) {
    throw ValueError(fmt::format("{}: {} has shape {}, want [heads, {} = {}, width]", op, name,
                                 shape_text(given), rows_name, rows));
  }
  if (view.extent[1] != rows) {
    throw ValueError(fmt::format("{}: {} has {} rows, the graph has {} {}", op, name, view.extent[1], rows,
                                 rows_name == "n_rows" ? "rows" : "columns"));
  }
  check_data(op, name, view);
  return view;
}

template <class T, class U>
void same_width(std::string_view op, std::string_view a_name, TensorView<T> a, std::string_view b_name,
                TensorView<U> b) {
  if (a.extent[2] != b.extent[2]) {
    throw ValueError(fmt::format("{}: {} has width {}, {} has width {}; they must be equal", op, a_name,
                                 a.extent[2], b_name, b.extent[2]));
  }
}

template <class T, class U>
void same_shape(std::string_view op, std::string_view a_name, TensorView<T> a, std::string_view b_name,
                TensorView<U> b) {
  if (a.extent != b.extent) {
    throw ValueError(fmt::format("{}: {} has shape {}, {} has shape {}; they must be equal", op, a_name,
                                 shape_text(a), b_name, shape_text(b)));
  }
}

// kv heads divide heads (grouped queries).
void check_groups(std::string_view op, std::string_view a_name, Offset heads, std::string_view b_name,
                  Offset kv_heads) {
  if (heads == kv_heads || (kv_heads > 0 && heads % kv_heads == 0)) return;
  throw ValueError(fmt::format("{}: {} has {} heads, {} has {}, which must divide them", op, a_name, heads,
                               b_name, kv_heads));
}

enum class Heads : std::uint8_t { all, all_or_shared };

template <class T>
TensorView<T> edge_values(std::string_view op, std::string_view name, TensorView<T> given, Offset heads,
                          Offset per_head, Heads form = Heads::all) {
  const TensorView<T> view = with_heads(given, 2);
  const bool heads_fit = view.extent[0] == heads || (form == Heads::all_or_shared && given.rank == 1);
  if (view.rank != 2 || !heads_fit || view.extent[1] != per_head) {
    throw ValueError(fmt::format("{}: {} has shape {}, want [{}, {}]{}", op, name, shape_text(given), heads,
                                 per_head,
                                 form == Heads::all_or_shared ? fmt::format(" or [{}]", per_head) : ""));
  }
  check_data(op, name, view);
  return view;
}

// The switch: runs the definition of the context's backend on the context's threads.
template <class Reference, class Cpu>
void dispatch(std::string_view op, const Context& ctx, Reference&& on_reference, Cpu&& on_cpu) {
  require_host_backend(ctx, op);
  const ThreadScope scope(ctx.threads, ctx.stop);
  ctx.backend == Backend::reference ? on_reference() : on_cpu();
}

}  // namespace

template <class T>
void sddmm(const Context& ctx, const Graph& graph, TensorView<const T> q_given, TensorView<const T> k_given,
           const SddmmOptions<T>& options, TensorView<EdgeValue<T>> scores_given) {
  const auto q = dense("sddmm", "q", q_given, graph.n_rows(), "n_rows");
  const auto k = dense("sddmm", "k", k_given, graph.n_cols(), "n_cols");
  same_width("sddmm", "q", q, "k", k);
  const Offset heads = q.extent[0];
  check_groups("sddmm", "q", heads, "k", k.extent[0]);
  auto bias = options.bias;
  if (!bias.empty()) {
    bias = edge_values("sddmm", "bias", bias, heads, graph.nnz(), Heads::all_or_shared);
  }
  const auto scores = edge_values("sddmm", "scores", scores_given, heads, graph.nnz());
  dispatch(
      "sddmm", ctx, [&] { ops::reference::sddmm<T>(ctx, graph, q, k, options.scale, bias, scores); },
      [&] { ops::cpu::sddmm<T>(ctx, graph, q, k, options.scale, bias, scores); });
}

template <class T>
void sddmm_backward(const Context& ctx, const Graph& graph, TensorView<const T> q_given,
                    TensorView<const T> k_given, double scale, TensorView<const EdgeValue<T>> g_given,
                    const SddmmGradients<T>& gradients) {
  constexpr std::string_view op = "sddmm_backward";
  const auto q = dense(op, "q", q_given, graph.n_rows(), "n_rows");
  const auto k = dense(op, "k", k_given, graph.n_cols(), "n_cols");
  same_width(op, "q", q, "k", k);
  const Offset heads = q.extent[0];
  check_groups(op, "q", heads, "k", k.extent[0]);
  const auto g = edge_values(op, "g", g_given, heads, graph.nnz());
  auto dq = gradients.q;
  auto dk = gradients.k;
  auto dbias = gradients.bias;
  if (!dq.empty()) {
    dq = with_heads(dq, 3);
    same_shape(op, "gradients.q", dq, "q", q);
  }
  if (!dk.empty()) {
    dk = with_heads(dk, 3);
    same_shape(op, "gradients.k", dk, "k", k);
  }
  if (!dbias.empty()) {
    dbias = edge_values(op, "gradients.bias", dbias, heads, graph.nnz(), Heads::all_or_shared);
  }
  dispatch(
      op, ctx, [&] { ops::reference::sddmm_backward<T>(ctx, graph, q, k, scale, g, dq, dk, dbias); },
      [&] { ops::cpu::sddmm_backward<T>(ctx, graph, q, k, scale, g, dq, dk, dbias); });
}

template <class E>
void edge_softmax(const Context& ctx, const Graph& graph, TensorView<const E> scores_given,
                  TensorView<E> weights_given, TensorView<E> lse) {
  constexpr std::string_view op = "edge_softmax";
  const Offset heads = with_heads(scores_given, 2).extent[0];
  const auto scores = edge_values(op, "scores", scores_given, heads, graph.nnz());
  const auto weights = edge_values(op, "weights", weights_given, heads, graph.nnz());
  if (!lse.empty()) lse = edge_values(op, "lse", lse, heads, graph.n_rows());
  dispatch(
      op, ctx, [&] { ops::reference::edge_softmax<E>(ctx, graph, scores, weights, lse); },
      [&] { ops::cpu::edge_softmax<E>(ctx, graph, scores, weights, lse); });
}

template <class E>
void edge_softmax_backward(const Context& ctx, const Graph& graph, TensorView<const E> weights_given,
                           TensorView<const E> g_weights_given, TensorView<const E> g_lse,
                           TensorView<E> g_scores_given) {
  constexpr std::string_view op = "edge_softmax_backward";
  const Offset heads = with_heads(weights_given, 2).extent[0];
  const auto weights = edge_values(op, "weights", weights_given, heads, graph.nnz());
  const auto g_weights = edge_values(op, "g_weights", g_weights_given, heads, graph.nnz());
  const auto g_scores = edge_values(op, "g_scores", g_scores_given, heads, graph.nnz());
  if (!g_lse.empty()) g_lse = edge_values(op, "g_lse", g_lse, heads, graph.n_rows());
  dispatch(
      op, ctx,
      [&] { ops::reference::edge_softmax_backward<E>(ctx, graph, weights, g_weights, g_lse, g_scores); },
      [&] { ops::cpu::edge_softmax_backward<E>(ctx, graph, weights, g_weights, g_lse, g_scores); });
}

template <class T>
void spmm(const Context& ctx, const Graph& graph, TensorView<const EdgeValue<T>> weights_given,
          TensorView<const T> x_given, TensorView<T> out_given) {
  const auto x = dense("spmm", "x", x_given, graph.n_cols(), "n_cols");
  const auto out = dense("spmm", "out", out_given, graph.n_rows(), "n_rows");
  same_width("spmm", "x", x, "out", out);
  check_groups("spmm", "out", out.extent[0], "x", x.extent[0]);
  const auto weights =
      edge_values("spmm", "weights", weights_given, out.extent[0], graph.nnz(), Heads::all_or_shared);
  dispatch(
      "spmm", ctx, [&] { ops::reference::spmm<T>(ctx, graph, weights, x, out); },
      [&] { ops::cpu::spmm<T>(ctx, graph, weights, x, out); });
}

template <class T>
void spmm_backward(const Context& ctx, const Graph& graph, TensorView<const EdgeValue<T>> weights_given,
                   TensorView<const T> x_given, TensorView<const T> g_given,
                   const SpmmGradients<T>& gradients) {
  constexpr std::string_view op = "spmm_backward";
  const auto x = dense(op, "x", x_given, graph.n_cols(), "n_cols");
  const auto g = dense(op, "g", g_given, graph.n_rows(), "n_rows");
  same_width(op, "x", x, "g", g);
  const Offset heads = g.extent[0];
  check_groups(op, "g", heads, "x", x.extent[0]);
  const auto weights = edge_values(op, "weights", weights_given, heads, graph.nnz(), Heads::all_or_shared);
  auto dweights = gradients.weights;
  auto dx = gradients.x;
  if (!dweights.empty()) {
    dweights = edge_values(op, "gradients.weights", dweights, heads, graph.nnz(), Heads::all_or_shared);
  }
  if (!dx.empty()) {
    dx = with_heads(dx, 3);
    same_shape(op, "gradients.x", dx, "x", x);
  }
  dispatch(
      op, ctx, [&] { ops::reference::spmm_backward<T>(ctx, graph, weights, x, g, dweights, dx); },
      [&] { ops::cpu::spmm_backward<T>(ctx, graph, weights, x, g, dweights, dx); });
}

#define MANYHOP_INSTANTIATE(T)                                                                             \
  template void sddmm<T>(const Context&, const Graph&, TensorView<const T>, TensorView<const T>,           \
                         const SddmmOptions<T>&, TensorView<EdgeValue<T>>);                                \
  template void sddmm_backward<T>(const Context&, const Graph&, TensorView<const T>, TensorView<const T>,  \
                                  double, TensorView<const EdgeValue<T>>, const SddmmGradients<T>&);       \
  template void spmm<T>(const Context&, const Graph&, TensorView<const EdgeValue<T>>, TensorView<const T>, \
                        TensorView<T>);                                                                    \
  template void spmm_backward<T>(const Context&, const Graph&, TensorView<const EdgeValue<T>>,             \
                                 TensorView<const T>, TensorView<const T>, const SpmmGradients<T>&);
MANYHOP_INSTANTIATE(float)
MANYHOP_INSTANTIATE(double)
MANYHOP_INSTANTIATE(bf16)
#undef MANYHOP_INSTANTIATE

#define MANYHOP_INSTANTIATE(E)                                                                    \
  template void edge_softmax<E>(const Context&, const Graph&, TensorView<const E>, TensorView<E>, \
                                TensorView<E>);                                                   \
  template void edge_softmax_backward<E>(const Context&, const Graph&, TensorView<const E>,       \
                                         TensorView<const E>, TensorView<const E>, TensorView<E>);
MANYHOP_INSTANTIATE(float)
MANYHOP_INSTANTIATE(double)
#undef MANYHOP_INSTANTIATE

}  // namespace manyhop
