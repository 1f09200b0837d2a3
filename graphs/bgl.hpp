// Boost.Graph: a model of a square Graph without copying its arrays, and construction from any Boost graph.
//
// source(e) = column (sends), target(e) = row (receives), so out_edges(v) are the rows that v sends to: row v
// of Graph::transpose(), which is built once and owned by the graph. This is the only header that names
// Boost.
#pragma once

#include <algorithm>
#include <boost/graph/graph_traits.hpp>
#include <boost/graph/properties.hpp>
#include <boost/iterator/counting_iterator.hpp>
#include <boost/iterator/iterator_facade.hpp>
#include <boost/property_map/property_map.hpp>
#include <compare>
#include <cstddef>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "manyhop/graphs/base/error.hpp"
#include "manyhop/graphs/graph.hpp"

namespace manyhop {

/// An edge: `source` sends to `target`.
struct BglEdge {
  Index source = -1;
  Index target = -1;
  friend auto operator<=>(const BglEdge&, const BglEdge&) = default;
};

/// Models VertexListGraph, BidirectionalGraph (thus IncidenceGraph), AdjacencyGraph, EdgeListGraph and
/// AdjacencyMatrix. A handle: copies share the graph. Property maps: vertex_index, edge_index (position of
/// the edge in the CSR arrays, found by bisection in O(log degree)), edge_weight (the graph's weight, or 1).
class BglGraph {
 public:
  struct Traversal : virtual boost::vertex_list_graph_tag,
                     virtual boost::bidirectional_graph_tag,
                     virtual boost::adjacency_graph_tag,
                     virtual boost::edge_list_graph_tag,
                     virtual boost::adjacency_matrix_tag {};

  /// Edges of one row, or of one row of the transpose: the fixed end is `self`.
  template <bool kOut>
  class Incident : public boost::iterator_facade<Incident<kOut>, BglEdge, boost::random_access_traversal_tag,
                                                 BglEdge, std::ptrdiff_t> {
   public:
    Incident() = default;
    Incident(Index self, const Index* other) : self_(self), other_(other) {}

   private:
    friend class boost::iterator_core_access;
    BglEdge dereference() const { return kOut ? BglEdge{self_, *other_} : BglEdge{*other_, self_}; }
    bool equal(const Incident& that) const { return other_ == that.other_; }
    void increment() { ++other_; }
    void decrement() { --other_; }
    void advance(std::ptrdiff_t n) { other_ += n; }
    std::ptrdiff_t distance_to(const Incident& that) const { return that.other_ - other_; }
    Index self_ = 0;
    const Index* other_ = nullptr;
  };

  /// All edges in CSR order.
  class Edges
      : public boost::iterator_facade<Edges, BglEdge, boost::forward_traversal_tag, BglEdge, std::ptrdiff_t> {
   public:
    Edges() = default;
    Edges(const Offset* indptr, const Index* indices, Offset position, Offset count)
        : indptr_(indptr), indices_(indices), position_(position), count_(count) {
      settle();
    }

   private:
    friend class boost::iterator_core_access;
    void settle() {
      while (position_ < count_ && indptr_[row_ + 1] <= position_) ++row_;
    }
    BglEdge dereference() const { return {indices_[position_], static_cast<Index>(row_)}; }
    bool equal(const Edges& that) const { return position_ == that.position_; }
    void increment() {
      ++position_;
      settle();
    }
    const Offset* indptr_ = nullptr;
    const Index* indices_ = nullptr;
    Offset position_ = 0;
    Offset count_ = 0;
    Offset row_ = 0;
  };

  using vertex_descriptor = Index;
  using edge_descriptor = BglEdge;
  using directed_category = boost::bidirectional_tag;
  using edge_parallel_category = boost::disallow_parallel_edge_tag;
  using traversal_category = Traversal;
  using vertices_size_type = std::size_t;
  using edges_size_type = std::size_t;
  using degree_size_type = std::size_t;
  using vertex_iterator = boost::counting_iterator<Index, boost::random_access_traversal_tag, std::ptrdiff_t>;
  using out_edge_iterator = Incident<true>;
  using in_edge_iterator = Incident<false>;
  using edge_iterator = Edges;
  using adjacency_iterator = const Index*;
  static vertex_descriptor null_vertex() { return -1; }

