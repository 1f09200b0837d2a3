#include "manyhop/engine/attention.hpp"

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "manyhop/graphs/base/error.hpp"
#include "manyhop/graphs/patterns/pattern.hpp"
#include "tests/support/attention_run.hpp"
#include "tests/support/expressions.hpp"
#include "tests/support/sanitized.hpp"

using namespace manyhop;
using namespace manyhop::test;

namespace {

constexpr Backend kBackends[] = {Backend::reference, Backend::cpu};

Context on(Backend backend, int threads = 1) {
  Context ctx;
  ctx.backend = backend;
  ctx.threads = threads;
  return ctx;
}

Graph runs_graph(Offset n, Offset n_cols, const std::function<Run(Offset)>& row) {
  std::vector<Offset> indptr{0};
  std::vector<Run> runs;
  for (Offset i = 0; i < n; ++i) {
    const Run run = row(i);
    if (run.end > run.begin) runs.push_back(run);
    indptr.push_back(static_cast<Offset>(runs.size()));
  }
  return Graph::from_runs(n, n_cols, indptr, runs);
}

Graph full_graph(Offset n, Offset n_cols) {
  return runs_graph(n, n_cols, [&](Offset) { return Run{0, static_cast<Index>(n_cols)}; });
}
Graph causal_graph(Offset n) {
  return runs_graph(n, n, [&](Offset i) { return Run{0, static_cast<Index>(i + 1)}; });
}
Graph window_graph(Offset n, Offset r) {
  return runs_graph(n, n, [&](Offset i) {
    return Run{static_cast<Index>(std::max<Offset>(0, i - r)), static_cast<Index>(std::min(n, i + r + 1))};
  });
}

// Structures that tilings treat differently: runs, hubs, blocks, scattered edges, empty rows.
Graph some_graph(Offset n, std::uint64_t seed) {
  switch (seed % 10) {
    case 0:
      return random_graph(n, n, 0.05, seed);
    case 1:
      return window_graph(n, 9);
    case 2:
      return unite(window_graph(n, 5), random_graph(n, n, 0.02, seed));
    case 3:
      return n < 260 ? full_graph(n, n) : window_graph(n, 40);
    case 4:
      return n < 260 ? causal_graph(n) : intersect(causal_graph(n), window_graph(n, 64));
    case 5:
      return n > 1 ? unite(star_graph(n), random_graph(n, n, 0.01, seed)) : empty_graph(n, n);
    case 6:  // blocks of 32
      return runs_graph(n, n, [&](Offset i) {
        return Run{static_cast<Index>(i / 32 * 32), static_cast<Index>(std::min(n, i / 32 * 32 + 32))};
      });
    case 7:  // every third row is empty, others skip near columns
      return intersect(random_graph(n, n, 0.1, seed), subtract(full_graph(n, n), window_graph(n, 3)));
    case 8:
      return empty_graph(n, n);
    default:
      return subtract(window_graph(n, 30), window_graph(n, 10));
  }
}

/// Values that T can hold, scaled so that the largest score is near `largest`.
template <class T>
AttentionCase some_case(Graph graph, Offset batch, Offset heads, Offset kv_heads, Offset d, Offset d_v,
                        std::uint64_t seed, double largest) {
  AttentionCase c;
  c.graphs = {std::move(graph)};
  c.batch = batch;
  c.heads = heads;
  c.kv_heads = kv_heads;
  c.d = d;
  c.d_v = d_v;
  c.q = doubles(random_values<T>(batch * heads * c.rows() * d, seed));
  c.k = doubles(random_values<T>(batch * kv_heads * c.cols() * d, seed + 1));
  c.v = doubles(random_values<T>(batch * kv_heads * c.cols() * d_v, seed + 2));
  double most = 1e-3;
  const Offset n = c.rows() * c.cols() > 0 ? 2000 : 0;
  for (Offset s = 0; s < n; ++s) {
    double dot = 0;
    for (Offset x = 0; x < d; ++x) {
      dot += c.q[static_cast<std::size_t>(s % c.rows() * d + x)] *
             c.k[static_cast<std::size_t>(s * 7 % c.cols() * d + x)];
    }
    most = std::max(most, std::abs(dot));
  }
  c.scale = largest / most;
  return c;
}

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

TEST_CASE("attention: what lies past a length is never read and written zero") {
  for (const Backend backend : kBackends) {
    for (std::uint64_t seed : {1U, 2U, 3U, 5U, 6U}) {
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
    std::atomic<bool> stop = true;
    Context stopped = on(backend);
    stopped.stop = &stop;
    CHECK_THROWS_AS(attention<float>(stopped, made, good, good, good, out), Interrupted);
  }
}
