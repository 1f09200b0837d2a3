// Dense matrices of the spectral operators, from their definitions.
#pragma once

#include <algorithm>
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

/// Eigenvalues of a symmetric matrix, increasing, by cyclic Jacobi rotations.
inline std::vector<double> eigenvalues(std::vector<double> a, std::size_t n) {
  for (int sweep = 0; sweep < 30; ++sweep) {
    double off = 0;
    for (std::size_t p = 0; p < n; ++p)
      for (std::size_t q = p + 1; q < n; ++q) off += a[p * n + q] * a[p * n + q];
    if (off < 1e-28) break;
    for (std::size_t p = 0; p < n; ++p)
      for (std::size_t q = p + 1; q < n; ++q) {
        if (a[p * n + q] == 0) continue;
        const double theta = (a[q * n + q] - a[p * n + p]) / (2 * a[p * n + q]);
        const double t = (theta >= 0 ? 1.0 : -1.0) / (std::abs(theta) + std::sqrt(theta * theta + 1));
        const double c = 1 / std::sqrt(t * t + 1);
        const double s = t * c;
        for (std::size_t k = 0; k < n; ++k) {
          const double x = a[k * n + p];
          const double y = a[k * n + q];
          a[k * n + p] = c * x - s * y;
          a[k * n + q] = s * x + c * y;
        }
        for (std::size_t k = 0; k < n; ++k) {
          const double x = a[p * n + k];
          const double y = a[q * n + k];
          a[p * n + k] = c * x - s * y;
          a[q * n + k] = s * x + c * y;
        }
      }
  }
  std::vector<double> values(n);
  for (std::size_t i = 0; i < n; ++i) values[i] = a[i * n + i];
  std::sort(values.begin(), values.end());
  return values;
}

/// D_r^-1/2 A D_c^-1/2, times its transpose from the left.
inline std::vector<double> gram(const Graph& graph, bool weighted = false) {
  const auto n = static_cast<std::size_t>(graph.n_rows());
  auto b = dense(graph, weighted);
  std::vector<double> r(n), c(n), result(n * n);
  for (std::size_t i = 0; i < n; ++i)
    for (std::size_t j = 0; j < n; ++j) {
      r[i] += b[i * n + j];
      c[j] += b[i * n + j];
    }
  for (std::size_t i = 0; i < n; ++i)
    for (std::size_t j = 0; j < n; ++j) b[i * n + j] *= inverse_root(r[i]) * inverse_root(c[j]);
  for (std::size_t i = 0; i < n; ++i)
    for (std::size_t j = 0; j < n; ++j)
      for (std::size_t k = 0; k < n; ++k) result[i * n + j] += b[k * n + i] * b[k * n + j];
  return result;
}

/// I - (Pi^1/2 P Pi^-1/2 + transpose) / 2, Pi from `steps` lazy steps of the walk.
inline std::vector<double> chung(const Graph& graph, bool weighted, int steps) {
  const auto n = static_cast<std::size_t>(graph.n_rows());
  auto p = dense(graph, weighted);
  for (std::size_t i = 0; i < n; ++i) {
    double sum = 0;
    for (std::size_t j = 0; j < n; ++j) sum += p[i * n + j];
    for (std::size_t j = 0; j < n; ++j) p[i * n + j] /= sum;
  }
  std::vector<double> pi(n, 1.0 / static_cast<double>(n));
  for (int step = 0; step < steps; ++step) {
    std::vector<double> next(n);
    for (std::size_t i = 0; i < n; ++i)
      for (std::size_t j = 0; j < n; ++j) next[j] += pi[i] * p[i * n + j];
    for (std::size_t i = 0; i < n; ++i) pi[i] = (pi[i] + next[i]) / 2;
  }
  std::vector<double> result(n * n);
  for (std::size_t i = 0; i < n; ++i)
    for (std::size_t j = 0; j < n; ++j)
      result[i * n + j] =
          (i == j ? 1.0 : 0.0) -
          (std::sqrt(pi[i] / pi[j]) * p[i * n + j] + std::sqrt(pi[j] / pi[i]) * p[j * n + i]) / 2;
  return result;
}

}  // namespace manyhop::oracle
