// Graphs whose spectrum is a formula, recognised from their edges: circulants (rings, windows that wrap
// around, Paley graphs, complete graphs without loops), hypercubes and rows with columns (`axial`); and
// products of two smaller graphs (`grid`).
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "manyhop/graphs/graph.hpp"

namespace manyhop::spectral {

/// Of the matrix of zeros and ones of a regular graph; divide by the degree for the normalised one.
struct ClosedForm {
  std::string method;
  double degree = 0;  // the largest eigenvalue
  double second = 0;
  double last = 0;
  std::vector<double> second_vector, last_vector;  // length 1
};

/// The closed form of a symmetric graph with at least two vertices and an edge, if it has one: circulants
/// l_k = sum over the steps s of row 0 of cos(2 pi k s / n), a run of steps at once (Dirichlet kernel);
/// hypercubes D - 2 i; h rows of w that see their row and column h - c, w - c and -c, c = 2 (1 with loops).
/// Cost O(n + runs) to recognise, mostly O(1) when it is none; O(n runs of row 0).
std::optional<ClosedForm> closed_form(const Graph& graph);

/// graph = outer x inner: an edge (a, b) - (c, d) for every edge a - c of outer and b - d of inner; vertex
/// (a, b) is a * inner.n_rows() + b. Its normalised eigenvalues are the products of theirs.
struct ProductGraph {
  Graph outer, inner;
};
/// The factors of a graph without weights, both of at least two vertices, if the gaps of its first row show
/// any.   Cost O(n + runs), mostly O(1) when there are none.
std::optional<ProductGraph> product_graph(const Graph& graph);

}  // namespace manyhop::spectral
