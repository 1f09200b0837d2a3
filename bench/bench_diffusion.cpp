// Diffusion of a signal over a graph: personalised PageRank and heat.
#include "manyhop/engine/diffusion.hpp"
#include "manyhop/graphs/patterns/pattern.hpp"
#include "support.hpp"

namespace manyhop::bench {
namespace {

constexpr int kHops = 10;

void time_diffusion(benchmark::State& state, const Case& c, Kernel kernel) {
  DiffuseOptions options;
  options.kernel = kernel;
  options.hops = kHops;
  options.normalization = Normalization::row;
  const auto run = [&](Backend backend, const Graph& graph, const std::vector<float>& x,
                       std::vector<float>& z) {
    const Context ctx{.backend = backend};
    const Offset n = graph.n_rows();
    diffuse<float>(ctx, graph, {x.data(), {n, c.d}}, {z.data(), {n, c.d}}, options);
  };
  {
    const Graph graph = pattern(c.pattern, std::min<Offset>(c.n, 512));
    const auto x = noise<float>(static_cast<std::size_t>(graph.n_rows() * c.d), 1);
    std::vector<float> expected(x.size()), z(x.size());
    run(Backend::reference, graph, x, expected);
    run(Backend::cpu, graph, x, z);
    const double wrong = relative_error<float>(std::span<const float>(z), std::span<const float>(expected));
    if (!(wrong <= 4e-6)) return fail(state, "differs from the reference by " + std::to_string(wrong));
  }
  const Graph graph = pattern(c.pattern, c.n);
  auto x = noise<float>(static_cast<std::size_t>(c.n * c.d), 1);
  std::vector<float> z(x.size());
  std::uint64_t seed = 2;
  for (auto _ : state) {
    state.PauseTiming();
    x = noise<float>(x.size(), seed++);
    state.ResumeTiming();
    run(Backend::cpu, graph, x, z);
  }
  const auto edges = static_cast<double>(graph.nnz());
  report(state, 2 * edges * c.d * kHops, static_cast<double>(x.size() * 8), edges * kHops);
}

[[maybe_unused]] const bool registered = [] {
  const auto takes = [](const Case& c) { return c.dtype == DType::f32 && c.pattern != "full"; };
  for_each_case("ppr", takes,
                [](benchmark::State& state, const Case& c) { time_diffusion(state, c, Kernel::ppr); });
  for_each_case("heat", takes,
                [](benchmark::State& state, const Case& c) { time_diffusion(state, c, Kernel::heat); });
  return true;
}();

}  // namespace
}  // namespace manyhop::bench
