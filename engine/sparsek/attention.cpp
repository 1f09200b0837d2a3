#include "manyhop/engine/sparsek/attention.hpp"

#include <fmt/format.h>

#include <array>
#include <cmath>
#include <memory>
#include <string>

#include "manyhop/engine/attention_values_internal.hpp"
#include "manyhop/engine/sparsek/head_internal.hpp"
#include "manyhop/graphs/base/error.hpp"
#include "manyhop/graphs/base/parallel.hpp"
#include "manyhop/ops/cuda/sparsek_attention.hpp"

namespace manyhop {

namespace {

using attention_call::at;
using attention_call::matrix;
using attention_call::shape_text;

/// A missing batch axis is a batch of one.
template <class T>
TensorView<T> batched(TensorView<T> view, int rank) {
  if (view.rank != rank - 1) return view;
  for (std::size_t a = 3; a > 0; --a) {
    view.extent[a] = view.extent[a - 1];
    view.stride[a] = view.stride[a - 1];
  }
  view.extent[0] = 1;
  view.stride[0] = 0;
  view.rank = rank;
  return view;
}

template <class T>
void require(const char* name, const TensorView<T>& view, std::array<Offset, 4> want, int rank) {
  bool fits = view.rank == rank;
  for (int a = 0; a < rank; ++a) fits &= view.extent[at(a)] == want[at(a)];
  if (fits) return attention_call::require_data(name, view);
  std::string shape;
  for (int a = 0; a < rank; ++a) shape += fmt::format("{}{}", a > 0 ? ", " : "", want[at(a)]);
  throw ValueError(
      fmt::format("sparsek attention: {} has shape {}, [{}] is wanted", name, shape_text(view), shape));
}

template <class T>
TensorView<T> line(TensorView<T> view, Offset batch, Offset head) {
  if (view.empty()) return {};
  return TensorView<T>(view.data + batch * view.stride[0] + head * view.stride[1], {view.extent[2]},
                       {view.stride[2]});
}

template <class T>
class Call {
 public:
  using E = EdgeValue<T>;
  Call(TensorView<const T> q_given, TensorView<const T> k_given, TensorView<const T> v_given,
       TensorView<const E> scores_given, const SparsekAttentionOptions& o)
      : options(o),
        q(batched(q_given, 4)),
        k(batched(k_given, 4)),
        v(batched(v_given, 4)),
        scores(batched(scores_given, 3)) {
    if (q.rank != 4) {
      throw ValueError(fmt::format(
          "sparsek attention: q has shape {}, [batch, heads, tokens, width] is wanted", shape_text(q)));
    }
    batch = q.extent[0];
    heads = q.extent[1];
    n = q.extent[2];
    d = q.extent[3];
    kv_heads = k.extent[1];
    score_heads = scores.extent[1];
    d_value = v.extent[3];
    require("q", q, {batch, heads, n, d}, 4);
    require("k", k, {batch, kv_heads, n, d}, 4);
    require("v", v, {batch, kv_heads, n, d_value}, 4);
    require("scores", scores, {batch, score_heads, n, 1}, 3);
    check_divides("k", kv_heads);
    check_divides("scores", score_heads);
    if (n > kMaxVertices)
      throw ValueError(fmt::format("sparsek attention: {} tokens, at most {}", n, kMaxVertices));
    if (o.hops < 0) throw ValueError(fmt::format("hops: {}, at least 0 is wanted", o.hops));
    if (!(o.teleport >= 0 && o.teleport <= 1)) {
      throw ValueError(fmt::format("teleport: {} is outside of [0, 1]", o.teleport));
    }
    if (o.scale && !std::isfinite(*o.scale))
      throw ValueError(fmt::format("scale: {} is not finite", *o.scale));
    if (o.join.window < 0 || o.join.sinks < 0) {
      throw ValueError(fmt::format("sparsek attention: window {} and sinks {}, both must be 0 or more",
                                   o.join.window, o.join.sinks));
    }
    (void)CausalSparsek(o.select);  // checks
  }

  void check_memory(const Context& ctx, bool backward) const {
    const std::size_t head = sparsek_head::cpu::bytes<T>(n, d, d_value, options.hops, backward);
    const std::size_t sums = backward ? at(n) * (at(d) + at(d_value)) * sizeof(double) : 0;
    const std::size_t bytes = head + sums + at(batch * score_heads) * at(n) * 32;
    if (bytes > ctx.limit()) {
      throw LimitError(
          fmt::format("memory limit: {} tokens of width {} take {} bytes besides q, k, v, the limit "
                      "is {}",
                      n, d, bytes, ctx.limit()));
    }
  }

