// Forward push against diffuse of a one-hot signal, which is exact to its own bound, and by hand.
#include "manyhop/engine/ppr.hpp"

#include <doctest/doctest.h>

#include <cmath>
#include <numeric>
#include <optional>
#include <string>
#include <vector>

#include "manyhop/graphs/base/error.hpp"
#include "manyhop/graphs/base/random.hpp"
#include "manyhop/graphs/patterns/pattern.hpp"
#include "tests/support/near.hpp"

using namespace manyhop;

namespace {

std::size_t at(Offset i) { return static_cast<std::size_t>(i); }

std::vector<double> dense_row(const PprResult& result, std::size_t s, Offset n) {
  std::vector<double> row(at(n));
  for (Offset e = result.indptr[s]; e < result.indptr[s + 1]; ++e)
    row[at(result.indices[at(e)])] = result.values[at(e)];
  return row;
}

// Row or column of the diffusion operator by the definition: one-hot signals through diffuse, 600 hops.
std::vector<double> exact(const Graph& graph, Offset seed, const PprOptions& o) {
  const Offset n = graph.n_rows();
  const bool row = o.normalization == Normalization::row;
  // Row s of the operator of A is column s of that of its transpose; row sums of A are column sums there.
  const Graph walked = row ? graph.transpose() : graph;
  std::vector<double> x(at(n)), z(at(n));
  x[at(seed)] = 1;
  DiffuseOptions d;
  d.teleport = o.teleport;
  d.hops = 600;
  d.normalization = row ? Normalization::col : o.normalization;
  d.dangling = o.dangling;
  const Context ctx;
  diffuse<double>(ctx, walked, {x.data(), {n}}, {z.data(), {n}}, d);
  return z;
}

double distance(const std::vector<double>& a, const std::vector<double>& b, bool two) {
  double sum = 0;
  for (std::size_t i = 0; i < a.size(); ++i)
    sum += two ? (a[i] - b[i]) * (a[i] - b[i]) : std::abs(a[i] - b[i]);
  return two ? std::sqrt(sum) : sum;
}

Graph weighted(const Graph& graph, std::uint64_t seed) {
  std::vector<double> weights(at(graph.nnz()));
  CounterRng rng(seed, 1, 2);
  for (double& w : weights) w = rng.uniform() < 0.2 ? 0 : rng.uniform() * 5;
  return graph.with_weights(weights);
}

}  // namespace

TEST_CASE("ppr by hand: two vertices, and an arc") {
  const Context ctx;
  const std::vector<Offset> seeds{0, 1};
  //  0 - 1: 1 / (2 - a) stays at the seed
  const Graph pair = Graph::from_edges(2, 2, std::vector<Index>{0, 1}, std::vector<Index>{1, 0});
  const PprResult both = ppr(ctx, pair, seeds, {.teleport = 0.25, .tol = 1e-15});
  REQUIRE(both.indptr == std::vector<Offset>{0, 2, 4});
  CHECK(both.indices == std::vector<Index>{0, 1, 0, 1});
  CHECK(both.values[0] == doctest::Approx(1 / 1.75).epsilon(1e-12));
  CHECK(both.values[1] == doctest::Approx(0.75 / 1.75).epsilon(1e-12));
  CHECK(both.bound[0] < 3e-15);
  //  0 sends to 1 (row 1, column 0); 1 has no arcs
  const Graph arc = Graph::from_edges(2, 2, std::vector<Index>{1}, std::vector<Index>{0});
  const auto row = [&](Offset seed, PprOptions o) {
    o.teleport = 0.25;
    o.tol = 1e-9;
    return dense_row(ppr(ctx, arc, std::vector<Offset>{seed}, o), 0, 2);
  };
  CHECK(row(0, {}) == std::vector<double>{0.25, 0.75 * 0.25});
  CHECK(row(0, {.dangling = Dangling::self}) == std::vector<double>{0.25, 0.75});
  CHECK(row(1, {}) == std::vector<double>{0, 0.25});
  CHECK(row(1, {.dangling = Dangling::restart}) == std::vector<double>{0, 1});
  CHECK(row(1, {.normalization = Normalization::row}) == std::vector<double>{0.75 * 0.25, 0.25});
  const auto back = row(0, {.dangling = Dangling::restart});  // 0, 1, 0, 1, ...: as the pair
  CHECK(back[0] == doctest::Approx(1 / 1.75).epsilon(1e-7));
}

