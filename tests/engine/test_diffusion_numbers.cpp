// diffuse at the ends of the number range: signals and weights of extreme size, long sums in float, bounds.
#include <doctest/doctest.h>
#include <rapidcheck.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "manyhop/graphs/base/error.hpp"
#include "tests/support/diffusion_run.hpp"

using namespace manyhop;
using namespace manyhop::test;

namespace {

std::size_t at(Offset i) { return static_cast<std::size_t>(i); }

}  // namespace

TEST_CASE("diffuse: long sums in float stay within 2e-6 of double, with the same hops") {
  const Graph graph = drawn_graph(1, 300, 8, 1);
  const std::vector<double> x = drawn_signal(2, 300 * 3);
  const std::vector<float> x_float(x.begin(), x.end());
  for (const Normalization nz : {Normalization::sym, Normalization::row, Normalization::col}) {
    for (DiffuseOptions o : {DiffuseOptions{.teleport = 1e-3, .hops = 2000}, DiffuseOptions{.teleport = 0.05},
                             DiffuseOptions{.kernel = Kernel::heat, .t = 200, .tol = 1e-6},
                             DiffuseOptions{.teleport = 0.1, .hops = 100}, DiffuseOptions{}}) {
      o.normalization = nz;
      DiffuseResult in_double;
      DiffuseResult in_float;
      const std::vector<double> z =
          value_of(graph, x, o, &in_double, {.threads = 2, .backend = Backend::reference});
      const std::vector<float> z_float = value_of(graph, x_float, o, &in_float);
      CHECK(relative_l2(z_float, z) <= 2e-6);
      CHECK(in_float.hops == in_double.hops);
    }
  }
}

TEST_CASE("diffuse: the size of weights cancels, whatever it is") {
  const std::vector<double> x = drawn_signal(3, 60 * 2);
  const std::vector<float> x_float(x.begin(), x.end());
  const Graph plain = drawn_graph(4, 60, 5, 1);
  for (const double unit : {1e-300, 1e-40, 1e40, 1e300}) {
    const Graph graph = drawn_graph(4, 60, 5, unit);
    for (const Normalization nz : {Normalization::sym, Normalization::row, Normalization::col}) {
      const DiffuseOptions o{.hops = 6, .normalization = nz};
      const std::vector<double> wanted = value_of(plain, x, o);
      const std::vector<double> z = value_of(graph, x, o);
      for (std::size_t i = 0; i < z.size(); ++i) CHECK(z[i] == doctest::Approx(wanted[i]).epsilon(1e-12));
      CHECK(relative_l2(value_of(graph, x_float, o), wanted) <= 2e-6);
    }
  }
  const std::vector<Index> rows{0, 1};
  const std::vector<Index> cols{1, 0};
  // One row is far below the other: fine as long as doubles can hold both.
  const Graph uneven = Graph::from_edges(2, 2, rows, cols, std::vector<double>{1e200, 1e-200});
  const DiffuseOptions once{.teleport = 0, .hops = 1, .normalization = Normalization::row};
  CHECK(value_of<double>(uneven, {1, 2}, once) == std::vector<double>{2, 1});
  CHECK(value_of<float>(uneven, {1, 2}, once) == std::vector<float>{2, 1});
  const Graph apart = Graph::from_edges(2, 2, rows, cols, std::vector<double>{1e300, 1e-300});
  CHECK_THROWS_WITH_AS(value_of<double>(apart, {1, 1}, once), doctest::Contains("weights[1]: 1e-300"),
                       ValueError);
}

