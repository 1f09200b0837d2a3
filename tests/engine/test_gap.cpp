#include "manyhop/engine/spectral/gap.hpp"

#include <doctest/doctest.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <numbers>
#include <string>
#include <vector>

#include "manyhop/graphs/base/error.hpp"
#include "manyhop/graphs/patterns/pattern.hpp"
#include "tests/engine/spectral_oracle.hpp"
#include "tests/support/sanitized.hpp"

using namespace manyhop;
using spectral::gap;
using spectral::GapResult;
using spectral::Operator;

namespace {

constexpr double kPi = std::numbers::pi;

GapResult solve(const Graph& graph, Operator op = Operator::normalized, double tol = 1e-10) {
  return gap({}, graph, {.op = op, .tol = tol, .reach_hops = 0});
}

Graph edges(Offset n, const std::vector<std::pair<Index, Index>>& list, bool undirected = true) {
  std::vector<Index> rows, cols;
  for (const auto& [a, b] : list) {
    rows.push_back(a);
    cols.push_back(b);
    if (undirected && a != b) {
      rows.push_back(b);
      cols.push_back(a);
    }
  }
  return Graph::from_edges(n, n, rows, cols);
}

Graph path(Offset n) { return pattern("window(1) - self", n); }
Graph cycle(Offset n) { return pattern("window(1, ring=true) - self", n); }

Graph directed_cycle(Offset n) {
  std::vector<std::pair<Index, Index>> list;
  for (Index i = 0; i < n; ++i) list.emplace_back(i, static_cast<Index>((i + 1) % n));
  return edges(n, list, false);
}

/// Eigenvalues of the ring whose row 0 holds 1 at `steps` (both signs listed): sums of cosines.
std::vector<double> ring_spectrum(Offset n, const std::vector<Offset>& steps) {
  std::vector<double> values;
  for (Offset k = 0; k < n; ++k) {
    double sum = 0;
    for (const Offset s : steps)
      sum += std::cos(2 * kPi * static_cast<double>((k * s) % n) / static_cast<double>(n));
    values.push_back(sum);
  }
  std::sort(values.begin(), values.end());
  return values;
}

void check_value(const std::optional<std::complex<double>>& got, double expected, double tol = 1e-8) {
  REQUIRE(got.has_value());
  CHECK(std::abs(*got - expected) <= tol);
}

}  // namespace

TEST_CASE("cycles and paths have cosines, small and large, with tiny gaps") {
  for (const Offset n : {Offset{3}, Offset{8}, Offset{255}, Offset{256}, Offset{257}, Offset{1000},
                         Offset{5001}, Offset{20000}}) {
    CAPTURE(n);
    const double c = 2 * kPi / static_cast<double>(n);
    const GapResult ring = solve(cycle(n));
    CHECK(ring.converged);
    check_value(ring.lambda2, std::cos(c));
    check_value(ring.lambda_n, n % 2 == 0 ? -1.0 : std::cos(c * static_cast<double>(n / 2)));
    CHECK(std::abs(*ring.gap - 2 * std::pow(std::sin(c / 2), 2)) <= 1e-13);
    const GapResult line = solve(path(n));
    CHECK(line.converged);
    check_value(line.lambda2, std::cos(kPi / static_cast<double>(n - 1)));
    check_value(line.lambda_n, -1);
    CHECK_FALSE(line.symmetrised);
  }
}

TEST_CASE("adjacency of a long cycle and of a path") {
  for (const Offset n : {Offset{12}, Offset{301}, Offset{2000}}) {
    CAPTURE(n);
    const GapResult ring = solve(cycle(n), Operator::adjacency, 1e-9);
    CHECK(ring.converged);
    const double c = 2 * kPi / static_cast<double>(n);
    check_value(ring.lambda2, 2 * std::cos(c));
    check_value(ring.lambda_n, 2 * std::cos(c * static_cast<double>(n / 2)));
    const GapResult line = solve(path(n), Operator::adjacency, 1e-9);
    const double p = kPi / static_cast<double>(n + 1);
    check_value(line.lambda2, 2 * std::cos(2 * p));
    check_value(line.lambda_n, -2 * std::cos(p));
    CHECK(*line.gap == doctest::Approx(2 * std::cos(p) - 2 * std::cos(2 * p)).epsilon(1e-6));
  }
}

