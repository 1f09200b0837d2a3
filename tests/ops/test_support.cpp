// The judges are judged first: hand numbers and slopes for the oracle, wrong input for the comparisons.
#include <doctest/doctest.h>

#include <cmath>
#include <limits>
#include <vector>

#include "tests/support/finite_difference.hpp"
#include "tests/support/near.hpp"
#include "tests/support/oracle.hpp"

using namespace manyhop;
using namespace manyhop::test;

TEST_CASE("relative_l2 sees what is wrong") {
  const std::vector<float> a{1, 2, 3, 4};
  CHECK(relative_l2(a, a, 2).total == 0);
  CHECK(relative_l2(std::vector<float>{1, 2, 3, 4.5F}, a, 2).worst_row == doctest::Approx(0.1));
  CHECK(relative_l2(std::vector<float>{1, 2, 3, 4.5F}, a, 2).total == doctest::Approx(0.5 / std::sqrt(30.0)));
  const float nan = std::numeric_limits<float>::quiet_NaN();
  const float inf = std::numeric_limits<float>::infinity();
  CHECK(relative_l2(std::vector<float>{1, 2, 3, nan}, a, 2).total > 1e100);
  CHECK(relative_l2(a, std::vector<float>{1, 2, 3, nan}, 2).total > 1e100);
  CHECK(relative_l2(a, std::vector<float>{1, 2, 3, -inf}, 2).total > 1e100);
  CHECK(relative_l2(std::vector<float>{-inf, nan}, std::vector<float>{-inf, nan}, 2).total == 0);
  CHECK(relative_l2(a, std::vector<float>{1, 2, 3}, 2).total > 1e100);
  CHECK(relative_l2(std::vector<float>{0.5F}, std::vector<float>{0}, 1).total == 0.5);
  CHECK_FALSE(same_bits(std::vector<float>{0.0F}, std::vector<float>{-0.0F}));
}

TEST_CASE("worst_slope_error sees a wrong gradient") {
  std::vector<double> x{1, 2};
  const auto f = [&] { return x[0] * x[0] + 3 * x[1]; };
  CHECK(worst_slope_error(x, {2, 3}, f) < 1e-8);
  CHECK(worst_slope_error(x, {2, 3.1}, f) > 0.02);
  CHECK(worst_slope_error(x, {std::nan(""), 3}, f) > 1e100);
}

//  0 <- 0, 0 <- 1, 1 <- 0   (row 2 is empty); d = 1, scores of row 0: ln 1, ln 3
TEST_CASE("oracle by hand") {
  AttentionCase c;
  c.graphs = {Graph::from_csr(3, 3, {0, 2, 3, 3}, {0, 1, 0})};
  c.q = {std::log(3.0), 5, 9};
  c.k = {0, 1, 7};
  c.v = {4, 8, 16};
  // A = [1/4 3/4 0; 1 0 0; 0 0 0]
  const AttentionAnswer one = oracle(c);
  CHECK(one.out == std::vector<double>{7, 4, 0});
  CHECK(one.lse[0] == doctest::Approx(std::log(4.0)));
  CHECK(one.lse[1] == 0);
  CHECK(one.lse[2] == -std::numeric_limits<double>::infinity());
  CHECK(one.weights[0][1] == doctest::Approx(0.75));
  // Z_1 = 1/2 A V + 1/2 V = (5.5, 6, 8), Z_2 = 1/2 A Z_1 + 1/2 V = (1/2 5.875 + 2, 2.75 + 4, 8)
  c.hops = 2;
  c.teleport = 0.5;
  const AttentionAnswer two = oracle(c);
  CHECK(two.out[0] == doctest::Approx(4.9375));
  CHECK(two.out[1] == doctest::Approx(6.75));
  CHECK(two.out[2] == 8);
  c.hops = 0;
  CHECK(oracle(c).out == c.v);
  // Position 1 is padding: row 0 has its loop alone, row 1 nothing.
  c.hops = 1;
  c.teleport = 0;
  c.lengths = {1};
  c.v[1] = std::nan("");
  CHECK(oracle(c).out == std::vector<double>{4, 0, 0});
}

TEST_CASE("oracle: gradients are slopes, with everything on") {
  for (const bool rectangular : {false, true}) {
    AttentionCase c;
    c.batch = 2;
    c.heads = 4;
    c.kv_heads = 2;
    c.d = 3;
    c.d_v = 2;
    const Offset n = 9;
    const Offset n_cols = rectangular ? 12 : 9;
    c.graphs = {random_graph(n, n_cols, 0.5, 3)};
    if (!rectangular) c.lengths = {9, 6};
    c.q = random_values<double>(2 * 4 * n * 3, 1);
    c.k = random_values<double>(2 * 2 * n_cols * 3, 2);
    c.v = random_values<double>(2 * 2 * n_cols * 2, 3);
    c.hops = rectangular ? 1 : 3;
    c.teleport = rectangular ? 0 : 0.3;
    c.scale = 0.8;
    c.dropout_p = 0.2;
    c.hop_dropout_p = 0.1;
    c.seed = 5;
    const Offset m = c.graphs[0].nnz();
    auto bias = random_values<double>(m, 4);
    c.bias = [&](Offset, Offset, Offset e) { return bias[static_cast<std::size_t>(e)]; };
    const auto g = random_values<double>(2 * 4 * n * 2, 6);
    const auto g_lse = random_values<double>(2 * 4 * n, 7);
    const auto loss = [&] {
      const AttentionAnswer answer = oracle(c);
      double sum = 0;
      for (std::size_t x = 0; x < g.size(); ++x) sum += answer.out[x] * g[x];
      for (std::size_t x = 0; x < g_lse.size(); ++x) {
        if (std::isfinite(answer.lse[x])) sum += answer.lse[x] * g_lse[x];
      }
      return sum;
    };
    const AttentionAnswer answer = oracle(c, g, g_lse);
    CHECK(worst_slope_error(c.q, answer.dq, loss) < 1e-7);
    CHECK(worst_slope_error(c.k, answer.dk, loss) < 1e-7);
    CHECK(worst_slope_error(c.v, answer.dv, loss) < 1e-7);
    std::vector<double> dbias(bias.size());
    for (const auto& head : answer.dbias) {
      for (std::size_t e = 0; e < head.size(); ++e) dbias[e] += head[e];
    }
    CHECK(worst_slope_error(bias, dbias, loss) < 1e-7);
    if (rectangular) continue;
    std::vector<double> teleport{c.teleport};
    CHECK(worst_slope_error(teleport, {answer.dteleport}, [&] {
            c.teleport = teleport[0];
            return loss();
          }) < 1e-7);
  }
}
