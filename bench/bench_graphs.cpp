// Making a token graph, and cutting it into tiles.
#include "manyhop/graphs/base/parallel.hpp"
#include "manyhop/graphs/patterns/pattern.hpp"
#include "manyhop/graphs/tiling.hpp"
#include "support.hpp"

namespace manyhop::bench {
namespace {

void generate(benchmark::State& state, const Case& c) {
  const Graph parallel = pattern(c.pattern, c.n);
  std::uint64_t serial = 0;
  {
    const ThreadScope one(1);
    serial = pattern(c.pattern, c.n).hash();
  }
  if (parallel.hash() != serial) return fail(state, "one thread makes another graph");
  for (auto _ : state) benchmark::DoNotOptimize(pattern(c.pattern, c.n));
  report(state, 0, static_cast<double>(parallel.bytes()), static_cast<double>(parallel.nnz()));
}

void tile(benchmark::State& state, const Case& c) {
  const Graph graph = pattern(c.pattern, c.n);
  const Tiling tiling = make_tiling(graph);
  if (tiling.dense_edges + tiling.irregular_edges != graph.nnz()) return fail(state, "the tiling lost edges");
  for (auto _ : state) benchmark::DoNotOptimize(make_tiling(graph));
  report(state, 0, static_cast<double>(graph.bytes() + tiling.bytes()), static_cast<double>(graph.nnz()));
  state.counters["dense_share"] =
      static_cast<double>(tiling.dense_edges) / static_cast<double>(std::max<Offset>(1, graph.nnz()));
}

[[maybe_unused]] const bool registered = [] {
  const auto all = [](const Case& c) { return c.dtype == DType::f32; };
  for_each_case("generate", all, generate);
  for_each_case("tile", all, tile);
  return true;
}();

}  // namespace
}  // namespace manyhop::bench
