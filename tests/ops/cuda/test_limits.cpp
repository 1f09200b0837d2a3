// What a call must not do: wait for the device, or lose bits of large numbers. The emulator counts and has no
// device's sizes, so these run there alone.
#ifndef MANYHOP_TEST_ON_DEVICE
#include <doctest/doctest.h>

#include <bit>
#include <cmath>
#include <cstdint>
#include <string>
#include <vector>

#include "manyhop/graphs/base/error.hpp"
#include "manyhop/graphs/patterns/pattern.hpp"
#include "manyhop/ops/cuda/layout.hpp"
#include "manyhop/ops/cuda/rows.cuh"
#include "manyhop/ops/cuda/runtime.cuh"
#include "manyhop/ops/cuda/tile_kernels.cuh"
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
      const Counted forward = counted([&] { calls.queue_forward(); });
      CHECK(forward.waits == 0);
      CHECK(forward.copies == 0);
      const Counted backward = counted([&] { calls.queue_backward(); });
      CHECK(backward.waits == 0);
      CHECK(backward.copies == 0);
    }
  }
  cudaStreamDestroy(stream);
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
  blockIdx = dim3();
  threadIdx = dim3();
}

TEST_CASE("rounding to TF32: to nearest, ties away from zero, specials as they are") {
  using ops::cuda::to_tf32;
  const auto rounded = [](float value) {
    return std::bit_cast<float>(to_tf32(std::bit_cast<std::uint32_t>(value)));
  };
  CHECK(rounded(1.0F) == 1.0F);
  CHECK(rounded(1.0F + 0x1p-10F) == 1.0F + 0x1p-10F);
  CHECK(rounded(1.0F + 0x1p-11F) == 1.0F + 0x1p-10F);
  CHECK(rounded(-1.0F - 0x1p-11F) == -1.0F - 0x1p-10F);
  CHECK(rounded(1.0F + 0x1.ffcp-12F) == 1.0F);
  CHECK(rounded(0x1.fffp0F) == 2.0F);
  CHECK(rounded(-INFINITY) == -INFINITY);
  CHECK(rounded(0.0F) == 0.0F);
  CHECK(std::isnan(rounded(std::bit_cast<float>(0xffffffffU))));
  CHECK(std::isnan(rounded(std::bit_cast<float>(0x7f800001U))));
}

TEST_CASE("limits: kernels over edges and chunks whose numbers pass 2^31 and 2^33") {
  using namespace ops::cuda;
  constexpr std::int64_t kBeyond = (std::int64_t{1} << 33) + 7;
  constexpr int kEdges = 37;
  constexpr int kWidth = 32;
  const auto at = [](int e, int f) {
    return static_cast<std::size_t>(e) * kWidth + static_cast<std::size_t>(f);
  };
  // Arrays of 2^33 edges of which only the last ones are there.
  std::vector<Index> columns(kEdges);
  std::vector<float> x(kWidth, 0.25F);
  std::vector<float> y(kEdges * kWidth);
  for (int e = 0; e < kEdges; ++e) {
    columns[static_cast<std::size_t>(e)] = kEdges - 1 - e;
    for (int f = 0; f < kWidth; ++f) y[at(e, f)] = static_cast<float>(e % 5 - f % 3);
  }
  std::vector<float> values(kEdges);
  const EdgeTask task{kBeyond, kBeyond + kEdges, 0};
  const TaskRange whole{0, 1};
  const auto far = [&](auto& of) { return of.data() - kBeyond; };
  const Edges edges{&task, 1, far(columns), nullptr, kBeyond + kEdges};
  Units units;
  units.n_rows = 1;
  units.n_cols = kEdges;
  units.square = false;
  const Rows<float> rows{x.data(), 1, kWidth, 1};
  const Rows<float> neighbours{y.data(), kEdges, kWidth, 1};
  SoftmaxSum<float> sum;
  float lse = 0;
  Scores<float> scores;
  scores.lse_n = 1;
  launch_warps(edge_scores<float, kWidth>, 1, 1, nullptr,
               EdgeScores<float>{units, edges, rows, neighbours, scores, far(values), &sum});
  lse = sum.log_sum();
  scores.lse = &lse;
  launch_warps(edge_weights<float>, 1, 1, nullptr, EdgeWeights<float>{units, edges, scores, far(values)});
  std::vector<float> out(kWidth);
  Finish<float> finish;
  finish.out = out.data();
  finish.n = 1;
  finish.width = kWidth;
  launch_warps(edge_hop<float, kWidth>, 1, 1, nullptr,
               EdgeHop<float>{units, edges, far(values), neighbours, &whole, {}, finish});
  double total = 0;
  std::vector<double> want(kWidth);
  for (int e = 0; e < kEdges; ++e) {
    double product = 0;
    for (int f = 0; f < kWidth; ++f) product += 0.25 * static_cast<double>(y[at(e, f)]);
    total += std::exp(product);
    for (int f = 0; f < kWidth; ++f)
      want[static_cast<std::size_t>(f)] += std::exp(product) * static_cast<double>(y[at(e, f)]);
  }
  for (int f = 0; f < kWidth; ++f) {
    CHECK(static_cast<double>(out[static_cast<std::size_t>(f)]) ==
          doctest::Approx(want[static_cast<std::size_t>(f)] / total).epsilon(1e-5));
  }

  // One chunk of weights 1 for rows 0 .. 31, 2^33 chunks in: a row of ones, summed over 16 columns.
  std::vector<Index> chunk_columns(kChunkColumns);
  for (int c = 0; c < kChunkColumns; ++c) chunk_columns[static_cast<std::size_t>(c)] = c;
  std::vector<Index> panel_rows(kPanelRows);
  for (int r = 0; r < kPanelRows; ++r) panel_rows[static_cast<std::size_t>(r)] = r;
  const std::vector<std::uint32_t> ones(kChunkCells / 2, 0x3f803f80U);
  const std::vector<bf16> z(kChunkColumns * kWidth, bf16(2.0F));
  std::vector<bf16> sums(kPanelRows * kWidth, bf16(0.0F));
  const TileTask chunk{kBeyond, kBeyond + 1, 0, -1};
  TileHop<bf16> hop;
  hop.units.n_rows = kPanelRows;
  hop.units.n_cols = kChunkColumns;
  hop.tiles.tasks = &chunk;
  hop.tiles.count = 1;
  hop.tiles.panel_rows = panel_rows.data();
  hop.tiles.columns = chunk_columns.data() - kBeyond * kChunkColumns;
  hop.tiles.chunks = kBeyond + 1;
  hop.values = const_cast<std::uint32_t*>(ones.data()) - kBeyond * (kChunkCells / 2);
  hop.z = {z.data(), kChunkColumns, kWidth, 1};
  hop.finish.out = sums.data();
  hop.finish.n = kPanelRows;
  hop.finish.width = kWidth;
  launch_warps(tile_hop<bf16, 0, kWidth>, 1, 1, nullptr, hop);
  for (const bf16 value : sums) CHECK(static_cast<float>(value) == 32.0F);
}
#endif
