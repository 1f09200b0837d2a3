// Dense matrices of the spectral operators, from their definitions.
#pragma once

#include <cmath>
#include <cstddef>
#include <vector>

#include "manyhop/graphs/graph.hpp"

namespace manyhop::oracle {

/// The edges as a dense matrix, row-major: ones, or weights.
inline std::vector<double> dense(const Graph& graph, bool weighted = false) {
  const auto n = static_cast<std::size_t>(graph.n_rows());
  std::vector<double> a(n * n);
  const auto indptr = graph.indptr();
  for (std::size_t i = 0; i < n; ++i)
    for (auto e = static_cast<std::size_t>(indptr[i]); e < static_cast<std::size_t>(indptr[i + 1]); ++e)
      a[i * n + static_cast<std::size_t>(graph.indices()[e])] =
          weighted && graph.weighted() ? graph.weights()[e] : 1.0;
  return a;
}

/// A or A^T as 0/1, or (W + W^T) / 2.
inline std::vector<double> symmetric(const Graph& graph, bool weighted = false) {
  const auto n = static_cast<std::size_t>(graph.n_rows());
  const auto a = dense(graph, weighted);
  std::vector<double> s(n * n);
  for (std::size_t i = 0; i < n; ++i)
    for (std::size_t j = 0; j < n; ++j)
      s[i * n + j] =
          weighted ? (a[i * n + j] + a[j * n + i]) / 2 : (a[i * n + j] != 0 || a[j * n + i] != 0 ? 1.0 : 0.0);
  return s;
}

inline double inverse_root(double x) { return x > 0 ? 1 / std::sqrt(x) : 0; }

/// D^-1/2 S D^-1/2.
inline std::vector<double> normalized(const Graph& graph, bool weighted = false) {
  const auto n = static_cast<std::size_t>(graph.n_rows());
  auto s = symmetric(graph, weighted);
  std::vector<double> scale(n);
  for (std::size_t i = 0; i < n; ++i) {
    double sum = 0;
    for (std::size_t j = 0; j < n; ++j) sum += s[i * n + j];
    scale[i] = inverse_root(sum);
  }
  for (std::size_t i = 0; i < n; ++i)
    for (std::size_t j = 0; j < n; ++j) s[i * n + j] *= scale[i] * scale[j];
  return s;
}

}  // namespace manyhop::oracle
