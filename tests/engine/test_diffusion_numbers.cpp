// diffuse against numbers of SciPy, and at the ends of the number range: signals and weights of extreme size,
// long sums in float, matrices of norm above 1.
#include <doctest/doctest.h>
#include <rapidcheck.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <string>
#include <utility>
#include <vector>

#include "manyhop/engine/diffusion.hpp"
#include "manyhop/graphs/base/error.hpp"
#include "manyhop/graphs/base/random.hpp"

using namespace manyhop;

namespace {

std::size_t at(Offset i) { return static_cast<std::size_t>(i); }

template <class T>
std::vector<T> value_of(const Graph& graph, const std::vector<T>& x, const DiffuseOptions& options,
                        DiffuseResult* result = nullptr, const Context& ctx = {.threads = 2}) {
  const Offset n = graph.n_rows();
  const Offset columns = n == 0 ? 1 : static_cast<Offset>(x.size()) / n;
  std::vector<T> z(x.size());
  const DiffuseResult r = diffuse<T>(ctx, graph, TensorView<const T>(x.data(), {n, columns}),
                                     TensorView<T>(z.data(), {n, columns}), options);
  if (result != nullptr) *result = r;
  return z;
}

double relative_l2(const std::vector<float>& a, const std::vector<double>& b) {
  double error = 0;
  double size = 0;
  for (std::size_t i = 0; i < b.size(); ++i) {
    error += (static_cast<double>(a[i]) - b[i]) * (static_cast<double>(a[i]) - b[i]);
    size += b[i] * b[i];
  }
  return std::sqrt(error / size);
}

// Each row draws about `degree` columns; weighted by draws in [0.5, 1.5) times `unit`.
Graph drawn_graph(std::uint64_t seed, Offset n, Offset degree, double unit) {
  std::vector<Index> rows;
  std::vector<Index> cols;
  std::vector<double> weights;
  CounterRng rng(seed, 7, 0);
  for (Offset i = 0; i < n; ++i) {
    if (i % 11 == 3) continue;  // rows without edges
    for (Offset k = 0; k < degree; ++k) {
      rows.push_back(static_cast<Index>(i));
      cols.push_back(static_cast<Index>(rng.below(static_cast<std::uint64_t>(n))));
      weights.push_back((0.5 + rng.uniform()) * unit);
    }
  }
  return Graph::from_edges(n, n, rows, cols, weights);
}

std::vector<double> drawn_signal(std::uint64_t seed, std::size_t size) {
  std::vector<double> x(size);
  CounterRng rng(seed, 8, 0);
  for (double& v : x) v = static_cast<double>(static_cast<float>(rng.uniform()));
  return x;
}

struct Known {
  Kernel kernel;
  Normalization normalization;
  Dangling dangling;
  std::array<double, 7> value;
};

// Directed and weighted; 3 and 5 are isolated, and rows 3, 5 and columns 3, 5 sum to 0. With numpy and scipy:
// A written out from the definition, x = [1, .5, 2, .25, 0, 3, 1.5];
// ppr: .2 * numpy.linalg.solve(I - .8 A, x); heat: scipy.linalg.expm(-1.5 (I - A)) @ x;
// coefficients: .5 x - .25 A x + 2 A A x by scipy.sparse.csr_array. none divides the weights by 8.
const Known kKnown[] = {
    {Kernel::ppr,
     Normalization::sym,
     Dangling::zero,
     {0.719054246477813, 0.8973272525486049, 1.31845601486125, 0.05, 0.3296889425124371, 0.6000000000000001,
      0.4121111781405464}},
    {Kernel::heat,
     Normalization::sym,
     Dangling::zero,
     {0.8065701800333274, 1.032936366793067, 1.42949676312438, 0.05578254003710753, 0.5606825151093892,
      0.6693904804452904, 0.447760823595499}},
    {Kernel::coefficients,
     Normalization::sym,
     Dangling::zero,
     {3.461281524437971, 1.608013179820666, 3.507098647741768, 0.125, -0.2188262381113939, 1.5,
      1.202703348644688}},
    {Kernel::ppr,
     Normalization::row,
     Dangling::zero,
     {1.142742959236448, 1.218134373971508, 1.397667967464385, 0.05, 1.019605999341765, 0.6000000000000001,
      1.274507499177207}},
    {Kernel::heat,
     Normalization::row,
     Dangling::zero,
     {1.030663045290411, 1.271108507585667, 1.363412025532895, 0.05578254003710753, 0.9455206075084125,
      0.6693904804452904, 1.206149130339543}},
    {Kernel::coefficients,
     Normalization::row,
     Dangling::zero,
     {4.2, 1.375, 4.1515625, 0.125, 0.625, 1.5, 4.625}},
    {Kernel::ppr,
     Normalization::row,
     Dangling::self,
     {1.142742959236448, 1.218134373971508, 1.397667967464385, 0.2500000000000001, 1.019605999341765,
      3.000000000000001, 1.274507499177207}},
    {Kernel::heat,
     Normalization::row,
     Dangling::self,
     {1.030663045290411, 1.271108507585667, 1.363412025532895, 0.25, 0.9455206075084125, 3,
      1.206149130339543}},
    {Kernel::coefficients,
     Normalization::row,
     Dangling::self,
     {4.2, 1.375, 4.1515625, 0.5625, 0.625, 6.75, 4.625}},
    {Kernel::ppr,
     Normalization::row,
     Dangling::uniform,
     {1.142742959236448, 1.218134373971508, 1.397667967464385, 1.042986488769084, 1.019605999341765,
      1.592986488769084, 1.274507499177207}},
    {Kernel::heat,
     Normalization::row,
     Dangling::uniform,
     {1.030663045290411, 1.271108507585667, 1.363412025532895, 0.9682004081793577, 0.9455206075084125,
      1.58180834858754, 1.206149130339543}},
    {Kernel::coefficients,
     Normalization::row,
     Dangling::uniform,
     {4.2, 1.375, 4.1515625, 1.993112244897959, 0.625, 3.368112244897959, 4.625}},
    {Kernel::ppr,
     Normalization::col,
     Dangling::zero,
     {0.7843639451455763, 1.208452655571561, 2.42474018406279, 0.05, 0.258863651208922, 0.6000000000000001,
      0.3235795640111525}},
    {Kernel::heat,
     Normalization::col,
     Dangling::zero,
     {0.8725989957376802, 1.05026167963165, 2.215031416175874, 0.05578254003710753, 0.5105663596215836,
      0.6693904804452904, 0.3515415488332116}},
    {Kernel::coefficients,
     Normalization::col,
     Dangling::zero,
     {4.343205574912892, 2.421229467396715, 4.033474365355898, 0.125, -0.350609756097561, 1.5,
      0.8027003484320557}},
    {Kernel::ppr,
     Normalization::col,
     Dangling::self,
     {0.7843639451455763, 1.208452655571561, 2.42474018406279, 0.2500000000000001, 0.258863651208922,
      3.000000000000001, 0.3235795640111525}},
    {Kernel::heat,
     Normalization::col,
     Dangling::self,
     {0.8725989957376802, 1.05026167963165, 2.215031416175874, 0.25, 0.5105663596215836, 3,
      0.3515415488332116}},
    {Kernel::coefficients,
     Normalization::col,
     Dangling::self,
     {4.343205574912892, 2.421229467396715, 4.033474365355898, 0.5625, -0.350609756097561, 6.75,
      0.8027003484320557}},
    {Kernel::ppr,
     Normalization::col,
     Dangling::uniform,
     {1.212771047857115, 1.804246655698635, 3.517391411192615, 0.1462962962962963, 0.4414971835686292,
      0.6962962962962963, 0.431501109090416}},
    {Kernel::heat,
     Normalization::col,
     Dangling::uniform,
     {1.351068705969489, 1.447139715990707, 2.945923330472378, 0.249789169322108, 0.8419162134065626,
      0.8633971097302902, 0.5507657551084661}},
    {Kernel::coefficients,
     Normalization::col,
     Dangling::uniform,
     {5.783381035340965, 3.101076406172224, 6.052793678446989, 0.274234693877551, 0.7271963663514185,
      1.649234693877551, 0.9745831259333001}},
    {Kernel::ppr,
     Normalization::col,
     Dangling::restart,
     {1.145310185389558, 1.764554762560244, 3.540549826286375, 0.07300884955752214, 0.3779867473404613,
      0.8761061946902657, 0.4724834341755766}},
    {Kernel::heat,
     Normalization::col,
     Dangling::restart,
     {1.202756689821447, 1.386312799259148, 3.031871985138047, 0.1007225803822832, 0.6945233316367242,
      1.208670964587399, 0.6251416491749515}},
    {Kernel::coefficients,
     Normalization::col,
     Dangling::restart,
     {4.708829665038091, 3.427608189684528, 6.151059785602072, 0.1779729109274564, 0.8312084257206207,
      2.135674931129476, 1.130146091897755}},
    {Kernel::ppr,
     Normalization::none,
     Dangling::zero,
     {0.2320024888212223, 0.1486927443821822, 0.4869274438218218, 0.05, 0.04527879889571661,
      0.6000000000000001, 0.3018586593047773}},
    {Kernel::heat,
     Normalization::none,
     Dangling::zero,
     {0.2868915194518765, 0.2103362001614976, 0.6211159759665673, 0.05578254003710745, 0.09460042163425368,
      0.6693904804452894, 0.3384036830324233}},
    {Kernel::coefficients,
     Normalization::none,
     Dangling::zero,
     {0.62890625, 0.2890625, 1.169921875, 0.125, -0.0673828125, 1.5, 0.755859375}},
};

}  // namespace

