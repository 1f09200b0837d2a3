// The CUDA backend, its kernels run lane by lane by the emulator, against the oracle.
#include "manyhop/engine/attention.hpp"

#include <doctest/doctest.h>

#include <cmath>
#include <cstdlib>
#include <string>
#include <vector>

#include "manyhop/graphs/base/error.hpp"
#include "manyhop/graphs/patterns/pattern.hpp"
#include "tests/ops/cuda/device.hpp"
#include "tests/support/attention_run.hpp"
#ifndef MANYHOP_TEST_ON_DEVICE
#include <cusparse.h>  // the emulator's
#endif

using namespace manyhop;
using namespace manyhop::test;

namespace {

Context cuda() {
  Context ctx;
  ctx.backend = Backend::cuda;
  ctx.threads = 1;
  return ctx;
}

struct Named {
  std::string name;
  Graph graph;
};

// Chunks that are full and not, single edges, panels and rows of several tasks, empty rows, rectangles.
std::vector<Named> graphs() {
  std::vector<Named> all;
  for (const char* text :
       {"window(9)", "diffuser(8,8,4,seed=1)", "(window(20)&causal)|random(3,seed=2)", "full"}) {
    all.push_back({text, pattern(text, 70)});
  }
  all.push_back({"empty rows", random_graph(40, 40, 0.1, 1)});
  all.push_back({"hub", unite(star_graph(700), random_graph(700, 700, 0.001, 2))});
  all.push_back({"isolated", empty_graph(7, 7)});
  all.push_back({"rectangular", random_graph(21, 34, 0.3, 3)});
  all.push_back({"rectangular full", pattern("full", 50, 33)});
  all.push_back({"one token", pattern("full", 1)});
  all.push_back({"no token", empty_graph(0, 0)});
  return all;
}

template <class T>
AttentionCase case_of(const Graph& graph, int hops, double teleport, Offset d, Offset d_v) {
  AttentionCase c;
  c.graphs = {graph};
  const bool large = graph.n_rows() > 300;
  c.batch = large ? 1 : 2;
  c.heads = large ? 2 : 4;
  c.kv_heads = 2;
  c.d = d;
  c.d_v = d_v;
  c.q = doubles(random_values<T>(c.batch * c.heads * c.rows() * c.d, 1));
  c.k = doubles(random_values<T>(c.batch * c.kv_heads * c.cols() * c.d, 2));
  c.v = doubles(random_values<T>(c.batch * c.kv_heads * c.cols() * c.d_v, 3));
  c.hops = graph.square() ? hops : 1;
  c.teleport = graph.square() ? teleport : 0;
  c.scale = 1 / std::sqrt(static_cast<double>(d));
  c.seed = 17;
  return c;
}

struct Tolerance {
  double out, weights, gradient;
};
template <class T>
constexpr Tolerance tolerance() {
  if (sizeof(T) == 8) return {1e-12, 1e-6, 1e-11};  // weights and lse are asked for in float
  if (sizeof(T) == 4) return {2e-6, 1e-5, 1e-5};
  return {1e-2, 1e-2, 2e-2};
}

template <class T>
void compare(AttentionCase c, const std::string& name, int bias_shape = 0, bool backward = false,
             AttentionBackward mode = AttentionBackward::stored, Layout layout = Layout::bshd) {
  const Offset m = c.graphs[0].nnz();
  const Offset copies = bias_shape == 0   ? 0
                        : bias_shape == 1 ? 1
                        : bias_shape == 2 ? c.heads
                                          : c.batch * c.heads;
  const auto bias = random_values<float>(m * copies, 4);
  if (!bias.empty()) {
    c.bias = [&](Offset b, Offset h, Offset e) {
      return double{bias[static_cast<std::size_t>((b * c.heads + h) * m + e) % bias.size()]};
    };
  }
  std::vector<double> g;
  std::vector<float> g_lse;
  if (backward) {
    g = doubles(random_values<T>(c.batch * c.heads * c.rows() * c.d_v, 5));
    g_lse = random_values<float>(c.batch * c.heads * c.rows(), 6);
  }
  const auto want = oracle(c, g, doubles(g_lse));
  const std::size_t before = device_bytes();
  const auto got = run_attention<T>(cuda(), c, layout, bias, g, g_lse, mode);
  CHECK(device_bytes() == before);
  INFO(name, ", n ", c.rows(), ", d ", c.d, ", d_v ", c.d_v, ", hops ", c.hops, ", teleport ", c.teleport,
       ", bias ", bias_shape, ", mode ", static_cast<int>(mode), ", bytes ", sizeof(T));
  constexpr Tolerance kTolerance = tolerance<T>();
  CHECK(relative_l2(got.out, want.out, got.out.size()).total < kTolerance.out);
  CHECK(relative_l2(got.lse, want.lse, got.lse.size()).total < 1e-6);
  if (!got.weights.empty()) {
    CHECK(relative_l2(got.weights, flat(want.weights), got.weights.size()).total < kTolerance.weights);
  }
  CHECK(got.untouched);
  if (g.empty()) return;
  CHECK(relative_l2(got.dq, want.dq, got.dq.size()).total < kTolerance.gradient);
  CHECK(relative_l2(got.dk, want.dk, got.dk.size()).total < kTolerance.gradient);
  CHECK(relative_l2(got.dv, want.dv, got.dv.size()).total < kTolerance.gradient);
  if (!bias.empty()) {
    const auto dbias = reduced(want.dbias, bias.size());
    CHECK(relative_l2(got.dbias, dbias, dbias.size()).total < std::max(kTolerance.gradient, 1e-6));
  }
  CHECK(std::abs(got.dteleport - want.dteleport) < 10 * kTolerance.gradient * (1 + std::abs(want.dteleport)) *
                                                       std::sqrt(static_cast<double>(1 + g.size())));
}

}  // namespace

