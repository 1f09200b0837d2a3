#include "manyhop/engine/attention.hpp"

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "manyhop/graphs/base/error.hpp"
#include "manyhop/graphs/patterns/pattern.hpp"
#include "tests/support/attention_cases.hpp"
#include "tests/support/expressions.hpp"
#include "tests/support/sanitized.hpp"

using namespace manyhop;
using namespace manyhop::test;

namespace {

std::size_t width(Offset d) { return static_cast<std::size_t>(d); }

}  // namespace

//  0 <- 0, 0 <- 1, 1 <- 0   (row 2 is empty); scores of row 0: ln 1, ln 3, so A = [1/4 3/4 0; 1 0 0; 0 0 0]
TEST_CASE("attention by hand") {
  AttentionCase c;
  c.graphs = {Graph::from_csr(3, 3, {0, 2, 3, 3}, {0, 1, 0})};
  c.q = {std::log(3.0), 5, 9};
  c.k = {0, 1, 7};
  c.v = {4, 8, 16};
  for (const Backend backend : kBackends) {
    const auto one = run_attention<double>(on(backend), c);
    CHECK(relative_l2(one.out, std::vector<double>{7, 4, 0}, 1).total < 1e-15);
    CHECK(one.lse[0] == doctest::Approx(1.3862943611));  // ln 4
    CHECK(one.lse[2] == -std::numeric_limits<float>::infinity());
    CHECK(one.weights[1] == 0.75F);
    auto two_hops = c;
    two_hops.hops = 2;
    two_hops.teleport = 0.5;
    CHECK(
        relative_l2(run_attention<double>(on(backend), two_hops).out, std::vector<double>{4.9375, 6.75, 8}, 1)
            .total < 1e-15);
    two_hops.teleport = 1;
    CHECK(run_attention<double>(on(backend), two_hops).out == c.v);
    two_hops.hops = 0;
    two_hops.teleport = 0.3;
    CHECK(run_attention<double>(on(backend), two_hops).out == c.v);
  }
}

