#include <doctest/doctest.h>

#include <cmath>
#include <string>
#include <utility>
#include <vector>

#include "manyhop/graphs/base/error.hpp"
#include "manyhop/graphs/patterns/pattern.hpp"
#include "tests/support/attention_run.hpp"
#include "tests/support/finite_difference.hpp"
#include "tests/support/sanitized.hpp"

using namespace manyhop;
using namespace manyhop::test;

namespace {

Context on(Backend backend, int threads = 2) {
  Context ctx;
  ctx.backend = backend;
  ctx.threads = threads;
  return ctx;
}

struct Named {
  std::string name;
  Graph graph;
};

Graph dense_graph(Offset n, Offset n_cols) {
  return Graph::from_runs(
      n, n_cols,
      [&] {
        std::vector<Offset> indptr;
        for (Offset i = 0; i <= n; ++i) indptr.push_back(i);
        return indptr;
      }(),
      std::vector<Run>(static_cast<std::size_t>(n), Run{0, static_cast<Index>(n_cols)}));
}

std::vector<Named> graphs() {
  const std::vector<Graph> items{random_graph(20, 20, 0.4, 5), empty_graph(0, 0), star_graph(9),
                                 empty_graph(3, 3)};
  return {{"empty rows", random_graph(40, 40, 0.2, 1)},
          {"hub", unite(star_graph(70), random_graph(70, 70, 0.02, 2))},
          {"isolated", empty_graph(7, 7)},
          {"full", dense_graph(35, 35)},
          {"batched", batch(items)},
          {"rectangular", random_graph(21, 34, 0.3, 3)},
          {"rectangular full", dense_graph(40, 33)},
          {"one token", dense_graph(1, 1)}};
}

template <class T>
AttentionCase case_of(const Graph& graph, int hops, double teleport) {
  AttentionCase c;
  c.graphs = {graph};
  c.batch = 2;
  c.heads = 4;
  c.kv_heads = 2;
  c.d = 7;
  c.d_v = 5;
  c.q = doubles(random_values<T>(c.batch * c.heads * c.rows() * c.d, 1));
  c.k = doubles(random_values<T>(c.batch * c.kv_heads * c.cols() * c.d, 2));
  c.v = doubles(random_values<T>(c.batch * c.kv_heads * c.cols() * c.d_v, 3));
  c.hops = graph.square() ? hops : 1;
  c.teleport = graph.square() ? teleport : 0;
  c.scale = 0.7;
  c.seed = 17;
  if (graph.square() && hops % 2 == 1) c.reorder = hops == 5 ? Reorder::degree : Reorder::cluster;
  return c;
}

template <class T>
void compare(const Context& ctx, AttentionCase c, AttentionBackward mode, double tolerance, int bias_shape,
             const std::string& name) {
  const Offset m = c.graphs[0].nnz();
  const Offset copies = bias_shape == 0   ? 0
                        : bias_shape == 1 ? 1
                        : bias_shape == 2 ? c.heads
                                          : c.batch * c.heads;
  const auto bias = random_values<float>(m * copies, 4);
  if (!bias.empty()) {
    c.bias = [&](Offset b, Offset h, Offset e) {
      return double{bias[static_cast<std::size_t>((b * c.heads + h) * m + e) % bias.size()]};
    };
  }
  const auto g = doubles(random_values<T>(c.batch * c.heads * c.rows() * c.d_v, 5));
  const auto g_lse = random_values<float>(c.batch * c.heads * c.rows(), 6);
  const auto want = oracle(c, g, doubles(g_lse));
  const auto got = run_attention<T>(ctx, c, Layout::bshd, bias, g, g_lse, mode);
  if (!kThreadSanitizer) {
    AttentionCase keeping = c;
    keeping.keep = true;
    const auto kept = run_attention<T>(ctx, keeping, Layout::bshd, bias, g, g_lse, mode);
    CHECK(kept.out == got.out);
    CHECK(kept.dq == got.dq);
    CHECK(kept.dk == got.dk);
    CHECK(kept.dv == got.dv);
    CHECK(kept.dbias == got.dbias);
    CHECK(kept.dteleport == got.dteleport);
  }
  INFO(name, ", hops ", c.hops, ", teleport ", c.teleport, ", mode ", static_cast<int>(mode), ", backend ",
       name_of(ctx.backend), ", bias ", bias_shape);
  CHECK(relative_l2(got.out, want.out, got.out.size()).total < tolerance);
  CHECK(relative_l2(got.dq, want.dq, got.dq.size()).total < tolerance);
  CHECK(relative_l2(got.dk, want.dk, got.dk.size()).total < tolerance);
  CHECK(relative_l2(got.dv, want.dv, got.dv.size()).total < tolerance);
  if (!bias.empty()) {
    const auto dbias = reduced(want.dbias, bias.size());
    CHECK(relative_l2(got.dbias, dbias, dbias.size()).total < std::max(tolerance, 1e-6));
  }
  // The teleport's gradient is a sum of terms of either sign over all outputs.
  CHECK(std::abs(got.dteleport - want.dteleport) <
        10 * tolerance * (1 + std::abs(want.dteleport)) * std::sqrt(static_cast<double>(1 + g.size())));
  CHECK(got.untouched);
}

}  // namespace

