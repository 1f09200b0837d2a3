#include <algorithm>
#include <cmath>
#include <string>

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

void centre(std::vector<double>& x) {
  double sum = 0;
  for (const double value : x) sum += value;
  const double mean = sum / static_cast<double>(x.size());
  for (double& value : x) value -= mean;
}

struct Solve {
  double energy = 0;  // b^T L^+ b
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
  result.energy = dot(b, x);
  return result;
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
    std::vector<double> values;
    for (int probe = 0; probe < options.probes; ++probe) {
      std::vector<double> b(n);
      CounterRng rng(options.seed, kProbeStage, static_cast<std::uint64_t>(probe));
      for (double& value : b) value = (rng.next32() & 1U) != 0 ? 1 : -1;
      centre(b);
      const Solve solved = solve(adjacency, s.degree, b, cap);
      result.iterations = std::max(result.iterations, solved.iterations);
      if (!solved.converged) {
        result.converged = false;
        return result;
      }
      values.push_back(solved.energy);
      work += product * solved.iterations;
      if (values.size() >= 2 && work * (1 + 1.0 / static_cast<double>(values.size())) > options.max_work)
        break;
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
