// What SparseK has selected, as kernels use it. A key is used by the rows from its own on without a gap, so
// one number a key says by which; lists of the keys that some row of a panel uses are made from that.
#pragma once

#include "manyhop/ops/cuda/device.cuh"

namespace manyhop::ops::cuda {

/// By score unit (batch item and score head) and token.
struct SelectedKeys {
  const double* score = nullptr;
  const double* tau = nullptr;
  const Index* until = nullptr;
  std::int64_t n = 0;
  std::int64_t window = 0;  // at most n, as are the sinks
  std::int64_t sinks = 0;
  bool gate_scores = false;  // else values
  int share = 1;             // query heads that follow a score head

  /// Where a unit's tokens begin.
  __device__ __forceinline__ std::int64_t first(std::int64_t unit) const { return unit / share * n; }
  /// Rows j .. end - 1 use key j; `at` is first(unit).
  __device__ __forceinline__ std::int64_t end(std::int64_t at, std::int64_t j) const {
    std::int64_t end = until[at + j];
    end = end > j + window ? end : j + window;
    return j < sinks || end > n ? n : end;
  }
};

/// How strongly row i uses key j, and what of it the scores move.
template <class C>
struct KeyGate {
  C gate;       // 1 in the window and for sinks
  bool counts;  // the edge passes a gradient on to its gate
  bool slopes;  // the gate of the selection lies strictly between 0 and 1

  __device__ __forceinline__ KeyGate(const SelectedKeys& keys, std::int64_t i, std::int64_t j, double score,
                                     double tau, std::int64_t until) {
    const double above = score - tau;
    const double kept = until <= i || !(above > 0) ? 0.0 : above >= 1 ? 1.0 : above;
    counts = j >= keys.sinks && j <= i - keys.window;
    gate = counts ? static_cast<C>(kept) : C{1};
    slopes = kept > 0 && kept < 1;
  }
};

/// [score units][panels][stride]: of each panel of `height` rows the keys that one of them uses, upwards.
struct KeyLists {
  Index* keys = nullptr;
  std::int32_t* counts = nullptr;  // [score units][panels]
  std::int64_t panels = 0;
  std::int64_t stride = 0;  // a multiple of 32; a list is filled up to one with its last key
  int height = 0;

