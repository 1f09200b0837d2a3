// diffuse against a dense oracle in double: A written out entry by entry from the definition, powers by plain
// loops.
#include "manyhop/engine/diffusion.hpp"

#include <doctest/doctest.h>

#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "manyhop/engine/plan.hpp"
#include "manyhop/graphs/base/error.hpp"
#include "manyhop/graphs/base/random.hpp"
#include "tests/support/diffusion_run.hpp"

using namespace manyhop;
using namespace manyhop::test;

namespace {

using Matrix = std::vector<std::vector<double>>;

std::size_t at(Offset i) { return static_cast<std::size_t>(i); }

// The normalised matrix with its dangling rows or columns; x0 is one column of the signal (restart).
Matrix dense_walk(const Graph& graph, const DiffuseOptions& o, const std::vector<double>& x0) {
  const auto n = at(graph.n_rows());
  Matrix w(n, std::vector<double>(n));
  std::vector<double> r(n);
  std::vector<double> c(n);
  for (Offset i = 0; i < graph.n_rows(); ++i) {
    for (Offset e = graph.indptr()[at(i)]; e < graph.indptr()[at(i) + 1]; ++e) {
      const auto j = at(graph.indices()[at(e)]);
      w[at(i)][j] = graph.weighted() ? graph.weights()[at(e)] : 1;
      r[at(i)] += w[at(i)][j];
      c[j] += w[at(i)][j];
    }
  }
  double total = 0;
  for (const double x : x0) total += x;
  for (std::size_t i = 0; i < n; ++i) {
    for (std::size_t j = 0; j < n; ++j) {
      double& a = w[i][j];
      const bool empty = o.normalization == Normalization::row ? r[i] == 0 : c[j] == 0;
      switch (o.normalization) {
        case Normalization::row:
          a = r[i] == 0 ? 0 : a / r[i];
          break;
        case Normalization::col:
          a = c[j] == 0 ? 0 : a / c[j];
          break;
        case Normalization::sym:
          a = r[i] == 0 || c[j] == 0 ? 0 : a / std::sqrt(r[i] * c[j]);
          break;
        case Normalization::none:
          break;
      }
      if (!empty) continue;
      if (o.dangling == Dangling::self) a = i == j ? 1 : 0;
      if (o.dangling == Dangling::uniform) a = 1.0 / static_cast<double>(n);
      if (o.dangling == Dangling::restart) a = total == 0 ? 0 : x0[i] / total;
    }
  }
  return w;
}

std::vector<double> times(const Matrix& a, const std::vector<double>& x) {
  std::vector<double> y(x.size());
  for (std::size_t i = 0; i < x.size(); ++i) {
    for (std::size_t j = 0; j < x.size(); ++j) y[i] += a[i][j] * x[j];
  }
  return y;
}

std::vector<double> oracle(const Matrix& a, const DiffuseOptions& o, int hops, const std::vector<double>& x) {
  std::vector<double> sum(x.size());
  std::vector<double> power = x;
  for (int k = 0; k <= hops; ++k) {
    double p = 0;
    if (o.kernel == Kernel::ppr) p = std::pow(1 - o.teleport, k) * (k < hops ? o.teleport : 1);
    if (o.kernel == Kernel::heat) p = std::exp(-o.t) * std::pow(o.t, k) / std::tgamma(k + 1.0);
    if (o.kernel == Kernel::coefficients) p = o.coefficients[static_cast<std::size_t>(k)];
    for (std::size_t i = 0; i < x.size(); ++i) sum[i] += p * power[i];
    power = times(a, power);
  }
  return sum;
}

double norm(Normalization normalization, const std::vector<double>& x) {
  double value = 0;
  for (const double v : x) {
    if (normalization == Normalization::sym)
      value += v * v;
    else if (normalization == Normalization::col)
      value += std::abs(v);
    else
      value = std::max(value, std::abs(v));
  }
  return normalization == Normalization::sym ? std::sqrt(value) : value;
}

}  // namespace

