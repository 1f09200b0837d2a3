#include "manyhop/engine/sparsek/selection.hpp"

#include <doctest/doctest.h>
#include <rapidcheck.h>

#include <algorithm>
#include <cmath>
#include <set>
#include <vector>

#include "manyhop/graphs/base/error.hpp"
#include "manyhop/ops/sparsek.hpp"
#include "tests/support/near.hpp"
#include "tests/support/sanitized.hpp"

using namespace manyhop;
using namespace manyhop::test;

namespace {

constexpr double kInf = std::numeric_limits<double>::infinity();

std::size_t at(Offset i) { return static_cast<std::size_t>(i); }

// Noise, ties, trends up and down, steps, masks, huge scores.
std::vector<double> scores_of(std::uint64_t seed, Offset n) {
  CounterRng rng(seed, 0x5E1, 0);
  std::vector<double> u(at(n));
  for (Offset i = 0; i < n; ++i) {
    const double g = 3 * (rng.uniform() + rng.uniform() - 1);
    double& v = u[at(i)];
    switch (seed % 8) {
      case 0:
        v = g;
        break;
      case 1:
        v = 0.1 * g;
        break;
      case 2:
        v = std::round(g);
        break;
      case 3:
        v = 0.05 * static_cast<double>(i) + 0.3 * g;
        break;
      case 4:
        v = -0.05 * static_cast<double>(i) + 0.3 * g;
        break;
      case 5:
        v = rng.below(4) == 0 ? -kInf : g;
        break;
      case 6:
        v = rng.below(9) == 0 ? (rng.below(3) == 0 ? kInf : 1e30) : g;
        break;
      default:
        v = 2;
        break;
    }
    v = static_cast<float>(v);
  }
  return u;
}

// The definition: the operator over (the best c of) tokens 0 .. i.
std::vector<double> by_definition(const std::vector<double>& u, Offset i, double k, Offset cap) {
  std::vector<Offset> best(at(i + 1));
  for (Offset j = 0; j <= i; ++j) best[at(j)] = j;
  std::sort(best.begin(), best.end(),
            [&](Offset a, Offset b) { return u[at(a)] > u[at(b)] || (u[at(a)] == u[at(b)] && a > b); });
  if (cap != kUncapped && static_cast<Offset>(best.size()) > cap) best.resize(at(cap));
  std::vector<double> z, p(best.size());
  for (const Offset j : best) z.push_back(u[at(j)]);
  Context ctx;
  ctx.backend = Backend::reference;
  const auto count = static_cast<Offset>(z.size());
  sparsek<double>(ctx, {z.data(), {count}}, k, {p.data(), {count}});
  std::vector<double> row(at(i + 1), 0);
  for (std::size_t s = 0; s < best.size(); ++s) row[at(best[s])] = p[s];
  return row;
}

}  // namespace

TEST_CASE("causal sparsek by hand") {
  // k = 1: 0 alone; (0, 0.5): tau -0.25; 3 pushes both out, the last at tau 0.5; 3 again shares.
  const std::vector<double> u{0, 0.5, 3, 3};
  const auto s = causal_sparsek(u, {.k = 1});
  CHECK(s.tau == std::vector<double>{-kInf, -0.25, 0.5, 2.5});
  CHECK(s.until == std::vector<Index>{2, 2, CausalSelection::kOpen, CausalSelection::kOpen});
  CHECK(s.gate(0, 0) == 1);
  CHECK(s.gate(1, 0) == 0.25);
  CHECK(s.gate(1, 1) == 0.75);
  CHECK(s.gate(2, 1) == 0);
  CHECK(s.gate(2, 2) == 1);
  CHECK(s.gate(3, 2) == 0.5);
  CHECK(s.edges == 6);
  CHECK(s.capped_rows == 0);
}

TEST_CASE("causal sparsek is the operator over every prefix") {
  CHECK(rc::check([] {
    const auto n = *rc::gen::inRange<Offset>(0, kSanitized ? 60 : 160);
    const auto seed = *rc::gen::arbitrary<std::uint64_t>();
    const auto u = scores_of(seed, n);
    const double tolerance = seed % 8 == 6 ? 1e-6 : 1e-12;  // beyond 2^30 tau keeps fewer digits
    CausalOptions options;
    options.k = *rc::gen::inRange(0, 120) / 4.0;
    const int form = *rc::gen::inRange(0, 3);
    if (form == 1) options.cap = kUncapped;
    if (form == 2) options.cap = static_cast<Offset>(std::ceil(options.k)) + *rc::gen::inRange<Offset>(1, 5);
    const auto s = causal_sparsek(u, options);
    Offset edges = 0;
    Offset capped = 0;
    double tau = -kInf;
    for (Offset i = 0; i < n; ++i) {
      RC_ASSERT(s.tau[at(i)] >= tau);
      tau = s.tau[at(i)];
      const auto want = by_definition(u, i, options.k, s.options.cap);
      const auto exact = by_definition(u, i, options.k, kUncapped);
      double far = 0;
      for (Offset j = 0; j <= i; ++j) {
        RC_ASSERT(std::abs(s.gate(i, j) - want[at(j)]) < tolerance);
        edges += s.has(i, j) ? 1 : 0;
        far = std::max(far, std::abs(want[at(j)] - exact[at(j)]));
      }
      capped += far > tolerance ? 1 : 0;
    }
    RC_ASSERT(edges == s.edges);
    RC_ASSERT(capped == s.capped_rows);
  }));
}

