#include <algorithm>
#include <cmath>

#include "manyhop/engine/spectral/expansion.hpp"

namespace manyhop::spectral {

Ramanujan ramanujan(const SymmetricGraph& s, std::optional<double> lambda2, std::optional<double> lambda_n,
                    double residual, std::optional<Offset> diameter_lower) {
  Ramanujan result;
  result.bipartite = s.bipartite;
  if (s.n() < 2 || !lambda2 || !lambda_n) {
    result.reason = "the graph has fewer than two vertices";
    return result;
  }
  if (!s.regular()) {
    result.reason = "the graph is not regular";
    return result;
  }
  const double d = s.degree.front();
  result.degree = d;
  if (!s.connected()) {
    result.reason = "the graph is not connected";
    return result;
  }
  if (d < 2) {
    result.reason = "the degree is below 2";
    return result;
  }
  result.applies = true;
  const double bound = 2 * std::sqrt(d - 1);
  result.bound = bound;
  // The spectrum of a bipartite graph is symmetric, so that lambda2 is also the largest size next to -d.
  const bool only_trivial = s.bipartite && s.n() == 2;
  if (only_trivial) {
    result.verdict = true;
    return result;
  }
  const double lambda =
      d * (s.bipartite ? std::abs(*lambda2) : std::max(std::abs(*lambda2), std::abs(*lambda_n)));
  result.lambda = lambda;
  result.ratio = lambda / bound;
  result.margin = bound - lambda;
  result.error = d * residual;
  if (std::abs(*result.margin) > *result.error) result.verdict = *result.margin > 0;
  if (diameter_lower && *diameter_lower >= 4) {
    const auto levels = *diameter_lower / 2 - 1;  // rounded down
    result.alon_boppana = bound - (bound - 1) / static_cast<double>(levels);
  }
  return result;
}

}  // namespace manyhop::spectral
