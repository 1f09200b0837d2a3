#include "manyhop/ops/cuda/run.cuh"
#include "manyhop/ops/cuda/tile_kernels.cuh"

namespace manyhop::ops::cuda {

template <class T>
void Run<T>::make_weights(const Side& side, const SideMemory<T>& memory, const Group& group, int graph,
                          Rows<T> x, Rows<T> y, C* lse, bool transposed) const {
  const Units u = units(group, transposed);
  Scores<C> s = scores(graph);
  if (transposed) {
    s.lse = lse;
    s.lse_by_column = true;
  }
  for_width(padded_, [&](auto width) {
    const EdgeScores<T> p{
        u, edges(side), x, y, s, memory.edge_values, transposed ? nullptr : memory.edge_sums};
    launch_warps(edge_scores<T, width.value>, side.edge_tasks.size(), group.count, stream_, p);
  });
  if (transposed) return;
  if constexpr (kTileable) {
    for_width(padded_, [&](auto width) {
      const TileScores<T> p{u, tiles(side), x, y, s, memory.tile_sums};
      launch_warps(tile_scores<T, width.value>, side.tile_tasks.size(), group.count, stream_, p);
    });
  }
  CombineLse<C> c;
  c.units = u;
  c.row_tasks = side.row_tasks.data();
  c.edge_sums = side.edge_tasks.size() > 0 ? memory.edge_sums : nullptr;
  c.edge_tasks = side.edge_tasks.size();
  if constexpr (kTileable) {
    c.tile_sums = side.tiled ? memory.tile_sums : nullptr;
    c.tile_tasks = side.tile_tasks.size();
    c.row_places = side.row_places.data();
    c.panel_tasks = side.panel_tasks.data();
  }
  c.lse = lse;
  launch_threads(combine_lse<C>, n_rows_, group.count, stream_, c);
  s.lse = lse;
  const EdgeWeights<C> w{u, edges(side), s, memory.edge_values};
  launch_warps(edge_weights<C>, side.edge_tasks.size(), group.count, stream_, w);
}

#define MANYHOP_INSTANTIATE(T)                                                                               \
  template void Run<T>::make_weights(const Side&, const SideMemory<T>&, const Group&, int, Rows<T>, Rows<T>, \
                                     EdgeValue<T>*, bool) const
MANYHOP_INSTANTIATE(float);
MANYHOP_INSTANTIATE(double);
MANYHOP_INSTANTIATE(bf16);
#undef MANYHOP_INSTANTIATE

}  // namespace manyhop::ops::cuda