  /// A view of a square graph. Builds its transpose and, if it is implicit, writes its edges (both once,
  /// owned by the graph).   Cost O(n + m) at first, then O(1).   Throws ValueError for a rectangle.
  explicit BglGraph(Graph graph) : graph_(std::move(graph)) {
    if (!graph_.square()) {
      throw ValueError("bgl: the graph is " + std::to_string(graph_.n_rows()) + " x " +
                       std::to_string(graph_.n_cols()) + ", a square one is wanted");
    }
    graph_.indices();
    sends_ = &graph_.transpose();
    sends_->indices();
  }

  const Graph& graph() const { return graph_; }
  const Graph& sends() const { return *sends_; }  // row v: where v sends

  /// Position of the edge in the CSR arrays; the edge must exist.
  Offset position(BglEdge e) const {
    const auto row = graph_.row(e.target);
    return graph_.indptr()[static_cast<std::size_t>(e.target)] +
           (std::lower_bound(row.begin(), row.end(), e.source) - row.begin());
  }

 private:
  Graph graph_;
  const Graph* sends_;  // owned by graph_'s storage, which every copy shares
};

inline BglGraph bgl(const Graph& graph) { return BglGraph(graph); }

// VertexListGraph
inline std::size_t num_vertices(const BglGraph& g) { return static_cast<std::size_t>(g.graph().n_rows()); }
inline std::pair<BglGraph::vertex_iterator, BglGraph::vertex_iterator> vertices(const BglGraph& g) {
  return {BglGraph::vertex_iterator(0), BglGraph::vertex_iterator(static_cast<Index>(g.graph().n_rows()))};
}

// EdgeListGraph
inline std::size_t num_edges(const BglGraph& g) { return static_cast<std::size_t>(g.graph().nnz()); }
inline std::pair<BglGraph::Edges, BglGraph::Edges> edges(const BglGraph& g) {
  const Graph& graph = g.graph();
  const Offset* indptr = graph.indptr().data();
  const Index* indices = graph.indices().data();
  return {BglGraph::Edges(indptr, indices, 0, graph.nnz()),
          BglGraph::Edges(indptr, indices, graph.nnz(), graph.nnz())};
}
inline Index source(BglEdge e, const BglGraph&) { return e.source; }
inline Index target(BglEdge e, const BglGraph&) { return e.target; }

// IncidenceGraph
inline std::pair<BglGraph::out_edge_iterator, BglGraph::out_edge_iterator> out_edges(Index v,
                                                                                     const BglGraph& g) {
  const auto row = g.sends().row(v);
  return {{v, row.data()}, {v, row.data() + row.size()}};
}
inline std::size_t out_degree(Index v, const BglGraph& g) {
  return static_cast<std::size_t>(g.sends().degree(v));
}

// BidirectionalGraph
inline std::pair<BglGraph::in_edge_iterator, BglGraph::in_edge_iterator> in_edges(Index v,
                                                                                  const BglGraph& g) {
  const auto row = g.graph().row(v);
  return {{v, row.data()}, {v, row.data() + row.size()}};
}
inline std::size_t in_degree(Index v, const BglGraph& g) {
  return static_cast<std::size_t>(g.graph().degree(v));
}
inline std::size_t degree(Index v, const BglGraph& g) { return in_degree(v, g) + out_degree(v, g); }

// AdjacencyGraph
inline std::pair<const Index*, const Index*> adjacent_vertices(Index v, const BglGraph& g) {
  const auto row = g.sends().row(v);
  return {row.data(), row.data() + row.size()};
}

// AdjacencyMatrix
inline std::pair<BglEdge, bool> edge(Index u, Index v, const BglGraph& g) {
  const auto row = g.graph().row(v);
  return {BglEdge{u, v}, std::binary_search(row.begin(), row.end(), u)};
}

/// edge_index: the position in the CSR arrays, in 0 .. m - 1.
class BglEdgeIndex {
 public:
  using key_type = BglEdge;
  using value_type = Offset;
  using reference = Offset;
  using category = boost::readable_property_map_tag;
  BglEdgeIndex() = default;
  explicit BglEdgeIndex(const BglGraph& g) : g_(&g) {}
  friend Offset get(const BglEdgeIndex& map, BglEdge e) { return map.g_->position(e); }
  Offset operator[](BglEdge e) const { return g_->position(e); }

 private:
  const BglGraph* g_ = nullptr;
};

/// edge_weight: the weight of the graph, 1 for a graph without weights.
class BglEdgeWeight {
 public:
  using key_type = BglEdge;
  using value_type = double;
  using reference = double;
  using category = boost::readable_property_map_tag;
  BglEdgeWeight() = default;
  explicit BglEdgeWeight(const BglGraph& g) : g_(&g) {}
  friend double get(const BglEdgeWeight& map, BglEdge e) { return map[e]; }
  double operator[](BglEdge e) const {
    const auto weights = g_->graph().weights();
    return weights.empty() ? 1.0 : weights[static_cast<std::size_t>(g_->position(e))];
  }