TEST_CASE("complete graphs, stars, hypercubes, Petersen and Paley") {
  for (const Offset n : {Offset{2}, Offset{5}, Offset{300}}) {
    CAPTURE(n);
    const GapResult complete = solve(pattern("full - self", n));
    CHECK(complete.converged);
    check_value(complete.lambda2, -1.0 / static_cast<double>(n - 1));
    check_value(complete.lambda_n, -1.0 / static_cast<double>(n - 1));
    const GapResult adjacency = solve(pattern("full - self", n), Operator::adjacency);
    check_value(adjacency.lambda2, -1);
    CHECK(std::abs(*adjacency.gap - static_cast<double>(n)) < 1e-8);
    const GapResult all = solve(pattern("full", n));
    check_value(all.lambda2, 0);
    check_value(all.lambda_n, 0);
  }
  for (const Offset n : {Offset{6}, Offset{400}}) {
    std::vector<std::pair<Index, Index>> list;
    for (Index i = 1; i < n; ++i) list.emplace_back(Index{0}, i);
    const GapResult star = solve(edges(n, list), Operator::adjacency);
    check_value(star.lambda2, 0);
    check_value(star.lambda_n, -std::sqrt(static_cast<double>(n - 1)));
    CHECK(std::abs(*star.gap - std::sqrt(static_cast<double>(n - 1))) < 1e-8);
    check_value(solve(edges(n, list)).lambda_n, -1);
    check_value(solve(edges(n, list)).lambda2, 0);
  }
  for (const int dimension : {3, 10}) {
    const GapResult cube = solve(pattern("hypercube", Offset{1} << dimension));
    CHECK(cube.converged);
    check_value(cube.lambda2, 1 - 2.0 / dimension);
    check_value(cube.lambda_n, -1);
  }
  std::vector<std::pair<Index, Index>> petersen;
  for (Index i = 0; i < 5; ++i) {
    petersen.emplace_back(i, (i + 1) % 5);
    petersen.emplace_back(i, i + 5);
    petersen.emplace_back(i + 5, (i + 2) % 5 + 5);
  }
  const GapResult p = solve(edges(10, petersen), Operator::adjacency);
  check_value(p.lambda2, 1);
  check_value(p.lambda_n, -2);
  CHECK(std::abs(*p.gap - 2) < 1e-12);
  for (const Offset q : {Offset{13}, Offset{401}}) {
    const GapResult paley = solve(pattern("paley", q), Operator::adjacency);
    check_value(paley.lambda2, (std::sqrt(static_cast<double>(q)) - 1) / 2);
    check_value(paley.lambda_n, (-std::sqrt(static_cast<double>(q)) - 1) / 2);
  }
}

TEST_CASE("circulant patterns have sums of cosines") {
  const std::vector<std::pair<std::string, std::vector<Offset>>> cases{
      {"window(3, ring=true)", {0, 1, -1, 2, -2, 3, -3}},
      {"window(2, step=5, ring=true)", {0, 5, -5, 10, -10}}};
  for (const auto& [text, steps] : cases)
    for (const Offset n : {Offset{41}, Offset{1009}}) {
      CAPTURE(text);
      CAPTURE(n);
      const auto values = ring_spectrum(n, steps);
      const auto degree = static_cast<double>(steps.size());
      const GapResult result = solve(pattern(text, n));
      CHECK(result.converged);
      check_value(result.lambda2, values[values.size() - 2] / degree);
      check_value(result.lambda_n, values[0] / degree);
      const GapResult laplacian = solve(pattern(text, n), Operator::laplacian);
      check_value(laplacian.lambda2, 1 - values[values.size() - 2] / degree);
      check_value(laplacian.lambda_n, 1 - values[0] / degree);
    }
}

