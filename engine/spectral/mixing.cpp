#include <algorithm>
#include <cmath>
#include <string>

#include "manyhop/engine/spectral/expansion.hpp"
#include "manyhop/engine/spectral/operator.hpp"
#include "manyhop/graphs/base/error.hpp"
#include "manyhop/graphs/base/parallel.hpp"
#include "manyhop/graphs/base/random.hpp"

namespace manyhop::spectral {
namespace {

constexpr std::uint32_t kStartStage = 0x4D495853;
constexpr double kMostSteps = 9e15;          // integers that a double holds
constexpr double kSmallestDistance = 1e-13;  // rounding of a walk's entries hides smaller ones

void check_eps(double eps) {
  if (!(eps > 0 && eps < 1))
    throw ValueError("eps is " + std::to_string(eps) + " and must be between 0 and 1");
}

/// First t >= 0 with factor rate^t <= eps; empty where that never comes.
std::optional<std::int64_t> first_step(double factor, double rate, double eps) {
  if (factor <= eps) return 0;
  if (rate <= 0) return 1;
  if (rate >= 1) return std::nullopt;
  const double steps = std::ceil(std::log(eps / factor) / std::log(rate));
  if (!(steps < kMostSteps)) return std::nullopt;
  auto t = static_cast<std::int64_t>(steps);
  // The logarithms may be off by a rounding where a power meets eps.
  if (t > 0 && factor * std::pow(rate, static_cast<double>(t - 1)) <= eps) --t;
  return t;
}

double start_factor(const SymmetricGraph& s) {
  const double least = s.least_degree() / s.volume;
  return least > 0 ? 0.5 * std::sqrt(std::max(0.0, 1 - least) / least) : 0;
}

std::vector<Index> start_vertices(const SymmetricGraph& s, std::span<const double> vector, int count,
                                  std::uint64_t seed) {
  std::vector<Index> starts;
  const auto add = [&](std::ptrdiff_t v) {
    const auto vertex = static_cast<Index>(v);
    if (std::find(starts.begin(), starts.end(), vertex) == starts.end() &&
        starts.size() < static_cast<std::size_t>(count))
      starts.push_back(vertex);
  };
  const auto [least, most] = std::minmax_element(s.degree.begin(), s.degree.end());
  add(least - s.degree.begin());
  if (!vector.empty()) {
    const auto [low, high] = std::minmax_element(vector.begin(), vector.end());
    add(low - vector.begin());
    add(high - vector.begin());
  }
  add(most - s.degree.begin());
  CounterRng rng(seed, kStartStage, 0);
  for (int draw = 0; draw < count; ++draw)
    add(static_cast<std::ptrdiff_t>(rng.below(static_cast<std::uint64_t>(s.n()))));
  return starts;
}

}  // namespace

MixingTime mixing_time(const Context& ctx, const SymmetricGraph& s, std::optional<double> lambda2,
                       std::span<const double> vector, const MixingOptions& options) {
  check_eps(options.eps);
  if (options.starts < 1)
    throw ValueError("starts is " + std::to_string(options.starts) + " and must be 1 or more");
  if (!vector.empty() && vector.size() != at(s.n()))
    throw ValueError("mixing_time wants a vector of " + std::to_string(s.n()) + " numbers or none, got " +
                     std::to_string(vector.size()));
  const ThreadScope scope(ctx.threads, ctx.stop);
  MixingTime result;
  result.eps = options.eps;
  if (!s.connected()) return result;
  if (s.n() == 1) {
    result.lower = 0;
    result.upper = result.simulated = 0;
    return result;
  }
  double expected = 0;
  if (lambda2) {
    const double rate = (1 + *lambda2) / 2;
    if (rate < 1) {
      result.lower = std::max(0.0, (1 / (1 - rate) - 1) * std::log(1 / (2 * options.eps)));
      expected = *result.lower;
    }
    result.upper = first_step(start_factor(s), rate, options.eps);
  }
  const double step_work = static_cast<double>(s.stored() + 4 * s.n());
  if (options.eps < kSmallestDistance || options.max_work <= 0 || expected * step_work > options.max_work)
    return result;

  const auto n = at(s.n());
  std::vector<double> inverse(n), stationary(n);
  for (std::size_t v = 0; v < n; ++v) {
    inverse[v] = 1 / s.degree[v];
    stationary[v] = s.degree[v] / s.volume;
  }
  const Product step(s.graph, s.weighted, {}, inverse);  // p -> S D^-1 p
  double work = 0;
  std::vector<double> p(n), moved(n);
  std::int64_t longest = -1;
  const auto starts = start_vertices(s, vector, options.starts, options.seed);
  for (const Index start : starts) {
    std::fill(p.begin(), p.end(), 0.0);
    p[at(start)] = 1;
    for (std::int64_t t = 0;; ++t) {
      check_stop();
      double distance = 0;
      for (std::size_t v = 0; v < n; ++v) distance += std::abs(p[v] - stationary[v]);
      // Half an ulp of the sum's size is forgiven: eps is met where it is met exactly.
      if (distance / 2 <= options.eps * (1 + 1e-12)) {
        if (t > longest) {
          longest = t;
          result.worst = start;
        }
        break;
      }
      work += step_work;
      if (work > options.max_work) return result;
      step.apply(p.data(), moved.data(), 0.5);
      for (std::size_t v = 0; v < n; ++v) p[v] = p[v] / 2 + moved[v];
    }
    ++result.starts;
  }
  result.simulated = longest;
  return result;
}

HopsFor hops_for(const SymmetricGraph& s, std::optional<double> lambda2, std::optional<double> lambda_n,
                 double eps, double teleport) {
  check_eps(eps);
  if (!(teleport >= 0 && teleport <= 1))
    throw ValueError("teleport is " + std::to_string(teleport) + " and must be between 0 and 1");
  HopsFor result;
  result.eps = eps;
  if (teleport == 1) {
    result.ppr = 1;
  } else if (teleport > 0) {
    const double hops = std::ceil(std::log(eps / 2) / std::log1p(-teleport));
    if (hops < kMostSteps) result.ppr = static_cast<std::int64_t>(hops);
  }
  if (!s.connected()) return result;
  if (s.n() == 1) {
    result.walk = 0;
  } else if (lambda2 && lambda_n && !s.bipartite) {
    result.walk = first_step(start_factor(s), std::max(std::abs(*lambda2), std::abs(*lambda_n)), eps);
  }
  return result;
}

}  // namespace manyhop::spectral
