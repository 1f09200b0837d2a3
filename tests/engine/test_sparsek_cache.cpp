#include "manyhop/engine/sparsek/cache.hpp"

#include <doctest/doctest.h>

#include <cmath>
#include <vector>

#include "manyhop/graphs/base/error.hpp"
#include "tests/support/near.hpp"
#include "tests/support/sanitized.hpp"

using namespace manyhop;
using namespace manyhop::test;

namespace {

struct Heads {
  Offset h, kv, s;
};

}  // namespace

TEST_CASE_TEMPLATE("sparsek cache decodes what the whole sequence gives", T, float, double, bf16) {
  const Offset n = 130;
  const Offset d = 8;
  const Offset dv = 5;
  for (const Heads x : {Heads{1, 1, 1}, Heads{4, 2, 1}, Heads{4, 2, 2}, Heads{4, 2, 4}, Heads{4, 4, 2}}) {
    const auto q = random_values<T>(n * x.h * d, 1, 2);
    const auto k = random_values<T>(n * x.kv * d, 2, 2);
    const auto v = random_values<T>(n * x.kv * dv, 3);
    auto u = random_values<EdgeValue<T>>(n * x.s, 4, 2);
    u[7] = -std::numeric_limits<EdgeValue<T>>::infinity();
    for (const auto& [join, gate, cap] :
         {std::tuple{Join{.window = 6, .sinks = 2}, Gate::values, Offset{0}},
          std::tuple{Join{.window = 1, .sinks = 0}, Gate::scores, Offset{6}},
          std::tuple{Join{}, Gate::values, Offset{9}}, std::tuple{Join{500, 3}, Gate::scores, Offset{0}}}) {
      SparsekCacheOptions options;
      options.heads = x.h;
      options.kv_heads = x.kv;
      options.score_heads = x.s;
      options.head_dim = d;
      options.value_dim = dv;
      options.select.k = 5.5;
      options.select.cap = cap;
      options.join = join;
      options.gate = gate;
      const SparsekAttentionOptions whole{.select = options.select, .join = join, .gate = gate};
      std::vector<T> want(static_cast<std::size_t>(n * x.h * dv)), got(want.size());
      const Context ctx;
      // Tokens first: [n, h, d] seen as [h, n, d].
      const auto turned = [&](const auto& values, Offset heads, Offset width) {
        return TensorView<const T>(values.data(), {1, heads, n, width}, {0, width, heads * width, 1});
      };
      sparsek_attention<T>(ctx, turned(q, x.h, d), turned(k, x.kv, d), turned(v, x.kv, dv),
                           {u.data(), {1, x.s, n}, {0, 1, x.s}},
                           {want.data(), {1, x.h, n, dv}, {0, dv, x.h * dv, 1}}, whole);
      SparsekCache<T> cache(options);
      const std::size_t bytes = cache.bytes();
      for (Offset i = 0; i < n; ++i) {
        cache.append({k.data() + i * x.kv * d, {x.kv, d}}, {v.data() + i * x.kv * dv, {x.kv, dv}},
                     {u.data() + i * x.s, {x.s}});
        cache.attend({q.data() + i * x.h * d, {x.h, d}}, {got.data() + i * x.h * dv, {x.h, dv}});
        if (i == 60) {
          const SparsekCache<T> copy = cache;  // does not disturb
          CHECK(copy.tokens() == 61);
        }
      }
      const double tolerance = sizeof(T) == 8 ? 1e-13 : sizeof(T) == 4 ? 2e-6 : 1e-2;
      CHECK(relative_l2(got, doubles(want), static_cast<std::size_t>(dv)).total < tolerance);
      CHECK(cache.bytes() == bytes);
      CHECK(cache.tokens() == n);
    }
  }
}