TEST_CASE("attention_backward: stored and checkpointed against the oracle in double") {
  for (const Named& named : graphs()) {
    for (const auto& [hops, teleport] :
         {std::pair{0, 0.3}, {1, 0.0}, {2, 0.5}, {5, 0.1}, {7, 0.0}, {3, 1.0}, {18, 0.1}}) {
      for (const AttentionBackward mode : {AttentionBackward::stored, AttentionBackward::checkpointed}) {
        for (const Backend backend : {Backend::reference, Backend::cpu}) {
          compare<double>(on(backend), case_of<double>(named.graph, hops, teleport), mode, 1e-12, hops % 4,
                          named.name);
        }
      }
    }
  }
}

TEST_CASE("attention_backward: float and bf16 storage") {
  for (const Named& named : graphs()) {
    for (const int hops : {1, 5}) {
      for (const AttentionBackward mode : {AttentionBackward::stored, AttentionBackward::checkpointed}) {
        compare<float>(on(Backend::cpu), case_of<float>(named.graph, hops, 0.1), mode, 1e-5, hops % 4,
                       named.name);
        compare<bf16>(on(Backend::cpu), case_of<bf16>(named.graph, hops, 0.1), mode, 1e-2, hops % 4,
                      named.name);
      }
    }
  }
}

// A row with an edge to every token, and values with a mean: what softmax's gradient takes off is far larger
// than what is left.
TEST_CASE("attention_backward: a hub row in float") {
  const Offset n = 4096;
  std::vector<Index> rows, cols;
  for (Index j = 0; j < n; ++j) {
    rows.push_back(0);
    cols.push_back(j);
    if (j == 0) continue;
    rows.push_back(j);
    cols.push_back(j);
  }
  for (const bool dense : {false, true}) {
    const Graph graph = dense ? pattern("global(40)|self", n) : Graph::from_edges(n, n, rows, cols);
    AttentionCase c;
    c.graphs = {graph};
    c.batch = c.heads = c.kv_heads = 1;
    c.d = c.d_v = 16;
    const auto size = n * 16;
    c.q = doubles(random_values<float>(size, 1));
    c.k = doubles(random_values<float>(size, 2));
    auto v = random_values<float>(size, 3);
    for (float& x : v) x += 3;
    c.v = doubles(v);
    c.hops = 1;
    c.scale = 0.25;
    const auto g = doubles(random_values<float>(size, 5));
    const auto want = oracle(c, g, {});
    const auto got = run_attention<float>(on(Backend::cpu), c, Layout::bhsd, {}, g);
    INFO("dense ", dense);
    CHECK(relative_l2(got.dq, want.dq, got.dq.size()).total < 1e-5);
    CHECK(relative_l2(got.dk, want.dk, got.dk.size()).total < 1e-5);
  }
}

