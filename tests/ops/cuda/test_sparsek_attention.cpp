// SparseK attention and its gradients on the device against plain loops.
#include <doctest/doctest.h>

#include <cmath>
#include <limits>
#include <memory>
#include <type_traits>
#include <vector>

#include "manyhop/engine/sparsek/attention.hpp"
#include "manyhop/graphs/base/error.hpp"
#include "manyhop/ops/cuda/sparsek_attention.hpp"
#include "tests/ops/cuda/device.hpp"
#include "tests/support/near.hpp"

using namespace manyhop;
using namespace manyhop::test;

namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();

struct Shape {
  Offset batch = 1, heads = 2, kv_heads = 2, score_heads = 1, n = 70, d = 8, d_value = 8;
};

template <class T>
struct Answer {
  std::vector<T> out, dq, dk, dv;
  std::vector<EdgeValue<T>> dscores;
  std::vector<float> lse;
  SparsekAttentionInfo info;
};

template <class T>
struct Given {
  using E = EdgeValue<T>;
  Shape s;
  std::vector<T> q, k, v, g;
  std::vector<E> scores;

  explicit Given(const Shape& shape, std::uint64_t seed, double spread = 1)
      : s(shape),
        q(random_values<T>(s.batch * s.heads * s.n * s.d, seed, 2)),
        k(random_values<T>(s.batch * s.kv_heads * s.n * s.d, seed + 1, 2)),
        v(random_values<T>(s.batch * s.kv_heads * s.n * s.d_value, seed + 2)),
        g(random_values<T>(s.batch * s.heads * s.n * s.d_value, seed + 3)),
        scores(random_values<E>(s.batch * s.score_heads * s.n, seed + 4, spread)) {}

  Answer<T> run(const Context& ctx, SparsekAttentionOptions options) const {
    Answer<T> a;
    a.out.resize(g.size());
    a.lse.resize(static_cast<std::size_t>(s.batch * s.heads * s.n));
    a.dq.resize(q.size());
    a.dk.resize(k.size());
    a.dv.resize(v.size());
    a.dscores.resize(scores.size());
    const TensorView<const T> q_view(q.data(), {s.batch, s.heads, s.n, s.d});
    const TensorView<const T> k_view(k.data(), {s.batch, s.kv_heads, s.n, s.d});
    const TensorView<const T> v_view(v.data(), {s.batch, s.kv_heads, s.n, s.d_value});
    const TensorView<const E> s_view(scores.data(), {s.batch, s.score_heads, s.n});
    const TensorView<T> o_view(a.out.data(), {s.batch, s.heads, s.n, s.d_value});
    options.lse = {a.lse.data(), {s.batch, s.heads, s.n}};
    a.info = sparsek_attention<T>(ctx, q_view, k_view, v_view, s_view, o_view, options);
    options.lse = {};
    const SparsekAttentionGradients<T> to{{a.dq.data(), {s.batch, s.heads, s.n, s.d}},
                                          {a.dk.data(), {s.batch, s.kv_heads, s.n, s.d}},
                                          {a.dv.data(), {s.batch, s.kv_heads, s.n, s.d_value}},
                                          {a.dscores.data(), {s.batch, s.score_heads, s.n}}};
    sparsek_attention_backward<T>(ctx, q_view, k_view, v_view, s_view,
                                  {g.data(), {s.batch, s.heads, s.n, s.d_value}}, to, options);
    return a;
  }
};

Context on(Backend backend) {
  Context ctx;
  ctx.backend = backend;
  ctx.threads = 1;
  return ctx;
}

template <class T>
double tolerance() {
  return sizeof(T) == 8 ? 1e-12 : sizeof(T) == 4 ? 1e-5 : 1e-2;
}