TEST_CASE("ppr equals diffuse of a one-hot signal, within its bound") {
  const Context ctx;
  for (std::uint64_t seed = 0; seed < 6; ++seed) {
    const Graph plain = test::random_graph(45, 45, 0.09, seed);
    for (const Graph& graph : {plain, weighted(plain, seed), symmetrised(plain), pattern("causal", 45)}) {
      for (const Normalization normalization : {Normalization::col, Normalization::row, Normalization::sym}) {
        if (normalization == Normalization::sym && (!is_symmetric(graph) || graph.weighted())) continue;
        for (const Dangling dangling : {Dangling::zero, Dangling::self, Dangling::restart}) {
          if (normalization == Normalization::sym && dangling != Dangling::zero) continue;
          for (const double tol : {1e-2, 1e-4, 1e-13}) {
            PprOptions o{.teleport = seed % 2 == 0 ? 0.15 : 0.6, .tol = tol};
            o.normalization = normalization;
            o.dangling = dangling;
            const std::vector<Offset> seeds{3, 0, 44, 3};
            const PprResult result = ppr(ctx, graph, seeds, o);
            for (std::size_t s = 0; s < seeds.size(); ++s) {
              const double error = distance(dense_row(result, s, 45), exact(graph, seeds[s], o),
                                            normalization == Normalization::sym);
              CHECK(error <= result.bound[s] + 1e-13);
              if (tol < 1e-12) CHECK(error < 1e-10);
            }
          }
        }
      }
    }
  }
}

TEST_CASE("ppr of a symmetric weighted graph with sym") {
  const Context ctx;
  const Graph structure = pattern("window(2)|global(1)", 30);
  std::vector<double> weights;
  for (Offset i = 0; i < 30; ++i) {
    for (const Index j : structure.row(i)) weights.push_back(1e200 * static_cast<double>(1 + (i * j) % 5));
  }
  const Graph graph = structure.with_weights(weights);
  const PprOptions o{.tol = 1e-13, .normalization = Normalization::sym};
  const PprResult result = ppr(ctx, graph, std::vector<Offset>{7}, o);
  CHECK(distance(dense_row(result, 0, 30), exact(graph, 7, o), true) < 1e-10);
}

TEST_CASE("ppr costs what the mass of the seed costs, not the graph") {
  const Context ctx;
  std::vector<PprResult> found;
  for (const Offset n : {Offset{2000}, Offset{400000}}) {
    const Graph graph = pattern("window(3)", n);
    found.push_back(ppr(ctx, graph, std::vector<Offset>{1000}, {.tol = 1e-5}));
    CHECK(found.back().visited[0] <= 7 + 1e6);
  }
  CHECK(found[0].visited == found[1].visited);
  CHECK(found[0].indices == found[1].indices);
  CHECK(test::same_bits(found[0].values, found[1].values));
  // A hub passes its mass on once, whatever the tolerance.
  const PprResult hub = ppr(ctx, test::star_graph(5000), std::vector<Offset>{0}, {.tol = 0.1});
  CHECK(hub.indptr[1] == 1);
  CHECK(hub.bound[0] == doctest::Approx(0.9));
}

TEST_CASE("ppr keeps the largest scores and counts what it leaves out") {
  const Context ctx;
  const Graph graph = pattern("window(4)|random(3, seed=5)|self", 200);
  const std::vector<Offset> seeds{5, 100};
  const PprResult all = ppr(ctx, graph, seeds, {.tol = 1e-7});
  const PprResult some = ppr(ctx, graph, seeds, {.tol = 1e-7, .topk = 10});
  for (std::size_t s = 0; s < 2; ++s) {
    REQUIRE(some.indptr[s + 1] - some.indptr[s] == 10);
    const auto full = dense_row(all, s, 200);
    const auto kept = dense_row(some, s, 200);
    double least = 1;
    double largest_left = 0;
    for (std::size_t v = 0; v < 200; ++v) {
      if (kept[v] > 0) {
        CHECK(kept[v] == full[v]);
        least = std::min(least, kept[v]);
      } else {
        largest_left = std::max(largest_left, full[v]);
      }
    }
    CHECK(least >= largest_left);
    CHECK(distance(full, kept, false) + all.bound[s] == doctest::Approx(some.bound[s]));
    CHECK(std::is_sorted(some.indices.begin() + some.indptr[s], some.indices.begin() + some.indptr[s + 1]));
  }
}