TEST_CASE("attention_backward: both dropouts use the masks of the forward pass") {
  for (const Named& named : graphs()) {
    for (const Backend backend : {Backend::reference, Backend::cpu}) {
      for (const AttentionBackward mode : {AttentionBackward::stored, AttentionBackward::checkpointed}) {
        AttentionCase c = case_of<double>(named.graph, 4, 0.2);
        c.dropout_p = 0.3;
        c.hop_dropout_p = 0.2;
        compare<double>(on(backend), c, mode, 1e-12, 1, named.name + " with dropout");
      }
    }
  }
}

TEST_CASE("attention_backward: lengths") {
  for (const Named& named : graphs()) {
    for (const Backend backend : {Backend::reference, Backend::cpu}) {
      AttentionCase c = case_of<double>(named.graph, 4, 0.2);
      c.lengths = {c.cols() / 2, c.cols()};
      compare<double>(on(backend), c, AttentionBackward::stored, 1e-12, 3, named.name + " with lengths");
    }
  }
}

// With teleport 0.3 the recursion has reached its fixed point after 120 hops (0.7^120 = 2.6e-19).
TEST_CASE("attention_backward: implicit at the fixed point") {
  for (const Named& named : graphs()) {
    if (!named.graph.square()) continue;
    for (const Backend backend : {Backend::reference, Backend::cpu}) {
      AttentionCase c = case_of<double>(named.graph, 120, 0.3);
      compare<double>(on(backend), c, AttentionBackward::implicit, 1e-11, 1, named.name);
      c.dropout_p = 0.1;
      compare<double>(on(backend), c, AttentionBackward::implicit, 1e-11, 1, named.name + " with dropout");
    }
  }
  AttentionCase c = case_of<double>(star_graph(5), 5, 0.1);
  c.dropout_p = 0.1;  // (1 - 0.1) / (1 - 0.1) is not below 1
  const auto g = random_values<double>(2 * 4 * 5 * 5, 5);
  CHECK_THROWS_AS(
      run_attention<double>(on(Backend::cpu), c, Layout::bhsd, {}, g, {}, AttentionBackward::implicit),
      ValueError);
}

TEST_CASE("attention_backward: gradients are slopes of the engine's own forward pass") {
  for (const Named& named : graphs()) {
    AttentionCase c = case_of<double>(named.graph, 3, 0.2);
    c.dropout_p = 0.2;
    const auto g = random_values<double>(c.batch * c.heads * c.rows() * c.d_v, 5);
    const auto loss = [&] {
      const auto run = run_attention<double>(on(Backend::cpu, 1), c);
      double sum = 0;
      for (std::size_t x = 0; x < g.size(); ++x) sum += run.out[x] * g[x];
      return sum;
    };
    const auto run = run_attention<double>(on(Backend::cpu, 1), c, Layout::bhsd, {}, g);
    INFO(named.name);
    CHECK(worst_slope_error(c.q, run.dq, loss, 30) < 1e-7);
    CHECK(worst_slope_error(c.k, run.dk, loss, 30) < 1e-7);
    CHECK(worst_slope_error(c.v, run.dv, loss, 30) < 1e-7);
    if (!named.graph.square()) continue;
    std::vector<double> teleport{c.teleport};
    CHECK(worst_slope_error(teleport, {run.dteleport}, [&] {
            c.teleport = teleport[0];
            return loss();
          }) < 1e-7);
  }
}