TEST_CASE("the gap of a disconnected graph is 0") {
  for (const Offset n : {Offset{40}, Offset{600}}) {
    CAPTURE(n);
    const Graph copies = pattern("lift(self, 20)", n);
    const GapResult result = solve(copies);
    CHECK(result.components == n / 20);
    CHECK(*result.lambda2 == 1.0);
    CHECK(*result.gap == 0.0);
    CHECK(result.converged);
    for (const Operator op :
         {Operator::adjacency, Operator::laplacian, Operator::transition, Operator::singular}) {
      CAPTURE(static_cast<int>(op));
      CHECK(*solve(copies, op).gap == 0.0);
      CHECK(solve(copies, op).converged);
    }
    const GapResult chung = solve(copies, Operator::chung);
    CHECK_FALSE(chung.applies);
    CHECK_FALSE(chung.reason.empty());
    CHECK_FALSE(chung.lambda2.has_value());
  }
  // A complete graph and a lonely vertex: a zero row, eigenvalue 0, yet gap 0.
  std::vector<std::pair<Index, Index>> list;
  for (Index i = 0; i < 5; ++i)
    for (Index j = 0; j < i; ++j) list.emplace_back(i, j);
  const GapResult lonely = solve(edges(6, list));
  check_value(lonely.lambda2, 0);
  CHECK(*lonely.gap == 0.0);
  CHECK(lonely.isolated == 1);
  const GapResult laplacian = solve(edges(6, list), Operator::laplacian);
  check_value(laplacian.lambda2, 0);
  CHECK(*laplacian.gap == 0.0);
  check_value(laplacian.lambda_n, 1.25);
}

TEST_CASE("none, one and two vertices, and no edges") {
  for (const Operator op : {Operator::normalized, Operator::adjacency, Operator::laplacian,
                            Operator::transition, Operator::singular, Operator::chung}) {
    CAPTURE(static_cast<int>(op));
    CHECK_FALSE(solve(Graph(), op).lambda2.has_value());
    CHECK_FALSE(solve(Graph(), op).gap.has_value());
    CHECK_FALSE(solve(edges(1, {}), op).lambda2.has_value());
    CHECK_FALSE(solve(edges(1, {{0, 0}}), op).gap.has_value());
    CHECK(solve(edges(1, {{0, 0}}), op).converged);
    if (op == Operator::chung) continue;
    CHECK(*solve(edges(2, {}), op).gap == 0.0);
    for (const Offset n : {Offset{3}, Offset{700}}) {
      const GapResult empty = solve(edges(n, {}), op);
      check_value(empty.lambda2, 0);
      CHECK(*empty.gap == 0.0);
      CHECK(empty.components == n);
      CHECK(empty.isolated == n);
      CHECK(empty.converged);
    }
  }
  check_value(solve(edges(2, {{0, 1}})).lambda2, -1);
  CHECK(*solve(edges(2, {{0, 1}})).gap == doctest::Approx(2));
  check_value(solve(edges(2, {{0, 1}}), Operator::transition).lambda2, -1);
  CHECK(*solve(edges(2, {{0, 1}}), Operator::transition).gap == doctest::Approx(0));
  check_value(solve(edges(2, {{0, 1}}), Operator::singular).lambda2, 1);
}

TEST_CASE("directed graphs of the transition operator") {
  for (const Offset n : {Offset{7}, Offset{400}}) {
    CAPTURE(n);
    const GapResult ring = solve(directed_cycle(n), Operator::transition);
    REQUIRE(ring.lambda2.has_value());
    CHECK(std::abs(std::abs(*ring.lambda2) - 1) < 1e-12);
    CHECK(std::abs(*ring.lambda2 - std::polar(1.0, 2 * kPi / static_cast<double>(n))) < 1e-10);
    CHECK(std::abs(*ring.gap) < 1e-12);
    CHECK(ring.converged);
    const GapResult causal = solve(pattern("causal", n), Operator::transition);
    check_value(causal.lambda2, 0.5, 1e-15);
    CHECK(*causal.gap == doctest::Approx(0.5));
    CHECK(causal.converged);
  }
  // The binary de Bruijn walk forgets everything in log2(n) steps.
  for (const Offset n : {Offset{64}, Offset{1024}}) {
    const GapResult forgetful = solve(pattern("debruijn(2)", n), Operator::transition);
    check_value(forgetful.lambda2, 0, 1e-12);
    CHECK(forgetful.converged);
  }
}

TEST_CASE("the directed cycle of Chung's Laplacian is the cycle") {
  for (const Offset n : {Offset{9}, Offset{500}}) {
    const GapResult result = solve(directed_cycle(n), Operator::chung);
    CHECK(result.applies);
    CHECK(result.converged);
    check_value(result.lambda2, 1 - std::cos(2 * kPi / static_cast<double>(n)));
  }
  CHECK_FALSE(solve(pattern("causal", 300), Operator::chung).applies);
}

TEST_CASE("large implicit graphs cost their runs") {
  const GapResult full = gap({}, pattern("full", 65536), {.reach_hops = 2});
  check_value(full.lambda2, 0);
  CHECK(full.converged);
  CHECK(full.seconds < 20);
  CHECK(full.reach[0].min == 1.0);
  const GapResult causal = solve(pattern("causal", 65536));
  CHECK(causal.symmetrised);
  check_value(causal.lambda2, 0);
}

