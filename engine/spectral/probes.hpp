// Measures of a graph from random probes or sampled sets. Each comes with its error from the spread of the
// probes (standard error of their mean), or says which bound it is. The number of probes is fixed by the
// caller or by a work budget, never by a clock, so that the result is the same on every machine.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "manyhop/engine/spectral/symmetric_graph.hpp"

namespace manyhop::spectral {

/// A mean over probes.
struct Estimate {
  double value = 0;
  double error = 0;  // standard error of the mean; 0 where the value is exact
  int probes = 0;    // 0: exact
};

/// Share of the eigenvalues of N = D^-1/2 S D^-1/2 in bins of equal width over [-1, 1], twice: Chebyshev
/// moments with Jackson's damping (kernel polynomial method: Weisse et al., Rev. Mod. Phys. 78, 2006) and
/// stochastic Lanczos quadrature (Ubaru, Chen, Saad, SIAM J. Matrix Anal. 38, 2017).
struct Density {
  std::vector<double> edges;           // bins + 1
  std::vector<double> kpm, kpm_error;  // share of a bin; the shares add up to 1
  std::vector<double> lanczos, lanczos_error;
  int moments = 0, steps = 0, probes = 0;
  /// The law of a random graph of this degree, share of a bin: "kesten-mckay" for connected regular graphs of
  /// degree above 2, else "semicircle" of radius 2 / sqrt(mean degree) for a mean degree above 4. Empty where
  /// the density is another: where more than a fifth of the eigenvalues would have to move to other bins.
  std::string law;
  std::vector<double> law_share;
};
struct DensityOptions {
  int bins = 65;  // odd: 0 is the middle of a bin
  int moments = 200;
  int steps = 64;  // of Lanczos
  int probes = 16;
  std::uint64_t seed = 0;
  double max_work = 2e10;  // edges visited; fewer probes (at least 2) when they would pass it
};
/// Signs as probes, by seed.   Cost O(probes (moments/2 + steps) (n + m or runs)), memory 6 vectors of n.
/// Empty vectors for n = 0.   Throws ValueError for bins, moments, steps or probes outside 1 .. 65536;
/// Interrupted.
Density density(const Context& ctx, const SymmetricGraph& s, const DensityOptions& options = {});

/// Kirchhoff index: the sum of the effective resistances of all pairs of vertices, n tr(L^+), L = D - S with
/// the weights as conductances.
struct Resistance {
  std::optional<Estimate> kirchhoff;  // empty: several components (infinite), or solves that did not converge
  std::optional<double> mean;         // of a pair: kirchhoff / (n (n - 1)/2)
  bool converged = true;
  int iterations = 0;  // most of a solve
};
struct ProbeOptions {
  int probes = 32;
  std::uint64_t seed = 0;
  double max_work = 2e10;  // edges visited; fewer probes (at least 2) when they would pass it
};
/// Up to 256 vertices exactly from the eigenvalues; else from probes, each solved by conjugate gradients
/// (Jacobi) to a relative residual of 1e-8, Nystrom's approximation by the others taken out of each
/// (XNysTrace; the errors are of probes that share an approximation: over 40 seeds of a path they came
/// out 1.4 times too small). Cost O(probes iterations (n + m)), memory 20 vectors of n. Throws ValueError for
/// probes < 2; Interrupted.
Resistance resistance(const Context& ctx, const SymmetricGraph& s, const ProbeOptions& options = {});

/// (sum_i s_i^2)^2 / sum_i s_i^4 of the singular values of P^K, P = D_r^-1 A of the graph as given: how many
/// directions survive K hops; 1 when all tokens end with the same average, n for the identity.
/// Up to 64 vertices exactly; else from probes.   Cost O(probes K (n + m)). Empty without edges.
/// Throws ValueError for rectangles, hops outside 1 .. 1024, probes < 2, negative weights where they count;
/// Interrupted.
std::optional<Estimate> effective_rank(const Context& ctx, const Graph& graph, int hops = 5,
                                       bool weighted = false, const ProbeOptions& options = {});

/// The largest |e(S, T) - vol S vol T / vol V| / sqrt(vol S vol T (1 - vol S/vol V)(1 - vol T/vol V)) found:
/// a lower bound of max(|lambda2|, |lambda_n|), which the expander mixing lemma bounds it by.
struct Discrepancy {
  std::optional<double> value;
  std::int64_t random_pairs = 0;
  std::int64_t sweep_pairs = 0;
  bool thinned = false;  // fewer random pairs than asked for, or not every sweep set
};
/// Over `random_pairs` pairs of random sets, and over all pairs of sweep sets (prefixes of the order of x_v /
/// sqrt(d_v)) of each of the `vectors`, eigenvectors of N; for n > 512, of 512 prefixes evenly apart. Fewer
/// random pairs when they would visit more than `max_work` edges.   Cost O(random_pairs (n + m) + 512^2).
/// Empty where nothing is connected.   Throws ValueError for vectors of another length, random_pairs < 0;
/// Interrupted.
Discrepancy discrepancy(const Context& ctx, const SymmetricGraph& s,
                        const std::vector<std::vector<double>>& vectors, int random_pairs = 1000,
                        std::uint64_t seed = 0, double max_work = 1e10);

}  // namespace manyhop::spectral
