// GCC 12 at -O3 takes the empty boost::optional inside adjacency_list's own edge iterator for an
// uninitialised read.
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif

#include "manyhop/graphs/bgl.hpp"

#include <doctest/doctest.h>
#include <rapidcheck.h>

#include <algorithm>
#include <boost/concept/assert.hpp>
#include <boost/graph/adjacency_list.hpp>
#include <boost/graph/boykov_kolmogorov_max_flow.hpp>
#include <boost/graph/breadth_first_search.hpp>
#include <boost/graph/connected_components.hpp>
#include <boost/graph/dijkstra_shortest_paths.hpp>
#include <boost/graph/edmonds_karp_max_flow.hpp>
#include <boost/graph/graph_concepts.hpp>
#include <boost/graph/push_relabel_max_flow.hpp>
#include <boost/graph/strong_components.hpp>
#include <map>
#include <memory>
#include <utility>
#include <vector>

#include "manyhop/graphs/base/random.hpp"

using namespace manyhop;

BOOST_CONCEPT_ASSERT((boost::VertexListGraphConcept<BglGraph>));
BOOST_CONCEPT_ASSERT((boost::IncidenceGraphConcept<BglGraph>));
BOOST_CONCEPT_ASSERT((boost::BidirectionalGraphConcept<BglGraph>));
BOOST_CONCEPT_ASSERT((boost::AdjacencyGraphConcept<BglGraph>));
BOOST_CONCEPT_ASSERT((boost::EdgeListGraphConcept<BglGraph>));
BOOST_CONCEPT_ASSERT((boost::AdjacencyMatrixConcept<BglGraph>));
BOOST_CONCEPT_ASSERT((boost::ReadablePropertyMapConcept<BglEdgeIndex, BglEdge>));
BOOST_CONCEPT_ASSERT((boost::ReadablePropertyMapConcept<BglEdgeWeight, BglEdge>));

namespace {

using Weighted = boost::property<boost::edge_weight_t, double>;
using Directed =
    boost::adjacency_list<boost::vecS, boost::vecS, boost::directedS, boost::no_property, Weighted>;
using Undirected =
    boost::adjacency_list<boost::vecS, boost::vecS, boost::undirectedS, boost::no_property, Weighted>;

// k random arcs with whole weights 1 .. 9, mirrored when `symmetric` (then without loops).
Graph random_graph(Index n, int k, std::uint64_t seed, bool symmetric) {
  CounterRng rng(seed, 7, 0);
  std::map<std::pair<Index, Index>, double> arcs;
  for (int e = 0; e < k; ++e) {
    const auto u = static_cast<Index>(rng.below(static_cast<std::uint64_t>(n)));
    const auto v = static_cast<Index>(rng.below(static_cast<std::uint64_t>(n)));
    const auto w = static_cast<double>(1 + rng.below(9));
    if (symmetric && u == v) continue;
    arcs[{u, v}] = w;
    if (symmetric) arcs[{v, u}] = w;
  }
  std::vector<Index> rows;
  std::vector<Index> cols;
  std::vector<double> weights;
  for (const auto& [arc, w] : arcs) {
    rows.push_back(arc.first);
    cols.push_back(arc.second);
    weights.push_back(w);
  }
  return Graph::from_edges(n, n, rows, cols, weights);
}

// The same arcs, column to row, in Boost's own structure.
Directed copy_of(const Graph& graph) {
  Directed copy(static_cast<std::size_t>(graph.n_rows()));
  std::size_t e = 0;
  for (Offset i = 0; i < graph.n_rows(); ++i) {
    for (const Index j : graph.row(i)) {
      add_edge(static_cast<std::size_t>(j), static_cast<std::size_t>(i),
               graph.weighted() ? graph.weights()[e] : 1.0, copy);
      ++e;
    }
  }
  return copy;
}

std::vector<int> bfs_levels(const auto& g, std::size_t n, auto start) {
  std::vector<int> level(n, -1);
  level[static_cast<std::size_t>(start)] = 0;
  boost::breadth_first_search(
      g, start,
      boost::visitor(boost::make_bfs_visitor(boost::record_distances(level.data(), boost::on_tree_edge()))));
  return level;
}

double max_flow(const BglGraph& g, Index from, Index to, int algorithm) {
  const std::size_t m = num_edges(g);
  const auto index = get(boost::edge_index, g);
  std::vector<double> residual(m);
  std::vector<BglEdge> before(num_vertices(g));
  std::vector<boost::default_color_type> color(num_vertices(g));
  std::vector<int> distance(num_vertices(g));
  const auto vertex = get(boost::vertex_index, g);
  const auto left = boost::make_iterator_property_map(residual.begin(), index);
  const auto capacity = get(boost::edge_weight, g);
  const auto reverse = get(boost::edge_reverse, g);
  const auto colors = boost::make_iterator_property_map(color.begin(), vertex);
  const auto tree = boost::make_iterator_property_map(before.begin(), vertex);
  if (algorithm == 0) {
    return boost::edmonds_karp_max_flow(g, from, to, capacity, left, reverse, colors, tree);
  }
  return boost::boykov_kolmogorov_max_flow(g, capacity, left, reverse, tree, colors,
                                           boost::make_iterator_property_map(distance.begin(), vertex),
                                           vertex, from, to);
}

// The same network in Boost's own structure, each arc with a reverse arc of capacity 0 as push-relabel wants
// it.
double copied_flow(const Graph& graph, std::size_t from, std::size_t to) {
  using Traits = boost::adjacency_list_traits<boost::vecS, boost::vecS, boost::directedS>;
  using Network = boost::adjacency_list<
      boost::vecS, boost::vecS, boost::directedS, boost::no_property,
      boost::property<boost::edge_capacity_t, double,
                      boost::property<boost::edge_residual_capacity_t, double,
                                      boost::property<boost::edge_reverse_t, Traits::edge_descriptor>>>>;
  Network network(static_cast<std::size_t>(graph.n_rows()));
  std::size_t e = 0;
  for (Offset i = 0; i < graph.n_rows(); ++i) {
    for (const Index j : graph.row(i)) {
      const auto row = static_cast<std::size_t>(i);
      const auto column = static_cast<std::size_t>(j);
      const auto arc = add_edge(column, row, network).first;
      const auto back = add_edge(row, column, network).first;
      put(boost::edge_capacity, network, arc, graph.weights()[e++]);
      put(boost::edge_capacity, network, back, 0.0);
      put(boost::edge_reverse, network, arc, back);
      put(boost::edge_reverse, network, back, arc);
    }
  }
  return boost::push_relabel_max_flow(network, from, to);
}

}  // namespace

