// The backward pass of a head: what its two halves share, hops back over the edges and gradients of the
// edges.
#pragma once

#include <algorithm>
#include <cstdint>
#include <functional>
#include <utility>
#include <vector>

#include "manyhop/graphs/base/parallel.hpp"
#include "manyhop/ops/cpu/head.hpp"

namespace manyhop::ops::cpu {

// Eight sums, for one is a chain of additions that each wait for the last.
template <class C>
double dot_in_double(const C* a, const C* b, Offset count) {
  double parts[8] = {};
  Offset i = 0;
  for (; i + 8 <= count; i += 8) {
    for (Offset x = 0; x < 8; ++x) parts[x] += static_cast<double>(a[i + x]) * static_cast<double>(b[i + x]);
  }
  for (; i < count; ++i) parts[0] += static_cast<double>(a[i]) * static_cast<double>(b[i]);
  return ((parts[0] + parts[1]) + (parts[2] + parts[3])) + ((parts[4] + parts[5]) + (parts[6] + parts[7]));
}

/// One head's way back; `run` is all of it.
template <class T>
class Backward {
  using C = ComputeOf<T>;
  static constexpr Offset kRowGrain = 256;

 public:
  Backward(const HeadInput<T>& in, const HeadGradient<T>& gradient, const HeadResources& resources)
      : in_(in),
        gradient_(gradient),
        head_(in, resources),
        parallel_(resources.threads > 1 && resources.stored),
        step_(resources.shape.tiles ? kTileCols : 16),
        careful_rows_(in.tiling->panels.size()),
        teleport_sums_(in.tiling->panels.size()) {}

  void run();

 private:
  HeadScratch<C, C>& scratch() { return head_.scratch_; }
  Offset z_size() const { return std::max(in_.n_cols, in_.n_rows) * head_.value_width(); }

  // body(first element, end) of rows [begin, end) in each block of a Z.
  template <class F>
  void blocks(Offset begin, Offset end, F&& body) const {
    const Rows<const C> shape = head_.features(static_cast<const C*>(nullptr));
    for (Offset block = 0; block < shape.width; block += shape.kBlock) {
      const Offset first = block * shape.count;
      body(first + begin * shape.stride(block), first + end * shape.stride(block));
    }
  }

  void ranges(Offset count, const std::function<void(Offset, Offset)>& body) {
    if (head_.resources.threads > 1) {
      parallel_ranges(count, kRowGrain, body);
    } else {
      body(0, count);
    }
  }

  void clear_keys();

  // dk and dv from this head's vertices to tokens, or back.
  void reorder_sums(bool by_token);

  void load_gradient(C* g);

  // to += factor * from for the first rows.
  void add(C* to, const C* from, C factor, Offset rows);

  void copy(const C* from, C* to);

  // <g, v> summed in fixed chunks.
  double dot_with_v(const C* g);

  // g_out = (1 - a) A^T g_in, all features of all columns. With z, gradients of the single edges on the way:
  // d_column (+)= <g_in, z>, which the pass reads anyway.
  void pull_back(const C* g_in, C* g_out, const C* z = nullptr, bool fresh = false);

  // f(place among the panel's single edges, slot column by column) for each of them.
  template <class F>
  void for_slots(const Panel& panel, F&& f) const {
    const auto position = static_cast<std::size_t>(panel.first);
    const Offset first = in_.tiling->rest_indptr[position];
    const Offset last = in_.tiling->rest_indptr[position + static_cast<std::size_t>(panel.count)];
    for (Offset e = first; e < last; ++e) f(e - first, in_.by_column->slots[static_cast<std::size_t>(e)]);
  }

  // A of the single edges column by column, once.
  void arrange_by_column();

  // Whether hops on their way back gather single edges by column, and whether they make gradients of them.
  bool by_column() { return in_.by_column != nullptr && scratch().by_column != nullptr; }
  bool pulls_gradients() { return by_column() && scratch().d_column != nullptr; }
  // What they have made, row by row.
  void gradients_by_row();

  const C* stored_weights(const PanelView& view, PanelScratch<C>& s);

  // body(view, scratch, from, to) for every panel and all features of `width`, or where all threads are here
  // for every slice of features and panel.
  template <class F>
  void for_slices(Offset width, F&& body) {
    if (!parallel_) {
      head_.for_panels(false,
                       [&](const PanelView& view, PanelScratch<C>& s, Offset) { body(view, s, 0, width); });
      return;
    }
    parallel_for(width / step_, [&](Offset slice) {
      head_.with_scratch([&](PanelScratch<C>& s) {
        for (const Panel& panel : in_.tiling->panels) {
          body(s.expand(*in_.tiling, panel), s, slice * step_, (slice + 1) * step_);
        }
      });
    });
  }

