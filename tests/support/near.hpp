// Errors of a computed array against an expected one in double, and random test data.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <type_traits>
#include <vector>

#include "manyhop/graphs/base/random.hpp"
#include "manyhop/graphs/base/tensor.hpp"
#include "manyhop/graphs/graph.hpp"

namespace manyhop::test {

inline double to_double(double x) { return x; }
inline double to_double(float x) { return double{x}; }
inline double to_double(bf16 x) { return double{static_cast<float>(x)}; }

inline constexpr double kFar = 1e300;  // an error that no tolerance admits

inline constexpr double kTiny = 1e-30;  // rows below count absolutely: exp underflows in float

struct Errors {
  double total = 0;      // ||got - want|| / ||want|| over everything
  double worst_row = 0;  // the largest over rows of `width` entries
};

/// Relative L2 errors. Where want is (nearly) 0 the norm of got counts. Equal infinities and two NaNs are
/// equal; other differences that are not finite, and different sizes, are kFar.
template <class A, class B>
Errors relative_l2(const std::vector<A>& got, const std::vector<B>& want, std::size_t width) {
  Errors errors;
  if (got.size() != want.size()) return {kFar, kFar};
  double all_error = 0;
  double all_norm = 0;
  const auto ratio = [](double error, double norm) {
    return std::sqrt(norm > kTiny * kTiny ? error / norm : error);
  };
  for (std::size_t at = 0; at < got.size();) {
    double error = 0;
    double norm = 0;
    for (const std::size_t end = std::min(got.size(), at + std::max<std::size_t>(1, width)); at < end; ++at) {
      const double a = to_double(got[at]);
      const double b = to_double(want[at]);
      if (a == b || (std::isnan(a) && std::isnan(b))) {
        if (std::isfinite(b)) norm += b * b;
        continue;
      }
      if (!std::isfinite(a) || !std::isfinite(b)) return {kFar, kFar};
      error += (a - b) * (a - b);
      norm += b * b;
    }
    all_error += error;
    all_norm += norm;
    errors.worst_row = std::max(errors.worst_row, ratio(error, norm));
  }
  errors.total = ratio(all_error, all_norm);
  return errors;
}

template <class T>
bool same_bits(const std::vector<T>& a, const std::vector<T>& b) {
  return a.size() == b.size() && (a.empty() || std::memcmp(a.data(), b.data(), a.size() * sizeof(T)) == 0);
}

/// Uniform in [-size, size), already representable in T.
template <class T>
std::vector<T> random_values(Offset count, std::uint64_t seed, double size = 1) {
  CounterRng rng(seed, 0x7E57, 0);
  std::vector<T> values(static_cast<std::size_t>(count));
  for (T& value : values) {
    const double draw = size * (2 * rng.uniform() - 1);
    if constexpr (std::is_same_v<T, double>) {
      value = draw;
    } else {
      value = T(static_cast<float>(draw));
    }
  }
  return values;
}

template <class T>
std::vector<double> doubles(const std::vector<T>& values) {
  std::vector<double> wide;
  wide.reserve(values.size());
  for (const T value : values) wide.push_back(to_double(value));
  return wide;
}

/// Every edge with probability `density`; every seventh row is empty.
inline Graph random_graph(Offset rows, Offset cols, double density, std::uint64_t seed) {
  std::vector<Offset> indptr{0};
  std::vector<Index> indices;
  for (Offset i = 0; i < rows; ++i) {
    CounterRng rng(seed, 0x6AF, static_cast<std::uint64_t>(i));
    for (Offset j = 0; j < cols && i % 7 != 3; ++j) {
      if (rng.uniform() < density) indices.push_back(static_cast<Index>(j));
    }
    indptr.push_back(static_cast<Offset>(indices.size()));
  }
  return Graph::from_csr(rows, cols, indptr, indices);
}

/// Vertex 0 and all others receive from each other; nothing else.
inline Graph star_graph(Offset n) {
  std::vector<Index> rows;
  std::vector<Index> cols;
  for (Index i = 1; i < n; ++i) {
    rows.insert(rows.end(), {0, i});
    cols.insert(cols.end(), {i, 0});
  }
  return Graph::from_edges(n, n, rows, cols);
}

inline Graph empty_graph(Offset rows, Offset cols) {
  return Graph::from_csr(rows, cols, std::vector<Offset>(static_cast<std::size_t>(rows + 1), 0), {});
}

}  // namespace manyhop::test
