#include "manyhop/ops/sparsek.hpp"

#include <doctest/doctest.h>
#include <rapidcheck.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <vector>

#include "manyhop/graphs/base/error.hpp"
#include "tests/support/finite_difference.hpp"
#include "tests/support/near.hpp"
#include "tests/support/sanitized.hpp"

using namespace manyhop;
using namespace manyhop::test;

namespace {

constexpr double kInf = std::numeric_limits<double>::infinity();
constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();

struct Way {
  Backend backend;
  SparsekMethod method;
};
const std::vector<Way> kWays{{Backend::reference, SparsekMethod::linear},
                             {Backend::cpu, SparsekMethod::linear},
                             {Backend::cpu, SparsekMethod::sorted}};

template <class T>
struct Answer {
  std::vector<T> p;
  double tau = 0;
};

template <class T>
Answer<T> project(const std::vector<T>& z, double k, Way way = kWays[1], double temperature = 1,
                  int threads = 1) {
  Context ctx;
  ctx.backend = way.backend;
  ctx.threads = threads;
  Answer<T> answer{std::vector<T>(z.size()), 0};
  const auto n = static_cast<Offset>(z.size());
  SparsekOptions options;
  options.temperature = temperature;
  options.method = way.method;
  options.tau = std::span(&answer.tau, 1);
  sparsek<T>(ctx, {z.data(), {n}}, k, {answer.p.data(), {n}}, options);
  return answer;
}

template <class T>
double total(const std::vector<T>& p) {
  double sum = 0;
  for (const T v : p) sum += to_double(v);
  return sum;
}

// Another way to the same tau: halves [max - n, max] until nothing is left, in long double. Finite scores.
std::vector<double> bisected(const std::vector<double>& z, double k) {
  std::vector<double> p(z.size(), 1);
  if (k >= static_cast<double>(z.size())) return p;
  const auto [least, most] = std::minmax_element(z.begin(), z.end());
  long double lo = static_cast<long double>(*least) - 1;
  long double hi = *most;
  for (int step = 0; step < 200; ++step) {
    const long double t = lo + (hi - lo) / 2;
    long double sum = 0;
    for (const double v : z) sum += std::clamp(static_cast<long double>(v) - t, 0.0L, 1.0L);
    (sum > k ? lo : hi) = t;
  }
  for (std::size_t i = 0; i < z.size(); ++i) {
    p[i] = static_cast<double>(std::clamp(static_cast<long double>(z[i]) - hi, 0.0L, 1.0L));
  }
  return p;
}

template <class T>
double worst(const std::vector<T>& got, const std::vector<double>& want) {
  double error = 0;
  for (std::size_t i = 0; i < want.size(); ++i) {
    const double e = std::abs(to_double(got[i]) - want[i]);
    error = std::isnan(e) ? kInf : std::max(error, e);
  }
  return error;
}

double gauss(CounterRng& rng) {
  double sum = -6;
  for (int i = 0; i < 12; ++i) sum += rng.uniform();
  return sum;
}

// Rows that ask for different paths: noise, ties, steps, heavy tails, few values, sorted both ways.
std::vector<double> drawn(std::uint64_t seed, Offset n) {
  CounterRng rng(seed, 0x5BA5, 0);
  const int kind = static_cast<int>(seed % 8);
  std::vector<double> z(static_cast<std::size_t>(n));
  for (double& v : z) {
    const double g = gauss(rng);
    switch (kind) {
      case 0:
        v = g;
        break;
      case 1:
        v = 0.05 * g;
        break;
      case 2:
        v = std::floor(2 * g);
        break;
      case 3:
        v = 2.5 * g * g * (g > 0 ? 1 : -1);
        break;
      case 4:
        v = rng.below(50) == 0 ? 8 : -8;
        break;
      case 5:
        v = 16 * (2 * rng.uniform() - 1);
        break;
      case 6:
        v = std::round(g * 4) / 4;
        break;
      default:
        v = g + 7;
        break;
    }
    v = std::clamp<double>(static_cast<float>(v), -16, 16);
  }
  if (seed % 3 == 0) std::sort(z.begin(), z.end());
  if (seed % 11 == 0) std::reverse(z.begin(), z.end());
  return z;
}

std::vector<float> floats(const std::vector<double>& z) { return {z.begin(), z.end()}; }

}  // namespace

