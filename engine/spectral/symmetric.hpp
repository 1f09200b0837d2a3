// Both ends of the spectrum of a symmetric operator: dense for small ones, Lanczos driven by threaded
// products, and shift-invert where the graph is banded and Lanczos is slow. Every pair is checked by
// a fresh product.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "manyhop/engine/spectral/operator.hpp"
#include "manyhop/ops/context.hpp"

namespace manyhop::spectral {

/// Up to this many vertices a dense matrix is solved: 256 x 256 numbers, half a megabyte.
inline constexpr Offset kDenseSize = 256;

struct Pair {
  double value = 0;
  double residual = 0;  // ||H x - value x||, ||x|| = 1
  std::vector<double> vector;
};

struct SymmetricProblem {
  Offset n = 0;
  std::function<void(const double*, double*)> apply;    // y = H x
  std::function<void(const double*, double*)> rounded;  // H x partly in single precision; absent: not cheaper
  double bound = 1;                                     // no eigenvalue is larger in size
  std::vector<std::vector<double>> known;               // orthonormal eigenvectors that are left out
  double known_value = 0;                               // the largest of their eigenvalues
  const SymmetricOperator* banded = nullptr;            // H as rows, for shift-invert; absent: not tried
};

struct Extremes {
  Pair top, bottom;  // of the spectrum without `known`; unset where not wanted
  int iterations = 0;
  std::string method;
};

/// Largest and smallest eigenvalue of the problem; n > kDenseSize. Deterministic. At most `max_restarts`
/// restarts for each end; what has not converged by then comes back with its residual.
Extremes extremes(const Context& ctx, const SymmetricProblem& problem, bool top, bool bottom, double tol,
                  int max_restarts);

struct DenseSpectrum {
  std::vector<double> values;   // increasing
  std::vector<double> vectors;  // column k at vectors[k * n]
};
/// Every eigenpair of an operator of at most kDenseSize vertices.
DenseSpectrum dense_spectrum(Offset n, const std::function<void(const double*, double*)>& apply);

/// Rayleigh quotient and residual of a unit vector by a fresh product.
Pair checked(const std::function<void(const double*, double*)>& apply, std::vector<double> x);

}  // namespace manyhop::spectral
