// gap() against dense eigenvalues from the definitions (Jacobi rotations), on random graphs.
#include <doctest/doctest.h>
#include <rapidcheck.h>

#include <algorithm>
#include <cmath>
#include <complex>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "manyhop/engine/spectral/gap.hpp"
#include "manyhop/graphs/io/io.hpp"
#include "manyhop/graphs/patterns/pattern.hpp"
#include "tests/engine/spectral_oracle.hpp"
#include "tests/support/sanitized.hpp"

using namespace manyhop;
using spectral::gap;
using spectral::Operator;

namespace {

struct Expected {
  double second = 0;
  double last = 0;
  double gap = 0;
};

Expected expected(const Graph& graph, Operator op, bool weighted) {
  const auto n = static_cast<std::size_t>(graph.n_rows());
  Expected result;
  if (op == Operator::adjacency) {
    const auto values = oracle::eigenvalues(oracle::symmetric(graph, weighted), n);
    result = {values[n - 2], values[0], values[n - 1] - values[n - 2]};
  } else if (op == Operator::singular) {
    const auto values = oracle::eigenvalues(oracle::gram(graph, weighted), n);
    const double sigma = std::sqrt(std::max(0.0, values[n - 2]));
    result = {sigma, 0, 1 - sigma};
  } else {
    auto matrix = oracle::normalized(graph, weighted);
    if (op == Operator::laplacian) {
      for (std::size_t i = 0; i < n; ++i) {
        double row = 0;
        for (std::size_t j = 0; j < n; ++j) row += matrix[i * n + j];
        for (std::size_t j = 0; j < n; ++j) matrix[i * n + j] *= -1;
        if (row > 0) matrix[i * n + i] += 1;
      }
      const auto values = oracle::eigenvalues(matrix, n);
      result = {values[1], values[n - 1], values[1]};
    } else {
      const auto values = oracle::eigenvalues(matrix, n);
      result = {values[n - 2], values[0], 1 - values[n - 2]};
    }
  }
  if (components(graph).count > 1) result.gap = 0;
  return result;
}

void compare(const Graph& graph, Operator op, bool weighted) {
  const auto want = expected(graph, op, weighted);
  const auto got = gap({}, graph, {.op = op, .tol = 1e-10, .weighted = weighted, .reach_hops = 0});
  RC_ASSERT(got.converged);
  // The oracle's singular values are roots of eigenvalues: half the digits near 0.
  const double tol = op == Operator::singular ? 1e-6 : 1e-9;
  RC_ASSERT(std::abs(got.lambda2->real() - want.second) < tol);
  RC_ASSERT(std::abs(*got.gap - want.gap) < tol);
  if (op != Operator::singular) RC_ASSERT(std::abs(got.lambda_n->real() - want.last) < tol);
}

}  // namespace

TEST_CASE("real operators equal dense eigenvalues on random graphs") {
  CHECK(rc::check("dense", [] {
    const Offset n = *rc::gen::inRange<Offset>(2, 24);
    const auto m = *rc::gen::inRange<std::size_t>(0, 80);
    const auto vertex = rc::gen::inRange<Index>(0, static_cast<Index>(n));
    const auto rows = *rc::gen::container<std::vector<Index>>(m, vertex);
    const auto cols = *rc::gen::container<std::vector<Index>>(m, vertex);
    const auto draws = *rc::gen::container<std::vector<int>>(m, rc::gen::inRange(1, 50));
    std::vector<double> weights(draws.begin(), draws.end());
    const Graph graph = Graph::from_edges(n, n, rows, cols, weights);
    for (const Operator op :
         {Operator::normalized, Operator::adjacency, Operator::laplacian, Operator::singular})
      for (const bool weighted : {false, true}) compare(graph, op, weighted);
  }));
}

TEST_CASE("Chung's Laplacian equals its dense definition") {
  CHECK(rc::check("chung", [] {
    const Offset n = *rc::gen::inRange<Offset>(2, 14);
    const auto m = *rc::gen::inRange<std::size_t>(0, 40);
    const auto vertex = rc::gen::inRange<Index>(0, static_cast<Index>(n));
    auto rows = *rc::gen::container<std::vector<Index>>(m, vertex);
    auto cols = *rc::gen::container<std::vector<Index>>(m, vertex);
    for (Index i = 0; i < n; ++i) {  // a cycle makes it strongly connected
      rows.push_back(i);
      cols.push_back(static_cast<Index>((i + 1) % n));
    }
    const Graph graph = Graph::from_edges(n, n, rows, cols);
    const auto values = oracle::eigenvalues(oracle::chung(graph, false, 3000), static_cast<std::size_t>(n));
    const auto got = gap({}, graph, {.op = Operator::chung, .reach_hops = 0});
    RC_ASSERT(got.applies);
    RC_ASSERT(got.converged);
    RC_ASSERT(std::abs(got.lambda2->real() - values[1]) < 1e-8);
    RC_ASSERT(std::abs(got.lambda_n->real() - values.back()) < 1e-8);
    RC_ASSERT(*got.gap == got.lambda2->real());
  }));
}

