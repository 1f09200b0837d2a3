#include "manyhop/engine/diffusion/series.hpp"

#include <algorithm>
#include <cmath>

namespace manyhop::diffusion {

double log_poisson(double t, double k) { return (k == 0 ? 0 : k * std::log(t)) - std::lgamma(k + 1) - t; }

double poisson_tail(double t, int k) {
  if (t == 0) return 0;
  if (k < t) {  // the tail is most of the mass: one minus the head, whose terms grow
    double head = 0;
    for (int i = k; i >= 0; --i) {
      const double term = std::exp(log_poisson(t, i));
      head += term;
      if (term < head * 1e-18) break;
    }
    return std::max(0.0, 1 - head);
  }
  double tail = 0;
  double term = std::exp(log_poisson(t, k + 1.0));
  for (double i = k + 1.0; term > tail * 1e-18; ++i) {
    tail += term;
    term *= t / (i + 1);
  }
  return tail;
}

double heat_bound(double t, double strength, int k) {
  if (t == 0 || strength == 0) return k >= 0 && strength == 0 ? 0 : poisson_tail(t * strength, k);
  const double tail = poisson_tail(t * strength, k);
  return tail == 0 ? 0 : std::exp(t * (strength - 1) + std::log(tail));
}

int heat_hops(double t, double strength, double tol, int most) {
  if (heat_bound(t, strength, most) > tol) return -1;
  int low = -1;  // above tol, or before the first
  int high = most;
  while (high - low > 1) {
    const int middle = low + (high - low) / 2;
    (heat_bound(t, strength, middle) <= tol ? high : low) = middle;
  }
  return high;
}

std::vector<double> series(const DiffuseOptions& options, int hops, double unit) {
  const auto size = static_cast<std::size_t>(hops) + 1;
  switch (options.kernel) {
    case Kernel::ppr: {
      const double a = options.teleport;
      std::vector<double> p(size);
      double power = 1;
      for (int k = 0; k < hops; ++k, power *= (1 - a) * unit) p[static_cast<std::size_t>(k)] = a * power;
      p.back() = power;
      return p;
    }
    case Kernel::heat: {
      std::vector<double> p(size);
      for (std::size_t k = 0; k < size; ++k) {
        const auto power = static_cast<double>(k);
        p[k] = options.t == 0 ? (k == 0 ? 1 : 0)
                              : std::exp(log_poisson(options.t, power) + power * std::log(unit));
      }
      return p;
    }
    case Kernel::coefficients: {
      std::vector<double> p = options.coefficients;
      double power = 1;
      for (double& value : p) {
        value *= power;
        power *= unit;
      }
      return p;
    }
  }
  return {};
}

std::vector<double> series_slope(const DiffuseOptions& options, int hops, double unit) {
  const auto size = static_cast<std::size_t>(hops) + 1;
  std::vector<double> slope(size);
  if (options.kernel == Kernel::ppr) {
    const double rate = (1 - options.teleport) * unit;
    for (int k = 0; k < hops; ++k) {
      const double drop = k == 0 ? 0 : options.teleport * k * unit * std::pow(rate, k - 1);
      slope[static_cast<std::size_t>(k)] = std::pow(rate, k) - drop;
    }
    slope.back() = hops == 0 ? 0 : -hops * unit * std::pow(rate, hops - 1);
  } else if (options.kernel == Kernel::heat) {
    // d/dt e^{-t} t^k / k! = p_{k-1} - p_k
    const std::vector<double> p = series(options, hops, unit);
    for (std::size_t k = 0; k < size; ++k) slope[k] = (k == 0 ? 0 : p[k - 1] * unit) - p[k];
  }
  return slope;
}

}  // namespace manyhop::diffusion
