// One program for both consumers: a pattern and two hops of attention over it.
#include <manyhop/manyhop.hpp>

#include <cmath>
#include <cstdio>
#include <vector>

int main() {
  const manyhop::Graph graph = manyhop::pattern("window(1) | global(1)", 6);
  const manyhop::Context ctx;
  const manyhop::Plan plan = manyhop::plan(ctx, graph, {.heads = 1, .head_dim = 2, .hops = 2});
  std::vector<float> q(12, 0.0F), v(12), out(12);
  for (std::size_t i = 0; i < v.size(); ++i) v[i] = static_cast<float>(i % 2);
  const manyhop::TensorView<const float> zeros(q.data(), {1, 1, 6, 2}), values(v.data(), {1, 1, 6, 2});
  manyhop::attention<float>(ctx, plan, zeros, zeros, values, {out.data(), {1, 1, 6, 2}}, {.hops = 2});
  // Rows of A sum to one, so constant channels stay what they are.
  for (std::size_t i = 0; i < out.size(); ++i) {
    if (std::abs(out[i] - v[i]) > 1e-6F) return 1;
  }
  std::printf("%lld edges\n", static_cast<long long>(graph.nnz()));
  return graph.nnz() == 24 ? 0 : 1;
}
