// SparseK over all prefixes on the device against the CPU's walk: the same bits.
#include <doctest/doctest.h>

#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "manyhop/engine/sparsek/selection.hpp"
#include "manyhop/graphs/base/error.hpp"
#include "tests/ops/cuda/device.hpp"
#include "tests/support/near.hpp"

using namespace manyhop;
using namespace manyhop::test;

namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();

Context on(Backend backend, int threads = 1) {
  Context ctx;
  ctx.backend = backend;
  ctx.threads = threads;
  return ctx;
}

template <class T>
void compare(const std::vector<T>& u, Offset heads, const CausalOptions& options) {
  const Offset n = static_cast<Offset>(u.size()) / heads;
  const TensorView<const T> scores(u.data(), {heads, n});
  const auto want = causal_sparsek<T>(on(Backend::cpu, 2), scores, options);
  const auto got = causal_sparsek<T>(on(Backend::cuda), scores, options);
  INFO(heads, " heads of ", n, " scores, k ", options.k, ", cap ", options.cap);
  REQUIRE(want.size() == got.size());
  for (std::size_t h = 0; h < want.size(); ++h) {
    CHECK(got[h].score == want[h].score);
    CHECK(got[h].tau == want[h].tau);
    CHECK(got[h].until == want[h].until);
    CHECK(got[h].edges == want[h].edges);
    CHECK(got[h].capped_rows == want[h].capped_rows);
    CHECK(got[h].options.cap == want[h].options.cap);
  }
}

/// Scores of one kind: what makes sets grow, turn over, tie and stop.
std::vector<double> scores_of(int kind, Offset count) {
  std::vector<double> u = random_values<double>(count, static_cast<std::uint64_t>(kind) + 1, 1.0);
  for (Offset i = 0; i < count; ++i) {
    double& x = u[static_cast<std::size_t>(i)];
    if (kind == 1) x = std::round(2 * x);                  // ties
    if (kind == 2) x = 0.01 * static_cast<double>(i) + x;  // every key enters
    if (kind == 3) x = -0.5 * static_cast<double>(i);      // few do
    if (kind == 4) x *= 0.05;                              // a wide support
    if (kind == 5 && i % 3 == 0) x = -kInfinity;           // masked
    if (kind == 6) x = i % 7 == 0 ? kInfinity : x * 1e12;  // compared by order
    if (kind == 7) x *= 40;                                // gates of 0 and 1
  }
  return u;
}

}  // namespace

DEVICE_CASE("selection on the device: the bits of the CPU's") {
  for (int kind = 0; kind < 8; ++kind) {
    for (const Offset n : {1, 31, 32, 33, 150}) {
      for (const double k : {0.0, 0.5, 1.0, 7.25, 40.0}) {
        const auto least = static_cast<Offset>(std::ceil(k));
        for (const Offset cap : {Offset{0}, kUncapped, least + 1}) {
          compare(scores_of(kind, 3 * n), 3, {.k = k, .cap = cap, .temperature = kind == 4 ? 0.3 : 1.0});
        }
      }
    }
  }
}

DEVICE_CASE("selection on the device: floats, other strides, nothing") {
  const std::vector<float> u = random_values<float>(2 * 400, 5);
  compare(u, 2, {.k = 12.5, .cap = 20});
  const TensorView<const float> apart(u.data(), {3, 100}, {1, 3});
  const auto want = causal_sparsek<float>(on(Backend::cpu), apart, {.k = 4});
  const auto got = causal_sparsek<float>(on(Backend::cuda), apart, {.k = 4});
  for (std::size_t h = 0; h < 3; ++h) CHECK(got[h].tau == want[h].tau);
  CHECK(causal_sparsek<float>(on(Backend::cuda), {u.data(), {0, 5}}, {.k = 4}).empty());
  const auto none = causal_sparsek<float>(on(Backend::cuda), {u.data(), {2, 0}}, {.k = 4});
  REQUIRE(none.size() == 2);
  CHECK(none[1].rows() == 0);
  CHECK(none[1].edges == 0);
}

DEVICE_CASE("selection on the device: a NaN names head and token") {
  std::vector<float> u = random_values<float>(3 * 90, 7);
  u[90 + 41] = std::numeric_limits<float>::quiet_NaN();
  for (const Backend backend : {Backend::cpu, Backend::cuda}) {
    CHECK_THROWS_WITH_AS(causal_sparsek<float>(on(backend), {u.data(), {3, 90}}, {.k = 4}),
                         "causal sparsek: head 1: the score of token 41 is NaN", ValueError);
  }
  CHECK_THROWS_AS(causal_sparsek<float>(on(Backend::cuda), {u.data(), {3, 90}}, {.k = -1}), ValueError);
  if (!kEmulated) return;
  fail_allocations_after(0);
  CHECK_THROWS_AS(causal_sparsek<float>(on(Backend::cuda), {u.data(), {1, 90}}, {.k = 4}), LimitError);
  fail_allocations_after(-1);
  compare(random_values<float>(90, 8), 1, {.k = 4});
}
