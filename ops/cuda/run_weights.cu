#include "manyhop/ops/cuda/run.cuh"
#include "manyhop/ops/cuda/tile_kernels.cuh"

namespace manyhop::ops::cuda {

template <class T>
void Run<T>::make_weights(const Side& side, const SideMemory<T>& memory, const Group& group, int graph,
                          Rows<T> x, Rows<T> y, C* lse, bool transposed, bool only_split) const {
  const Units u = units(group, transposed);
  Edges single = edges(side);
  single.only_split = only_split ? side.row_tasks.data() : nullptr;
  Scores<C> s = scores(graph);
  if (transposed) {
    s.lse = lse;
    s.lse_by_column = true;
  }
  for_width(padded_, [&](auto width) {
    const EdgeScores<T> p{u, single, x, y, s, memory.edge_values, transposed ? nullptr : memory.edge_sums};
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
  c.only_split = only_split;
  launch_threads(combine_lse<C>, n_rows_, group.count, stream_, c);
  s.lse = lse;
  const EdgeWeights<C> w{u, single, s, memory.edge_values};
  launch_warps(edge_weights<C>, side.edge_tasks.size(), group.count, stream_, w);
}

template <class T>
void Run<T>::attend(const Side& side, const SideMemory<T>& memory, const Group& group, int graph, Rows<T> z,
                    Finish<T> finish, Rows<T> x, Rows<T> y, C* lse) const {
  if (side.tiled) {
    make_weights(side, memory, group, graph, x, y, lse, false);
    return hop(side, memory, group, graph, z, finish, false, x, y, lse, false);
  }
  const Units u = units(group);
  finish.n = u.n_rows;
  finish.width = padded_;
  EdgeAttend<T> p{u,   edges(side),           x,     y, z, scores(graph), memory.edge_values,
                  lse, side.row_tasks.data(), finish};
  for_width(padded_, [&](auto width) {
    launch_warps(edge_attend<T, width.value>, side.edge_tasks.size(), group.count, stream_, p);
  });
  if (side.split_rows.size() == 0) return;
  make_weights(side, memory, group, graph, x, y, lse, false, true);
  const Parts<C> parts{memory.edge_parts, side.edge_tasks.size(), padded_};
  p.edges.only_split = side.row_tasks.data();
  for_width(padded_, [&](auto width) {
    const EdgeHop<T> h{u, p.edges, memory.edge_values, z, side.row_tasks.data(), parts, finish};
    launch_warps(edge_hop<T, width.value>, side.edge_tasks.size(), group.count, stream_, h);
  });
  combine_split_rows(side, parts, u, group, finish);
}

#define MANYHOP_INSTANTIATE(T)                                                                               \
  template void Run<T>::make_weights(const Side&, const SideMemory<T>&, const Group&, int, Rows<T>, Rows<T>, \
                                     EdgeValue<T>*, bool, bool) const;                                       \
  template void Run<T>::attend(const Side&, const SideMemory<T>&, const Group&, int, Rows<T>, Finish<T>,     \
                               Rows<T>, Rows<T>, EdgeValue<T>*) const
MANYHOP_INSTANTIATE(float);
MANYHOP_INSTANTIATE(double);
MANYHOP_INSTANTIATE(bf16);
#undef MANYHOP_INSTANTIATE

}  // namespace manyhop::ops::cuda
