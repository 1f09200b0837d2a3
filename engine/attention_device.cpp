#include "manyhop/engine/attention_device.hpp"

#include <fmt/format.h>

#include <optional>
#include <vector>

#include "manyhop/engine/attention_call_internal.hpp"

namespace manyhop {

namespace attention_call {

namespace {

/// Edge or row values without gaps, as a device takes them. Host values with gaps pass through a copy; a
/// device's own must have none.
template <class X>
class Compact {
 public:
  using Value = std::remove_const_t<X>;

  Compact(const char* name, TensorView<X> view, bool on_host) : view_(view) {
    if (view.empty()) return;
    Offset step = 1;
    bool dense = true;
    for (int a = view.rank - 1; a >= 0; --a) {
      dense = dense && (view.extent[at(a)] == 1 || view.stride[at(a)] == step);
      step *= view.extent[at(a)];
    }
    if (dense) return;
    if (!on_host) throw ValueError(fmt::format("{}: values on a device must lie without gaps", name));
    copy_.resize(at(view.size()) + 1);
    for_each_element(view, [&](Offset from, Offset to) { copy_[at(to)] = view.data[from]; });
  }
  X* data() { return copy_.empty() ? view_.data : copy_.data(); }
  Offset count() const { return view_.size(); }
  /// Values between the edges of one batch item, or head, and the next.
  Offset batch() const { return view_.rank == 3 ? view_.extent[1] * view_.extent[2] : 0; }
  Offset head() const { return view_.rank < 2 ? 0 : view_.extent[at(view_.rank - 1)]; }
  void finish() {
    if constexpr (!std::is_const_v<X>) {
      if (copy_.empty()) return;
      for_each_element(view_, [&](Offset to, Offset from) { view_.data[to] = copy_[at(from)]; });
    }
  }

 private:
  TensorView<X> view_;
  std::vector<Value> copy_;
};

/// Where each head's edges begin among values [sum of m]; empty for one graph.
std::vector<Offset> first_edges(const Plan& plan, int rank) {
  std::vector<Offset> first;
  if (!plan.per_head()) return first;
  Offset total = 0;
  for (int h = 0; h < plan.options().heads; ++h) {
    first.push_back(rank == 1 ? total : 0);
    total += plan.graph(h).nnz();
  }
  return first;
}

template <class T>
void give_bias(ops::cuda::AttentionCall<T>& call, Compact<const EdgeValue<T>>& bias) {
  call.bias = bias.data();
  call.bias_batch = bias.batch();
  call.bias_head = bias.head();
  call.bias_count = bias.count();
}

}  // namespace

template <class T>
void attention_on_device(const Plan& plan, ops::cuda::AttentionCall<T> call,
                         TensorView<const EdgeValue<T>> bias, TensorView<T> out, TensorView<EdgeValue<T>> lse,
                         TensorView<EdgeValue<T>> weights) {
  const bool host = !call.stream.has_value();
  Compact<const EdgeValue<T>> bias_values("bias", bias, host);
  Compact<EdgeValue<T>> lse_values("lse", lse, host);
  Compact<EdgeValue<T>> weight_values("weights", weights, host);
  give_bias(call, bias_values);
  const std::vector<Offset> first = first_edges(plan, bias.empty() ? weights.rank : bias.rank);
  if (!bias.empty() && !weights.empty() && plan.per_head() && (bias.rank == 1) != (weights.rank == 1)) {
    throw ValueError(fmt::format(
        "weights: {} axes beside a bias of {}, with a graph for each head both are [edges] or neither is",
        weights.rank, bias.rank));
  }
  call.first_edge = first;
  ops::cuda::AttentionResult<T> result;
  result.out = out;
  result.lse = lse_values.data();
  result.weights = weight_values.data();
  result.weights_batch = weight_values.batch();
  result.weights_head = weight_values.head();
  result.weights_count = weight_values.count();
  ops::cuda::attention(plan.data().device, call, result);
  lse_values.finish();
  weight_values.finish();
}

template <class T>
void attention_backward_on_device(const Plan& plan, ops::cuda::AttentionCall<T> call,
                                  TensorView<const EdgeValue<T>> bias,
                                  ops::cuda::AttentionGradient<T> gradient,
                                  TensorView<const EdgeValue<T>> g_lse, TensorView<EdgeValue<T>> dbias) {
  const bool host = !call.stream.has_value();
  Compact<const EdgeValue<T>> bias_values("bias", bias, host);
  Compact<const EdgeValue<T>> lse_values("g_lse", g_lse, host);
  Compact<EdgeValue<T>> dbias_values("dbias", dbias, host);
  give_bias(call, bias_values);
  const std::vector<Offset> first = first_edges(plan, bias.empty() ? dbias.rank : bias.rank);
  call.first_edge = first;
  gradient.g_lse = lse_values.data();
  gradient.bias = dbias_values.data();
  gradient.bias_batch = dbias_values.batch();
  gradient.bias_head = dbias_values.head();
  gradient.bias_count = dbias_values.count();
  ops::cuda::attention_backward(plan.data().device, call, gradient);
  dbias_values.finish();
}

#define MANYHOP_INSTANTIATE(T)                                                              \
  template void attention_on_device<T>(const Plan&, ops::cuda::AttentionCall<T>,            \
                                       TensorView<const EdgeValue<T>>, TensorView<T>,       \
                                       TensorView<EdgeValue<T>>, TensorView<EdgeValue<T>>); \
  template void attention_backward_on_device<T>(                                            \
      const Plan&, ops::cuda::AttentionCall<T>, TensorView<const EdgeValue<T>>,             \
      ops::cuda::AttentionGradient<T>, TensorView<const EdgeValue<T>>, TensorView<EdgeValue<T>>)
MANYHOP_INSTANTIATE(float);
MANYHOP_INSTANTIATE(double);
MANYHOP_INSTANTIATE(bf16);
#undef MANYHOP_INSTANTIATE

}  // namespace attention_call

namespace {

template <class T>
std::size_t workspace_of(const Plan::Data& data) {
  ops::cuda::AttentionCall<T> call;
  call.batch = data.options.batch;
  call.heads = data.options.heads;
  call.kv_heads = data.options.kv_heads;
  call.d = data.options.head_dim;
  call.d_value = data.options.value_dim;
  call.hops = data.options.hops;
  call.stream = 0;
  return ops::cuda::workspace_bytes(data.device, call, data.options.backward, ops::HeadBackward::stored);
}

}  // namespace

std::size_t device_workspace(const Plan::Data& data) {
  switch (data.options.dtype) {
    case DType::f64:
      return workspace_of<double>(data);
    case DType::bf16:
      return workspace_of<bf16>(data);
    default:
      return workspace_of<float>(data);
  }
}

}  // namespace manyhop
