#include <doctest/doctest.h>

#include <algorithm>
#include <limits>
#include <string>
#include <vector>

#include "manyhop/engine/attention.hpp"
#include "manyhop/engine/plan_cache.hpp"
#include "manyhop/graphs/base/error.hpp"
#include "manyhop/graphs/patterns/pattern.hpp"

using namespace manyhop;

namespace {
bool has(const std::vector<std::string>& lines, const std::string& text) {
  return std::any_of(lines.begin(), lines.end(),
                     [&](const std::string& line) { return line.find(text) != std::string::npos; });
}
}  // namespace

TEST_CASE("plan cache: one plan for one graph and shape") {
  const Context ctx;
  PlanCache cache(2);
  const PlanOptions options{.heads = 2, .head_dim = 8, .hops = 3};
  const Graph graph = pattern("diffuser(8, 4, 2)", 64);
  const Plan first = cache.get(ctx, graph, options);
  CHECK(&cache.get(ctx, graph, options).data() == &first.data());
  // Equal edges in other storage, as when a layer makes the pattern again.
  CHECK(&cache.get(ctx, pattern("diffuser(8, 4, 2)", 64), options).data() == &first.data());
  CHECK(cache.hits() == 2);
  CHECK(cache.misses() == 1);

  PlanOptions other = options;
  other.hops = 4;
  CHECK(&cache.get(ctx, graph, other).data() != &first.data());
  CHECK(&cache.get(ctx, pattern("diffuser(8, 4, 2, seed=1)", 64), options).data() != &first.data());
  CHECK(cache.size() == 2);  // the first was used least lately
  CHECK(cache.misses() == 3);
  CHECK(&cache.get(ctx, graph, options).data() != &first.data());
  Context limited;
  limited.memory_limit = std::size_t{1} << 30;
  CHECK(cache.get(limited, graph, options).options().hops == 3);
  CHECK(cache.misses() == 5);
  limited.memory_limit = 1;
  CHECK_THROWS_AS(cache.get(limited, graph, options), LimitError);
  CHECK(cache.size() == 2);
  cache.clear();
  CHECK(cache.size() == 0);
}

TEST_CASE("plan: explain names parts, rejected choices, predicted and measured time") {
  const Context ctx;
  const Graph graph = pattern("window(16) | random(5)", 256);
  const PlanOptions options{.heads = 2, .head_dim = 16, .hops = 2};
  const Plan made = plan(ctx, graph, options);
  const auto before = made.explain();
  for (const char* text : {"dense     a hop", "single    a hop", "rejected  dense columns as single edges",
                           "rejected  single edges as dense columns", "rejected  weights made again",
                           "predicted", "measured  not run yet", "GFLOP"}) {
    CHECK_MESSAGE(has(before, text), text);
  }
  std::vector<float> x(static_cast<std::size_t>(2 * 256 * 16), 0.5F), out(x.size());
  const TensorView<const float> view(x.data(), {1, 2, 256, 16});
  AttentionOptions run;
  run.hops = 2;
  attention<float>(ctx, made, view, view, view, {out.data(), {1, 2, 256, 16}}, run);
  CHECK(has(made.explain(), "by the last run"));
  const auto none = plan(ctx, pattern("self - self", 8), options).explain();
  CHECK_FALSE(has(none, "a hop of a head"));
  CHECK_NOTHROW(plan(ctx, Graph(), options).explain());
  Context reference;
  reference.backend = Backend::reference;
  CHECK(has(plan(reference, graph, options).explain(), "plain loops"));
  CHECK(
      has(plan(ctx, graph, {.heads = 2, .head_dim = 16, .hops = 2, .reorder = Reorder::automatic}).explain(),
          "order     auto asked for"));
}

TEST_CASE("plan: sizes that no memory holds are refused") {
  const Context ctx;
  const Graph graph = pattern("self", 8);
  const auto message = [&](const PlanOptions& options) -> std::string {
    try {
      (void)plan(ctx, graph, options);
    } catch (const ValueError& error) {
      return error.what();
    }
    return "";
  };
  constexpr int kMost = std::numeric_limits<int>::max();
  CHECK(message({.head_dim = kMost}) == "plan: head_dim is 2147483647, at most 16777216 is wanted");
  CHECK(message({.head_dim = 8, .value_dim = kMost}) ==
        "plan: value_dim is 2147483647, at most 16777216 is wanted");
  CHECK(message({.batch = Offset{1} << 40, .heads = kMost, .head_dim = 64}).find("at most 2^60 are wanted") !=
        std::string::npos);
}