TEST_CASE("iterative solvers equal dense eigenvalues just above the dense size") {
  for (const char* text :
       {"random(2, seed=4)", "window(2) | global(3)", "block(27) | window(1)", "regular(3, seed=1)"}) {
    CAPTURE(text);
    if (test::kThreadSanitizer && std::string(text) != "random(2, seed=4)") continue;  // a minute each
    const Graph graph = pattern(text, 270);
    for (const Operator op : {Operator::normalized, Operator::adjacency, Operator::singular}) {
      CAPTURE(static_cast<int>(op));
      const auto want = expected(graph, op, false);
      const auto got = gap({}, graph, {.op = op, .tol = 1e-10, .reach_hops = 0});
      CHECK(got.method != "dense");
      CHECK(got.converged);
      CHECK(std::abs(got.lambda2->real() - want.second) < 1e-8);
      CHECK(std::abs(*got.gap - want.gap) < 1e-8);
      if (op != Operator::singular) CHECK(std::abs(got.lambda_n->real() - want.last) < 1e-8);
    }
  }
}

TEST_CASE("multiplicities of patterns count as weights") {
  const Graph graph = pattern("margulis", 49);
  REQUIRE(graph.weighted());
  const auto want = oracle::eigenvalues(oracle::normalized(graph, true), 49);
  const auto got = gap({}, graph, {.reach_hops = 0});
  CHECK(got.lambda2->real() == doctest::Approx(want[47]));
  CHECK(got.lambda_n->real() == doctest::Approx(want[0]));
}

TEST_CASE("weights of any size, and edges of weight 0") {
  const std::vector<Index> rows{0, 1, 1, 2, 2, 0};
  const std::vector<Index> cols{1, 0, 2, 1, 0, 2};
  const auto with = [&](double a, double b, double c) {
    return Graph::from_edges(3, 3, rows, cols, std::vector<double>{a, a, b, b, c, c});
  };
  const spectral::SpectralOptions options{.weighted = true, .reach_hops = 0};
  const auto plain = gap({}, with(1, 2, 3), options);
  CHECK(gap({}, with(1e300, 2e300, 3e300), options).lambda2->real() ==
        doctest::Approx(plain.lambda2->real()));
  CHECK(gap({}, with(1e-300, 2e-300, 3e-300), options).lambda2->real() ==
        doctest::Approx(plain.lambda2->real()));
  const auto cut = gap({}, with(1, 0, 0), options);  // vertex 2 has no edge left
  CHECK(cut.components == 2);
  CHECK(cut.isolated == 1);
  CHECK(*cut.gap == 0.0);
}

TEST_CASE("complex eigenvalues of the transition operator") {
  // numpy 1.26.4: numpy.linalg.eigvals(D_r^-1 A) of the same edges, second by modulus.
  struct Case {
    const char* text;
    Offset n;
    std::complex<double> value;
    double modulus;
  };
  for (const Case& c :
       {Case{"random(3, seed=1)", 30, {0.69946926, 0}, 0.6994692647084378},
        Case{"random(3, seed=1)", 300, {-0.56867971, 0.18815109}, 0.5989970330212249},
        Case{"diffuser(8, 2, 4, seed=3)", 300, {0.66536973, 0}, 0.6653697304357411},
        Case{"random(4, seed=2, causal=true) | window(1)", 300, {0.59076689, 0}, 0.5907668875174648}}) {
    CAPTURE(c.text);
    CAPTURE(c.n);
    const auto got = gap({}, pattern(c.text, c.n), {.op = Operator::transition, .reach_hops = 0});
    CHECK(got.converged);
    CHECK(std::abs(*got.lambda2 - c.value) < 2e-8);
    CHECK(std::abs(std::abs(*got.lambda2) - c.modulus) < 1e-9);
    CHECK(std::abs(*got.gap - (1 - c.modulus)) < 1e-9);
    CHECK_FALSE(got.lambda_n.has_value());
  }
}

TEST_CASE("patterns at n = 16384 have the values of an independent solver") {
  if (test::kThreadSanitizer) return;  // a minute of arithmetic that smaller cases run through too
  // SciPy eigsh (tol 1e-8) on D^-1/2 S D^-1/2 of the same edges.
  const auto banded = gap({}, pattern("window(32)", 16384), {.reach_hops = 0});
  CHECK(banded.converged);
  CHECK(std::abs(banded.lambda2->real() - 0.999993516143399) < 1e-12);
  CHECK(std::abs(banded.lambda_n->real() + 0.21740259) < 1e-8);
  const auto expander = gap({}, pattern("regular(64, seed=0)", 16384), {.reach_hops = 0});
  CHECK(expander.converged);
  CHECK(std::abs(expander.lambda2->real() - 0.24717456639454646) < 1e-8);
  CHECK(std::abs(expander.lambda_n->real() + 0.24720443) < 1e-8);
}

