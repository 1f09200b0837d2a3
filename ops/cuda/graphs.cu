#include "manyhop/ops/cuda/graphs.cuh"

#include <algorithm>

namespace manyhop::ops::cuda {

namespace {

// Tasks enough to fill a large device several times over, and not so small that their ends cost more than
// they do.
constexpr std::int64_t kWantedTasks = 1 << 14;
constexpr std::int64_t kLeastChunks = 4;
constexpr std::int64_t kMostChunks = 64;

Side make_side(const Graph& graph, const Tiling& tiling, const LayoutOptions& options, cudaStream_t stream) {
  Side side;
  side.host = make_layout(graph, tiling, options);
  Layout& host = side.host;
  side.panels = host.panels();
  side.chunks = host.chunks();
  side.edges = host.edges();
  side.slots = host.slots;
  side.tiled = host.tiled();
  side.panel_rows = {host.panel_rows, stream};
  side.chunk_columns = {host.chunk_columns, stream};
  side.chunk_masks = {host.chunk_masks, stream};
  side.tile_tasks = {host.tile_tasks, stream};
  side.panel_tasks = {host.panel_tasks, stream};
  side.split_panels = {host.split_panels, stream};
  side.columns = {host.columns, stream};
  side.edge_tasks = {host.edge_tasks, stream};
  side.row_tasks = {host.row_tasks, stream};
  side.split_rows = {host.split_rows, stream};
  side.row_places = {host.row_places, stream};
  check(cudaStreamSynchronize(stream), "cudaStreamSynchronize");
  Layout sizes;
  sizes.n_rows = host.n_rows;
  sizes.n_cols = host.n_cols;
  host = std::move(sizes);
  return side;
}

}  // namespace

std::size_t Side::bytes() const {
  return panel_rows.bytes() + chunk_columns.bytes() + columns.bytes() + split_rows.bytes() +
         chunk_masks.bytes() + tile_tasks.bytes() + panel_tasks.bytes() + row_tasks.bytes() +
         split_panels.bytes() + edge_tasks.bytes() + row_places.bytes() + cell_order.bytes() +
         edge_order.bytes() + (sparse_f32 ? sparse_f32->bytes() : 0) + (sparse_f64 ? sparse_f64->bytes() : 0);
}

std::string DeviceGraphs::hops() const {
  return data_ == nullptr || data_->forward.empty() ? std::string() : data_->forward.front().hops_told;
}

std::string DeviceGraphs::captured() const {
  return data_ == nullptr ? std::string() : data_->captured.told();
}

std::size_t DeviceGraphs::bytes() const {
  std::size_t total = 0;
  if (data_ == nullptr) return total;
  for (const Side& side : data_->forward) total += side.bytes();
  for (const Side& side : data_->transposed) total += side.bytes();
  return total;
}

DeviceGraphs upload(std::span<const Graph> graphs, std::span<const Tiling> tilings, DType dtype, bool tf32,
                    bool deterministic, bool backward, Offset units, int features) {
  if (const std::string why = unavailable(); !why.empty()) throw ValueError("backend: " + why);
  auto data = std::make_shared<DeviceGraphs::Data>();
  data->graphs.assign(graphs.begin(), graphs.end());
  data->backward = backward;
  check(cudaGetDevice(&data->device), "cudaGetDevice");
  data->stream = lasting_stream();
  data->options.tiles = dtype == DType::bf16 || tf32;
  const cudaStream_t stream = data->stream;
  for (std::size_t g = 0; g < graphs.size(); ++g) {
    const std::int64_t chunks = (tilings[g].value_count - tilings[g].irregular_edges) / kChunkCells;
    data->options.chunks_a_task = std::clamp(chunks * units / kWantedTasks, kLeastChunks, kMostChunks);
    data->forward.push_back(make_side(graphs[g], tilings[g], data->options, stream));
    const HopsCall call{padded_features(features), units / static_cast<Offset>(graphs.size()), deterministic,
                        stream};
    if (dtype == DType::f32 && !tf32) choose_hops<float>(data->forward.back(), graphs[g], call);
    if (dtype == DType::f64) choose_hops<double>(data->forward.back(), graphs[g], call);
    if (!backward) continue;
    const Graph& transpose = graphs[g].transpose();
    data->transposed.push_back(
        make_side(transpose, data->options.tiles ? make_tiling(transpose) : Tiling{}, data->options, stream));
  }
  return DeviceGraphs(std::move(data));
}

DeviceGraphs::Data::~Data() { uses.come_before(stream); }

CallOn::~CallOn() {
  const cudaStream_t stream = stream_of(stream_);
  DeviceGraphs::Data& data = graphs_.data();
  if (!is_captured(stream)) {
    data.uses.record(stream);
    return;
  }
  static std::mutex& mutex = *new std::mutex;
  static std::vector<std::shared_ptr<DeviceGraphs::Data>>& kept =
      *new std::vector<std::shared_ptr<DeviceGraphs::Data>>;
  const std::scoped_lock lock(mutex);
  if (!data.kept) kept.push_back(graphs_.shared());
  data.kept = true;
}

void DeviceGraphs::Data::order_edges() {
  const std::scoped_lock lock(mutex);
  if (ordered) return;
  const auto place = [&](Side& side, const Graph& graph, const std::vector<std::int64_t>& names) {
    const Tiling tiling = options.tiles ? make_tiling(graph) : Tiling{};
    const EdgeOrder order = edge_order(graph, tiling, make_layout(graph, tiling, options), names);
    side.cell_order = {order.cells, stream};
    side.edge_order = {order.edges, stream};
    check(cudaStreamSynchronize(stream), "cudaStreamSynchronize");
  };
  for (std::size_t g = 0; g < graphs.size(); ++g) {
    place(forward[g], graphs[g], {});
    if (backward) place(transposed[g], graphs[g].transpose(), transposed_edges(graphs[g]));
  }
  ordered = true;
}

}  // namespace manyhop::ops::cuda