TEST_CASE("sparsek by hand") {
  for (const Way way : kWays) {
    // (3, 2.5, 0), k = 1: tau = 2.25 leaves 0.75 + 0.25.
    auto a = project<double>({3, 2.5, 0}, 1, way);
    CHECK(a.p == std::vector<double>{0.75, 0.25, 0});
    CHECK(a.tau == 2.25);
    // k = 2: 1 is full from tau <= 2 on, (0.5, 0) on top: 3 -> 1, 2.5 -> 1, tau = anything in [0, 1.5].
    a = project<double>({3, 2.5, 0}, 2, way);
    CHECK(a.p == std::vector<double>{1, 1, 0});
    CHECK(a.tau == 0);  // the smallest
    a = project<double>({3, 2.5, 0}, 2.25, way);
    CHECK(a.p == std::vector<double>{1, 1, 0.25});
    CHECK(a.tau == -0.25);
    a = project<double>({1, 1, 1, 1}, 1, way);
    CHECK(a.p == std::vector<double>{0.25, 0.25, 0.25, 0.25});
    CHECK(a.tau == 0.75);
  }
}

TEST_CASE_TEMPLATE("sparsek: ends, ties, infinities, NaN", T, float, double) {
  const T inf = static_cast<T>(kInf);
  using V = std::vector<T>;
  for (const Way way : kWays) {
    CAPTURE(static_cast<int>(way.backend));
    CAPTURE(static_cast<int>(way.method));
    const auto check = [&](const V& z, double k, const V& p, double tau) {
      const auto a = project<T>(z, k, way);
      CAPTURE(k);
      CHECK(worst(a.p, doubles(p)) < 1e-7);
      if (std::isnan(tau)) {
        CHECK(std::isnan(a.tau));
      } else if (std::isinf(tau)) {
        CHECK(a.tau == tau);
      } else {
        CHECK(a.tau == doctest::Approx(tau).epsilon(1e-7));
      }
    };
    check({}, 0, {}, -kInf);
    check({}, 5, {}, -kInf);  // no scores: nothing to give
    check({2}, 0, {0}, 2);
    check({2}, 1, {1}, -kInf);
    check({2}, 0.25, {T(0.25)}, 1.75);
    check({1, 5, 3}, 0, {0, 0, 0}, 5);
    check({1, 5, 3}, 3, {1, 1, 1}, -kInf);
    check({1, 5, 3}, 1e300, {1, 1, 1}, -kInf);
    check({1, 5, 3}, kInf, {1, 1, 1}, -kInf);
    check({-inf, -inf}, 1, {0, 0}, -kInf);
    check({-inf, 4, -inf, 4}, 1, {0, T(0.5), 0, T(0.5)}, 3.5);
    check({-inf, 4, -inf, 4}, 2, {0, 1, 0, 1}, -kInf);
    check({-inf, 4, -inf, 4}, 3, {0, 1, 0, 1}, -kInf);
    check({inf, 4, 4, 0}, 2, {1, T(0.5), T(0.5), 0}, 3.5);
    check({inf, 4, inf, -inf}, 1, {T(0.5), 0, T(0.5), 0}, kInf);
    check({inf, 4, inf, -inf}, 2.5, {1, T(0.5), 1, 0}, 3.5);
    check({inf, inf}, 0, {0, 0}, kInf);
    const auto bad = project<T>({1, T(kNaN), 2}, 1, way);
    for (const T v : bad.p) CHECK(std::isnan(v));
    CHECK(std::isnan(bad.tau));
    for (const std::size_t n : {8U, 9U, 16U, 17U, 64U, 257U, 3000U}) {  // in vectors and after them
      for (const std::size_t place : {std::size_t{0}, n / 2, n - 1}) {
        V z(n);
        for (std::size_t i = 0; i < n; ++i) z[i] = T(i % 7);
        z[place] = T(kNaN);
        const auto one = project<T>(z, 2, way);
        CHECK(std::all_of(one.p.begin(), one.p.end(), [](T v) { return std::isnan(v); }));
        CHECK(std::isnan(one.tau));
      }
    }
  }
}

