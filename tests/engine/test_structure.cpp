// What the spectral solvers find in a graph: layouts for products, twins, closed forms; and Lanczos on them.
#include <doctest/doctest.h>
#include <rapidcheck.h>

#include <algorithm>
#include <cmath>
#include <numbers>
#include <numeric>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "manyhop/engine/spectral/closed.hpp"
#include "manyhop/engine/spectral/gap.hpp"
#include "manyhop/engine/spectral/lanczos.hpp"
#include "manyhop/engine/spectral/layout.hpp"
#include "manyhop/engine/spectral/operators.hpp"
#include "manyhop/engine/spectral/symmetric.hpp"
#include "manyhop/engine/spectral/twins.hpp"
#include "manyhop/graphs/patterns/pattern.hpp"
#include "manyhop/graphs/runs.hpp"
#include "tests/engine/spectral_oracle.hpp"
#include "tests/support/sanitized.hpp"

using namespace manyhop;
using spectral::gap;
using spectral::GapResult;
using spectral::Operator;

namespace {

/// Vertex v becomes (v multiplier + shift) mod n.
Graph renumbered(const Graph& graph, Offset multiplier, Offset shift = 3) {
  const Offset n = graph.n_rows();
  std::vector<Index> rows, cols;
  const auto moved = [&](Offset v) { return static_cast<Index>((v * multiplier + shift) % n); };
  for (Offset i = 0; i < n; ++i)
    for (const Index j : graph.row(i)) {
      rows.push_back(moved(i));
      cols.push_back(moved(j));
    }
  return Graph::from_edges(n, n, rows, cols);
}

GapResult solve(const Graph& graph, Operator op = Operator::normalized) {
  return gap({}, graph, {.op = op, .tol = 1e-10, .vectors = true, .reach_hops = 0});
}

std::vector<double> layout_sums(const Graph& graph, const std::vector<double>& x) {
  std::vector<double> result(static_cast<std::size_t>(graph.n_rows()), 1e300);
  std::vector<double> scratch;
  spectral::Layout(graph).sums(x.data(), scratch,
                               [&](Offset i, double sum) { result[static_cast<std::size_t>(i)] = sum; });
  return result;
}

}  // namespace

TEST_CASE("a layout sums the columns of every row") {
  for (const char* text :
       {"full", "causal", "window(3)", "window(40)", "diffuser(64, 8, 16, seed=2)", "global(5)", "self",
        "regular(6, seed=1)", "global(9, seed=4) | overlap(16, 8)", "full - block(7)"})
    for (const Offset n : {Offset{2}, Offset{30}, Offset{1024}, Offset{1030}, Offset{2048}}) {
      CAPTURE(text);
      CAPTURE(n);
      PatternOptions clip;
      clip.clip = true;
      const Graph graph = pattern(text, n, std::nullopt, clip);
      const auto x = spectral::start_vector(n, 9);
      const auto got = layout_sums(graph, x);
      for (Offset i = 0; i < n; ++i) {
        double sum = 0;
        for (const Index j : graph.row(i)) sum += x[static_cast<std::size_t>(j)];
        CHECK(std::abs(got[static_cast<std::size_t>(i)] - sum) <= 1e-12);
      }
    }
  // More columns than 16 bits count, one of them common to all rows, which two rows lack.
  const Offset n = 70000;
  std::vector<Index> rows, cols;
  for (Index i = 0; i < n; ++i) {
    rows.push_back(i);
    cols.push_back(static_cast<Index>((Offset{i} * 48271) % n));
    if (i == 0 || i == 69999) continue;
    rows.push_back(i);
    cols.push_back(65540);
  }
  const Graph wide = Graph::from_edges(n, n, rows, cols);
  const auto x = spectral::start_vector(n, 9);
  const auto got = layout_sums(wide, x);
  double worst = 0;
  for (Offset i = 0; i < n; ++i) {
    double sum = 0;
    for (const Index j : wide.row(i)) sum += x[static_cast<std::size_t>(j)];
    worst = std::max(worst, std::abs(got[static_cast<std::size_t>(i)] - sum));
  }
  CHECK(worst <= 1e-13);
}

