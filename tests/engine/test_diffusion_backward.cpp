// diffuse_backward against finite differences, and at the ends of the number range.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "manyhop/graphs/base/error.hpp"
#include "manyhop/graphs/base/random.hpp"
#include "tests/support/diffusion_run.hpp"

using namespace manyhop;
using namespace manyhop::test;

namespace {

std::size_t at(Offset i) { return static_cast<std::size_t>(i); }

}  // namespace

TEST_CASE("diffuse: gradients against finite differences, stored, checkpointed and implicit") {
  const Offset n = 9;
  const Graph graph = directed_graph(21, n, true);
  CounterRng rng(8, 5, 0);
  std::vector<double> x(at(n * 2));
  std::vector<double> g(at(n * 2));
  for (double& v : x) v = 0.2 + rng.uniform();
  for (double& v : g) v = rng.uniform() - 0.5;
  const Context ctx{.threads = 2};
  const auto loss = [&](const Graph& at_graph, const std::vector<double>& at_x, const DiffuseOptions& o) {
    std::vector<double> z(at_x.size());
    diffuse<double>(ctx, at_graph, TensorView<const double>(at_x.data(), {n, 2}),
                    TensorView<double>(z.data(), {n, 2}), o);
    double sum = 0;
    for (std::size_t i = 0; i < z.size(); ++i) sum += z[i] * g[i];
    return sum;
  };
  constexpr double kStep = 1e-6;
  for (const BackwardMode mode : {BackwardMode::stored, BackwardMode::checkpointed, BackwardMode::implicit}) {
    for (const Kernel kernel : {Kernel::ppr, Kernel::heat, Kernel::coefficients}) {
      if (mode == BackwardMode::implicit && kernel != Kernel::ppr) continue;
      for (const Combination& combination : kCombinations) {
        DiffuseOptions o = options_of(kernel, combination, max_row_sum(graph));
        if (kernel != Kernel::coefficients) o.hops = mode == BackwardMode::implicit ? 400 : 7;
        DiffuseGradients<double> gradient;
        std::vector<double> dx(x.size());
        gradient.x = TensorView<double>(dx.data(), {n, 2});
        diffuse_backward<double>(ctx, graph, TensorView<const double>(x.data(), {n, 2}),
                                 TensorView<const double>(g.data(), {n, 2}), o, mode, gradient);
        for (std::size_t i = 0; i < x.size(); ++i) {
          std::vector<double> up = x;
          std::vector<double> down = x;
          up[i] += kStep;
          down[i] -= kStep;
          const double slope = (loss(graph, up, o) - loss(graph, down, o)) / (2 * kStep);
          CHECK(dx[i] == doctest::Approx(slope).epsilon(1e-6));
        }
        for (std::size_t e = 0; e < gradient.weights.size(); ++e) {
          std::vector<double> up(graph.weights().begin(), graph.weights().end());
          std::vector<double> down = up;
          up[e] += kStep;
          down[e] -= kStep;
          const double slope =
              (loss(graph.with_weights(up), x, o) - loss(graph.with_weights(down), x, o)) / (2 * kStep);
          CHECK(gradient.weights[e] == doctest::Approx(slope).epsilon(1e-5));
        }
        if (kernel == Kernel::ppr) {
          DiffuseOptions up = o;
          DiffuseOptions down = o;
          up.teleport += kStep;
          down.teleport -= kStep;
          CHECK(gradient.teleport ==
                doctest::Approx((loss(graph, x, up) - loss(graph, x, down)) / (2 * kStep)).epsilon(1e-5));
        }
        if (kernel == Kernel::heat) {
          DiffuseOptions up = o;
          DiffuseOptions down = o;
          up.t += kStep;
          down.t -= kStep;
          CHECK(gradient.t ==
                doctest::Approx((loss(graph, x, up) - loss(graph, x, down)) / (2 * kStep)).epsilon(1e-5));
        }
        for (std::size_t k = 0; kernel == Kernel::coefficients && k < o.coefficients.size(); ++k) {
          DiffuseOptions up = o;
          DiffuseOptions down = o;
          up.coefficients[k] += kStep;
          down.coefficients[k] -= kStep;
          CHECK(gradient.coefficients[k] ==
                doctest::Approx((loss(graph, x, up) - loss(graph, x, down)) / (2 * kStep)).epsilon(1e-6));
        }
      }
    }
  }
}

