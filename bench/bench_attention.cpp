// Planning, attention with K hops, and its gradients. Values change before every timed run.
#include "manyhop/engine/attention.hpp"
#include "manyhop/graphs/patterns/pattern.hpp"
#include "support.hpp"

namespace manyhop::bench {
namespace {

// train: the forward pass keeps what the backward pass of the same step takes.
enum class Work { forward, backward, train, train_checkpointed };

PlanOptions plan_options(const Case& c, bool backward) {
  return {.heads = c.heads, .head_dim = c.d, .dtype = c.dtype, .hops = c.hops, .backward = backward};
}

AttentionOptions attention_options(const Case& c) {
  AttentionOptions options;
  options.hops = c.hops;
  options.teleport = c.hops > 1 ? 0.1 : 0.0;
  return options;
}

template <class T>
struct Tensors {
  Case c;
  Offset n;
  Graph graph;
  std::size_t count;
  std::vector<T> q, k, v, g, out, dq, dk, dv;

  Tensors(const Case& which, Offset tokens)
      : c(which),
        n(tokens),
        graph(pattern(which.pattern, tokens)),
        count(static_cast<std::size_t>(tokens * which.heads * which.d)),
        out(count) {
    renew(1);
  }
  void renew(std::uint64_t seed) {
    q = noise<T>(count, 4 * seed);
    k = noise<T>(count, 4 * seed + 1);
    v = noise<T>(count, 4 * seed + 2);
  }
  template <class U>
  TensorView<U> view(U* data) const {
    return {data, {1, c.heads, n, c.d}};
  }
  void run(const Context& ctx, const Plan& made, Work what) {
    AttentionOptions options = attention_options(c);
    if (what == Work::train_checkpointed) options.backward = AttentionBackward::checkpointed;
    if (what == Work::train || what == Work::train_checkpointed) options.state = &state;
    if (what != Work::backward) {
      attention<T>(ctx, made, view<const T>(q.data()), view<const T>(k.data()), view<const T>(v.data()),
                   view(out.data()), options);
    }
    if (what == Work::forward) return;
    if (g.empty()) {
      g = noise<T>(count, 999);
      dq.resize(count);
      dk.resize(count);
      dv.resize(count);
    }
    AttentionGradients<T> gradients;
    gradients.q = view(dq.data());
    gradients.k = view(dk.data());
    gradients.v = view(dv.data());
    attention_backward<T>(ctx, made, view<const T>(q.data()), view<const T>(k.data()),
                          view<const T>(v.data()), view<const T>(g.data()), gradients, options);
  }
  AttentionState state;
};

// Against the plain loops on at most 512 tokens: the same code paths, and the loops end in time.
template <class T>
double error(const Case& c, Work what) {
  const bool backward = what != Work::forward;
  Tensors<T> work(c, std::min<Offset>(c.n, 512));
  const auto run = [&](Backend backend) {
    const Context ctx{.backend = backend};
    const Plan made = plan(ctx, work.graph, plan_options(c, backward));
    work.run(ctx, made, what);
  };
  run(Backend::reference);
  const auto out = work.out, dq = work.dq, dk = work.dk, dv = work.dv;
  run(Backend::cpu);
  const auto worst = [](const std::vector<T>& a, const std::vector<T>& b) {
    return relative_error<T>(std::span<const T>(a), std::span<const T>(b));
  };
  if (!backward) return worst(work.out, out);
  return std::max({worst(work.dq, dq), worst(work.dk, dk), worst(work.dv, dv)});
}

void make_plan(benchmark::State& state, const Case& c) {
  const Context ctx;
  const Graph graph = pattern(c.pattern, c.n);
  for (auto _ : state) benchmark::DoNotOptimize(plan(ctx, graph, plan_options(c, false)));
  report(state, 0, 0, static_cast<double>(graph.nnz()));
}

template <class T>
void time_attention(benchmark::State& state, const Case& c, Work what) {
  const bool backward = what != Work::forward;
  const double wrong = error<T>(c, what);
  const double allowed = c.dtype == DType::bf16 ? 1e-2 : backward ? 2e-5 : 4e-6;
  if (!(wrong <= allowed)) return fail(state, "differs from the reference by " + std::to_string(wrong));
  const Context ctx;
  Tensors<T> work(c, c.n);
  const Plan made = plan(ctx, work.graph, plan_options(c, backward));
  work.run(ctx, made, what);  // memory is there from the first timed run on
  std::uint64_t seed = 2;
  for (auto _ : state) {
    state.PauseTiming();
    work.renew(seed++);
    state.ResumeTiming();
    work.run(ctx, made, what);
  }
  // One score and K products an edge, 2 d flops each; the gradients take twice that and the forward pass,
  // here or (from q, k, v alone) again.
  const double edges = static_cast<double>(work.graph.nnz()) * c.heads;
  const double units = (c.hops + 1) * (backward ? 3.0 : 1.0);
  report(state, 2 * edges * c.d * units, static_cast<double>(work.count * 4 * size_of(c.dtype)),
         static_cast<double>(work.graph.nnz()));
  state.counters["relative_error"] = wrong;
}

void run(benchmark::State& state, const Case& c, Work what) {
  if (c.dtype == DType::bf16) {
    time_attention<bf16>(state, c, what);
  } else {
    time_attention<float>(state, c, what);
  }
}

[[maybe_unused]] const bool registered = [] {
  const auto fits = [](const Case& c) { return c.n <= 16384; };
  const auto small = [](const Case& c) { return c.n <= 4096; };
  for_each_case("plan", fits, make_plan);
  for_each_case("forward", fits,
                [](benchmark::State& state, const Case& c) { run(state, c, Work::forward); });
  for_each_case("backward", small,
                [](benchmark::State& state, const Case& c) { run(state, c, Work::backward); });
  for_each_case("train", small, [](benchmark::State& state, const Case& c) { run(state, c, Work::train); });
  for_each_case("train_checkpointed", small,
                [](benchmark::State& state, const Case& c) { run(state, c, Work::train_checkpointed); });
  return true;
}();

}  // namespace
}  // namespace manyhop::bench
