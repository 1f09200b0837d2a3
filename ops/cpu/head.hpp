// What the forward and the backward pass of a head share: scratch layout, packing, panel weights, one hop.
#pragma once

#include <algorithm>
#include <cstdint>
#include <mutex>
#include <utility>
#include <vector>

#include "manyhop/graphs/base/parallel.hpp"
#include "manyhop/ops/attention_head.hpp"
#include "manyhop/ops/cpu/head_rows.hpp"
#include "manyhop/ops/cpu/panel_kernels.hpp"
#include "manyhop/ops/cpu/tiles.hpp"

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

/// Features that rows of K and Z are padded to: whole tiles where tiles multiply rows of floats.
template <class S>
Offset head_width(const HeadShape& shape, Offset features) {
  return shape.tiles && !shape.half ? tile_width(features) : padded_width<S>(features);
}

/// Scratch of one panel in flight.
template <class C>
struct PanelScratch {
  C* rows;      // [32][width]
  C* rows_t;    // [width][32]
  C* out;       // [32][width]
  C* values;    // [max_panel_values], when values are not kept
  C* d_values;  // [max_panel_values], backward
  Index* cols;  // [max_panel_cols], and the rows that have each column
  std::uint32_t* masks;
  // With tiles:
  TileScratch tiles{};
  bf16* queries = nullptr;  // [features / 2 words][32], of q or of G of up to 16 hops; or a panel's pairs
  bf16* weights = nullptr;  // tile_weight_elements(max_panel_cols)

  static PanelScratch carve(Carver& carver, const HeadShape& shape);
  PanelView view(const Tiling& tiling, const Panel& panel) const { return {&tiling, &panel, cols, masks}; }
  PanelView expand(const Tiling& tiling, const Panel& panel) const {
    expand_columns(tiling, panel, cols, masks);
    return view(tiling, panel);
  }
};

/// Scratch of one head in flight.
template <class C, class S>
struct HeadScratch {
  C* k;                 // [n_cols][d]
  C* values = nullptr;  // [value_count] when stored
  // Backward: gradients of A [value_count], where they are summed over segments or scattered by features.
  C* d_values = nullptr;
  // Backward, [by_column]: A of single edges column by column; once all hops have gone back, gradients of it
  // row by row.
  C* by_column = nullptr;
  C* d_column = nullptr;  // gradients of it column by column, as the hops go back; may lie where dk does
  C* dk = nullptr;        // [n_cols][d]
  C* dv = nullptr;        // [longest][d_value]
  std::vector<S*> z;      // forward: Z_0 = V .. Z_K, some of them the same; backward: V and a segment of Z
  std::vector<S*> checkpoint;
  std::vector<C*> g;       // backward: G of a segment, and one more
  bool keys_lent = false;  // g[0] lies where k does
  // With tiles: k [n_cols][tile_width(d)], and the pairs of the Z that a hop reads, at last those of k.
  bf16* half_k = nullptr;
  bf16* pairs = nullptr;
  // With tiles and rows of floats: what is taken off rows before they are paired.
  C* center = nullptr;
  // Backward: all Z of a segment side by side, [longest][hops][value_width], and what is taken off them
  // [hops][value_width].
  bf16* halves = nullptr;
  C* centers = nullptr;

  /// `kept`: the memory of HeadResources::kept where shape.kept (else unused).
  /// `parallel`: all threads are in this head.
  static HeadScratch carve(Carver& carver, Carver& kept, const HeadShape& shape, bool stored, bool parallel);
};

/// Hops whose Z are held at once in the backward pass, and how many segments of them there are.
struct Segments {
  int length;
  int count;
  /// Checkpointed: all of Z, or about sqrt(K) segments and dA, whichever takes less memory. Several segments
  /// need A kept: without it all of Z is held.
  static Segments of(const HeadShape& shape, bool stored);
};

/// S: what V and Z are kept in, the type of the arithmetic or bf16.
template <class T, class S = ComputeOf<T>>
class Head {
 public:
  using C = ComputeOf<T>;
  using Stored = T;

  Head(const HeadInput<T>& in, const HeadResources& resources);

