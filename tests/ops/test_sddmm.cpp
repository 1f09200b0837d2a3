#include "manyhop/ops/sddmm.hpp"

#include <doctest/doctest.h>

#include <cmath>
#include <vector>

#include "manyhop/graphs/base/error.hpp"
#include "tests/support/finite_difference.hpp"
#include "tests/support/near.hpp"

using namespace manyhop;
using namespace manyhop::test;

namespace {

template <class T>
double tolerance() {
  return std::is_same_v<T, double> ? 1e-13 : std::is_same_v<T, float> ? 2e-6 : 1e-2;
}

Context on(Backend backend, int threads = 1) {
  Context ctx;
  ctx.backend = backend;
  ctx.threads = threads;
  return ctx;
}

}  // namespace

//  0 <- 1, 0 <- 2, 2 <- 0   (row 1 is empty)
TEST_CASE("sddmm by hand") {
  const Graph graph = Graph::from_csr(3, 3, {0, 2, 2, 3}, {1, 2, 0});
  const std::vector<double> q{1, 2, 3, 4, 5, 6};
  const std::vector<double> k{1, 1, 2, 0, 0, 3};
  const std::vector<double> bias{10, 20, 30};
  std::vector<double> scores(3);
  const Context ctx = on(Backend::reference);
  sddmm<double>(ctx, graph, {q.data(), {3, 2}}, {k.data(), {3, 2}},
                {.scale = 0.5, .bias = {bias.data(), {3}}}, {scores.data(), {3}});
  CHECK(scores == std::vector<double>{11, 23, 35.5});

  const std::vector<double> g{1, 10, 100};
  std::vector<double> dq(6), dk(6), dbias(3);
  sddmm_backward<double>(ctx, graph, {q.data(), {3, 2}}, {k.data(), {3, 2}}, 0.5, {g.data(), {3}},
                         {{dq.data(), {3, 2}}, {dk.data(), {3, 2}}, {dbias.data(), {3}}});
  CHECK(dq == std::vector<double>{1, 15, 0, 0, 50, 50});
  CHECK(dk == std::vector<double>{250, 300, 0.5, 1, 5, 10});
  CHECK(dbias == g);
}

TEST_CASE_TEMPLATE("sddmm: cpu against reference, strided views, grouped heads, any thread count", T, float,
                   double, bf16) {
  using E = EdgeValue<T>;
  for (const Offset n : {0, 1, 31, 32, 33, 65, 300}) {
    for (const Offset d : {1, 3, 8, 16, 17, 64, 70, 256}) {
      if (n == 300 && d > 17) continue;
      const Offset n_cols = n + 5 * (d % 2);
      const Graph graph = n == 65 ? random_graph(n, n_cols, 1, 1) : random_graph(n, n_cols, 0.3, 2);
      const Offset m = graph.nnz();
      const Offset h = 4;
      const Offset h_kv = 2;
      // q as [n, h, d] seen through strides, k with a padded inner stride of 2.
      const auto q = random_values<T>(n * h * d, 3);
      const auto k = random_values<T>(h_kv * n_cols * d * 2, 4);
      const auto bias = random_values<E>(m, 5, 10);
      const TensorView<const T> q_view(q.data(), {h, n, d}, {d, h * d, 1});
      const TensorView<const T> k_view(k.data(), {h_kv, n_cols, d}, {n_cols * d * 2, d * 2, 2});
      const auto g = random_values<E>(h * m, 6);
      const auto run = [&](const Context& ctx) {
        std::vector<E> scores(static_cast<std::size_t>(h * m), E{99});
        std::vector<T> dq(q.size()), dk(k.size());
        std::vector<E> dbias(static_cast<std::size_t>(m));
        sddmm<T>(ctx, graph, q_view, k_view, {.scale = 0.3, .bias = {bias.data(), {m}}},
                 {scores.data(), {h, m}, {1, h}});  // edges outer, heads inner
        const SddmmGradients<T> gradients{{dq.data(), {h, n, d}, {d, h * d, 1}},
                                          {dk.data(), {h_kv, n_cols, d}, {n_cols * d * 2, d * 2, 2}},
                                          {dbias.data(), {m}}};
        sddmm_backward<T>(ctx, graph, q_view, k_view, 0.3, {g.data(), {h, m}}, gradients);
        return std::tuple{scores, dq, dk, dbias};
      };
      const auto [scores, dq, dk, dbias] = run(on(Backend::reference));
      const auto one = run(on(Backend::cpu, 1));
      const auto& [scores1, dq1, dk1, dbias1] = one;
      INFO("n ", n, " d ", d, " m ", m);
      CHECK(relative_l2(scores1, scores, 1000).total < (std::is_same_v<T, double> ? 1e-13 : 2e-6));
      CHECK(relative_l2(dq1, dq, static_cast<std::size_t>(d)).total < tolerance<T>());
      CHECK(relative_l2(dk1, dk, static_cast<std::size_t>(2 * d)).total < tolerance<T>());
      CHECK(relative_l2(dbias1, dbias, 1000).total < 2e-6);
      for (const int threads : {2, 4}) {
        const auto [s, a, b, c] = run(on(Backend::cpu, threads));
        CHECK((same_bits(s, scores1) && same_bits(a, dq1) && same_bits(b, dk1) && same_bits(c, dbias1)));
      }
    }
  }
}

