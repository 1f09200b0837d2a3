// Products of a graph with columns on the device against the reference, and what repeats them: diffusion and
// eigen-solvers.
#include "manyhop/ops/cuda/product.hpp"

#include <doctest/doctest.h>

#include <cmath>
#include <vector>

#include "manyhop/engine/diffusion.hpp"
#include "manyhop/engine/spectral/gap.hpp"
#include "manyhop/graphs/base/random.hpp"
#include "manyhop/graphs/patterns/pattern.hpp"
#include "tests/ops/cuda/device.hpp"

using namespace manyhop;
using namespace manyhop::test;

#define DEVICE_CASE(name) TEST_CASE(name* doctest::skip(*no_device() != '\0'))

namespace {

std::size_t at(Offset i) { return static_cast<std::size_t>(i); }

std::vector<double> draw(Offset count, std::uint64_t seed) {
  CounterRng rng(seed, 0, 0);
  std::vector<double> values(at(count));
  for (double& value : values) value = 2 * rng.uniform() - 1;
  return values;
}

Context on(Backend backend) {
  Context ctx;
  ctx.backend = backend;
  ctx.threads = 1;
  return ctx;
}

template <class C>
void compare(const Graph& graph, bool scaled, Offset columns, double tolerance) {
  INFO(graph.n_rows(), " x ", graph.n_cols(), ", ", graph.nnz(), " edges, ", columns, " columns, bytes ",
       sizeof(C));
  const auto left = draw(graph.n_rows(), 1);
  const auto right = draw(graph.n_cols(), 2);
  const ops::ScaledGraph a{&graph, scaled ? left.data() : nullptr, scaled ? right.data() : nullptr, false};
  const Offset stride = ops::block_stride(columns);
  const auto numbers = draw(graph.n_cols() * stride, 3);
  std::vector<C> x(numbers.begin(), numbers.end());
  for (Offset j = 0; j < graph.n_cols(); ++j)
    for (Offset f = columns; f < stride; ++f) x[at(j * stride + f)] = 0;
  std::vector<C> want(at(graph.n_rows() * stride), C(7)), got(want.size(), C(8)), again(want.size(), C(9));
  ops::graph_spmm(Backend::reference, a, x.data(), want.data(), columns);
  const ops::cuda::DeviceProduct product(a);
  product.apply(x.data(), got.data(), columns);
  product.apply(x.data(), again.data(), columns);
  CHECK(got == again);
  for (std::size_t i = 0; i < want.size(); ++i)
    REQUIRE(std::abs(static_cast<double>(got[i]) - static_cast<double>(want[i])) <= tolerance);
}

}  // namespace

DEVICE_CASE("cuda product: scales, weights, hubs and empty rows as the reference has them") {
  // Row 0 has 1500 edges, three tasks; others few or none.
  std::vector<Offset> indptr{0};
  std::vector<Index> indices;
  for (Offset i = 0; i < 60; ++i) {
    const Offset degree = i == 0 ? 1500 : i % 3 == 0 ? 0 : i % 7 * 9;
    for (Offset e = 0; e < degree; ++e) indices.push_back(static_cast<Index>(e + i));
    indptr.push_back(static_cast<Offset>(indices.size()));
  }
  const Graph hubs = Graph::from_csr(60, 1600, indptr, indices);
  const Graph weighted = hubs.with_weights(draw(hubs.nnz(), 4));
  for (const Offset columns : {1, 2, 8, 13, 24, 32, 40}) {
    for (const bool scaled : {false, true}) {
      compare<double>(hubs, scaled, columns, 1e-12);
      compare<float>(weighted, scaled, columns, 2e-5);
    }
  }
  compare<double>(Graph::from_csr(0, 0, {0}, {}), false, 1, 0);
  compare<double>(Graph::from_csr(3, 5, {0, 0, 0, 0}, {}), true, 2, 0);
}

DEVICE_CASE("cuda product: diffusion and its gradient, every normalisation") {
  const Graph graph = pattern("window(3) | random(4, seed=2) | global(1)", 120);
  const auto x = draw(120 * 3, 5);
  const auto gz = draw(120 * 3, 6);
  for (const Normalization normalization : {Normalization::sym, Normalization::row, Normalization::col}) {
    DiffuseOptions options;
    options.normalization = normalization;
    options.hops = 6;
    std::vector<double> z[2], dx[2];
    for (const Backend backend : {Backend::reference, Backend::cuda}) {
      const auto which = backend == Backend::cuda ? 1U : 0U;
      z[which].resize(x.size());
      dx[which].resize(x.size());
      diffuse<double>(on(backend), graph, {x.data(), {120, 3}}, {z[which].data(), {120, 3}}, options);
      DiffuseGradients<double> gradients;
      gradients.x = {dx[which].data(), {120, 3}};
      gradients.want_weights = false;
      diffuse_backward<double>(on(backend), graph, {x.data(), {120, 3}}, {gz.data(), {120, 3}}, options,
                               BackwardMode::stored, gradients);
    }
    for (std::size_t i = 0; i < x.size(); ++i) {
      REQUIRE(std::abs(z[0][i] - z[1][i]) <= 1e-12);
      REQUIRE(std::abs(dx[0][i] - dx[1][i]) <= 1e-12);
    }
  }
}

DEVICE_CASE("cuda product: both ends of a spectrum, every operator with products on the device") {
  const Graph graph = pattern("window(4) | random(3, seed=1) | global(2)", 400);
  for (const spectral::Operator op :
       {spectral::Operator::normalized, spectral::Operator::adjacency, spectral::Operator::laplacian,
        spectral::Operator::singular, spectral::Operator::chung}) {
    spectral::SpectralOptions options;
    options.op = op;
    options.tol = 1e-9;
    options.reach_hops = 0;
    const auto want = spectral::gap(on(Backend::cpu), graph, options);
    const auto got = spectral::gap(on(Backend::cuda), graph, options);
    INFO(want.op, ", ", want.method, " and ", got.method);
    CHECK(got.converged);
    REQUIRE(want.gap.has_value());
    REQUIRE(got.gap.has_value());
    CHECK(std::abs(*want.gap - *got.gap) <= 1e-8);
  }
}
