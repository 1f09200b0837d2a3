#include <Eigen/Cholesky>
#include <Eigen/Core>
#include <algorithm>
#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "manyhop/engine/spectral/operator.hpp"
#include "manyhop/engine/spectral/probes.hpp"
#include "manyhop/engine/spectral/symmetric.hpp"
#include "manyhop/graphs/base/error.hpp"
#include "manyhop/graphs/base/parallel.hpp"
#include "manyhop/graphs/base/random.hpp"

namespace manyhop::spectral {
namespace {

constexpr std::uint32_t kProbeStage = 0x52455349;
constexpr double kSolveTol = 1e-8;
constexpr std::size_t kGroup = 16;  // solutions held at once

void centre(std::vector<double>& x) {
  double sum = 0;
  for (const double value : x) sum += value;
  const double mean = sum / static_cast<double>(x.size());
  for (double& value : x) value -= mean;
}

struct Solve {
  std::vector<double> x;  // L^+ b
  bool converged = false;
  int iterations = 0;
};

/// Conjugate gradients with Jacobi's preconditioner in the space of mean 0.
Solve solve(const Product& adjacency, const std::vector<double>& degree, const std::vector<double>& b,
            int max_iterations) {
  const std::size_t n = b.size();
  std::vector<double> x(n), r = b, z(n), p(n), moved(n);
  const double target = kSolveTol * norm(b);
  double previous = 0;
  Solve result;
  for (; result.iterations < max_iterations; ++result.iterations) {
    if (norm(r) <= target) {
      result.converged = true;
      break;
    }
    check_stop();
    for (std::size_t v = 0; v < n; ++v) z[v] = r[v] / degree[v];
    const double now = dot(r, z);
    const double beta = result.iterations == 0 ? 0 : now / previous;
    for (std::size_t v = 0; v < n; ++v) p[v] = z[v] + beta * p[v];
    apply_laplacian(adjacency, degree, p.data(), moved.data());
    const double curvature = dot(p, moved);
    if (!(curvature > 0)) break;
    const double step = now / curvature;
    for (std::size_t v = 0; v < n; ++v) {
      x[v] += step * p[v];
      r[v] -= step * moved[v];
    }
    previous = now;
  }
  result.x = std::move(x);
  return result;
}

/// Signs, less their mean.
std::vector<double> signs(std::size_t n, std::uint64_t seed, std::size_t number) {
  std::vector<double> b(n);
  CounterRng rng(seed, kProbeStage, number);
  for (double& value : b) value = (rng.next32() & 1U) != 0 ? 1 : -1;
  centre(b);
  return b;
}

/// Estimates of tr(L^+) from y_i = L^+ b_i, b_i the signs from `first` on: for each i the trace of Nystrom's
/// approximation by the others, and b_i's view of what that leaves. The spread of plain b_i^T y_i is that of
/// the few largest eigenvalues, which here are in the approximation (XNysTrace: Epperly, Tropp, Webber, SIAM
/// J. Matrix Anal. 45, 2024). Changes y.
std::vector<double> leave_one_out(std::vector<std::vector<double>>& y, std::uint64_t seed,
                                  std::size_t first) {
  const auto m = static_cast<Eigen::Index>(y.size());
  const std::size_t n = y.front().size();
  double size = 0;
  for (const auto& column : y) size += dot(column, column);
  // Keeps the factor of the Gram matrix from breaking down; taken out of the trace again.
  const double shift = std::numeric_limits<double>::epsilon() * std::sqrt(size / static_cast<double>(n));
  for (std::size_t i = 0; i < y.size(); ++i) {
    const auto b = signs(n, seed, first + i);
    for (std::size_t v = 0; v < n; ++v) y[i][v] += shift * b[v];
  }
  Eigen::MatrixXd seen(m, m), gram(m, m);
  for (Eigen::Index i = 0; i < m; ++i) {
    const auto b = signs(n, seed, first + static_cast<std::size_t>(i));
    for (Eigen::Index j = 0; j < m; ++j) {
      seen(i, j) = dot(b, y[static_cast<std::size_t>(j)]);
      if (j <= i)
        gram(i, j) = gram(j, i) = dot(y[static_cast<std::size_t>(i)], y[static_cast<std::size_t>(j)]);
    }
  }
  const Eigen::MatrixXd both = (seen + seen.transpose()) / 2;
  const Eigen::LLT<Eigen::MatrixXd> factor(both);
  std::vector<double> found;
  const double taken = shift * static_cast<double>(n - 1);
  if (factor.info() != Eigen::Success) {
    for (Eigen::Index i = 0; i < m; ++i) found.push_back(both(i, i) - taken);
    return found;
  }
  const Eigen::MatrixXd inverse = factor.solve(Eigen::MatrixXd::Identity(m, m));
  const Eigen::MatrixXd part = inverse * gram;
  const Eigen::MatrixXd without = part * inverse;
  const double all = part.trace();
  for (Eigen::Index i = 0; i < m; ++i) found.push_back(all + (1 - without(i, i)) / inverse(i, i) - taken);
  return found;
}

}  // namespace

Resistance resistance(const Context& ctx, const SymmetricGraph& s, const ProbeOptions& options) {
  if (options.probes < 2)
    throw ValueError("probes is " + std::to_string(options.probes) + " and must be 2 or more");
  const ThreadScope scope(ctx.threads, ctx.stop);
  Resistance result;
  const auto n = at(s.n());
  if (s.parts.count != 1) return result;
  if (n == 1) {
    result.kirchhoff = Estimate{};
    return result;
  }
  const double count = static_cast<double>(n);
  const Product adjacency(s.graph, s.weighted);
  Estimate trace;
  if (s.n() <= kDenseSize) {
    const auto spectrum = dense_spectrum(
        s.n(), [&](const double* x, double* y) { apply_laplacian(adjacency, s.degree, x, y); });
    for (std::size_t k = 1; k < n; ++k) trace.value += 1 / spectrum.values[k];
  } else {
    const double product = static_cast<double>(s.stored() + 8 * s.n());
    // Half of the work may go into the first two solves.
    const int cap = static_cast<int>(std::clamp(options.max_work / 4 / product, 10.0, 20000.0));
    double work = 0;
    const auto most = static_cast<std::size_t>(options.probes);
    std::vector<double> values;
    std::vector<std::vector<double>> group;
    std::size_t probes = 0;
    while (probes < most) {
      Solve solved = solve(adjacency, s.degree, signs(n, options.seed, probes), cap);
      result.iterations = std::max(result.iterations, solved.iterations);
      if (!solved.converged) {
        result.converged = false;
        return result;
      }
      group.push_back(std::move(solved.x));
      work += product * solved.iterations;
      ++probes;
      const bool last = probes == most ||
                        (probes >= 2 && work * (1 + 1.0 / static_cast<double>(probes)) > options.max_work);
      if (!last && group.size() < kGroup) continue;
      for (const double value : leave_one_out(group, options.seed, probes - group.size()))
        values.push_back(value);
      group.clear();
      if (last) break;
    }
    trace.probes = static_cast<int>(values.size());
    for (const double value : values) trace.value += value / static_cast<double>(values.size());
    for (const double value : values) trace.error += (value - trace.value) * (value - trace.value);
    trace.error = std::sqrt(trace.error / (trace.probes - 1) / trace.probes);
  }
  result.kirchhoff = Estimate{count * trace.value, count * trace.error, trace.probes};
  result.mean = 2 * result.kirchhoff->value / (count * (count - 1));
  return result;
}

}  // namespace manyhop::spectral
