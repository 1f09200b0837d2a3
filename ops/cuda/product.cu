#include <string>

#include "manyhop/graphs/tiling.hpp"
#include "manyhop/ops/cuda/attention.hpp"
#include "manyhop/ops/cuda/product_data.cuh"

namespace manyhop::ops::cuda {

namespace {

constexpr std::int64_t kEdgesATask = 512;

std::vector<double> copied(const double* values, Offset count) {
  return values == nullptr ? std::vector<double>() : std::vector<double>(values, values + count);
}

}  // namespace

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

void DeviceProduct::Data::require_device() const {
  if (const int now = current_device(); now != device) {
    throw ValueError("product: on device " + std::to_string(device) + ", the call is on device " +
                     std::to_string(now));
  }
}

template <class C>
void DeviceProduct::Data::launch(const C* x, C* y, double* parts, std::int64_t stride,
                                 cudaStream_t stream) const {
  ProductCall<C> call;
  call.tasks = tasks.data();
  call.task_count = tasks.size();
  call.row_tasks = row_tasks.data();
  call.split_rows = split_rows.data();
  call.split_count = split_rows.size();
  call.columns = columns.data();
  call.weights = weights.size() > 0 ? weights.data() : nullptr;
  call.row_scale = row_scale.size() > 0 ? row_scale.data() : nullptr;
  call.col_scale = col_scale.size() > 0 ? col_scale.data() : nullptr;
  call.x = x;
  call.y = y;
  call.parts = parts;
  call.stride = stride;
  call.width = lanes_a_row(stride);
  launch_warps(product_tasks<C>, call.task_count, 1, stream, call);
  launch_threads(product_split_rows<C>, call.split_count * stride, 1, stream, call);
}

template <class C>
void DeviceProduct::apply(const C* x, C* y, Offset columns) const {
  Data& of = *data_;
  if (columns == 0 || of.n_rows == 0) return;
  of.require_device();
  const cudaStream_t stream = nullptr;
  const std::int64_t stride = block_stride(columns);
  C* x_there = nullptr;
  C* y_there = nullptr;
  double* parts = nullptr;
  const auto carve = [&](Arena arena) {
    x_there = arena.take<C>(of.n_cols * stride);
    y_there = arena.take<C>(of.n_rows * stride);
    parts = arena.take<double>(of.parts(stride));
    return arena.used();
  };
  const std::size_t bytes = carve(Arena());
  if (of.vectors.bytes() < bytes) {
    of.vectors = Buffer();
    of.vectors = Buffer(bytes, stream);
  }
  carve(Arena(of.vectors.data()));
  check(cudaMemcpyAsync(x_there, x, static_cast<std::size_t>(of.n_cols * stride) * sizeof(C),
                        cudaMemcpyHostToDevice, stream),
        "cudaMemcpyAsync");
  of.launch(x_there, y_there, parts, stride, stream);
  check(cudaMemcpyAsync(y, y_there, static_cast<std::size_t>(of.n_rows * stride) * sizeof(C),
                        cudaMemcpyDeviceToHost, stream),
        "cudaMemcpyAsync");
  check(cudaStreamSynchronize(stream), "cudaStreamSynchronize");
}

template void DeviceProduct::Data::launch<float>(const float*, float*, double*, std::int64_t,
                                                 cudaStream_t) const;
template void DeviceProduct::Data::launch<double>(const double*, double*, double*, std::int64_t,
                                                  cudaStream_t) const;
template void DeviceProduct::apply<float>(const float*, float*, Offset) const;
template void DeviceProduct::apply<double>(const double*, double*, Offset) const;

}  // namespace manyhop::ops::cuda