  ops::cuda::SparsekCall<T> on_device(const Context& ctx) const {
    ops::cuda::SparsekCall<T> to;
    to.stream = ctx.stream;
    to.memory_limit = ctx.memory_limit;
    to.batch = batch;
    to.heads = static_cast<int>(heads);
    to.kv_heads = static_cast<int>(kv_heads);
    to.score_heads = static_cast<int>(score_heads);
    to.n = n;
    to.d = static_cast<int>(d);
    to.d_value = static_cast<int>(d_value);
    to.q = q;
    to.k = k;
    to.v = v;
    to.scores = scores;
    const CausalOptions select = CausalSparsek(options.select).options();
    to.keys = select.k;
    to.cap = select.cap == kUncapped ? n : select.cap;
    to.temperature = select.temperature;
    to.window = options.join.window;
    to.sinks = options.join.sinks;
    to.gate_scores = options.gate == Gate::scores;
    to.hops = options.hops;
    to.teleport = options.teleport;
    to.scale = scale();
    return to;
  }
  double scale() const {
    return options.scale.value_or(1 / std::sqrt(static_cast<double>(std::max<Offset>(d, 1))));
  }

  /// Selections of all batch items and score heads, side by side.
  void choose() {
    selections.resize(at(batch * score_heads));
    rows.resize(selections.size());
    parallel_for(batch * score_heads, [&](Offset unit) {
      std::vector<E> values(at(n));
      for (Offset i = 0; i < n; ++i) values[at(i)] = scores(unit / score_heads, unit % score_heads, i);
      selections[at(unit)] = causal_sparsek(std::span<const E>(values), options.select);
      rows[at(unit)] = std::make_unique<SelectionRows>(selections[at(unit)], sparsek_head::kChunk);
    });
  }

  sparsek_head::Input<T> input(Offset b, Offset h) const {
    sparsek_head::Input<T> in;
    const Offset unit = b * score_heads + h / (heads / score_heads);
    const Offset kv = h / (heads / kv_heads);
    in.n = n;
    in.d = d;
    in.d_value = d_value;
    in.q = matrix(q, b, h);
    in.k = matrix(k, b, kv);
    in.v = matrix(v, b, kv);
    in.selection = &selections[at(unit)];
    in.rows = rows[at(unit)].get();
    in.join = options.join;
    in.gate = options.gate;
    in.hops = options.hops;
    in.teleport = options.teleport;
    in.scale = scale();
    return in;
  }

  const SparsekAttentionOptions& options;
  TensorView<const T> q, k, v;
  TensorView<const E> scores;
  Offset batch = 0, heads = 0, kv_heads = 0, score_heads = 0, n = 0, d = 0, d_value = 0;
  std::vector<CausalSelection> selections;
  std::vector<std::unique_ptr<SelectionRows>> rows;

