// Graphs whose spectrum is a formula, recognised from their edges: circulants (rings, windows that wrap
// around, Paley graphs, complete graphs without loops) and hypercubes.
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
/// hypercubes D - 2 i.   Cost O(n + runs) to recognise, mostly O(1) when it is none; O(n runs of row 0).
std::optional<ClosedForm> closed_form(const Graph& graph);

}  // namespace manyhop::spectral