TEST_CASE("diffuse: two vertices by hand") {
  // 0 -> 1 (row 1 receives from column 0), nothing enters 0.
  const std::vector<Index> rows{1};
  const std::vector<Index> cols{0};
  const Graph graph = Graph::from_edges(2, 2, rows, cols);
  const Context ctx{.threads = 1};
  std::vector<double> x{1, 10};
  std::vector<double> z(2);
  const DiffuseOptions o{.teleport = 0.25, .hops = 2, .normalization = Normalization::row};
  const DiffuseResult result = diffuse<double>(ctx, graph, TensorView<const double>(x.data(), {2}),
                                               TensorView<double>(z.data(), {2}), o);
  // Z_1 = (0.25, 0.75 + 2.5), Z_2 = (0.25, 0.75 * 0.25 + 2.5)
  CHECK(z[0] == doctest::Approx(0.25));
  CHECK(z[1] == doctest::Approx(2.6875));
  CHECK(result.hops == 2);
  CHECK(result.residual == doctest::Approx((3.25 - 2.6875) / 10));
  CHECK(result.bound == doctest::Approx(std::min(2 * 0.75 * 0.75, 3 * result.residual)));
  CHECK(result.converged);
}

TEST_CASE("diffuse: every kernel, normalization and dangling policy against the dense oracle") {
  const Offset n = 23;
  const Offset columns = 3;
  for (const bool weighted : {false, true}) {
    const Graph graph = directed_graph(weighted ? 5 : 6, n, weighted);
    CounterRng rng(9, 2, 0);
    std::vector<double> x(at(n * columns));
    for (double& v : x) v = rng.uniform();
    for (const Kernel kernel : {Kernel::ppr, Kernel::heat, Kernel::coefficients}) {
      for (const Combination& combination : kCombinations) {
        for (const Backend backend : {Backend::cpu, Backend::reference}) {
          DiffuseOptions o = options_of(kernel, combination, max_row_sum(graph));
          const int hops = kernel == Kernel::coefficients ? 3 : 6;
          if (kernel != Kernel::coefficients) o.hops = hops;
          const Context ctx{.threads = 2, .backend = backend};
          std::vector<double> z(x.size());
          const auto result = diffuse<double>(ctx, graph, TensorView<const double>(x.data(), {n, columns}),
                                              TensorView<double>(z.data(), {n, columns}), o);
          double worst_gap = 0;
          double worst_residual = 0;
          for (Offset c = 0; c < columns; ++c) {
            std::vector<double> column(at(n));
            for (Offset i = 0; i < n; ++i) column[at(i)] = x[at(i * columns + c)];
            const Matrix a = dense_walk(graph, o, column);
            const std::vector<double> want = oracle(a, o, hops, column);
            std::vector<double> limit = want;
            if (kernel == Kernel::ppr) limit = oracle(a, o, 400, column);
            if (kernel == Kernel::heat) limit = oracle(a, o, 150, column);
            std::vector<double> previous = want;
            if (kernel != Kernel::coefficients) previous = oracle(a, o, hops - 1, column);
            std::vector<double> gap(at(n));
            std::vector<double> step(at(n));
            for (Offset i = 0; i < n; ++i) {
              CHECK(z[at(i * columns + c)] == doctest::Approx(want[at(i)]).epsilon(1e-12));
              gap[at(i)] = want[at(i)] - limit[at(i)];
              step[at(i)] = want[at(i)] - previous[at(i)];
            }
            const double size = norm(o.normalization, column);
            worst_gap = std::max(worst_gap, norm(o.normalization, gap) / size);
            worst_residual = std::max(worst_residual, norm(o.normalization, step) / size);
          }
          CHECK(worst_gap <= result.bound * (1 + 1e-9) + 1e-14);
          if (kernel == Kernel::heat || kernel == Kernel::ppr) {
            CHECK(result.residual == doctest::Approx(worst_residual).epsilon(1e-9));
          }
          CHECK(result.hops == hops);
        }
      }
    }
  }
}