template <class T>
void compare(const Shape& shape, const SparsekAttentionOptions& options, std::uint64_t seed,
             double spread = 1) {
  const Given<T> given(shape, seed, spread);
  const Answer<T> want = given.run(on(Backend::reference), options);
  const Answer<T> got = given.run(on(Backend::cuda), options);
  INFO("n ", shape.n, ", d ", shape.d, " and ", shape.d_value, ", k ", options.select.k, ", cap ",
       options.select.cap, ", window ", options.join.window, ", sinks ", options.join.sinks, ", hops ",
       options.hops, ", on ", options.gate == Gate::scores ? "scores" : "values", ", bytes ", sizeof(T));
  CHECK(got.info.selected == want.info.selected);
  CHECK(got.info.capped_rows == want.info.capped_rows);
  const auto width = [](Offset d) { return static_cast<std::size_t>(d); };
  const double most = tolerance<T>();
  const Errors out = relative_l2(got.out, doubles(want.out), width(shape.d_value));
  CHECK(out.total <= most);
  if (shape.d_value > 1) CHECK(out.worst_row <= 3 * most);  // one value may be next to nothing
  CHECK(relative_l2(got.lse, doubles(want.lse), got.lse.size()).total <= std::max(most, 1e-6));
  CHECK(relative_l2(got.dq, doubles(want.dq), got.dq.size()).total <= most);
  CHECK(relative_l2(got.dk, doubles(want.dk), got.dk.size()).total <= most);
  CHECK(relative_l2(got.dv, doubles(want.dv), got.dv.size()).total <= most);
  CHECK(relative_l2(got.dscores, doubles(want.dscores), got.dscores.size()).total <= 2 * most);
  const Answer<T> again = given.run(on(Backend::cuda), options);
  CHECK(same_bits(again.out, got.out));
  CHECK(same_bits(again.dq, got.dq));
  CHECK(same_bits(again.dk, got.dk));
  CHECK(same_bits(again.dv, got.dv));
  CHECK(same_bits(again.dscores, got.dscores));
}

template <class T>
void compare_all() {
  std::uint64_t seed = 1;
  for (const Gate gate : {Gate::values, Gate::scores}) {
    for (const int hops : {1, 3}) {
      SparsekAttentionOptions o;
      o.gate = gate;
      o.hops = hops;
      o.teleport = hops > 1 ? 0.25 : 0;
      o.select = {.k = 6.5, .cap = 12};
      o.join = {.window = 5, .sinks = 2};
      compare<T>({.batch = 2, .heads = 4, .kv_heads = 2, .score_heads = 1, .n = 70, .d = 12, .d_value = 40},
                 o, seed++);
      o.join = {};
      o.select = {.k = 3, .cap = kUncapped, .temperature = 0.5};
      compare<T>({.heads = 2, .kv_heads = 1, .score_heads = 2, .n = 150, .d = 8, .d_value = 8}, o, seed++, 3);
    }
  }
}

}  // namespace

DEVICE_CASE("sparsek attention on the device: forward and gradients of doubles") { compare_all<double>(); }
DEVICE_CASE("sparsek attention on the device: forward and gradients of floats") { compare_all<float>(); }
DEVICE_CASE("sparsek attention on the device: forward and gradients of bf16") { compare_all<bf16>(); }

DEVICE_CASE("sparsek attention on the device: widths, windows that cover all, whole panels") {
  SparsekAttentionOptions o;
  o.select = {.k = 4, .cap = 8};
  for (const Offset d : {1, 64, 100, 200}) {
    o.join = {.window = d == 64 ? 1000 : 3, .sinks = d == 100 ? 1000 : 0};
    const Shape shape{.n = d == 64 ? 128 : 33, .d = d, .d_value = d == 200 ? 3 : d};
    compare<float>(shape, o, static_cast<std::uint64_t>(d));
    compare<bf16>(shape, o, static_cast<std::uint64_t>(d));
  }
}

DEVICE_CASE("sparsek attention on the device: rows without keys, no hops, teleport alone, masked scores") {
  for (const int hops : {0, 1, 2}) {
    for (const double teleport : {0.0, 1.0}) {
      SparsekAttentionOptions o;
      o.hops = hops;
      o.teleport = teleport;
      o.select = {.k = 0, .cap = 4};
      compare<float>({.n = 40}, o, 3);
      compare<bf16>({.n = 40}, o, 3);
    }
  }
  Given<double> given({.n = 50}, 9);
  for (std::size_t i = 0; i < given.scores.size(); i += 3) given.scores[i] = -kInfinity;
  given.scores[0] = -kInfinity;  // the first row has no key
  SparsekAttentionOptions o;
  o.select = {.k = 5, .cap = 8};
  const auto want = given.run(on(Backend::reference), o);
  const auto got = given.run(on(Backend::cuda), o);
  CHECK(relative_l2(got.out, want.out, 8).worst_row <= 1e-12);
  CHECK(relative_l2(got.lse, doubles(want.lse), 1).worst_row <= 1e-6);
  CHECK(got.out[0] == 0);
  CHECK(got.lse[0] == -static_cast<float>(kInfinity));
  CHECK(relative_l2(got.dscores, want.dscores, got.dscores.size()).total <= 1e-12);
}

