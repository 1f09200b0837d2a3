// One call of SparseK attention on the device: its tensors as padded rows, the selection, the lists of keys
// of panels, and the launches over them. Rows of a hop look at the keys of their panel of 32; what goes back
// to keys is summed over panels of 128 rows first, some of them at a time, and then over panels.
#pragma once

#include <algorithm>
#include <limits>
#include <string>
#include <vector>

#include "manyhop/ops/cuda/run.cuh"
#include "manyhop/ops/cuda/selection.cuh"
#include "manyhop/ops/cuda/sparsek_attention.hpp"
#include "manyhop/ops/cuda/sparsek_panels.cuh"
#include "manyhop/ops/cuda/transfer.cuh"

namespace manyhop::ops::cuda {

template <class T>
class SparsekRun {
 public:
  using C = EdgeValue<T>;
  static constexpr bool kTensorCores = sizeof(T) == 2;
  static constexpr int kTallPanel = 128;

  explicit SparsekRun(const SparsekCall<T>& call)
      : call_(call),
        stream_(stream_of(call.stream)),
        transfer_{stream_, !call.stream.has_value()},
        n_(call.n),
        units_(call.batch * call.heads),
        kv_units_(call.batch * call.kv_heads),
        score_units_(call.batch * call.score_heads),
        padded_(padded_features(std::max(call.d, call.d_value))) {
    require_shape(call.d, call.d_value, units_);
  }

  std::int64_t cells(std::int64_t units) const { return units * n_ * padded_; }
  bool host() const { return transfer_.host; }
  Rows<T> q() const { return {q_, n_, padded_, 1}; }
  Rows<T> k() const { return {k_, n_, padded_, call_.heads / call_.kv_heads}; }
  Rows<T> v() const { return {v_, n_, padded_, call_.heads / call_.kv_heads}; }
  Rows<T> rows(const T* data) const { return {data, n_, padded_, 1}; }

  /// Selects the keys of all rows. Its memory must be there for the rest of the call.
  SparsekCounts select();

  void take(Arena& arena, bool backward) {
    raw_ = arena.take<T>(host() ? std::max(units_, kv_units_) * n_ * std::max(call_.d, call_.d_value) : 0);
    q_ = arena.take<T>(cells(units_));
    k_ = arena.take<T>(cells(kv_units_));
    v_ = arena.take<T>(cells(kv_units_));
    lse_ = arena.take<C>(units_ * n_);
    take_lists(arena, low_, kPanelRows);
    if (!backward) return;
    take_lists(arena, tall_, kTallPanel);
    part_panels_ = std::clamp<std::int64_t>(
        call_.part_bytes /
            std::max<std::int64_t>(1, units_ * tall_.stride * (padded_ + 1) * std::int64_t{sizeof(C)}),
        1, std::clamp<std::int64_t>(tall_.panels, 1, most_part_panels_));
    parts_ = arena.take<C>(part_panels_ * units_ * tall_.stride * padded_);
    score_parts_ = arena.take<C>(part_panels_ * units_ * tall_.stride);
  }
  /// Half as many panels leave parts at a time; false: it is one already. take() comes again.
  bool fewer_parts() {
    most_part_panels_ = part_panels_ / 2;
    return most_part_panels_ > 0;
  }
  /// Of the limit, what the selection leaves; 0: there is none.
  std::size_t limit_left() const {
    const std::size_t limit = call_.memory_limit;
    return limit == 0 ? 0 : std::max<std::size_t>(1, limit - std::min(limit, selection_.bytes()));
  }
  /// Packs q, k, v and lists the keys.
  void prepare(bool backward) {
    pack(call_.q, units_, call_.heads, call_.d, q_);
    pack(call_.k, kv_units_, call_.kv_heads, call_.d, k_);
    pack(call_.v, kv_units_, call_.kv_heads, call_.d_value, v_);
    launch_warps(list_keys, low_.panels, score_units_, stream_, ListKeys{selected_, low_});
    if (backward) launch_warps(list_keys, tall_.panels, score_units_, stream_, ListKeys{selected_, tall_});
  }
  void pack(TensorView<const T> view, std::int64_t units, int heads, int width, T* to) const {
    transfer_.pack(Copy<T>{}, view, units, heads, n_, width, padded_, raw_, to);
  }
  void unpack(const T* from, TensorView<T> view, std::int64_t units, int heads, int width) const {
    transfer_.unpack(Copy<T>{}, from, view, units, heads, n_, width, padded_, raw_);
  }

