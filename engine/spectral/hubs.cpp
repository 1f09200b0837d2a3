#include <algorithm>
#include <string>

#include "manyhop/engine/spectral/expansion.hpp"
#include "manyhop/engine/spectral/operators.hpp"
#include "manyhop/graphs/base/error.hpp"
#include "manyhop/graphs/base/parallel.hpp"

namespace manyhop::spectral {
Graph induced(const Graph& graph, const std::vector<char>& leaves, Offset stay) {
  std::vector<Index> number(leaves.size());
  Index next = 0;
  for (std::size_t v = 0; v < leaves.size(); ++v)
    if (leaves[v] == 0) number[v] = next++;
  std::vector<Offset> indptr{0};
  std::vector<Index> indices;
  std::vector<double> weights;
  for (Offset i = 0; i < graph.n_rows(); ++i) {
    if ((i & 0xFFFF) == 0) check_stop();
    if (leaves[at(i)] != 0) continue;
    const auto row = graph.row(i);
    for (std::size_t e = 0; e < row.size(); ++e) {
      if (leaves[at(row[e])] != 0) continue;
      indices.push_back(number[at(row[e])]);
      if (graph.weighted()) weights.push_back(graph.weights()[at(graph.indptr()[at(i)]) + e]);
    }
    indptr.push_back(static_cast<Offset>(indices.size()));
  }
  return Graph::from_csr(stay, stay, std::move(indptr), std::move(indices), std::move(weights));
}

WithoutHubs without_hubs(const Context& ctx, const Graph& graph, const SpectralOptions& options,
                         double factor) {
  if (!graph.square())
    throw ValueError("without_hubs wants a square graph, got " + std::to_string(graph.n_rows()) + " x " +
                     std::to_string(graph.n_cols()));
  if (!(factor >= 1)) throw ValueError("factor is " + std::to_string(factor) + " and must be 1 or more");
  const ThreadScope scope(ctx.threads, ctx.stop);
  WithoutHubs result;
  const auto n = at(graph.n_rows());
  if (n == 0) return result;
  const Graph mutual = is_symmetric(graph) ? graph : symmetrised(graph);
  std::vector<Offset> degree(n);
  for (std::size_t v = 0; v < n; ++v) degree[v] = mutual.degree(static_cast<Offset>(v));
  auto sorted = degree;
  std::nth_element(sorted.begin(), sorted.begin() + static_cast<std::ptrdiff_t>(n / 2), sorted.end());
  const double limit = factor * static_cast<double>(std::max<Offset>(1, sorted[n / 2]));
  std::vector<char> leaves(n);
  for (std::size_t v = 0; v < n; ++v) {
    leaves[v] = static_cast<double>(degree[v]) > limit ? 1 : 0;
    result.hubs += leaves[v];
  }
  SpectralOptions request = options;
  request.op = Operator::normalized;
  request.vectors = false;
  request.reach_hops = 0;
  request.weighted = uses_weights(graph, options.weighted);
  const Graph rest = result.hubs == 0 ? graph : induced(graph, leaves, graph.n_rows() - result.hubs);
  const GapResult solved = gap(ctx, rest, request);
  result.gap = solved.gap;
  result.residual = solved.residual;
  result.converged = solved.converged;
  return result;
}

}  // namespace manyhop::spectral
