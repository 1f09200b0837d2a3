// The second half of the backward pass of a head: from gradients of A to those of q, k and the bias (FACTS:
// dA_ij = (1 - a) sum_t <G_{t+1,i}, Z_{t,j}>, then the softmax backward).
#include <algorithm>
#include <cmath>
#include <vector>

#include "manyhop/graphs/base/error.hpp"
#include "manyhop/ops/cpu/head_backward.hpp"

namespace manyhop::ops::cpu {

namespace {

std::size_t at(Offset i) { return static_cast<std::size_t>(i); }

// sums[r] += <rows[r], x>; rows [32][width].
template <class C>
void add_dots(const C* rows, const C* x, Offset width, C* sums) {
  constexpr Offset kSums = 16;  // widths are multiples of it
  for (Offset r = 0; r < kPanelRows; ++r) {
    const C* row = rows + r * width;
    C parts[kSums] = {};
    for (Offset f = 0; f < width; f += kSums) {
      for (Offset l = 0; l < kSums; ++l) parts[l] += row[f + l] * x[f + l];
    }
    for (Offset half = kSums / 2; half > 0; half /= 2) {
      for (Offset l = 0; l < half; ++l) parts[l] += parts[l + half];
    }
    sums[r] += parts[0];
  }
}

}  // namespace

template <class T>
void Backward<T>::scatter_panel_rest(const PanelView& view, const C* values, const C* rows, Offset from,
                                     Offset to, Rows<C> out) {
  if (in_.tiling->irregular_edges == 0) return;
  const C* starts[kPanelRows];
  for (int r = 0; r < view.panel->count; ++r) starts[r] = rows + r * out.width + from;
  scatter_rest<C>(view, values, starts, from, to, out);
}

template <class T>
void Backward<T>::scatter_columns(const PanelView& view, const C* values, const C* rows, Offset from,
                                  Offset to, Rows<C> out, bool careful, PanelScratch<C>& s) {
  if constexpr (std::is_same_v<T, bf16>) {
    if (head_.tiled(*view.panel, careful)) {
      const PairRows pairs{s.queries, out.width};
      row_pairs(rows, from, to, pairs);
      scatter_tiles(view, values, pairs, from, to, s.tiles, out);
      return;
    }
  }
  scatter_dense<C>(view, values, rows, from, to, out, careful);
}

template <class T>
auto Backward<T>::rest_alone() -> C* {
  const bool fits = in_.tiling->irregular_edges <= head_.resources.shape.by_column;
  return scratch().by_column != nullptr && fits ? scratch().by_column : nullptr;
}

template <class T>
void Backward<T>::rest_gradient(int hops, bool fresh) {
  if (in_.tiling->irregular_edges == 0) return;
  head_.for_strips([&](PanelScratch<C>& s, Offset begin, Offset end) {
    for_rest_scores(hops, fresh, [&](int i, Offset block, bool more) {
      check_stop();
      for (Offset p = begin; p < end; ++p) {
        const Panel& panel = in_.tiling->panels[at(p)];
        rest_scores(s.view(*in_.tiling, panel), i, block, more, rest_of(panel));
      }
    });
  });
}

template <class T>
void Backward<T>::rest_scores(const PanelView& view, int i, Offset block, bool accumulate, C* rest) {
  const Rows<const C> g = g_after(i);
  const C* rows[kPanelRows];
  for (int r = 0; r < view.panel->count; ++r) rows[r] = g.row(block, view.row(r));
  sddmm_rest<C>(view, rows, head_.features(z_at(i)), block, rest, accumulate);
}

template <class T>
void Backward<T>::panel_gradient(const PanelView& view, PanelScratch<C>& s, int first, int count, bool fresh,
                                 C* d_values) {
  const Offset padded = head_.value_width();
  const bool tiles = head_.tiled(*view.panel, false);
  const int end = first + count;
  if constexpr (std::is_same_v<T, bf16>) {
    // All hops are one product of long rows: <G_1, Z_0> + <G_2, Z_1> + ...
    for (int i = first; i < end && tiles; i += kTileBatch) {
      const int batch = std::min<int>(kTileBatch, end - i);
      alignas(64) C common[kPanelRows] = {};  // with the centers
      for (int t = 0; t < batch; ++t) {
        Head<T>::gather_rows(view, g_after(i + t), 0, padded, s.rows);
        row_words(s.rows, padded, s.queries + t * padded * kPanelRows);
        add_dots(s.rows, scratch().centers + (i + t) * padded, padded, common);
      }
      for (Offset c = 0; c < view.panel->dense_cols; ++c) {
        C* cells = d_values + c * kPanelRows;
        for (Offset r = 0; r < kPanelRows; ++r)
          cells[r] = fresh && i == first ? common[r] : cells[r] + common[r];
      }
      const TileKeys z{scratch().halves + i * padded, batch * padded, halves_ * padded};
      sddmm_tiles(view, s.queries, z, 1, true, s.tiles, d_values);
    }
  }
  for (int i = first; i < end && !tiles; ++i) {
    Head<T>::gather_rows(view, g_after(i), 0, padded, s.rows);
    Head<T>::transpose_rows(s.rows, padded, s.rows_t);
    sddmm_dense<C>(view, s.rows_t, head_.features(z_at(i)), d_values, !fresh || i > first);
  }
}

template <class T>
void Backward<T>::make_halves(int hops) {
  if constexpr (std::is_same_v<T, bf16>) {
    if (!head_.resources.shape.tiles) return;
    halves_ = hops;
    const Offset padded = head_.value_width();
    C* centers = scratch().centers;
    for (int i = 0; i < hops; ++i) center_of(head_.features(z_at(i)), in_.n_cols, centers + i * padded);
    ranges(in_.n_cols, [&](Offset begin, Offset end) {
      for (int i = 0; i < hops; ++i) {
        cpu::make_halves(head_.features(z_at(i)), centers + i * padded, begin, end,
                         scratch().halves + i * padded, hops * padded);
      }
    });
  }
}

template <class T>
void Backward<T>::accumulate(int hops, bool fresh) {
  make_halves(hops);
  if (!pulls_gradients()) rest_gradient(hops, fresh);
  head_.for_panels(true, [&](const PanelView& view, PanelScratch<C>& s, Offset) {
    panel_gradient(view, s, 0, hops, fresh, scratch().d_values + view.panel->values);
  });
}

template <class T>
void Backward<T>::finish(int hops, int segments) {
  const bool keep_all = parallel_;
  const bool whole = scratch().d_values != nullptr;
  const bool rest_first = hops > 0 && (whole || rest_alone() != nullptr);
  const Rows<C> dk = head_.keys(scratch().dk);
  if (segments <= 1) make_halves(hops);
  if (segments <= 1 && rest_first && !pulls_gradients()) rest_gradient(hops, true);
  if (!gradient_.q.empty()) head_.pair_up(Rows<const C>(head_.keys(scratch().k)));
  head_.for_panels(keep_all, [&](const PanelView& view, PanelScratch<C>& s, Offset p) {
    const Panel& panel = *view.panel;
    C* d_values = whole ? scratch().d_values + panel.values : s.d_values;
    if (segments <= 1) {
      if (hops == 0) std::fill_n(d_values, in_.tiling->panel_values(panel), C{0});
      for_groups(hops, [&](int first, int count, bool fresh) {
        panel_gradient(view, s, first, count, fresh, d_values);
      });
      const Offset dense = panel.dense_cols * kPanelRows;
      if (!rest_first) {
        for_rest_scores(hops, true, [&](int i, Offset block, bool more) {
          rest_scores(view, i, block, more, d_values + dense);
        });
      } else if (!whole) {
        std::copy_n(rest_of(panel), in_.tiling->panel_values(panel) - dense, d_values + dense);
      }
    }
    const C* weights = s.values;
    if (weights_made_ && !in_.edge_dropout.active()) {  // what is kept is the softmax itself
      weights = scratch().values + panel.values;
      head_.load_queries(view, 0, dk.width, s.rows);
    } else {
      alignas(64) C lse[kPanelRows];
      head_.panel_softmax(view, s, s.values, lse);  // leaves the scaled q rows in s.rows
    }
    careful_rows_[at(p)] = !all_finite(s.rows, kPanelRows * dk.width);
    finish_panel(view, s, p, weights, d_values);
    if (!keep_all && !gradient_.k.empty()) {
      scatter_panel_rest(view, d_values, s.rows, 0, dk.width, dk);
      scatter_columns(view, d_values, s.rows, 0, dk.width, dk, careful_rows_[at(p)], s);
    }
  });
  if (keep_all && !gradient_.k.empty()) {
    for_slices(dk.width, [&](const PanelView& view, PanelScratch<C>& s, Offset from, Offset to) {
      const C* d_values = scratch().d_values + view.panel->values;
      const auto p = static_cast<std::size_t>(view.panel - in_.tiling->panels.data());
      head_.load_queries(view, from, to, s.out);
      scatter_panel_rest(view, d_values, s.out, from, to, dk);
      scatter_columns(view, d_values, s.out, from, to, dk, careful_rows_[p], s);
    });
  }
}

template <class T>
void Backward<T>::finish_panel(const PanelView& view, PanelScratch<C>& s, Offset p, const C* weights,
                               C* d_values) {
  const Panel& panel = *view.panel;
  const Offset count = in_.tiling->panel_values(panel);
  const C keep = static_cast<C>(1 - in_.teleport);
  if (in_.edge_dropout.active()) head_.drop_edges(view, d_values);  // dA = dA~ M / (1 - p)
  if (gradient_.teleport != nullptr)
    teleport_sums_[at(p)] = dot_in_double(weights, static_cast<const C*>(d_values), count);
  for (Offset i = 0; i < count; ++i) d_values[i] *= keep;
  alignas(64) C d_lse[kPanelRows] = {};
  if (!gradient_.g_lse.empty()) {
    for (int r = 0; r < panel.count; ++r) {
      d_lse[r] = static_cast<C>(gradient_.g_lse(in_.token(in_.tiling->rows[at(panel.first + r)])));
    }
  }
  softmax_backward(view, weights, d_values, d_lse);
  if (gradient_.bias != nullptr) {
    for (int r = 0; r < panel.count; ++r) {
      for_each_panel_edge(*in_.graph, *in_.tiling, panel, r, [&](Offset edge, Offset value) {
        gradient_.bias[in_.edge(edge)] += d_values[value];
      });
    }
  }
  if (gradient_.q.empty()) return;
  const Rows<const C> keys = head_.keys(scratch().k);
  const Rows<C> rest{s.rows_t, kPanelRows, keys.width};
  for (Offset block = 0; block < keys.width; block += keys.kBlock) {
    C* targets[kPanelRows];
    for (int r = 0; r < panel.count; ++r) targets[r] = rest.row(block, r);
    spmm_rest<C, C>(view, d_values, keys, block, targets);
  }
  head_.dense_products(view, s, d_values, keys, head_.careful_keys);
  cpu::finish<C, C>(view, {.keep = static_cast<C>(in_.scale),
                           .z = s.out,
                           .rest = rest,
                           .local_rest = true,
                           .to = rest,
                           .local_to = true});
  for (int r = 0; r < panel.count; ++r) {
    copy_row<C, C>(rest, r, s.out);
    write_row<T>(s.out, in_.d, gradient_.q, in_.token(view.row(r)));
  }
}

template <class T>
void Backward<T>::clear_q() {
  if (gradient_.q.empty()) return;
  const std::vector<C> zero(at(in_.d));
  for (Offset i = 0; i < in_.n_rows; ++i) write_row<T>(zero.data(), in_.d, gradient_.q, i);
}

template <class T>
void Backward<T>::write_key_gradients() {
  const auto write = [&](TensorView<T> to, Rows<const C> from, Offset d) {
    if (to.empty()) return;
    std::vector<C> row(at(from.width));
    for (Offset i = 0; i < in_.n_cols; ++i) {
      copy_row<C, C>(from, i, row.data());
      write_row<T>(row.data(), d, to, in_.token(i));
    }
  };
  write(gradient_.k, head_.keys(scratch().dk), in_.d);
  write(gradient_.v, head_.features(scratch().dv), in_.d_value);
}

template class Backward<float>;
template class Backward<double>;
template class Backward<bf16>;

}  // namespace manyhop::ops::cpu