TEST_CASE("a layout sums rows with any number of columns in a block") {
  // Row i has i single columns of one block, so every length of a visit occurs: those with code of their own
  // and those beyond.
  const Offset n = 120;
  std::vector<Index> rows, cols;
  for (Index i = 0; i < n; ++i)
    for (Index k = 0; k < i; ++k) {
      rows.push_back(i);
      cols.push_back(2 * k);
    }
  const Graph graph = Graph::from_edges(n, 2 * n, rows, cols);
  const spectral::Layout layout(graph);
  CHECK(layout.singles() == graph.nnz());
  const auto x = spectral::start_vector(2 * n, 9);
  const std::vector<float> rounded(x.begin(), x.end());
  std::vector<double> scratch, exact(n), single(n);
  layout.sums(x.data(), scratch, [&](Offset i, double sum) { exact[static_cast<std::size_t>(i)] = sum; });
  layout.sums(x.data(), rounded.data(), scratch,
              [&](Offset i, double sum) { single[static_cast<std::size_t>(i)] = sum; });
  for (std::size_t i = 0; i < exact.size(); ++i) {
    double sum = 0, of_rounded = 0;
    for (std::size_t k = 0; k < i; ++k) {
      sum += x[2 * k];
      of_rounded += static_cast<double>(rounded[2 * k]);
    }
    CHECK(std::abs(exact[i] - sum) <= 1e-14 * static_cast<double>(i));
    CHECK(std::abs(single[i] - of_rounded) <= static_cast<double>(i) * 0x1p-22);
  }
}

TEST_CASE("odd cycles and sides of components") {
  // A path, a triangle, a square with a loop, an even cycle, a lone vertex.
  const std::vector<std::pair<Index, Index>> edges{{0, 1},   {1, 2},   {3, 4},   {4, 5},  {5, 3},
                                                   {6, 7},   {7, 8},   {8, 9},   {9, 6},  {7, 7},
                                                   {10, 11}, {11, 12}, {12, 13}, {13, 10}};
  std::vector<Index> rows, cols;
  for (const auto& [u, v] : edges) {
    rows.insert(rows.end(), {u, v});
    cols.insert(cols.end(), {v, u});
  }
  const Graph graph = Graph::from_edges(15, 15, rows, cols);
  const Components parts = components(graph);
  const auto sides = spectral::two_sides({graph}, parts);
  CHECK(sides.odd == std::vector<char>{0, 1, 1, 0, 0});
  for (const auto& [u, v] : edges) {
    const auto c = static_cast<std::size_t>(parts.label[static_cast<std::size_t>(u)]);
    if (sides.odd[c] == 0)
      CHECK(sides.side[static_cast<std::size_t>(u)] + sides.side[static_cast<std::size_t>(v)] == 1);
  }
  // One direction and its transpose.
  rows.clear();
  cols.clear();
  for (const auto& [u, v] : edges) {
    rows.push_back(u);
    cols.push_back(v);
  }
  const Graph arcs = Graph::from_edges(15, 15, rows, cols);
  CHECK(spectral::two_sides({arcs, arcs.transpose()}, components(arcs)).odd == sides.odd);

  // By runs: two sides of 2000 vertices with all edges between them, and the same with a loop.
  const Offset half = 2000;
  for (const bool loop : {false, true}) {
    CAPTURE(loop);
    const Graph wide = build_rows(2 * half, 2 * half, [&](Offset i, RunList& out) {
      const Index begin = static_cast<Index>(i < half ? half : 0);
      const Index own = static_cast<Index>(i);
      if (loop && i == 2 * half - 1) {
        append_run(out, {begin, begin + static_cast<Index>(half)});
        append_run(out, {own, own + 1});
      } else {
        append_run(out, {begin, begin + static_cast<Index>(half)});
      }
    });
    REQUIRE(wide.implicit());
    const auto found = spectral::two_sides({wide}, components(wide));
    CHECK(found.odd == std::vector<char>{static_cast<char>(loop ? 1 : 0)});
    if (!loop) CHECK(found.side[0] != found.side[static_cast<std::size_t>(half)]);
  }
  // Three parts with all edges between them: no loop, but odd.
  const Graph three = build_rows(3 * half, 3 * half, [&](Offset i, RunList& out) {
    const Index own = static_cast<Index>(i / half * half);
    append_run(out, {0, own});
    append_run(out, {own + static_cast<Index>(half), static_cast<Index>(3 * half)});
  });
  REQUIRE(three.implicit());
  CHECK(spectral::two_sides({three}, components(three)).odd == std::vector<char>{1});
}

