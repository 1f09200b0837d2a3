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

namespace {

/// diffuse() on the device against the reference; rows and columns 20 to 24 are empty.
template <class T>
void compare_diffusion(const Graph& graph, const DiffuseOptions& options, Offset columns,
                       std::size_t limit = 0) {
  INFO("kernel ", static_cast<int>(options.kernel), ", normalization ",
       static_cast<int>(options.normalization), ", dangling ", static_cast<int>(options.dangling), ", ",
       columns, " columns, bytes ", sizeof(T));
  const Offset n = graph.n_rows();
  auto numbers = draw(n * columns, 7);
  for (double& value : numbers) value = std::abs(value);  // restart wants x >= 0
  const std::vector<T> x(numbers.begin(), numbers.end());
  std::vector<T> z[2];
  DiffuseResult found[2];
  for (const Backend backend : {Backend::reference, Backend::cuda}) {
    const auto which = backend == Backend::cuda ? 1U : 0U;
    z[which].resize(x.size());
    Context ctx = on(backend);
    if (backend == Backend::cuda) ctx.memory_limit = limit;
    found[which] = diffuse<T>(ctx, graph, {x.data(), {n, columns}}, {z[which].data(), {n, columns}}, options);
  }
  const double tolerance = sizeof(T) == 8 ? 1e-12 : 2e-6;
  for (std::size_t i = 0; i < x.size(); ++i)
    REQUIRE(std::abs(static_cast<double>(z[0][i]) - static_cast<double>(z[1][i])) <= tolerance);
  CHECK(found[0].hops == found[1].hops);
  CHECK(found[0].converged == found[1].converged);
  CHECK(found[1].bound == doctest::Approx(found[0].bound).epsilon(1e-4));
  if (std::isnan(found[0].residual)) {
    CHECK(std::isnan(found[1].residual));
  } else {
    CHECK(found[1].residual == doctest::Approx(found[0].residual).epsilon(1e-4));
  }
}

Graph with_empty_lines(Offset n) {
  std::vector<Index> rows, cols;
  CounterRng rng(11, 0, 0);
  for (Offset e = 0; e < 3 * n; ++e) {
    const auto i = static_cast<Index>(rng.uniform() * static_cast<double>(n));
    const auto j = static_cast<Index>(rng.uniform() * static_cast<double>(n));
    if ((i < 20 || i > 24) && (j < 20 || j > 24)) {
      rows.push_back(i);
      cols.push_back(j);
    }
  }
  return Graph::from_edges(n, n, rows, cols);
}

/// Every gradient of diffuse on the device against the reference.
template <class T>
void compare_gradients(const Graph& graph, const DiffuseOptions& options, BackwardMode mode, Offset columns) {
  INFO("kernel ", static_cast<int>(options.kernel), ", normalization ",
       static_cast<int>(options.normalization), ", dangling ", static_cast<int>(options.dangling), ", mode ",
       static_cast<int>(mode), ", ", columns, " columns, bytes ", sizeof(T));
  const Offset n = graph.n_rows();
  auto numbers = draw(n * columns, 8);
  for (double& value : numbers) value = std::abs(value);
  const std::vector<T> x(numbers.begin(), numbers.end());
  numbers = draw(n * columns, 9);
  const std::vector<T> gz(numbers.begin(), numbers.end());
  std::vector<T> dx[2];
  DiffuseGradients<T> found[2];
  for (const Backend backend : {Backend::reference, Backend::cuda}) {
    const auto which = backend == Backend::cuda ? 1U : 0U;
    dx[which].assign(x.size(), T(7));
    found[which].x = {dx[which].data(), {n, columns}};
    found[which].want_weights = true;
    diffuse_backward<T>(on(backend), graph, {x.data(), {n, columns}}, {gz.data(), {n, columns}}, options,
                        mode, found[which]);
  }
  const double tolerance = sizeof(T) == 8 ? 1e-11 : 5e-5;
  const auto near = [&](double want, double got) {
    REQUIRE(std::abs(want - got) <= tolerance * (1 + std::abs(want)));
  };
  for (std::size_t i = 0; i < x.size(); ++i)
    near(static_cast<double>(dx[0][i]), static_cast<double>(dx[1][i]));
  REQUIRE(found[0].weights.size() == at(graph.nnz()));
  REQUIRE(found[1].weights.size() == at(graph.nnz()));
  for (std::size_t e = 0; e < at(graph.nnz()); ++e) near(found[0].weights[e], found[1].weights[e]);
  near(found[0].teleport, found[1].teleport);
  near(found[0].t, found[1].t);
  REQUIRE(found[0].coefficients.size() == found[1].coefficients.size());
  for (std::size_t k = 0; k < found[0].coefficients.size(); ++k)
    near(found[0].coefficients[k], found[1].coefficients[k]);
}

std::vector<DiffuseOptions> every_kernel() {
  std::vector<DiffuseOptions> kernels(3);
  kernels[1].kernel = Kernel::heat;
  kernels[2].kernel = Kernel::coefficients;
  kernels[2].coefficients = {0.25, 0, -1, 0.5};
  return kernels;
}

struct Lines {
  Normalization normalization;
  Dangling dangling;
};
constexpr Lines kLines[] = {{Normalization::sym, Dangling::zero},    {Normalization::row, Dangling::self},
                            {Normalization::row, Dangling::uniform}, {Normalization::col, Dangling::self},
                            {Normalization::col, Dangling::uniform}, {Normalization::col, Dangling::restart}};

}  // namespace