TEST_CASE("causal sparsek: a cap of k changes a row only where a key that it lost had a gate") {
  // One whole gate each: what falls below by 1 or more has none in the exact form either.
  const auto falling = causal_sparsek(std::vector<double>{2, 1, 0, -1, -2}, {.k = 1, .cap = 1});
  CHECK(falling.capped_rows == 0);
  CHECK(causal_sparsek(std::vector<double>{2, 1.5, 0}, {.k = 1, .cap = 1}).capped_rows == 2);
  CHECK(causal_sparsek(std::vector<double>{1}, {.k = 3.5}).options.cap == 7);
}

TEST_CASE("causal sparsek: heads together are heads one by one") {
  std::vector<float> u;
  for (const std::uint64_t seed : {1U, 2U, 3U}) {
    for (const double x : scores_of(seed, 500)) u.push_back(static_cast<float>(x));
  }
  for (const int threads : {1, 3}) {
    Context ctx;
    ctx.threads = threads;
    const auto all = causal_sparsek<float>(ctx, {u.data(), {3, 500}}, {.k = 6.5});
    REQUIRE(all.size() == 3);
    for (std::size_t h = 0; h < 3; ++h) {
      const auto one = causal_sparsek(std::span<const float>(u).subspan(500 * h, 500), {.k = 6.5});
      CHECK(all[h].tau == one.tau);
      CHECK(all[h].until == one.until);
      CHECK(all[h].edges == one.edges);
    }
  }
  const Context ctx{};
  CHECK_THROWS_AS(causal_sparsek<float>(ctx, {u.data(), {1500}}, {.k = 6}), ValueError);
  CHECK_THROWS_WITH_AS(causal_sparsek<float>(ctx, {nullptr, {3, 500}}, {.k = 6}),
                       "causal sparsek: scores: shape [3, 500] without data", ValueError);
}

TEST_CASE("causal sparsek: chunks and single tokens give the same bits, in bounded memory") {
  for (const std::uint64_t seed : {0U, 2U, 3U, 6U}) {
    const auto u = scores_of(seed, 3000);
    const CausalOptions options{.k = 12.5, .cap = 20, .temperature = 0.7};
    const auto whole = causal_sparsek(u, options);
    CausalSparsek state(options);
    CausalSelection parts;
    std::size_t done = 0;
    for (const std::size_t step : {1000U, 1U, 1U, 500U, 0U, 1498U}) {
      extend(state, std::span(u).subspan(done, step), parts);
      done += step;
      CHECK(state.selected() <= 20);
    }
    REQUIRE(done == u.size());
    CHECK(same_bits(parts.tau, whole.tau));
    CHECK(parts.until == whole.until);
    CHECK(parts.edges == whole.edges);
    double sum = 0;
    state.for_each([&](const CausalSparsek::Key& key, double gate) {
      CHECK(gate == whole.gate(2999, key.position));
      sum += gate;
    });
    CHECK(sum == doctest::Approx(12.5).epsilon(1e-12));
  }
}

TEST_CASE("causal sparsek: what enters and leaves, told step by step") {
  const auto u = scores_of(1, 400);
  CausalSparsek state({.k = 5, .cap = 8});
  std::set<Index> live, gone;
  for (const double v : u) {
    const auto step = state.append(v);
    if (step.entered) live.insert(step.row);
    for (const Index key : step.left) {
      CHECK(live.erase(key) == 1);
      CHECK(gone.insert(key).second);
    }
    std::set<Index> held;
    state.for_each([&](const CausalSparsek::Key& key, double gate) {
      held.insert(key.position);
      CHECK(gate > 0);
    });
    CHECK(held == live);
  }
}

TEST_CASE("causal sparsek: sums do not drift") {
  const Offset n = kSanitized ? 20000 : 200000;
  CounterRng rng(1, 2, 3);
  CausalSparsek state({.k = 40});
  for (Offset i = 0; i < n; ++i) state.append(4 * rng.uniform() + 1e-4 * static_cast<double>(i % 1000));
  double sum = 0;
  state.for_each([&](const CausalSparsek::Key&, double gate) { sum += gate; });
  CHECK(std::abs(sum - 40) < 1e-12);
}

