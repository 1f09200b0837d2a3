// Which way hops of single edges go: measured once for calls and graphs of one size, on the device that will
// run them.
#include <algorithm>
#include <cstdio>
#include <map>
#include <mutex>
#include <optional>
#include <tuple>

#include "manyhop/graphs/base/error.hpp"
#include "manyhop/ops/cuda/run.cuh"

namespace manyhop::ops::cuda {

namespace {

constexpr int kRounds = 5;
// A measurement takes as many heads as a call has, up to these: own kernels run them together.
constexpr Offset kMostHeads = 32;
constexpr std::size_t kMostBytes = std::size_t{256} << 20;

class Timer {
 public:
  explicit Timer(cudaStream_t stream) : stream_(stream) {
    check(cudaEventCreateWithFlags(&begin_, cudaEventDefault), "cudaEventCreate");
    const cudaError_t status = cudaEventCreateWithFlags(&end_, cudaEventDefault);
    if (status != cudaSuccess) cudaEventDestroy(begin_);
    check(status, "cudaEventCreate");
  }
  ~Timer() {
    cudaEventDestroy(begin_);
    cudaEventDestroy(end_);
  }
  Timer(const Timer&) = delete;
  Timer& operator=(const Timer&) = delete;

  /// Milliseconds of the fastest of a few runs.
  template <class F>
  float fastest(F&& work) const {
    float best = 0;
    for (int round = 0; round <= kRounds; ++round) {  // the first one warms up
      check(cudaEventRecord(begin_, stream_), "cudaEventRecord");
      work();
      check(cudaEventRecord(end_, stream_), "cudaEventRecord");
      check(cudaEventSynchronize(end_), "cudaEventSynchronize");
      float ms = 0;
      check(cudaEventElapsedTime(&ms, begin_, end_), "cudaEventElapsedTime");
      if (round > 0) best = round == 1 ? ms : std::min(best, ms);
    }
    return best;
  }

 private:
  cudaStream_t stream_;
  cudaEvent_t begin_ = nullptr;
  cudaEvent_t end_ = nullptr;
};

struct Measured {
  float own = 0;
  float theirs = 0;
  Offset heads = 1;

  bool take() const { return theirs < own; }
  std::string told() const {
    char text[128];
    std::snprintf(text, sizeof(text), "(%.3g ms a hop of %lld head%s, %s %.3g ms)",
                  static_cast<double>(take() ? theirs : own), static_cast<long long>(heads),
                  heads == 1 ? "" : "s", take() ? "own kernels" : "cuSPARSE",
                  static_cast<double>(take() ? own : theirs));
    return (take() ? "cuSPARSE " : "own kernels ") + std::string(text);
  }
};

/// A hop of `heads` heads both ways, each with all that its sums go through.
template <class C>
Measured measure(const Side& side, const Graph& graph, const HopsCall& call, SparseProduct<C>& sparse) {
  const Offset n_rows = graph.n_rows();
  const Offset n_cols = graph.n_cols();
  const int width = call.width;
  const cudaStream_t stream = call.stream;
  C* values = nullptr;
  C* z = nullptr;
  C* sums = nullptr;
  C* out = nullptr;
  C* split = nullptr;
  const auto carve = [&](Arena arena, Offset heads) {
    values = arena.take<C>(heads * side.value_stride());
    z = arena.take<C>(heads * n_cols * width);
    sums = arena.take<C>(heads * n_rows * width);
    out = arena.take<C>(heads * n_rows * width);
    split = arena.take<C>(side.split_rows.size() > 0 ? heads * side.edge_tasks.size() * width : 0);
    return arena.used();
  };
  Measured found;
  found.heads = std::clamp<Offset>(call.units, 1, kMostHeads);
  while (found.heads > 1 && carve(Arena(), found.heads) > kMostBytes) found.heads /= 2;
  const Offset heads = found.heads;
  const Buffer memory(carve(Arena(), heads), stream);
  carve(Arena(memory.data()), heads);
  check(cudaMemsetAsync(memory.data(), 0, memory.bytes(), stream), "cudaMemsetAsync");
  Units units;
  units.heads = static_cast<int>(heads);
  units.n_rows = n_rows;
  units.n_cols = n_cols;
  Finish<C> finish;
  finish.out = out;
  finish.n = n_rows;
  finish.width = width;
  const Parts<C> parts{split, side.edge_tasks.size(), width};
  const Edges edges{side.edge_tasks.data(), side.edge_tasks.size(), side.columns.data(), nullptr,
                    side.value_stride()};
  const std::int64_t pieces = width / Piece<C>::kSize;
  const Timer timer(stream);
  found.own = timer.fastest([&] {
    for_width(width, [&](auto padded) {
      const EdgeHop<C> p{units, edges, values, {z, n_cols, width, 1}, side.row_tasks.data(), parts, finish};
      launch_warps(edge_hop<C, padded.value>, side.edge_tasks.size(), heads, stream, p);
    });
    const CombineRows<C> p{
        units, side.split_rows.data(), side.split_rows.size(), side.row_tasks.data(), parts, finish};
    launch_threads(combine_rows<C>, side.split_rows.size() * pieces, heads, stream, p);
  });
  found.theirs = timer.fastest([&] {
    for (Offset i = 0; i < heads; ++i) {
      sparse.multiply(values + i * side.value_stride(), z + i * n_cols * width, sums + i * n_rows * width,
                      stream);
    }
    const FinishRows<C> p{units, sums, finish};
    launch_threads(finish_rows<C>, n_rows * pieces, heads, stream, p);
  });
  return found;
}

/// What was measured in this process, so that equal plans choose equally.
using Key = std::tuple<Offset, Offset, Offset, int, std::size_t, int, Offset>;
struct Memory {
  std::mutex mutex;
  std::map<Key, Measured> found;
};
Memory& memory() {
  static Memory& one = *new Memory;
  return one;
}

}  // namespace

template <class C>
void choose_hops(Side& side, const Graph& graph, const HopsCall& call) {
  const HopChoice choice = hop_choice();
  if (choice == HopChoice::own || (call.deterministic && choice == HopChoice::measure)) {
    side.hops_told =
        choice == HopChoice::own ? "own kernels (MANYHOP_CUDA_HOPS)" : "own kernels (deterministic)";
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
  const auto product = [&] {
    return std::make_shared<SparseProduct<C>>(graph, side.columns.data(), call.width, call.stream);
  };
  if (choice == HopChoice::cusparse) {
    side.hops_told = "cuSPARSE (MANYHOP_CUDA_HOPS)";
    side.sparse_width = call.width;
    side.sparse<C>() = product();
    return;
  }
  const Key key{graph.n_rows(), graph.n_cols(),   side.edges, call.width,
                sizeof(C),      current_device(), call.units};
  // One measurement at a time: they would disturb each other.
  const std::scoped_lock lock(memory().mutex);
  try {
    const auto known = memory().found.find(key);
    std::shared_ptr<SparseProduct<C>> sparse;
    if (known == memory().found.end() || known->second.take()) sparse = product();
    const Measured found =
        known != memory().found.end() ? known->second : measure<C>(side, graph, call, *sparse);
    memory().found.emplace(key, found);
    side.hops_told = found.told();
    if (!found.take()) return;
    side.sparse_width = call.width;
    side.sparse<C>() = std::move(sparse);
  } catch (const LimitError& error) {
    side.hops_told = std::string("own kernels (") + error.what() + ")";
  }
}

template void choose_hops<float>(Side&, const Graph&, const HopsCall&);
template void choose_hops<double>(Side&, const Graph&, const HopsCall&);

}  // namespace manyhop::ops::cuda