TEST_CASE("attention_backward: a state belongs to its call") {
  Context ctx = on(Backend::cpu);
  AttentionCase c = case_of<float>(random_graph(50, 50, 0.2, 3), 4, 0.1);
  const auto size = [](Offset count) { return static_cast<std::size_t>(count); };
  std::vector<float> q(size(2 * 4 * 50 * 7), 0.5F), k(size(2 * 2 * 50 * 7), 0.25F),
      v(size(2 * 2 * 50 * 5), 1), out(size(2 * 4 * 50 * 5)), g(out.size(), 1);
  const Plan made = plan(
      ctx, c.graphs,
      {.batch = 2, .heads = 4, .kv_heads = 2, .head_dim = 7, .value_dim = 5, .hops = 4, .backward = true});
  const TensorView<const float> qv(q.data(), {2, 4, 50, 7}), kv(k.data(), {2, 2, 50, 7}),
      vv(v.data(), {2, 2, 50, 5}), gv(g.data(), {2, 4, 50, 5});
  const TensorView<float> to(out.data(), {2, 4, 50, 5});
  AttentionState state;
  AttentionOptions options;
  options.hops = 4;
  options.teleport = 0.1;
  options.state = &state;
  attention<float>(ctx, made, qv, kv, vv, to, options);
  CHECK_FALSE(state.empty());
  // A and Z_1 .. Z_3 of eight heads at least.
  CHECK(state.bytes() >= size(8 * (c.graphs[0].nnz() + 3 * 50 * 5) * 4));
  AttentionGradients<float> gradients;
  AttentionOptions other = options;
  other.hops = 3;
  CHECK_THROWS_WITH_AS(attention_backward<float>(ctx, made, qv, kv, vv, gv, gradients, other),
                       "state: kept by a call of 4 hops of another plan or mode, this one has 3 hops",
                       ValueError);
  CHECK_NOTHROW(attention_backward<float>(ctx, made, qv, kv, vv, gv, gradients, options));
  // A context with less memory makes again what does not fit, and throws only where it would without a state.
  int threw = 0;
  int ran = 0;
  for (std::size_t limit = 1000; limit < 8'000'000; limit = limit * 5 / 4) {
    Context tight = on(Backend::cpu);
    tight.memory_limit = limit;
    std::vector<float> with(k.size()), without(k.size());
    const auto gradient = [&](std::vector<float>& dk, AttentionState* given) {
      AttentionOptions run = options;
      run.state = given;
      AttentionGradients<float> to_k;
      to_k.k = TensorView<float>(dk.data(), {2, 2, 50, 7});
      try {
        attention_backward<float>(tight, made, qv, kv, vv, gv, to_k, run);
        return true;
      } catch (const LimitError&) {
        return false;
      }
    };
    const bool fits = gradient(without, nullptr);
    CHECK(gradient(with, &state) == fits);
    CHECK(with == without);
    ++(fits ? ran : threw);
  }
  CHECK(threw > 3);
  CHECK(ran > 3);
  // Nothing is kept where it is not wanted, cannot be used or does not fit.
  options.backward = AttentionBackward::checkpointed;
  attention<float>(ctx, made, qv, kv, vv, to, options);
  CHECK(state.empty());
  options.backward = AttentionBackward::implicit;
  attention<float>(ctx, made, qv, kv, vv, to, options);
  CHECK(state.empty());
  options.backward = AttentionBackward::stored;
  ctx.memory_limit = made.memory().total() + 2000;
  attention<float>(ctx, made, qv, kv, vv, to, options);
  CHECK(state.empty());
  CHECK_NOTHROW(attention_backward<float>(Context{}, made, qv, kv, vv, gv, gradients, options));
  // What is moved from holds nothing.
  ctx.memory_limit = 0;
  attention<float>(ctx, made, qv, kv, vv, to, options);
  const AttentionState taken = std::move(state);
  CHECK_FALSE(taken.empty());
  CHECK(state.empty());  // NOLINT(bugprone-use-after-move): that is what is asked
  CHECK_NOTHROW(attention_backward<float>(Context{}, made, qv, kv, vv, gv, gradients, options));
}

namespace {
// Checkpoints want A and its gradient kept. Here all of Z takes less than these: the smallest workspace has
// neither.
template <class T>
void check_checkpointed_under_limits() {
  AttentionCase c;
  c.graphs = {pattern("overlap(96, 32) | random(3, seed=2)", 157)};
  c.heads = 2;
  c.d = 64;
  c.d_v = 32;
  c.q = doubles(random_values<T>(c.heads * c.rows() * c.d, 4));
  c.k = doubles(random_values<T>(c.rows() * c.d, 5));
  c.v = doubles(random_values<T>(c.rows() * c.d_v, 6));
  c.scale = 0.2;
  c.hops = 7;
  c.teleport = 0.3;
  const auto g = doubles(random_values<T>(c.heads * c.rows() * c.d_v, 8));
  const auto run = [&](Context ctx, std::size_t limit) {
    ctx.memory_limit = limit;
    return run_attention<T>(ctx, c, Layout::bhsd, {}, g, {}, AttentionBackward::checkpointed);
  };
  const auto want = run(on(Backend::cpu), 0);
  int ran = 0;
  for (std::size_t limit = 100000; ran < 3; limit += limit / 16) {
    try {
      const auto got = run(on(Backend::cpu, 1 + ran), limit);
      CHECK(got.dq == want.dq);
      CHECK(got.dk == want.dk);
      CHECK(got.dteleport == want.dteleport);
      ++ran;
    } catch (const LimitError&) {
      CHECK(ran == 0);
    }
  }
}
}  // namespace