DEVICE_CASE("sparsek attention on the device: a NaN score, limits, too little memory") {
  Given<float> given({.n = 40}, 4);
  given.scores[17] = std::numeric_limits<float>::quiet_NaN();
  SparsekAttentionOptions o;
  o.select = {.k = 5, .cap = 8};
  CHECK_THROWS_WITH_AS(given.run(on(Backend::cuda), o), "causal sparsek: the score of token 17 is NaN",
                       ValueError);
  const Given<float> fine({.n = 40}, 4);
  Context small = on(Backend::cuda);
  small.memory_limit = 1000;
  CHECK_THROWS_AS(fine.run(small, o), LimitError);
  small.memory_limit = 0;
  CHECK_THROWS_AS((Given<float>({.n = 4, .d = 300}, 1).run(on(Backend::cuda), o)), ValueError);
  CHECK(Given<float>({.n = 0}, 1).run(on(Backend::cuda), o).out.empty());
  if (kEmulated) {
    const std::size_t before = device_bytes();
    for (int after = 0; after < 4; ++after) {
      fail_allocations_after(after);
      CHECK_THROWS_AS(fine.run(on(Backend::cuda), o), LimitError);
      fail_allocations_after(-1);
      CHECK(device_bytes() == before);
    }
  }
  CHECK(fine.run(on(Backend::cuda), o).info.selected > 0);
}

DEVICE_CASE("sparsek attention on the device: what goes back to keys, some panels at a time") {
  // Three panels of 128 rows; keys that many of them use.
  Given<float> given({.n = 300}, 5);
  SparsekAttentionOptions o;
  o.select = {.k = 10, .cap = 20};
  o.join = {.window = 9, .sinks = 3};
  const auto want = given.run(on(Backend::reference), o);
  ops::cuda::SparsekCall<float> call;
  call.heads = 2;
  call.kv_heads = 2;
  call.n = 300;
  call.d = 8;
  call.d_value = 8;
  call.q = {given.q.data(), {1, 2, 300, 8}};
  call.k = {given.k.data(), {1, 2, 300, 8}};
  call.v = {given.v.data(), {1, 2, 300, 8}};
  call.scores = {given.scores.data(), {1, 1, 300}};
  call.keys = 10;
  call.cap = 20;
  call.window = 9;
  call.sinks = 3;
  call.scale = 1 / std::sqrt(8.0);
  call.part_bytes = 1;
  std::vector<float> dk(given.k.size()), dv(given.v.size()), dscores(given.scores.size());
  ops::cuda::SparsekGradients<float> to;
  to.g = {given.g.data(), {1, 2, 300, 8}};
  to.k = {dk.data(), {1, 2, 300, 8}};
  to.v = {dv.data(), {1, 2, 300, 8}};
  to.scores = {dscores.data(), {1, 1, 300}};
  ops::cuda::sparsek_attention_backward<float>(call, to);
  CHECK(relative_l2(dk, doubles(want.dk), dk.size()).total <= 1e-5);
  CHECK(relative_l2(dv, doubles(want.dv), dv.size()).total <= 1e-5);
  CHECK(relative_l2(dscores, doubles(want.dscores), dscores.size()).total <= 1e-5);
}

DEVICE_CASE("sparsek attention on the device: tensors there, strided, on a stream") {
  const Given<bf16> given({.batch = 2, .n = 45}, 6);
  SparsekAttentionOptions o;
  o.select = {.k = 6, .cap = 9};
  o.join = {.window = 4};
  const auto want = given.run(on(Backend::cuda), o);
  Context ctx = on(Backend::cuda);
  ctx.stream = 0;
  const auto there = [](const auto& values) {
    using X = std::remove_cvref_t<decltype(values[0])>;
    auto copy = std::make_unique<OnDevice<X>>(static_cast<std::int64_t>(values.size()));
    REQUIRE(cudaMemcpyAsync(copy->data(), values.data(), values.size() * sizeof(X), cudaMemcpyHostToDevice,
                            nullptr) == cudaSuccess);
    return copy;
  };
  const auto back = [](auto& values, const auto& copy) {
    REQUIRE(cudaMemcpyAsync(values.data(), copy->data(), values.size() * sizeof(values[0]),
                            cudaMemcpyDeviceToHost, nullptr) == cudaSuccess);
    REQUIRE(cudaStreamSynchronize(nullptr) == cudaSuccess);
  };
  auto got = want;
  const auto q = there(given.q), k = there(given.k), v = there(given.v), g = there(given.g);
  const auto out = there(got.out), dq = there(got.out), dk = there(got.out), dv = there(got.out);
  // Scores lie token by token: [batch, tokens, heads] seen as [batch, heads, tokens], with a gap after each.
  std::vector<float> spread(2 * given.scores.size());
  for (std::size_t i = 0; i < given.scores.size(); ++i) spread[2 * i] = given.scores[i];
  const auto scores = there(spread), dscores = there(spread);
  const auto view = [](bf16* data) { return TensorView<bf16>(data, {2, 2, 45, 8}); };
  const TensorView<const float> s_view(scores->data(), {2, 1, 45}, {90, 1, 2});
  sparsek_attention<bf16>(ctx, view(q->data()), view(k->data()), view(v->data()), s_view, view(out->data()),
                          o);
  sparsek_attention_backward<bf16>(ctx, view(q->data()), view(k->data()), view(v->data()), s_view,
                                   view(g->data()),
                                   {view(dq->data()), view(dk->data()), view(dv->data()),
                                    TensorView<float>(dscores->data(), {2, 1, 45}, {90, 1, 2})},
                                   o);
  back(got.out, out);
  CHECK(same_bits(got.out, want.out));
  back(got.dq, dq);
  CHECK(same_bits(got.dq, want.dq));
  back(got.dk, dk);
  CHECK(same_bits(got.dk, want.dk));
  back(got.dv, dv);
  CHECK(same_bits(got.dv, want.dv));
  back(spread, dscores);
  for (std::size_t i = 0; i < want.dscores.size(); ++i) CHECK(spread[2 * i] == want.dscores[i]);
}