TEST_CASE("products may read vectors in single precision") {
  if (test::kThreadSanitizer) return;  // seconds of arithmetic; smaller graphs run through the same loops
  const Offset n = 50000;
  const Graph graph = pattern("regular(64, seed=3)", n);
  CHECK_FALSE(spectral::Layout(pattern("regular(32, seed=3)", n)).wants_rounded());
  CHECK_FALSE(spectral::Layout(pattern("regular(64, seed=3)", 30000)).wants_rounded());
  CHECK_FALSE(spectral::Layout(pattern("window(40)", n)).wants_rounded());
  const auto x = spectral::start_vector(n, 9);
  const std::vector<float> rounded(x.begin(), x.end());
  // 5 and 10 edges of a row in 4096 columns: large blocks and small ones. Columns of a block are added up in
  // single precision, blocks in double; entries are below 1.
  for (const Offset degree : {Offset{64}, Offset{128}}) {
    CAPTURE(degree);
    const Graph drawn = degree == 64 ? graph : pattern("regular(128, seed=3)", n);
    const spectral::Layout layout(drawn);
    REQUIRE(layout.wants_rounded());
    std::vector<double> scratch;
    std::vector<double> got(static_cast<std::size_t>(n));
    layout.sums(x.data(), rounded.data(), scratch,
                [&](Offset i, double sum) { got[static_cast<std::size_t>(i)] = sum; });
    double worst = 0;
    for (Offset i = 0; i < n; ++i) {
      double of_rounded = 0;
      for (const Index j : drawn.row(i))
        of_rounded += static_cast<double>(rounded[static_cast<std::size_t>(j)]);
      worst = std::max(worst, std::abs(got[static_cast<std::size_t>(i)] - of_rounded));
    }
    CHECK(worst <= static_cast<double>(degree) * 0x1p-24);
  }

  // A goal below what rounding leaves takes exact products; both have the same ends, and residuals are of
  // exact products.
  const auto at_tol = [&](double tol, int threads) {
    Context ctx;
    ctx.threads = threads;
    return gap(ctx, graph, {.tol = tol, .vectors = true, .reach_hops = 0});
  };
  const GapResult fast = at_tol(1e-8, 2), exact = at_tol(1e-9, 2);
  CHECK(fast.converged);
  CHECK(exact.converged);
  CHECK(fast.residual <= 1e-8);
  CHECK(std::abs(fast.lambda2->real() - exact.lambda2->real()) <= 1e-10);
  CHECK(std::abs(fast.lambda_n->real() - exact.lambda_n->real()) <= 1e-10);
  const GapResult again = at_tol(1e-8, 1);
  CHECK(again.vectors == fast.vectors);
  for (std::size_t k = 0; k < 2; ++k) {
    const double value = (k == 0 ? fast.lambda2 : fast.lambda_n)->real();
    double left = 0;
    for (Offset i = 0; i < n; ++i) {
      double sum = 0;
      for (const Index j : graph.row(i)) sum += fast.vectors[2 * static_cast<std::size_t>(j) + k];
      left += std::pow(sum / 64 - value * fast.vectors[2 * static_cast<std::size_t>(i) + k], 2);
    }
    CHECK(std::sqrt(left) <= 1.01 * fast.residual + 1e-13);
  }
}

TEST_CASE("ends of tridiagonal matrices") {
  // 2 on the diagonal, -1 beside it: 2 - 2 cos(pi k / (n + 1)).
  for (const std::size_t n : {1U, 2U, 7U, 200U}) {
    CAPTURE(n);
    const std::vector<double> diagonal(n, 2.0);
    const std::vector<double> off(n, -1.0);
    for (const bool top : {true, false}) {
      const auto end = spectral::tridiagonal_end(diagonal, off, top);
      const double k = top ? static_cast<double>(n) : 1.0;
      CHECK(end.value ==
            doctest::Approx(2 - 2 * std::cos(std::numbers::pi * k / static_cast<double>(n + 1))));
      double left = 0;
      for (std::size_t i = 0; i < n; ++i) {
        double sum = (2 - end.value) * end.vector[i];
        if (i > 0) sum -= end.vector[i - 1];
        if (i + 1 < n) sum -= end.vector[i + 1];
        left += sum * sum;
      }
      CHECK(std::sqrt(left) <= 1e-12);
    }
  }
}

