// Vertices with the same rows and the same columns ("twins": the tokens of a block of `lift`, the leaves of a
// star, all of `full`), and the graph of their classes. A symmetric operator of the graph is that of the
// classes, each entry times the root of both sizes, and 0 once for every vertex more than classes.
#pragma once

#include <optional>
#include <vector>

#include "manyhop/graphs/graph.hpp"

namespace manyhop::spectral {

struct Twins {
  Graph base;                 // class of row -> class of column, without weights
  std::vector<Index> label;   // class of a vertex; classes are numbered by their first vertex
  std::vector<double> sizes;  // vertices of a class
};

/// The classes of a square graph (weights do not count) when there are at most half as many as vertices.
/// Exact: hashes find candidates, edges are compared.   Cost O(n + runs), parallel, and O(edges) of one row a
/// class.
std::optional<Twins> find_twins(const Graph& graph);

}  // namespace manyhop::spectral