TEST_CASE("diffuse: a tolerance stops at the first hop whose bound reaches it, and the bound holds") {
  const Offset n = 40;
  const Graph graph = directed_graph(11, n, true);
  std::vector<double> x(at(n));
  CounterRng rng(3, 3, 0);
  for (double& v : x) v = rng.uniform();
  const Context ctx{.threads = 1};
  for (const Kernel kernel : {Kernel::ppr, Kernel::heat}) {
    for (const Combination& combination : kCombinations) {
      DiffuseOptions o = options_of(kernel, combination, max_row_sum(graph));
      o.tol = 1e-5;
      std::vector<double> z(x.size());
      std::vector<double> exact(x.size());
      const TensorView<const double> in(x.data(), {n});
      const auto result = diffuse<double>(ctx, graph, in, TensorView<double>(z.data(), {n}), o);
      CHECK(result.converged);
      CHECK(result.bound <= 1e-5);
      const std::vector<double> limit =
          oracle(dense_walk(graph, o, x), o, kernel == Kernel::heat ? 160 : 600, x);
      std::vector<double> gap(at(n));
      for (std::size_t i = 0; i < gap.size(); ++i) gap[i] = z[i] - limit[i];
      CHECK(norm(o.normalization, gap) / norm(o.normalization, x) <= result.bound + 1e-13);
      DiffuseOptions before = o;
      before.tol.reset();
      before.hops = result.hops - 1;
      CHECK(diffuse<double>(ctx, graph, in, TensorView<double>(exact.data(), {n}), before).bound > 1e-5);
    }
  }
}

TEST_CASE("diffuse: long heat times stay accurate, hops run out honestly") {
  const Graph ring = Graph::from_csr(3, 3, {0, 1, 2, 3}, {1, 2, 0});
  std::vector<double> x{1, 0, 0};
  std::vector<double> z(3);
  const Context ctx{.threads = 1};
  const TensorView<const double> in(x.data(), {3});
  const TensorView<double> out(z.data(), {3});
  const auto warm = diffuse<double>(ctx, ring, in, out, {.kernel = Kernel::heat, .t = 2000, .tol = 1e-10});
  CHECK(warm.converged);
  for (const double v : z) CHECK(v == doctest::Approx(1.0 / 3).epsilon(1e-9));
  const auto slow = diffuse<double>(ctx, ring, in, out, {.kernel = Kernel::heat, .t = 1e7, .tol = 1e-10});
  CHECK_FALSE(slow.converged);
  CHECK(slow.bound > 1e-10);
  CHECK(slow.hops == kMostHops);
}

TEST_CASE("diffuse: implicit and explicit graphs agree, threads and memory limits keep the bits") {
  const Offset n = 500;
  std::vector<Offset> run_indptr(at(n) + 1);
  std::vector<Run> runs;
  for (Offset i = 0; i < n; ++i) {
    runs.push_back({0, static_cast<Index>(i + 1)});
    run_indptr[at(i) + 1] = i + 1;
  }
  const Graph causal = Graph::from_runs(n, n, run_indptr, runs);
  REQUIRE(causal.implicit());
  const Graph written = causal.with_weights(std::vector<double>(at(causal.nnz()), 1.0)).without_weights();
  std::vector<double> x(at(n * 5));
  CounterRng rng(4, 4, 0);
  for (double& v : x) v = rng.uniform() - 0.5;
  const TensorView<const double> in(x.data(), {n, 5});
  std::vector<double> a(x.size());
  std::vector<double> b(x.size());
  const DiffuseOptions o{.teleport = 0.2, .tol = 1e-8, .normalization = Normalization::row};
  diffuse<double>({.threads = 1}, causal, in, TensorView<double>(a.data(), {n, 5}), o);
  diffuse<double>({.threads = 1}, written, in, TensorView<double>(b.data(), {n, 5}), o);
  for (std::size_t i = 0; i < a.size(); ++i) CHECK(a[i] == doctest::Approx(b[i]).epsilon(1e-11));
  std::vector<double> c(x.size());
  for (const int threads : {2, 4}) {
    diffuse<double>({.threads = threads}, written, in, TensorView<double>(c.data(), {n, 5}), o);
    CHECK(c == b);
  }
  const std::size_t limit = written.bytes() + at(2 * n * 5) * 8 + at(4 * n * 8) * 8 - 8;
  diffuse<double>({.threads = 1, .memory_limit = limit}, written, in, TensorView<double>(c.data(), {n, 5}),
                  o);
  CHECK(c == b);
  CHECK_THROWS_AS(diffuse<double>({.threads = 1, .memory_limit = 1000}, written, in,
                                  TensorView<double>(c.data(), {n, 5}), o),
                  LimitError);
}