TEST_CASE("sparsek: scores far apart and far away keep their gates") {
  for (const Way way : kWays) {
    CHECK(worst(project<double>({1e30, 0, 0, 0}, 2, way).p, {1, 1.0 / 3, 1.0 / 3, 1.0 / 3}) < 1e-15);
    CHECK(worst(project<double>({1e30, 1e30, 1e30, -1e30}, 1, way).p, {1.0 / 3, 1.0 / 3, 1.0 / 3, 0}) <
          1e-15);
    CHECK(worst(project<float>({1e38F, 3e38F, -3e38F, 5}, 2.5, way).p, {1, 1, 0, 0.5}) < 1e-7);
    CHECK(worst(project<double>({1e308, -1e308, 0.25, 0}, 2, way).p, {1, 0, 0.625, 0.375}) < 1e-15);
    std::vector<double> z = drawn(8, 3000);
    const auto here = project<double>(z, 100, way);
    for (double& v : z) v += 1048576;  // exact for scores that are floats below 16
    std::vector<double> back = z;
    for (double& v : back) v -= 1048576;
    CHECK(worst(project<double>(z, 100, way).p, doubles(project<double>(back, 100, way).p)) < 1e-15);
    z.push_back(-3e300);
    z.push_back(3e300);
    CHECK(std::abs(total(project<double>(z, 700.5, way).p) - 700.5) < 1e-9);
    CHECK(here.p.size() == 3000);
  }
}

TEST_CASE("sparsek equals bisection on rows of all sizes") {
  const int rows = kSanitized ? 60 : 2000;
  for (int seed = 0; seed < rows; ++seed) {
    CounterRng rng(static_cast<std::uint64_t>(seed), 0xC0FE, 1);
    const auto n = static_cast<Offset>(std::exp(rng.uniform() * std::log(seed % 50 == 7 ? 1e5 : 3e3)));
    const auto z = drawn(static_cast<std::uint64_t>(seed), n);
    double k = rng.uniform() * std::pow(static_cast<double>(n), 0.5 + 0.55 * rng.uniform());
    if (seed % 2 == 0) k = std::floor(k);
    const auto want = bisected(z, k);
    for (const Way way : kWays) {
      if (way.backend == Backend::reference && seed % 4 != 0) continue;
      CAPTURE(seed);
      CAPTURE(n);
      CAPTURE(k);
      CAPTURE(static_cast<int>(way.method));
      const auto wide = project<double>(z, k, way);
      CHECK(worst(wide.p, want) < 1e-12);
      CHECK(worst(project<float>(floats(z), k, way).p, want) < 1e-6);
      const double sum = std::min(k, static_cast<double>(n));
      CHECK(std::abs(total(wide.p) - sum) < 1e-12 * (1 + static_cast<double>(n)));
    }
  }
}

