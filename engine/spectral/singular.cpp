// singular: second singular value of D_r^-1/2 A D_c^-1/2, through its Gram operator with the known first pair
// left out.
#include <Eigen/Core>
#include <Eigen/SVD>
#include <algorithm>
#include <cmath>
#include <utility>

#include "manyhop/engine/spectral/operators.hpp"

namespace manyhop::spectral {
namespace {

std::vector<double> inverse_roots(const std::vector<double>& sums) {
  std::vector<double> result(sums.size());
  for (std::size_t i = 0; i < sums.size(); ++i) result[i] = sums[i] > 0 ? 1 / std::sqrt(sums[i]) : 0;
  return result;
}

void keep(double sigma, double residual, std::string method, GapResult& result) {
  result.lambda2 = sigma;
  result.gap = 1 - sigma;
  result.residual = residual;
  result.method = std::move(method);
}

}  // namespace

void solve_singular(const Context& ctx, const Input& input, const SpectralOptions& options,
                    GapResult& result) {
  const Offset n = input.graph.n_rows();
  if (n < 2) {
    result.method = "none (fewer than two vertices)";
    return;
  }
  if (input.symmetric) {  // singular values are the sizes of the eigenvalues
    const Solution solution = solve_normalized(ctx, input, options);
    const bool low = std::abs(solution.last.value) > std::abs(solution.second.value);
    const Pair& pair = low ? solution.last : solution.second;
    keep(std::abs(pair.value), std::max(solution.last.residual, solution.second.residual), solution.method,
         result);
    result.iterations = solution.iterations;
    return;
  }
  const auto columns = row_sums(input.graph.transpose(), input.weighted);
  const auto left = inverse_roots(row_sums(input.graph, input.weighted));
  const auto right = inverse_roots(columns);
  const Product forward(input.graph, input.weighted, left, right, ctx.backend);
  const Product backward(input.graph.transpose(), input.weighted, right, left, ctx.backend);
  std::vector<double> middle(at(n));
  const auto gram = [&](const double* x, double* y) {
    forward.apply(x, middle.data());
    backward.apply(middle.data(), y);
  };
  // sigma = ||B v||, u = B v / sigma; what is left of the augmented pair is B^T u - sigma v.
  const auto refine = [&](const std::vector<double>& v, const std::string& method) {
    std::vector<double> u(at(n)), back(at(n));
    forward.apply(v.data(), u.data());
    const double sigma = norm(u);
    if (!normalise(u)) {
      keep(0, 0, method, result);
      return;
    }
    backward.apply(u.data(), back.data());
    for (std::size_t i = 0; i < back.size(); ++i) back[i] -= sigma * v[i];
    // A sigma at rounding level has no direction u; the pair (0, v) is as good and its residual is sigma.
    keep(sigma, std::min(norm(back) / std::sqrt(2.0), sigma), method, result);
  };

  // Every part of the double cover with an edge has the singular value 1.
  const auto label = double_cover(input.graph);
  std::vector<double> mass(2 * at(n) + 1);
  for (std::size_t j = 0; j < columns.size(); ++j) mass[at(label[at(n) + j])] += columns[j];
  std::vector<Index> filled;
  for (std::size_t c = 0; c < mass.size() && filled.size() < 2; ++c)
    if (mass[c] > 0) filled.push_back(static_cast<Index>(c));
  if (filled.empty()) {
    keep(0, 0, "exact (no edges)", result);
    return;
  }
  std::vector<double> v(at(n));
  if (filled.size() > 1) {
    const double a = mass[at(filled[0])];
    const double b = mass[at(filled[1])];
    for (std::size_t j = 0; j < v.size(); ++j) {
      if (label[at(n) + j] == filled[0]) v[j] = std::sqrt(columns[j]) * std::sqrt(b / a);
      if (label[at(n) + j] == filled[1]) v[j] = -std::sqrt(columns[j]) * std::sqrt(a / b);
    }
    normalise(v);
    refine(v, "exact (components of the double cover)");
    result.lambda2 = 1.0;
    result.gap = 0.0;
    return;
  }
  if (n <= kDenseSize) {
    Eigen::MatrixXd dense = Eigen::MatrixXd::Zero(n, n);
    for (Offset i = 0; i < n; ++i) forward.for_each(i, [&](Index j, double value) { dense(i, j) = value; });
    const Eigen::JacobiSVD<Eigen::MatrixXd> svd(dense, Eigen::ComputeFullU | Eigen::ComputeFullV);
    const Eigen::VectorXd second = svd.matrixV().col(1);
    refine({second.data(), second.data() + n}, "dense");
    return;
  }
  SymmetricProblem problem;
  problem.n = n;
  problem.apply = gram;
  for (std::size_t j = 0; j < v.size(); ++j) v[j] = std::sqrt(columns[j]);
  normalise(v);
  problem.known.push_back(v);
  problem.known_value = 1;
  const Extremes found =
      extremes(ctx, problem, true, false, std::max(1e-2 * options.tol, 1e-14), options.max_iterations);
  result.iterations = found.iterations;
  refine(found.top.vector, found.method + " on A^T A");
}

}  // namespace manyhop::spectral