TEST_CASE("diffuse: bad arguments name the place and the alternatives") {
  const Graph graph = directed_graph(1, 8, true);
  std::vector<double> x(8, 1.0);
  std::vector<double> z(8);
  const Context ctx{.threads = 1};
  const auto run = [&](const DiffuseOptions& o) {
    diffuse<double>(ctx, graph, TensorView<const double>(x.data(), {8}), TensorView<double>(z.data(), {8}),
                    o);
  };
  constexpr double kNan = std::numeric_limits<double>::quiet_NaN();
  CHECK_THROWS_WITH_AS(diffuse<double>(ctx, graph, TensorView<const double>(nullptr, {8}),
                                       TensorView<double>(z.data(), {8}), {}),
                       "signal: 8 numbers without data", ValueError);
  CHECK_THROWS_WITH_AS(run({.teleport = kNan}), doctest::Contains("teleport"), ValueError);
  CHECK_THROWS_WITH_AS(run({.teleport = 1.5}), doctest::Contains("1.5"), ValueError);
  CHECK_THROWS_WITH_AS(run({.teleport = 0.0}), doctest::Contains("teleport"), ValueError);
  CHECK_THROWS_WITH_AS(run({.hops = 3, .tol = 1e-3}), doctest::Contains("both"), ValueError);
  CHECK_THROWS_WITH_AS(run({.kernel = Kernel::heat, .t = -1}), doctest::Contains("t: -1"), ValueError);
  CHECK_THROWS_WITH_AS(run({.dangling = Dangling::uniform}), doctest::Contains("sym"), ValueError);
  CHECK_THROWS_WITH_AS(run({.normalization = Normalization::row, .dangling = Dangling::restart}),
                       doctest::Contains("col"), ValueError);
  CHECK_THROWS_WITH_AS(run({.teleport = 0.01, .normalization = Normalization::none}),
                       doctest::Contains("s = "), ValueError);
  CHECK_THROWS_WITH_AS(run({.kernel = Kernel::coefficients}), doctest::Contains("coefficients"), ValueError);
  x[5] = kNan;
  CHECK_THROWS_WITH_AS(run({}), doctest::Contains("row 5"), ValueError);
  x[5] = -1;
  CHECK_THROWS_WITH_AS(run({.normalization = Normalization::col, .dangling = Dangling::restart}),
                       doctest::Contains("row 5"), ValueError);
  x[5] = 1;
  std::vector<double> weights(graph.weights().begin(), graph.weights().end());
  weights[3] = -2;
  const Graph negative = graph.with_weights(weights);
  CHECK_THROWS_WITH_AS(diffuse<double>(ctx, negative, TensorView<const double>(x.data(), {8}),
                                       TensorView<double>(z.data(), {8}), {}),
                       doctest::Contains("-2"), ValueError);
  const Graph wide = Graph::from_csr(1, 2, {0, 1}, {1});
  CHECK_THROWS_WITH_AS(diffuse<double>(ctx, wide, TensorView<const double>(x.data(), {1}),
                                       TensorView<double>(z.data(), {1}), {}),
                       doctest::Contains("1 x 2"), ValueError);
}

TEST_CASE("diffuse: no vertices, no columns, zero hops, teleport one") {
  const Context ctx{.threads = 1};
  std::vector<double> x{3, 4};
  std::vector<double> z(2);
  CHECK(diffuse<double>(ctx, Graph(), TensorView<const double>(x.data(), {0}),
                        TensorView<double>(z.data(), {0}), {})
            .converged);
  const Graph pair = Graph::from_csr(2, 2, {0, 1, 2}, {1, 0});
  CHECK_NOTHROW(diffuse<double>(ctx, pair, TensorView<const double>(x.data(), {2, 0}),
                                TensorView<double>(z.data(), {2, 0}), {}));
  diffuse<double>(ctx, pair, TensorView<const double>(x.data(), {2}), TensorView<double>(z.data(), {2}),
                  {.hops = 0});
  CHECK(z == x);
  diffuse<double>(ctx, pair, TensorView<const double>(x.data(), {2}), TensorView<double>(z.data(), {2}),
                  {.teleport = 1});
  CHECK(z == x);
}
