// The graphs of a plan on the device, and how kernels see them.
#pragma once

#include <limits>
#include <memory>
#include <mutex>
#include <string>
#include <type_traits>
#include <vector>

#include "manyhop/ops/cuda/attention.hpp"
#include "manyhop/ops/cuda/captured.cuh"
#include "manyhop/ops/cuda/cusparse.cuh"
#include "manyhop/ops/cuda/layout.hpp"
#include "manyhop/ops/cuda/runtime.cuh"

namespace manyhop::ops::cuda {

/// A layout on the device. `order` is made when a call first asks for the caller's names of edges.
struct Side {
  Layout host;  // sizes; its arrays are on the device alone
  DeviceArray<Index> panel_rows, chunk_columns, columns, split_rows;
  DeviceArray<std::uint32_t> chunk_masks;
  DeviceArray<TileTask> tile_tasks;
  DeviceArray<TaskRange> panel_tasks, row_tasks;
  DeviceArray<std::int32_t> split_panels;
  DeviceArray<EdgeTask> edge_tasks;
  DeviceArray<std::int64_t> row_places;
  DeviceArray<std::int64_t> cell_order, edge_order;
  std::int64_t panels = 0, chunks = 0, edges = 0, slots = 0;
  bool tiled = false;
  /// Values of single edges of a unit are this far apart: each unit's begin at 16 bytes, as cuSPARSE likes.
  std::int64_t value_stride() const { return (edges + 3) / 4 * 4; }
  // Of the forward layout without tiles, where cuSPARSE does its hops.
  std::shared_ptr<SparseProduct<float>> sparse_f32;
  std::shared_ptr<SparseProduct<double>> sparse_f64;
  int sparse_width = 0;
  std::string hops_told;  // which way hops go and why, for people

  template <class C>
  auto& sparse() {
    if constexpr (std::is_same_v<C, double>) {
      return sparse_f64;
    } else {
      return sparse_f32;
    }
  }
  template <class C>
  const auto& sparse() const {
    return const_cast<Side*>(this)->sparse<C>();
  }
  std::size_t bytes() const;
};

/// Edges that cuSPARSE takes: its offsets are 32-bit here (with 64-bit ones it fails at 2^31 in 12.5).
inline constexpr std::int64_t kMostSparseEdges = std::numeric_limits<std::int32_t>::max();

/// Features padded to what kernels are made for.
inline int padded_features(int features) {
  return features <= 32 ? 32 : features <= 64 ? 64 : features <= 128 ? 128 : 256;
}

/// What the hops of a plan's calls are like.
struct HopsCall {
  int width = 0;     // padded
  Offset units = 1;  // heads that take the graph, times the batch
  bool deterministic = false;
  cudaStream_t stream = nullptr;  // of the side's arrays
};

/// Takes cuSPARSE for the hops of a layout without tiles where it is there and faster (MANYHOP_CUDA_HOPS: or
/// asked for). Waits for the device, the first time in a process for calls and graphs of one size. Without
/// the memory to find out hops go by own kernels.
template <class C>
void choose_hops(Side& side, const Graph& graph, const HopsCall& call);

struct DeviceGraphs::Data {
  ~Data();

  std::vector<Graph> graphs;
  LayoutOptions options;
  bool backward = false;
  int device = 0;
  cudaStream_t stream = nullptr;  // lasting_stream(), of the arrays
  StreamUses uses;
  std::vector<Side> forward;
  std::vector<Side> transposed;  // with backward
  std::mutex mutex;
  bool ordered = false;
  bool kept = false;
  CapturedHops captured;  // whose launches read the arrays above

  /// Makes the edge orders unless they are there.
  void order_edges();
};

/// A call that queues work which reads a plan's arrays: they stay until that is done. What the caller
/// captures into a graph may run at any time, so then they stay for good.
class CallOn {
 public:
  CallOn(const DeviceGraphs& graphs, const Stream& stream) : graphs_(graphs), stream_(stream) {}
  ~CallOn();
  CallOn(const CallOn&) = delete;
  CallOn& operator=(const CallOn&) = delete;

 private:
  const DeviceGraphs& graphs_;
  const Stream& stream_;
};

}  // namespace manyhop::ops::cuda
