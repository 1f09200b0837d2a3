// SparseK's projection on the device against the reference.
#include "manyhop/ops/sparsek.hpp"

#include <doctest/doctest.h>

#include <cmath>
#include <limits>
#include <vector>

#include "tests/ops/cuda/device.hpp"
#include "tests/support/near.hpp"

using namespace manyhop;
using namespace manyhop::test;

namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();

Context on(Backend backend) {
  Context ctx;
  ctx.backend = backend;
  ctx.threads = 1;
  return ctx;
}

template <class T>
struct Projected {
  std::vector<T> p;
  std::vector<double> tau;
};

template <class T>
Projected<T> project(Backend backend, const std::vector<T>& z, Offset rows, double k,
                     SparsekOptions options = {}) {
  Projected<T> result;
  result.p.resize(z.size());
  const Offset count = options.offsets.empty() ? rows : static_cast<Offset>(options.offsets.size()) - 1;
  result.tau.resize(static_cast<std::size_t>(count));
  options.tau = result.tau;
  const Offset n = rows == 0 ? 0 : static_cast<Offset>(z.size()) / rows;
  if (options.offsets.empty()) {
    sparsek<T>(on(backend), {z.data(), {rows, n}}, k, {result.p.data(), {rows, n}}, options);
  } else {
    const auto total = static_cast<Offset>(z.size());
    sparsek<T>(on(backend), {z.data(), {total}}, k, {result.p.data(), {total}}, options);
  }
  return result;
}

template <class T>
void compare(const std::vector<T>& z, Offset rows, double k, double tolerance,
             const SparsekOptions& options = {}) {
  const auto want = project(Backend::reference, z, rows, k, options);
  const auto got = project(Backend::cuda, z, rows, k, options);
  INFO(rows, " rows of ", z.size(), " scores in all, k ", k, ", bytes ", sizeof(T));
  for (std::size_t i = 0; i < z.size(); ++i) {
    const double a = to_double(got.p[i]);
    const double b = to_double(want.p[i]);
    if (std::isnan(b)) {
      CHECK(std::isnan(a));
    } else {
      CHECK(std::abs(a - b) <= tolerance);
    }
  }
  for (std::size_t r = 0; r < want.tau.size(); ++r) {
    if (!std::isfinite(want.tau[r])) CHECK(std::isnan(got.tau[r]) == std::isnan(want.tau[r]));
  }
}

}  // namespace

DEVICE_CASE("sparsek on the device: random rows of every size and k") {
  for (const Offset n : {1, 2, 31, 32, 33, 100, 700}) {
    for (const double k : {0.0, 0.5, 1.0, 7.25, 64.0, 650.0, 1000.0}) {
      for (const float spread : {0.01F, 1.0F, 16.0F}) {
        compare(random_values<double>(5 * n, static_cast<std::uint64_t>(n), static_cast<double>(spread)), 5,
                k, 1e-12);
        compare(random_values<float>(5 * n, static_cast<std::uint64_t>(n), spread), 5, k, 1e-6);
      }
    }
  }
  compare(random_values<bf16>(4 * 50, 3), 4, 5, 1e-2);
}

DEVICE_CASE("sparsek on the device: ties, infinities, NaN, absent scores, huge spreads") {
  const double nan = std::nan("");
  for (const double k : {0.0, 1.0, 1.5, 3.0}) {
    compare<double>({1, 1, 1, 1, 2, 2, 2, 2}, 2, k, 1e-12);
    compare<double>({kInfinity, 3, 2, 1, kInfinity, kInfinity, 2, 1}, 2, k, 1e-12);
    compare<double>({-kInfinity, 3, 2, 1, -kInfinity, -kInfinity, -kInfinity, -kInfinity}, 2, k, 1e-12);
    compare<double>({nan, 3, 2, 1, 4, 3, 2, 1}, 2, k, 1e-12);
    compare<double>({1e15, -1e15, 0, 0.25, 1e300, -1e300, 1, 2}, 2, k, 1e-9);
  }
}

DEVICE_CASE("sparsek on the device: ragged rows, k by row, temperature") {
  const std::vector<Offset> offsets{0, 3, 3, 40, 41, 90};
  const std::vector<double> row_k{1.5, 2, 0, 1, 20};
  SparsekOptions options;
  options.offsets = offsets;
  options.row_k = row_k;
  options.temperature = 0.5;
  compare(random_values<double>(90, 4), 0, 1, 1e-12, options);
}

DEVICE_CASE("sparsek on the device: derivatives") {
  const Offset rows = 6;
  const Offset n = 40;
  const auto z = random_values<double>(rows * n, 1);
  const auto g = random_values<double>(rows * n, 2);
  const auto gates = project(Backend::reference, z, rows, 7.5).p;
  const auto by_k = random_values<double>(rows, 3);
  SparsekOptions options;
  options.temperature = 0.7;
  const auto both = [&](Backend backend) {
    std::vector<double> dz(z.size()), dp(z.size()), dk(6), dt(6);
    SparsekGradients<double> gradients;
    gradients.z = {dz.data(), {rows, n}};
    gradients.k = dk;
    gradients.temperature = dt;
    gradients.scores = {z.data(), {rows, n}};
    sparsek_vjp<double>(on(backend), {gates.data(), {rows, n}}, {g.data(), {rows, n}}, gradients, options);
    sparsek_jvp<double>(on(backend), {gates.data(), {rows, n}}, {g.data(), {rows, n}}, {dp.data(), {rows, n}},
                        options, by_k);
    for (const auto& part : {dp, dk, dt}) dz.insert(dz.end(), part.begin(), part.end());
    return dz;
  };
  CHECK(relative_l2(both(Backend::cuda), both(Backend::cpu), 1).worst_row < 1e-12);
}
