#include "manyhop/ops/cuda/run.cuh"
#include "manyhop/ops/cuda/tile_gradient.cuh"

namespace manyhop::ops::cuda {

template <class T>
void Run<T>::gradient(const Side& side, const SideMemory<T>& memory, const Group& group, Gradient<T> g,
                      Finish<T> finish, bool transposed) const {
  const Units u = units(group, transposed);
  const Parts<C> edge_parts{memory.edge_parts, side.edge_tasks.size(), padded_};
  const TaskRange* row_tasks = side.row_tasks.data();
  finish.n = u.n_rows;
  finish.width = padded_;
  for_width(padded_, [&](auto width) {
    const EdgeGradient<T> p{u, edges(side), g, side.tiled ? nullptr : row_tasks, edge_parts, finish};
    launch_warps(edge_gradient<T, width.value>, side.edge_tasks.size(), group.count, stream_, p);
  });
  if (!side.tiled) return combine_split_rows(side, edge_parts, u, group, finish);
  if constexpr (kTileable) {
    TileGradient<T> p;
    p.units = u;
    p.tiles = tiles(side);
    p.gradient = g;
    p.row_tasks = row_tasks;
    p.edge_parts = side.edge_tasks.size() > 0 ? edge_parts : Parts<float>{};
    p.panel_parts = {memory.panel_parts, side.slots * kPanelRows, padded_};
    p.finish = finish;
    p.width = padded_;
    for_slabs(padded_, p, [&](auto, auto slab) {
      launch_warps(tile_gradient<T, slab.value>, side.tile_tasks.size(), group.count, stream_, p);
    });
    combine_split_panels(side, p.edge_parts, p.panel_parts, u, group, finish);
  }
}

#define MANYHOP_INSTANTIATE(T)                                                                            \
  template void Run<T>::gradient(const Side&, const SideMemory<T>&, const Group&, Gradient<T>, Finish<T>, \
                                 bool) const
MANYHOP_INSTANTIATE(float);
MANYHOP_INSTANTIATE(double);
MANYHOP_INSTANTIATE(bf16);
#undef MANYHOP_INSTANTIATE

}  // namespace manyhop::ops::cuda
