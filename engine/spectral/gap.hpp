// How well a graph mixes: extreme eigenvalues with residuals, and reach per hop. Each operator names its
// matrix (see Operator); numerical outcome (converged, residual) is data.
#pragma once

#include <complex>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "manyhop/graphs/graph.hpp"
#include "manyhop/ops/context.hpp"

namespace manyhop::spectral {

enum class Operator : std::uint8_t {
  normalized,  // N = D^-1/2 S D^-1/2, S = A or A^T as 0/1 (weighted: (W + W^T)/2); gap = 1 - lambda2
  adjacency,   // S; gap = l1 - l2
  laplacian,   // I - N; lambda2 second smallest, lambda_n largest; gap = lambda2
  transition,  // D_r^-1 A as given; lambda2 = second largest modulus (complex); gap = 1 - |lambda2|
  singular,    // D_r^-1/2 A D_c^-1/2; lambda2 = sigma_2; gap = 1 - sigma_2
  chung,       // I - (Pi^1/2 P Pi^-1/2 + transpose)/2, strongly connected graphs
};

struct SpectralOptions {
  Operator op = Operator::normalized;
  double tol = 1e-8;  // on the residual ||A x - l x||_2, ||x|| = 1
  bool weighted = false;
  int max_iterations = 1000;  // of 40 products of Lanczos, or restarts of Arnoldi
  bool vectors = false;       // fill GapResult::vectors
  int reach_hops = 5;         // 0: no reach
};

struct Reach {
  int hop = 0;
  double mean = 0;  // share of all columns reached by a row in 1..hop steps or by itself
  double min = 0;
  double error = 0;  // standard error of the mean over the rows that were drawn; 0: all rows were counted
};

struct GapResult {
  Offset n = 0;
  Offset edges = 0;
  std::string op;
  std::string method;
  std::optional<std::complex<double>>
      lambda2;  // empty: undefined (n < 2, chung on a graph it does not apply to)
  std::optional<std::complex<double>> lambda_n;
  std::optional<double> gap;
  double residual = 0;  // the worse of the two, recomputed by a fresh product
  bool converged = true;
  int iterations = 0;
  double seconds = 0;
  bool symmetrised = false;
  Offset components = 0;
  Offset isolated = 0;
  bool applies = true;
  std::string reason;  // why it does not apply
  std::vector<Reach> reach;
  std::vector<double> vectors;  // [n, 2]: of lambda2 and lambda_n
};

/// Second and last eigenvalue of the operator of a square graph; lambda_n is empty for transition and
/// singular, whose small end says nothing about mixing. Weights are used when asked, and for patterns that
/// are multigraphs (their weights are multiplicities).
///
/// Method (`method` names what was used, found from the edges and never from a text): twins, such as the
/// tokens of a block of `lift`, are solved on the graph of their classes; circulants and hypercubes by
/// formula; dense up to 256 vertices; what components, bipartite sides and periods fix is taken exactly; else
/// Lanczos on threaded products, shift-invert where the graph is banded in some order and Lanczos is slow,
/// and Arnoldi (Spectra) for `transition`. `iterations` counts products or solves; at most 40
/// `max_iterations` of Lanczos. What has not converged comes back with its residual and converged = false.
/// Same bits for any thread count. Cost O(runs or edges + n) a product, memory up to 5 GiB for the basis of
/// large graphs, and never more than half of the memory limit. A vertex without edges is a zero row of the
/// operator (of the Laplacian too); gap is 0 whenever components > 1. `transition` works on strong
/// components: its residual is that of the component's block. `chung` on a graph that is not strongly
/// connected: applies = false; a stationary distribution that doubles do not resolve: no values, converged =
/// false and the reason. Throws ValueError for rectangles, tol that is not positive and finite,
/// max_iterations < 1, reach_hops outside 0 .. 1024, negative weights (but for adjacency); LimitError when
/// the memory limit holds no basis; Interrupted.
GapResult gap(const Context& ctx, const Graph& graph, const SpectralOptions& options = {});

/// Mean and least share of columns that rows reach within 1..K hops (a row reaches itself). Exact up to
/// `exact_rows` rows, else on that many rows drawn by seed. Same numbers for any thread count.   Cost O(hops
/// rows / 64 (n + edges or runs)), memory O(n) a thread and block. No vertices: zeros. Throws ValueError for
/// rectangles, hops outside 0 .. 1024, exact_rows < 1; Interrupted.
std::vector<Reach> reach(const Context& ctx, const Graph& graph, int hops, Offset exact_rows = 4096,
                         std::uint64_t seed = 0);

}  // namespace manyhop::spectral