TEST_CASE("diffuse: SciPy's numbers for every kernel, normalization and dangling policy") {
  const std::vector<Index> rows{0, 0, 1, 2, 2, 2, 4, 6};
  const std::vector<Index> cols{1, 4, 2, 0, 1, 2, 6, 1};
  std::vector<double> weights{2, 0.5, 1, 0.25, 3, 0.75, 1.5, 0.125};
  const std::vector<double> x{1, 0.5, 2, 0.25, 0, 3, 1.5};
  const std::vector<float> x_float(x.begin(), x.end());
  for (const Known& known : kKnown) {
    CAPTURE(static_cast<int>(known.kernel));
    CAPTURE(static_cast<int>(known.normalization));
    CAPTURE(static_cast<int>(known.dangling));
    std::vector<double> used = weights;
    if (known.normalization == Normalization::none) {
      for (double& w : used) w /= 8;
    }
    const Graph graph = Graph::from_edges(7, 7, rows, cols, used);
    DiffuseOptions o{.kernel = known.kernel,
                     .teleport = 0.2,
                     .t = 1.5,
                     .normalization = known.normalization,
                     .dangling = known.dangling};
    if (known.kernel == Kernel::coefficients) {
      o.coefficients = {0.5, -0.25, 2};
    } else {
      o.tol = 1e-13;
    }
    for (const Backend backend : {Backend::reference, Backend::cpu}) {
      const Context ctx{.threads = 2, .backend = backend};
      const std::vector<double> z = value_of(graph, x, o, nullptr, ctx);
      const std::vector<float> z_float = value_of(graph, x_float, o, nullptr, ctx);
      double size = 0;
      for (const double v : known.value) size = std::max(size, std::abs(v));
      for (std::size_t i = 0; i < 7; ++i) {
        CHECK(std::abs(z[i] - known.value[i]) <= 1e-12 * size);
        CHECK(std::abs(static_cast<double>(z_float[i]) - known.value[i]) <= 2e-7 * size);
      }
    }
  }
}

