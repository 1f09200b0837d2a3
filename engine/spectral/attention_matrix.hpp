// The softmax matrix of given queries and keys, seen as a random walk over tokens: what K hops of diffusion
// on that very matrix keep, and how it mixes.
#pragma once

#include <complex>
#include <optional>
#include <string>
#include <vector>

#include "manyhop/engine/spectral/gap.hpp"
#include "manyhop/graphs/base/tensor.hpp"
#include "manyhop/graphs/graph.hpp"
#include "manyhop/ops/context.hpp"

namespace manyhop::spectral {

/// A = softmax over the edges of each row of scale <q_i, k_j>, as weights of `pattern` (m doubles).
/// q, k [n, d], any strides. A row without edges stays a zero row.   Cost 2 m d flops.
/// Throws ValueError when extents disagree, or for a query or key that makes a score that is not finite
/// (naming its edge); LimitError; Interrupted.
Graph softmax_graph(const Context& ctx, const Graph& pattern, TensorView<const double> q,
                    TensorView<const double> k, double scale);

/// pi P = pi, sum 1, of the walk P = D_r^-1 A.
struct StationaryDistribution {
  std::vector<double> pi;  // [n]; empty: there is not one alone, or it was not resolved
  std::string reason;      // why it is empty
  double residual = 0;     // ||pi P - pi||_1
};
/// Of a square graph in which walks end in one closed strong component: zero outside of it. Empty where there
/// are several, a row without edges among them, no vertices, or a chain that doubles do not resolve.
/// Up to 256 vertices by elimination, else by lazy steps and Arnoldi. Throws ValueError for rectangles and
/// negative weights; Interrupted.
StationaryDistribution stationary_distribution(const Context& ctx, const Graph& graph, bool weighted,
                                               int max_iterations = 1000);

/// No edge above the diagonal, or none below it.   Cost O(n + runs).
bool triangular(const Graph& graph);

/// Walks of exactly `hop` edges that end at a row, over rows: how many ways there are to mix, where
/// eigenvalues say nothing. Infinite past 1.8e308.
struct Paths {
  int hop = 0;
  double mean = 0, min = 0, max = 0;
};
/// Cost O(hops (n + m or runs)).   Throws ValueError for rectangles, hops outside 0 .. 1024; Interrupted.
std::vector<Paths> path_counts(const Context& ctx, const Graph& graph, int hops);

/// What K hops with teleport a leave of an eigenvector with eigenvalue mu:
/// (1-a)^K mu^K + a sum_{i < K} (1-a)^i mu^i.   hops >= 0.
std::complex<double> filter_response(std::complex<double> mu, int hops, double teleport);
/// The limit of endless hops, a / (1 - (1-a) mu); empty where it does not exist.
std::optional<double> filter_limit(double mu, double teleport);

struct AttentionMatrixOptions {
  int hops = 1;
  double teleport = 0;
  double tol = 1e-8;
  int max_iterations = 1000;
  bool structural = true;  // chung and the stationary distribution too
};

struct AttentionMatrix {
  GapResult transition;  // of A: second largest modulus
  GapResult singular;    // of D_r^-1/2 A D_c^-1/2
  GapResult chung;
  /// The two largest singular values of A itself; sigma1 is above 1 where columns gather mass.
  double sigma1 = 0, sigma2 = 0;
  double sigma_residual = 0;
  StationaryDistribution stationary;
  double effective_tokens = 0;    // exp of the entropy of pi: n when all tokens count alike; 0 without pi
  std::complex<double> response;  // of the K hops at transition's lambda2
  /// max ||Q F x|| / ||x|| over x of mean 0, F the K-hop operator, Q what takes the mean out: the most that
  /// is left of differences between tokens. Not bound by |response|: A is not normal.
  double gain = 0;
  double gain_residual = 0;
  bool converged = true;
};

/// All of the above for a square graph with weights of 0 or more, as softmax_graph() gives.
/// Cost some hundred products of A and of its transpose; memory about 5 copies of A.
/// Throws ValueError for rectangles, bad hops (0 .. 1024), teleport (0 .. 1), tol; LimitError; Interrupted.
AttentionMatrix attention_matrix(const Context& ctx, const Graph& a,
                                 const AttentionMatrixOptions& options = {});

}  // namespace manyhop::spectral