TEST_CASE("sddmm: gradients are slopes") {
  const Graph graph = random_graph(9, 7, 0.5, 11);
  const Offset m = graph.nnz();
  auto q = random_values<double>(2 * 9 * 5, 1);
  auto k = random_values<double>(1 * 7 * 5, 2);
  auto bias = random_values<double>(m, 3);
  const auto g = random_values<double>(2 * m, 4);
  for (const Backend backend : {Backend::reference, Backend::cpu}) {
    const Context ctx = on(backend);
    const auto loss = [&] {
      std::vector<double> scores(static_cast<std::size_t>(2 * m));
      sddmm<double>(ctx, graph, {q.data(), {2, 9, 5}}, {k.data(), {1, 7, 5}},
                    {.scale = 0.7, .bias = {bias.data(), {m}}}, {scores.data(), {2, m}});
      double sum = 0;
      for (std::size_t e = 0; e < scores.size(); ++e) sum += scores[e] * g[e];
      return sum;
    };
    std::vector<double> dq(q.size()), dk(k.size()), dbias(bias.size());
    sddmm_backward<double>(ctx, graph, {q.data(), {2, 9, 5}}, {k.data(), {1, 7, 5}}, 0.7, {g.data(), {2, m}},
                           {{dq.data(), {2, 9, 5}}, {dk.data(), {1, 7, 5}}, {dbias.data(), {m}}});
    CHECK(worst_slope_error(q, dq, loss) < 1e-8);
    CHECK(worst_slope_error(k, dk, loss) < 1e-8);
    CHECK(worst_slope_error(bias, dbias, loss) < 1e-8);
    dq[0] += 1e-3;  // the check can fail
    CHECK(worst_slope_error(q, dq, loss) > 1e-4);
  }
}

TEST_CASE("sddmm: errors name both sizes") {
  const Graph graph = Graph::from_csr(2, 3, {0, 1, 2}, {0, 2});
  const std::vector<float> data(100);
  std::vector<float> scores(10);
  const auto call = [&](TensorView<const float> q, TensorView<const float> k, TensorView<const float> bias,
                        TensorView<float> out, Backend backend = Backend::cpu) {
    sddmm<float>(on(backend), graph, q, k, {.scale = 1, .bias = bias}, out);
  };
  const float* p = data.data();
  CHECK_NOTHROW(call({p, {2, 2, 4}}, {p, {2, 3, 4}}, {}, {scores.data(), {2, 2}}));
  CHECK_THROWS_WITH_AS(call({p, {2, 5, 4}}, {p, {2, 3, 4}}, {}, {scores.data(), {2, 2}}),
                       "sddmm: q has 5 rows, the graph has 2 rows", ValueError);
  CHECK_THROWS_WITH_AS(call({p, {2, 2, 4}}, {p, {2, 2, 4}}, {}, {scores.data(), {2, 2}}),
                       "sddmm: k has 2 rows, the graph has 3 columns", ValueError);
  CHECK_THROWS_WITH_AS(call({p, {2, 2, 4}}, {p, {2, 3, 5}}, {}, {scores.data(), {2, 2}}),
                       "sddmm: q has width 4, k has width 5; they must be equal", ValueError);
  CHECK_THROWS_WITH_AS(call({p, {3, 2, 4}}, {p, {2, 3, 4}}, {}, {scores.data(), {3, 2}}),
                       "sddmm: q has 3 heads, k has 2, which must divide them", ValueError);
  CHECK_THROWS_WITH_AS(call({p, {2, 2, 4}}, {p, {2, 3, 4}}, {p, {3}}, {scores.data(), {2, 2}}),
                       "sddmm: bias has shape [3], want [2, 2] or [2]", ValueError);
  CHECK_THROWS_WITH_AS(call({p, {2, 2, 4}}, {p, {2, 3, 4}}, {}, {scores.data(), {2, 3}}),
                       "sddmm: scores has shape [2, 3], want [2, 2]", ValueError);
  CHECK_THROWS_WITH_AS(call({p, {4}}, {p, {2, 3, 4}}, {}, {scores.data(), {2, 2}}),
                       "sddmm: q has shape [4], want [heads, n_rows = 2, width]", ValueError);
  CHECK_THROWS_WITH_AS(call({nullptr, {2, 2, 4}}, {p, {2, 3, 4}}, {}, {scores.data(), {2, 2}}),
                       "sddmm: q has no data, its 16 values must be given", ValueError);
  CHECK_THROWS_WITH_AS(call({p, {2, 2, 4}}, {p, {2, 3, 4}}, {}, {scores.data(), {2, 2}}, Backend::cuda),
                       doctest::Contains("sddmm: backend 'cuda' "), ValueError);  // which no build has for it
}

TEST_CASE("sddmm: a raised stop flag and a memory limit end the call") {
  const Graph graph = random_graph(20, 20, 0.5, 1);
  const auto q = random_values<bf16>(20 * 8, 1);
  std::vector<float> scores(static_cast<std::size_t>(graph.nnz()));
  const std::atomic<bool> stop = true;
  for (const Backend backend : {Backend::reference, Backend::cpu}) {
    Context ctx = on(backend);
    ctx.stop = &stop;
    CHECK_THROWS_AS(
        sddmm<bf16>(ctx, graph, {q.data(), {20, 8}}, {q.data(), {20, 8}}, {}, {scores.data(), {graph.nnz()}}),
        Interrupted);
  }
  Context small = on(Backend::cpu);
  small.memory_limit = 100;
  CHECK_THROWS_AS(
      sddmm<bf16>(small, graph, {q.data(), {20, 8}}, {q.data(), {20, 8}}, {}, {scores.data(), {graph.nnz()}}),
      LimitError);
}