DEVICE_CASE("forward: every structure in every type") {
  for (const Named& named : graphs()) {
    compare<float>(case_of<float>(named.graph, 3, 0.2, 40, 24), named.name);
    compare<bf16>(case_of<bf16>(named.graph, 3, 0.2, 40, 24), named.name);
    compare<double>(case_of<double>(named.graph, 2, 0, 7, 5), named.name);
  }
}

DEVICE_CASE("forward: every width, and any strides") {
  const Graph graph = pattern("window(12)|random(2,seed=3)|global(2)", 75);
  for (const auto& [d, d_v] : {std::pair<Offset, Offset>{1, 1}, {32, 32}, {64, 64}, {80, 128}, {200, 256}}) {
    for (const Layout layout : {Layout::bhsd, Layout::gaps, Layout::spread}) {
      AttentionCase c = case_of<bf16>(graph, 2, 0.1, d, d_v);
      c.batch = 1;
      compare<bf16>(c, "widths", 0, false, AttentionBackward::stored, layout);
      if (layout == Layout::gaps) compare<float>(c, "widths", 0, false, AttentionBackward::stored, layout);
    }
  }
}

DEVICE_CASE("forward: bias, dropout, lengths and hops") {
  const Graph graph = pattern("window(6)|random(3,seed=3)|global(1)", 50);
  for (const int hops : {0, 1, 4}) {
    for (int bias = 0; bias < 4; ++bias) {
      AttentionCase c = case_of<bf16>(graph, hops, 0.1, 16, 16);  // which float holds too
      if (bias % 2 == 1) c.lengths = {17, 50};
      if (bias > 1) c.dropout_p = 0.3;
      if (bias == 3) c.hop_dropout_p = 0.2;
      compare<float>(c, "bias", bias);
      compare<bf16>(c, "bias", bias);
    }
  }
  const AttentionCase one = case_of<float>(graph, 3, 1, 16, 16);
  compare<float>(one, "teleport 1");
}

DEVICE_CASE("backward: stored, checkpointed and implicit") {
  for (const Named& named : graphs()) {
    for (const auto& [hops, teleport] : {std::pair{0, 0.3}, {0, 1.0}, {1, 0.0}, {5, 0.1}, {3, 1.0}}) {
      for (const AttentionBackward mode : {AttentionBackward::stored, AttentionBackward::checkpointed}) {
        if (named.graph.n_rows() > 300 && hops != 1) continue;
        if (mode == AttentionBackward::checkpointed && hops != 5) continue;
        compare<double>(case_of<double>(named.graph, hops, teleport, 7, 5), named.name, hops % 4, true, mode);
      }
    }
    compare<bf16>(case_of<bf16>(named.graph, 3, 0.1, 24, 32), named.name, 0, true,
                  AttentionBackward::checkpointed);
    compare<float>(case_of<float>(named.graph, 3, 0.1, 24, 32), named.name, 1, true);
    if (named.name != "empty rows" && named.name != "one token") continue;
    compare<double>(case_of<double>(named.graph, 120, 0.3, 7, 5), named.name, 1, true,
                    AttentionBackward::implicit);
  }
}