// 0 -> 1 -> 2, 0 -> 2, 2 -> 2; row 2 holds columns 0, 1, 2.
TEST_CASE("bgl: source is the column, target the row, out edges follow what a vertex sends") {
  const std::vector<Index> rows{1, 2, 2, 2};
  const std::vector<Index> cols{0, 1, 0, 2};
  const std::vector<double> weights{10, 21, 20, 22};
  const BglGraph g(Graph::from_edges(4, 4, rows, cols, weights));
  CHECK(num_vertices(g) == 4);
  CHECK(num_edges(g) == 4);
  std::vector<BglEdge> out;
  for (auto [e, end] = out_edges(0, g); e != end; ++e) out.push_back(*e);
  CHECK(out == std::vector<BglEdge>{{0, 1}, {0, 2}});
  std::vector<BglEdge> in;
  for (auto [e, end] = in_edges(2, g); e != end; ++e) in.push_back(*e);
  CHECK(in == std::vector<BglEdge>{{0, 2}, {1, 2}, {2, 2}});
  CHECK(source(in[0], g) == 0);
  CHECK(target(in[0], g) == 2);
  CHECK(in_degree(2, g) == 3);
  CHECK(out_degree(2, g) == 1);
  CHECK(degree(2, g) == 4);
  CHECK(degree(3, g) == 0);
  Offset position = 0;  // CSR order: (1,0) (2,0) (2,1) (2,2)
  const std::vector<double> expected{10, 20, 21, 22};
  for (auto [e, end] = edges(g); e != end; ++e, ++position) {
    CHECK(get(boost::edge_index, g, *e) == position);
    CHECK(get(boost::edge_weight, g, *e) == expected[static_cast<std::size_t>(position)]);
  }
  CHECK(position == 4);
  CHECK(edge(0, 2, g).second);
  CHECK_FALSE(edge(2, 0, g).second);
  CHECK(get(get(boost::edge_weight, bgl(g.graph().without_weights())), BglEdge{0, 1}) == 1);
}

TEST_CASE("bgl: empty graphs and rectangles") {
  const BglGraph none{Graph()};
  CHECK(num_vertices(none) == 0);
  CHECK((edges(none).first == edges(none).second));
  const BglGraph isolated(Graph::from_edges(3, 3, {}, {}));
  CHECK((edges(isolated).first == edges(isolated).second));
  CHECK((out_edges(2, isolated).first == out_edges(2, isolated).second));
  CHECK_THROWS_WITH_AS(BglGraph(Graph::from_edges(2, 3, {}, {})),
                       "bgl: the graph is 2 x 3, a square one is wanted", ValueError);
}

TEST_CASE("bgl: a view outlives the handle it was made from") {
  auto graph = std::make_unique<Graph>(random_graph(20, 60, 1, false));
  const Offset m = graph->nnz();
  const BglGraph first(*graph);
  const BglGraph second = first;
  graph.reset();
  CHECK(std::distance(edges(second).first, edges(second).second) == m);
  std::size_t sent = 0;
  for (Index v = 0; v < 20; ++v) sent += out_degree(v, second);
  CHECK(sent == static_cast<std::size_t>(m));
}

