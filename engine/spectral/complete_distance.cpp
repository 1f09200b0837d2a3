#include <algorithm>
#include <cmath>

#include "manyhop/engine/spectral/expansion.hpp"
#include "manyhop/engine/spectral/operator.hpp"
#include "manyhop/engine/spectral/symmetric.hpp"
#include "manyhop/graphs/base/parallel.hpp"

namespace manyhop::spectral {

CompleteDistance complete_distance(const Context& ctx, const SymmetricGraph& s, std::optional<double> lambda2,
                                   std::optional<double> lambda_n, double residual, double tol,
                                   int max_iterations) {
  CompleteDistance result;
  if (s.n() < 2) return result;
  if (!s.connected()) {
    result.value = 1;
    return result;
  }
  if (s.regular() && lambda2 && lambda_n) {
    const double d = s.degree.front();
    result.mu2 = d * (1 - *lambda2);
    result.mu_n = d * (1 - *lambda_n);
    result.residual = d * residual;
  } else {
    const ThreadScope scope(ctx.threads, ctx.stop);
    const auto n = at(s.n());
    const Product adjacency(s.graph, s.weighted);
    const auto apply = [&](const double* x, double* y) { apply_laplacian(adjacency, s.degree, x, y); };
    if (s.n() <= kDenseSize) {
      const DenseSpectrum spectrum = dense_spectrum(s.n(), apply);
      result.mu2 = spectrum.values[1];
      result.mu_n = spectrum.values.back();
    } else {
      SymmetricProblem problem;
      problem.n = s.n();
      problem.apply = apply;
      problem.bound = 2 * *std::max_element(s.degree.begin(), s.degree.end());
      problem.known = {std::vector<double>(n, 1 / std::sqrt(static_cast<double>(n)))};
      problem.known_value = 0;
      const double scaled = tol * problem.bound;
      const Extremes ends = extremes(ctx, problem, true, true, scaled, max_iterations);
      result.mu2 = ends.bottom.value;
      result.mu_n = ends.top.value;
      result.residual = std::max(ends.bottom.residual, ends.top.residual);
      result.converged = result.residual <= scaled;
    }
  }
  const double sum = result.mu_n + result.mu2;
  if (sum > 0) result.value = std::clamp((result.mu_n - result.mu2) / sum, 0.0, 1.0);
  return result;
}

}  // namespace manyhop::spectral