TEST_CASE("sparsek laws") {
  CHECK(rc::check([] {
    const auto n = *rc::gen::inRange<Offset>(0, 300);
    const auto seed = *rc::gen::arbitrary<std::uint64_t>();
    const double k = *rc::gen::inRange(0, 4 * 310) / 4.0;
    const Way way = kWays[*rc::gen::inRange<std::size_t>(0, 3)];
    auto z = drawn(seed, n);
    const auto a = project<double>(z, k, way);
    for (const double p : a.p) RC_ASSERT(p >= 0 && p <= 1);
    RC_ASSERT(std::abs(total(a.p) - std::min(k, static_cast<double>(n))) < 1e-11);
    for (std::size_t i = 1; i < z.size(); ++i) {
      if (z[i] >= z[i - 1]) RC_ASSERT(a.p[i] >= a.p[i - 1]);
      if (z[i] == z[i - 1]) RC_ASSERT(a.p[i] == a.p[i - 1]);
    }
    auto shifted = z;
    for (double& v : shifted) v += 8;
    RC_ASSERT(worst(project<double>(shifted, k, way).p, a.p) < 1e-13);
    auto reversed = z;
    std::reverse(reversed.begin(), reversed.end());
    auto p = project<double>(reversed, k, way).p;
    std::reverse(p.begin(), p.end());
    RC_ASSERT(worst(p, a.p) < 1e-13);
    // Another score, wherever it lies, can only raise tau.
    z.push_back(*rc::gen::inRange(-40, 40) / 4.0);
    RC_ASSERT(project<double>(z, k, way).tau >= a.tau - 1e-13);
  }));
}

TEST_CASE_TEMPLATE("sparsek: layouts, ragged rows, in place and threads", T, float, double, bf16) {
  const Offset rows = 9;
  const Offset n = 700;
  auto values = random_values<T>(rows * n, 5, 3);
  values[3] = T(-kInf);
  std::vector<T> whole(values.size());
  std::vector<double> tau(rows), k{0, 1, 2.5, 64, 300, 699, 700, 1e9, 7};
  Context ctx;
  ctx.threads = 1;
  const SparsekOptions options{.row_k = k, .tau = tau};
  sparsek<T>(ctx, {values.data(), {rows, n}}, 0, {whole.data(), {rows, n}}, options);
  for (Offset r = 0; r < rows; ++r) {
    const std::vector<T> row(values.begin() + r * n, values.begin() + (r + 1) * n);
    const auto alone = project<T>(row, k[static_cast<std::size_t>(r)]);
    CHECK(same_bits(alone.p, std::vector<T>(whole.begin() + r * n, whole.begin() + (r + 1) * n)));
    CHECK(alone.tau == tau[static_cast<std::size_t>(r)]);
    auto reference = project<T>(row, k[static_cast<std::size_t>(r)], kWays[0]);
    CHECK(worst(alone.p, doubles(reference.p)) < (sizeof(T) == 2 ? 4e-3 : 1e-6));
  }
  for (const int threads : {2, 3}) {
    std::vector<T> again = values;
    ctx.threads = threads;
    sparsek<T>(ctx, {again.data(), {rows, n}}, 0, {again.data(), {rows, n}}, options);
    CHECK(same_bits(again, whole));
  }
  // Columns of a matrix: every row strided.
  std::vector<T> turned(values.size()), spread(values.size());
  for (Offset r = 0; r < rows; ++r) {
    for (Offset i = 0; i < n; ++i)
      turned[static_cast<std::size_t>(i * rows + r)] = values[static_cast<std::size_t>(r * n + i)];
  }
  sparsek<T>(ctx, {turned.data(), {rows, n}, {1, rows}}, 0, {spread.data(), {rows, n}, {1, rows}}, options);
  for (Offset r = 0; r < rows; ++r) {
    for (Offset i = 0; i < n; ++i)
      REQUIRE(spread[static_cast<std::size_t>(i * rows + r)] == whole[static_cast<std::size_t>(r * n + i)]);
  }
  // Ragged: the same rows with offsets, with empty ones in between.
  std::vector<Offset> offsets{0, 0};
  std::vector<double> ragged_k{3};
  for (Offset r = 0; r < rows; ++r) {
    offsets.insert(offsets.end(), {(r + 1) * n, (r + 1) * n});
    ragged_k.insert(ragged_k.end(), {k[static_cast<std::size_t>(r)], 3});
  }
  std::vector<T> ragged(values.size());
  sparsek<T>(ctx, {values.data(), {rows * n}}, 0, {ragged.data(), {rows * n}},
             {.row_k = ragged_k, .offsets = offsets});
  CHECK(same_bits(ragged, whole));
}