TEST_CASE("ppr has the same bits for any thread count") {
  const Graph graph = pattern("smallworld(6, 0.2, 3)", 500);
  std::vector<Offset> seeds(500);
  std::iota(seeds.begin(), seeds.end(), 0);
  Context one;
  one.threads = 1;
  Context four;
  four.threads = 4;
  const PprResult a = ppr(one, graph, seeds, {.topk = 20});
  const PprResult b = ppr(four, graph, seeds, {.topk = 20});
  CHECK(a.indices == b.indices);
  CHECK(test::same_bits(a.values, b.values));
  CHECK(test::same_bits(a.bound, b.bound));
}

TEST_CASE("ppr is refused by its memory, not by its threads, and keeps its bits") {
  const Graph graph = pattern("random(8)", 20000);
  const auto accepted = [&](int threads, std::size_t seeds, std::size_t limit) -> std::optional<PprResult> {
    Context ctx;
    ctx.threads = threads;
    ctx.memory_limit = limit;
    std::vector<Offset> from(seeds);
    std::iota(from.begin(), from.end(), 0);
    try {
      return ppr(ctx, graph, from, {.tol = 1e-6, .topk = 50});
    } catch (const LimitError&) {
      return std::nullopt;
    }
  };
  // A walk reaches all vertices: 40 bytes each and room to grow.
  const auto whole = accepted(1, 3, 1U << 30);
  REQUIRE(whole);
  for (const int threads : {1, 2, 8}) {
    CHECK_FALSE(accepted(threads, 3, 20000 * 40));
    for (const std::size_t seeds : {1U, 3U}) CHECK(accepted(threads, seeds, 4U << 20));
    const auto again = accepted(threads, 3, 4U << 20);
    REQUIRE(again);
    CHECK(again->indices == whole->indices);
    CHECK(test::same_bits(again->values, whole->values));
  }
}

TEST_CASE("ppr of nothing") {
  const Context ctx;
  const PprResult none = ppr(ctx, pattern("self", 4), {});
  CHECK(none.indptr == std::vector<Offset>{0});
  CHECK(ppr(ctx, Graph(), {}).indptr.size() == 1);
  const PprResult alone = ppr(ctx, test::empty_graph(3, 3), std::vector<Offset>{2}, {.teleport = 0.5});
  CHECK(alone.values == std::vector<double>{0.5});
  CHECK(alone.bound[0] == 0);
  CHECK(ppr(ctx, pattern("full", 9), std::vector<Offset>{2}, {.teleport = 1}).values ==
        std::vector<double>{1});
}

TEST_CASE("ppr refuses what it cannot do") {
  const Context ctx;
  const Graph graph = pattern("window(1)", 4);
  const std::vector<Offset> seeds{0};
  const auto message = [&](const Graph& g, const std::vector<Offset>& s, const PprOptions& o) {
    try {
      (void)ppr(ctx, g, s, o);
    } catch (const Error& error) {
      return std::string(error.what());
    }
    return std::string();
  };
  CHECK(message(pattern("full", 2, 3), seeds, {}).find("2 x 3") != std::string::npos);
  CHECK(message(graph, {0, 4}, {}).find("seeds[1]: vertex 4") != std::string::npos);
  CHECK(message(graph, {-1}, {}).find("-1") != std::string::npos);
  for (const double bad : {0.0, -1.0, 1.5, std::nan("")})
    CHECK(message(graph, seeds, {.teleport = bad}).find("teleport") != std::string::npos);
  for (const double bad : {0.0, -1.0, std::nan(""), double{INFINITY}})
    CHECK(message(graph, seeds, {.tol = bad}).find("tol") != std::string::npos);
  CHECK(message(graph, seeds, {.topk = 0}).find("topk") != std::string::npos);
  CHECK(message(graph, seeds, {.normalization = Normalization::none}).find("col") != std::string::npos);
  CHECK(message(graph, seeds, {.dangling = Dangling::uniform}).find("restart") != std::string::npos);
  CHECK(message(pattern("causal", 4), seeds, {.normalization = Normalization::sym}).find("symmetric") !=
        std::string::npos);
  std::vector<double> weights(at(graph.nnz()), 1);
  weights[2] = -3;
  CHECK(message(graph.with_weights(weights), seeds, {}).find("(row 1, column 0) is -3") != std::string::npos);
  Context small;
  small.memory_limit = 100000;
  CHECK_THROWS_AS((void)ppr(small, pattern("random(8)", 20000), seeds, {.tol = 1e-9}), LimitError);
  const std::atomic<bool> stop{true};
  Context stopped;
  stopped.stop = &stop;
  CHECK_THROWS_AS((void)ppr(stopped, graph, seeds, {}), Interrupted);
}
