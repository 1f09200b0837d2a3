#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

#include "manyhop/engine/spectral/probes.hpp"
#include "manyhop/engine/spectral/survey.hpp"
#include "manyhop/graphs/base/error.hpp"
#include "manyhop/graphs/patterns/pattern.hpp"
#include "spectral_oracle.hpp"

using namespace manyhop;

namespace {

spectral::SymmetricGraph mutual(const char* text, Offset n) {
  return spectral::symmetric_graph({}, pattern(text, n));
}

/// The largest difference of two cumulated histograms.
double distance(const std::vector<double>& a, const std::vector<double>& b) {
  double sum = 0, largest = 0;
  for (std::size_t k = 0; k < a.size(); ++k) {
    sum += a[k] - b[k];
    largest = std::max(largest, std::abs(sum));
  }
  return largest;
}

std::vector<double> histogram(std::vector<double> values, std::size_t bins) {
  std::vector<double> share(bins);
  for (const double v : values) {
    const double place =
        std::clamp((v + 1) / 2 * static_cast<double>(bins), 0.0, static_cast<double>(bins) - 1);
    share[static_cast<std::size_t>(place)] += 1 / static_cast<double>(values.size());
  }
  return share;
}

}  // namespace

TEST_CASE("both densities follow the eigenvalues") {
  for (const char* text : {"regular(4)", "random(5)", "smallworld(4, 0.2, 1)"}) {
    CAPTURE(text);
    const Graph graph = pattern(text, 120);
    const auto values = oracle::eigenvalues(oracle::normalized(graph), 120);
    spectral::DensityOptions options;
    options.bins = 21;
    options.probes = 60;
    const auto found = spectral::density({}, spectral::symmetric_graph({}, graph), options);
    const auto expected = histogram(values, 21);
    CHECK(distance(found.kpm, expected) < 0.05);
    CHECK(distance(found.lanczos, expected) < 0.04);
    CHECK(std::accumulate(found.kpm.begin(), found.kpm.end(), 0.0) == doctest::Approx(1));
    CHECK(std::accumulate(found.lanczos.begin(), found.lanczos.end(), 0.0) == doctest::Approx(1));
    CHECK(*std::max_element(found.lanczos_error.begin(), found.lanczos_error.end()) < 0.03);
  }
}

TEST_CASE("a large random regular graph follows Kesten and McKay") {
  const auto found = spectral::density({}, mutual("regular(4)", 4000), {});
  CHECK(found.law == "kesten-mckay");
  CHECK(std::accumulate(found.law_share.begin(), found.law_share.end(), 0.0) ==
        doctest::Approx(1).epsilon(1e-4));
  CHECK(distance(found.kpm, found.law_share) < 0.02);
  CHECK(distance(found.lanczos, found.law_share) < 0.03);
}

TEST_CASE("laws only where they apply") {
  CHECK(spectral::density({}, mutual("self", 50), {}).law.empty());
  CHECK(spectral::density({}, mutual("window(1) - self", 50), {}).law.empty());
  CHECK(spectral::density({}, mutual("random(6)", 200), {}).law == "semicircle");
  CHECK(spectral::density({}, mutual("window(8)", 400), {}).law.empty());
  CHECK(
      spectral::density({}, mutual("axial(20, 20)", 400), {}).law.empty());  // regular, and four eigenvalues
  CHECK(spectral::density({}, spectral::symmetric_graph({}, Graph()), {}).kpm.empty());
}

TEST_CASE("Kirchhoff indices in closed form, exact and from probes") {
  const auto index = [](const char* text, Offset n) {
    return *spectral::resistance({}, mutual(text, n)).kirchhoff;
  };
  CHECK(index("full - self", 10).value == doctest::Approx(9));                    // n - 1
  CHECK(index("window(1) - self", 12).value == doctest::Approx(12.0 * 143 / 6));  // (n^3 - n)/6
  CHECK(index("window(1, ring=true) - self", 12).value == doctest::Approx(12.0 * 143 / 12));
  CHECK(index("window(1, ring=true)", 12).value == doctest::Approx(143));    // loops carry nothing
  CHECK(index("global(1) - self", 20).value == doctest::Approx(19.0 * 19));  // (n - 1)^2
  for (const auto& [text, n, exact] :
       {std::tuple{"window(1) - self", Offset{400}, 400.0 * (400.0 * 400 - 1) / 6},
        std::tuple{"full - self", Offset{400}, 399.0},
        std::tuple{"global(1) - self", Offset{400}, 399.0 * 399}}) {
    CAPTURE(text);
    const auto found = index(text, n);
    CHECK(found.probes == 32);
    CHECK(std::abs(found.value - exact) <= 4 * found.error + 1e-6 * exact);
    CHECK(found.error < 0.02 * exact);  // by plain probes a path's would be 0.1
  }
}

TEST_CASE("resistance of several components is infinite, and solves are capped") {
  CHECK_FALSE(spectral::resistance({}, mutual("self", 4)).kirchhoff);
  CHECK(spectral::resistance({}, mutual("self", 1)).kirchhoff->value == 0);
  spectral::ProbeOptions options;
  options.max_work = 1e5;
  const auto capped = spectral::resistance({}, mutual("window(1) - self", 3000), options);
  CHECK_FALSE(capped.converged);
  CHECK_FALSE(capped.kirchhoff);
}

