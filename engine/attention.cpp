#include "manyhop/engine/attention.hpp"

#include <algorithm>
#include <chrono>
#include <limits>

#include "manyhop/engine/attention_internal.hpp"

namespace manyhop {

using namespace attention_call;

template <class T>
void attention(const Context& ctx, const Plan& plan, TensorView<const T> q, TensorView<const T> k,
               TensorView<const T> v, TensorView<T> out, const AttentionOptions& options) {
  require_dtype<T>(plan);
  require_backend(ctx, "attention");
  const ThreadScope scope(ctx.threads, ctx.stop);
  const Call<T> call(ctx, plan, q, k, v, options);
  const PlanOptions& o = plan.options();
  const Graph& graph = plan.graph();
  out = as_batch(out);
  require_shape("out", out, {o.batch, o.heads, graph.n_rows(), o.value_dim});
  const RowValues<float> lse("lse", options.lse, plan);
  const EdgeValues<float> weights("weights", options.weights, plan);
  if (weights.shared(o)) {
    throw ValueError(
        fmt::format("weights: shape {} is shared by {} heads and a batch of {}, values for each are wanted",
                    shape_text(options.weights), o.heads, o.batch));
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
        for (Offset i = in.n_rows; i < graph.n_rows(); ++i)
          to.lse(i) = -std::numeric_limits<float>::infinity();
      }
      if (to.weights != nullptr) std::fill_n(to.weights, in.graph->nnz(), 0.0F);
    }
    ctx.backend == Backend::reference ? ops::reference::attention_head(in, to)
                                      : ops::cpu::attention_head(in, to, resources);
  };
  const auto start = std::chrono::steady_clock::now();
  try {
    call.for_units(units, schedule, false, head);
    const std::chrono::duration<double> taken = std::chrono::steady_clock::now() - start;
    plan.data().last_seconds = taken.count();
  } catch (...) {  // half a state is none
    if (options.state != nullptr) options.state->clear();
    throw;
  }
}

#define MANYHOP_INSTANTIATE(T)                                                                      \
  template void attention<T>(const Context&, const Plan&, TensorView<const T>, TensorView<const T>, \
                             TensorView<const T>, TensorView<T>, const AttentionOptions&)
MANYHOP_INSTANTIATE(float);
MANYHOP_INSTANTIATE(double);
MANYHOP_INSTANTIATE(bf16);
#undef MANYHOP_INSTANTIATE

}  // namespace manyhop
