#include "manyhop/ops/cuda/run.cuh"
#include "manyhop/ops/cuda/tile_kernels.cuh"

namespace manyhop::ops::cuda {

template <class T>
void Run<T>::hop(const Side& side, const SideMemory<T>& memory, const Group& group, int graph, Rows<T> z,
                 Finish<T> finish, bool made, Rows<T> x, Rows<T> y, const C* lse, bool transposed) const {
  const Units u = units(group, transposed);
  const Parts<C> edge_parts{memory.edge_parts, side.edge_tasks.size(), padded_};
  const TaskRange* row_tasks = side.row_tasks.data();
  finish.n = u.n_rows;
  finish.width = padded_;
  if constexpr (sizeof(T) >= 4) {
    // The workspace of cuSPARSE is shared, and a graph of the caller's would not wait for its turn.
    if (memory.sums != nullptr && !callers_graph_) return sparse_hop(side, memory, group, u, z, finish);
  }
  for_width(padded_, [&](auto width) {
    const EdgeHop<T> p{u,          edges(side), memory.edge_values, z, side.tiled ? nullptr : row_tasks,
                       edge_parts, finish};
    launch_warps(edge_hop<T, width.value>, side.edge_tasks.size(), group.count, stream_, p);
  });
  if (!side.tiled) return combine_split_rows(side, edge_parts, u, group, finish);
  if constexpr (kTileable) {
    Scores<float> s = scores(graph);
    s.lse = lse;
    s.lse_by_column = transposed;
    const Parts<float> panel_parts{memory.panel_parts, side.slots * kPanelRows, padded_};
    TileHop<T> p;
    p.units = u;
    p.tiles = tiles(side);
    p.x = x;
    p.y = y;
    p.scores = s;
    p.values = memory.tile_values;
    p.z = z;
    p.row_tasks = row_tasks;
    p.edge_parts = side.edge_tasks.size() > 0 ? edge_parts : Parts<float>{};
    p.panel_parts = panel_parts;
    p.finish = finish;
    for_slabs(padded_, p, [&](auto width, auto slab) {
      if (memory.tile_values == nullptr || (!made && p.feature == 0)) {
        launch_warps(tile_hop<T, width.value, slab.value>, side.tile_tasks.size(), group.count, stream_, p);
      } else {
        launch_warps(tile_hop<T, 0, slab.value>, side.tile_tasks.size(), group.count, stream_, p);
      }
    });
    combine_split_panels(side, p.edge_parts, panel_parts, u, group, finish);
  }
}

// One product of cuSPARSE for each unit, then what a row's sum leaves with.
template <class T>
void Run<T>::sparse_hop(const Side& side, const SideMemory<T>& memory, const Group& group, const Units& u,
                        Rows<T> z, const Finish<T>& finish) const {
  const auto& sparse = side.template sparse<C>();
  for (std::int64_t i = 0; i < group.count; ++i) {
    const std::int64_t unit = group.first + i * group.step;
    const C* values = memory.edge_values + i * side.value_stride();
    const C* from = z.data + unit / z.share * z.n * z.width;
    C* sums = memory.sums + i * u.n_rows * padded_;
    recording_ ? sparse->record(values, from, sums, stream_) : sparse->multiply(values, from, sums, stream_);
  }
  const FinishRows<T> p{u, memory.sums, finish};
  launch_threads(finish_rows<T>, u.n_rows * (padded_ / Piece<T>::kSize), group.count, stream_, p);
}

template <class T>
void Run<T>::combine_split_rows(const Side& side, const Parts<C>& parts, const Units& u, const Group& group,
                                const Finish<T>& finish) const {
  const CombineRows<T> p{u,     side.split_rows.data(), side.split_rows.size(), side.row_tasks.data(), parts,
                         finish};
  launch_threads(combine_rows<T>, side.split_rows.size() * (padded_ / Piece<T>::kSize), group.count, stream_,
                 p);
}

template <class T>
void Run<T>::combine_split_panels(const Side& side, const Parts<float>& edge_parts,
                                  const Parts<float>& panel_parts, const Units& u, const Group& group,
                                  const Finish<T>& finish) const {
  const CombinePanels<T> p{u,
                           side.split_panels.data(),
                           side.split_panels.size(),
                           side.panel_tasks.data(),
                           side.tile_tasks.data(),
                           side.panel_rows.data(),
                           side.row_tasks.data(),
                           edge_parts,
                           panel_parts,
                           finish};
  launch_threads(combine_panels<T>, side.split_panels.size() * kPanelRows * (padded_ / Piece<T>::kSize),
                 group.count, stream_, p);
}

#define MANYHOP_INSTANTIATE(T)                                                                              \
  template void Run<T>::hop(const Side&, const SideMemory<T>&, const Group&, int, Rows<T>, Finish<T>, bool, \
                            Rows<T>, Rows<T>, const EdgeValue<T>*, bool) const;                             \
  template void Run<T>::combine_split_rows(const Side&, const Parts<EdgeValue<T>>&, const Units&,           \
                                           const Group&, const Finish<T>&) const
MANYHOP_INSTANTIATE(float);
MANYHOP_INSTANTIATE(double);
MANYHOP_INSTANTIATE(bf16);
#undef MANYHOP_INSTANTIATE

#define MANYHOP_INSTANTIATE(T) /* of tiles */                                                       \
  template void Run<T>::combine_split_panels(const Side&, const Parts<float>&, const Parts<float>&, \
                                             const Units&, const Group&, const Finish<T>&) const
MANYHOP_INSTANTIATE(float);
MANYHOP_INSTANTIATE(bf16);
#undef MANYHOP_INSTANTIATE

}  // namespace manyhop::ops::cuda