TEST_CASE("diffuse_backward: a matrix of norm above 1 does not overflow, and must contract") {
  const Graph graph = drawn_graph(8, 40, 5, 0.5);
  const std::vector<double> x = drawn_signal(9, 40);
  const std::vector<double> g = drawn_signal(10, 40);
  const Offset n = 40;
  const auto gradients = [&](DiffuseOptions o, BackwardMode mode) {
    o.normalization = Normalization::none;
    std::vector<double> dx(40);
    DiffuseGradients<double> out;
    out.x = TensorView<double>(dx.data(), {n, 1});
    diffuse_backward<double>({.threads = 2}, graph, TensorView<const double>(x.data(), {n, 1}),
                             TensorView<const double>(g.data(), {n, 1}), o, mode, out);
    dx.insert(dx.end(), out.weights.begin(), out.weights.end());
    dx.push_back(out.teleport);
    dx.push_back(out.t);
    return dx;
  };
  // Far beyond the hops that count, nothing may change any more.
  for (const DiffuseOptions& o :
       {DiffuseOptions{.teleport = 0.95}, DiffuseOptions{.kernel = Kernel::heat, .t = 2}}) {
    DiffuseOptions some = o;
    DiffuseOptions many = o;
    some.hops = 200;
    many.hops = 3000;
    const std::vector<double> wanted = gradients(some, BackwardMode::stored);
    const std::vector<double> stored = gradients(many, BackwardMode::stored);
    const std::vector<double> checkpointed = gradients(many, BackwardMode::checkpointed);
    CHECK(stored == checkpointed);
    for (std::size_t i = 0; i < wanted.size(); ++i)
      CHECK(stored[i] == doctest::Approx(wanted[i]).epsilon(1e-9));
  }
  for (const BackwardMode mode : {BackwardMode::stored, BackwardMode::implicit}) {
    CHECK_THROWS_WITH_AS(gradients({.teleport = 0.01, .hops = 5}, mode),
                         doctest::Contains("(1 - teleport) s < 1"), ValueError);
  }
}

TEST_CASE("diffuse_backward: values that are not finite are named, weights of any size have their slope") {
  const std::vector<double> x = drawn_signal(11, 40);
  std::vector<double> bad = x;
  bad[7] = std::numeric_limits<double>::infinity();
  const auto weight_gradient = [&](double unit, const std::vector<double>& signal,
                                   const std::vector<double>& g) {
    DiffuseGradients<double> out;
    diffuse_backward<double>(
        {.threads = 2}, drawn_graph(12, 40, 4, unit), TensorView<const double>(signal.data(), {40, 1}),
        TensorView<const double>(g.data(), {40, 1}), {.hops = 5}, BackwardMode::stored, out);
    return out.weights;
  };
  CHECK_THROWS_WITH_AS(weight_gradient(1, x, bad), doctest::Contains("gz: entry (row 7, column 0)"),
                       ValueError);
  CHECK_THROWS_WITH_AS(weight_gradient(1, bad, x), doctest::Contains("signal: entry (row 7, column 0)"),
                       ValueError);
  const std::vector<double> plain = weight_gradient(1, x, x);
  const std::vector<double> huge = weight_gradient(1e100, x, x);
  double most = 0;
  for (const double v : plain) most = std::max(most, std::abs(v));
  for (std::size_t e = 0; e < plain.size(); ++e) CHECK(std::abs(huge[e] * 1e100 - plain[e]) <= 1e-12 * most);
}

TEST_CASE("diffuse_backward: float takes double where the forward pass does, and a memory limit holds") {
  const std::vector<double> x = drawn_signal(11, 40);
  const std::vector<float> xf(x.begin(), x.end());
  for (const double unit : {1e39, 1e-42, 1e-60}) {
    for (const Normalization normalization : {Normalization::row, Normalization::col, Normalization::sym}) {
      const Graph graph = drawn_graph(12, 40, 4, unit);
      const DiffuseOptions options{.hops = 3, .normalization = normalization};
      DiffuseGradients<double> want;
      std::vector<double> dx(40);
      want.x = {dx.data(), {40, 1}};
      diffuse_backward<double>({.threads = 2}, graph, {x.data(), {40, 1}}, {x.data(), {40, 1}}, options,
                               BackwardMode::stored, want);
      DiffuseGradients<float> got;
      std::vector<float> dxf(40);
      got.x = {dxf.data(), {40, 1}};
      diffuse_backward<float>({.threads = 2}, graph, {xf.data(), {40, 1}}, {xf.data(), {40, 1}}, options,
                              BackwardMode::stored, got);
      CHECK(relative_l2(dxf, dx) < 1e-5);
      CHECK(got.teleport == doctest::Approx(want.teleport).epsilon(1e-5));
      REQUIRE(got.weights.size() == want.weights.size());
      for (std::size_t e = 0; e < want.weights.size(); ++e) CHECK(std::isfinite(got.weights[e]));
    }
  }
  DiffuseGradients<double> none;
  Context small{.threads = 2};
  small.memory_limit = 4000;
  CHECK_THROWS_WITH_AS(
      diffuse_backward<double>(small, drawn_graph(12, 40, 4, 1), {x.data(), {40, 1}}, {x.data(), {40, 1}},
                               {.hops = 50}, BackwardMode::stored, none),
      doctest::Contains("checkpointed takes less"), LimitError);
}
