// attention at its edges: lengths, masks, what is not finite, nothing to do, dropout, and what it refuses.
#include <doctest/doctest.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <limits>
#include <string>
#include <utility>
#include <vector>

#include "manyhop/engine/attention.hpp"
#include "manyhop/graphs/base/error.hpp"
#include "manyhop/graphs/patterns/pattern.hpp"
#include "tests/support/attention_cases.hpp"

using namespace manyhop;
using namespace manyhop::test;

TEST_CASE("attention: what lies past a length is never read and written zero") {
  for (const Backend backend : kBackends) {
    for (const std::uint64_t seed : {1U, 2U, 3U, 5U, 6U}) {
      AttentionCase c = some_case<float>(some_graph(70, seed), 3, 2, 1, 8, 5, seed, 5);
      c.hops = 3;
      c.teleport = 0.2;
      c.lengths = {0, 33, 70};
      const auto want = oracle(c);
      const auto poison = [&](std::vector<double>& values, Offset heads, Offset d) {
        for (Offset x = 0; x < static_cast<Offset>(values.size()); ++x) {
          const Offset i = x / d % 70;
          const Offset b = x / (d * 70 * heads);
          if (i >= c.lengths[static_cast<std::size_t>(b)]) {
            values[static_cast<std::size_t>(x)] = x % 2 == 0 ? std::nan("") : HUGE_VAL;
          }
        }
      };
      poison(c.q, 2, 8);
      poison(c.k, 1, 8);
      poison(c.v, 1, 5);
      auto g = random_values<double>(3 * 2 * 70 * 5, 4);
      auto clean = g;
      poison(g, 2, 5);
      const auto got = run_attention<float>(on(backend, 2), c, Layout::bhsd, {}, g);
      CHECK(relative_l2(got.out, want.out, 5).worst_row < 1e-5);
      for (const auto& part : {got.out, got.dq, got.dk, got.dv}) {
        CHECK(std::none_of(part.begin(), part.end(), [](float x) { return !std::isfinite(x); }));
      }
      for (Offset i = 0; i < 70 * 2; ++i) CHECK(got.lse[static_cast<std::size_t>(i)] == -HUGE_VALF);
    }
  }
}

TEST_CASE("attention: masked by bias, huge scores, no NaN") {
  const Graph graph = window_graph(40, 4);
  const Offset m = graph.nnz();
  AttentionCase c = some_case<float>(graph, 1, 1, 1, 4, 4, 1, 3);
  std::vector<float> bias(static_cast<std::size_t>(m), 0);
  for (Offset e = 0; e < m; ++e) {
    if (e % 3 == 0 || e < 30) bias[static_cast<std::size_t>(e)] = -std::numeric_limits<float>::infinity();
  }
  c.bias = [&](Offset, Offset, Offset e) { return double{bias[static_cast<std::size_t>(e)]}; };
  const auto g = random_values<double>(40 * 4, 4);
  for (const int hops : {1, 3}) {
    c.hops = hops;
    const auto want = oracle(c, g);
    for (const Backend backend : kBackends) {
      const auto got = run_attention<float>(on(backend), c, Layout::bhsd, bias, g);
      CHECK(relative_l2(got.out, want.out, 4).worst_row < 1e-5);
      CHECK(relative_l2(got.lse, want.lse, 40).total < 1e-6);
      CHECK(relative_l2(got.dq, want.dq, got.dq.size()).total < 1e-5);
      CHECK(relative_l2(got.dk, want.dk, got.dk.size()).total < 1e-5);
      CHECK(relative_l2(got.dv, want.dv, got.dv.size()).total < 1e-5);
    }
  }
  for (float& value : bias) value = value == 0 ? 1e30F : -1e30F;
  for (const Backend backend : kBackends) {
    const auto got = run_attention<float>(on(backend), c, Layout::bhsd, bias, g);
    for (const auto& part : {got.out, got.dq, got.dk, got.dv}) {
      CHECK(std::none_of(part.begin(), part.end(), [](float x) { return !std::isfinite(x); }));
    }
  }
}

TEST_CASE("attention: a NaN stays in the rows that receive it") {
  AttentionCase c = some_case<float>(window_graph(80, 3), 1, 1, 1, 8, 8, 1, 3);
  c.q[static_cast<std::size_t>(50 * 8)] = std::nan("");
  for (const Backend backend : kBackends) {
    const auto got = run_attention<float>(on(backend), c);
    for (Offset i = 0; i < 80; ++i) {
      CHECK(std::isnan(got.out[static_cast<std::size_t>(i * 8)]) == (i == 50));
    }
  }
}

