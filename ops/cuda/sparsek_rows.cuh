// SparseK attention in f32 and f64: a warp takes a row and its keys, or a key and the rows of a panel that
// use it.
#pragma once

#include "manyhop/ops/cuda/edges.cuh"
#include "manyhop/ops/cuda/selected.cuh"

namespace manyhop::ops::cuda {

/// What a warp walks along: f(there, i, j, score, q's part, k's part), by all lanes together.
template <class T, int D>
struct Walk {
  using C = EdgeValue<T>;
  using P = Part<T, D>;
  const Attending<T>& attend;
  std::int64_t unit;
  std::int64_t at;  // the first token of the unit's selection
  int lane = lane_id() % P::kLanes;
  int which = lane_id() / P::kLanes;

  __device__ __forceinline__ Walk(const Attending<T>& a, std::int64_t u)
      : attend(a), unit(u), at(a.selected.first(u)) {}

  template <class F>
  __device__ __forceinline__ void keys_of(std::int64_t i, F&& f) const {
    const KeyLists& lists = attend.lists;
    const std::int64_t list = lists.place(unit / attend.selected.share, i / lists.height);
    const Index* keys = lists.keys + list * lists.stride;
    const std::int32_t count = lists.counts[list];
    P q;
    q.load(attend.q.row(unit, i), lane);
    for (std::int32_t first = 0; first < count; first += P::kAtOnce) {
      const std::int32_t place = first + which;
      const std::int64_t j = place < count ? keys[place] : 0;
      const bool there = place < count && j <= i && i < attend.selected.end(at, j);
      P k;
      k.load(attend.k.row(unit, j), lane);
      f(there, i, j, attend.scale * P::over_row(q.dot(k)), q, k);
    }
  }
  template <class F>
  __device__ __forceinline__ void rows_of(std::int64_t j, std::int64_t begin, std::int64_t end, F&& f) const {
    P k;
    k.load(attend.k.row(unit, j), lane);
    for (std::int64_t first = begin; first < end; first += P::kAtOnce) {
      const std::int64_t i = first + which < end ? first + which : begin;
      P q;
      q.load(attend.q.row(unit, i), lane);
      f(first + which < end, i, j, attend.scale * P::over_row(q.dot(k)), q, k);
    }
  }
  __device__ __forceinline__ C lse(std::int64_t i) const { return attend.lse[unit * attend.selected.n + i]; }
};

template <class T, int D>
__global__ void __launch_bounds__(128) selected_lse(Attending<T> p) {
  using C = EdgeValue<T>;
  using P = Part<T, D>;
  const std::int64_t row = warp_id();
  if (row >= p.selected.n) return;
  const Walk<T, D> walk(p, blockIdx.y);
  SoftmaxSum<C> sum;
  walk.keys_of(row, [&](bool there, std::int64_t i, std::int64_t j, C score, const P&, const P&) {
    if (there) sum.add(score, p.selected.gate_scores ? p.gate(walk.at, i, j).gate : C{1});
  });
  sum = over_lanes(sum, P::kLanes, 32);
  if (lane_id() == 0) p.lse[walk.unit * p.selected.n + row] = sum.log_sum();
}

template <class T>
struct SelectedHop {
  Attending<T> attend{};
  Rows<T> z{};
  Finish<T> finish{};
  int feature = 0;  // tensor cores: the first of those that a launch writes
};

template <class T, int D>
__global__ void __launch_bounds__(128) selected_hop(SelectedHop<T> p) {
  using C = EdgeValue<T>;
  using P = Part<T, D>;
  const std::int64_t row = warp_id();
  if (row >= p.attend.selected.n) return;
  const Walk<T, D> walk(p.attend, blockIdx.y);
  const C lse = walk.lse(row);
  P sum;
  sum.clear();
  walk.keys_of(row, [&](bool there, std::int64_t i, std::int64_t j, C score, const P&, const P&) {
    if (!there) return;
    P z;
    z.load(p.z.row(walk.unit, j), walk.lane);
    sum.add(softmax_weight(score, lse) * p.attend.gate(walk.at, i, j).gate, z);
  });
  sum.over_rows();
  if (lane_id() >= P::kLanes) return;
#pragma unroll
  for (int o = 0; o < P::kOwn; ++o) p.finish.write(walk.unit, row, P::feature(o, lane_id()), sum.value[o]);
}

/// Panels [first, end) of the lists and what their rows add to keys, see AddParts.
template <class C>
struct PartsOfPanels {
  std::int64_t first = 0;
  std::int64_t end = 0;
  int width = 0;
  C* data = nullptr;