DEVICE_CASE("cuda product: gradients stay on the device through every kernel, mode and empty line") {
  Graph graph = with_empty_lines(1100);  // two chunks of rows
  auto weights = draw(graph.nnz(), 10);
  for (double& w : weights) w = 0.5 + std::abs(w);
  graph = graph.with_weights(weights);
  for (const Lines& lines : kLines) {
    for (DiffuseOptions options : every_kernel()) {
      if (options.kernel == Kernel::ppr) options.hops = 2;
      if (options.kernel == Kernel::heat) options.hops = 5;  // segments of three
      options.normalization = lines.normalization;
      options.dangling = lines.dangling;
      if (options.kernel == Kernel::heat) {
        compare_gradients<double>(graph, options, BackwardMode::checkpointed, 1);
      } else {
        compare_gradients<double>(graph, options, BackwardMode::stored, 3);
      }
      if (options.kernel != Kernel::ppr) continue;
      options.hops = 2;
      compare_gradients<float>(graph, options, BackwardMode::stored, 9);
      options.teleport = 0.7;
      compare_gradients<double>(graph, options, BackwardMode::implicit, 1);
    }
  }
}

DEVICE_CASE("cuda product: gradients of plain weights, of no hop, of hubs, of no columns") {
  const Graph graph = pattern("window(3) | random(4, seed=2) | global(1)", 600);
  const std::vector<double> weights(at(graph.nnz()), 0.1);  // a norm above 1: powers are scaled
  DiffuseOptions options;
  options.kernel = Kernel::heat;
  options.normalization = Normalization::none;
  options.hops = 4;
  compare_gradients<double>(graph.with_weights(weights), options, BackwardMode::stored, 8);
  options.hops = 0;
  compare_gradients<double>(graph.with_weights(weights), options, BackwardMode::checkpointed, 2);
  options.hops = 3;
  compare_gradients<double>(graph.with_weights(weights), options, BackwardMode::stored, 0);
}

DEVICE_CASE("cuda product: signals stay on the device through every kernel, normalisation and empty line") {
  const Graph graph = with_empty_lines(1100);  // two chunks of rows
  for (const Lines& lines : kLines) {
    for (DiffuseOptions options : every_kernel()) {
      options.normalization = lines.normalization;
      options.dangling = lines.dangling;
      if (options.kernel != Kernel::coefficients) options.tol = 1e-2;
      compare_diffusion<double>(graph, options, 3);
      if (options.kernel == Kernel::coefficients) continue;
      options.tol.reset();
      options.hops = 0;
      compare_diffusion<double>(graph, options, 1);
      options.hops = 2;
      compare_diffusion<float>(graph, options, 9);
    }
  }
}

DEVICE_CASE("cuda product: signals of plain weights, of few columns at a time, of none, of no vertices") {
  DiffuseOptions options;
  const Graph graph = pattern("window(3) | random(4, seed=2) | global(1)", 120);
  options.hops = 5;
  // The graph, x, z and two of the eight columns' blocks.
  const std::size_t all = graph.bytes() + 2 * 120 * 8 * sizeof(double);
  compare_diffusion<double>(graph, options, 8, all + 4 * 120 * 8 * sizeof(double) - 1);
  compare_diffusion<double>(graph, options, 0);
  compare_diffusion<double>(Graph::from_csr(0, 0, {0}, {}), options, 2);
  options.normalization = Normalization::none;
  options.teleport = 0.5;
  std::vector<double> weights(static_cast<std::size_t>(graph.nnz()), 0.01);
  compare_diffusion<double>(graph.with_weights(weights), options, 2);
  options.kernel = Kernel::heat;
  options.hops.reset();
  weights.assign(weights.size(), 0.1);  // a norm above 1
  compare_diffusion<double>(graph.with_weights(weights), options, 2);
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