  __device__ __forceinline__ std::int64_t place(std::int64_t score_unit, std::int64_t panel) const {
    return score_unit * panels + panel;
  }
};

struct ListKeys {
  SelectedKeys selected{};
  KeyLists lists{};
};

/// A warp for each panel; units are score units.
inline __global__ void __launch_bounds__(128) list_keys(ListKeys p) {
  const std::int64_t panel = warp_id();
  if (panel >= p.lists.panels) return;
  const std::int64_t unit = blockIdx.y;
  const std::int64_t at = unit * p.selected.n;
  const std::int64_t first = panel * p.lists.height;
  const std::int64_t rows_end = first + p.lists.height;
  const std::int64_t last = rows_end < p.selected.n ? rows_end : p.selected.n;
  Index* keys = p.lists.keys + p.lists.place(unit, panel) * p.lists.stride;
  const auto lane = static_cast<std::uint32_t>(lane_id());
  std::int32_t count = 0;
  for (std::int64_t base = 0; base < last; base += kWarp) {
    const std::int64_t j = base + lane;
    bool used = false;
    if (j < last) {
      const std::int64_t end = p.selected.end(at, j);
      used = end > j && end > first;
    }
    const std::uint32_t lanes = ballot(used);
    if (used) keys[count + bits_set(lanes & ((1U << lane) - 1))] = static_cast<Index>(j);
    count += bits_set(lanes);
  }
  // The last key again: what is not finite in it reaches no rows but those of its panel.
  const std::int32_t filled = (count + 31) / 32 * 32;
  const std::int32_t mine = count + static_cast<std::int32_t>(lane);
  sync_warp();
  if (mine < filled) keys[mine] = keys[count - 1];
  if (lane == 0) p.lists.counts[p.lists.place(unit, panel)] = count;
}

/// Where key j stands in a list that has it.
__device__ __forceinline__ std::int64_t place_of(const Index* keys, std::int32_t count, std::int64_t j) {
  std::int32_t low = 0;
  std::int32_t high = count - 1;
  while (low < high) {
    const std::int32_t middle = (low + high) / 2;
    if (keys[middle] < j) {
      low = middle + 1;
    } else {
      high = middle;
    }
  }
  return low;
}

/// totals[unit / heads][j][f] += parts of panels [first, end), where rows of panels have left what goes to
/// their keys: [units][end - first][stride][width]. In the order of heads and panels, whatever the device.
template <class C>
struct AddParts {
  SelectedKeys selected{};
  KeyLists lists{};
  const C* parts = nullptr;
  std::int64_t first = 0;
  std::int64_t end = 0;
  int width = 0;
  int heads = 1;        // units that are added together
  C* totals = nullptr;  // [units / heads][n][width]
};

template <class C>
__global__ void __launch_bounds__(128) add_parts(AddParts<C> p) {
  const std::int64_t j = thread_id() / p.width;
  const std::int64_t f = thread_id() % p.width;
  if (j >= p.selected.n) return;
  C sum = 0;
  bool any = false;
  for (int h = 0; h < p.heads; ++h) {
    const std::int64_t unit = static_cast<std::int64_t>(blockIdx.y) * p.heads + h;
    const std::int64_t end = p.selected.end(p.selected.first(unit), j);
    if (end <= j) continue;
    const std::int64_t from = j / p.lists.height > p.first ? j / p.lists.height : p.first;
    const std::int64_t to = (end - 1) / p.lists.height < p.end - 1 ? (end - 1) / p.lists.height : p.end - 1;
    for (std::int64_t panel = from; panel <= to; ++panel) {
      const std::int64_t list = p.lists.place(unit / p.selected.share, panel);
      const std::int64_t place = place_of(p.lists.keys + list * p.lists.stride, p.lists.counts[list], j);
      sum += p.parts[((unit * (p.end - p.first) + panel - p.first) * p.lists.stride + place) * p.width + f];
      any = true;
    }
  }
  if (any) p.totals[(static_cast<std::int64_t>(blockIdx.y) * p.selected.n + j) * p.width + f] += sum;
}

template <class C>
struct ScaleValues {
  C* values = nullptr;
  double factor = 1;
  std::int64_t count = 0;
};

template <class C>
__global__ void __launch_bounds__(128) scale_values(ScaleValues<C> p) {
  const std::int64_t i = thread_id();
  if (i < p.count) p.values[i] = static_cast<C>(static_cast<double>(p.values[i]) * p.factor);
}

template <class C>
struct NarrowLse {
  const C* lse = nullptr;
  float* out = nullptr;
  std::int64_t count = 0;
};

template <class C>
__global__ void __launch_bounds__(128) narrow_lse(NarrowLse<C> p) {
  const std::int64_t i = thread_id();
  if (i < p.count) p.out[i] = static_cast<float>(p.lse[i]);
}

/// What kernels of SparseK attention have in common. Features have `width` columns; units are query heads.
template <class T>
struct Attending {
  using C = EdgeValue<T>;
  SelectedKeys selected{};
  KeyLists lists{};
  Rows<T> q{};
  Rows<T> k{};
  C scale = 1;
  C* lse = nullptr;  // [units][n], which the first kernel writes

  __device__ __forceinline__ KeyGate<C> gate(std::int64_t at, std::int64_t i, std::int64_t j) const {
    return {selected, i, j, selected.score[at + j], selected.tau[at + i], selected.until[at + j]};
  }
  /// Of a product of q and k in bf16.
  __device__ __forceinline__ float weight(std::int64_t unit, std::int64_t at, std::int64_t i, std::int64_t j,
                                          float product) const {
    return quick_weight(scale * product, lse[unit * selected.n + i]) * gate(at, i, j).gate;
  }
};

/// The gradient of scores and gates: with E = exp(s - lse) and dW = keep sum_t <u_t[row], w_t[key]>
///   gates on values   ds = E (g dW - D)     dg = E dW
///   on scores         ds = E g (dW - D)     dg = E (dW - D)
/// D = sum over the row's keys of W dW.
template <class T>
struct SelectedGradient {
  using C = EdgeValue<T>;
  Series<T> z{};  // Z_0 .. Z_{K-1}
  Series<T> g{};  // the gradients of Z_1 .. Z_K
  int hops = 0;
  C keep = 1;
  const C* dots = nullptr;   // D [units][n]
  C* means = nullptr;        // [units][n]: of dg over the row's keys with 0 < p < 1; a pass by rows writes it
  C* score_parts = nullptr;  // [units][panels][stride]: to the keys' scores; a pass by keys writes it

  struct Change {
    C score;
    C gate;
  };
  __device__ __forceinline__ Change change(bool gate_scores, C weight, const KeyGate<C>& gate, C dw,
                                           C dot) const {
    const C by_gate = weight * (gate_scores ? dw - dot : dw);
    return {weight * (gate.gate * dw - (gate_scores ? gate.gate * dot : dot)), gate.counts ? by_gate : C{0}};
  }
};

}  // namespace manyhop::ops::cuda