TEST_CASE("sparsek cache: gates are those of the whole sequence, bit for bit, for many tokens") {
  const Offset n = kSanitized ? 5000 : 40000;
  const auto u = random_values<float>(n, 9, 3);
  const SparsekCacheOptions options{.head_dim = 1, .select = {.k = 16}, .join = {.window = 4}};
  SparsekCache<float> cache(options);
  const auto whole = causal_sparsek(std::span<const float>(u), options.select);
  const float one = 1;
  for (Offset i = 0; i < n; ++i) {
    cache.append({&one, {1, 1}}, {&one, {1, 1}}, {u.data() + i, {1}});
    REQUIRE(cache.selection(0).tau() == whole.tau[static_cast<std::size_t>(i)]);
    if (i % 1000 != 999) continue;
    cache.selection(0).for_each(
        [&](const CausalSparsek::Key& key, double gate) { REQUIRE(gate == whole.gate(i, key.position)); });
  }
}

TEST_CASE("sparsek cache: a state goes on with the same bits") {
  const SparsekCacheOptions options{.heads = 2,
                                    .score_heads = 1,
                                    .head_dim = 3,
                                    .select = {.k = 3.5, .cap = 5},
                                    .join = {.window = 2, .sinks = 1}};
  const Offset n = 90;
  const auto x = random_values<float>(n * 6, 5, 2);
  const auto u = random_values<float>(n, 6, 2);
  SparsekCache<float> cache(options);
  std::vector<float> want(6), got(6);
  const auto row = [&](Offset i) { return TensorView<const float>(x.data() + i * 6, {2, 3}); };
  for (Offset i = 0; i < n; ++i) {
    SparsekCache<float> other(options, cache.state());
    CHECK(other.bytes() == cache.bytes());
    for (const auto& [one, out] : {std::pair{&cache, &want}, std::pair{&other, &got}}) {
      one->append(row(i), row(i), {u.data() + i, {1}});
      one->attend(row(i), {out->data(), {2, 3}});
    }
    REQUIRE(got == want);
  }
  const auto refused = [&](auto&& change) {
    auto state = cache.state();
    change(state);
    CHECK_THROWS_AS(SparsekCache<float>(options, state), ValueError);
  };
  refused([](auto& s) { s.fixed.pop_back(); });
  refused([](auto& s) { s.kept.push_back(0); });
  refused([](auto& s) { s.positions.pop_back(); });
  refused([](auto& s) { s.selections.clear(); });
  refused([](auto& s) { ++s.tokens; });
  refused([](auto& s) { s.positions.assign(5, -1); });
  refused([](auto& s) { s.positions.assign(5, -2); });
  refused([](auto& s) { s.selections[0].tau = std::nan(""); });
  refused([](auto& s) { s.selections[0].between.push_back({0, 95}); });
  refused([](auto& s) { s.selections[0].full.push_back(s.selections[0].between.at(0)); });
  CHECK_THROWS_AS(SparsekCache<double>(options, SparsekCache<double>::State{}), ValueError);
}

TEST_CASE("sparsek cache: errors") {
  CHECK_THROWS_AS(SparsekCache<float>({.heads = 4, .kv_heads = 3}), ValueError);
  CHECK_THROWS_AS(SparsekCache<float>({.heads = 6, .kv_heads = 3, .score_heads = 2}), ValueError);
  CHECK_THROWS_AS(SparsekCache<float>({.select = {.k = 4, .cap = kUncapped}}), ValueError);
  CHECK_THROWS_AS(SparsekCache<float>({.head_dim = 0}), ValueError);
  CHECK_THROWS_AS(SparsekCache<float>({.join = {.window = -1}}), ValueError);
  CHECK_THROWS_AS(SparsekCache<float>({.join = {.window = Offset{1} << 60}}), LimitError);
  SparsekCache<float> cache({.heads = 2, .head_dim = 3, .select = {.k = 4}, .join = {.window = 2}});
  std::vector<float> x(6, 1);
  std::vector<float> u{0, std::nanf("")};
  CHECK_THROWS_AS(cache.attend({x.data(), {2, 3}}, {x.data(), {2, 3}}), ValueError);
  CHECK_THROWS_WITH_AS(cache.append({x.data(), {2, 3}}, {x.data(), {2, 3}}, {u.data(), {2}}),
                       "sparsek cache: score 1 of token 0 is NaN", ValueError);
  CHECK(cache.tokens() == 0);
  CHECK_THROWS_WITH_AS(cache.append({x.data(), {3, 2}}, {x.data(), {2, 3}}, {u.data(), {2}}),
                       "sparsek cache: k has shape [3, 2], [2, 3] is wanted", ValueError);
}
