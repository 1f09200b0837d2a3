#include "manyhop/engine/sparsek/attention.hpp"

#include <doctest/doctest.h>

#include <cmath>
#include <vector>

#include "manyhop/engine/attention.hpp"
#include "manyhop/graphs/base/error.hpp"
#include "tests/support/finite_difference.hpp"
#include "tests/support/near.hpp"
#include "tests/support/sanitized.hpp"

using namespace manyhop;
using namespace manyhop::test;

namespace {

constexpr double kInf = std::numeric_limits<double>::infinity();

struct Shape {
  Offset b = 1, h = 2, kv = 2, s = 2, n = 50, d = 16, dv = 16;
};

template <class T>
struct Data {
  Shape shape;
  std::vector<T> q, k, v, g;
  std::vector<EdgeValue<T>> u;
  explicit Data(const Shape& x) : shape(x) {
    q = random_values<T>(x.b * x.h * x.n * x.d, 1, 2);
    k = random_values<T>(x.b * x.kv * x.n * x.d, 2, 2);
    v = random_values<T>(x.b * x.kv * x.n * x.dv, 3);
    g = random_values<T>(x.b * x.h * x.n * x.dv, 4);
    u = random_values<EdgeValue<T>>(x.b * x.s * x.n, 5, 1.5);
  }
  TensorView<const T> view(const std::vector<T>& x, Offset heads, Offset width) const {
    return {x.data(), {shape.b, heads, shape.n, width}};
  }
  TensorView<const EdgeValue<T>> scores() const { return {u.data(), {shape.b, shape.s, shape.n}}; }
};

template <class T>
struct Result {
  std::vector<T> out;
  std::vector<float> lse;
  std::vector<T> dq, dk, dv;
  std::vector<EdgeValue<T>> du;
  SparsekAttentionInfo info;
};

template <class T>
Result<T> run(const Data<T>& x, SparsekAttentionOptions options, Backend backend, int threads = 2,
              bool backward = true) {
  Context ctx;
  ctx.backend = backend;
  ctx.threads = threads;
  const Shape& s = x.shape;
  Result<T> r;
  r.out.resize(static_cast<std::size_t>(s.b * s.h * s.n * s.dv));
  r.lse.resize(static_cast<std::size_t>(s.b * s.h * s.n));
  options.lse = {r.lse.data(), {s.b, s.h, s.n}};
  r.info = sparsek_attention<T>(ctx, x.view(x.q, s.h, s.d), x.view(x.k, s.kv, s.d), x.view(x.v, s.kv, s.dv),
                                x.scores(), {r.out.data(), {s.b, s.h, s.n, s.dv}}, options);
  if (!backward) return r;
  r.dq.resize(x.q.size());
  r.dk.resize(x.k.size());
  r.dv.resize(x.v.size());
  r.du.resize(x.u.size());
  sparsek_attention_backward<T>(ctx, x.view(x.q, s.h, s.d), x.view(x.k, s.kv, s.d), x.view(x.v, s.kv, s.dv),
                                x.scores(), x.view(x.g, s.h, s.dv),
                                {{r.dq.data(), {s.b, s.h, s.n, s.d}},
                                 {r.dk.data(), {s.b, s.kv, s.n, s.d}},
                                 {r.dv.data(), {s.b, s.kv, s.n, s.dv}},
                                 {r.du.data(), {s.b, s.s, s.n}}},
                                options);
  return r;
}

const std::vector<SparsekAttentionOptions> kOptions{
    {.select = {.k = 6}, .join = {.window = 4, .sinks = 1}},
    {.select = {.k = 6}, .join = {.window = 4, .sinks = 1}, .gate = Gate::scores},
    {.select = {.k = 5.5, .cap = kUncapped, .temperature = 0.6}},
    {.select = {.k = 3, .cap = 4}, .join = {.window = 1, .sinks = 40}, .gate = Gate::scores},
    {.select = {.k = 12}, .join = {.window = 100, .sinks = 0}},
    {.select = {.k = 0}, .join = {.window = 7, .sinks = 2}},
    {.select = {.k = 6}, .join = {.window = 4, .sinks = 1}, .hops = 3, .teleport = 0.1},
    {.select = {.k = 6}, .join = {.window = 0, .sinks = 1}, .gate = Gate::scores, .hops = 2, .teleport = 0.2},
    {.select = {.k = 6}, .hops = 4},
    {.select = {.k = 6}, .join = {.window = 4, .sinks = 0}, .hops = 0, .teleport = 0.3},
};

}  // namespace