  __device__ __forceinline__ C* of(std::int64_t unit, std::int64_t panel, std::int64_t stride,
                                   std::int64_t place) const {
    return data + ((unit * (end - first) + panel - first) * stride + place) * width;
  }
};

/// The key of a warp and the rows of its panel that use it.
struct KeyTask {
  std::int64_t panel;
  std::int64_t place;
  std::int64_t key = 0;
  std::int64_t begin = 0;
  std::int64_t end = 0;
  bool there = false;

  __device__ __forceinline__ KeyTask(const SelectedKeys& selected, const KeyLists& lists, std::int64_t unit,
                                     std::int64_t first, std::int64_t last, std::int64_t number) {
    panel = first + number / lists.stride;
    place = number % lists.stride;
    if (panel >= last) return;
    const std::int64_t list = lists.place(unit / selected.share, panel);
    there = place < lists.counts[list];
    if (!there) return;
    key = lists.keys[list * lists.stride + place];
    begin = panel * lists.height;
    const std::int64_t used = selected.end(selected.first(unit), key);
    end = begin + lists.height < used ? begin + lists.height : used;
    begin = begin > key ? begin : key;
  }
};

template <class T>
struct SelectedHopBack {
  Attending<T> attend{};
  Rows<T> g{};
  PartsOfPanels<EdgeValue<T>> parts{};
  int feature = 0;
};

/// W^T g, a part for each panel.
template <class T, int D>
__global__ void __launch_bounds__(128) selected_hop_back(SelectedHopBack<T> p) {
  using C = EdgeValue<T>;
  using P = Part<T, D>;
  const Walk<T, D> walk(p.attend, blockIdx.y);
  const KeyTask task(p.attend.selected, p.attend.lists, walk.unit, p.parts.first, p.parts.end, warp_id());
  if (!task.there) return;
  P sum;
  sum.clear();
  walk.rows_of(task.key, task.begin, task.end,
               [&](bool there, std::int64_t i, std::int64_t j, C score, const P&, const P&) {
                 if (!there) return;
                 P g;
                 g.load(p.g.row(walk.unit, i), walk.lane);
                 sum.add(softmax_weight(score, walk.lse(i)) * p.attend.gate(walk.at, i, j).gate, g);
               });
  sum.over_rows();
  if (lane_id() >= P::kLanes) return;
  C* part = p.parts.of(walk.unit, task.panel, p.attend.lists.stride, task.place);
#pragma unroll
  for (int o = 0; o < P::kOwn; ++o) {
#pragma unroll
    for (int f = 0; f < P::kSize; ++f) part[P::feature(o, lane_id()) + f] = sum.value[o][f];
  }
}

template <class T>
struct SelectedBackward {
  Attending<T> attend{};
  SelectedGradient<T> gradient{};
  Finish<T> finish{};                   // by rows
  PartsOfPanels<EdgeValue<T>> parts{};  // by keys
  int feature = 0;
};

/// The hops' part of an edge's gradient.
template <class T, int D>
__device__ __forceinline__ EdgeValue<T> hop_change(const SelectedGradient<T>& gradient,
                                                   const Walk<T, D>& walk, std::int64_t i, std::int64_t j) {
  using P = Part<T, D>;
  EdgeValue<T> change = 0;
  for (int t = 0; t < gradient.hops; ++t) {
    P g;
    P z;
    g.load(gradient.g.row(t, walk.unit, i), walk.lane);
    z.load(gradient.z.row(t, walk.unit, j), walk.lane);
    change += g.dot(z);
  }
  return P::over_row(change) * gradient.keep;
}

/// dq, and the mean change of the gates that the row's scores move.
template <class T, int D>
__global__ void __launch_bounds__(128) selected_rows_back(SelectedBackward<T> p) {
  using C = EdgeValue<T>;
  using P = Part<T, D>;
  const std::int64_t row = warp_id();
  const SelectedKeys& selected = p.attend.selected;
  if (row >= selected.n) return;
  const Walk<T, D> walk(p.attend, blockIdx.y);
  const C lse = walk.lse(row);
  const C dot = p.gradient.dots[walk.unit * selected.n + row];
  P sum;
  sum.clear();
  C total = 0;
  C members = 0;
  walk.keys_of(row, [&](bool there, std::int64_t i, std::int64_t j, C score, const P&, const P& k) {
    const C dw = hop_change<T, D>(p.gradient, walk, i, j);
    if (!there) return;
    const KeyGate<C> gate = p.attend.gate(walk.at, i, j);
    const auto change = p.gradient.change(selected.gate_scores, softmax_weight(score, lse), gate, dw, dot);
    sum.add(p.attend.scale * change.score, k);
    if (!gate.slopes) return;
    total += change.gate;
    members += 1;
  });
#pragma unroll
  for (int lanes = P::kLanes; lanes < 32; lanes *= 2) {
    total += shuffle_xor(total, lanes);
    members += shuffle_xor(members, lanes);
  }
  if (lane_id() == 0) p.gradient.means[walk.unit * selected.n + row] = members > 0 ? total / members : C{0};
  sum.over_rows();
  if (lane_id() >= P::kLanes) return;
#pragma unroll
  for (int o = 0; o < P::kOwn; ++o) p.finish.write(walk.unit, row, P::feature(o, lane_id()), sum.value[o]);
}

/// dk and the gradient of the keys' scores, a part for each panel.
template <class T, int D>
__global__ void __launch_bounds__(128) selected_keys_back(SelectedBackward<T> p) {
  using C = EdgeValue<T>;
  using P = Part<T, D>;
  const SelectedKeys& selected = p.attend.selected;
  const KeyLists& lists = p.attend.lists;
  const Walk<T, D> walk(p.attend, blockIdx.y);
  const KeyTask task(selected, lists, walk.unit, p.parts.first, p.parts.end, warp_id());
  if (!task.there) return;
  P sum;
  sum.clear();
  C by_score = 0;
  walk.rows_of(task.key, task.begin, task.end,
               [&](bool there, std::int64_t i, std::int64_t j, C score, const P& q, const P&) {
                 const C dw = hop_change<T, D>(p.gradient, walk, i, j);
                 if (!there) return;
                 const std::int64_t at = walk.unit * selected.n + i;
                 const KeyGate<C> gate = p.attend.gate(walk.at, i, j);
                 const C weight = softmax_weight(score, p.attend.lse[at]);
                 const auto change =
                     p.gradient.change(selected.gate_scores, weight, gate, dw, p.gradient.dots[at]);
                 sum.add(p.attend.scale * change.score, q);
                 if (gate.slopes) by_score += change.gate - p.gradient.means[at];
               });
#pragma unroll
  for (int lanes = P::kLanes; lanes < 32; lanes *= 2) by_score += shuffle_xor(by_score, lanes);
  sum.over_rows();
  if (lane_id() == 0) {
    PartsOfPanels<C> scores = p.parts;
    scores.width = 1;
    scores.data = p.gradient.score_parts;
    *scores.of(walk.unit, task.panel, lists.stride, task.place) = by_score;
  }
  if (lane_id() >= P::kLanes) return;
  C* part = p.parts.of(walk.unit, task.panel, lists.stride, task.place);
#pragma unroll
  for (int o = 0; o < P::kOwn; ++o) {
#pragma unroll
    for (int f = 0; f < P::kSize; ++f) part[P::feature(o, lane_id()) + f] = sum.value[o][f];
  }
}

}  // namespace manyhop::ops::cuda