TEST_CASE("attention: what is not finite in q, k or v goes along edges only, hop by hop") {
  const Graph graphs[] = {pattern("causal", 70), pattern("window(3)|global(1)", 70),
                          random_graph(70, 70, 0.08, 5), pattern("overlap(16,8)&causal", 70)};
  const auto run = [&]<class T>(T) {
    for (const Graph& graph : graphs) {
      for (const int hops : {1, 2, 4}) {
        AttentionCase c = some_case<T>(graph, 1, 1, 1, 16, 16, 7, 3);
        c.hops = hops;
        c.teleport = 0.1;
        const auto clean = run_attention<T>(on(Backend::cpu), c);
        for (int which = 0; which < 3; ++which) {
          AttentionCase dirty = c;
          auto& tensor = which == 0 ? dirty.q : which == 1 ? dirty.k : dirty.v;
          tensor[40 * 16 + 3] = hops == 2 ? HUGE_VAL : std::nan("");
          // Rows that hear of it: token 40 itself (q), whoever has it as a key (k), through v or A in each
          // hop.
          std::vector<char> weights(70), now(70), own(70);
          for (Offset i = 0; i < 70; ++i) {
            bool hears = false;
            graph.for_each_run(i, [&](Run r) { hears |= r.begin <= 40 && 40 < r.end; });
            weights[static_cast<std::size_t>(i)] = which == 0 ? i == 40 : which == 1 && hears;
          }
          if (which == 2) now[40] = own[40] = 1;
          for (int t = 0; t < hops; ++t) {
            std::vector<char> next(70);
            for (Offset i = 0; i < 70; ++i) {
              const auto at = static_cast<std::size_t>(i);
              next[at] = weights[at] != 0 || own[at] != 0;
              graph.for_each_run(i, [&](Run r) {
                for (Index j = r.begin; j < r.end; ++j) next[at] |= now[static_cast<std::size_t>(j)];
              });
            }
            now = next;
          }
          const auto got = run_attention<T>(on(Backend::cpu), dirty);
          for (std::size_t i = 0; i < 70; ++i) {
            for (std::size_t f = 0; f < 16 && now[i] == 0; ++f) {
              CHECK(std::abs(to_double(got.out[i * 16 + f]) - to_double(clean.out[i * 16 + f])) < 2e-2);
            }
          }
        }
      }
    }
  };
  run(float{});
  run(double{});
  run(bf16{});
}

TEST_CASE("attention: nothing to do") {
  for (const Backend backend : kBackends) {
    for (const Offset n : {0, 1, 5}) {
      for (const int hops : {0, 1, 3}) {
        AttentionCase c = some_case<float>(empty_graph(n, n), 1, 2, 1, 4, 4, 1, 1);
        c.hops = hops;
        const auto g = random_values<double>(2 * n * 4, 4);
        const auto want = oracle(c, g);
        const auto got = run_attention<float>(on(backend), c, Layout::bhsd, {}, g);
        CHECK(relative_l2(got.out, want.out, 4).worst_row == 0);
        if (n > 0) CHECK(relative_l2(got.dv, want.dv, 4).worst_row < 1e-6);
        CHECK(std::all_of(got.dq.begin(), got.dq.end(), [](float x) { return x == 0; }));
        CHECK(std::all_of(got.dk.begin(), got.dk.end(), [](float x) { return x == 0; }));
        c.teleport = 1;
        CHECK(relative_l2(run_attention<float>(on(backend), c).out, oracle(c).out, 4).worst_row == 0);
      }
    }
  }
}

TEST_CASE("attention: dropout keeps the share and the expectation, and the seed decides") {
  AttentionCase c = some_case<float>(full_graph(200, 200), 1, 1, 1, 4, 4, 1, 0.1);
  c.dropout_p = 0.25;
  c.seed = 1;
  const auto a = run_attention<float>(on(Backend::cpu), c);
  Offset kept = 0;
  for (const float w : a.weights) kept += w != 0 ? 1 : 0;
  CHECK(std::abs(static_cast<double>(kept) / 40000 - 0.75) < 0.02);
  CHECK(same_bits(a.out, run_attention<float>(on(Backend::cpu), c).out));
  c.seed = 2;
  CHECK_FALSE(same_bits(a.out, run_attention<float>(on(Backend::cpu), c).out));
}

