// No path but to_dense allocates n x n. This binary replaces operator new by one that counts, runs each path
// on n = 4096 tokens and compares the largest single allocation and the peak with what the path may hold. To
// add a path, write a case with `measure`.
#include <doctest/doctest.h>

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <functional>
#include <new>
#include <string>
#include <vector>

#include "manyhop/engine/attention.hpp"
#include "manyhop/engine/sparsek/attention.hpp"
#include "manyhop/graphs/graph.hpp"
#include "manyhop/graphs/patterns/pattern.hpp"
#include "manyhop/graphs/spy.hpp"
#include "manyhop/graphs/tiling.hpp"

namespace {

std::atomic<std::size_t> largest{0};
std::atomic<std::size_t> held{0};
std::atomic<std::size_t> peak{0};
constexpr std::size_t kHeader = 64;  // in front of each block: its size; keeps any alignment up to 64

void raise(std::atomic<std::size_t>& mark, std::size_t value) {
  std::size_t seen = mark.load();
  while (seen < value && !mark.compare_exchange_weak(seen, value)) {
  }
}

void* take(std::size_t bytes) {
  void* const block = std::aligned_alloc(kHeader, (bytes + 2 * kHeader - 1) / kHeader * kHeader);
  if (block == nullptr) throw std::bad_alloc();
  *static_cast<std::size_t*>(block) = bytes;
  raise(largest, bytes);
  raise(peak, held += bytes);
  return static_cast<std::byte*>(block) + kHeader;
}

void give(void* pointer) {
  if (pointer == nullptr) return;
  void* const block = static_cast<std::byte*>(pointer) - kHeader;
  held -= *static_cast<std::size_t*>(block);
  std::free(block);
}

}  // namespace

void* operator new(std::size_t bytes) { return take(bytes); }
void* operator new[](std::size_t bytes) { return take(bytes); }
void* operator new(std::size_t bytes, std::align_val_t) { return take(bytes); }
void* operator new[](std::size_t bytes, std::align_val_t) { return take(bytes); }
// A sanitizer brings its own forms that do not throw, so these are replaced too.
void* operator new(std::size_t bytes, const std::nothrow_t&) noexcept { return take(bytes); }
void* operator new[](std::size_t bytes, const std::nothrow_t&) noexcept { return take(bytes); }
void operator delete(void* pointer) noexcept { give(pointer); }
void operator delete[](void* pointer) noexcept { give(pointer); }
void operator delete(void* pointer, std::size_t) noexcept { give(pointer); }
void operator delete[](void* pointer, std::size_t) noexcept { give(pointer); }
void operator delete(void* pointer, std::align_val_t) noexcept { give(pointer); }
void operator delete[](void* pointer, std::align_val_t) noexcept { give(pointer); }
void operator delete(void* pointer, std::size_t, std::align_val_t) noexcept { give(pointer); }
void operator delete[](void* pointer, std::size_t, std::align_val_t) noexcept { give(pointer); }
void operator delete(void* pointer, const std::nothrow_t&) noexcept { give(pointer); }
void operator delete[](void* pointer, const std::nothrow_t&) noexcept { give(pointer); }

using namespace manyhop;

namespace {

struct Use {
  std::size_t largest = 0;
  std::size_t peak = 0;  // above what was held before
};

Use measure(const std::function<void()>& work) {
  const std::size_t before = held;
  largest = 0;
  peak = before;
  work();
  return {largest, peak - before};
}

constexpr Offset kTokens = 4096;
constexpr std::size_t kDense = std::size_t{kTokens} * kTokens * sizeof(float);  // 64 MiB
const std::vector<std::string> kImplicit{"full", "causal", "full - self", "causal - self"};
const std::vector<std::string> kSparse{"diffuser", "longformer(64, 16)", "random(64, 0)", "regular(64)",
                                       "window(64) | t(random(8, 1))"};

// Bytes for each edge that a path may hold at once while it makes or reads a sparse graph of m edges.
std::size_t linear(const Graph& graph, std::size_t per_edge) {
  return (std::size_t{1} << 21) + static_cast<std::size_t>(graph.nnz()) * per_edge;
}

}  // namespace