TEST_CASE("sparsek attention by hand") {
  // Two tokens, equal scores of q.k, k = 1: row 1 keeps both with gates 0.25 and 0.75.
  const std::vector<double> q(2, 0), v{8, 16}, u{0, 0.5};
  for (const Backend backend : {Backend::reference, Backend::cpu}) {
    Context ctx;
    ctx.backend = backend;
    for (const auto& [gate, want] : {std::pair{Gate::values, 0.5 * (0.25 * 8 + 0.75 * 16)},
                                     std::pair{Gate::scores, 0.25 * 8 + 0.75 * 16}}) {
      std::vector<double> out(2);
      SparsekAttentionOptions options;
      options.select.k = 1;
      options.gate = gate;
      sparsek_attention<double>(ctx, {q.data(), {1, 2, 1}}, {q.data(), {1, 2, 1}}, {v.data(), {1, 2, 1}},
                                {u.data(), {1, 2}}, {out.data(), {1, 2, 1}}, options);
      CHECK(out[0] == doctest::Approx(8).epsilon(1e-14));
      CHECK(out[1] == doctest::Approx(want).epsilon(1e-14));
    }
  }
}

TEST_CASE_TEMPLATE("sparsek attention: panels against plain loops, any thread count", T, float, double,
                   bf16) {
  const double tolerance = sizeof(T) == 8 ? 1e-12 : sizeof(T) == 4 ? 3e-6 : 1e-2;
  for (const Shape shape : {Shape{}, Shape{.n = 0}, Shape{.n = 1}, Shape{.n = 33},
                            Shape{.b = 2, .h = 4, .kv = 2, .s = 1, .n = 300, .d = 20, .dv = 7},
                            Shape{.h = 4, .kv = 1, .s = 4, .n = 65, .d = 5, .dv = 40}}) {
    const Data<T> x(shape);
    for (std::size_t o = 0; o < kOptions.size(); ++o) {
      if (kSanitized && shape.n > 100 && o % 3 != 0) continue;
      CAPTURE(o);
      CAPTURE(shape.n);
      const auto want = run(x, kOptions[o], Backend::reference);
      const auto got = run(x, kOptions[o], Backend::cpu);
      CHECK(relative_l2(got.out, doubles(want.out), static_cast<std::size_t>(shape.dv)).total < tolerance);
      CHECK(relative_l2(got.lse, doubles(want.lse), 1).worst_row < 1e-4);
      CHECK(relative_l2(got.dq, doubles(want.dq), 1000000).total < 10 * tolerance);
      CHECK(relative_l2(got.dk, doubles(want.dk), 1000000).total < 10 * tolerance);
      CHECK(relative_l2(got.dv, doubles(want.dv), 1000000).total < 10 * tolerance);
      CHECK(relative_l2(got.du, doubles(want.du), 1000000).total < 10 * tolerance);
      CHECK(got.info.selected == want.info.selected);
      const auto again = run(x, kOptions[o], Backend::cpu, 1);
      CHECK(same_bits(again.out, got.out));
      CHECK(same_bits(again.dq, got.dq));
      CHECK(same_bits(again.dk, got.dk));
      CHECK(same_bits(again.dv, got.dv));
      CHECK(same_bits(again.du, got.du));
    }
  }
}