TEST_CASE("selections become graphs") {
  Context ctx;
  ctx.threads = 2;
  for (const Offset n : {0, 1, 7, 2500}) {
    const auto u = scores_of(0, n);
    const auto s = causal_sparsek(u, {.k = 6});
    for (const Join join : {Join{}, Join{.window = 5, .sinks = 2}, Join{.window = 3000, .sinks = 1},
                            Join{.window = 0, .sinks = 9}}) {
      const Graph graph = to_graph(ctx, s, join);
      REQUIRE(graph.n_rows() == n);
      Offset e = 0;
      for (Offset i = 0; i < n; ++i) {
        for (Offset j = 0; j <= i; ++j) {
          const bool always = j < join.sinks || j > i - join.window;
          if (!always && !s.has(i, j)) continue;
          REQUIRE(graph.indices()[at(e)] == j);
          REQUIRE(graph.weights()[at(e)] == (always ? 1 : s.gate(i, j)));
          ++e;
        }
        REQUIRE(graph.indptr()[at(i + 1)] == e);
      }
    }
    if (n < 100) CHECK(to_graph(ctx, s).nnz() == s.edges);
  }
  ctx.memory_limit = 1000;
  CHECK_THROWS_AS(to_graph(ctx, causal_sparsek(scores_of(0, 500), {.k = 6})), LimitError);
}

TEST_CASE("select keeps the best, the window and the sinks") {
  const Context ctx;
  for (const std::uint64_t seed : {0U, 2U, 5U, 7U}) {
    const Offset n = 60;
    const auto wide = scores_of(seed, n);
    const std::vector<float> u(wide.begin(), wide.end());
    for (const bool causal : {true, false}) {
      for (const SelectOptions o : {SelectOptions{3, 1, 4, causal}, SelectOptions{0, 0, 1, causal},
                                    SelectOptions{100, 0, 0, causal}, SelectOptions{2, 0, 0, causal}}) {
        const Graph graph = select(ctx, u, o);
        CHECK_FALSE(graph.weighted());
        for (Offset i = 0; i < n; ++i) {
          const Offset last = causal ? i : n - 1;
          std::vector<Offset> best;
          for (Offset j = 0; j <= last; ++j) {
            if (u[at(j)] > -kInf) best.push_back(j);
          }
          std::sort(best.begin(), best.end(), [&](Offset a, Offset b) {
            return u[at(a)] > u[at(b)] || (u[at(a)] == u[at(b)] && a > b);
          });
          if (static_cast<Offset>(best.size()) > o.k) best.resize(at(o.k));
          std::set<Index> want(best.begin(), best.end());
          for (Offset j = 0; j <= last; ++j) {
            if (j < o.sinks || std::abs(i - j) < o.window) want.insert(static_cast<Index>(j));
          }
          const auto row = graph.row(i);
          REQUIRE(std::vector<Index>(row.begin(), row.end()) == std::vector<Index>(want.begin(), want.end()));
        }
      }
    }
  }
}

TEST_CASE("causal sparsek: errors") {
  CHECK_THROWS_WITH_AS(CausalSparsek({.k = -1}), "causal sparsek: k is -1, it must be in [0, 2147483647]",
                       ValueError);
  CHECK_THROWS_AS(CausalSparsek({.k = std::nan("")}), ValueError);
  CHECK_THROWS_AS(CausalSparsek({.k = kInf}), ValueError);
  CHECK_THROWS_WITH_AS(CausalSparsek({.k = 8, .cap = 7}),
                       "causal sparsek: cap is 7, it must be at least k = 8, 0 (twice k) or -1 (none)",
                       ValueError);
  CHECK_THROWS_AS(CausalSparsek({.temperature = 0}), ValueError);
  CausalSparsek state({.k = 2});
  state.append(1);
  CHECK_THROWS_WITH_AS(state.append(std::nan("")), "causal sparsek: the score of token 1 is NaN", ValueError);
  CHECK(state.append(5).row == 1);
  CausalSelection empty;
  CHECK_THROWS_AS(extend(state, std::vector<double>{1}, empty), ValueError);
  const Context ctx;
  CHECK(select(ctx, std::vector<double>{1 + 1e-9, 1}, {.k = 1}).row(1)[0] == 0);  // floats would be equal
  CHECK_THROWS_AS(select(ctx, std::vector<float>{1, 2}, {.k = -1}), ValueError);
  CHECK_THROWS_AS(select(ctx, std::vector<float>{1, std::nanf("")}, {}), ValueError);
  CHECK_THROWS_AS(to_graph(ctx, causal_sparsek(std::vector<double>{1}, {}), {.window = -1}), ValueError);
}
