#include "manyhop/engine/spectral/symmetric_graph.hpp"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <string>
#include <utility>

#include "manyhop/engine/spectral/operator.hpp"
#include "manyhop/engine/spectral/operators.hpp"
#include "manyhop/graphs/base/error.hpp"
#include "manyhop/graphs/base/parallel.hpp"

namespace manyhop::spectral {
namespace {

/// (W + W^T)/2 without entries of 0.
Graph mean_with_transpose(const Graph& graph, bool& symmetric) {
  std::vector<Index> rows, cols;
  std::vector<double> weights;
  const auto indptr = graph.indptr();
  const auto indices = graph.indices();
  for (Offset i = 0; i < graph.n_rows(); ++i) {
    if ((i & 0xFFFF) == 0) check_stop();
    for (Offset e = indptr[at(i)]; e < indptr[at(i) + 1]; ++e) {
      const double w = graph.weights()[at(e)];
      if (w < 0)
        throw ValueError("expansion wants weights of 0 or more, got " + std::to_string(w) + " at row " +
                         std::to_string(i) + ", column " + std::to_string(indices[at(e)]));
      if (w == 0) continue;
      rows.push_back(static_cast<Index>(i));
      cols.push_back(indices[at(e)]);
      weights.push_back(w);
    }
  }
  Graph kept = Graph::from_edges(graph.n_rows(), graph.n_cols(), rows, cols, weights);
  symmetric = kept.equals_transpose();
  if (symmetric) return kept;
  const std::size_t count = rows.size();
  for (double& w : weights) w /= 2;
  rows.insert(rows.end(), cols.begin(), cols.begin() + static_cast<std::ptrdiff_t>(count));
  for (std::size_t e = 0; e < count; ++e) {
    cols.push_back(rows[e]);
    weights.push_back(weights[e]);
  }
  return Graph::from_edges(graph.n_rows(), graph.n_cols(), rows, cols, weights);
}

}  // namespace

double SymmetricGraph::least_degree() const {
  return degree.empty() ? 0 : *std::min_element(degree.begin(), degree.end());
}

bool SymmetricGraph::regular() const {
  if (degree.empty()) return false;
  const auto [least, most] = std::minmax_element(degree.begin(), degree.end());
  return *most - *least <= 1e-12 * *most;
}

Offset SymmetricGraph::stored() const {
  if (!graph.implicit()) return graph.nnz();
  Offset total = 0;
  for (Offset i = 0; i < n(); ++i) graph.for_each_run(i, [&](Run) { ++total; });
  return total;
}

SymmetricGraph symmetric_graph(const Context& ctx, const Graph& graph, bool weighted, const Graph* merged) {
  if (!graph.square())
    throw ValueError("expansion wants a square graph, got " + std::to_string(graph.n_rows()) + " x " +
                     std::to_string(graph.n_cols()));
  const ThreadScope scope(ctx.threads, ctx.stop);
  SymmetricGraph result;
  const bool use = uses_weights(graph, weighted);
  result.symmetrised = !is_symmetric(graph);
  if (use && (graph.weighted() || result.symmetrised)) {
    result.weighted = true;
    bool symmetric = true;
    const Graph counted =
        graph.weighted() ? graph : graph.with_weights(std::vector<double>(at(graph.nnz()), 1.0));
    result.graph = mean_with_transpose(counted, symmetric);
    result.symmetrised = !symmetric;
  } else {
    result.graph = !result.symmetrised ? graph.without_weights()
                   : merged != nullptr ? *merged
                                       : manyhop::symmetrised(graph);
  }
  result.degree = row_sums(result.graph, result.weighted);
  result.volume = std::accumulate(result.degree.begin(), result.degree.end(), 0.0);
  result.parts = components(result.graph);
  if (result.connected()) result.bipartite = two_sides({result.graph}, result.parts).odd[0] == 0;
  return result;
}

std::vector<Index> sweep_order(const SymmetricGraph& s, std::span<const double> x) {
  std::vector<double> level(at(s.n()));
  for (std::size_t v = 0; v < level.size(); ++v)
    level[v] = s.degree[v] > 0 ? x[v] / std::sqrt(s.degree[v]) : 0;
  std::vector<Index> order(level.size());
  std::iota(order.begin(), order.end(), Index{0});
  std::sort(order.begin(), order.end(), [&](Index a, Index b) {
    return level[at(a)] < level[at(b)] || (level[at(a)] == level[at(b)] && a < b);
  });
  return order;
}

Search search(const Graph& graph, Index source) {
  const Offset n = graph.n_rows();
  Search result;
  result.distance.assign(at(n), kUnreached);
  result.order.reserve(at(n));
  result.distance[at(source)] = 0;
  result.order.push_back(source);
  // Runs of an implicit graph overlap: the next vertex of a run that has not been reached is looked up.
  std::vector<Index> next;
  if (graph.implicit()) {
    next.resize(at(n) + 1);
    std::iota(next.begin(), next.end(), Index{0});
    next[at(source)] = source + 1;
  }
  const auto unreached_from = [&](Index v) {
    Index root = v;
    while (next[at(root)] != root) root = next[at(root)];
    while (next[at(v)] != root) {
      const Index above = next[at(v)];
      next[at(v)] = root;
      v = above;
    }
    return root;
  };
  // Once all are reached, the edges of the rest lead nowhere new.
  for (std::size_t head = 0; head < result.order.size() && result.order.size() < at(n); ++head) {
    if ((head & 0xFFFF) == 0) check_stop();
    const Index v = result.order[head];
    const Index distance = result.distance[at(v)] + 1;
    const auto reach = [&](Index u) {
      result.distance[at(u)] = distance;
      result.order.push_back(u);
    };
    if (next.empty()) {
      for (const Index u : graph.row(v))
        if (result.distance[at(u)] == kUnreached) reach(u);
    } else {
      graph.for_each_run(v, [&](Run run) {
        for (Index u = unreached_from(run.begin); u < run.end; u = unreached_from(u)) {
          next[at(u)] = u + 1;
          reach(u);
        }
      });
    }
  }
  result.eccentricity = result.distance[at(result.order.back())];
  return result;
}

}  // namespace manyhop::spectral
