// The spectral gap of a pattern.
#include "manyhop/engine/spectral/gap.hpp"
#include "manyhop/graphs/patterns/pattern.hpp"
#include "support.hpp"

namespace manyhop::bench {
namespace {

void time_gap(benchmark::State& state, const Case& c) {
  const Context ctx;
  spectral::SpectralOptions options;
  options.reach_hops = 0;
  // A cycle with loops has a closed form: lambda2 = (1 + 2 cos(2 pi / n)) / 3.
  const auto cycle = spectral::gap(ctx, pattern("window(1, ring=true)", 100), options);
  const double expected = (1 + 2 * std::cos(2 * 3.14159265358979323846 / 100)) / 3;
  if (!cycle.lambda2 || std::abs(cycle.lambda2->real() - expected) > 1e-7) {
    return fail(state, "the gap of a cycle is wrong");
  }
  const Graph graph = pattern(c.pattern, c.n);
  spectral::GapResult result;
  for (auto _ : state) result = spectral::gap(ctx, graph, options);
  if (!result.converged || !(result.residual <= options.tol)) return fail(state, "did not converge");
  report(state, 0, 0, static_cast<double>(graph.nnz()));
  state.counters["gap"] = result.gap.value_or(0);
  state.counters["iterations"] = result.iterations;
  state.counters["residual"] = result.residual;
}

[[maybe_unused]] const bool registered = [] {
  const auto takes = [](const Case& c) {
    return c.dtype == DType::f32 && c.n <= 16384 && c.pattern != "full";
  };
  for_each_case("gap", takes, time_gap);
  return true;
}();

}  // namespace
}  // namespace manyhop::bench
