// diffuse against numbers of SciPy.
#include <doctest/doctest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <utility>
#include <vector>

#include "tests/support/diffusion_run.hpp"

using namespace manyhop;
using namespace manyhop::test;

namespace {

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
  const std::vector<double> weights{2, 0.5, 1, 0.25, 3, 0.75, 1.5, 0.125};
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
