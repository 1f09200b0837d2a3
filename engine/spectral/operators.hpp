// How each operator of gap() is solved; gap() checks the arguments and fills what is common.
#pragma once

#include <optional>
#include <vector>

#include "manyhop/engine/spectral/gap.hpp"
#include "manyhop/engine/spectral/symmetric.hpp"
#include "manyhop/engine/spectral/twins.hpp"

namespace manyhop::spectral {

/// The graph as the operators see it: edges of weight 0 gone, weights divided by `scale` (their largest
/// size).
struct Input {
  Graph graph;
  bool weighted = false;  // weights are used
  double scale = 1;
  bool symmetric = false;  // structure, and weights where used
  Components parts;
  std::optional<Twins> twins;     // then `graph` is their base
  const Graph* merged = nullptr;  // symmetrised(graph), once it is made
  Offset vertices() const { return twins ? static_cast<Offset>(twins->label.size()) : graph.n_rows(); }
};

/// A left-out part of GapResult: value, vector and residual of both ends.
struct Solution {
  Pair second, last;
  bool has_second = false, has_last = false;
  int iterations = 0;
  std::string method;
};

/// gap() for who wants symmetrised(graph) as well: `merged` is used, or filled where it is made on the way.
GapResult gap_of(const Context& ctx, const Graph& graph, const SpectralOptions& options,
                 std::optional<Graph>& merged);

/// S of the input as 0/1 or weighted, without scales.
std::vector<Graph> symmetric_terms(const Input& input);
/// D^-1/2 S D^-1/2: second largest and smallest.
Solution solve_normalized(const Context& ctx, const Input& input, const SpectralOptions& options);
/// S: second largest, smallest; `first` receives the largest.
Solution solve_adjacency(const Context& ctx, const Input& input, const SpectralOptions& options, Pair& first);
/// I - N with a zero row for a vertex without edges: second smallest and largest.
Solution solve_laplacian(const Context& ctx, const Input& input, const SpectralOptions& options);
/// Second and last of every pair of a dense operator; n <= kDenseSize.
Solution dense_solution(Offset n, const std::function<void(const double*, double*)>& apply,
                        Pair* first = nullptr);
/// From the base of twins to their graph: vectors are spread, and the eigenvalue 0 of differences within a
/// class takes its place.
void expand(const Input& input, Solution& solution);
/// label[v]: the part of row v in the double cover (row v - column w for each edge v, w); of column v at n +
/// v.
std::vector<Index> double_cover(const Graph& graph);

/// Whether a vertex has an edge to itself.   Cost O(log degree), O(runs) for an implicit graph.
bool has_loop(const Graph& graph, Offset v);

/// Which components have an odd cycle, and the sides of the vertices of those that have none.
struct Sides {
  std::vector<char> odd;  // a component
  // A vertex: 0 or 1. Means nothing where the component is odd, and is empty where all are.
  std::vector<char> side;
};
/// Of symmetric_terms(): a symmetric graph, or a graph and its transpose. `parts` are the weak components.
/// Cost O(n + m), O(n + runs) for an implicit graph; mostly less, since the first odd cycle ends the search
/// in a component.   Throws Interrupted.
Sides two_sides(const std::vector<Graph>& terms, const Components& parts);

/// Strong components of a square graph: label[v].   Cost O(n + runs).
struct StrongComponents {
  Offset count = 0;
  std::vector<Index> label;
};
StrongComponents strong_components(const Graph& graph);

/// The eigenvector of the eigenvalue of largest modulus of a non-negative operator with n > kDenseSize, by
/// Arnoldi from `start`; sizes of its entries, not scaled.
std::vector<double> dominant_vector(const Context& ctx, Offset n,
                                    const std::function<void(const double*, double*)>& apply,
                                    const std::vector<double>& start, int max_iterations);

/// The stationary distribution of a strongly connected graph from its row sums, P = D_r^-1 A and P^T.
struct Stationary {
  std::vector<double> pi;
  double residual = 0;  // ||pi P - pi||_1
  double worst = 0;     // max |(pi P - pi)_i| / pi_i: chung divides by roots of pi
};
Stationary stationary(const Context& ctx, const std::vector<double>& sums, const Product& walk,
                      const Product& pull, int max_iterations);

/// Rows and columns that stay, renumbered; `stay` of them do not leave.   Cost O(n + m).
Graph induced(const Graph& graph, const std::vector<char>& leaves, Offset stay);

/// The directed operators fill value, gap, residual, convergence and method themselves.
void solve_transition(const Context& ctx, const Input& input, const SpectralOptions& options,
                      GapResult& result);
void solve_singular(const Context& ctx, const Input& input, const SpectralOptions& options,
                    GapResult& result);
void solve_chung(const Context& ctx, const Input& input, const SpectralOptions& options, GapResult& result);
/// Both ends into the result, and their vectors when asked.
void store(const Solution& solution, const SpectralOptions& options, GapResult& result);

}  // namespace manyhop::spectral