TEST_CASE("bgl: searches, components and paths equal those of an adjacency list") {
  for (std::uint64_t seed = 0; seed < 20; ++seed) {
    CAPTURE(seed);
    const auto n = static_cast<Index>(1 + 7 * seed);
    const bool symmetric = seed % 2 == 1;
    const Graph graph = random_graph(n, static_cast<int>(2 * n), seed, symmetric);
    const BglGraph g(graph);
    const Directed other = copy_of(graph);
    const auto size = static_cast<std::size_t>(n);
    CHECK(bfs_levels(g, size, Index{0}) == bfs_levels(other, size, std::size_t{0}));

    std::vector<double> mine(size);
    std::vector<double> theirs(size);
    boost::dijkstra_shortest_paths(
        g, Index{0},
        boost::distance_map(boost::make_iterator_property_map(mine.begin(), get(boost::vertex_index, g))));
    boost::dijkstra_shortest_paths(other, std::size_t{0}, boost::distance_map(theirs.data()));
    CHECK(mine == theirs);

    std::vector<int> strong(size);
    std::vector<int> strong_other(size);
    const int count = boost::strong_components(
        g, boost::make_iterator_property_map(strong.begin(), get(boost::vertex_index, g)));
    CHECK(count == boost::strong_components(other, strong_other.data()));
    if (symmetric) {
      std::vector<int> weak(size);
      const int found = boost::connected_components(
          g, boost::make_iterator_property_map(weak.begin(), get(boost::vertex_index, g)));
      CHECK(found == components(graph).count);
      const auto label = components(graph).label;
      CHECK(std::equal(weak.begin(), weak.end(), label.begin()));  // both number by first vertex
    }
  }
}

// 0 -3- 1 -2- 3 and 0 -1- 2 -4- 3: the cut {0} carries 4, the cut {3} 6, the cut {0, 1} 3.
TEST_CASE("bgl: max-flow on a symmetric graph") {
  const std::vector<Index> rows{0, 1, 1, 3, 0, 2, 2, 3};
  const std::vector<Index> cols{1, 0, 3, 1, 2, 0, 3, 2};
  const std::vector<double> weights{3, 3, 2, 2, 1, 1, 4, 4};
  const BglGraph g(Graph::from_edges(4, 4, rows, cols, weights));
  for (int algorithm = 0; algorithm < 2; ++algorithm) CHECK(max_flow(g, 0, 3, algorithm) == 3);
  CHECK(copied_flow(g.graph(), 0, 3) == 3);
  for (std::uint64_t seed = 100; seed < 110; ++seed) {
    const BglGraph random(random_graph(30, 90, seed, true));
    const double flow = copied_flow(random.graph(), 0, 29);
    CHECK(max_flow(random, 0, 29, 0) == flow);
    CHECK(max_flow(random, 0, 29, 1) == flow);
    CHECK(max_flow(random, 29, 0, 0) == flow);
  }
}

TEST_CASE("from_bgl: arcs become rows of their target, undirected edges mirror") {
  Directed directed(3);
  add_edge(0, 1, 2.0, directed);
  add_edge(0, 1, 3.0, directed);
  add_edge(2, 2, 5.0, directed);
  const Graph plain = from_bgl(directed);
  CHECK(plain.nnz() == 2);
  CHECK(plain.row(1)[0] == 0);
  CHECK_FALSE(plain.weighted());
  CHECK(plain.source() == Source::arcs);
  const Graph weighted = from_bgl(directed, get(boost::edge_weight, directed));
  CHECK(weighted.weights()[0] == 5);
  CHECK(weighted.weights()[1] == 5);

  Undirected mirrored(4);
  add_edge(0, 1, 2.0, mirrored);
  add_edge(2, 2, 7.0, mirrored);
  const Graph both = from_bgl(mirrored, get(boost::edge_weight, mirrored));
  CHECK(both.nnz() == 3);
  CHECK(is_symmetric(both));
  CHECK(both.n_rows() == 4);
  CHECK(both.weights()[2] == 7);
  CHECK(from_bgl(Directed(0)).n_rows() == 0);
}

TEST_CASE("from_bgl of a view is the graph itself") {
  for (std::uint64_t seed = 0; seed < 10; ++seed) {
    const Graph graph = random_graph(25, 60, seed, false);
    const BglGraph g(graph);
    const Graph back = from_bgl(g, get(boost::edge_weight, g));
    CHECK(back.same_edges(graph));
    CHECK(std::equal(back.weights().begin(), back.weights().end(), graph.weights().begin()));
    CHECK(from_bgl(copy_of(graph)).same_edges(graph));
  }
}
