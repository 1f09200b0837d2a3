// chung: the Laplacian of a strongly connected directed graph, from the stationary distribution of its walk.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <utility>

#include "manyhop/engine/spectral/operators.hpp"
#include "manyhop/graphs/base/parallel.hpp"

namespace manyhop::spectral {
namespace {

constexpr double kTrusted = 1e-6;  // beyond that the operator is not known

}  // namespace

void solve_chung(const Context& ctx, const Input& input, const SpectralOptions& options, GapResult& result) {
  const Offset n = input.graph.n_rows();
  const Offset parts = strong_components(input.graph).count;
  if (parts > 1) {
    result.applies = false;
    result.reason = fmt::format("the graph has {} strong components and the operator wants one", parts);
    result.method = "none (not strongly connected)";
    return;
  }
  if (n < 2) {
    result.method = "none (fewer than two vertices)";
    return;
  }
  const auto sums = row_sums(input.graph, input.weighted);
  std::vector<double> inverse(sums.size());
  for (std::size_t i = 0; i < sums.size(); ++i) inverse[i] = 1 / sums[i];
  const Graph& mirrored = input.graph.transpose();
  const Product walk(input.graph, input.weighted, inverse);
  const Product pull(mirrored, input.weighted, {}, inverse);
  const Stationary at_rest = stationary(ctx, sums, walk, pull, options.max_iterations);
  if (!(at_rest.worst <= kTrusted)) {
    result.converged = false;
    result.residual = at_rest.residual;
    result.reason = fmt::format(
        "the stationary distribution is known to a relative {:.2g} only and the operator divides by its "
        "roots",
        at_rest.worst);
    result.method = "none (stationary distribution not resolved)";
    return;
  }

  std::vector<double> root(sums.size()), back(sums.size()), out(sums.size());
  for (std::size_t i = 0; i < root.size(); ++i) {
    root[i] = std::sqrt(at_rest.pi[i]);
    back[i] = root[i] > 0 ? 1 / root[i] : 0;
    out[i] = root[i] * inverse[i];
  }
  std::vector<Product> terms;
  terms.emplace_back(input.graph, input.weighted, out, back, ctx.backend);
  terms.emplace_back(mirrored, input.weighted, back, out, ctx.backend);
  const SymmetricOperator op(std::move(terms));
  const auto apply = [&op](const double* x, double* y) { op.apply(x, y); };
  Solution solution;
  if (n <= kDenseSize) {
    solution = dense_solution(n, apply);
  } else {
    SymmetricProblem problem;
    problem.n = n;
    problem.apply = apply;
    problem.banded = &op;
    normalise(root);
    problem.known.push_back(root);
    problem.known_value = 1;
    Extremes found = extremes(ctx, problem, true, true, options.tol, options.max_iterations);
    solution.second = std::move(found.top);
    solution.last = std::move(found.bottom);
    solution.has_second = solution.has_last = true;
    solution.iterations = found.iterations;
    solution.method = found.method;
  }
  solution.second.value = 1 - solution.second.value;
  solution.last.value = 1 - solution.last.value;
  store(solution, options, result);
  result.residual = std::max(result.residual, at_rest.residual);
  result.gap = result.lambda2->real();
}

}  // namespace manyhop::spectral
