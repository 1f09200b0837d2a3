// Which way hops of single edges go: measured once for a graph, on the device that will run them.
#include <algorithm>
#include <cstdio>

#include "manyhop/ops/cuda/run.cuh"

namespace manyhop::ops::cuda {

namespace {

constexpr int kRounds = 5;

/// Milliseconds of the fastest of a few runs.
template <class F>
float fastest(cudaStream_t stream, F&& work) {
  cudaEvent_t begin = nullptr;
  cudaEvent_t end = nullptr;
  check(cudaEventCreateWithFlags(&begin, cudaEventDefault), "cudaEventCreate");
  check(cudaEventCreateWithFlags(&end, cudaEventDefault), "cudaEventCreate");
  float best = 0;
  for (int round = 0; round <= kRounds; ++round) {  // the first one warms up
    check(cudaEventRecord(begin, stream), "cudaEventRecord");
    work();
    check(cudaEventRecord(end, stream), "cudaEventRecord");
    check(cudaEventSynchronize(end), "cudaEventSynchronize");
    float ms = 0;
    check(cudaEventElapsedTime(&ms, begin, end), "cudaEventElapsedTime");
    if (round > 0) best = round == 1 ? ms : std::min(best, ms);
  }
  cudaEventDestroy(begin);
  cudaEventDestroy(end);
  return best;
}

std::string milliseconds(float ms) {
  char text[32];
  std::snprintf(text, sizeof(text), "%.3g ms", static_cast<double>(ms));
  return text;
}

}  // namespace

template <class C>
void choose_hops(Side& side, const Graph& graph, int width, cudaStream_t stream) {
  const HopChoice choice = hop_choice();
  if (choice == HopChoice::own) {
    side.hops_told = "own kernels (MANYHOP_CUDA_HOPS)";
    return;
  }
  if (side.edges == 0) return;
  std::string why = sparse_library_missing();
  if (why.empty() && side.edges > kMostSparseEdges) why = "2^31 edges or more";
  if (!why.empty()) {
    if (choice == HopChoice::cusparse) throw ValueError("MANYHOP_CUDA_HOPS is 'cusparse': " + why);
    side.hops_told = "own kernels (cuSPARSE: " + why + ")";
    return;
  }
  auto sparse = std::make_shared<SparseProduct<C>>(graph, side.columns.data(), width, stream);
  if (choice == HopChoice::measure) {
    const Offset n_rows = graph.n_rows();
    const Offset n_cols = graph.n_cols();
    const auto carve = [&](Arena arena, C*(&to)[4]) {
      to[0] = arena.take<C>(side.edges);
      to[1] = arena.take<C>(n_cols * width);
      to[2] = arena.take<C>(n_rows * width);
      to[3] = arena.take<C>(side.split_rows.size() > 0 ? side.edge_tasks.size() * width : 0);
      return arena.used();
    };
    C* at[4];
    const Buffer memory(carve(Arena(), at), stream);
    carve(Arena(memory.data()), at);
    check(cudaMemsetAsync(memory.data(), 0, memory.bytes(), stream), "cudaMemsetAsync");
    Units units;
    units.n_rows = n_rows;
    units.n_cols = n_cols;
    Finish<C> finish;
    finish.out = at[2];
    finish.n = n_rows;
    finish.width = width;
    const Parts<C> parts{at[3], side.edge_tasks.size(), width};
    const Edges edges{side.edge_tasks.data(), side.edge_tasks.size(), side.columns.data(), nullptr,
                      side.edges};
    const float own = fastest(stream, [&] {
      for_width(width, [&](auto padded) {
        const EdgeHop<C> p{units, edges, at[0], {at[1], n_cols, width, 1}, side.row_tasks.data(),
                           parts, finish};
        launch_warps(edge_hop<C, padded.value>, side.edge_tasks.size(), 1, stream, p);
      });
      const CombineRows<C> p{
          units, side.split_rows.data(), side.split_rows.size(), side.row_tasks.data(), parts, finish};
      launch_threads(combine_rows<C>, side.split_rows.size() * (width / Piece<C>::kSize), 1, stream, p);
    });
    const float theirs = fastest(stream, [&] { sparse->multiply(at[0], at[1], at[2], stream); });
    const bool take = theirs < own;
    side.hops_told = (take ? "cuSPARSE (" : "own kernels (") + milliseconds(take ? theirs : own) +
                     " a hop of a head, " + (take ? "own kernels " : "cuSPARSE ") +
                     milliseconds(take ? own : theirs) + ")";
    if (!take) return;
  } else {
    side.hops_told = "cuSPARSE (MANYHOP_CUDA_HOPS)";
  }
  side.sparse_width = width;
  side.sparse<C>() = std::move(sparse);
}

template void choose_hops<float>(Side&, const Graph&, int, cudaStream_t);
template void choose_hops<double>(Side&, const Graph&, int, cudaStream_t);

}  // namespace manyhop::ops::cuda
