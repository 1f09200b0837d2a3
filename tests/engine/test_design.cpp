#include <doctest/doctest.h>

#include <cmath>
#include <limits>

#include "manyhop/engine/spectral/design.hpp"
#include "manyhop/engine/spectral/expansion.hpp"
#include "manyhop/graphs/base/error.hpp"
#include "manyhop/graphs/patterns/pattern.hpp"

using namespace manyhop;

namespace {

spectral::DesignOptions small() {
  spectral::DesignOptions options;
  options.n = 256;
  options.edges_per_token = 64;
  options.align = 8;
  options.repeat = 1;
  return options;
}

}  // namespace

TEST_CASE("a design's text gives its numbers back, within the budget") {
  const auto found = spectral::design({}, small());
  REQUIRE(found.chosen);
  for (const auto& item : found.designs) {
    CAPTURE(item.text);
    const Graph graph = pattern(item.text, 256);
    CHECK(graph.nnz() == item.edges);
    CHECK(*spectral::gap({}, graph).gap == doctest::Approx(*item.gap).epsilon(1e-8));
    CHECK(*spectral::capacity({}, graph) == doctest::Approx(*item.capacity).epsilon(1e-12));
    CHECK(item.measured_seconds > 0);
    if (!item.baseline) CHECK(item.edges <= 256 * 64);
  }
  const auto& best = found.designs[*found.chosen];
  CHECK(*best.capacity >= 0.9);
  CHECK_FALSE(best.baseline);
  CHECK(*best.gap >= 0.95 * *found.ceiling);
  CHECK(*found.ceiling == doctest::Approx(1 - 2 * std::sqrt(7.0) / 8));
}

TEST_CASE("a kept pattern is part of every design") {
  auto options = small();
  options.keep = "window(3)";
  const auto found = spectral::design({}, options);
  REQUIRE(found.chosen);
  const Graph kept = pattern("window(3)", 256);
  for (const auto& item : found.designs)
    if (!item.baseline) CHECK(subtract(kept, pattern(item.text, 256)).nnz() == 0);
  options.keep = "full";
  CHECK_THROWS_AS(spectral::design({}, options), ValueError);
}

TEST_CASE("beside a kept window few long edges are shortcuts, and a larger budget is no worse") {
  auto options = small();
  options.n = 512;
  options.edges_per_token = 32;
  options.align = 8;
  options.keep = "window(4)";
  const auto best = [&] {
    const auto found = spectral::design({}, options);
    return *found.designs[found.chosen.value()].gap;
  };
  CHECK(best() > 0.05);  // window(4)|lift(regular(2), 8); the ring beside it has 0.003
  options.keep.clear();
  options.n = 257;  // 33 blocks
  options.edges_per_token = 20;
  const double small_budget = best();
  options.edges_per_token = 24;
  CHECK(best() >= small_budget);
}

TEST_CASE("causal designs look back only and are judged by reach") {
  auto options = small();
  options.causal = true;
  const auto found = spectral::design({}, options);
  REQUIRE(found.chosen);
  for (const auto& item : found.designs) {
    CHECK(subtract(pattern(item.text, 256), pattern("causal", 256)).nnz() == 0);
    CHECK_FALSE(item.gap);
  }
  CHECK(found.designs[*found.chosen].reach > 0.4);
}

TEST_CASE("what is too slow is left out") {
  auto options = small();
  options.max_ms = 1e-6;
  CHECK_FALSE(spectral::design({}, options).chosen);
}

TEST_CASE("candidates that pass the memory limit are left out, and all of them are an error") {
  Context ctx;
  auto options = small();
  options.align = 1;  // from few edges in blocks to single ones
  std::size_t limit = std::size_t{1} << 24;
  const auto all = spectral::design(ctx, options);
  CHECK(all.left_out == 0);
  bool some = false;
  for (; limit > 1024 && !some; limit /= 2) {
    ctx.memory_limit = limit;
    try {
      const auto found = spectral::design(ctx, options);
      some = found.left_out > 0;
      if (some) CHECK(found.tried < all.tried);
    } catch (const LimitError&) {
      break;
    }
  }
  CHECK(some);
  ctx.memory_limit = 1024;
  CHECK_THROWS_AS(spectral::design(ctx, options), LimitError);
}

TEST_CASE("a complete graph has no ceiling") {
  auto options = small();
  options.n = 16;
  options.align = 1;
  options.edges_per_token = 1e300;
  const auto found = spectral::design({}, options);
  REQUIRE(found.chosen);
  CHECK_FALSE(found.ceiling);
}

TEST_CASE("bad arguments of design") {
  const auto refuse = [](auto&& change) {
    auto options = small();
    change(options);
    CHECK_THROWS_AS(spectral::design({}, options), ValueError);
  };
  refuse([](auto& o) { o.n = 1; });
  refuse([](auto& o) { o.edges_per_token = std::numeric_limits<double>::quiet_NaN(); });
  refuse([](auto& o) { o.edges_per_token = 0; });
  refuse([](auto& o) { o.align = 0; });
  refuse([](auto& o) { o.align = 65; });
  refuse([](auto& o) { o.keep = "nonsense("; });
  refuse([](auto& o) { o.seeds = 0; });
}