 private:
  const BglGraph* g_ = nullptr;
};

/// The reverse of an edge, as max-flow wants it; an edge of the graph when the graph is symmetric. Boost's
/// push-relabel wants reverse arcs of capacity 0 instead: use Boykov-Kolmogorov or Edmonds-Karp here.
struct BglReverse {
  using key_type = BglEdge;
  using value_type = BglEdge;
  using reference = BglEdge;
  using category = boost::readable_property_map_tag;
  friend BglEdge get(BglReverse, BglEdge e) { return {e.target, e.source}; }
  BglEdge operator[](BglEdge e) const { return {e.target, e.source}; }
};

using BglVertexIndex = boost::typed_identity_property_map<Index>;

inline BglVertexIndex get(boost::vertex_index_t, const BglGraph&) { return {}; }
inline BglEdgeIndex get(boost::edge_index_t, const BglGraph& g) { return BglEdgeIndex(g); }
inline BglEdgeWeight get(boost::edge_weight_t, const BglGraph& g) { return BglEdgeWeight(g); }
inline BglReverse get(boost::edge_reverse_t, const BglGraph&) { return {}; }
inline Index get(boost::vertex_index_t, const BglGraph&, Index v) { return v; }
inline Offset get(boost::edge_index_t, const BglGraph& g, BglEdge e) { return g.position(e); }
inline double get(boost::edge_weight_t, const BglGraph& g, BglEdge e) { return BglEdgeWeight(g)[e]; }
inline BglEdge get(boost::edge_reverse_t, const BglGraph&, BglEdge e) { return {e.target, e.source}; }

namespace detail {

template <class G, class Weight>
Graph from_bgl_arcs(const G& g, Weight weight, bool weighted) {
  const auto n = static_cast<Offset>(num_vertices(g));
  if (n > kMaxVertices) {
    throw ValueError("from_bgl: " + std::to_string(n) + " vertices, at most " + std::to_string(kMaxVertices) +
                     " are possible");
  }
  constexpr bool kDirected =
      std::is_convertible_v<typename boost::graph_traits<G>::directed_category, boost::directed_tag>;
  const auto index = get(boost::vertex_index, g);
  std::vector<Index> rows;
  std::vector<Index> cols;
  std::vector<double> weights;
  const auto arcs = edges(g);
  for (auto e = arcs.first; e != arcs.second; ++e) {
    const auto u = static_cast<Index>(get(index, source(*e, g)));
    const auto v = static_cast<Index>(get(index, target(*e, g)));
    const double w = weight(*e);
    rows.push_back(v);
    cols.push_back(u);
    if (weighted) weights.push_back(w);
    if (!kDirected && u != v) {
      rows.push_back(u);
      cols.push_back(v);
      if (weighted) weights.push_back(w);
    }
  }
  return Graph::from_edges(n, n, rows, cols, weights).labelled("", Source::arcs);
}

}  // namespace detail

/// The graph of any Boost graph with vertex and edge lists and a vertex_index map: arc u -> v becomes row v,
/// column u; an undirected edge becomes both (a loop one). Parallel edges merge.   Cost O(n + m).
template <class G>
Graph from_bgl(const G& g) {
  return detail::from_bgl_arcs(
      g, [](const auto&) { return 1.0; }, false);
}

/// The same with weights read from a property map of edges; weights of parallel edges add.
template <class G, class WeightMap>
Graph from_bgl(const G& g, WeightMap weight) {
  return detail::from_bgl_arcs(
      g, [&](const auto& e) { return static_cast<double>(get(weight, e)); }, true);
}

}  // namespace manyhop

namespace boost {

template <>
struct property_map<manyhop::BglGraph, vertex_index_t> {
  using type = manyhop::BglVertexIndex;
  using const_type = type;
};
template <>
struct property_map<manyhop::BglGraph, edge_index_t> {
  using type = manyhop::BglEdgeIndex;
  using const_type = type;
};
template <>
struct property_map<manyhop::BglGraph, edge_weight_t> {
  using type = manyhop::BglEdgeWeight;
  using const_type = type;
};
template <>
struct property_map<manyhop::BglGraph, edge_reverse_t> {
  using type = manyhop::BglReverse;
  using const_type = type;
};

}  // namespace boost
