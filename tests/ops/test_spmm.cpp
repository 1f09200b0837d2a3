#include "manyhop/ops/spmm.hpp"

#include <doctest/doctest.h>

#include <cmath>
#include <tuple>
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
TEST_CASE("spmm by hand") {
  const Graph graph = Graph::from_csr(3, 3, {0, 2, 2, 3}, {1, 2, 0});
  const std::vector<double> w{2, 3, 0.5};
  const std::vector<double> x{1, 10, 2, 20, 3, 30};
  std::vector<double> out(6, 99);
  const Context ctx = on(Backend::reference);
  spmm<double>(ctx, graph, {w.data(), {3}}, {x.data(), {3, 2}}, {out.data(), {3, 2}});
  CHECK(out == std::vector<double>{13, 130, 0, 0, 0.5, 5});

  const std::vector<double> g{1, 0, 7, 7, 0, 2};
  std::vector<double> dw(3), dx(6);
  spmm_backward<double>(ctx, graph, {w.data(), {3}}, {x.data(), {3, 2}}, {g.data(), {3, 2}},
                        {{dw.data(), {3}}, {dx.data(), {3, 2}}});
  CHECK(dw == std::vector<double>{2, 3, 20});
  CHECK(dx == std::vector<double>{0, 1, 2, 0, 3, 0});
}

TEST_CASE_TEMPLATE("spmm: cpu against reference, strided views, grouped heads, any thread count", T, float,
                   double, bf16) {
  using E = EdgeValue<T>;
  for (const Offset n : {0, 1, 31, 32, 33, 65, 400}) {
    for (const Offset d : {1, 3, 8, 16, 17, 64, 70, 256}) {
      if (n == 400 && d > 17) continue;
      const Offset n_cols = n == 32 ? n + 1 : n + 5 * (d % 2);
      const Graph graph = n == 400  ? random_graph(n, n_cols, 1, 1)
                          : n == 32 ? star_graph(n + 1).rows(0, n)
                                    : random_graph(n, n_cols, 0.3, 2);
      const Offset m = graph.nnz();
      const Offset h = 4;
      const Offset h_kv = 2;
      const auto x = random_values<T>(h_kv * n_cols * d * 2, 4);
      const auto w = random_values<E>(h * m, 5);
      const auto g = random_values<T>(n * h * d, 6);
      const TensorView<const T> x_view(x.data(), {h_kv, n_cols, d}, {n_cols * d * 2, d * 2, 2});
      const TensorView<const T> g_view(g.data(), {h, n, d}, {d, h * d, 1});
      for (const bool shared : {false, true}) {
        const TensorView<const E> w_view =
            shared ? TensorView<const E>(w.data(), {m}) : TensorView<const E>(w.data(), {h, m}, {1, h});
        const auto run = [&](const Context& ctx) {
          std::vector<T> out(g.size()), dx(x.size());
          std::vector<E> dw(static_cast<std::size_t>(shared ? m : h * m));
          spmm<T>(ctx, graph, w_view, x_view, {out.data(), {h, n, d}, {d, h * d, 1}});
          SpmmGradients<T> gradients;
          gradients.weights = shared ? TensorView<E>(dw.data(), {m}) : TensorView<E>(dw.data(), {h, m});
          gradients.x = {dx.data(), {h_kv, n_cols, d}, {n_cols * d * 2, d * 2, 2}};
          spmm_backward<T>(ctx, graph, w_view, x_view, g_view, gradients);
          return std::tuple{out, dx, dw};
        };
        const auto [out, dx, dw] = run(on(Backend::reference));
        const auto [out1, dx1, dw1] = run(on(Backend::cpu, 1));
        INFO("n ", n, " d ", d, " m ", m);
        CHECK(relative_l2(out1, out, static_cast<std::size_t>(h * d)).total < tolerance<T>());
        CHECK(relative_l2(dx1, dx, static_cast<std::size_t>(2 * d)).total < 2 * tolerance<T>());
        CHECK(relative_l2(dw1, dw, 1000).total < (std::is_same_v<T, double> ? 1e-13 : 2e-6));
        for (const int threads : {2, 4}) {
          const auto [a, b, c] = run(on(Backend::cpu, threads));
          CHECK((same_bits(a, out1) && same_bits(b, dx1) && same_bits(c, dw1)));
        }
      }
    }
  }
}

