#include <doctest/doctest.h>
#include <rapidcheck.h>

#include <atomic>
#include <cmath>
#include <string>
#include <vector>

#include "manyhop/engine/spectral/expansion.hpp"
#include "manyhop/graphs/base/error.hpp"
#include "manyhop/graphs/patterns/pattern.hpp"
#include "tests/engine/spectral_oracle.hpp"

using namespace manyhop;

namespace {

std::size_t at(Offset i) { return static_cast<std::size_t>(i); }

struct Solved {
  spectral::SymmetricGraph s;
  double lambda2 = 0, lambda_n = 0, residual = 0;
  std::vector<double> vector;
};

Solved solve(const Graph& graph) {
  spectral::SpectralOptions options;
  options.vectors = true;
  options.reach_hops = 0;
  const auto result = spectral::gap({}, graph, options);
  Solved solved{spectral::symmetric_graph({}, graph),
                result.lambda2->real(),
                result.lambda_n->real(),
                result.residual,
                {}};
  for (std::size_t i = 0; i < result.vectors.size(); i += 2) solved.vector.push_back(result.vectors[i]);
  return solved;
}

Graph edges(Offset n, const std::vector<Index>& rows, const std::vector<Index>& cols) {
  return Graph::from_edges(n, n, rows, cols);
}

Graph cycle(Offset n) { return pattern("window(1, ring=true) - self", n); }

Graph petersen() {
  std::vector<Index> rows, cols;
  for (Index i = 0; i < 5; ++i) {
    rows.insert(rows.end(), {i, i, static_cast<Index>(i + 5)});
    cols.insert(cols.end(), {static_cast<Index>((i + 1) % 5), static_cast<Index>(i + 5),
                             static_cast<Index>((i + 2) % 5 + 5)});
  }
  return symmetrised(edges(10, rows, cols));
}

/// A cut's numbers from its members alone.
void check_cut(const spectral::SymmetricGraph& s, const spectral::Cut& cut) {
  double volume = 0, crossing = 0;
  Offset size = 0;
  const auto n = s.n();
  for (Offset i = 0; i < n; ++i) {
    if (cut.inside[at(i)] == 0) continue;
    ++size;
    volume += s.degree[at(i)];
    s.for_each_edge(i, [&](Index j, double w) { crossing += cut.inside[at(j)] == 0 ? w : 0; });
  }
  CHECK(cut.size == size);
  CHECK(cut.volume == doctest::Approx(volume));
  CHECK(cut.edges == doctest::Approx(crossing));
  CHECK(volume <= s.volume - volume + 1e-9);
  const Offset smaller = std::min(size, n - size);
  const char side = size <= n - size ? 1 : 0;
  Offset near = 0;
  for (Offset v = 0; v < n; ++v) {
    if (cut.inside[at(v)] == side) continue;
    bool touches = false;
    s.for_each_edge(v, [&](Index u, double) { touches = touches || cut.inside[at(u)] == side; });
    near += touches ? 1 : 0;
  }
  CHECK(*cut.edge_expansion == doctest::Approx(crossing / static_cast<double>(smaller)));
  CHECK(*cut.vertex_expansion == doctest::Approx(static_cast<double>(near) / static_cast<double>(smaller)));
}

}  // namespace

TEST_CASE("the sweep cut of a barbell is its bridge") {
  // 0-1-2 triangle, 3-4-5 triangle, 2-3 between them: 1 edge over a volume of 7.
  const Graph graph = symmetrised(edges(6, {0, 0, 1, 3, 3, 4, 2}, {1, 2, 2, 4, 5, 5, 3}));
  const auto solved = solve(graph);
  const auto cut = spectral::sweep_cut({}, solved.s, solved.vector);
  REQUIRE(cut);
  CHECK(cut->conductance == doctest::Approx(1.0 / 7));
  CHECK(cut->edges == 1);
  CHECK(cut->size == 3);
  CHECK(*cut->edge_expansion == doctest::Approx(1.0 / 3));
  CHECK(*cut->vertex_expansion == doctest::Approx(1.0 / 3));
  check_cut(solved.s, *cut);
}

