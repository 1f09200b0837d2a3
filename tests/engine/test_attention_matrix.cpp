#include "manyhop/engine/spectral/attention_matrix.hpp"

#include <doctest/doctest.h>
#include <rapidcheck.h>

#include <cmath>
#include <limits>
#include <vector>

#include "manyhop/graphs/base/error.hpp"
#include "manyhop/graphs/base/random.hpp"
#include "manyhop/graphs/patterns/pattern.hpp"
#include "spectral_oracle.hpp"

using namespace manyhop;
using namespace manyhop::spectral;

namespace {

std::vector<double> values(Offset count, std::uint32_t stage) {
  std::vector<double> x(static_cast<std::size_t>(count));
  for (std::size_t i = 0; i < x.size(); ++i) x[i] = 4 * CounterRng(7, stage, i).uniform() - 2;
  return x;
}

Graph attention_of(const Graph& pattern, Offset d, std::uint32_t stage) {
  const Offset n = pattern.n_rows();
  const auto q = values(n * d, stage);
  const auto k = values(n * d, stage + 1);
  return softmax_graph({}, pattern, TensorView<const double>(q.data(), {n, d}),
                       TensorView<const double>(k.data(), {n, d}), 1 / std::sqrt(static_cast<double>(d)));
}

std::vector<double> product(const std::vector<double>& a, const std::vector<double>& b, std::size_t n) {
  std::vector<double> c(n * n);
  for (std::size_t i = 0; i < n; ++i)
    for (std::size_t k = 0; k < n; ++k)
      for (std::size_t j = 0; j < n; ++j) c[i * n + j] += a[i * n + k] * b[k * n + j];
  return c;
}

/// Roots of the two largest eigenvalues of M^T M.
std::pair<double, double> singular_values(const std::vector<double>& m, std::size_t n) {
  std::vector<double> gram(n * n);
  for (std::size_t k = 0; k < n; ++k)
    for (std::size_t i = 0; i < n; ++i)
      for (std::size_t j = 0; j < n; ++j) gram[i * n + j] += m[k * n + i] * m[k * n + j];
  const auto found = oracle::eigenvalues(gram, n);
  return {std::sqrt(found[n - 1]), std::sqrt(std::max(0.0, found[n - 2]))};
}

/// Q F Q of the definition: F by its recursion on matrices, Q takes means out.
std::vector<double> centred_filter(const std::vector<double>& a, std::size_t n, int hops, double teleport) {
  std::vector<double> f(n * n), q(n * n, -1.0 / static_cast<double>(n));
  for (std::size_t i = 0; i < n; ++i) {
    f[i * n + i] = 1;
    q[i * n + i] += 1;
  }
  for (int hop = 0; hop < hops; ++hop) {
    f = product(a, f, n);
    for (double& x : f) x *= 1 - teleport;
    for (std::size_t i = 0; i < n; ++i) f[i * n + i] += teleport;
  }
  return product(q, product(f, q, n), n);
}

}  // namespace

TEST_CASE("attention matrix: two tokens by hand") {
  // Scores ln 3 and 0 for the other token: A = [[1/4, 3/4], [1/2, 1/2]], eigenvalues 1 and -1/4.
  const std::vector<double> q{std::log(3.0), 0};
  const std::vector<double> k{0, 1};
  const Graph a = softmax_graph({}, pattern("full", 2), TensorView<const double>(q.data(), {2, 1}),
                                TensorView<const double>(k.data(), {2, 1}), 1);
  CHECK(a.weights()[1] == doctest::Approx(0.75));
  AttentionMatrixOptions options;
  options.hops = 2;
  options.teleport = 0.5;
  const auto m = attention_matrix({}, a, options);
  REQUIRE(m.transition.lambda2);
  CHECK(m.transition.lambda2->real() == doctest::Approx(-0.25));
  REQUIRE(m.stationary.pi.size() == 2);
  CHECK(m.stationary.pi[0] == doctest::Approx(0.4));
  CHECK(m.stationary.pi[1] == doctest::Approx(0.6));
  CHECK(m.effective_tokens == doctest::Approx(std::pow(0.4, -0.4) * std::pow(0.6, -0.6)));
  // Z_1 = mu/2 + 1/2 = 3/8, Z_2 = mu/2 3/8 + 1/2 = 29/64; on the line of mean 0 A is mu.
  CHECK(m.response.real() == doctest::Approx(29.0 / 64));
  CHECK(m.gain == doctest::Approx(29.0 / 64));
  CHECK(*m.chung.gap == doctest::Approx(1.25));  // a reversible chain: 1 - mu
  CHECK(m.converged);
}

