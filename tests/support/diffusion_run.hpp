// Runs diffuse on vectors, and what its tests draw from: graphs with rows without edges, signals that float
// holds.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <span>
#include <vector>

#include "manyhop/engine/diffusion.hpp"
#include "manyhop/graphs/base/random.hpp"

namespace manyhop::test {

template <class T>
std::vector<T> value_of(const Graph& graph, const std::vector<T>& x, const DiffuseOptions& options,
                        DiffuseResult* result = nullptr, const Context& ctx = {.threads = 2}) {
  const Offset n = graph.n_rows();
  const Offset columns = n == 0 ? 1 : static_cast<Offset>(x.size()) / n;
  std::vector<T> z(x.size());
  const DiffuseResult r = diffuse<T>(ctx, graph, TensorView<const T>(x.data(), {n, columns}),
                                     TensorView<T>(z.data(), {n, columns}), options);
  if (result != nullptr) *result = r;
  return z;
}

inline double relative_l2(const std::vector<float>& a, const std::vector<double>& b) {
  double error = 0;
  double size = 0;
  for (std::size_t i = 0; i < b.size(); ++i) {
    error += (static_cast<double>(a[i]) - b[i]) * (static_cast<double>(a[i]) - b[i]);
    size += b[i] * b[i];
  }
  return std::sqrt(error / size);
}

// Each row draws about `degree` columns; weighted by draws in [0.5, 1.5) times `unit`.
inline Graph drawn_graph(std::uint64_t seed, Offset n, Offset degree, double unit) {
  std::vector<Index> rows;
  std::vector<Index> cols;
  std::vector<double> weights;
  CounterRng rng(seed, 7, 0);
  for (Offset i = 0; i < n; ++i) {
    if (i % 11 == 3) continue;  // rows without edges
    for (Offset k = 0; k < degree; ++k) {
      rows.push_back(static_cast<Index>(i));
      cols.push_back(static_cast<Index>(rng.below(static_cast<std::uint64_t>(n))));
      weights.push_back((0.5 + rng.uniform()) * unit);
    }
  }
  return Graph::from_edges(n, n, rows, cols, weights);
}

inline std::vector<double> drawn_signal(std::uint64_t seed, std::size_t size) {
  std::vector<double> x(size);
  CounterRng rng(seed, 8, 0);
  for (double& v : x) v = static_cast<double>(static_cast<float>(rng.uniform()));
  return x;
}

// Directed, weighted, with dangling rows and columns and an isolated vertex (the last).
inline Graph directed_graph(std::uint64_t seed, Offset n, bool weighted) {
  CounterRng rng(seed, 1, 0);
  std::vector<Index> rows;
  std::vector<Index> cols;
  std::vector<double> weights;
  for (Offset e = 0; e < 3 * n; ++e) {
    rows.push_back(static_cast<Index>(rng.below(static_cast<std::uint64_t>(n - 2))));
    cols.push_back(static_cast<Index>(1 + rng.below(static_cast<std::uint64_t>(n - 2))));
    weights.push_back(0.25 + rng.uniform());
  }
  return Graph::from_edges(n, n, rows, cols,
                           weighted ? std::span<const double>(weights) : std::span<const double>());
}

struct Combination {
  Normalization normalization;
  Dangling dangling;
};
inline const std::vector<Combination> kCombinations{
    {Normalization::sym, Dangling::zero},    {Normalization::none, Dangling::zero},
    {Normalization::row, Dangling::zero},    {Normalization::row, Dangling::self},
    {Normalization::row, Dangling::uniform}, {Normalization::col, Dangling::zero},
    {Normalization::col, Dangling::self},    {Normalization::col, Dangling::uniform},
    {Normalization::col, Dangling::restart}};

inline DiffuseOptions options_of(Kernel kernel, const Combination& combination, double strength) {
  DiffuseOptions o;
  o.kernel = kernel;
  o.normalization = combination.normalization;
  o.dangling = combination.dangling;
  o.teleport = combination.normalization == Normalization::none ? 1 - 0.8 / std::max(strength, 1.0) : 0.15;
  o.t = 1.3;
  if (kernel == Kernel::coefficients) o.coefficients = {0.5, -0.25, 0.125, 1};
  return o;
}

inline double max_row_sum(const Graph& graph) {
  double most = 0;
  for (Offset i = 0; i < graph.n_rows(); ++i) {
    double sum = 0;
    const auto row = static_cast<std::size_t>(i);
    for (Offset e = graph.indptr()[row]; e < graph.indptr()[row + 1]; ++e) {
      sum += graph.weighted() ? std::abs(graph.weights()[static_cast<std::size_t>(e)]) : 1;
    }
    most = std::max(most, sum);
  }
  return most;
}

}  // namespace manyhop::test