TEST_CASE("sparsek attention: stripes of the backward pass add up") {
  const Data<float> x(Shape{.h = 1, .kv = 1, .s = 1, .n = kSanitized ? 1300 : 2500, .d = 8, .dv = 8});
  const auto& options = kOptions[6];
  const auto want = run(x, options, Backend::reference);
  const auto got = run(x, options, Backend::cpu);
  CHECK(relative_l2(got.out, doubles(want.out), 8).total < 3e-6);
  CHECK(relative_l2(got.dk, doubles(want.dk), 1000000).total < 1e-5);
  CHECK(relative_l2(got.dv, doubles(want.dv), 1000000).total < 1e-5);
  CHECK(relative_l2(got.du, doubles(want.du), 1000000).total < 1e-5);
  CHECK(same_bits(run(x, options, Backend::cpu, 3).dk, got.dk));
}

TEST_CASE("sparsek attention: gradients are slopes") {
  for (std::size_t o = 0; o < kOptions.size(); ++o) {
    CAPTURE(o);
    Data<double> x(Shape{.h = 2, .kv = 1, .s = 1, .n = 24, .d = 4, .dv = 3});
    const auto gradient = run(x, kOptions[o], Backend::cpu);
    const auto loss = [&] {
      const auto r = run(x, kOptions[o], Backend::cpu, 1, false);
      double sum = 0;
      for (std::size_t i = 0; i < r.out.size(); ++i) sum += r.out[i] * x.g[i];
      return sum;
    };
    CHECK(worst_slope_error(x.q, gradient.dq, loss, 40) < 1e-7);
    CHECK(worst_slope_error(x.k, gradient.dk, loss, 40) < 1e-7);
    CHECK(worst_slope_error(x.v, gradient.dv, loss, 40) < 1e-7);
    CHECK(worst_slope_error(x.u, gradient.du, loss, 24) < 1e-7);
  }
}

TEST_CASE("sparsek attention with gates on scores is attention over its graph with log gates as bias") {
  const Data<float> x(Shape{.h = 2, .kv = 1, .s = 1, .n = 200, .d = 16, .dv = 16});
  const SparsekAttentionOptions options{.select = {.k = 10},
                                        .join = {.window = 8, .sinks = 2},
                                        .gate = Gate::scores,
                                        .hops = 3,
                                        .teleport = 0.1};
  const auto got = run(x, options, Backend::cpu, 2, false);
  const Context ctx;
  const Graph graph =
      to_graph(ctx, causal_sparsek(std::span<const float>(x.u), options.select), options.join);
  std::vector<float> bias;
  for (const double gate : graph.weights()) bias.push_back(static_cast<float>(std::log(gate)));
  const Plan chosen =
      plan(ctx, graph.without_weights(), {.heads = 2, .kv_heads = 1, .head_dim = 16, .hops = 3});
  std::vector<float> want(got.out.size());
  attention<float>(ctx, chosen, x.view(x.q, 2, 16), x.view(x.k, 1, 16), x.view(x.v, 1, 16),
                   {want.data(), {1, 2, 200, 16}},
                   {.hops = 3, .teleport = 0.1, .bias = {bias.data(), {graph.nnz()}}});
  CHECK(relative_l2(got.out, doubles(want), 16).total < 3e-6);
}