TEST_CASE("a light bridge between heavy sides is not lost in the sums") {
  // The prefix sums of this sweep run through 0.1, 0.2, 0.3 and their mirrors, which do not cancel exactly.
  const double bridge = 1e-18;
  const std::vector<Index> ends[] = {{0, 0, 1, 3, 3, 4, 2}, {1, 2, 2, 4, 5, 5, 3}};
  const std::vector<double> given{0.1, 0.2, 0.3, 0.1, 0.2, 0.3, bridge};
  std::vector<Index> rows(ends[0]), cols(ends[1]);
  rows.insert(rows.end(), ends[1].begin(), ends[1].end());
  cols.insert(cols.end(), ends[0].begin(), ends[0].end());
  std::vector<double> weights(given);
  weights.insert(weights.end(), given.begin(), given.end());
  const Graph graph = Graph::from_edges(6, 6, rows, cols, weights);
  const auto s = spectral::symmetric_graph({}, graph, true);
  const auto cut = spectral::sweep_cut({}, s, std::vector<double>{1, 1, 1, -1, -1, -1});
  REQUIRE(cut);
  CHECK(cut->size == 3);
  CHECK(cut->edges == bridge);
  CHECK(cut->conductance == doctest::Approx(bridge / 1.2));
  CHECK(*cut->edge_expansion == doctest::Approx(bridge / 3));
}

TEST_CASE("a cycle is cut in halves, explicit and implicit edges alike") {
  const auto solved = solve(cycle(100));
  const auto cut = spectral::sweep_cut({}, solved.s, solved.vector);
  CHECK(cut->conductance == doctest::Approx(0.02));
  CHECK(cut->size == 50);
  for (const char* text : {"full - window(40)", "full - self", "global(3) | causal"}) {
    CAPTURE(text);
    const auto dense = solve(pattern(text, 300));
    const auto found = spectral::sweep_cut({}, dense.s, dense.vector);
    check_cut(dense.s, *found);
  }
}

TEST_CASE("the sweep cut keeps Cheeger's bounds on random graphs") {
  CHECK(rc::check("cheeger", [] {
    const Offset n = *rc::gen::inRange<Offset>(2, 60);
    const auto m = *rc::gen::inRange<std::size_t>(0, 200);
    const auto rows =
        *rc::gen::container<std::vector<Index>>(m, rc::gen::inRange<Index>(0, static_cast<Index>(n)));
    const auto cols =
        *rc::gen::container<std::vector<Index>>(m, rc::gen::inRange<Index>(0, static_cast<Index>(n)));
    const auto solved = solve(edges(n, rows, cols));
    const auto cut = spectral::sweep_cut({}, solved.s, solved.vector);
    const auto bounds = spectral::cheeger(solved.s, solved.lambda2);
    RC_ASSERT(cut.has_value());
    RC_ASSERT(cut->conductance >= *bounds.lower - 1e-9);
    RC_ASSERT(cut->conductance <= *bounds.upper + 1e-9);
    check_cut(solved.s, *cut);
  }));
}

TEST_CASE("Ramanujan verdicts of graphs with closed forms") {
  const auto verdict = [](const Graph& graph) {
    const auto solved = solve(graph);
    return spectral::ramanujan(solved.s, solved.lambda2, solved.lambda_n, solved.residual);
  };
  const auto p = verdict(petersen());
  CHECK(p.applies);
  CHECK(*p.bound == doctest::Approx(2 * std::sqrt(2.0)));
  CHECK(*p.ratio == doctest::Approx(2 / (2 * std::sqrt(2.0))));
  CHECK(*p.verdict);
  const auto cube = verdict(pattern("hypercube", 1024));  // D = 10: 8 > 2 sqrt 9
  CHECK(cube.bipartite);
  CHECK(*cube.lambda == doctest::Approx(8));
  CHECK_FALSE(*cube.verdict);
  const auto paley = verdict(pattern("paley", 29));
  CHECK(*paley.lambda == doctest::Approx((1 + std::sqrt(29.0)) / 2));
  CHECK(*paley.verdict);
  const auto complete = verdict(pattern("full - self", 300));
  CHECK(*complete.lambda == doctest::Approx(1));
  CHECK_FALSE(verdict(pattern("window(1) - self", 9)).applies);
  CHECK(verdict(pattern("window(1) - self", 9)).reason == "the graph is not regular");
  CHECK(verdict(symmetrised(edges(4, {0, 2}, {1, 3}))).reason == "the graph is not connected");
  const auto solved = solve(cycle(40));
  const auto bound = spectral::ramanujan(solved.s, solved.lambda2, solved.lambda_n, 0, 20);
  CHECK(*bound.alon_boppana <= *bound.lambda);
  CHECK(*bound.alon_boppana == doctest::Approx(2 - 1.0 / 9));
}