TEST_CASE("spmm: a hub row of 300000 edges keeps fp32 accuracy") {
  const Offset n = 300000;
  std::vector<Index> columns(static_cast<std::size_t>(n));
  for (std::size_t j = 0; j < columns.size(); ++j) columns[j] = static_cast<Index>(j);
  const Graph graph = Graph::from_csr(1, n, {0, n}, columns);
  const std::vector<float> w(columns.size(), 1.0F / 3);
  std::vector<float> x = random_values<float>(n * 2, 1);
  for (float& value : x) value += 1;
  std::vector<float> out(2), want(2);
  spmm<float>(on(Backend::reference), graph, {w.data(), {n}}, {x.data(), {n, 2}}, {want.data(), {1, 2}});
  spmm<float>(on(Backend::cpu), graph, {w.data(), {n}}, {x.data(), {n, 2}}, {out.data(), {1, 2}});
  CHECK(relative_l2(out, want, 2).total < 2e-6);
}

TEST_CASE("spmm: gradients are slopes") {
  const Graph graph = random_graph(9, 7, 0.5, 11);
  const Offset m = graph.nnz();
  auto w = random_values<double>(m, 1);
  auto x = random_values<double>(7 * 5, 2);
  const auto g = random_values<double>(2 * 9 * 5, 4);
  for (const Backend backend : {Backend::reference, Backend::cpu}) {
    const auto loss = [&] {
      std::vector<double> out(g.size());
      spmm<double>(on(backend), graph, {w.data(), {m}}, {x.data(), {7, 5}}, {out.data(), {2, 9, 5}});
      double sum = 0;
      for (std::size_t e = 0; e < out.size(); ++e) sum += out[e] * g[e];
      return sum;
    };
    std::vector<double> dw(w.size()), dx(x.size());
    spmm_backward<double>(on(backend), graph, {w.data(), {m}}, {x.data(), {7, 5}}, {g.data(), {2, 9, 5}},
                          {{dw.data(), {m}}, {dx.data(), {7, 5}}});
    CHECK(worst_slope_error(w, dw, loss) < 1e-8);
    CHECK(worst_slope_error(x, dx, loss) < 1e-8);
  }
}

TEST_CASE("spmm: no heads, no edges, no width") {
  for (const Backend backend : {Backend::reference, Backend::cpu}) {
    std::vector<double> out(8, 99), x(8, 1), dx(8, 99);
    spmm<double>(on(backend), empty_graph(4, 4), {nullptr, {0}}, {x.data(), {4, 2}}, {out.data(), {4, 2}});
    CHECK(out == std::vector<double>(8, 0));
    spmm_backward<double>(on(backend), empty_graph(4, 4), {nullptr, {0}}, {x.data(), {4, 2}},
                          {x.data(), {4, 2}}, {{}, {dx.data(), {4, 2}}});
    CHECK(dx == std::vector<double>(8, 0));
    const Graph graph = star_graph(3);
    std::vector<double> w(4, 1), dw(4, 99);
    CHECK_NOTHROW(spmm<double>(on(backend), graph, {w.data(), {4}}, {nullptr, {3, 0}}, {nullptr, {3, 0}}));
    spmm_backward<double>(on(backend), graph, {w.data(), {4}}, {nullptr, {3, 0}}, {nullptr, {3, 0}},
                          {{dw.data(), {4}}, {}});
    CHECK(dw == std::vector<double>(4, 0));
    dw.assign(4, 99);
    CHECK_NOTHROW(
        spmm<double>(on(backend), graph, {w.data(), {4}}, {nullptr, {0, 3, 2}}, {nullptr, {0, 3, 2}}));
    spmm_backward<double>(on(backend), graph, {w.data(), {4}}, {nullptr, {0, 3, 2}}, {nullptr, {0, 3, 2}},
                          {{dw.data(), {4}}, {}});
    CHECK(dw == std::vector<double>(4, 0));
  }
}

TEST_CASE("spmm: errors name both sizes") {
  const Graph graph = Graph::from_csr(2, 3, {0, 1, 2}, {0, 2});
  std::vector<float> data(100);
  float* p = data.data();
  const Context ctx = on(Backend::cpu);
  CHECK_THROWS_WITH_AS(spmm<float>(ctx, graph, {p, {2}}, {p, {2, 4}}, {p + 50, {2, 4}}),
                       "spmm: x has 2 rows, the graph has 3 columns", ValueError);
  CHECK_THROWS_WITH_AS(spmm<float>(ctx, graph, {p, {2}}, {p, {3, 4}}, {p + 50, {3, 4}}),
                       "spmm: out has 3 rows, the graph has 2 rows", ValueError);
  CHECK_THROWS_WITH_AS(spmm<float>(ctx, graph, {p, {7}}, {p, {3, 4}}, {p + 50, {2, 4}}),
                       "spmm: weights has shape [7], want [1, 2] or [2]", ValueError);
  CHECK_THROWS_AS(spmm<float>(on(Backend::cuda), graph, {p, {2}}, {p, {3, 4}}, {p + 50, {2, 4}}), ValueError);
}