 private:
  void check_divides(const char* name, Offset count) const {
    if (heads == count || (count > 0 && heads > 0 && heads % count == 0)) return;
    throw ValueError(fmt::format("sparsek attention: {} has {} heads, q has {}; they must divide them", name,
                                 count, heads));
  }
};

SparsekAttentionInfo told(const ops::cuda::SparsekCounts& counts) {
  if (counts.nan_row >= 0) {
    throw ValueError(fmt::format("causal sparsek: the score of token {} is NaN", counts.nan_row));
  }
  return {counts.selected, counts.capped_rows};
}

template <class T>
void write_sums(const std::vector<double>& sums, TensorView<T> to) {
  if (to.empty()) return;
  for (Offset i = 0; i < to.extent[0]; ++i) {
    for (Offset c = 0; c < to.extent[1]; ++c) to(i, c) = narrow<T>(sums[at(i * to.extent[1] + c)]);
  }
}

}  // namespace

template <class T>
SparsekAttentionInfo sparsek_attention(const Context& ctx, TensorView<const T> q, TensorView<const T> k,
                                       TensorView<const T> v, TensorView<const EdgeValue<T>> scores,
                                       TensorView<T> out, const SparsekAttentionOptions& options) {
  require_backend(ctx, "sparsek_attention");
  Call<T> call(q, k, v, scores, options);
  out = batched(out, 4);
  require("out", out, {call.batch, call.heads, call.n, call.d_value}, 4);
  const TensorView<float> lse = batched(options.lse, 3);
  if (!lse.empty()) require("lse", lse, {call.batch, call.heads, call.n, 1}, 3);
  if (ctx.backend == Backend::cuda) {
    return told(ops::cuda::sparsek_attention<T>(call.on_device(ctx), out, lse));
  }
  call.check_memory(ctx, false);
  const ThreadScope scope(ctx.threads, ctx.stop);
  call.choose();
  SparsekAttentionInfo info;
  for (const CausalSelection& selection : call.selections) {
    info.selected += selection.edges;
    info.capped_rows += selection.capped_rows;
  }
  for (Offset unit = 0; unit < call.batch * call.heads; ++unit) {
    const Offset b = unit / call.heads;
    const Offset h = unit % call.heads;
    const auto in = call.input(b, h);
    const sparsek_head::Output<T> to{matrix(out, b, h), line(lse, b, h)};
    if (ctx.backend == Backend::reference) {
      sparsek_head::reference::forward<T>(in, to);
    } else {
      sparsek_head::cpu::forward<T>(in, to);
    }
    if (ctx.progress) {
      ctx.progress("sparsek attention",
                   static_cast<double>(unit + 1) / static_cast<double>(call.batch * call.heads));
    }
  }
  return info;
}

template <class T>
void sparsek_attention_backward(const Context& ctx, TensorView<const T> q, TensorView<const T> k,
                                TensorView<const T> v, TensorView<const EdgeValue<T>> scores,
                                TensorView<const T> g, const SparsekAttentionGradients<T>& gradients,
                                const SparsekAttentionOptions& options) {
  require_backend(ctx, "sparsek_attention_backward");
  Call<T> call(q, k, v, scores, options);
  const std::array<Offset, 4> like_q{call.batch, call.heads, call.n, call.d};
  const std::array<Offset, 4> like_k{call.batch, call.kv_heads, call.n, call.d};
  const std::array<Offset, 4> like_v{call.batch, call.kv_heads, call.n, call.d_value};
  g = batched(g, 4);
  require("g", g, {call.batch, call.heads, call.n, call.d_value}, 4);
  const SparsekAttentionGradients<T> to{batched(gradients.q, 4), batched(gradients.k, 4),
                                        batched(gradients.v, 4), batched(gradients.scores, 3)};
  if (!to.q.empty()) require("gradients.q", to.q, like_q, 4);
  if (!to.k.empty()) require("gradients.k", to.k, like_k, 4);
  if (!to.v.empty()) require("gradients.v", to.v, like_v, 4);
  if (!to.scores.empty()) {
    require("gradients.scores", to.scores, {call.batch, call.score_heads, call.n, 1}, 3);
  }
  if (ctx.backend == Backend::cuda) {
    told(ops::cuda::sparsek_attention_backward<T>(call.on_device(ctx), {g, to.q, to.k, to.v, to.scores}));
    return;
  }
  call.check_memory(ctx, true);
  const ThreadScope scope(ctx.threads, ctx.stop);
  call.choose();
  const Offset n = call.n;
  const Offset kv_group = call.kv_heads > 0 ? call.heads / call.kv_heads : 1;
  const Offset score_group = call.score_heads > 0 ? call.heads / call.score_heads : 1;
  std::vector<double> dk(at(n * call.d)), dv(at(n * call.d_value)), du(at(n));
  for (Offset b = 0; b < call.batch; ++b) {
    for (Offset h = 0; h < call.heads; ++h) {
      if (h % kv_group == 0) {
        std::fill(dk.begin(), dk.end(), 0);
        std::fill(dv.begin(), dv.end(), 0);
      }
      if (h % score_group == 0) std::fill(du.begin(), du.end(), 0);
      const auto in = call.input(b, h);
      const sparsek_head::Gradient<T> sums{matrix(g, b, h), matrix(to.q, b, h), &dk, &dv, &du};
      if (ctx.backend == Backend::reference) {
        sparsek_head::reference::backward<T>(in, sums);
      } else {
        sparsek_head::cpu::backward<T>(in, sums);
      }
      if ((h + 1) % kv_group == 0) {
        write_sums(dk, matrix(to.k, b, h / kv_group));
        write_sums(dv, matrix(to.v, b, h / kv_group));
      }
      if ((h + 1) % score_group == 0 && !to.scores.empty()) {
        const auto line_of = line(to.scores, b, h / score_group);
        for (Offset i = 0; i < n; ++i) {
          line_of(i) = static_cast<EdgeValue<T>>(du[at(i)] / options.select.temperature);
        }
      }
    }
  }
}

#define MANYHOP_INSTANTIATE(T)                                                                          \
  template SparsekAttentionInfo sparsek_attention<T>(                                                   \
      const Context&, TensorView<const T>, TensorView<const T>, TensorView<const T>,                    \
      TensorView<const EdgeValue<T>>, TensorView<T>, const SparsekAttentionOptions&);                   \
  template void sparsek_attention_backward<T>(const Context&, TensorView<const T>, TensorView<const T>, \
                                              TensorView<const T>, TensorView<const EdgeValue<T>>,      \
                                              TensorView<const T>, const SparsekAttentionGradients<T>&, \
                                              const SparsekAttentionOptions&)
MANYHOP_INSTANTIATE(float);
MANYHOP_INSTANTIATE(double);
MANYHOP_INSTANTIATE(bf16);
#undef MANYHOP_INSTANTIATE

}  // namespace manyhop
