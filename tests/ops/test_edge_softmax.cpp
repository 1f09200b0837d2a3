#include "manyhop/ops/edge_softmax.hpp"

#include <doctest/doctest.h>

#include <cmath>
#include <limits>
#include <tuple>
#include <vector>

#include "manyhop/graphs/base/error.hpp"
#include "tests/support/finite_difference.hpp"
#include "tests/support/near.hpp"

using namespace manyhop;
using namespace manyhop::test;

namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();
constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();

Context on(Backend backend, int threads = 1) {
  Context ctx;
  ctx.backend = backend;
  ctx.threads = threads;
  return ctx;
}

}  // namespace

//  0 <- 0, 0 <- 1, 2 <- 1   (row 1 is empty)
TEST_CASE("edge_softmax by hand") {
  const Graph graph = Graph::from_csr(3, 3, {0, 2, 2, 3}, {0, 1, 1});
  const std::vector<double> scores{std::log(1.0), std::log(3.0), 7};
  for (const Backend backend : {Backend::reference, Backend::cpu}) {
    std::vector<double> weights(3), lse(3);
    edge_softmax<double>(on(backend), graph, {scores.data(), {3}}, {weights.data(), {3}}, {lse.data(), {3}});
    CHECK(weights[0] == doctest::Approx(0.25).epsilon(1e-15));
    CHECK(weights[1] == doctest::Approx(0.75).epsilon(1e-15));
    CHECK(weights[2] == 1);
    CHECK(lse[0] == doctest::Approx(std::log(4.0)).epsilon(1e-15));  // natural logarithm
    CHECK(lse[1] == -kInfinity);
    CHECK(lse[2] == 7);

    // ds = A (dA - sum A dA) + A dLSE: row 0 with dA = (1, 5), dLSE = 8: mean 4, so 1/4 (-3 + 8), 3/4 (1 +
    // 8).
    const std::vector<double> exact{0.25, 0.75, 1}, g{1, 5, 9}, g_lse{8, 100, 2};
    std::vector<double> ds(3);
    edge_softmax_backward<double>(on(backend), graph, {exact.data(), {3}}, {g.data(), {3}},
                                  {g_lse.data(), {3}}, {ds.data(), {3}});
    CHECK(ds == std::vector<double>{1.25, 6.75, 2});
  }
}

TEST_CASE_TEMPLATE("edge_softmax: masked rows, huge scores, NaN", E, float, double) {
  const E inf = std::numeric_limits<E>::infinity();
  const E big = std::numeric_limits<E>::max();
  // Rows of 3 edges: all masked; one masked; far apart; near the end of the range; NaN; +inf; all equal and
  // low.
  const std::vector<E> scores{-inf, -inf, -inf,    1, -inf, 1,   -80, 80,     0,      big,   -big,
                              big,  0,    E(kNaN), 1, 0,    inf, 0,   -1e30F, -1e30F, -1e30F};
  const Graph full = Graph::from_csr(7, 3, {0, 3, 6, 9, 12, 15, 18, 21},
                                     {0, 1, 2, 0, 1, 2, 0, 1, 2, 0, 1, 2, 0, 1, 2, 0, 1, 2, 0, 1, 2});
  for (const Backend backend : {Backend::reference, Backend::cpu}) {
    std::vector<E> w(21), lse(7);
    edge_softmax<E>(on(backend), full, {scores.data(), {21}}, {w.data(), {21}}, {lse.data(), {7}});
    CHECK((w[0] == 0 && w[1] == 0 && w[2] == 0 && lse[0] == -inf));
    CHECK((w[3] == E(0.5) && w[4] == 0 && w[5] == E(0.5)));
    CHECK((w[7] == 1 && w[6] >= 0 && w[6] < 1e-30 && lse[2] == 80));
    CHECK((w[9] == E(0.5) && w[10] == 0 && w[11] == E(0.5) && lse[3] == big));
    for (const std::size_t bad : {12U, 13U, 14U, 15U, 16U, 17U}) CHECK(std::isnan(w[bad]));
    CHECK((std::isnan(lse[4]) && std::isnan(lse[5])));
    CHECK(w[18] == doctest::Approx(1.0 / 3));
    CHECK(lse[6] == E(-1e30F));
  }
}