TEST_CASE("effective rank of known operators") {
  CHECK(spectral::effective_rank({}, pattern("self", 40))->value == doctest::Approx(40));
  CHECK(spectral::effective_rank({}, pattern("full", 40))->value == doctest::Approx(1));
  CHECK(spectral::effective_rank({}, pattern("full", 400))->value == doctest::Approx(1));
  CHECK(spectral::effective_rank({}, pattern("block(100)", 400))->value == doctest::Approx(4));
  const auto identity = spectral::effective_rank({}, pattern("self", 400));
  CHECK(identity->value == doctest::Approx(400).epsilon(0.01));
  CHECK_FALSE(spectral::effective_rank({}, Graph::from_edges(3, 3, {}, {})));
  CHECK_FALSE(spectral::effective_rank({}, Graph()));
}

TEST_CASE("the discrepancy stays below the second eigenvalue, and comes near it") {
  for (const char* text : {"regular(6)", "random(4)", "hypercube", "lift(regular(4), 8)"}) {
    CAPTURE(text);
    const Graph graph = pattern(text, 256);
    const auto values = oracle::eigenvalues(oracle::normalized(graph), 256);
    const double largest = std::max(std::abs(values.front()), std::abs(values[254]));
    spectral::SurveyOptions options;
    options.wanted.discrepancy = true;
    const auto found = *spectral::survey({}, graph, options).discrepancy;
    CHECK(*found.value <= largest + 1e-9);
    CHECK(*found.value >= 0.5 * largest);
    CHECK(found.random_pairs == 1000);
    CHECK(found.sweep_pairs == 2 * 255 * 256 / 2);
  }
}

TEST_CASE("probes have the same bits for any thread count") {
  const auto s = mutual("random(6, seed=1)", 600);
  Context one, three;
  one.threads = 1;
  three.threads = 3;
  CHECK(spectral::density(one, s).kpm == spectral::density(three, s).kpm);
  CHECK(spectral::density(one, s).lanczos == spectral::density(three, s).lanczos);
  CHECK(spectral::resistance(one, s).kirchhoff->value == spectral::resistance(three, s).kirchhoff->value);
  CHECK(*spectral::discrepancy(one, s, {}, 50).value == *spectral::discrepancy(three, s, {}, 50).value);
}

TEST_CASE("a survey of the Laplacian is that of the normalised matrix") {
  spectral::SurveyOptions options;
  const Graph graph = pattern("regular(4, seed=2)", 300);
  const auto plain = spectral::survey({}, graph, options);
  options.spectral.op = spectral::Operator::laplacian;
  const auto laplacian = spectral::survey({}, graph, options);
  CHECK(laplacian.gap.lambda2->real() == doctest::Approx(1 - plain.gap.lambda2->real()));
  CHECK(laplacian.normalized.lambda2->real() == doctest::Approx(plain.normalized.lambda2->real()));
  CHECK(laplacian.normalized.lambda_n->real() == doctest::Approx(plain.normalized.lambda_n->real()));
  CHECK(laplacian.cut->conductance == doctest::Approx(plain.cut->conductance));
}

TEST_CASE("a survey of graphs without much to measure") {
  for (const Offset n : {0, 1, 2}) {
    for (const char* text : {"self", "full", "full - self", "self - self"}) {
      CAPTURE(text);
      CAPTURE(n);
      const auto found = spectral::survey({}, pattern(text, n));
      CHECK(found.reason.empty());
      CHECK(found.cut.has_value() == (n >= 2));
    }
  }
  spectral::SurveyOptions options;
  options.spectral.op = spectral::Operator::adjacency;
  options.spectral.weighted = true;
  const Graph negative = Graph::from_csr(2, 2, {0, 1, 2}, {1, 0}, {-1, -1});
  const auto found = spectral::survey({}, negative, options);
  CHECK_FALSE(found.reason.empty());
  CHECK(found.gap.lambda2);
}

TEST_CASE("weights that are asked of a graph without any are ones of arcs") {
  // One arc 0 <- 1: S as 0/1 has degrees 1, as (W + W^T)/2 halves.
  const Graph arc = Graph::from_edges(2, 2, std::vector<Index>{0}, std::vector<Index>{1});
  CHECK(spectral::symmetric_graph({}, arc).degree[0] == 1);
  CHECK(spectral::symmetric_graph({}, arc, true).degree[0] == 0.5);
}

TEST_CASE("bad arguments of probes") {
  const auto s = mutual("window(1, ring=true)", 9);
  spectral::DensityOptions options;
  options.bins = 0;
  CHECK_THROWS_AS(spectral::density({}, s, options), ValueError);
  spectral::ProbeOptions probes;
  probes.probes = 1;
  CHECK_THROWS_AS(spectral::resistance({}, s, probes), ValueError);
  CHECK_THROWS_AS(spectral::effective_rank({}, pattern("full", 3, 4)), ValueError);
  CHECK_THROWS_AS(spectral::discrepancy({}, s, {std::vector<double>(3)}), ValueError);
  spectral::SurveyOptions survey;
  survey.eps = {2};
  CHECK_THROWS_AS(spectral::survey({}, pattern("full", 3), survey), ValueError);
}