TEST_CASE("attention_backward: the memory limit does not show in the bits of checkpointed gradients") {
  check_checkpointed_under_limits<float>();
  check_checkpointed_under_limits<double>();
  check_checkpointed_under_limits<bf16>();
}

TEST_CASE("attention_backward: whether a state fits the memory does not show in the bits of bf16") {
  const Offset n = 64;
  const auto values = random_values<bf16>(3 * n * 32, 9);
  const auto part = [&](int i) { return TensorView<const bf16>(values.data() + i * n * 32, {1, 1, n, 32}); };
  std::vector<bf16> kept(static_cast<std::size_t>(n * 32)), tight(kept.size());
  Context ctx = on(Backend::cpu);
  const Plan made = plan(ctx, pattern("window(4)", n), {.head_dim = 32, .dtype = DType::bf16, .hops = 3});
  AttentionState state;
  AttentionOptions options;
  options.hops = 3;
  options.teleport = 0.1;
  options.state = &state;
  const auto run = [&](std::vector<bf16>& out) {
    attention<bf16>(ctx, made, part(0), part(1), part(2), TensorView<bf16>(out.data(), {1, 1, n, 32}),
                    options);
    return state.bytes();
  };
  CHECK(run(kept) > 0);
  bool ran = false;
  for (ctx.memory_limit = 30000; ctx.memory_limit < 300000 && !ran; ctx.memory_limit += 2000) {
    try {
      const std::size_t bytes = run(tight);
      CHECK(bytes == 0);
      ran = true;
    } catch (const LimitError&) {
    }
  }
  CHECK(ran);
  CHECK(kept == tight);
}

TEST_CASE(
    "attention: the state's size is what a caller who lends the memory is told, in every type and width") {
  const auto check = [](auto type, int width, int hops) {
    using T = decltype(type);
    const Graph graph = pattern("window(5)|random(3,seed=1)", 70);
    const Context ctx = on(Backend::cpu);
    const Plan made = plan(ctx, graph,
                           {.batch = 2,
                            .heads = 2,
                            .head_dim = width,
                            .value_dim = width,
                            .dtype = dtype_for<T>(),
                            .hops = hops,
                            .backward = true});
    const std::vector<T> x = random_values<T>(Offset{2} * 2 * 70 * width, 1);
    std::vector<T> out(x.size()), dv(x.size());
    const TensorView<const T> view(x.data(), {2, 2, 70, width});
    AttentionOptions options;
    options.hops = hops;
    options.teleport = 0.1;
    const std::size_t told = attention_state_bytes(ctx, made, options);
    AttentionState state;
    options.state = &state;
    attention<T>(ctx, made, view, view, view, {out.data(), {2, 2, 70, width}}, options);
    INFO(sizeof(T), " bytes, width ", width, ", hops ", hops);
    CHECK(told == state.unit_bytes * static_cast<std::size_t>(state.units));
    AttentionGradients<T> gradients;
    gradients.v = TensorView<T>(dv.data(), {2, 2, 70, width});
    CHECK_NOTHROW(attention_backward<T>(ctx, made, view, view, view, view, gradients, options));
  };
  for (const int width : {5, 16, 32, 64, 100}) {
    for (const int hops : {1, 2, 4}) {
      check(bf16{}, width, hops);
      check(float{}, width, hops);
      check(double{}, width, hops);
    }
  }
}
