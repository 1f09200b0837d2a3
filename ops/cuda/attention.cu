#include "manyhop/ops/cuda/attention.hpp"

#include "manyhop/ops/cuda/run_hops.cuh"
#include "manyhop/ops/cuda/run_tensors.cuh"

namespace manyhop::ops::cuda {

namespace {

/// Scratch of a forward call.
template <class T>
struct ForwardMemory {
  using C = EdgeValue<T>;
  T* z[2] = {};
  C* lse = nullptr;
  C* weights = nullptr;
  SideMemory<T> side;

  void take(Arena& arena, const Run<T>& run, const DeviceGraphs::Data& graphs, std::int64_t group,
            std::int64_t weights_count) {
    for (T*& z_one : z) z_one = arena.take<T>(run.cells(run.units_, run.n_rows_));
    lse = arena.take<C>(run.units_ * run.n_rows_);
    weights = arena.take<C>(run.host() ? weights_count : 0);
    // Graphs of several heads run one after the other in the same memory.
    std::size_t most = 0;
    const Side* largest = nullptr;
    for (const Side& one : graphs.forward) {
      Arena size;
      SideMemory<T>().take(size, one, group, run.padded_, run.stored_);
      if (largest == nullptr || size.used() > most) largest = &one;
      most = std::max(most, size.used());
    }
    side_bytes = arena.take<std::byte>(static_cast<std::int64_t>(most));
  }
  SideMemory<T> of(const Side& one, std::int64_t group, const Run<T>& run) const {
    Arena arena(side_bytes);
    SideMemory<T> memory;
    memory.take(arena, one, group, run.padded_, run.stored_);
    return memory;
  }
  std::byte* side_bytes = nullptr;
};

template <class T>
std::size_t forward_bytes(Run<T>& run, std::int64_t group, std::int64_t weights_count) {
  Arena arena;
  run.take_inputs(arena);
  ForwardMemory<T>().take(arena, run, run.graphs_, group, weights_count);
  return arena.used();
}

/// The heads that run together, and whether weights of tiles are kept, so that a call takes no more beside
/// its tensors than they do: fewer heads first, then weights that are made again, and neither where it would
/// leave the device idle.
template <class T>
std::int64_t modest_group(Run<T>& run, bool weights_wanted, std::int64_t weights_count) {
  constexpr std::size_t kFine = std::size_t{64} << 20;
  constexpr std::int64_t kWarps =
      1024;  // a device of some hundred multiprocessors, eight of these kernels' each
  run.stored_ = run.call_.hops > 1 || weights_wanted;
  const std::size_t aim =
      run.call_.scratch_aim > 0 ? run.call_.scratch_aim : std::max(kFine, run.tensor_bytes());
  const std::int64_t most = run.most_units();
  const std::int64_t least = run.least_units();
  const auto fits = [&](std::int64_t group) { return forward_bytes(run, group, weights_count) <= aim; };
  const auto halved = [&] {
    std::int64_t group = most;
    while (group > least && !fits(group) && run.warps(std::max(least, group / 2)) >= kWarps) {
      group = std::max(least, group / 2);
    }
    return group;
  };
  const std::int64_t kept = halved();
  if (weights_wanted || !run.stored_ || fits(kept)) return kept;
  run.stored_ = false;
  if (fits(most)) return most;
  return halved();
}

}  // namespace

std::size_t memory_of_device(std::size_t limit, std::size_t wanted) {
  cudaMemPool_t pool = nullptr;
  int device = 0;
  check(cudaGetDevice(&device), "cudaGetDevice");
  check(cudaDeviceGetDefaultMemPool(&pool, device), "cudaDeviceGetDefaultMemPool");
  std::uint64_t reserved = 0;
  std::uint64_t used = 0;
  check(cudaMemPoolGetAttribute(pool, cudaMemPoolAttrReservedMemCurrent, &reserved),
        "cudaMemPoolGetAttribute");
  check(cudaMemPoolGetAttribute(pool, cudaMemPoolAttrUsedMemCurrent, &used), "cudaMemPoolGetAttribute");
  auto can = static_cast<std::size_t>(reserved - std::min(reserved, used));
  if (can < wanted) {
    std::size_t free = 0;
    std::size_t total = 0;
    check(cudaMemGetInfo(&free, &total), "cudaMemGetInfo");
    can += free;
  }
  return limit == 0 ? can : std::min(limit, can);
}

std::int64_t largest_group(std::int64_t units, std::int64_t least, std::size_t limit,
                           const std::function<std::size_t(std::int64_t)>& bytes) {
  std::int64_t group = units;
  while (group > least && bytes(group) > limit) group = std::max(least, group / 2);
  const std::size_t wanted = bytes(group);
  if (wanted > limit) {
    throw LimitError("memory limit: " + std::to_string(limit >> 20) +
                     " MiB of device memory, the smallest split takes " + std::to_string((wanted >> 20) + 1) +
                     " MiB");
  }
  return group;
}

Buffer memory_of_group(std::int64_t& group, std::int64_t least, cudaStream_t stream,
                       const std::function<std::size_t(std::int64_t)>& bytes) {
  for (;; group = std::max(least, group / 2)) {
    try {
      return Buffer(bytes(group), stream);
    } catch (const LimitError&) {
      if (group <= least) throw;
    }
  }
}

void require_shape(int d, int d_value, Offset units) {
  if (std::max(d, d_value) > kMostFeatures) {
    throw ValueError("backend: 'cuda' takes heads of at most " + std::to_string(kMostFeatures) +
                     " features, here it is " + std::to_string(std::max(d, d_value)) + "; 'cpu' takes any");
  }
  if (units > kMostUnits) {
    throw ValueError("backend: 'cuda' takes at most " + std::to_string(kMostUnits) +
                     " heads times batch items, here it is " + std::to_string(units));
  }
}

template <class T>
void attention(const DeviceGraphs& graphs, const AttentionCall<T>& call, const AttentionResult<T>& result) {
  using C = EdgeValue<T>;
  require_shape(call.d, call.d_value, call.batch * call.heads);
  if (call.batch == 0) return;
  const CallOn use(graphs, call.stream);
  Run<T> run(graphs.data(), call);
  if (result.weights != nullptr) run.want_order();
  const std::int64_t weights_count = result.weights == nullptr ? 0 : result.weights_count;
  const auto bytes_of = [&](std::int64_t count) { return forward_bytes(run, count, weights_count); };
  const std::int64_t least = run.least_units();
  const std::int64_t most = modest_group(run, result.weights != nullptr, weights_count);
  const std::size_t limit = memory_of_device(call.memory_limit, bytes_of(most));
  // Weights that are needed again are made again where there is no room for them.
  if (result.weights == nullptr && bytes_of(least) > limit) run.stored_ = false;
  std::int64_t group = largest_group(most, least, limit, bytes_of);
  run.make_order();
  const Buffer buffer = memory_of_group(group, least, run.stream_, bytes_of);
  Arena arena(buffer.data());
  run.take_inputs(arena);
  ForwardMemory<T> memory;
  memory.take(arena, run, run.graphs_, group, weights_count);
  run.read_inputs();
  C* weights = run.host() ? memory.weights : result.weights;
  if (result.weights != nullptr) {
    check(
        cudaMemsetAsync(weights, 0, static_cast<std::size_t>(result.weights_count) * sizeof(C), run.stream_),
        "cudaMemsetAsync");
  }
  for (int g = 0; g < run.graph_count(); ++g) {
    const Side& side = run.graphs_.forward[static_cast<std::size_t>(g)];
    for (const Group& heads : run.groups(g, group)) {
      const SideMemory<T> scratch = memory.of(side, group, run);
      const auto finish_of = [&](const Run<T>& by, int t) {
        Finish<T> finish;
        finish.keep = static_cast<C>(1 - call.teleport);
        if (call.teleport != 0) {
          finish.extra = by.v();
          finish.extra_scale = static_cast<C>(call.teleport);
        }
        finish.dropout = by.hop_dropout();
        finish.hop = t;
        finish.out = memory.z[t % 2];
        return finish;
      };
      const auto hop = [&](const Run<T>& by, int t) {
        const Rows<T> z{memory.z[(t - 1) % 2], by.n_rows_, by.padded_, 1};
        by.hop(side, scratch, heads, g, z, finish_of(by, t), true, by.q(), by.k(), memory.lse, false);
      };
      // The weights of tiles are made by the first hop, so where no hop is wanted one runs for nobody.
      if (call.hops > 0 || result.weights != nullptr) {
        run.attend(side, scratch, heads, g, run.v(), finish_of(run, 0), run.q(), run.k(), memory.lse);
      } else {
        run.make_weights(side, scratch, heads, g, run.q(), run.k(), memory.lse, false);
      }
      HopsKey key;
      key.rows[0] = memory.z[0];
      key.rows[1] = memory.z[1];
      key.graph = g;
      key.begin = 1;
      key.count = call.hops - 1;
      if (call.hops > 1) run.queue_hops(key, side, scratch, heads, group, hop);
      if (result.weights == nullptr) continue;
      ExportWeights<T> w;
      w.units = run.units(heads);
      w.out = weights + (call.first_edge.empty() ? 0 : call.first_edge[static_cast<std::size_t>(g)]);
      w.out_batch = result.weights_batch;
      w.out_head = result.weights_head;
      w.order = side.edge_order.data();
      w.count = side.edges;
      w.stride = side.value_stride();
      w.edge_values = scratch.edge_values;
      launch_threads(export_weights<T>, w.count, heads.count, run.stream_, w);
      w.order = side.cell_order.data();
      w.count = side.chunks * kChunkCells;
      w.stride = w.count;
      w.edge_values = nullptr;
      w.cell_values = reinterpret_cast<const T*>(scratch.tile_values);
      if (side.tiled) launch_threads(export_weights<T>, w.count, heads.count, run.stream_, w);
    }
  }
  if (call.hops == 0) {
    for (std::int64_t i = 0; i < run.share_; ++i) {
      // Each head's V is its key/value head's.
      for (std::int64_t kv = 0; kv < run.kv_units_; ++kv) {
        check(cudaMemcpyAsync(memory.z[1] + run.cells(kv * run.share_ + i, run.n_rows_),
                              run.v_ + run.cells(kv, run.n_cols_),
                              static_cast<std::size_t>(run.cells(1, run.n_rows_)) * sizeof(T),
                              cudaMemcpyDeviceToDevice, run.stream_),
              "cudaMemcpyAsync");
      }
    }
  }
  const T* last = memory.z[call.hops == 0 ? 1 : (call.hops - 1) % 2];
  run.unpack(last, result.out, run.units_, call.heads, run.n_rows_, call.d_value, run.raw_);
  if (result.lse != nullptr) {
    if (run.host()) {
      run.to_host(result.lse, memory.lse, run.units_ * run.n_rows_);
    } else {
      check(cudaMemcpyAsync(result.lse, memory.lse,
                            static_cast<std::size_t>(run.units_ * run.n_rows_) * sizeof(C),
                            cudaMemcpyDeviceToDevice, run.stream_),
            "cudaMemcpyAsync");
    }
  }
  if (result.weights != nullptr && run.host()) run.to_host(result.weights, weights, result.weights_count);
  if (run.host()) run.wait();
}

#define MANYHOP_INSTANTIATE(T) \
  template void attention<T>(const DeviceGraphs&, const AttentionCall<T>&, const AttentionResult<T>&)
MANYHOP_INSTANTIATE(float);
MANYHOP_INSTANTIATE(double);
MANYHOP_INSTANTIATE(bf16);
#undef MANYHOP_INSTANTIATE

template <class T>
std::size_t workspace_bytes(const DeviceGraphs& graphs, const AttentionCall<T>& call, bool backward,
                            HeadBackward mode) {
  if (backward) return backward_bytes(graphs, call, mode);
  Run<T> run(graphs.data(), call);
  const std::int64_t group = modest_group(run, false, 0);
  return forward_bytes(run, group, 0);
}
template std::size_t workspace_bytes<float>(const DeviceGraphs&, const AttentionCall<float>&, bool,
                                            HeadBackward);
template std::size_t workspace_bytes<double>(const DeviceGraphs&, const AttentionCall<double>&, bool,
                                             HeadBackward);
template std::size_t workspace_bytes<bf16>(const DeviceGraphs&, const AttentionCall<bf16>&, bool,
                                           HeadBackward);

}  // namespace manyhop::ops::cuda