  // out[col] += sum_r values[c, r] rows[r] over dense columns, features [from, to); rows [32][width].
  void scatter_columns(const PanelView& view, const C* values, const C* rows, Offset from, Offset to,
                       Rows<C> out, bool careful, PanelScratch<C>& s);

  void scatter_panel_rest(const PanelView& view, const C* values, const C* rows, Offset from, Offset to,
                          Rows<C> out);

  void unrolled();

  const C* z_at(int i) { return i == 0 ? z_start_ : scratch().z[static_cast<std::size_t>(i)]; }

  // G of the segment after hop i, whose dA it makes with Z before it.
  Rows<const C> g_after(int i) {
    return head_.features(static_cast<const C*>(scratch().g[static_cast<std::size_t>(i) + 1]));
  }

  void mask(int t, C* g);

  // body(first, count, fresh) for the hops of one segment that holds all of them, in groups as several
  // segments would have them: the memory at hand must not show in the order of sums.
  template <class F>
  void for_groups(int hops, F&& body) const {
    const Segments groups = Segments::of(head_.resources.shape, true);
    for (int j = groups.count - 1; j >= 0; --j) {
      const int first = j * groups.length;
      body(first, std::min(groups.length, hops - first), j + 1 == groups.count);
    }
  }

  // rest (+)= sum_i <G_{i+1, r}, Z_{i, c}> over the segment's hops, the last one first, as hops go back that
  // make them on the way: in passes over all panels, a block of features at a time, where there is memory for
  // the single edges of all panels, else in one panel.
  void rest_gradient(int hops, bool fresh);
  void rest_scores(const PanelView& view, int i, Offset block, bool accumulate, C* rest);
  // body(hop, block of features, whether some came before) in the order of those sums.
  template <class F>
  void for_rest_scores(int hops, bool fresh, F&& body) const {
    for (int i = hops - 1; i >= 0; --i) {
      for (Offset block = 0; block < head_.value_width(); block += Rows<C>::kBlock)
        body(i, block, !fresh || i + 1 < hops || block > 0);
    }
  }
  // Memory for gradients of single edges where d_values is not there; null: none that is large enough.
  C* rest_alone();
  // Of a panel's single edges, in either.
  C* rest_of(const Panel& panel) {
    if (scratch().d_values != nullptr)
      return scratch().d_values + panel.values + panel.dense_cols * kPanelRows;
    return rest_alone() + in_.tiling->rest_indptr[static_cast<std::size_t>(panel.first)];
  }
  // The same of a panel's dense columns, hops first .. first + count - 1 of the segment.
  void panel_gradient(const PanelView& view, PanelScratch<C>& s, int first, int count, bool fresh,
                      C* d_values);

  void accumulate(int hops, bool fresh);

  // From dA to dq, dk, dbias. `hops` of the one segment are still to be summed; with several they lie in
  // d_values.
  void finish(int hops, int segments);

  // Z of the segment's hops side by side in bf16, for tiles.
  void make_halves(int hops);

  void finish_panel(const PanelView& view, PanelScratch<C>& s, Offset p, const C* weights, C* d_values);

  void clear_q();

  // Largest change between two blocks of n rows, and largest entry of the first.
  std::pair<C, C> change(const C* a, const C* b);

  // Z* = (1 - a) A Z* + a V and W = G + (1 - a) A^T W by iteration until nothing moves but the last bits.
  void implicit();

  void write_key_gradients();

  const HeadInput<T>& in_;
  const HeadGradient<T>& gradient_;
  Head<T> head_;
  bool parallel_;
  Offset step_;                             // features of a slice: widths are multiples of it
  bool careful_ = false;                    // g, or what it became, holds a NaN or an infinity
  std::vector<std::uint8_t> careful_rows_;  // by panel: whether its rows of q hold one
  std::vector<double> teleport_sums_;       // by panel: sum of A dA / (1 - a)
  const C* z_start_ = nullptr;
  int single_ = 0;
  int halves_ = 0;  // hops that lie side by side
  bool arranged_ = false;
  bool weights_made_ = false;  // A lies in the head's memory
};

}  // namespace manyhop::ops::cpu
