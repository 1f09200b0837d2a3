#include <doctest/doctest.h>
#include <rapidcheck.h>

#include <atomic>
#include <cmath>
#include <cstdint>
#include <vector>

#include "manyhop/engine/spectral/gap.hpp"
#include "manyhop/graphs/base/error.hpp"
#include "manyhop/graphs/patterns/pattern.hpp"

using namespace manyhop;
using spectral::Reach;

namespace {

std::size_t at(Offset i) { return static_cast<std::size_t>(i); }

/// One row at a time by the definition.
std::vector<Reach> plain(const Graph& graph, int hops) {
  const Offset n = graph.n_rows();
  std::vector<Reach> result;
  for (int hop = 1; hop <= hops; ++hop) result.push_back({hop, 0, 1});
  for (Offset i = 0; i < n; ++i) {
    std::vector<char> seen(at(n));
    seen[at(i)] = 1;
    for (int hop = 0; hop < hops; ++hop) {
      auto next = seen;
      for (Offset u = 0; u < n; ++u)
        if (seen[at(u)])
          for (const Index v : graph.row(u)) next[at(v)] = 1;
      seen = next;
      Offset count = 0;
      for (const char s : seen) count += s;
      const double share = static_cast<double>(count) / static_cast<double>(n);
      result[static_cast<std::size_t>(hop)].mean += share / static_cast<double>(n);
      result[static_cast<std::size_t>(hop)].min = std::min(result[static_cast<std::size_t>(hop)].min, share);
    }
  }
  return result;
}

}  // namespace

TEST_CASE("reach equals a plain search on random graphs") {
  CHECK(rc::check("reach", [] {
    const Offset n = *rc::gen::inRange<Offset>(1, 150);
    const auto m = *rc::gen::inRange<std::size_t>(0, 300);
    const auto rows =
        *rc::gen::container<std::vector<Index>>(m, rc::gen::inRange<Index>(0, static_cast<Index>(n)));
    const auto cols =
        *rc::gen::container<std::vector<Index>>(m, rc::gen::inRange<Index>(0, static_cast<Index>(n)));
    const Graph graph = Graph::from_edges(n, n, rows, cols);
    const auto expected = plain(graph, 4);
    const auto got = spectral::reach({}, graph, 4);
    RC_ASSERT(got.size() == expected.size());
    for (std::size_t k = 0; k < got.size(); ++k) {
      RC_ASSERT(got[k].hop == expected[k].hop);
      RC_ASSERT(std::abs(got[k].mean - expected[k].mean) < 1e-12);
      RC_ASSERT(std::abs(got[k].min - expected[k].min) < 1e-12);
    }
  }));
}

TEST_CASE("reach follows runs of implicit graphs") {
  for (const char* text :
       {"full", "causal", "t(causal)", "full - window(3)", "causal - self", "global(3) | causal"}) {
    CAPTURE(text);
    const Graph graph = pattern(text, 333);
    const auto expected = plain(graph, 3);
    const auto got = spectral::reach({}, graph, 3);
    for (std::size_t k = 0; k < got.size(); ++k) {
      CHECK(got[k].mean == doctest::Approx(expected[k].mean).epsilon(1e-12));
      CHECK(got[k].min == doctest::Approx(expected[k].min).epsilon(1e-12));
    }
  }
}

TEST_CASE("reach of a causal row is its past") {
  const auto got = spectral::reach({}, pattern("causal", 4), 1);
  CHECK(got[0].mean == doctest::Approx(10.0 / 16.0));
  CHECK(got[0].min == doctest::Approx(0.25));
}

TEST_CASE("a directed path pulls along its edges") {
  // 0 <- 1 <- 2 <- 3: row 0 reaches 0, 1, 2 in two hops.
  const std::vector<Index> rows{0, 1, 2};
  const std::vector<Index> cols{1, 2, 3};
  const auto got = spectral::reach({}, Graph::from_edges(4, 4, rows, cols), 2);
  CHECK(got[1].mean == doctest::Approx((3 + 3 + 2 + 1) / 16.0));
  CHECK(got[1].min == doctest::Approx(0.25));
}

TEST_CASE("sampled rows are the seed's and exact on regular graphs") {
  const Graph graph = pattern("window(2, ring=true)", 1000);
  const auto got = spectral::reach({}, graph, 3, 70, 5);
  CHECK(got[2].mean == doctest::Approx(13.0 / 1000));
  CHECK(got[2].min == doctest::Approx(13.0 / 1000));
  const Graph uneven = pattern("random(2, seed=3)", 1000);
  CHECK(spectral::reach({}, uneven, 3, 70, 5)[2].mean == spectral::reach({}, uneven, 3, 70, 5)[2].mean);
  CHECK(spectral::reach({}, uneven, 3, 70, 5)[2].mean != spectral::reach({}, uneven, 3, 70, 6)[2].mean);
}

TEST_CASE("the error of sampled rows covers what all rows say") {
  const Graph graph = pattern("smallworld(4, 0.2, 3)", 1500);
  const auto all = spectral::reach({}, graph, 4);
  const auto drawn = spectral::reach({}, graph, 4, 128);
  for (std::size_t hop = 0; hop < 4; ++hop) {
    CHECK(all[hop].error == 0);
    CHECK(drawn[hop].error > 0);
    CHECK(std::abs(drawn[hop].mean - all[hop].mean) <= 4 * drawn[hop].error);
  }
}

TEST_CASE("reach has the same bits for any thread count") {
  const Graph graph = pattern("random(3, seed=1)", 2000);
  Context one, three;
  one.threads = 1;
  three.threads = 3;
  const auto a = spectral::reach(one, graph, 4);
  const auto b = spectral::reach(three, graph, 4);
  for (std::size_t k = 0; k < a.size(); ++k) {
    CHECK(a[k].mean == b[k].mean);
    CHECK(a[k].min == b[k].min);
  }
}

TEST_CASE("reach of nothing, and bad arguments") {
  CHECK(spectral::reach({}, Graph(), 3).size() == 3);
  CHECK(spectral::reach({}, pattern("self", 3), 0).empty());
  CHECK(spectral::reach({}, Graph::from_edges(3, 3, {}, {}), 2)[1].mean == doctest::Approx(1.0 / 3));
  CHECK_THROWS_AS(spectral::reach({}, pattern("full", 3, 4), 2), ValueError);
  CHECK_THROWS_AS(spectral::reach({}, pattern("full", 3), -1), ValueError);
  CHECK_THROWS_AS(spectral::reach({}, pattern("full", 3), 1000000000), ValueError);
  CHECK_THROWS_AS(spectral::reach({}, pattern("full", 3), 2, 0), ValueError);
}

TEST_CASE("reach stops when asked") {
  const std::atomic<bool> stop{true};
  Context ctx;
  ctx.stop = &stop;
  CHECK_THROWS_AS(spectral::reach(ctx, pattern("window(2)", 1000), 3), Interrupted);
}
