#include "manyhop/ops/cuda/product.hpp"

#include <algorithm>

#include "manyhop/graphs/tiling.hpp"
#include "manyhop/ops/cuda/attention.hpp"
#include "manyhop/ops/cuda/product.cuh"
#include "manyhop/ops/cuda/runtime.cuh"

namespace manyhop::ops::cuda {

namespace {

constexpr std::int64_t kEdgesATask = 512;

std::vector<double> copied(const double* values, Offset count) {
  return values == nullptr ? std::vector<double>() : std::vector<double>(values, values + count);
}

}  // namespace

struct DeviceProduct::Data {
  Offset n_rows = 0;
  Offset n_cols = 0;
  int device = 0;
  DeviceArray<Index> columns, split_rows;
  DeviceArray<EdgeTask> tasks;
  DeviceArray<TaskRange> row_tasks;
  DeviceArray<double> weights, row_scale, col_scale;
  Buffer vectors;  // x, y and the parts of split rows, kept from call to call
};

DeviceProduct::DeviceProduct(const ScaledGraph& a) : data_(std::make_shared<Data>()) {
  if (const std::string why = unavailable(); !why.empty()) throw ValueError("backend: " + why);
  Data& to = *data_;
  const Graph& graph = *a.graph;
  to.n_rows = graph.n_rows();
  to.n_cols = graph.n_cols();
  to.device = current_device();
  keep_pool(to.device);
  const cudaStream_t stream = nullptr;
  const Layout layout = make_layout(graph, Tiling{}, {.tiles = false, .edges_a_task = kEdgesATask});
  to.columns = {layout.columns, stream};
  to.split_rows = {layout.split_rows, stream};
  to.tasks = {layout.edge_tasks, stream};
  to.row_tasks = {layout.row_tasks, stream};
  const auto weights = graph.weights();
  const std::vector<double> of_edges(weights.begin(), weights.end());
  const std::vector<double> of_rows = copied(a.row_scale, to.n_rows);
  const std::vector<double> of_columns = copied(a.col_scale, to.n_cols);
  to.weights = {of_edges, stream};
  to.row_scale = {of_rows, stream};
  to.col_scale = {of_columns, stream};
  check(cudaStreamSynchronize(stream), "cudaStreamSynchronize");
}

std::size_t DeviceProduct::bytes() const {
  const Data& of = *data_;
  return of.columns.bytes() + of.split_rows.bytes() + of.tasks.bytes() + of.row_tasks.bytes() +
         of.weights.bytes() + of.row_scale.bytes() + of.col_scale.bytes() + of.vectors.bytes();
}

template <class C>
void DeviceProduct::apply(const C* x, C* y, Offset columns) const {
  Data& of = *data_;
  if (columns == 0 || of.n_rows == 0) return;
  if (const int device = current_device(); device != of.device) {
    throw ValueError("product: on device " + std::to_string(of.device) + ", the call is on device " +
                     std::to_string(device));
  }
  const cudaStream_t stream = nullptr;
  const std::int64_t stride = block_stride(columns);
  const std::int64_t parts = of.split_rows.size() > 0 ? of.tasks.size() * stride : 0;
  const auto carve = [&](Arena arena, ProductCall<C>& call) {
    C* to = arena.take<C>(of.n_cols * stride);
    call.x = to;
    call.y = arena.take<C>(of.n_rows * stride);
    call.parts = arena.take<double>(parts);
    return std::pair(to, arena.used());
  };
  ProductCall<C> call;
  const std::size_t bytes = carve(Arena(), call).second;
  if (of.vectors.bytes() < bytes) {
    of.vectors = Buffer();
    of.vectors = Buffer(bytes, stream);
  }
  C* const x_there = carve(Arena(of.vectors.data()), call).first;
  call.tasks = of.tasks.data();
  call.task_count = of.tasks.size();
  call.row_tasks = of.row_tasks.data();
  call.split_rows = of.split_rows.data();
  call.split_count = of.split_rows.size();
  call.columns = of.columns.data();
  call.weights = of.weights.size() > 0 ? of.weights.data() : nullptr;
  call.row_scale = of.row_scale.size() > 0 ? of.row_scale.data() : nullptr;
  call.col_scale = of.col_scale.size() > 0 ? of.col_scale.data() : nullptr;
  call.stride = stride;
  call.width = stride % 32 == 0 ? 32 : stride % 16 == 0 ? 16 : stride % 8 == 0 ? 8 : 1;
  check(cudaMemcpyAsync(x_there, x, static_cast<std::size_t>(of.n_cols * stride) * sizeof(C),
                        cudaMemcpyHostToDevice, stream),
        "cudaMemcpyAsync");
  launch_warps(product_tasks<C>, call.task_count, 1, stream, call);
  launch_threads(product_split_rows<C>, call.split_count * stride, 1, stream, call);
  check(cudaMemcpyAsync(y, call.y, static_cast<std::size_t>(of.n_rows * stride) * sizeof(C),
                        cudaMemcpyDeviceToHost, stream),
        "cudaMemcpyAsync");
  check(cudaStreamSynchronize(stream), "cudaStreamSynchronize");
}

template void DeviceProduct::apply<float>(const float*, float*, Offset) const;
template void DeviceProduct::apply<double>(const double*, double*, Offset) const;

}  // namespace manyhop::ops::cuda