TEST_CASE("diffuse: the karate club from its first member") {
  // W. W. Zachary, "An information flow model for conflict and fission in small groups", J. Anthropol. Res.
  // 33 (1977): 34 members, 78 ties (facts, not under copyright). Values: SciPy, P = A D^-1 in float64, .15 (I
  // - .85 P)^-1 e_0 and expm(-5 (I - P)) e_0.
  const std::vector<std::pair<Index, Index>> ties{
      {0, 1},   {0, 2},   {0, 3},   {0, 4},   {0, 5},   {0, 6},   {0, 7},   {0, 8},   {0, 10},  {0, 11},
      {0, 12},  {0, 13},  {0, 17},  {0, 19},  {0, 21},  {0, 31},  {1, 2},   {1, 3},   {1, 7},   {1, 13},
      {1, 17},  {1, 19},  {1, 21},  {1, 30},  {2, 3},   {2, 7},   {2, 8},   {2, 9},   {2, 13},  {2, 27},
      {2, 28},  {2, 32},  {3, 7},   {3, 12},  {3, 13},  {4, 6},   {4, 10},  {5, 6},   {5, 10},  {5, 16},
      {6, 16},  {8, 30},  {8, 32},  {8, 33},  {9, 33},  {13, 33}, {14, 32}, {14, 33}, {15, 32}, {15, 33},
      {18, 32}, {18, 33}, {19, 33}, {20, 32}, {20, 33}, {22, 32}, {22, 33}, {23, 25}, {23, 27}, {23, 29},
      {23, 32}, {23, 33}, {24, 25}, {24, 27}, {24, 31}, {25, 31}, {26, 29}, {26, 33}, {27, 33}, {28, 31},
      {28, 33}, {29, 32}, {29, 33}, {30, 32}, {30, 33}, {31, 32}, {31, 33}, {32, 33}};
  std::vector<Index> rows;
  std::vector<Index> cols;
  for (const auto& [u, v] : ties) {
    rows.push_back(u);
    cols.push_back(v);
    rows.push_back(v);
    cols.push_back(u);
  }
  const Graph graph = Graph::from_edges(34, 34, rows, cols);
  REQUIRE(graph.nnz() == 156);
  std::vector<double> x(34);
  x[0] = 1;
  const auto check = [&](const DiffuseOptions& o, const std::vector<std::pair<std::size_t, double>>& top,
                         double l2) {
    const std::vector<double> z = value_of(graph, x, o);
    double mass = 0;
    double squares = 0;
    for (const double v : z) {
      mass += v;
      squares += v * v;
    }
    CHECK(mass == doctest::Approx(1).epsilon(1e-9));  // a walk keeps its mass
    CHECK(std::sqrt(squares) == doctest::Approx(l2).epsilon(1e-9));
    for (const auto& [vertex, value] : top) CHECK(z[vertex] == doctest::Approx(value).epsilon(1e-9));
  };
  check({.teleport = 0.15, .tol = 1e-12, .normalization = Normalization::col},
        {{0, 0.266373603148}, {1, 0.0648879079868}, {2, 0.0549477535128}, {33, 0.0511999892032}},
        0.309367104821);
  check({.kernel = Kernel::heat, .t = 5, .tol = 1e-12, .normalization = Normalization::col},
        {{0, 0.159599554825}, {1, 0.0784990117852}, {2, 0.0656910948271}, {33, 0.0609787378485}},
        0.242877737383);
}