TEST_CASE("sparsek: long rows run on threads with the same bits") {
  const Offset n = 400000;
  for (const double k : {50.0, 1234.5, 150000.0}) {
    const auto z = floats(drawn(16, n));
    const auto one = project<float>(z, k, kWays[1], 1, 1);
    const auto three = project<float>(z, k, kWays[1], 1, 3);
    CHECK(same_bits(one.p, three.p));
    CHECK(one.tau == three.tau);
    CHECK(std::abs(total(one.p) - k) < 1e-6 * k + 1e-3);
    const auto sorted = project<float>(z, k, kWays[2]);
    CHECK(worst(one.p, doubles(sorted.p)) < 1e-6);
  }
  // All large scores side by side: the groups tell nothing.
  std::vector<float> hard(200000, -5);
  std::fill(hard.begin() + 1000, hard.begin() + 41000, 1.0F);
  CHECK(project<float>(hard, 100).p[1000] == doctest::Approx(100.0 / 40000));
  CHECK(project<float>(hard, 100).p[0] == 0);
}

TEST_CASE("sparsek: temperature divides the scores") {
  for (const Way way : kWays) {
    const auto z = drawn(0, 500);
    auto scaled = z;
    for (double& v : scaled) v /= 0.37;
    const auto a = project<double>(z, 20, way, 0.37);
    CHECK(worst(a.p, project<double>(scaled, 20, way).p) < 1e-14);
    CHECK(worst(project<float>(floats(z), 20, way, 0.37).p, a.p) < 1e-6);
  }
}

TEST_CASE("sparsek: derivatives are slopes away from kinks") {
  const Context ctx;
  const Offset n = 12;
  int tried = 0;
  for (std::uint64_t seed = 0; seed < 30; ++seed) {
    auto z = random_values<double>(2 * n, seed, 1.2);
    std::vector<double> ks{3.3, 1.7}, temperature{0.8};
    std::vector<double> p(z.size());
    const auto g = random_values<double>(2 * n, seed + 100);
    const auto direction = random_values<double>(2 * n, seed + 200);
    const auto forward = [&] {
      sparsek<double>(ctx, {z.data(), {2, n}}, 0, {p.data(), {2, n}},
                      {.temperature = temperature[0], .row_k = ks});
      return std::inner_product(p.begin(), p.end(), g.begin(), 0.0);
    };
    forward();
    const bool kink = std::any_of(p.begin(), p.end(),
                                  [](double v) { return (v > 0 && v < 1e-3) || (v < 1 && v > 1 - 1e-3); });
    if (kink) continue;
    ++tried;
    std::vector<double> dz(z.size()), dk(2), dt(2), dp(z.size());
    const SparsekOptions options{.temperature = temperature[0], .row_k = ks};
    sparsek_vjp<double>(ctx, {p.data(), {2, n}}, {g.data(), {2, n}},
                        {{dz.data(), {2, n}}, dk, dt, {z.data(), {2, n}}}, options);
    CHECK(worst_slope_error(z, dz, forward) < 1e-8);
    CHECK(worst_slope_error(ks, dk, forward) < 1e-8);
    CHECK(worst_slope_error(temperature, {dt[0] + dt[1]}, forward) < 1e-7);
    const std::vector<double> k_direction{0.7, -0.4};
    sparsek_jvp<double>(ctx, {p.data(), {2, n}}, {direction.data(), {2, n}}, {dp.data(), {2, n}}, options,
                        k_direction);
    double left = 0;
    double right = dk[0] * k_direction[0] + dk[1] * k_direction[1];
    for (std::size_t i = 0; i < z.size(); ++i) {
      left += g[i] * dp[i];
      right += dz[i] * direction[i];
    }
    CHECK(left == doctest::Approx(right).epsilon(1e-12));
  }
  CHECK(tried > 10);
}