TEST_CASE_TEMPLATE("edge_softmax: cpu against reference, in place, strided, any thread count", E, float,
                   double) {
  for (const Offset n : {0, 1, 31, 32, 33, 65, 500}) {
    for (const Graph& graph :
         {random_graph(n, n + 3, 0.4, 1), random_graph(n, n, 1, 2), star_graph(n + 1), empty_graph(n, n)}) {
      const Offset m = graph.nnz();
      const Offset h = 3;
      const auto scores = random_values<E>(h * m, 3, 80);
      const auto g = random_values<E>(h * m, 4);
      const auto g_lse = random_values<E>(h * graph.n_rows(), 5);
      const auto run = [&](const Context& ctx) {
        std::vector<E> weights = scores, lse(static_cast<std::size_t>(h * graph.n_rows())), ds = g;
        edge_softmax<E>(ctx, graph, {weights.data(), {h, m}, {1, h}}, {weights.data(), {h, m}, {1, h}},
                        {lse.data(), {h, graph.n_rows()}});
        edge_softmax_backward<E>(ctx, graph, {weights.data(), {h, m}, {1, h}}, {ds.data(), {h, m}, {1, h}},
                                 {g_lse.data(), {h, graph.n_rows()}}, {ds.data(), {h, m}, {1, h}});
        return std::tuple{weights, lse, ds};
      };
      const auto [weights, lse, ds] = run(on(Backend::reference));
      const auto [weights1, lse1, ds1] = run(on(Backend::cpu, 1));
      const double tolerance = std::is_same_v<E, double> ? 1e-13 : 2e-6;
      INFO("n ", n, " m ", m);
      CHECK(relative_l2(weights1, weights, 1000).total < tolerance);
      CHECK(relative_l2(lse1, lse, 1).worst_row < tolerance);
      CHECK(relative_l2(ds1, ds, 1000).total < 10 * tolerance);
      for (const int threads : {2, 4}) {
        const auto [a, b, c] = run(on(Backend::cpu, threads));
        CHECK((same_bits(a, weights1) && same_bits(b, lse1) && same_bits(c, ds1)));
      }
      for (Offset head = 0; head < h; ++head) {
        for (Offset i = 0; i < graph.n_rows(); ++i) {
          double sum = 0;
          const auto begin = graph.indptr()[static_cast<std::size_t>(i)];
          for (Offset e = begin; e < begin + graph.degree(i); ++e) {
            sum += double{weights1[static_cast<std::size_t>(e * h + head)]};
          }
          if (std::abs(sum - (graph.degree(i) > 0 ? 1 : 0)) > 1e-5) FAIL("row ", i, " sums to ", sum);
        }
      }
    }
  }
}

TEST_CASE("edge_softmax: contiguous and strided views give the same bits") {
  const Graph graph = random_graph(40, 400, 0.9, 1);
  const Offset m = graph.nnz();
  const auto scores = random_values<float>(m, 3, 20);
  std::vector<float> spread(static_cast<std::size_t>(3 * m)), packed = scores;
  for (std::size_t e = 0; e < scores.size(); ++e) spread[3 * e] = scores[e];
  edge_softmax<float>(on(Backend::cpu), graph, {packed.data(), {1, m}}, {packed.data(), {1, m}});
  edge_softmax<float>(on(Backend::cpu), graph, {spread.data(), {1, m}, {0, 3}},
                      {spread.data(), {1, m}, {0, 3}});
  for (std::size_t e = 0; e < scores.size(); ++e) spread[e] = spread[3 * e];
  spread.resize(packed.size());
  CHECK(same_bits(packed, spread));
}

TEST_CASE("edge_softmax: gradients are slopes") {
  const Graph graph = random_graph(8, 9, 0.6, 4);
  const Offset m = graph.nnz();
  auto scores = random_values<double>(2 * m, 1, 3);
  const auto g = random_values<double>(2 * m, 2);
  const auto g_lse = random_values<double>(2 * 8, 3);
  for (const Backend backend : {Backend::reference, Backend::cpu}) {
    std::vector<double> weights(scores.size()), lse(16), ds(scores.size());
    const auto loss = [&] {
      edge_softmax<double>(on(backend), graph, {scores.data(), {2, m}}, {weights.data(), {2, m}},
                           {lse.data(), {2, 8}});
      double sum = 0;
      for (std::size_t e = 0; e < g.size(); ++e) sum += weights[e] * g[e];
      for (std::size_t i = 0; i < lse.size(); ++i) {
        if (std::isfinite(lse[i])) sum += lse[i] * g_lse[i];
      }
      return sum;
    };
    loss();
    edge_softmax_backward<double>(on(backend), graph, {weights.data(), {2, m}}, {g.data(), {2, m}},
                                  {g_lse.data(), {2, 8}}, {ds.data(), {2, m}});
    CHECK(worst_slope_error(scores, ds, loss) < 1e-8);
  }
}

TEST_CASE("edge_softmax: errors name both sizes") {
  const Graph graph = Graph::from_csr(2, 3, {0, 1, 2}, {0, 2});
  std::vector<float> data(20);
  float* p = data.data();
  CHECK_THROWS_WITH_AS(edge_softmax<float>(on(Backend::cpu), graph, {p, {2, 3}}, {p, {2, 2}}),
                       "edge_softmax: scores has shape [2, 3], want [2, 2]", ValueError);
  CHECK_THROWS_WITH_AS(edge_softmax<float>(on(Backend::cpu), graph, {p, {2, 2}}, {p, {1, 2}}),
                       "edge_softmax: weights has shape [1, 2], want [2, 2]", ValueError);
  CHECK_THROWS_WITH_AS(edge_softmax<float>(on(Backend::cpu), graph, {p, {2, 2}}, {p, {2, 2}}, {p, {2, 3}}),
                       "edge_softmax: lse has shape [2, 3], want [2, 2]", ValueError);
  CHECK_THROWS_AS(edge_softmax<float>(on(Backend::cuda), graph, {p, {2, 2}}, {p, {2, 2}}), ValueError);
}