TEST_CASE("diffuse: long sums in float stay within 2e-6 of double, with the same hops") {
  const Graph graph = drawn_graph(1, 300, 8, 1);
  const std::vector<double> x = drawn_signal(2, 300 * 3);
  const std::vector<float> x_float(x.begin(), x.end());
  for (const Normalization nz : {Normalization::sym, Normalization::row, Normalization::col}) {
    for (DiffuseOptions o : {DiffuseOptions{.teleport = 1e-3, .hops = 2000}, DiffuseOptions{.teleport = 0.05},
                             DiffuseOptions{.kernel = Kernel::heat, .t = 200, .tol = 1e-6},
                             DiffuseOptions{.teleport = 0.1, .hops = 100}, DiffuseOptions{}}) {
      o.normalization = nz;
      DiffuseResult in_double;
      DiffuseResult in_float;
      const std::vector<double> z =
          value_of(graph, x, o, &in_double, {.threads = 2, .backend = Backend::reference});
      const std::vector<float> z_float = value_of(graph, x_float, o, &in_float);
      CHECK(relative_l2(z_float, z) <= 2e-6);
      CHECK(in_float.hops == in_double.hops);
    }
  }
}

TEST_CASE("diffuse: the size of weights cancels, whatever it is") {
  const std::vector<double> x = drawn_signal(3, 60 * 2);
  const std::vector<float> x_float(x.begin(), x.end());
  const Graph plain = drawn_graph(4, 60, 5, 1);
  for (const double unit : {1e-300, 1e-40, 1e40, 1e300}) {
    const Graph graph = drawn_graph(4, 60, 5, unit);
    for (const Normalization nz : {Normalization::sym, Normalization::row, Normalization::col}) {
      const DiffuseOptions o{.hops = 6, .normalization = nz};
      const std::vector<double> wanted = value_of(plain, x, o);
      const std::vector<double> z = value_of(graph, x, o);
      for (std::size_t i = 0; i < z.size(); ++i) CHECK(z[i] == doctest::Approx(wanted[i]).epsilon(1e-12));
      CHECK(relative_l2(value_of(graph, x_float, o), wanted) <= 2e-6);
    }
  }
  const std::vector<Index> rows{0, 1};
  const std::vector<Index> cols{1, 0};
  // One row is far below the other: fine as long as doubles can hold both.
  const Graph uneven = Graph::from_edges(2, 2, rows, cols, std::vector<double>{1e200, 1e-200});
  const DiffuseOptions once{.teleport = 0, .hops = 1, .normalization = Normalization::row};
  CHECK(value_of<double>(uneven, {1, 2}, once) == std::vector<double>{2, 1});
  CHECK(value_of<float>(uneven, {1, 2}, once) == std::vector<float>{2, 1});
  const Graph apart = Graph::from_edges(2, 2, rows, cols, std::vector<double>{1e300, 1e-300});
  CHECK_THROWS_WITH_AS(value_of<double>(apart, {1, 1}, once), doctest::Contains("weights[1]: 1e-300"),
                       ValueError);
}