  void pack();  // k and v into rows of the compute type
  void pack_keys();
  /// z_out = (1 - a) A z_in + a V with dropout of hop t. Makes (first) or reads A. Rows of z_out past n_rows
  /// are not touched. With `last` the result goes to out->out alone, and z_out is scratch (null: none).
  void hop(int t, bool first, const S* z_in, S* z_out, const HeadOutput<T>* out, bool last = false);
  /// With tiles: the pairs of x, for the products that read it; of floats less their center.
  template <class R>
  void pair_up(Rows<const R> x);
  /// A of one panel: softmax, dropout, and what `out` asks for beside the result (null: nothing).
  void make_weights(const PanelView& view, PanelScratch<C>& scratch, C* values, const HeadOutput<T>* out);
  /// What a caller may ask for beside `out`: lse and weights.
  void weights_only(const HeadOutput<T>& out);
  void report(const PanelView& view, const C* values, const C* lse, const HeadOutput<T>& out) const;
  /// values = softmax of the panel; leaves scaled q rows in scratch.rows. lse [32].
  void panel_softmax(const PanelView& view, PanelScratch<C>& scratch, C* values, C* lse) const;
  void dense_scores(const PanelView& view, PanelScratch<C>& scratch, C* values) const;
  /// out = values x over the panel's dense columns; where tiles multiply, pair_up(x) came before.
  void dense_products(const PanelView& view, PanelScratch<C>& scratch, const C* values, Rows<const S> x,
                      bool ask_masks) const;
  /// Whether tiles multiply the panel's dense columns, which ask no masks.
  bool tiled(const Panel& panel, bool ask_masks) const {
    return resources.shape.tiles && !ask_masks && worth_tiles(panel);
  }
  /// Makes scores of rows with a large peak again, relative to it; the peak is left in shift [32]. False when
  /// no row has one.
  bool sharpen(const PanelView& view, C* values, const C* peak, C* shift) const;
  void drop_edges(const PanelView& view, C* values) const;
  /// Copies the panel's rows of x to rows [32][width], features [from, to), zeros past count.
  static void gather_rows(const PanelView& view, Rows<const C> x, Offset from, Offset to, C* rows);
  static void transpose_rows(const C* rows, Offset width, C* rows_t);
  /// Scaled q of the panel's rows, features [from, to).
  void load_queries(const PanelView& view, Offset from, Offset to, C* rows) const;
  std::vector<PanelScratch<C>> take_scratch() const { return std::exchange(free_, {}); }
  void give_scratch(std::vector<PanelScratch<C>> scratches) const { free_ = std::move(scratches); }
  /// z[token, :] after hop t, in place: keep or 0, scaled.
  void drop_hop(int t, Offset token, C* z) const;

  /// body(view, scratch, panel number) for every panel, in parallel when the resources have threads.
  template <class F>
  void for_panels(bool parallel, F&& body) const;
  /// body(scratch, first panel, end) for stretches of panels of about equal cost: one, or several a thread.
  template <class F>
  void for_strips(F&& body) const;
  template <class F>
  void with_scratch(F&& body) const;

  Rows<C> keys(C* k) const { return {k, in.n_cols, width()}; }
  Rows<S> features(S* z) const { return {z, std::max(in.n_rows, in.n_cols), value_width()}; }
  Rows<const S> features(const S* z) const { return {z, std::max(in.n_rows, in.n_cols), value_width()}; }
  Offset width() const { return head_width<C>(resources.shape, in.d); }
  Offset value_width() const { return head_width<S>(resources.shape, in.d_value); }
  C* panel_values(const Panel& panel, PanelScratch<C>& scratch) const {
    return resources.stored ? scratch_.values + panel.values : scratch.values;
  }

  const HeadInput<T>& in;
  const HeadResources& resources;
  HeadScratch<C, S> scratch_;
  bool careful = false;       // v, or a Z that a hop has written, holds a NaN or an infinity
  bool careful_keys = false;  // k does
  bool centered = false;      // what pair_up took off is not 0

 private:
  /// Whether all of it was finite.
  template <class R>
  bool pack_rows(TensorView<const T> from, Offset d, Rows<R> to) const;

  mutable std::mutex mutex_;
  mutable std::vector<PanelScratch<C>> free_;
};

template <class T, class S>
template <class F>
void Head<T, S>::with_scratch(F&& body) const {
  std::unique_lock lock(mutex_);
  PanelScratch<C> scratch = free_.back();  // never empty: there is one for each thread of the arena
  free_.pop_back();
  lock.unlock();
  body(scratch);
  lock.lock();
  free_.push_back(scratch);
}

template <class T, class S>
template <class F>
void Head<T, S>::for_panels(bool parallel, F&& body) const {
  const auto count = static_cast<Offset>(in.tiling->panels.size());
  const auto one = [&](Offset p, PanelScratch<C>& scratch) {
    const Panel& panel = in.tiling->panels[static_cast<std::size_t>(p)];
    body(scratch.expand(*in.tiling, panel), scratch, p);
  };
  if (!parallel || resources.threads == 1) {
    for (Offset p = 0; p < count; ++p) {
      if (p % 64 == 0) check_stop();
      one(p, free_.back());
    }
    return;
  }
  parallel_for(count, [&](Offset p) { with_scratch([&](PanelScratch<C>& scratch) { one(p, scratch); }); });
}

template <class T, class S>
template <class F>
void Head<T, S>::for_strips(F&& body) const {
  const auto& panels = in.tiling->panels;
  const auto count = static_cast<Offset>(panels.size());
  if (resources.threads == 1) {
    body(free_.back(), Offset{0}, count);
    return;
  }
  // A single edge costs about three cells of a dense column.
  const auto cost = [&](const Panel& panel) {
    return 3 * in.tiling->panel_values(panel) - 2 * panel.dense_cols * kPanelRows + kPanelRows;
  };
  Offset total = 0;
  for (const Panel& panel : panels) total += cost(panel);
  const Offset share = std::max<Offset>(1, total / (4 * resources.threads));
  std::vector<Offset> begins;
  Offset filled = share;
  for (Offset p = 0; p < count; ++p) {
    if (filled >= share) {
      begins.push_back(p);
      filled = 0;
    }
    filled += cost(panels[static_cast<std::size_t>(p)]);
  }
  begins.push_back(count);
  parallel_for(static_cast<Offset>(begins.size()) - 1, [&](Offset strip) {
    const auto s = static_cast<std::size_t>(strip);
    with_scratch([&](PanelScratch<C>& scratch) { body(scratch, begins[s], begins[s + 1]); });
  });
}

}  // namespace manyhop::ops::cpu
