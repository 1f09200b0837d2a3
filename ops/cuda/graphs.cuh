// The graphs of a plan on the device, and how kernels see them.
#pragma once

#include <mutex>
#include <vector>

#include "manyhop/ops/cuda/attention.hpp"
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

  std::size_t bytes() const;
};

struct DeviceGraphs::Data {
  std::vector<Graph> graphs;
  LayoutOptions options;
  bool backward = false;
  int device = 0;
  std::vector<Side> forward;
  std::vector<Side> transposed;  // with backward
  std::mutex mutex;
  bool ordered = false;

  /// Makes the edge orders unless they are there.
  void order_edges(cudaStream_t stream);
};

}  // namespace manyhop::ops::cuda