TEST_CASE("twins are found whole, by any numbering, and only twins") {
  const auto classes = [](const Graph& graph) {
    const auto twins = spectral::find_twins(graph);
    return twins ? twins->base.n_rows() : graph.n_rows();
  };
  CHECK(classes(pattern("lift(regular(3, seed=1), 5)", 60)) == 12);
  CHECK(classes(pattern("lift(random(3, seed=1), 5)", 63)) == 13);
  CHECK(classes(pattern("full", 70)) == 1);
  CHECK(classes(pattern("global(4)", 70)) == 2);
  CHECK(classes(pattern("window(1)", 70)) == 70);
  CHECK(classes(pattern("causal", 70)) == 70);
  CHECK(classes(renumbered(pattern("lift(random(3, seed=1), 5)", 64), 7)) == 13);
  // Equal rows alone do not make twins: every row has columns 0 .. 3 and all but those are never held.
  const Graph rows_only = pattern("global(ids=[0, 1]) & lift(full, 2)", 8);
  CHECK(classes(rows_only) <= 8);
  const auto twins = spectral::find_twins(pattern("lift(full - self, 3)", 10));
  REQUIRE(twins.has_value());
  CHECK(twins->sizes == std::vector<double>{3, 3, 3, 1});
  CHECK(twins->base.same_edges(pattern("full - self", 4)));
}

TEST_CASE("graphs of twins have the values of dense matrices") {
  const std::vector<std::string> texts{
      "lift(random(2, seed=3), 4)", "lift(self, 6)",   "global(3)",
      "lift(window(1) - self, 5)",  "lift(causal, 9)", "lift(full - self, 20)"};
  for (const std::string& text : texts)
    for (const Offset n : {Offset{40}, Offset{43}}) {
      CAPTURE(text);
      CAPTURE(n);
      for (const Graph& graph : {pattern(text, n), renumbered(pattern(text, n), 7)}) {
        const auto size = static_cast<std::size_t>(n);
        const auto check = [&](Operator op, std::vector<double> values) {
          const GapResult result = solve(graph, op);
          CHECK(result.method.substr(0, 5) == "twins");
          CHECK(result.lambda2->real() == doctest::Approx(values[size - 2]).epsilon(1e-10));
          CHECK(std::abs(result.lambda_n->real() - values[0]) <= 1e-10);
          CHECK(result.components == components(graph).count);
          CHECK(result.isolated == components(graph).isolated);
          CHECK(result.vectors.size() == 2 * size);
        };
        check(Operator::normalized, oracle::eigenvalues(oracle::normalized(graph), size));
        check(Operator::adjacency, oracle::eigenvalues(oracle::symmetric(graph), size));
      }
    }
}

TEST_CASE("closed forms by text agree with solvers on other numberings") {
  const std::vector<std::pair<std::string, Offset>> cases{{"window(3, ring=true)", 301},
                                                          {"window(2, step=5, ring=true) - self", 401},
                                                          {"paley", 401},
                                                          {"hypercube", 512},
                                                          {"full - self", 301},
                                                          {"axial(20, 16)", 320},
                                                          {"axial(15, 24) - self", 360},
                                                          {"window(1, ring=true) - self", 300}};
  for (const auto& [text, n] : cases) {
    CAPTURE(text);
    const Graph graph = pattern(text, n);
    const Graph other = renumbered(graph, n == 512 ? 101 : 1, 0);
    REQUIRE(spectral::closed_form(graph).has_value());
    std::vector<Index> order(static_cast<std::size_t>(n));
    std::iota(order.begin(), order.end(), Index{0});
    std::swap(order[1], order[7]);
    std::swap(order[3], order[90]);
    std::vector<Index> rows, cols;
    for (Offset i = 0; i < n; ++i)
      for (const Index j : other.row(i)) {
        rows.push_back(order[static_cast<std::size_t>(i)]);
        cols.push_back(order[static_cast<std::size_t>(j)]);
      }
    const Graph mixed = Graph::from_edges(n, n, rows, cols);
    for (const Operator op : {Operator::normalized, Operator::adjacency, Operator::laplacian}) {
      const GapResult formula = solve(graph, op);
      const GapResult solved = solve(mixed, op);
      CHECK(formula.residual <= 1e-10);
      CHECK(formula.iterations == 0);
      CHECK(std::abs(formula.lambda2->real() - solved.lambda2->real()) <= 1e-8);
      CHECK(std::abs(formula.lambda_n->real() - solved.lambda_n->real()) <= 1e-8);
      CHECK(std::abs(*formula.gap - *solved.gap) <= 1e-8);
    }
  }
  CHECK_FALSE(spectral::closed_form(pattern("window(1)", 50)).has_value());
  CHECK_FALSE(spectral::closed_form(pattern("regular(4, seed=1)", 64)).has_value());
}