TEST_CASE("diffuse: residual, bound and hops do not depend on the size of the signal") {
  const Graph graph = drawn_graph(5, 60, 5, 1);
  const std::vector<double> x = drawn_signal(6, 60);
  for (const Normalization nz : {Normalization::sym, Normalization::row, Normalization::col}) {
    const DiffuseOptions o{.tol = 1e-8, .normalization = nz};
    DiffuseResult plain;
    const std::vector<double> wanted = value_of(graph, x, o, &plain);
    for (const double unit : {1e-300, 1e-160, 1e160, 1e300}) {
      std::vector<double> scaled = x;
      for (double& v : scaled) v *= unit;
      DiffuseResult r;
      const std::vector<double> z = value_of(graph, scaled, o, &r);
      CHECK(r.hops == plain.hops);
      CHECK(r.residual == doctest::Approx(plain.residual).epsilon(1e-6));
      CHECK(r.bound == doctest::Approx(plain.bound).epsilon(1e-6));
      for (std::size_t i = 0; i < z.size(); ++i)
        CHECK(z[i] / unit == doctest::Approx(wanted[i]).epsilon(1e-12));
    }
  }
}

TEST_CASE("diffuse: an implicit graph has the same bits before and after its edges are written") {
  const Offset n = 500;
  std::vector<Offset> run_indptr(at(n) + 1);
  std::vector<Run> runs;
  for (Offset i = 0; i < n; ++i) {
    runs.push_back({static_cast<Index>(i / 2), static_cast<Index>(n)});
    run_indptr[at(i) + 1] = i + 1;
  }
  const Graph graph = Graph::from_runs(n, n, run_indptr, runs);
  REQUIRE(graph.implicit());
  std::vector<double> x = drawn_signal(7, at(n) * 3);
  x[0] = 1e20;  // far above the sums of the rows that do not reach it
  const DiffuseOptions o{.teleport = 0, .hops = 1, .normalization = Normalization::row};
  const std::vector<double> before = value_of(graph, x, o);
  REQUIRE(graph.implicit());
  const std::vector<double> plain =
      value_of(graph, x, o, nullptr, {.threads = 1, .backend = Backend::reference});
  for (std::size_t i = 6; i < plain.size(); ++i) CHECK(before[i] == doctest::Approx(plain[i]).epsilon(1e-12));
  CHECK(graph.indices().size() == at(graph.nnz()));
  CHECK(value_of(graph, x, o) == before);
  const Graph copy = Graph::from_csr(n, n, {graph.indptr().begin(), graph.indptr().end()},
                                     {graph.indices().begin(), graph.indices().end()});
  CHECK(value_of(copy, x, o) == before);
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

TEST_CASE("diffuse: the bound holds on drawn graphs (property)") {
  CHECK(rc::check("distance to the limit is at most the bound", [] {
    const auto seed = *rc::gen::inRange<std::uint64_t>(0, 1U << 20);
    const Offset n = *rc::gen::inRange<Offset>(1, 40);
    const double a = 0.05 + 0.01 * *rc::gen::inRange(0, 90);
    const int hops = *rc::gen::inRange(0, 12);
    const auto nz = *rc::gen::element(Normalization::sym, Normalization::row, Normalization::col);
    const bool heat = *rc::gen::arbitrary<bool>();
    const Graph graph = drawn_graph(seed, n, 3, 1);
    const std::vector<double> x = drawn_signal(seed, at(n));
    DiffuseOptions o{
        .kernel = heat ? Kernel::heat : Kernel::ppr, .teleport = a, .t = 5 * a, .normalization = nz};
    DiffuseOptions far = o;
    far.tol = 1e-14;
    o.hops = hops;
    DiffuseResult r;
    const std::vector<double> z = value_of(graph, x, o, &r);
    const std::vector<double> limit = value_of(graph, x, far);
    const auto norm = [&](const auto& entry) {
      double sum = 0;
      for (std::size_t i = 0; i < x.size(); ++i) {
        const double v = std::abs(entry(i));
        sum = nz == Normalization::row ? std::max(sum, v) : sum + (nz == Normalization::col ? v : v * v);
      }
      return nz == Normalization::sym ? std::sqrt(sum) : sum;
    };
    const double distance = norm([&](std::size_t i) { return z[i] - limit[i]; });
    RC_ASSERT(distance <= (r.bound + 1e-12) * norm([&](std::size_t i) { return x[i]; }));
  }));
}
