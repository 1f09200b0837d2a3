// The graph that expansion is measured on: S = A or A^T as 0/1, weighted (W + W^T)/2, with its degrees.
#pragma once

#include <cstddef>
#include <limits>
#include <span>
#include <vector>

#include "manyhop/graphs/graph.hpp"
#include "manyhop/ops/context.hpp"

namespace manyhop::spectral {

/// S with what every measure asks of it. Loops are kept and count once in the degree of their vertex.
struct SymmetricGraph {
  Graph graph;            // symmetric structure without edges of weight 0; weights where `weighted`
  bool weighted = false;  // graph.weights() are used, else every edge counts 1
  std::vector<double> degree;
  double volume = 0;  // sum of the degrees
  Components parts;
  bool symmetrised = false;  // the given graph was not symmetric
  bool bipartite = false;    // connected, and every edge joins its two sides

  Offset n() const { return graph.n_rows(); }
  /// One component that holds every vertex, and at least one edge: walks have one stationary distribution.
  bool connected() const { return parts.count == 1 && volume > 0; }
  double least_degree() const;
  /// All degrees are equal, to 1e-12 of their size.
  bool regular() const;
  /// f(j, weight) for every edge of row i, in column order.
  template <class F>
  void for_each_edge(Offset i, F&& f) const {
    if (weighted) {
      const auto columns = graph.row(i);
      const double* weight = graph.weights().data() + graph.indptr()[static_cast<std::size_t>(i)];
      for (std::size_t e = 0; e < columns.size(); ++e) f(columns[e], weight[e]);
      return;
    }
    graph.for_each_run(i, [&](Run run) {
      for (Index j = run.begin; j < run.end; ++j) f(j, 1.0);
    });
  }
  /// Edges, or runs of an implicit graph: the cost of one product or search.
  Offset stored() const;
};

/// S of a square graph. Weights are used when asked, and for patterns that are multigraphs (their weights
/// are multiplicities), as in gap(). `merged` is symmetrised(graph) of the 0/1 graph where the caller has it.
/// Cost O(n + m), O(n + runs) for an implicit graph.
/// Throws ValueError for rectangles and, where weights are used, for negative ones; Interrupted.
SymmetricGraph symmetric_graph(const Context& ctx, const Graph& graph, bool weighted = false,
                               const Graph* merged = nullptr);

/// Vertices by x_v / sqrt(d_v), ties by number; a vertex without edges counts as 0.   Cost O(n log n).
std::vector<Index> sweep_order(const SymmetricGraph& s, std::span<const double> x);

/// Hops between vertices of one breadth-first search.
inline constexpr Index kUnreached = std::numeric_limits<Index>::max();
struct Search {
  std::vector<Index> distance;  // kUnreached where there is no path
  std::vector<Index> order;     // reached vertices, nearest first
  Index eccentricity = 0;       // the largest distance
};
/// Breadth-first search from `source`.   Cost O(n + m); O(n + runs) for an implicit graph.
Search search(const Graph& graph, Index source);

}  // namespace manyhop::spectral