DEVICE_CASE("backward: bias, dropout and lengths on tiles") {
  const Graph graph = pattern("window(6)|random(3,seed=3)|global(1)", 50);
  for (int bias = 0; bias < 4; ++bias) {
    AttentionCase c = case_of<bf16>(graph, 3, 0.1, 64, 64);
    if (bias % 2 == 1) c.lengths = {17, 50};
    if (bias > 1) c.dropout_p = 0.3;
    if (bias == 3) c.hop_dropout_p = 0.2;
    compare<bf16>(c, "tiles", bias, true);
    compare<double>(c, "edges", bias, true);
  }
}

DEVICE_CASE("a graph for each head") {
  AttentionCase c = case_of<double>(pattern("window(6)", 40), 3, 0.2, 8, 8);
  c.graphs = {pattern("window(6)", 40), pattern("window(3)&causal", 40), pattern("random(5,seed=1)", 40),
              pattern("full", 40)};
  const auto g = random_values<double>(c.batch * c.heads * c.rows() * c.d_v, 5);
  const auto want = oracle(c, g);
  const auto got = run_attention<double>(cuda(), c, Layout::bhsd, {}, g);
  CHECK(relative_l2(got.out, want.out, 8).worst_row < 1e-12);
  CHECK(relative_l2(got.dq, want.dq, got.dq.size()).total < 1e-12);
  CHECK(relative_l2(got.dk, want.dk, got.dk.size()).total < 1e-12);
  CHECK(relative_l2(got.dv, want.dv, got.dv.size()).total < 1e-12);
}

DEVICE_CASE("a rectangle for each head: gradients of one do not write over those that another waits for") {
  for (const auto& [rows, cols] : {std::pair<Offset, Offset>{21, 34}, {34, 21}}) {
    INFO(rows, " x ", cols);
    AttentionCase c = case_of<double>(random_graph(rows, cols, 0.3, 3), 1, 0, 8, 8);
    c.graphs.clear();
    for (std::uint64_t head = 0; head < 4; ++head)
      c.graphs.push_back(random_graph(rows, cols, 0.3, 5 + head));
    const auto g = random_values<double>(c.batch * c.heads * c.rows() * c.d_v, 5);
    const auto want = oracle(c, g);
    const auto got = run_attention<double>(cuda(), c, Layout::bhsd, {}, g);
    CHECK(relative_l2(got.out, want.out, 8).worst_row < 1e-12);
    CHECK(relative_l2(got.dq, want.dq, got.dq.size()).total < 1e-12);
    CHECK(relative_l2(got.dk, want.dk, got.dk.size()).total < 1e-12);
    CHECK(relative_l2(got.dv, want.dv, got.dv.size()).total < 1e-12);
  }
}

#ifndef MANYHOP_TEST_ON_DEVICE
namespace {
const char* hops_asked() {
  const char* asked = std::getenv("MANYHOP_CUDA_HOPS");
  return asked == nullptr ? "" : asked;
}
}  // namespace

TEST_CASE("hops by cuSPARSE: one product a hop after the first and head, told by explain") {
  const bool asked = std::string(hops_asked()) == "cusparse";
  const AttentionCase c = case_of<float>(pattern("window(6)|global(1)", 50), 3, 0.2, 16, 16);
  const long before = emulator::sparse_products;
  const auto got = run_attention<float>(cuda(), c);
  CHECK(emulator::sparse_products - before ==
        (asked ? 2 * c.batch * c.heads : 6 * c.batch * c.heads));  // else: measured, a tie
  CHECK(relative_l2(got.out, oracle(c).out, got.out.size()).total < 2e-6);
  PlanOptions options;
  options.heads = 4;
  options.head_dim = 16;
  options.hops = 3;
  std::string told;
  for (const std::string& line : plan(cuda(), c.graphs[0], options).explain()) told += line + "\n";
  INFO(told);
  CHECK(told.find(asked
                      ? "hops      cuSPARSE (MANYHOP_CUDA_HOPS)"
                      : "hops      own kernels (1 ms a hop of 4 heads, cuSPARSE 1 ms)") != std::string::npos);
}

