// What a call must not do: wait for the device, take other memory than memory() says, or lose bits of large
// numbers. The emulator counts and has no device's sizes, so these run there alone.
#ifndef MANYHOP_TEST_ON_DEVICE
#include <doctest/doctest.h>

#include <cmath>
#include <cstdint>
#include <string>
#include <vector>

#include "manyhop/engine/schedule.hpp"
#include "manyhop/graphs/base/error.hpp"
#include "manyhop/graphs/patterns/pattern.hpp"
#include "manyhop/ops/cuda/layout.hpp"
#include "manyhop/ops/cuda/rows.cuh"
#include "manyhop/ops/cuda/runtime.cuh"
#include "tests/ops/cuda/repeated.hpp"

using namespace manyhop;
using namespace manyhop::test;

namespace {

struct Counted {
  long waits, copies;
};
template <class F>
Counted counted(F&& call) {
  const Counted before{emulator::waits(), emulator::host_copies()};
  call();
  return {emulator::waits() - before.waits, emulator::host_copies() - before.copies};
}

/// Tensors that are on the device already, lengths and both dropouts.
template <class T>
Repeated<T> on_a_stream(cudaStream_t stream) {
  Repeated<T> calls({pattern("window(9)|random(2,seed=3)", 40)});
  calls.options.hops = 4;
  calls.options.teleport = 0.1;
  calls.options.dropout_p = 0.2;
  calls.options.hop_dropout_p = 0.2;
  calls.lengths = {17, 40};
  calls.on(stream);
  return calls;
}

template <class T>
void never_waits() {
  cudaStream_t stream = nullptr;
  REQUIRE(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking) == cudaSuccess);
  {
    Repeated<T> calls = on_a_stream<T>(stream);
    const auto want = calls.fresh().run();
    // The first call brings the names of edges, which dropout wants, to the device.
    CHECK(counted([&] { CHECK(calls.run().out == want.out); }).waits > 0);
    for (int round = 0; round < 3; ++round) {
      calls.options.seed = static_cast<std::uint64_t>(round);
      const Counted forward = counted([&] { calls.forward(); });
      CHECK(forward.waits == 0);
      CHECK(forward.copies == 0);
      const Counted backward = counted([&] { calls.backward(); });
      CHECK(backward.waits == 0);
      CHECK(backward.copies == 0);
    }
  }
  cudaStreamDestroy(stream);
}

/// What the device gave against what memory() said, for one plan.
template <class T>
void memory_as_told(const Graph& graph, const PlanOptions& wanted) {
  Context ctx;
  ctx.backend = Backend::cuda;
  ctx.threads = 1;
  ctx.stream = 0;
  PlanOptions options = wanted;
  options.dtype = dtype_for<T>();
  const std::size_t before = emulator::allocated();
  const Plan made = plan(ctx, graph, options);
  const PlanOptions& o = made.options();
  INFO("n ", graph.n_rows(), ", batch ", o.batch, ", heads ", o.heads, " over ", o.kv_heads, ", d ",
       o.head_dim, ", ", o.value_dim, ", hops ", o.hops, ", backward ", o.backward, ", bytes ", sizeof(T));
  // The graph on the device: what is kept there after planning.
  CHECK(emulator::allocated() - before == made.data().device.bytes());
  const Offset n = graph.n_rows();
  std::vector<T> q(static_cast<std::size_t>(o.batch * o.heads * n * o.head_dim), T(0.5F));
  std::vector<T> k(static_cast<std::size_t>(o.batch * o.kv_heads * n * o.head_dim), T(0.5F));
  std::vector<T> v(static_cast<std::size_t>(o.batch * o.kv_heads * n * o.value_dim), T(0.5F));
  std::vector<T> out(static_cast<std::size_t>(o.batch * o.heads * n * o.value_dim));
  std::vector<T> g = out;
  std::vector<T> dq = q;
  std::vector<T> dk = k;
  std::vector<T> dv = v;
  const auto view = [&](auto& of, Offset heads, Offset d) {
    return TensorView<T>(of.data(), {o.batch, heads, n, d});
  };
  const TensorView<T> q_view = view(q, o.heads, o.head_dim);
  const TensorView<T> k_view = view(k, o.kv_heads, o.head_dim);
  const TensorView<T> v_view = view(v, o.kv_heads, o.value_dim);
  AttentionOptions call;
  call.hops = o.hops;
  call.teleport = 0.1;
  const auto most = Repeated<T>::most_taken([&] {
    attention<T>(ctx, made, q_view, k_view, v_view, view(out, o.heads, o.value_dim), call);
    if (!o.backward) return;
    AttentionGradients<T> gradients;
    gradients.q = view(dq, o.heads, o.head_dim);
    gradients.k = view(dk, o.kv_heads, o.head_dim);
    gradients.v = view(dv, o.kv_heads, o.value_dim);
    gradients.wants_teleport = false;
    attention_backward<T>(ctx, made, q_view, k_view, v_view, view(g, o.heads, o.value_dim), gradients, call);
  });
  const auto told = static_cast<double>(made.memory().workspace);
  CHECK(static_cast<double>(most) <= 1.1 * told);
  CHECK(static_cast<double>(most) >= 0.9 * told);
}

}  // namespace

TEST_CASE("limits: a call on a stream neither waits nor copies from the host") {
  never_waits<bf16>();
  never_waits<float>();
}