// n 0..700, d 1..256, h 1..13, scores up to 80, empty rows, strided views.
template <class T>
void random_draws(int draws, std::uint64_t first_seed, double total, double worst_row) {
  double worst_total = 0;
  double worst_of_rows = 0;
  double worst_lse = 0;
  std::string where_total;
  std::string where_row;
  if (test::kSanitized) draws /= 8;  // which cover every path
  for (int draw = 0; draw < draws; ++draw) {
    CounterRng rng(first_seed, 1, static_cast<std::uint64_t>(draw));
    const auto up_to = [&](std::uint64_t most) { return static_cast<Offset>(rng.below(most + 1)); };
    const Offset n = draw % 5 == 0 ? up_to(700) : draw % 5 == 1 ? 32 * up_to(3) + up_to(2) : up_to(200);
    const Offset kv_heads = 1 + up_to(draw % 4 == 0 ? 3 : 12);
    const Offset group = draw % 4 == 0 ? 1 + up_to(2) : 1;
    const Offset batch = draw % 6 == 0 ? 2 : 1;
    const Offset d = draw % 3 == 0 ? 1 + up_to(255) : draw % 3 == 1 ? 1 + up_to(40) : 8 << up_to(4);
    const Offset d_v = draw % 2 == 0 ? d : 1 + up_to(80);
    // Half of the draws are structures that tilings treat differently, half any text of the pattern language.
    const std::string expression = draw % 2 == 0 ? "" : random_expression(rng, n);
    const Graph graph = draw % 2 == 0 ? some_graph(n, rng.next64()) : pattern(expression, n);
    Offset heads = kv_heads * group;
    Offset heads_kv = kv_heads;
    const int hops = static_cast<int>(up_to(6));
    // The oracle is slow: large draws get fewer heads.
    while (heads > 1 && graph.nnz() * (d + d_v * hops) * heads * batch > 40'000'000) {
      heads = heads_kv = std::max<Offset>(1, heads / 2);
    }
    const double largest = std::vector<double>{0.1, 1, 10, 40, 80}[static_cast<std::size_t>(up_to(4))];
    AttentionCase c = some_case<T>(graph, batch, heads, heads_kv, d, d_v, rng.next64() % 100000, largest);
    c.hops = hops;
    c.teleport = std::vector<double>{0, 0.1, 0.5, 1}[static_cast<std::size_t>(up_to(3))];
    if (draw % 7 == 0) {
      for (Offset b = 0; b < batch; ++b) c.lengths.push_back(up_to(static_cast<std::uint64_t>(n)));
    }
    if (draw % 9 == 0) c.dropout_p = 0.2;
    if (draw % 11 == 0) c.hop_dropout_p = 0.1;
    c.seed = rng.next64();
    if (draw % 4 == 1) c.reorder = static_cast<Reorder>(draw / 4 % 5);
    std::vector<float> bias;
    if (draw % 3 == 0) bias = random_values<float>(graph.nnz() * (draw % 2 == 0 ? 1 : heads), 9, 2);
    if (!bias.empty()) {
      c.bias = [&bias, m = graph.nnz()](Offset, Offset h, Offset e) {
        return double{bias[static_cast<std::size_t>(h * m + e) % bias.size()]};
      };
    }
    const auto layout = static_cast<Layout>(up_to(3));
    const AttentionAnswer want = oracle(c);
    const auto got = run_attention<T>(on(Backend::cpu, 2), c, layout, bias);
    const auto text = "draw " + std::to_string(draw) + ": n " + std::to_string(n) + ", m " +
                      std::to_string(graph.nnz()) + ", d " + std::to_string(d) + ", d_v " +
                      std::to_string(d_v) + ", heads " + std::to_string(heads) + ", hops " +
                      std::to_string(hops) + ", teleport " + std::to_string(c.teleport) + ", scores to " +
                      std::to_string(largest) + " " + expression;
    CAPTURE(text);
    const Errors errors = relative_l2(got.out, want.out, width(d_v));
    if (errors.total > worst_total) {
      worst_total = errors.total;
      where_total = text;
    }
    if (errors.worst_row > worst_of_rows) {
      worst_of_rows = errors.worst_row;
      where_row = text;
    }
    CHECK(errors.total <= total);
    CHECK(errors.worst_row <= worst_row);
    CHECK(got.untouched);
    const Errors lse = relative_l2(got.lse, want.lse, got.lse.size());
    worst_lse = std::max(worst_lse, lse.total);
    CHECK(lse.total <= 1e-6);  // float, also when q, k are bf16
    CHECK(relative_l2(got.weights, flat(want.weights), got.weights.size()).total <= 1e-5);
  }
  MESSAGE("worst of ", draws, " draws: ", worst_total, " in ", where_total);
  MESSAGE("worst row: ", worst_of_rows, " in ", where_row, "; lse ", worst_lse);
}

TEST_CASE("attention: random draws in float against the oracle") { random_draws<float>(200, 1, 2e-6, 1e-5); }
TEST_CASE("attention: random draws in double against the oracle") {
  random_draws<double>(60, 2, 1e-12, 1e-11);
}
TEST_CASE("attention: random draws in bf16 against the oracle") { random_draws<bf16>(60, 3, 1e-2, 2e-2); }

TEST_CASE("attention: the reference backend against the oracle") {
  for (std::uint64_t seed = 0; seed < 20; ++seed) {
    AttentionCase c =
        some_case<float>(some_graph(40 + static_cast<Offset>(seed), seed), 2, 4, 2, 5, 3, seed, 20);
    c.hops = static_cast<int>(seed % 4);
    c.teleport = seed % 2 == 0 ? 0.2 : 0;
    c.dropout_p = seed % 3 == 0 ? 0.1 : 0;
    c.hop_dropout_p = seed % 3 == 1 ? 0.1 : 0;
    c.seed = seed;
    if (seed % 4 == 3) c.lengths = {5, 40};
    const auto want = oracle(c);
    const auto got = run_attention<float>(on(Backend::reference), c, Layout::gaps);
    CHECK(relative_l2(got.out, want.out, 3).worst_row < 1e-6);
    CHECK(relative_l2(got.lse, want.lse, got.lse.size()).total < 1e-6);
    CHECK(relative_l2(got.weights, flat(want.weights), got.weights.size()).total < 1e-6);
  }
}

