// Where everything that a backward call makes lies in its block of device memory.
#pragma once

#include <cmath>

#include "manyhop/ops/cuda/run.cuh"

namespace manyhop::ops::cuda {

template <class T>
struct BackwardMemory {
  using C = EdgeValue<T>;
  int segment = 1;  // hops of which Z and G are kept at a time
  int segments = 1;
  T* start = nullptr;  // Z at the start of segments 1, 2, ...
  T* z = nullptr;      // [segment][units][n][width]: Z_{t+1}
  T* g = nullptr;      // [segment]: G_t
  T* last = nullptr;  // what came back through a segment (of n_cols rows after all hops), and as much scratch
  T* q = nullptr;
  T* k = nullptr;
  T* v = nullptr;
  C* q_totals = nullptr;
  C* k_totals = nullptr;
  C* v_totals = nullptr;
  C* lse = nullptr;
  C* g_lse = nullptr;
  C* dots = nullptr;
  C* bias = nullptr;
  C* bias_out = nullptr;
  double* teleports = nullptr;
  double* teleport = nullptr;
  std::byte* forward_bytes = nullptr;
  std::byte* transposed_bytes = nullptr;

  std::int64_t level(const Run<T>& run) const { return run.cells(run.units_, run.n_rows_); }

  /// `group`: units of a graph that run together.
  void take(Arena& arena, const Run<T>& run, const DeviceGraphs::Data& graphs, std::int64_t group,
            const AttentionGradient<T>& want) {
    const HeadBackward mode = want.mode;
    const int hops = mode == HeadBackward::implicit ? std::min(run.call_.hops, 1) : run.call_.hops;
    segment =
        std::max(1, mode == HeadBackward::checkpointed ? static_cast<int>(std::ceil(std::sqrt(hops))) : hops);
    segments = std::max(1, (hops + segment - 1) / segment);
    start = arena.take<T>((segments - 1) * level(run));
    z = arena.take<T>(segment * level(run));
    g = arena.take<T>(segment * level(run));
    last = arena.take<T>(2 * run.cells(run.units_, std::max(run.n_rows_, run.n_cols_)));
    q = arena.take<T>(run.cells(run.units_, run.n_rows_));
    k = arena.take<T>(run.cells(run.kv_units_, run.n_cols_));
    v = arena.take<T>(run.cells(run.kv_units_, run.n_cols_));
    q_totals = arena.take<C>(segments > 1 ? run.cells(run.units_, run.n_rows_) : 0);
    k_totals = arena.take<C>(segments > 1 || run.share_ > 1 ? run.cells(run.kv_units_, run.n_cols_) : 0);
    v_totals = arena.take<C>(run.cells(run.kv_units_, run.n_cols_));
    lse = arena.take<C>(run.units_ * run.n_rows_);
    g_lse = arena.take<C>(run.host() && want.g_lse != nullptr ? run.units_ * run.n_rows_ : 0);
    dots = arena.take<C>(run.units_ * run.n_rows_);
    std::int64_t most_edges = 0;
    for (const Graph& graph : graphs.graphs) most_edges = std::max<std::int64_t>(most_edges, graph.nnz());
    bias = arena.take<C>(want.bias != nullptr ? run.units_ * most_edges : 0);
    bias_out = arena.take<C>(want.bias != nullptr && run.host() ? want.bias_count : 0);
    teleports = arena.take<double>(want.teleport != nullptr ? run.units_ * run.n_rows_ : 0);
    teleport = arena.take<double>(want.teleport != nullptr ? run.units_ : 0);
    forward_bytes = arena.take<std::byte>(side_bytes(graphs.forward, group, run));
    transposed_bytes = arena.take<std::byte>(side_bytes(graphs.transposed, group, run));
  }
  static std::int64_t side_bytes(const std::vector<Side>& sides, std::int64_t group, const Run<T>& run) {
    std::size_t most = 0;
    for (const Side& side : sides) {
      Arena size;
      SideMemory<T>().take(size, side, group, run.padded_, run.stored_);
      most = std::max(most, size.used());
    }
    return static_cast<std::int64_t>(most);
  }
  static SideMemory<T> of(std::byte* base, const Side& side, std::int64_t group, const Run<T>& run) {
    Arena arena(base);
    SideMemory<T> memory;
    memory.take(arena, side, group, run.padded_, run.stored_);
    return memory;
  }
};

}  // namespace manyhop::ops::cuda