TEST_CASE("limits: lengths of a large batch reach the device in several kernels") {
  Context ctx;
  ctx.backend = Backend::cuda;
  ctx.threads = 1;
  constexpr Offset kBatch = 1000;
  const Graph graph = pattern("full", 3);
  const Plan made = plan(ctx, graph, {.batch = kBatch, .heads = 1, .head_dim = 1, .dtype = DType::f64});
  std::vector<double> x(kBatch * 3, 1);
  std::vector<double> out(kBatch * 3);
  std::vector<Offset> lengths(kBatch);
  for (Offset b = 0; b < kBatch; ++b) lengths[static_cast<std::size_t>(b)] = b % 3;
  AttentionOptions options;
  options.lengths = lengths;
  const TensorView<const double> in(x.data(), {kBatch, 1, 3, 1});
  attention<double>(ctx, made, in, in, in, TensorView<double>(out.data(), {kBatch, 1, 3, 1}), options);
  for (Offset b = 0; b < kBatch; ++b) {
    for (Offset i = 0; i < 3; ++i) {
      const double want = i < lengths[static_cast<std::size_t>(b)] ? 1 : 0;
      CHECK(std::abs(out[static_cast<std::size_t>(b * 3 + i)] - want) < 1e-12);
    }
  }
}

TEST_CASE("limits: memory() tells what the device's allocator gives") {
  for (const char* text : {"window(9)", "diffuser(16,16,8,seed=1)", "random(5,seed=1)|global(1)"}) {
    const Graph graph = pattern(text, 100);
    for (const bool backward : {false, true}) {
      for (const int hops : {1, 3}) {
        PlanOptions options;
        options.heads = 2;
        options.head_dim = 24;
        options.hops = hops;
        options.backward = backward;
        memory_as_told<bf16>(graph, options);
        memory_as_told<float>(graph, options);
        options.batch = 2;
        options.kv_heads = 1;
        options.value_dim = 40;
        memory_as_told<bf16>(graph, options);
        memory_as_told<double>(graph, options);
      }
    }
  }
}

TEST_CASE("limits: grids as large as a device has, and no larger") {
  using ops::cuda::grid_of;
  constexpr std::int64_t kMostWarps = std::int64_t{0x7fffffff} * 4;
  CHECK(grid_of(1, 1).x == 1);
  CHECK(grid_of(5, 7).x == 2);
  CHECK(grid_of(5, 7).y == 7);
  CHECK(grid_of(kMostWarps, 65535).x == 0x7fffffffU);
  CHECK_THROWS_WITH_AS(grid_of(kMostWarps + 1, 1),
                       "cuda: a launch of 2147483648 blocks for 1 units, a grid holds 2147483647 for 65535",
                       LimitError);
  CHECK_THROWS_AS(grid_of(std::int64_t{1} << 62, 1), LimitError);
  CHECK_THROWS_AS(grid_of(1, 65536), LimitError);
}

TEST_CASE("limits: numbers of tasks that their type holds, and no larger") {
  using ops::cuda::task_number;
  CHECK(task_number(0x7fffffff) == 0x7fffffff);
  CHECK_THROWS_WITH_AS(task_number(std::size_t{1} << 31),
                       "cuda: 2147483648 tasks, fewer than 2^31 rows and parts of rows are wanted",
                       LimitError);
}

TEST_CASE("limits: places beyond 2^31 in what kernels count") {
  using namespace ops::cuda;
  // The last warp and thread of the largest grid.
  blockIdx = dim3(0x7ffffffe, 999);
  threadIdx = dim3(127);
  CHECK(warp_id() == (std::int64_t{0x7ffffffe} * 4) + 3);
  CHECK(thread_id() == (std::int64_t{0x7ffffffe} * 128) + 127);
  const auto bytes = [](const auto* to) { return reinterpret_cast<std::uintptr_t>(to); };
  constexpr std::int64_t kRows = std::int64_t{1} << 24;
  // Unit 999 of rows of 256 features: 4e12 values in.
  const Rows<bf16> rows{nullptr, kRows, 256, 1};
  CHECK(bytes(rows.row(999, kRows - 1)) == 2 * ((999 * kRows + kRows - 1) * 256));
  const Strided<float> strided{nullptr, 8 * kRows * 256, kRows * 256, 256, 1};
  CHECK(bytes(strided.at(999, 8, kRows - 1, 255)) == 4 * (((999 * kRows) + kRows - 1) * 256 + 255));
  const Parts<float> parts{nullptr, kRows, 256};
  CHECK(bytes(parts.of(kRows - 1)) == 4 * ((999 * kRows + kRows - 1) * 256));
  const Series<double> series{{nullptr, kRows, 64, 1}, {nullptr, kRows, 64, 1}, 12 * kRows * 64};
  CHECK(bytes(series.row(100, 11, 5)) == 8 * ((11 * kRows + 5) * 64 + 99 * (12 * kRows * 64)));
  Units units;
  units.step = 3;
  CHECK(units.unit() == 2997);
  // A hub's task of edges lies where 32 bits do not reach.
  const EdgeTask task{(std::int64_t{1} << 33) - 512, std::int64_t{1} << 33, 7};
  CHECK(task.end - task.begin == 512);
  blockIdx = dim3();
  threadIdx = dim3();
}
#endif
