// What the forward and the backward pass of a head share: scratch layout, packing, panel weights, one hop.
#pragma once

#include <mutex>
#include <utility>
#include <vector>

#include "manyhop/graphs/base/parallel.hpp"
#include "manyhop/ops/attention_head.hpp"
#include "manyhop/ops/cpu/panel_kernels.hpp"

namespace manyhop::ops::cpu {

/// Cuts aligned pieces off a block; with a null base it only measures.
class Carver {
 public:
  explicit Carver(std::byte* base) : base_(base) {}
  template <class C>
  C* take(Offset count) {
    std::byte* piece = base_ == nullptr ? nullptr : base_ + used_;
    used_ += (static_cast<std::size_t>(count) * sizeof(C) + 63) / 64 * 64;
    return reinterpret_cast<C*>(piece);
  }
  std::size_t used() const { return used_; }

 private:
  std::byte* base_;
  std::size_t used_ = 0;
};

/// Scratch of one panel in flight.
template <class C>
struct PanelScratch {
  C* rows;      // [32][width]
  C* rows_t;    // [width][32]
  C* out;       // [32][width]
  C* values;    // [max_panel_values], when values are not kept
  C* d_values;  // [max_panel_values], backward
  Index* cols;  // [max_panel_cols]

  static PanelScratch carve(Carver& carver, const HeadShape& shape);
};

/// Scratch of one head in flight.
template <class C>
struct HeadScratch {
  C* k;                 // [n_cols][d]
  C* values = nullptr;  // [value_count] when stored
  C* d_values =
      nullptr;        // [value_count] where gradients of A are summed over segments or scattered by features
  C* dk = nullptr;    // [n_cols][d]
  C* dv = nullptr;    // [n_cols][d_value]
  std::vector<C*> z;  // forward: V and two more; backward: V, a segment of Z, checkpoints
  std::vector<C*> checkpoint;
  std::vector<C*> g;  // backward: G of a segment, and one more

  static HeadScratch carve(Carver& carver, const HeadShape& shape, bool stored);
};

/// Hops whose Z are held at once in the backward pass, and how many segments of them there are.
struct Segments {
  int length;
  int count;
  /// Several segments need A and dA kept: without them all of Z is held instead.
  static Segments of(int hops, HeadBackward mode, bool stored);
};

template <class T>
class Head {
 public:
  using C = ComputeOf<T>;

  Head(const HeadInput<T>& in, const HeadResources& resources);

  void pack();  // k and v into rows of the compute type
  /// z_out = (1 - a) A z_in + a V with dropout of `hop`. Makes (first) or reads A. Rows of z_out past n_rows
  /// are not touched.
  void hop(int t, bool first, const C* z_in, C* z_out, const HeadOutput<T>* out);
  /// What a caller may ask for beside `out`: lse and weights.
  /// values = softmax of the panel; leaves scaled q rows in scratch.rows. lse [32].
  void weights_only(const HeadOutput<T>& out);
  void report(const PanelView& view, const C* values, const C* lse, const HeadOutput<T>& out) const;
  void panel_softmax(const PanelView& view, PanelScratch<C>& scratch, C* values, C* lse) const;
  /// Scores of rows with large ones, relative to their largest, which is left in shift [32].
  void sharpen(const PanelView& view, C* values, C* shift) const;
  void drop_edges(const PanelView& view, C* values) const;
  /// Copies the panel's rows of x [n][width] to rows [32][width], zeros past count.
  void gather_rows(const Panel& panel, const C* x, Offset width, Offset from, Offset to, C* rows) const;
  static void transpose_rows(const C* rows, Offset width, C* rows_t);
  /// Scaled q of the panel's rows, features [from, to).
  void load_queries(const Panel& panel, Offset from, Offset to, C* rows) const;
  std::vector<PanelScratch<C>> take_scratch() const { return std::exchange(free_, {}); }
  void give_scratch(std::vector<PanelScratch<C>> scratches) const { free_ = std::move(scratches); }
  /// z[row, :] of one row after hop t, in place: keep or 0, scaled.
  void drop_hop(int t, Index row, C* z) const;

  /// body(view, scratch, panel number) for every panel, in parallel when the resources have threads.
  template <class F>
  void for_panels(bool parallel, F&& body) const;

  Offset width() const { return padded_width(in.d); }
  Offset value_width() const { return padded_width(in.d_value); }
  C* panel_values(const Panel& panel, PanelScratch<C>& scratch) const {
    return resources.stored ? scratch_.values + panel.values : scratch.values;
  }

  const HeadInput<T>& in;
  const HeadResources& resources;
  HeadScratch<C> scratch_;
  bool careful = false;  // v holds a NaN or an infinity

 private:
  mutable std::mutex mutex_;
  mutable std::vector<PanelScratch<C>> free_;
};

/// out[row, :d] = z in the storage type.
template <class T>
void write_row(const ComputeOf<T>* z, Offset d, TensorView<T> out, Offset row) {
  T* target = out.data + row * out.stride[0];
  for (Offset f = 0; f < d; ++f) {
    if constexpr (std::is_same_v<T, ComputeOf<T>>) {
      target[f * out.stride[1]] = z[f];
    } else {
      target[f * out.stride[1]] = static_cast<T>(z[f]);
    }
  }
}

template <class T>
template <class F>
void Head<T>::for_panels(bool parallel, F&& body) const {
  const auto count = static_cast<Offset>(in.tiling->panels.size());
  const auto one = [&](Offset p, PanelScratch<C>& scratch) {
    const Panel& panel = in.tiling->panels[static_cast<std::size_t>(p)];
    expand_columns(*in.tiling, panel, scratch.cols);
    body(PanelView{in.tiling, &panel, scratch.cols}, scratch, p);
  };
  if (!parallel || resources.threads == 1) {
    for (Offset p = 0; p < count; ++p) {
      if (p % 64 == 0) check_stop();
      one(p, free_.back());
    }
    return;
  }
  parallel_for(count, [&](Offset p) {
    std::unique_lock lock(mutex_);
    PanelScratch<C> scratch = free_.back();  // never empty: there is one for each thread of the arena
    free_.pop_back();
    lock.unlock();
    one(p, scratch);
    lock.lock();
    free_.push_back(scratch);
  });
}

}  // namespace manyhop::ops::cpu