TEST_CASE("mixing of the complete graph by hand") {
  // n = 5, lambda2 = -1/4, l = 3/8; from any start p_x(t) - 1/5 = 4/5 l^t, TV = 4/5 l^t.
  const auto solved = solve(pattern("full - self", 5));
  spectral::MixingOptions options;
  options.eps = 0.1;
  const auto mixing = spectral::mixing_time({}, solved.s, solved.lambda2, solved.vector, options);
  CHECK(*mixing.simulated == 3);  // 0.8 (3/8)^2 = 0.1125, (3/8)^3: 0.042
  CHECK(*mixing.upper == 3);      // 1/2 sqrt 4 = 1: (3/8)^2 = 0.14, (3/8)^3 = 0.053
  CHECK(*mixing.lower == doctest::Approx((1 / (1 - 0.375) - 1) * std::log(5.0)));
  const auto hops = spectral::hops_for(solved.s, solved.lambda2, solved.lambda_n, 0.01);
  CHECK(*hops.walk == 4);  // (1/4)^3 = 0.0156, (1/4)^4 = 0.0039
  CHECK(*hops.ppr == 51);  // log 0.005 / log 0.9 = 50.3
}

TEST_CASE("bounds hold on cycles, paths and stars") {
  for (const char* text : {"window(1, ring=true) - self", "window(1) - self", "global(1)", "random(3)"}) {
    CAPTURE(text);
    const auto solved = solve(pattern(text, 31));
    const auto mixing = spectral::mixing_time({}, solved.s, solved.lambda2, solved.vector);
    REQUIRE(mixing.simulated);
    CHECK(static_cast<double>(*mixing.simulated) <= static_cast<double>(*mixing.upper));
    CHECK(std::ceil(*mixing.lower - 1e-9) <= static_cast<double>(*mixing.upper));
    CHECK(static_cast<double>(*mixing.simulated) >= *mixing.lower);
  }
}

TEST_CASE("walks that never mix have no times") {
  const auto parts = solve(symmetrised(edges(4, {0, 2}, {1, 3})));
  const auto mixing = spectral::mixing_time({}, parts.s, parts.lambda2, parts.vector);
  CHECK_FALSE(mixing.lower);
  CHECK_FALSE(mixing.upper);
  CHECK_FALSE(mixing.simulated);
  const auto cube = solve(pattern("hypercube", 16));
  const auto hops = spectral::hops_for(cube.s, cube.lambda2, cube.lambda_n, 0.1, 0);
  CHECK_FALSE(hops.walk);
  CHECK_FALSE(hops.ppr);
  CHECK(spectral::mixing_time({}, cube.s, cube.lambda2, cube.vector).simulated);
}

TEST_CASE("the simulation stays within its work") {
  const auto solved = solve(cycle(2000));
  spectral::MixingOptions options;
  options.max_work = 1e6;
  const auto mixing = spectral::mixing_time({}, solved.s, solved.lambda2, solved.vector, options);
  CHECK_FALSE(mixing.simulated);
  CHECK(*mixing.upper > 100000);
  options = {};
  options.eps = 1e-20;  // what rounding hides is not waited for
  CHECK_FALSE(spectral::mixing_time({}, solved.s, solved.lambda2, solved.vector, options).simulated);
}

TEST_CASE("diameters by brute force on random graphs") {
  CHECK(rc::check("diameter", [] {
    const Offset n = *rc::gen::inRange<Offset>(1, 120);
    const auto extra = *rc::gen::inRange<std::size_t>(0, 80);
    std::vector<Index> rows, cols;
    for (Index i = 1; i < n; ++i) {
      rows.push_back(i);
      cols.push_back(*rc::gen::inRange<Index>(0, i));
    }
    for (std::size_t e = 0; e < extra; ++e) {
      rows.push_back(*rc::gen::inRange<Index>(0, static_cast<Index>(n)));
      cols.push_back(*rc::gen::inRange<Index>(0, static_cast<Index>(n)));
    }
    const auto s = spectral::symmetric_graph({}, edges(n, rows, cols));
    Offset expected = 0;
    for (Index v = 0; v < n; ++v)
      expected = std::max<Offset>(expected, spectral::search(s.graph, v).eccentricity);
    const auto found = spectral::diameter({}, s);
    RC_ASSERT(*found.lower == expected);
    RC_ASSERT(*found.upper == expected);
    const auto bounds = spectral::diameter({}, s, 0);
    RC_ASSERT(*bounds.lower <= expected);
    RC_ASSERT(*bounds.upper >= expected);
  }));
}

