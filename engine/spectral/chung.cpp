// chung: the Laplacian of a strongly connected directed graph, from the stationary distribution of its walk.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <utility>

#include "manyhop/engine/spectral/operators.hpp"
#include "manyhop/graphs/base/parallel.hpp"

namespace manyhop::spectral {
namespace {

struct Stationary {
  std::vector<double> pi;
  double residual = 0;  // ||pi P - pi||_1
  double worst = 0;     // max |(pi P - pi)_i| / pi_i: the operator divides by roots of pi
};

constexpr double kLeastShare = 1e-280;  // below that roots of pi lose their digits
constexpr double kRelative = 1e-12;     // goal of `worst`
constexpr std::int64_t kFirstSteps = 500;
constexpr double kTrusted = 1e-6;  // beyond that the operator is not known

/// Sets both residuals; `next` receives pi P.
void measure(const Product& pull, Stationary& at_rest, std::vector<double>& next) {
  next.resize(at_rest.pi.size());
  pull.apply(at_rest.pi.data(), next.data());
  at_rest.residual = at_rest.worst = 0;
  for (std::size_t i = 0; i < next.size(); ++i) {
    const double moved = std::abs(next[i] - at_rest.pi[i]);
    at_rest.residual += moved;
    at_rest.worst = std::max(at_rest.worst, at_rest.pi[i] > kLeastShare ? moved / at_rest.pi[i] : 1.0);
  }
}

void to_mass_one(std::vector<double>& pi) {
  double total = 0;
  for (const double value : pi) total += value;
  for (double& value : pi) value /= total;
}

/// Elimination of states without subtractions (Grassmann, Taksar, Heyman): every entry to full relative
/// accuracy.
std::vector<double> eliminate(const Product& walk) {
  const Offset n = walk.rows();
  std::vector<double> p(at(n * n));
  for (Offset i = 0; i < n; ++i) walk.for_each(i, [&](Index j, double value) { p[at(i * n + j)] = value; });
  for (Offset k = n - 1; k > 0; --k) {
    double out = 0;
    for (Offset j = 0; j < k; ++j) out += p[at(k * n + j)];
    for (Offset i = 0; i < k; ++i) {
      double& share = p[at(i * n + k)];
      if (share == 0) continue;
      share /= out;
      for (Offset j = 0; j < k; ++j) p[at(i * n + j)] += share * p[at(k * n + j)];
    }
  }
  std::vector<double> pi(at(n));
  pi[0] = 1;
  for (Offset k = 1; k < n; ++k)
    for (Offset i = 0; i < k; ++i) pi[at(k)] += pi[at(i)] * p[at(i * n + k)];
  to_mass_one(pi);
  return pi;
}

Stationary stationary(const Context& ctx, const Input& input, const std::vector<double>& sums,
                      const Product& walk, const Product& pull, int max_iterations) {
  Stationary result;
  std::vector<double> next;
  // In-weights equal to out-weights: the row sums are stationary.
  result.pi = sums;
  to_mass_one(result.pi);
  measure(pull, result, next);
  if (result.worst <= kRelative) return result;
  if (input.graph.n_rows() <= kDenseSize) {
    result.pi = eliminate(walk);
    measure(pull, result, next);
    return result;
  }
  const std::int64_t steps = std::int64_t{20} * max_iterations;
  for (std::int64_t step = 0; step < steps && result.worst > kRelative; ++step) {
    check_stop();
    if (step == kFirstSteps) {  // mixes slowly: Arnoldi takes the slow part, the steps after it each entry
      const std::function<void(const double*, double*)> lazy = [&](const double* x, double* y) {
        pull.apply(x, y, 0.5);
        for (std::size_t i = 0; i < sums.size(); ++i) y[i] += 0.5 * x[i];
      };
      Stationary other;
      other.pi = dominant_vector(ctx, input.graph.n_rows(), lazy, result.pi, max_iterations);
      to_mass_one(other.pi);
      measure(pull, other, next);
      if (other.residual < result.residual)
        result = std::move(other);
      else
        measure(pull, result, next);
    }
    // Lazy steps converge for periodic walks too, and sums of what is not negative keep every digit.
    for (std::size_t i = 0; i < next.size(); ++i) result.pi[i] = 0.5 * (next[i] + result.pi[i]);
    to_mass_one(result.pi);
    measure(pull, result, next);
    if (*std::min_element(result.pi.begin(), result.pi.end()) <= kLeastShare) break;  // it only shrinks
  }
  return result;
}

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
  const Stationary at_rest = stationary(ctx, input, sums, walk, pull, options.max_iterations);
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
  terms.emplace_back(input.graph, input.weighted, out, back);
  terms.emplace_back(mirrored, input.weighted, back, out);
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