TEST_CASE("hops by cuSPARSE: measured once in a process, not where bits are to be the same in each") {
  if (*hops_asked() != '\0') return;
  const Graph graph = pattern("window(6)|global(1)", 51);
  PlanOptions options;
  options.heads = 3;
  options.head_dim = 16;
  const auto told = [&](const PlanOptions& given) {
    for (const std::string& line : plan(cuda(), graph, given).explain()) {
      if (line.rfind("hops", 0) == 0) return line.substr(10);
    }
    return std::string();
  };
  // The first of a process: without the memory for it there is no measurement, and the next plan makes one.
  bool failed = false;
  for (int allowed = 0; allowed < 40 && !failed; ++allowed) {
    fail_allocations_after(allowed);
    try {
      failed = told(options) == "own kernels (device memory: cudaMallocAsync: out of memory)";
    } catch (const LimitError&) {  // of the graph itself
    }
    fail_allocations_after(-1);
  }
  CHECK(failed);
  const float own = 2, theirs = 1;
  emulator::elapse({own, own, own, own, own, own, theirs, theirs, theirs, theirs, theirs, theirs});
  CHECK(told(options) == "cuSPARSE (1 ms a hop of 3 heads, own kernels 2 ms)");
  options.backward = true;
  const long products = emulator::sparse_products;
  CHECK(told(options) == "cuSPARSE (1 ms a hop of 3 heads, own kernels 2 ms)");
  CHECK(emulator::sparse_products == products);
  options.deterministic = true;
  CHECK(told(options) == "own kernels (deterministic)");
  CHECK(emulator::sparse_products == products);
}
#endif

DEVICE_CASE("the same bits in every run") {
  const AttentionCase c = case_of<bf16>(pattern("diffuser(8,8,4,seed=1)", 90), 3, 0.1, 32, 32);
  const auto g = doubles(random_values<bf16>(c.batch * c.heads * c.rows() * c.d_v, 5));
  const auto one = run_attention<bf16>(cuda(), c, Layout::bhsd, {}, g);
  const auto two = run_attention<bf16>(cuda(), c, Layout::bhsd, {}, g);
  CHECK(one.out == two.out);
  CHECK(one.dq == two.dq);
  CHECK(one.dk == two.dk);
  CHECK(one.dv == two.dv);
}

DEVICE_CASE(
    "memory: split by a limit with the same bits, refused with both numbers, failures leave nothing") {
  const AttentionCase c = case_of<float>(pattern("window(20)", 200), 3, 0.1, 32, 32);
  const auto whole = run_attention<float>(cuda(), c);
  Context limited = cuda();
  limited.memory_limit = std::size_t{3} << 20;
  const auto split = run_attention<float>(limited, c);
  CHECK(whole.out == split.out);
  CHECK(whole.weights == split.weights);
  limited.memory_limit = std::size_t{1} << 18;
  CHECK_THROWS_WITH_AS(run_attention<float>(limited, c),
                       doctest::Contains("memory limit: 0 MiB of device memory, the smallest split takes"),
                       LimitError);
  if (!kEmulated) return;
  const std::size_t before = device_bytes();
  for (int allowed = 0; allowed < 12; ++allowed) {
    fail_allocations_after(allowed);
    try {
      run_attention<float>(cuda(), c);
    } catch (const LimitError& error) {
      CHECK(std::string(error.what()).find("device memory: cudaMallocAsync") == 0);
    }
    fail_allocations_after(-1);
    CHECK(device_bytes() == before);
  }
  CHECK(run_attention<float>(cuda(), c).out == whole.out);
}

DEVICE_CASE("what a device does not take is told") {
  const AttentionCase wide = case_of<float>(pattern("window(2)", 10), 1, 0, 257, 8);
  CHECK_THROWS_WITH_AS(run_attention<float>(cuda(), wide),
                       "backend: 'cuda' takes heads of at most 256 features, here it is 257; 'cpu' takes any",
                       ValueError);
}