TEST_CASE("diameters of graphs with twins by brute force") {
  CHECK(rc::check("twins", [] {
    const auto classes = *rc::gen::inRange<Index>(1, 12);
    std::vector<char> joined(static_cast<std::size_t>(classes) * static_cast<std::size_t>(classes));
    const auto cell = [&](Index a, Index b) -> char& {
      return joined[static_cast<std::size_t>(a) * static_cast<std::size_t>(classes) +
                    static_cast<std::size_t>(b)];
    };
    for (Index a = 0; a < classes; ++a) {
      cell(a, a) = *rc::gen::inRange<char>(0, 2);
      if (a == 0) continue;
      const Index b = *rc::gen::inRange<Index>(0, a);
      cell(a, b) = cell(b, a) = 1;
    }
    std::vector<Index> label;
    for (Index a = 0; a < classes; ++a) label.insert(label.end(), *rc::gen::inRange<std::size_t>(1, 6), a);
    std::vector<Index> rows, cols;
    for (std::size_t v = 0; v < label.size(); ++v)
      for (std::size_t u = 0; u < label.size(); ++u)
        if (cell(label[v], label[u]) != 0) {
          rows.push_back(static_cast<Index>(v));
          cols.push_back(static_cast<Index>(u));
        }
    const auto s = spectral::symmetric_graph({}, edges(static_cast<Offset>(label.size()), rows, cols));
    RC_PRE(s.connected());
    Offset expected = 0;
    for (Index v = 0; v < s.n(); ++v)
      expected = std::max<Offset>(expected, spectral::search(s.graph, v).eccentricity);
    const auto found = spectral::diameter({}, s);
    RC_ASSERT(*found.lower == expected);
    RC_ASSERT(*found.upper == expected);
  }));
}

TEST_CASE("diameters of known graphs") {
  const auto of = [](const Graph& graph) {
    return spectral::diameter({}, spectral::symmetric_graph({}, graph));
  };
  const auto exact = [&](const Graph& graph, Offset expected) {
    const auto d = of(graph);
    CHECK(*d.lower == expected);
    CHECK(*d.upper == expected);
  };
  exact(petersen(), 2);
  exact(pattern("hypercube", 512), 9);
  exact(cycle(101), 50);
  exact(pattern("window(1) - self", 500), 499);
  exact(pattern("full - self", 3000), 1);
  exact(pattern("full - self - global(1) | global(1) & window(1)", 300), 2);
  exact(pattern("lift(window(1), 8)", 512), 63);
  exact(pattern("lift(window(1) - self, 8)", 512), 63);
  exact(pattern("full - lift(self, 100)", 300), 2);  // three parts: twins meet in any other one
  exact(pattern("full - lift(self, 4)", 8), 2);
  exact(pattern("global(1) - self", 400), 2);
  exact(pattern("full", 400), 1);
  exact(pattern("self", 1), 0);
  CHECK_FALSE(of(pattern("self", 2)).lower);
  CHECK_FALSE(of(Graph()).upper);
}

TEST_CASE("capacity is 1 for regular graphs and the hubs' share for hubs") {
  CHECK(*spectral::capacity({}, pattern("regular(6)", 200)) == doctest::Approx(1));
  CHECK(*spectral::capacity({}, pattern("full", 50)) == doctest::Approx(1));
  CHECK(*spectral::capacity({}, pattern("global(4)", 4000)) < 0.005);
  CHECK_FALSE(spectral::capacity({}, Graph()));
  CHECK_FALSE(spectral::capacity({}, edges(3, {}, {})));
  // 0 <- 1, 1 <- 0 and 2 <- 0: m_1 = (2/3, 1/3, 0), m_2 = (1/3, 2/3, 0); K = 2: m = (1/2, 1/2, 0).
  CHECK(*spectral::capacity({}, edges(3, {0, 1, 2}, {1, 0, 0}), 2) == doctest::Approx(2.0 / 3));
}

