#include <Eigen/Eigenvalues>
#include <algorithm>
#include <cmath>
#include <numbers>
#include <string>

#include "manyhop/engine/spectral/operator.hpp"
#include "manyhop/engine/spectral/probes.hpp"
#include "manyhop/graphs/base/error.hpp"
#include "manyhop/graphs/base/parallel.hpp"
#include "manyhop/graphs/base/random.hpp"

namespace manyhop::spectral {
namespace {

constexpr std::uint32_t kProbeStage = 0x44454E53;

void check_count(const char* name, int value) {
  if (value < 1 || value > 65536)
    throw ValueError(std::string(name) + " is " + std::to_string(value) + " and must be between 1 and 65536");
}

/// Signs over sqrt(n): a unit vector.
std::vector<double> signs(Offset n, std::uint64_t seed, int probe) {
  std::vector<double> x(at(n));
  const double size = 1 / std::sqrt(static_cast<double>(n));
  CounterRng rng(seed, kProbeStage, static_cast<std::uint64_t>(probe));
  std::uint32_t bits = 0;
  for (std::size_t i = 0; i < x.size(); ++i) {
    if (i % 32 == 0) bits = rng.next32();
    x[i] = (bits >> (i % 32)) & 1U ? size : -size;
  }
  return x;
}

/// x^T T_k(N) x for k < count, two moments a product: T_2k = 2 T_k T_k - 1, T_2k+1 = 2 T_k+1 T_k - T_1.
std::vector<double> chebyshev_moments(const Product& op, const std::vector<double>& x, int count) {
  std::vector<double> moments(static_cast<std::size_t>(count) + 2);
  std::vector<double> before = x, now(x.size()), next(x.size());
  op.apply(before.data(), now.data());
  moments[0] = dot(x, x);
  moments[1] = dot(x, now);
  for (int k = 1; 2 * k < count; ++k) {
    const auto double_k = 2 * static_cast<std::size_t>(k);
    moments[double_k] = 2 * dot(now, now) - moments[0];
    op.apply(now.data(), next.data(), 2);
    for (std::size_t v = 0; v < x.size(); ++v) next[v] -= before[v];
    moments[double_k + 1] = 2 * dot(next, now) - moments[1];
    before.swap(now);
    now.swap(next);
  }
  moments.resize(static_cast<std::size_t>(count));
  return moments;
}

/// Jackson's factors: they damp the oscillations of a cut series and keep the density positive.
std::vector<double> jackson(int count) {
  std::vector<double> factor(static_cast<std::size_t>(count));
  const double step = std::numbers::pi / (count + 1);
  for (int k = 0; k < count; ++k)
    factor[static_cast<std::size_t>(k)] =
        ((count - k + 1) * std::cos(k * step) + std::sin(k * step) / std::tan(step)) / (count + 1);
  return factor;
}

/// Integral of the series over each bin: of T_k / (pi sqrt(1 - x^2)) it is -sin(k theta) / (k pi).
std::vector<double> bins_of_moments(const std::vector<double>& moments, const std::vector<double>& factor,
                                    const std::vector<double>& edges) {
  std::vector<double> below;
  for (const double x : edges) {
    const double theta = std::acos(std::clamp(x, -1.0, 1.0));
    double sum = moments[0] * factor[0] * (std::numbers::pi - theta) / std::numbers::pi;
    for (std::size_t k = 1; k < moments.size(); ++k)
      sum -= 2 * moments[k] * factor[k] * std::sin(static_cast<double>(k) * theta) /
             (static_cast<double>(k) * std::numbers::pi);
    below.push_back(sum);
  }
  std::vector<double> share;
  for (std::size_t b = 0; b + 1 < below.size(); ++b) share.push_back(below[b + 1] - below[b]);
  return share;
}

/// Nodes and weights of Gauss quadrature for the measure of x, put into bins. Lanczos without
/// reorthogonalisation: copies of an eigenvalue share its weight.
std::vector<double> bins_of_lanczos(const Product& op, std::vector<double> q, int steps, std::size_t bins) {
  std::vector<double> alpha, beta;
  std::vector<double> before(q.size()), w(q.size());
  for (int k = 0; k < steps; ++k) {
    op.apply(q.data(), w.data());
    const double a = dot(q, w);
    alpha.push_back(a);
    for (std::size_t v = 0; v < q.size(); ++v)
      w[v] -= a * q[v] + (beta.empty() ? 0 : beta.back() * before[v]);
    const double b = norm(w);
    if (k + 1 == steps || !(b > 1e-12)) break;
    beta.push_back(b);
    before.swap(q);
    for (std::size_t v = 0; v < q.size(); ++v) q[v] = w[v] / b;
  }
  beta.resize(alpha.size() - 1);
  const auto count = static_cast<Eigen::Index>(alpha.size());
  const Eigen::VectorXd diagonal = Eigen::Map<const Eigen::VectorXd>(alpha.data(), count);
  const Eigen::VectorXd off = count > 1
                                  ? Eigen::VectorXd(Eigen::Map<const Eigen::VectorXd>(beta.data(), count - 1))
                                  : Eigen::VectorXd();
  Eigen::SelfAdjointEigenSolver<Eigen::MatrixXd> solver;
  solver.computeFromTridiagonal(diagonal, off);
  std::vector<double> share(bins);
  for (Eigen::Index k = 0; k < count; ++k) {
    const double place = (solver.eigenvalues()[k] + 1) / 2 * static_cast<double>(bins);
    const auto bin = static_cast<std::size_t>(std::clamp(place, 0.0, static_cast<double>(bins) - 1));
    share[bin] += solver.eigenvectors()(0, k) * solver.eigenvectors()(0, k);
  }
  return share;
}

/// Means and standard errors over probes.
void summarise(const std::vector<std::vector<double>>& probes, std::vector<double>& mean,
               std::vector<double>& error) {
  const auto count = static_cast<double>(probes.size());
  mean.assign(probes.front().size(), 0);
  error.assign(mean.size(), 0);
  for (std::size_t b = 0; b < mean.size(); ++b) {
    for (const auto& probe : probes) mean[b] += probe[b] / count;
    for (const auto& probe : probes) error[b] += (probe[b] - mean[b]) * (probe[b] - mean[b]);
    error[b] = count > 1 ? std::sqrt(error[b] / (count - 1) / count) : 0;
  }
}

/// Share of each bin by the midpoint rule in x = radius sin(t), which takes the root out of both laws.
std::vector<double> law_shares(const std::vector<double>& edges, double radius, double degree) {
  std::vector<double> share;
  constexpr int kPoints = 64;
  for (std::size_t b = 0; b + 1 < edges.size(); ++b) {
    const double low = std::asin(std::clamp(edges[b] / radius, -1.0, 1.0));
    const double high = std::asin(std::clamp(edges[b + 1] / radius, -1.0, 1.0));
    double sum = 0;
    for (int p = 0; p < kPoints; ++p) {
      const double t = low + (high - low) * (p + 0.5) / kPoints;
      const double x = radius * std::sin(t);
      const double root = radius * std::cos(t);  // sqrt(radius^2 - x^2), and dx = root dt
      const double value = degree > 0 ? degree * root / (2 * std::numbers::pi * (1 - x * x))
                                      : 2 * root / (std::numbers::pi * radius * radius);
      sum += value * root;
    }
    share.push_back(sum * (high - low) / kPoints);
  }
  return share;
}

}  // namespace

Density density(const Context& ctx, const SymmetricGraph& s, const DensityOptions& options) {
  check_count("bins", options.bins);
  check_count("moments", options.moments);
  check_count("steps", options.steps);
  check_count("probes", options.probes);
  const ThreadScope scope(ctx.threads, ctx.stop);
  Density result;
  result.moments = options.moments;
  result.steps = options.steps;
  if (s.n() == 0) return result;
  const auto bins = static_cast<std::size_t>(options.bins);
  for (int b = 0; b <= options.bins; ++b) result.edges.push_back(-1 + 2.0 * b / options.bins);

  const double probe_work =
      (options.moments / 2.0 + options.steps) * static_cast<double>(s.stored() + 4 * s.n());
  result.probes = static_cast<int>(std::clamp(options.max_work / probe_work,
                                              std::min(2.0, static_cast<double>(options.probes)),
                                              static_cast<double>(options.probes)));
  std::vector<double> inverse(at(s.n()));
  for (std::size_t v = 0; v < inverse.size(); ++v)
    inverse[v] = s.degree[v] > 0 ? 1 / std::sqrt(s.degree[v]) : 0;
  const Product op(s.graph, s.weighted, inverse, inverse);
  const auto factor = jackson(options.moments);
  std::vector<std::vector<double>> kpm, lanczos;
  for (int probe = 0; probe < result.probes; ++probe) {
    check_stop();
    const auto x = signs(s.n(), options.seed, probe);
    kpm.push_back(bins_of_moments(chebyshev_moments(op, x, options.moments), factor, result.edges));
    lanczos.push_back(bins_of_lanczos(op, x, options.steps, bins));
  }
  summarise(kpm, result.kpm, result.kpm_error);
  summarise(lanczos, result.lanczos, result.lanczos_error);

  const double mean_degree = s.volume / static_cast<double>(s.n());
  if (s.connected() && s.regular() && mean_degree > 2) {
    result.law = "kesten-mckay";
    result.law_share = law_shares(result.edges, 2 * std::sqrt(mean_degree - 1) / mean_degree, mean_degree);
  } else if (s.connected() && mean_degree > 4) {
    result.law = "semicircle";
    result.law_share = law_shares(result.edges, 2 / std::sqrt(mean_degree), 0);
  }
  constexpr double kMostMoved = 0.2;
  double moved = 0;
  for (std::size_t b = 0; b < result.law_share.size(); ++b)
    moved += std::abs(result.law_share[b] - result.kpm[b]) / 2;
  if (moved > kMostMoved) {
    result.law.clear();
    result.law_share.clear();
  }
  return result;
}

}  // namespace manyhop::spectral