TEST_CASE("a stationary distribution that is slow to reach") {
  // Two directed rings with chords, each of 200, joined by one edge each way: the walk changes sides rarely.
  std::vector<Index> rows, cols;
  for (Index i = 0; i < 400; ++i) {
    const Index side = i / 200 * 200;
    for (const Index step : {1, 7, 31}) {
      rows.push_back(i);
      cols.push_back(side + (i - side + step) % 200);
    }
  }
  rows.insert(rows.end(), {0, 200});
  cols.insert(cols.end(), {200, 0});
  rows.push_back(5);  // unbalances in and out
  cols.push_back(90);
  const Graph graph = Graph::from_edges(400, 400, rows, cols);
  const auto got = gap({}, graph, {.op = Operator::chung, .reach_hops = 0});
  CHECK(got.converged);
  // numpy 1.26.4: eigvalsh of the dense definition.
  CHECK(std::abs(got.lambda2->real() - 0.0018003716180252987) < 1e-8);
  CHECK(std::abs(got.lambda_n->real() - 2.0) < 1e-8);
}

TEST_CASE("a stationary distribution below what doubles hold is said, not guessed") {
  const auto got = gap({}, pattern("causal | window(1)", 400), {.op = Operator::chung, .reach_hops = 0});
  CHECK(got.applies);
  CHECK_FALSE(got.converged);
  CHECK_FALSE(got.lambda2.has_value());
  CHECK_FALSE(got.reason.empty());
}

TEST_CASE("clusters, copies and hubs beyond the dense size agree with dense eigenvalues") {
  std::vector<Index> rows, cols;
  const auto edge = [&](Index a, Index b) {
    for (const auto& [i, j] : {std::pair{a, b}, {b, a}}) {
      rows.push_back(i);
      cols.push_back(j);
    }
  };
  for (Index v = 0; v + 1 < 50; ++v) edge(v, v + 1);  // a caterpillar: a path with five leaves on each vertex
  for (Index v = 0; v < 50; ++v)
    for (Index leaf = 0; leaf < 5; ++leaf) edge(v, 50 + 5 * v + leaf);
  const std::vector<Graph> graphs{pattern("longformer(1, 1)", 300),
                                  pattern("exphormer(2, 1)", 300),
                                  pattern("overlap(4, 2)|global(1)", 290),
                                  pattern("window(1, ring=true)|global(1)", 280),
                                  pattern("block(20)-self", 300),
                                  pattern("lift(block(5)-self, 2)", 290),
                                  pattern("regular(4)", 300),
                                  Graph::from_edges(300, 300, rows, cols)};
  for (const Graph& graph : graphs) {
    CAPTURE(graph.text());
    for (const Operator op : {Operator::normalized, Operator::adjacency}) {
      const auto want = expected(graph, op, false);
      const auto got = gap({}, graph, {.op = op, .reach_hops = 0});
      CHECK(got.converged);
      CHECK(got.lambda2->real() == doctest::Approx(want.second).epsilon(1e-8));
      CHECK(got.lambda_n->real() == doctest::Approx(want.last).epsilon(1e-8));
    }
  }
}

TEST_CASE("copies of a graph share their largest eigenvalue, whatever their number and size") {
  for (const auto& [text, n, largest] : {std::tuple{"block(20)-self", 2000, 19.0},
                                         {"lift(block(20)-self, 2)", 2000, 38.0},
                                         {"block(100)-self", 300, 99.0},
                                         {"hops(block(8)-self, 1)", 400, 7.0}}) {
    CAPTURE(text);
    const auto got = gap({}, pattern(text, n), {.op = Operator::adjacency, .reach_hops = 0});
    CHECK(got.converged);
    CHECK(got.lambda2->real() == doctest::Approx(largest).epsilon(1e-9));
    CHECK(*got.gap == doctest::Approx(0).epsilon(1e-6));
  }
}

TEST_CASE("a small basis is begun anew until both ends are there") {
  Context ctx;
  ctx.memory_limit = 2 << 20;
  const Graph graph = pattern("regular(4)", 5000);
  const auto want = gap({}, graph, {.reach_hops = 0});
  const auto got = gap(ctx, graph, {.reach_hops = 0});
  CHECK(got.converged);
  CHECK(got.lambda2->real() == doctest::Approx(want.lambda2->real()).epsilon(1e-8));
  CHECK(got.lambda_n->real() == doctest::Approx(want.lambda_n->real()).epsilon(1e-8));
}

TEST_CASE("weights of a file count only where they are asked for") {
  const std::string path = std::string(MANYHOP_TEST_DATA) + "/files/weights.graph";
  const Graph file = load(path);
  REQUIRE(file.weighted());
  const Graph text = pattern("file(\"" + path + "\")", file.n_rows());
  for (const bool weighted : {false, true}) {
    CHECK(*gap({}, text, {.weighted = weighted}).gap == *gap({}, file, {.weighted = weighted}).gap);
  }
}
