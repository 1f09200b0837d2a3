// What each backend defines for dispatch.cpp. Shapes are checked and completed by then: dense views are
// [h, n, d], edge views [h, m] or [1, m] (shared by the heads), empty views are absent.
#pragma once

#include "manyhop/graphs/base/tensor.hpp"
#include "manyhop/graphs/graph.hpp"
#include "manyhop/ops/context.hpp"
#include "manyhop/ops/edge_value.hpp"

namespace manyhop {

namespace ops::reference {

template <class T>
void sddmm(const Context& ctx, const Graph& graph, TensorView<const T> q, TensorView<const T> k, double scale,
           TensorView<const EdgeValue<T>> bias, TensorView<EdgeValue<T>> scores);
template <class T>
void sddmm_backward(const Context& ctx, const Graph& graph, TensorView<const T> q, TensorView<const T> k,
                    double scale, TensorView<const EdgeValue<T>> g, TensorView<T> dq, TensorView<T> dk,
                    TensorView<EdgeValue<T>> dbias);
template <class E>
void edge_softmax(const Context& ctx, const Graph& graph, TensorView<const E> scores, TensorView<E> weights,
                  TensorView<E> lse);
template <class E>
void edge_softmax_backward(const Context& ctx, const Graph& graph, TensorView<const E> weights,
                           TensorView<const E> g_weights, TensorView<const E> g_lse, TensorView<E> g_scores);
template <class T>
void spmm(const Context& ctx, const Graph& graph, TensorView<const EdgeValue<T>> weights,
          TensorView<const T> x, TensorView<T> out);
template <class T>
void spmm_backward(const Context& ctx, const Graph& graph, TensorView<const EdgeValue<T>> weights,
                   TensorView<const T> x, TensorView<const T> g, TensorView<EdgeValue<T>> dweights,
                   TensorView<T> dx);

}  // namespace ops::reference

namespace ops::cpu {

template <class T>
void sddmm(const Context& ctx, const Graph& graph, TensorView<const T> q, TensorView<const T> k, double scale,
           TensorView<const EdgeValue<T>> bias, TensorView<EdgeValue<T>> scores);
template <class T>
void sddmm_backward(const Context& ctx, const Graph& graph, TensorView<const T> q, TensorView<const T> k,
                    double scale, TensorView<const EdgeValue<T>> g, TensorView<T> dq, TensorView<T> dk,
                    TensorView<EdgeValue<T>> dbias);
template <class E>
void edge_softmax(const Context& ctx, const Graph& graph, TensorView<const E> scores, TensorView<E> weights,
                  TensorView<E> lse);
template <class E>
void edge_softmax_backward(const Context& ctx, const Graph& graph, TensorView<const E> weights,
                           TensorView<const E> g_weights, TensorView<const E> g_lse, TensorView<E> g_scores);
template <class T>
void spmm(const Context& ctx, const Graph& graph, TensorView<const EdgeValue<T>> weights,
          TensorView<const T> x, TensorView<T> out);
template <class T>
void spmm_backward(const Context& ctx, const Graph& graph, TensorView<const EdgeValue<T>> weights,
                   TensorView<const T> x, TensorView<const T> g, TensorView<EdgeValue<T>> dweights,
                   TensorView<T> dx);

}  // namespace ops::cpu

}  // namespace manyhop