TEST_CASE("a gap that hangs on hubs is gone without them") {
  const auto hubs = spectral::without_hubs({}, pattern("window(2) | global(2)", 400), {});
  CHECK(hubs.hubs == 2);
  CHECK(*hubs.gap < 0.01);
  const auto none = spectral::without_hubs({}, pattern("regular(6)", 400), {});
  CHECK(none.hubs == 0);
  CHECK(*none.gap > 0.2);
}

TEST_CASE("distance to the complete graph") {
  const auto of = [](const Graph& graph) {
    const auto solved = solve(graph);
    return *spectral::complete_distance({}, solved.s, solved.lambda2, solved.lambda_n, solved.residual).value;
  };
  CHECK(of(pattern("full", 20)) == doctest::Approx(0));
  CHECK(of(pattern("hypercube", 16)) == doctest::Approx((8 - 2) / 10.0));
  CHECK(of(pattern("global(1) - self", 10)) == doctest::Approx(9.0 / 11));      // star: 1 and n
  CHECK(of(pattern("global(1) - self", 400)) == doctest::Approx(399.0 / 401));  // by Lanczos
  CHECK(of(pattern("self", 3)) == 1);
}

TEST_CASE("distance to the complete graph by Lanczos against dense eigenvalues") {
  for (const char* text :
       {"diffuser(8, 3, 3)", "random(3, 1)", "regular(3, 1)|window(1)", "window(1)-self"}) {
    CAPTURE(text);
    const std::size_t n = 280;
    const Graph graph = pattern(text, 280);
    auto laplacian = oracle::symmetric(graph);
    for (std::size_t i = 0; i < n; ++i) {
      double degree = 0;
      for (std::size_t j = 0; j < n; ++j) {
        degree += laplacian[i * n + j];
        laplacian[i * n + j] = -laplacian[i * n + j];
      }
      laplacian[i * n + i] += degree;
    }
    const auto values = oracle::eigenvalues(laplacian, n);
    const auto solved = solve(graph);
    const auto found =
        spectral::complete_distance({}, solved.s, solved.lambda2, solved.lambda_n, solved.residual);
    CHECK(found.converged);
    CHECK(*found.value ==
          doctest::Approx((values[n - 1] - values[1]) / (values[n - 1] + values[1])).epsilon(1e-8));
  }
}

TEST_CASE("expansion has the same bits for any thread count") {
  const Graph graph = pattern("random(4, seed=2)", 3000);
  const auto solved = solve(graph);
  Context one, three;
  one.threads = 1;
  three.threads = 3;
  CHECK(*spectral::capacity(one, graph) == *spectral::capacity(three, graph));
  CHECK(spectral::sweep_cut(one, solved.s, solved.vector)->inside ==
        spectral::sweep_cut(three, solved.s, solved.vector)->inside);
  CHECK(*spectral::diameter(one, solved.s).upper == *spectral::diameter(three, solved.s).upper);
}

TEST_CASE("bad arguments of expansion") {
  const auto s = spectral::symmetric_graph({}, cycle(5));
  CHECK_THROWS_AS(spectral::symmetric_graph({}, pattern("full", 3, 4)), ValueError);
  CHECK_THROWS_AS(spectral::sweep_cut({}, s, std::vector<double>(4)), ValueError);
  CHECK_THROWS_AS(spectral::hops_for(s, 0.5, -0.5, 0), ValueError);
  CHECK_THROWS_AS(spectral::hops_for(s, 0.5, -0.5, 0.1, 2), ValueError);
  CHECK_THROWS_AS(spectral::capacity({}, pattern("full", 3, 4)), ValueError);
  CHECK_THROWS_AS(spectral::capacity({}, cycle(5), 0), ValueError);
  const Graph negative = Graph::from_csr(2, 2, {0, 1, 2}, {1, 0}, {-1, -1});
  CHECK_THROWS_AS(spectral::symmetric_graph({}, negative, true), ValueError);
  CHECK_THROWS_AS(spectral::capacity({}, negative, 5, true), ValueError);
  const std::atomic<bool> stop{true};
  Context ctx;
  ctx.stop = &stop;
  CHECK_THROWS_AS(spectral::diameter(ctx, s), Interrupted);
}
