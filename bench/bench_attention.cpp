// Planning, attention with K hops, and its gradients. Values change before every timed run.
#include "manyhop/engine/attention.hpp"
#include "manyhop/graphs/patterns/pattern.hpp"
#include "support.hpp"

namespace manyhop::bench {
namespace {

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
struct Work {
  Case c;
  Offset n;
  Graph graph;
  std::size_t count;
  std::vector<T> q, k, v, g, out, dq, dk, dv;

  Work(const Case& which, Offset tokens)
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
  void forward(const Context& ctx, const Plan& made) {
    attention<T>(ctx, made, view<const T>(q.data()), view<const T>(k.data()), view<const T>(v.data()),
                 view(out.data()), attention_options(c));
  }
  void backward(const Context& ctx, const Plan& made) {
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
                          view<const T>(v.data()), view<const T>(g.data()), gradients, attention_options(c));
  }
};

// Against the plain loops on at most 512 tokens: the same code paths, and the loops end in time.
template <class T>
double error(const Case& c, bool backward) {
  Work<T> work(c, std::min<Offset>(c.n, 512));
  const auto run = [&](Backend backend) {
    const Context ctx{.backend = backend};
    const Plan made = plan(ctx, work.graph, plan_options(c, backward));
    if (backward) {
      work.backward(ctx, made);
    } else {
      work.forward(ctx, made);
    }
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
void time_attention(benchmark::State& state, const Case& c, bool backward) {
  const double wrong = error<T>(c, backward);
  const double allowed = c.dtype == DType::bf16 ? 1e-2 : backward ? 2e-5 : 4e-6;
  if (!(wrong <= allowed)) return fail(state, "differs from the reference by " + std::to_string(wrong));
  const Context ctx;
  Work<T> work(c, c.n);
  const Plan made = plan(ctx, work.graph, plan_options(c, backward));
  std::uint64_t seed = 2;
  for (auto _ : state) {
    state.PauseTiming();
    work.renew(seed++);
    state.ResumeTiming();
    if (backward) {
      work.backward(ctx, made);
    } else {
      work.forward(ctx, made);
    }
  }
  // One score and K products an edge, 2 d flops each; the gradients take twice that and, from q, k, v alone,
  // the forward pass again.
  const double edges = static_cast<double>(work.graph.nnz()) * c.heads;
  const double units = (c.hops + 1) * (backward ? 3.0 : 1.0);
  report(state, 2 * edges * c.d * units, static_cast<double>(work.count * 4 * size_of(c.dtype)),
         static_cast<double>(work.graph.nnz()));
  state.counters["relative_error"] = wrong;
}

void run(benchmark::State& state, const Case& c, bool backward) {
  if (c.dtype == DType::bf16) {
    time_attention<bf16>(state, c, backward);
  } else {
    time_attention<float>(state, c, backward);
  }
}

[[maybe_unused]] const bool registered = [] {
  const auto fits = [](const Case& c) { return c.n <= 16384; };
  const auto small = [](const Case& c) { return c.n <= 4096; };
  for_each_case("plan", fits, make_plan);
  for_each_case("forward", fits, [](benchmark::State& state, const Case& c) { run(state, c, false); });
  for_each_case("backward", small, [](benchmark::State& state, const Case& c) { run(state, c, true); });
  return true;
}();

}  // namespace
}  // namespace manyhop::bench