  Attending<T> attending(const KeyLists& lists) const {
    return {selected_, lists, q(), k(), static_cast<C>(call_.scale), lse_};
  }
  void make_lse() const;
  /// to = (1 - a) W z + a V
  void hop(Rows<T> z, T* to) const;
  /// totals [units][n][padded] += W^T g
  void hop_back(Rows<T> g, C* totals) const;
  /// What gradient() wants: Z_0 .. Z_{K-1} and the gradients of Z_1 .. Z_K, D and room for means.
  void rows_back(const SelectedGradient<T>& gradient, T* dq) const;
  /// Added to dk [kv units][n][padded] and to the scores' [score units][n]; null: not wanted.
  void keys_back(SelectedGradient<T> gradient, C* dk, C* dscores) const;

  const SparsekCall<T>& call_;
  cudaStream_t stream_;
  Transfer transfer_;
  std::int64_t n_;
  std::int64_t units_;
  std::int64_t kv_units_;
  std::int64_t score_units_;
  int padded_;
  SelectedKeys selected_{};
  std::int64_t most_ = 0;  // keys that a row has kept
  KeyLists low_{};
  KeyLists tall_{};
  C* lse_ = nullptr;

 private:
  void take_lists(Arena& arena, KeyLists& lists, int height) const {
    lists.height = height;
    lists.panels = (n_ + height - 1) / height;
    // A panel's first row keeps `most`, each further one at most one more; its windows reach over it.
    std::int64_t keys = std::min(n_, most_ + height);
    keys = std::min(n_, keys + (selected_.window > 0 ? selected_.window + height : 0));
    keys = std::min(n_, keys + selected_.sinks);
    lists.stride = (keys + kWarp - 1) / kWarp * kWarp;
    lists.keys = arena.take<Index>(score_units_ * lists.panels * lists.stride);
    lists.counts = arena.take<std::int32_t>(score_units_ * lists.panels);
  }
  /// f(first panel, end) for as many as fit.
  template <class F>
  void some_panels(F&& f) const {
    for (std::int64_t first = 0; first < tall_.panels; first += part_panels_)
      f(first, std::min(tall_.panels, first + part_panels_));
  }
  /// kernel(width, features of a launch): the tensor cores' where T has them, and then once for each slab.
  template <class P, class F>
  void launch(P& p, std::int64_t warps, F&& kernel) const {
    if constexpr (kTensorCores) {
      for_slabs(padded_, p,
                [&](auto width, auto slab) { launch_warps(kernel(width, slab), warps, units_, stream_, p); });
    } else {
      for_width(padded_, [&](auto width) { launch_warps(kernel(width, width), warps, units_, stream_, p); });
    }
  }
  std::int64_t key_warps(std::int64_t panels) const {
    return panels * tall_.stride / (kTensorCores ? kPanelRows : 1);
  }
  void add(const C* parts, std::int64_t first, std::int64_t end, int width, std::int64_t units,
           C* totals) const {
    AddParts<C> p;
    p.selected = selected_;
    p.lists = tall_;
    p.parts = parts;
    p.first = first;
    p.end = end;
    p.width = width;
    p.heads = static_cast<int>(units_ / units);
    p.totals = totals;
    launch_threads(add_parts<C>, n_ * width, units, stream_, p);
  }
  Finish<T> finish(T* out) const {
    Finish<T> f;
    f.out = out;
    f.n = n_;
    f.width = padded_;
    return f;
  }

  T* raw_ = nullptr;
  T* q_ = nullptr;
  T* k_ = nullptr;
  T* v_ = nullptr;
  C* parts_ = nullptr;
  C* score_parts_ = nullptr;
  std::int64_t part_panels_ = 1;
  std::int64_t most_part_panels_ = std::numeric_limits<std::int64_t>::max();
  Buffer selection_;
};

/// Throws LimitError where the limit, or the device, has not as much.
inline void require_memory(std::size_t limit, std::size_t bytes, const char* what) {
  if (const std::size_t can = memory_of_device(limit, bytes); bytes > can) {
    throw LimitError("memory limit: " + std::to_string(can >> 20) + " MiB of device memory, " + what +
                     " takes " + std::to_string((bytes >> 20) + 1) + " MiB");
  }
}

}  // namespace manyhop::ops::cuda