TEST_CASE("sparsek attention: NaN stays where an edge brings it, masked scores are not kept") {
  Data<double> x(Shape{.h = 1, .kv = 1, .s = 1, .n = 80, .d = 4, .dv = 4});
  for (std::size_t j = 0; j < 80; j += 3) x.u[j] = -kInf;
  const SparsekAttentionOptions options{.select = {.k = 5}, .join = {.window = 2}};
  const auto selection = causal_sparsek(std::span<const double>(x.u), options.select);
  x.v[30 * 4] = kInf;  // token 30 is masked: rows 30 and 31 alone have it
  const auto r = run(x, options, Backend::cpu, 2, false);
  for (std::size_t i = 0; i < 80; ++i) {
    CHECK(std::isfinite(r.out[4 * i]) == (i != 30 && i != 31));
    CHECK_FALSE(selection.has(static_cast<Offset>(i), 30));
  }
  // Nothing to attend to: zero, and with a teleport a V.
  const Data<double> y(Shape{.h = 1, .kv = 1, .s = 1, .n = 9, .d = 4, .dv = 4});
  const auto none = run(y, {.select = {.k = 0}}, Backend::cpu);
  CHECK(none.out == std::vector<double>(36, 0));
  CHECK(none.lse == std::vector<float>(9, -std::numeric_limits<float>::infinity()));
  CHECK(none.dq == std::vector<double>(36, 0));
  const auto kept = run(y, {.select = {.k = 0}, .hops = 2, .teleport = 0.25}, Backend::cpu);
  for (std::size_t e = 0; e < 36; ++e) CHECK(kept.out[e] == doctest::Approx(0.25 * y.v[e]).epsilon(1e-15));
}

TEST_CASE("sparsek attention: errors") {
  Data<float> x(Shape{});
  const Context ctx;
  std::vector<float> out(2 * 50 * 16);
  const auto call = [&](const SparsekAttentionOptions& options, Offset kv = 2, Offset s = 2, Offset n = 50) {
    sparsek_attention<float>(ctx, x.view(x.q, 2, 16), x.view(x.k, kv, 16), x.view(x.v, 2, 16),
                             {x.u.data(), {1, s, n}}, {out.data(), {1, 2, 50, 16}}, options);
  };
  CHECK_NOTHROW(call({}));
  CHECK_THROWS_AS(call({.select = {.k = -2}}), ValueError);
  CHECK_THROWS_AS(call({.select = {.k = 4, .cap = 3}}), ValueError);
  CHECK_THROWS_AS(call({.join = {.window = -1}}), ValueError);
  CHECK_THROWS_AS(call({.hops = -1}), ValueError);
  CHECK_THROWS_AS(call({.teleport = 2}), ValueError);
  CHECK_THROWS_AS(call({}, 1), ValueError);  // v has 2 heads
  CHECK_THROWS_WITH_AS(call({}, 2, 2, 49),
                       "sparsek attention: scores has shape [1, 2, 49], [1, 2, 50] is wanted", ValueError);
  CHECK_THROWS_WITH_AS(sparsek_attention<float>(ctx, {nullptr, {1, 2, 50, 16}}, x.view(x.k, 2, 16),
                                                x.view(x.v, 2, 16), x.scores(), {out.data(), {1, 2, 50, 16}}),
                       "q: shape [1, 2, 50, 16] without data", ValueError);
  x.u[60] = std::nanf("");
  CHECK_THROWS_WITH_AS(call({}), "causal sparsek: the score of token 10 is NaN", ValueError);
  Context small;
  small.memory_limit = 1000;
  CHECK_THROWS_AS(sparsek_attention<float>(small, x.view(x.q, 2, 16), x.view(x.k, 2, 16), x.view(x.v, 2, 16),
                                           x.scores(), {out.data(), {1, 2, 50, 16}}),
                  LimitError);
}

TEST_CASE("sparsek attention where no key ever leaves") {
  Data<float> x(
      Shape{.h = 1, .kv = 1, .s = 1, .n = 2900, .d = 2, .dv = 2});  // starts of chunks are looked for
  std::fill(x.u.begin(), x.u.end(), 1.0F);
  const SparsekAttentionOptions options{.select = {.k = 6, .cap = kUncapped}};
  const auto want = run(x, options, Backend::reference, 1, false);
  const auto got = run(x, options, Backend::cpu, 2, false);
  CHECK(got.info.selected == 2900 * 2901 / 2);
  CHECK(relative_l2(got.out, doubles(want.out), 2).total < 3e-6);
}