TEST_CASE("diffuse: residual, bound and hops do not depend on the size of the signal") {
  const Graph graph = drawn_graph(5, 60, 5, 1);
  const std::vector<double> x = drawn_signal(6, 60);
  for (const Normalization nz : {Normalization::sym, Normalization::row, Normalization::col}) {
    const DiffuseOptions o{.tol = 1e-8, .normalization = nz};
    DiffuseResult plain;
    const std::vector<double> wanted = value_of(graph, x, o, &plain);
    for (const double unit : {1e-300, 1e-160, 1e160, 1e300}) {
      std::vector<double> scaled = x;
      for (double& v : scaled) v *= unit;
      DiffuseResult r;
      const std::vector<double> z = value_of(graph, scaled, o, &r);
      CHECK(r.hops == plain.hops);
      CHECK(r.residual == doctest::Approx(plain.residual).epsilon(1e-6));
      CHECK(r.bound == doctest::Approx(plain.bound).epsilon(1e-6));
      for (std::size_t i = 0; i < z.size(); ++i)
        CHECK(z[i] / unit == doctest::Approx(wanted[i]).epsilon(1e-12));
    }
  }
}

TEST_CASE("diffuse: an implicit graph has the same bits before and after its edges are written") {
  const Offset n = 500;
  std::vector<Offset> run_indptr(at(n) + 1);
  std::vector<Run> runs;
  for (Offset i = 0; i < n; ++i) {
    runs.push_back({static_cast<Index>(i / 2), static_cast<Index>(n)});
    run_indptr[at(i) + 1] = i + 1;
  }
  const Graph graph = Graph::from_runs(n, n, run_indptr, runs);
  REQUIRE(graph.implicit());
  std::vector<double> x = drawn_signal(7, at(n) * 3);
  x[0] = 1e20;  // far above the sums of the rows that do not reach it
  const DiffuseOptions o{.teleport = 0, .hops = 1, .normalization = Normalization::row};
  const std::vector<double> before = value_of(graph, x, o);
  REQUIRE(graph.implicit());
  const std::vector<double> plain =
      value_of(graph, x, o, nullptr, {.threads = 1, .backend = Backend::reference});
  for (std::size_t i = 6; i < plain.size(); ++i) CHECK(before[i] == doctest::Approx(plain[i]).epsilon(1e-12));
  CHECK(graph.indices().size() == at(graph.nnz()));
  CHECK(value_of(graph, x, o) == before);
  const Graph copy = Graph::from_csr(n, n, {graph.indptr().begin(), graph.indptr().end()},
                                     {graph.indices().begin(), graph.indices().end()});
  CHECK(value_of(copy, x, o) == before);
}

TEST_CASE("diffuse: the bound holds on drawn graphs (property)") {
  CHECK(rc::check("distance to the limit is at most the bound", [] {
    const auto seed = *rc::gen::inRange<std::uint64_t>(0, 1U << 20);
    const Offset n = *rc::gen::inRange<Offset>(1, 40);
    const double a = 0.05 + 0.01 * *rc::gen::inRange(0, 90);
    const int hops = *rc::gen::inRange(0, 12);
    const auto nz = *rc::gen::element(Normalization::sym, Normalization::row, Normalization::col);
    const bool heat = *rc::gen::arbitrary<bool>();
    const Graph graph = drawn_graph(seed, n, 3, 1);
    const std::vector<double> x = drawn_signal(seed, at(n));
    DiffuseOptions o{
        .kernel = heat ? Kernel::heat : Kernel::ppr, .teleport = a, .t = 5 * a, .normalization = nz};
    DiffuseOptions far = o;
    far.tol = 1e-14;
    o.hops = hops;
    DiffuseResult r;
    const std::vector<double> z = value_of(graph, x, o, &r);
    const std::vector<double> limit = value_of(graph, x, far);
    const auto norm = [&](const auto& entry) {
      double sum = 0;
      for (std::size_t i = 0; i < x.size(); ++i) {
        const double v = std::abs(entry(i));
        sum = nz == Normalization::row ? std::max(sum, v) : sum + (nz == Normalization::col ? v : v * v);
      }
      return nz == Normalization::sym ? std::sqrt(sum) : sum;
    };
    const double distance = norm([&](std::size_t i) { return z[i] - limit[i]; });
    RC_ASSERT(distance <= (r.bound + 1e-12) * norm([&](std::size_t i) { return x[i]; }));
  }));
}