TEST_CASE("residuals are those of a fresh product with the vectors given") {
  for (const char* text :
       {"diffuser(8, 2, 4, seed=3)", "window(3)", "regular(4, seed=2)", "random(3, seed=1)"}) {
    CAPTURE(text);
    const Graph graph = pattern(text, 900);
    const GapResult result = gap({}, graph, {.tol = 1e-9, .vectors = true, .reach_hops = 0});
    CHECK(result.converged);
    REQUIRE(result.vectors.size() == 1800);
    const auto matrix = oracle::normalized(graph);
    for (std::size_t k = 0; k < 2; ++k) {
      const double value = (k == 0 ? result.lambda2 : result.lambda_n)->real();
      double size = 0;
      double left = 0;
      for (std::size_t i = 0; i < 900; ++i) {
        double sum = 0;
        for (std::size_t j = 0; j < 900; ++j) sum += matrix[i * 900 + j] * result.vectors[2 * j + k];
        left += std::pow(sum - value * result.vectors[2 * i + k], 2);
        size += std::pow(result.vectors[2 * i + k], 2);
      }
      CHECK(size == doctest::Approx(1));
      CHECK(std::sqrt(left) <= std::max(1.01 * result.residual, 1e-13));
      CHECK(std::sqrt(left) <= 1e-9);
    }
  }
}

TEST_CASE("same bits for any thread count") {
  const Graph graph = pattern("diffuser(16, 4, 8, seed=1)", 3000);
  for (const Operator op : {Operator::normalized, Operator::adjacency, Operator::transition,
                            Operator::singular, Operator::chung}) {
    CAPTURE(static_cast<int>(op));
    if (test::kThreadSanitizer && op != Operator::normalized && op != Operator::singular) continue;
    Context one, four;
    one.threads = 1;
    four.threads = 4;
    const GapResult a = gap(one, graph, {.op = op, .vectors = true, .reach_hops = 2});
    const GapResult b = gap(four, graph, {.op = op, .vectors = true, .reach_hops = 2});
    CHECK(a.converged);
    CHECK(*a.lambda2 == *b.lambda2);
    CHECK(a.lambda_n == b.lambda_n);
    CHECK(a.residual == b.residual);
    CHECK(a.vectors == b.vectors);
  }
}

TEST_CASE("what does not converge is data") {
  const GapResult result =
      gap({}, pattern("regular(8, seed=1)", 3000), {.tol = 1e-12, .max_iterations = 1, .reach_hops = 0});
  CHECK_FALSE(result.converged);
  CHECK(result.residual > 1e-12);
  REQUIRE(result.lambda2.has_value());
  CHECK(std::abs(result.lambda2->real() - 0.66) < 0.05);  // 2 sqrt(7) / 8
}

TEST_CASE("bad arguments name themselves") {
  const Graph graph = pattern("window(1)", 4);
  CHECK_THROWS_AS(gap({}, pattern("full", 3, 4)), ValueError);
  CHECK_THROWS_AS(gap({}, graph, {.tol = 0}), ValueError);
  CHECK_THROWS_AS(gap({}, graph, {.tol = std::nan("")}), ValueError);
  CHECK_THROWS_AS(gap({}, graph, {.max_iterations = 0}), ValueError);
  CHECK_THROWS_AS(gap({}, graph, {.reach_hops = -1}), ValueError);
  const Graph negative = edges(2, {{0, 1}}).with_weights({1, -1});
  CHECK_THROWS_WITH_AS(
      gap({}, negative, {.weighted = true}),
      "operator normalized wants weights of 0 or more, got -1 at row 1, column 0; adjacency takes any",
      ValueError);
  CHECK_NOTHROW(gap({}, negative, {.op = Operator::adjacency, .weighted = true}));
  CHECK_NOTHROW(gap({}, negative));
  Context small;
  small.memory_limit = 100000;
  CHECK_THROWS_AS(gap(small, pattern("regular(4)", 5000)), LimitError);
}

TEST_CASE("a raised stop flag ends the solver") {
  const std::atomic<bool> stop{true};
  Context ctx;
  ctx.stop = &stop;
  CHECK_THROWS_AS(gap(ctx, pattern("regular(4)", 5000)), Interrupted);
}