TEST_CASE("attention: rectangles and one graph for each head") {
  for (const auto& [n, n_cols] :
       {std::pair<Offset, Offset>{1, 50}, {50, 1}, {33, 70}, {100, 31}, {0, 5}, {5, 0}}) {
    for (const Graph& graph :
         {random_graph(n, n_cols, 0.3, 1), full_graph(n, n_cols), empty_graph(n, n_cols)}) {
      AttentionCase c = some_case<float>(graph, 2, 4, 2, 17, 9, 3, 5);
      for (const bool cut : {false, true}) {
        if (cut) c.lengths = {n_cols / 2, n_cols};
        const auto want = oracle(c);
        for (const Backend backend : kBackends) {
          const auto got = run_attention<float>(on(backend, 2), c, Layout::bshd);
          INFO(n, " x ", n_cols, " m ", graph.nnz());
          CHECK(relative_l2(got.out, want.out, 9).worst_row < 1e-5);
          CHECK(relative_l2(got.lse, want.lse, got.lse.size()).total < 1e-6);
        }
      }
    }
  }
  AttentionCase c = some_case<float>(some_graph(70, 2), 2, 4, 2, 8, 8, 3, 5);
  c.graphs = {some_graph(70, 2), some_graph(70, 5), some_graph(70, 8), causal_graph(70)};
  c.hops = 3;
  c.teleport = 0.1;
  c.dropout_p = 0.1;
  const auto want = oracle(c);
  for (const Backend backend : kBackends) {
    CHECK(relative_l2(run_attention<float>(on(backend, 2), c).out, want.out, 8).worst_row < 1e-5);
  }
}

TEST_CASE("attention: a batch graph is its items side by side") {
  const std::vector<Graph> items{some_graph(40, 2), empty_graph(0, 0), some_graph(33, 5), causal_graph(9)};
  AttentionCase c = some_case<float>(batch(items), 1, 2, 2, 8, 4, 3, 5);
  c.hops = 4;
  c.teleport = 0.1;
  const auto got = run_attention<float>(on(Backend::cpu, 2), c);
  CHECK(relative_l2(got.out, oracle(c).out, 4).worst_row < 1e-5);
}

TEST_CASE("attention: same bits for any thread count, memory limit and run") {
  for (std::uint64_t seed : {0U, 2U, 3U, 5U}) {
    AttentionCase c = some_case<float>(some_graph(200, seed), 2, 3, 3, 32, 32, seed, 20);
    c.hops = 4;
    c.teleport = 0.1;
    c.dropout_p = 0.1;
    c.hop_dropout_p = 0.1;
    const auto bias = random_values<float>(c.graphs[0].nnz(), 5);
    const auto g = random_values<double>(2 * 3 * 200 * 32, 6);
    std::vector<float> g_lse = random_values<float>(2 * 3 * 200, 7);
    const auto run = [&](int threads, std::size_t limit) {
      Context ctx = on(Backend::cpu, threads);
      ctx.memory_limit = limit;
      return run_attention<float>(ctx, c, Layout::bshd, bias, g, g_lse);
    };
    const auto first = run(1, 0);
    std::size_t smallest = 0;  // the smallest limit that is accepted
    for (std::size_t limit = std::size_t{1} << 20; limit <= std::size_t{64} << 20 && smallest == 0;
         limit += 1 << 18) {
      try {
        run(1, limit);
        smallest = limit;
      } catch (const LimitError&) {
      }
    }
    CHECK(smallest > 0);
    for (const int threads : {1, 2, 4}) {
      for (const std::size_t limit : {std::size_t{0}, smallest, smallest * 2}) {
        const auto again = run(threads, limit);
        INFO("seed ", seed, " threads ", threads, " limit ", limit);
        CHECK(same_bits(first.out, again.out));
        CHECK(same_bits(first.lse, again.lse));
        CHECK(same_bits(first.weights, again.weights));
        CHECK(same_bits(first.dq, again.dq));
        CHECK(same_bits(first.dk, again.dk));
        CHECK(same_bits(first.dv, again.dv));
        CHECK(same_bits(first.dbias, again.dbias));
        CHECK(first.dteleport == again.dteleport);
      }
    }
  }
}