TEST_CASE("the counter sees what is allocated") {
  const Use use = measure([] {
    const std::vector<char> one(1000000);
    const std::vector<char> two(2000000);
    CHECK(one.size() + two.size() == 3000000);
  });
  CHECK(use.largest == 2000000);
  CHECK(use.peak >= 3000000);
  CHECK(use.peak < 3001000);
}

TEST_CASE("implicit graphs cost their runs") {
  for (const std::string& text : kImplicit) {
    CAPTURE(text);
    const auto check = [&](const std::string& path, const std::function<void()>& work) {
      CAPTURE(path);
      const Use use = measure(work);
      CHECK(use.largest < kDense / 16);
      CHECK(use.peak < kDense / 8);
    };
    Graph graph;
    check("pattern", [&] { graph = pattern(text, kTokens); });
    REQUIRE(graph.implicit());
    check("hash", [&] { graph.hash(); });
    check("transpose", [&] { graph.transpose(); });
    check("components", [&] { components(graph); });
    check("facts", [&] { is_symmetric(graph), self_loop_count(graph), degrees(graph); });
    check("algebra", [&] { intersect(unite(graph, pattern("self", kTokens)), symmetrised(graph)); });
    check("rows", [&] { graph.rows(100, 4000).same_edges(graph); });
    check("spy", [&] { spy_svg(graph), spy_braille(graph, 80, 40); });
    check("tiling", [&] { make_tiling(graph); });
    CHECK(graph.implicit());
  }
}

TEST_CASE("sparse graphs cost their edges") {
  for (const std::string& text : kSparse) {
    CAPTURE(text);
    Graph graph;
    const Use made = measure([&] { graph = pattern(text, kTokens); });
    CHECK(made.peak < linear(graph, 80));
    CHECK(made.largest < kDense / 3);
    const Use facts = measure([&] { graph.hash(), components(graph), degrees(graph), is_symmetric(graph); });
    CHECK(facts.peak < linear(graph, 16));
    const Use drawn = measure([&] { spy_svg(graph), spy_braille(graph, 80, 40); });
    CHECK(drawn.peak < (std::size_t{1} << 23));
    const Use tiled = measure([&] { make_tiling(graph); });
    CHECK(tiled.peak < linear(graph, 40));
  }
}

TEST_CASE("attention over an implicit graph holds q, k, v, out and its workspace") {
  const std::vector<float> x(kTokens * 16, 0.5F);
  std::vector<float> out(x.size());
  const TensorView<const float> view(x.data(), {1, 1, kTokens, 16});
  Context ctx;
  ctx.threads = 2;
  for (const std::string text : {"full", "causal"}) {
    CAPTURE(text);
    const Graph graph = pattern(text, kTokens);
    const Use use = measure([&] {
      const Plan chosen = plan(ctx, graph, {.heads = 1, .head_dim = 16});
      attention(ctx, chosen, view, view, view, TensorView<float>(out.data(), {1, 1, kTokens, 16}));
    });
    CHECK(use.largest < kDense / 8);
    CHECK(use.peak < kDense / 4);
    CHECK(out[0] == doctest::Approx(0.5));
    CHECK(graph.implicit());
  }
}

TEST_CASE("sparsek attention holds its selection as it changes, never row by row") {
  const std::vector<float> x(kTokens * 16, 0.5F), scores(kTokens, 1);
  std::vector<float> out(x.size());
  const TensorView<const float> view(x.data(), {1, 1, kTokens, 16});
  Context ctx;
  ctx.threads = 2;
  SparsekAttentionOptions options;  // equal scores: every key is kept by every row
  options.select.cap = kUncapped;
  const Use use = measure([&] {
    sparsek_attention<float>(ctx, view, view, view, {scores.data(), {1, 1, kTokens}},
                             {out.data(), {1, 1, kTokens, 16}}, options);
  });
  CHECK(use.largest < kDense / 16);
  CHECK(use.peak < kDense / 8);
}
