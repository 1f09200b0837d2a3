// Central differences of a scalar function in double.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <limits>
#include <vector>

namespace manyhop::test {

/// (f(x + step) - f(x - step)) / (2 step) with respect to values[at]; the entry is restored.
template <class F>
double slope(std::vector<double>& values, std::size_t at, F&& f, double step = 1e-5) {
  const double kept = values[at];
  values[at] = kept + step;
  const double above = f();
  values[at] = kept - step;
  const double below = f();
  values[at] = kept;
  return (above - below) / (2 * step);
}

/// Largest |gradient - slope| / (1 + |slope|) over (up to `samples` evenly spread) entries.
template <class F>
double worst_slope_error(std::vector<double>& values, const std::vector<double>& gradient, F&& f,
                         std::size_t samples = 200) {
  double worst = 0;
  const std::size_t step = values.size() <= samples ? 1 : values.size() / samples;
  for (std::size_t at = 0; at < values.size(); at += step) {
    const double expected = slope(values, at, f);
    const double error = std::abs(gradient[at] - expected) / (1 + std::abs(expected));
    if (std::isnan(error)) return std::numeric_limits<double>::infinity();
    worst = std::max(worst, error);
  }
  return worst;
}

}  // namespace manyhop::test