TEST_CASE("grids are products of their sides") {
  for (const auto& [text, h, w] :
       {std::tuple{"grid(20, 30, 1)", 20, 30}, std::tuple{"grid(40, 12, 2)", 40, 12},
        std::tuple{"grid(17, 17, 3)", 17, 17}}) {
    CAPTURE(text);
    const Offset n = Offset{h} * w;
    const Graph graph = pattern(text, n);
    const GapResult formula = solve(graph, Operator::normalized);
    const GapResult solved = solve(renumbered(graph, 7), Operator::normalized);
    CHECK(formula.method.substr(0, 7) == "product");
    CHECK(formula.residual <= 1e-8);
    CHECK(std::abs(formula.lambda2->real() - solved.lambda2->real()) <= 1e-8);
    CHECK(std::abs(formula.lambda_n->real() - solved.lambda_n->real()) <= 1e-8);
  }
  const auto found = spectral::product_graph(pattern("grid(20, 30, 2) | self", 600));
  REQUIRE(found.has_value());
  CHECK(found->outer.same_edges(pattern("window(2)", 20)));
  CHECK(found->inner.same_edges(pattern("window(2)", 30)));
  CHECK_FALSE(spectral::product_graph(pattern("window(2)", 600)).has_value());
  CHECK_FALSE(spectral::product_graph(pattern("regular(4)", 600)).has_value());
  CHECK_FALSE(spectral::product_graph(pattern("full", 0)).has_value());
}

TEST_CASE("reach of twins is that of their graph") {
  for (const char* text :
       {"lift(random(1, seed=3) - self, 4)", "lift(causal - self, 5)", "full", "global(3)"})
    for (const Offset n : {Offset{40}, Offset{43}}) {
      CAPTURE(text);
      CAPTURE(n);
      const Graph graph = pattern(text, n);
      const auto got = spectral::reach({}, graph, 4);
      const auto size = static_cast<std::size_t>(n);
      std::vector<std::vector<char>> held(size, std::vector<char>(size));
      for (std::size_t i = 0; i < size; ++i) held[i][i] = 1;
      for (std::size_t hop = 0; hop < 4; ++hop) {
        auto next = held;
        double total = 0;
        double least = 1e300;
        for (std::size_t i = 0; i < size; ++i) {
          for (std::size_t j = 0; j < size; ++j)
            if (held[i][j])
              for (const Index k : graph.row(static_cast<Offset>(j)))
                next[i][static_cast<std::size_t>(k)] = 1;
          const auto count = static_cast<double>(std::count(next[i].begin(), next[i].end(), 1));
          total += count;
          least = std::min(least, count);
        }
        held = next;
        const auto all = static_cast<double>(n);
        CHECK(got[hop].mean == doctest::Approx(total / all / all));
        CHECK(got[hop].min == doctest::Approx(least / all));
      }
    }
}

TEST_CASE("long windows converge at both ends") {
  for (const Offset r : {Offset{1}, Offset{5}}) {
    const GapResult result = solve(pattern("window(" + std::to_string(r) + ")", 30000));
    CHECK(result.converged);
    CHECK(result.gap > 0.0);
    CHECK(*result.gap < 1e-6);
  }
}