DEVICE_CASE(
    "sparsek attention on the device: heads that share keys and scores in other groups, few tokens, all "
    "keys") {
  SparsekAttentionOptions o;
  o.select = {.k = 4, .cap = 8};
  o.join = {.window = 3};
  o.hops = 2;
  o.teleport = 0.1;
  for (const Gate gate : {Gate::values, Gate::scores}) {
    o.gate = gate;
    const Shape shape{.heads = 6, .kv_heads = 2, .score_heads = 3, .n = 40};
    compare<double>(shape, o, 8);
    compare<bf16>(shape, o, 8);
  }
  compare<float>({.n = 1}, o, 2);
  o.select = {.k = 100};
  compare<float>({.n = 37}, o, 2);
  compare<bf16>({.n = 37}, o, 2);
}

DEVICE_CASE("sparsek attention on the device: what is not finite stays in its panels in bf16") {
  Given<bf16> given({.n = 200, .d = 32, .d_value = 32}, 11);
  for (std::size_t c = 0; c < 32; ++c) given.v[c] = bf16(std::numeric_limits<float>::quiet_NaN());
  SparsekAttentionOptions o;
  o.select = {.k = 2, .cap = 4};
  o.join = {.window = 5};
  const auto got = given.run(on(Backend::cuda), o);
  const auto want = given.run(on(Backend::reference), o);
  for (Offset i = 64; i < 200; ++i) {  // no row of these panels keeps the first token
    bool reaches = false;
    for (Offset r = i / 32 * 32; r < std::min<Offset>(200, i / 32 * 32 + 32); ++r) {
      reaches |= std::isnan(to_double(want.out[static_cast<std::size_t>(r * 32)]));
    }
    if (!reaches) CHECK(!std::isnan(to_double(got.out[static_cast<std::size_t>(i * 32)])));
  }
}

DEVICE_CASE("sparsek attention on the device: gradients take fewer panels at a time where memory is short") {
  const Given<float> given({.n = 600, .d = 64, .d_value = 64}, 7);
  SparsekAttentionOptions o;
  o.select = {.k = 20, .cap = 40};
  Context ctx = on(Backend::cuda);
  const auto want = given.run(ctx, o);
  int ran = 0;
  int refused = 0;
  for (ctx.memory_limit = std::size_t{1} << 18; ctx.memory_limit < std::size_t{1} << 24;
       ctx.memory_limit *= 2) {
    try {
      const auto got = given.run(ctx, o);
      CHECK(relative_l2(got.dk, doubles(want.dk), got.dk.size()).total <= 1e-6);
      ++ran;
    } catch (const LimitError&) {
      ++refused;
    }
  }
  CHECK(ran > 0);
  CHECK(refused > 0);
}

DEVICE_CASE("sparsek attention on the device: a captured stream is refused") {
  const Given<float> given({.n = 20}, 7);
  Context ctx = on(Backend::cuda);
  cudaStream_t stream = nullptr;
  REQUIRE(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking) == cudaSuccess);
  ctx.stream = reinterpret_cast<std::uintptr_t>(stream);
  REQUIRE(cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal) == cudaSuccess);
  CHECK_THROWS_WITH_AS(
      given.run(ctx, {}),
      "sparsek attention: waits for its selection, which a stream that is being captured cannot", ValueError);
  cudaGraph_t graph = nullptr;
  CHECK(cudaStreamEndCapture(stream, &graph) == cudaSuccess);
  cudaGraphDestroy(graph);
  cudaStreamDestroy(stream);
}
