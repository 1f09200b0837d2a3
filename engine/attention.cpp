#include "manyhop/engine/attention.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <limits>

#include "manyhop/engine/attention_call_internal.hpp"
#include "manyhop/engine/attention_device.hpp"

namespace manyhop {

using namespace attention_call;

template <class T>
void attention(const Context& ctx, const Plan& plan, TensorView<const T> q, TensorView<const T> k,
               TensorView<const T> v, TensorView<T> out, const AttentionOptions& options) {
  require_dtype<T>(plan);
  require_backend(ctx, "attention");
  require_plan_of(ctx, plan);
  const ThreadScope scope(ctx.threads, ctx.stop);
  const Call<T> call(ctx, plan, q, k, v, options);
  const PlanOptions& o = plan.options();
  const Graph& graph = plan.graph();
  out = as_batch(out);
  require_shape("out", out, {o.batch, o.heads, graph.n_rows(), o.value_dim});
  using C = ops::ComputeOf<T>;
  require_data("q", q);
  require_data("k", k);
  require_data("v", v);
  require_data("out", out);
  const WrittenValues<C> lse_values("lse", options.lse, !ctx.stream);
  const WrittenValues<C> weight_values("weights", options.weights, !ctx.stream);
  const RowValues<C> lse("lse", lse_values.view, plan);
  const EdgeValues<C> weights("weights", weight_values.view, plan);
  if (weights.shared(o)) {
    throw ValueError(
        fmt::format("weights: shape {} is shared by {} heads and a batch of {}, values for each are wanted",
                    shape_text(weight_values.view), o.heads, o.batch));
  }
  const auto start = std::chrono::steady_clock::now();
  const auto finished = [&] {
    lse_values.finish();
    weight_values.finish();
    const std::chrono::duration<double> taken = std::chrono::steady_clock::now() - start;
    plan.data().last_seconds = taken.count();
  };
  if (ctx.backend == Backend::cuda) {
    if (options.state != nullptr) options.state->clear();
    attention_on_device<T>(plan, call.device_call(), call.bias_view(), out, lse_values.view,
                           weight_values.view);
    return finished();
  }
  const Offset units = o.batch * o.heads;
  const Schedule schedule = call.keeping_schedule(units);
  const auto head = [&](Offset unit, const ops::HeadResources& given) {
    const ops::HeadResources resources = with_kept(given, options.state, unit);
    const Offset b = unit / o.heads;
    const Offset h = unit % o.heads;
    const ops::HeadInput<T> in = call.input(b, h);
    const ops::HeadOutput<T> to{matrix(out, b, h), lse.of(b, h), weights.of(b, h)};
    if (in.n_rows < graph.n_rows() || in.n_cols < graph.n_cols()) {
      zero_rows(to.out, in.n_rows);
      if (!to.lse.empty()) {
        for (Offset i = in.n_rows; i < graph.n_rows(); ++i) to.lse(i) = -std::numeric_limits<C>::infinity();
      }
      if (to.weights != nullptr) std::fill_n(to.weights, in.graph->nnz(), C{0});
    }
    ctx.backend == Backend::reference ? ops::reference::attention_head(in, to)
                                      : ops::cpu::attention_head(in, to, resources);
  };
  try {
    call.for_units(units, schedule, false, head);
    finished();
  } catch (...) {  // half a state is none
    if (options.state != nullptr) options.state->clear();
    throw;
  }
}

namespace {

template <class T>
std::size_t state_bytes(const Context& ctx, const Plan& plan, AttentionOptions options) {
  const PlanOptions& o = plan.options();
  const Offset rows = plan.graph().n_rows();
  const Offset cols = plan.graph().n_cols();
  const auto shaped = [&](Offset heads, Offset n, Offset width) {
    return TensorView<const T>(nullptr, {o.batch, heads, n, width});
  };
  options.bias = {};
  options.lse = {};
  options.weights = {};
  options.state = nullptr;
  const Call<T> call(ctx, plan, shaped(o.heads, rows, o.head_dim), shaped(o.kv_heads, cols, o.head_dim),
                     shaped(o.kv_heads, cols, o.value_dim), options);
  return call.state_bytes(o.batch * o.heads);
}

}  // namespace

std::size_t attention_state_bytes(const Context& ctx, const Plan& plan, const AttentionOptions& options) {
  require_backend(ctx, "attention");
  require_plan_of(ctx, plan);
  const ThreadScope scope(ctx.threads, ctx.stop);
  switch (plan.options().dtype) {
    case DType::f64:
      return state_bytes<double>(ctx, plan, options);
    case DType::bf16:
      return state_bytes<bf16>(ctx, plan, options);
    default:
      return state_bytes<float>(ctx, plan, options);
  }
}

AttentionState AttentionState::resume(const Context& ctx, const Plan& plan, const AttentionOptions& options,
                                      std::byte* bytes, std::size_t count) {
  // What the other state was made with need not be the limit of today.
  Context plenty;
  plenty.backend = ctx.backend;
  plenty.threads = ctx.threads;
  plenty.memory_limit = std::numeric_limits<std::size_t>::max();
  const std::size_t wanted = attention_state_bytes(plenty, plan, options);
  if (count != wanted) {
    throw ValueError(fmt::format("state: {} bytes, this plan and these options keep {}", count, wanted));
  }
  AttentionState state;
  if (count == 0) return state;
  state.lend(bytes, count);
  state.units = plan.options().batch * plan.options().heads;
  state.unit_bytes = count / static_cast<std::size_t>(state.units);
  state.plan = &plan.data();
  state.hops = options.hops;
  state.mode = options.backward;
  return state;
}

#define MANYHOP_INSTANTIATE(T)                                                                      \
  template void attention<T>(const Context&, const Plan&, TensorView<const T>, TensorView<const T>, \
                             TensorView<const T>, TensorView<T>, const AttentionOptions&)
MANYHOP_INSTANTIATE(float);
MANYHOP_INSTANTIATE(double);
MANYHOP_INSTANTIATE(bf16);
#undef MANYHOP_INSTANTIATE

}  // namespace manyhop