TEST_CASE("sparsek: derivatives of rows without a slope are zero and do not look at g") {
  const Context ctx;
  const std::vector<double> p{1, 0, 1, 0};
  const std::vector<double> g{kNaN, kInf, 3, 4};
  std::vector<double> dz(4, 7), dk(1, 7);
  sparsek_vjp<double>(ctx, {p.data(), {4}}, {g.data(), {4}}, {.z = {dz.data(), {4}}, .k = dk});
  CHECK(dz == std::vector<double>(4, 0));
  CHECK(dk[0] == 0);
  sparsek_jvp<double>(ctx, {p.data(), {4}}, {g.data(), {4}}, {dz.data(), {4}}, {}, dk);
  CHECK(dz == std::vector<double>(4, 0));
}

TEST_CASE("topk takes the later of equals and nothing that is masked") {
  const Context ctx;
  const float inf = static_cast<float>(kInf);
  const std::vector<float> z{1, 5, 5, 0, 5, -inf, -inf, static_cast<float>(kNaN), 2, -inf};
  std::vector<Index> found(6, 99);
  topk<float>(ctx, {z.data(), {2, 5}}, 3, {found.data(), {2, 3}});
  CHECK(found == std::vector<Index>{1, 2, 4, 3, -1, -1});
  topk<float>(ctx, {z.data(), {2, 5}}, 2, {found.data(), {2, 2}});
  CHECK(std::vector<Index>(found.begin(), found.begin() + 2) == std::vector<Index>{2, 4});
  CHECK_THROWS_AS(topk<float>(ctx, {z.data(), {2, 5}}, -1, {found.data(), {2, 2}}), ValueError);
  CHECK_THROWS_AS(topk<float>(ctx, {z.data(), {2, 5}}, 2, {found.data(), {2, 3}}), ValueError);
}

TEST_CASE("sparsek: errors say what is wrong") {
  const Context ctx;
  std::vector<double> z(6), p(6);
  const TensorView<const double> from(z.data(), {2, 3});
  const TensorView<double> to(p.data(), {2, 3});
  CHECK_THROWS_WITH_AS(sparsek<double>(ctx, from, -1, to), "sparsek: k is -1, it must be 0 or more",
                       ValueError);
  CHECK_THROWS_WITH_AS(sparsek<double>(ctx, from, kNaN, to), "sparsek: k is nan, it must be 0 or more",
                       ValueError);
  CHECK_THROWS_WITH_AS(sparsek<double>(ctx, from, 1, {p.data(), {3, 2}}),
                       "sparsek: z has shape [2, 3], p has shape [3, 2]; they must be equal", ValueError);
  CHECK_THROWS_WITH_AS(sparsek<double>(ctx, from, 1, to, {.temperature = 0}),
                       "sparsek: temperature is 0, it must be positive and finite", ValueError);
  const std::vector<double> k{1, 2, 3};
  CHECK_THROWS_WITH_AS(sparsek<double>(ctx, from, 1, to, {.row_k = k}),
                       "sparsek: row_k has 3 entries, there are 2 rows", ValueError);
  const std::vector<double> bad{1, -2};
  CHECK_THROWS_WITH_AS(sparsek<double>(ctx, from, 1, to, {.row_k = bad}),
                       "sparsek: row_k[1] is -2, it must be 0 or more", ValueError);
  const std::vector<Offset> offsets{0, 4, 2, 6}, most{0, 5};
  const TensorView<const double> flat(z.data(), {6});
  CHECK_THROWS_WITH_AS(sparsek<double>(ctx, flat, 1, {p.data(), {6}}, {.offsets = offsets}),
                       "sparsek: offsets[2] is 2 after 4; offsets must not fall", ValueError);
  CHECK_THROWS_WITH_AS(sparsek<double>(ctx, flat, 1, {p.data(), {6}}, {.offsets = most}),
                       "sparsek: offsets run from 0 to 5, want 0 to 6, the length of z", ValueError);
  CHECK_THROWS_AS(sparsek<double>(ctx, from, 1, to, {.offsets = most}), ValueError);
  CHECK_THROWS_AS(sparsek<double>(ctx, {nullptr, {2, 3}}, 1, to), ValueError);
}