TEST_CASE("attention: errors") {
  const Graph square = window_graph(6, 1);
  const Graph rectangle = random_graph(4, 6, 0.5, 1);
  std::vector<float> data(4096, 1);
  const float* p = data.data();
  float* o = data.data() + 2048;
  for (const Backend backend : kBackends) {
    const Context ctx = on(backend);
    const Plan made = plan(ctx, square, {.heads = 2, .head_dim = 3});
    const TensorView<const float> good(p, {1, 2, 6, 3});
    const TensorView<float> out(o, {1, 2, 6, 3});
    const auto message = [&](const AttentionOptions& options, TensorView<const float> q,
                             TensorView<const float> k) -> std::string {
      try {
        attention<float>(ctx, made, q, k, good, out, options);
      } catch (const ValueError& error) {
        return error.what();
      }
      return "nothing was thrown";
    };
    const auto has = [](const std::string& text, const char* part) {
      const bool found = text.find(part) != std::string::npos;
      if (!found) MESSAGE("message: ", text);
      return found;
    };
    CHECK(message({}, good, good) == "nothing was thrown");
    CHECK(message({}, {nullptr, {1, 2, 6, 3}}, good) == "q: shape [1, 2, 6, 3] without data");
    CHECK(has(message({.scale = 1e39}, good, good), "scale: 1e+39 is past 3.4028235e+38, the largest f32"));
    CHECK(has(message({.hops = kMostHops + 1}, good, good), "hops: 1048577, 0 to 1048576 are wanted"));
    const std::string shape = message({}, {p, {1, 2, 5, 3}}, good);
    CHECK((has(shape, "q") && has(shape, "5") && has(shape, "6")));
    CHECK(has(message({}, good, {p, {1, 2, 6, 4}}), "k"));
    CHECK(has(message({.hops = -1}, good, good), "-1"));
    CHECK(has(message({.teleport = std::nan("")}, good, good), "teleport"));
    CHECK(has(message({.teleport = 1.5}, good, good), "1.5"));
    CHECK(has(message({.scale = HUGE_VAL}, good, good), "scale"));
    CHECK(has(message({.dropout_p = 1}, good, good), "dropout"));
    CHECK(has(message({.hop_dropout_p = -1}, good, good), "dropout"));
    const std::vector<Offset> lengths{7}, two{1, 2};
    CHECK(has(message({.lengths = lengths}, good, good), "7"));
    CHECK(has(message({.lengths = two}, good, good), "2"));
    CHECK(has(message({.bias = {p, {3}}}, good, good), "bias"));
    CHECK(has(message({.lse = {o, {1, 2, 5}}}, good, good), "lse"));
    CHECK_THROWS_AS(plan(ctx, square, {.heads = 3, .kv_heads = 2}), ValueError);
    CHECK_THROWS_AS(plan(ctx, square, {.heads = 0}), ValueError);
    CHECK_THROWS_AS(plan(ctx, square, {.head_dim = 0}), ValueError);
    CHECK_THROWS_AS(plan(ctx, square, {.hops = -1}), ValueError);
    CHECK_THROWS_AS(plan(ctx, square, {.dtype = DType::f16}), ValueError);
    CHECK_THROWS_AS(plan(ctx, std::vector<Graph>{square, square, square}, {.heads = 2}), ValueError);
    CHECK_THROWS_AS(plan(ctx, std::vector<Graph>{square, rectangle}, {.heads = 2}), ValueError);
    CHECK_THROWS_AS(plan(ctx, std::vector<Graph>{}, {.heads = 2}), ValueError);
    const Plan wide = plan(ctx, rectangle, {.heads = 1, .head_dim = 3});
    for (const auto& [hops, teleport] : {std::pair{2, 0.0}, {0, 0.0}, {1, 0.5}}) {
      CHECK_THROWS_AS(attention<float>(ctx, wide, {p, {1, 1, 4, 3}}, {p, {1, 1, 6, 3}}, {p, {1, 1, 6, 3}},
                                       {o, {1, 1, 4, 3}}, {.hops = hops, .teleport = teleport}),
                      ValueError);
    }
    Context tiny = on(backend);
    tiny.memory_limit = 1000;
    if (backend == Backend::cpu) {
      CHECK_THROWS_AS(plan(tiny, full_graph(100000, 100000), {.heads = 12}), LimitError);
    }
    const std::atomic<bool> stop = true;
    Context stopped = on(backend);
    stopped.stop = &stop;
    CHECK_THROWS_AS(attention<float>(stopped, made, good, good, good, out), Interrupted);
  }
}