TEST_CASE("attention matrix: singular values and gain against their definitions") {
  rc::check([] {
    const auto n = *rc::gen::inRange<Offset>(2, 14);
    const auto stage = *rc::gen::inRange<std::uint32_t>(1, 1000);
    const int hops = *rc::gen::inRange(0, 5);
    const double teleport = 0.1 * *rc::gen::inRange(0, 11);
    const char* text = *rc::gen::element("full", "causal", "window(2)", "random(1, seed=3) | self");
    const Graph a = attention_of(pattern(text, n), 3, 2 * stage);
    AttentionMatrixOptions options;
    options.hops = hops;
    options.teleport = teleport;
    const auto m = attention_matrix({}, a, options);
    const auto size = static_cast<std::size_t>(n);
    const auto dense = oracle::dense(a, true);
    const auto [first, second] = singular_values(dense, size);
    RC_ASSERT(std::abs(m.sigma1 - first) < 1e-10);
    RC_ASSERT(std::abs(m.sigma2 - second) < 1e-7);  // a root of rounding
    const auto [gain, unused] = singular_values(centred_filter(dense, size, hops, teleport), size);
    RC_ASSERT(std::abs(m.gain - gain) < 1e-7);
    RC_ASSERT(m.converged);
    if (!m.stationary.pi.empty()) RC_ASSERT(m.stationary.residual < 1e-10);
  });
}

TEST_CASE("attention matrix: beyond the size of dense solvers") {
  const Graph a = attention_of(pattern("full", 300), 8, 11);
  AttentionMatrixOptions options;
  options.hops = 3;
  options.teleport = 0.2;
  const auto m = attention_matrix({}, a, options);
  CHECK(m.converged);
  CHECK(m.sigma_residual < 1e-8);
  CHECK(m.gain_residual < 1e-8);
  CHECK(m.sigma1 >= 1);
  CHECK(m.sigma2 <= m.sigma1);
  CHECK(std::abs(*m.transition.lambda2) <= m.sigma1);
  CHECK(m.gain >= std::abs(m.response) - 1e-9);  // of an eigenvector with its mean taken out
  CHECK(m.stationary.residual < 1e-10);
}

TEST_CASE("attention matrix: causal is triangular and its walks end at the first token") {
  const Graph causal = pattern("causal", 12);
  CHECK(triangular(causal));
  CHECK(triangular(causal.transpose()));
  CHECK_FALSE(triangular(pattern("window(1)", 12)));
  CHECK_FALSE(triangular(pattern("full", 3, 4)));
  const auto m = attention_matrix({}, attention_of(causal, 4, 3));
  REQUIRE(m.stationary.pi.size() == 12);
  CHECK(m.stationary.pi[0] == doctest::Approx(1));
  CHECK(m.effective_tokens == doctest::Approx(1));
  CHECK_FALSE(m.chung.applies);
}

TEST_CASE("path counts: by hand, and rows without edges") {
  const auto causal = path_counts({}, pattern("causal", 5), 3);
  REQUIRE(causal.size() == 3);
  CHECK(causal[0].mean == 3);
  CHECK(causal[1].min == 1);
  CHECK(causal[1].max == 15);  // C(6, 2)
  CHECK(causal[2].max == 35);  // C(7, 3)
  const auto none = path_counts({}, pattern("self - self", 4), 2);
  CHECK(none[1].max == 0);
  CHECK(path_counts({}, pattern("full", 0), 2).empty());
  CHECK(std::isinf(path_counts({}, pattern("full", 100), 200).back().max));
  CHECK_THROWS_AS(path_counts({}, pattern("full", 2, 3), 1), ValueError);
  CHECK_THROWS_AS(path_counts({}, pattern("full", 2), 1025), ValueError);
}

TEST_CASE("stationary distribution: where it is not one alone") {
  CHECK(stationary_distribution({}, pattern("self", 3), false).pi.empty());
  CHECK(stationary_distribution({}, pattern("self - self", 1), false).reason.find("without edges") !=
        std::string::npos);
  CHECK(stationary_distribution({}, pattern("full", 0), false).pi.empty());
  const auto ring = stationary_distribution({}, pattern("window(1, ring=true)", 300), false);
  REQUIRE(ring.pi.size() == 300);
  CHECK(ring.pi[17] == doctest::Approx(1.0 / 300));
  // A chain of two states that leave with 1/4 and 1/2, and a third that walks into it.
  const Graph chain = Graph::from_csr(3, 3, {0, 2, 4, 5}, {0, 1, 0, 1, 0}, {3, 1, 1, 1, 2});
  const auto two = stationary_distribution({}, chain, true);
  REQUIRE(two.pi.size() == 3);
  CHECK(two.pi[0] == doctest::Approx(2.0 / 3));
  CHECK(two.pi[2] == 0);
}

TEST_CASE("attention matrix: bad input is refused by name") {
  const std::vector<double> bad{1, std::numeric_limits<double>::quiet_NaN()};
  const std::vector<double> good{1, 1};
  const TensorView<const double> q(bad.data(), {2, 1}), k(good.data(), {2, 1});
  CHECK_THROWS_WITH_AS(softmax_graph({}, pattern("full", 2), q, k, 1),
                       "the score of query 1 and key 0 is nan and must be finite", ValueError);
  const Graph a = attention_of(pattern("full", 3), 2, 5);
  AttentionMatrixOptions options;
  options.teleport = 1.5;
  CHECK_THROWS_AS(attention_matrix({}, a, options), ValueError);
  options.teleport = 0;
  options.hops = -1;
  CHECK_THROWS_AS(attention_matrix({}, a, options), ValueError);
  CHECK_THROWS_AS(attention_matrix({}, pattern("full", 2, 3)), ValueError);
  Context small;
  small.memory_limit = 1000;
  CHECK_THROWS_AS(softmax_graph(small, pattern("full", 2000), q, k, 1), LimitError);
}
