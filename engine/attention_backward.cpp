#include <algorithm>
#include <vector>

#include "manyhop/engine/attention.hpp"
#include "manyhop/engine/attention_call_internal.hpp"
#include "manyhop/engine/attention_device.hpp"

namespace manyhop {

using namespace attention_call;

template <class T>
void attention_backward(const Context& ctx, const Plan& plan, TensorView<const T> q, TensorView<const T> k,
                        TensorView<const T> v, TensorView<const T> g, AttentionGradients<T>& gradients,
                        const AttentionOptions& options, const RealInput& g_lse) {
  require_dtype<T>(plan);
  require_backend(ctx, "attention");
  require_plan_of(ctx, plan);
  const ThreadScope scope(ctx.threads, ctx.stop);
  const Call<T> call(ctx, plan, q, k, v, options);
  const PlanOptions& o = plan.options();
  const Graph& graph = plan.graph();
  g = as_batch(g);
  require_shape("g", g, {o.batch, o.heads, graph.n_rows(), o.value_dim});
  require_data("q", q);
  require_data("k", k);
  require_data("v", v);
  require_data("g", g);
  const auto optional_shape = [](const char* name, TensorView<T> view, std::array<Offset, 4> want) {
    view = as_batch(view);
    if (!view.empty()) require_shape(name, view, want);
    return view;
  };
  const auto dq = optional_shape("dq", gradients.q, {o.batch, o.heads, graph.n_rows(), o.head_dim});
  const auto dk = optional_shape("dk", gradients.k, {o.batch, o.kv_heads, graph.n_cols(), o.head_dim});
  const auto dv = optional_shape("dv", gradients.v, {o.batch, o.kv_heads, graph.n_cols(), o.value_dim});
  using C = ops::ComputeOf<T>;
  const WrittenValues<C> bias_values("dbias", gradients.bias, !ctx.stream);
  const ReadValues<C> lse_values("g_lse", g_lse, !ctx.stream);
  const EdgeValues<C> bias("dbias", bias_values.view, plan);
  const RowValues<const C> lse("g_lse", lse_values.view, plan);
  const auto mode = static_cast<ops::HeadBackward>(options.backward);
  if (options.backward == AttentionBackward::implicit) {
    const double factor = (1 - options.teleport) / (1 - options.dropout_p);
    if (!(factor < 1) || options.hop_dropout_p != 0) {
      throw ValueError(
          fmt::format("backward: implicit wants (1 - teleport) / (1 - dropout_p) < 1 and no hop dropout, "
                      "here it is {} with hop dropout {}; stored or checkpointed always work",
                      factor, options.hop_dropout_p));
    }
  }
  if (ctx.backend == Backend::cuda) {
    ops::cuda::AttentionGradient<T> to;
    to.g = g;
    to.q = dq;
    to.k = dk;
    to.v = dv;
    to.teleport = graph.square() && gradients.wants_teleport ? &gradients.teleport : nullptr;
    to.mode = mode;
    gradients.teleport = 0;
    attention_backward_on_device<T>(plan, call.device_call(), call.bias_view(), to, lse_values.view,
                                    bias_values.view);
    return bias_values.finish();
  }
  if (!gradients.bias.empty()) {
    TensorView<C> all = bias_values.view;
    const Offset inner = all.extent[at(all.rank - 1)];
    for (Offset a = 0; a < (all.rank > 2 ? all.extent[0] : 1); ++a) {
      for (Offset b = 0; b < (all.rank > 1 ? all.extent[at(all.rank - 2)] : 1); ++b) {
        const Offset shift =
            (all.rank > 2 ? a * all.stride[0] : 0) + (all.rank > 1 ? b * all.stride[at(all.rank - 2)] : 0);
        std::fill_n(all.data + shift, inner, C{0});
      }
    }
  }
  const Offset group = o.heads / o.kv_heads;
  const Offset units = o.batch * o.kv_heads;
  std::vector<double> teleport(at(units));
  AttentionState* state = call.taken_state();
  const Schedule schedule =
      state == nullptr ? call.schedule(units, true, mode) : call.schedule_with_state(units, true, mode);
  if (!schedule.shape.kept) state = nullptr;  // this context has less memory: make again what does not fit
  if (state != nullptr && state->unit_bytes != call.unit_bytes(schedule.shape)) {
    throw ValueError(fmt::format("state: {} bytes a head where this call has {}: the lengths differ",
                                 state->unit_bytes, call.unit_bytes(schedule.shape)));
  }
  call.for_units(units, schedule, bias.shared(o), [&](Offset unit, const ops::HeadResources& given) {
    const Offset b = unit / o.kv_heads;
    const Offset kv = unit % o.kv_heads;
    std::vector<double> sums_k;
    std::vector<double> sums_v;
    for (Offset i = 0; i < group; ++i) {
      const Offset h = kv * group + i;
      const ops::HeadInput<T> in = call.input(b, h);
      const ops::HeadResources resources = with_kept(given, state, b * o.heads + h);
      ops::HeadGradient<T> to;
      to.g = matrix(g, b, h);
      to.g_lse = lse.of(b, h);
      to.q = matrix(dq, b, h);
      to.k = matrix(dk, b, kv);
      to.v = matrix(dv, b, kv);
      to.bias = bias.of(b, h);
      to.teleport = graph.square() && gradients.wants_teleport ? &teleport[at(unit)] : nullptr;
      to.mode = mode;
      to.first = i == 0;
      to.last = i + 1 == group;
      to.own_order = group > 1 && plan.per_head();
      zero_rows(to.q, in.n_rows);
      if (to.last) {
        zero_rows(to.k, in.n_cols);
        zero_rows(to.v, in.n_cols);
      }
      ctx.backend == Backend::reference ? ops::reference::attention_head_backward(in, to, sums_k, sums_v)
                                        : ops::cpu::attention_head_backward(in, to, resources);
    }
  });
  bias_values.finish();
  gradients.teleport = 0;
  for (const double part : teleport) gradients.teleport += part;
}

#define MANYHOP_INSTANTIATE(T)                                                                               \
  template void attention_backward<T>(const Context&, const Plan&, TensorView<const T>, TensorView<const T>, \
                                      TensorView<const T>, TensorView<const T>, AttentionGradients<T>&,      \
                                      const AttentionOptions&, const RealInput&)
MANYHOP_INSTANTIATE(float);
MANYHOP_INSTANTIATE(double);
MANYHOP_INSTANTIATE(bf16);
#undef MANYHOP_INSTANTIATE

}  // namespace manyhop
