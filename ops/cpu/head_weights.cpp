// A of a head: scores, softmax and dropout of one panel after the other.
#include <array>
#include <bit>
#include <cmath>
#include <limits>

#include "manyhop/ops/cpu/head.hpp"

namespace manyhop::ops::cpu {

namespace {
std::size_t at(Offset i) { return static_cast<std::size_t>(i); }
}  // namespace

template <class T, class S>
void Head<T, S>::transpose_rows(const C* rows, Offset width, C* rows_t) {
  for (Offset f = 0; f < width; f += 8) {
    for (int r = 0; r < kPanelRows; ++r) {
      for (Offset i = f; i < f + 8; ++i) rows_t[i * kPanelRows + r] = rows[r * width + i];
    }
  }
}

template <class T, class S>
void Head<T, S>::load_queries(const PanelView& view, Offset from, Offset to, C* rows) const {
  const Offset padded = width();
  const C scale = static_cast<C>(in.scale);
  for (int r = 0; r < std::min<Offset>(kRowsAhead, view.panel->count); ++r)
    prefetch_row(in.q, in.token(view.row(r)), in.d);
  for (int r = 0; r < kPanelRows; ++r) {
    C* row = rows + r * padded;
    if (r + kRowsAhead < view.panel->count) prefetch_row(in.q, in.token(view.row(r + kRowsAhead)), in.d);
    if (r < view.panel->count) {
      read_row(in.q, in.token(view.row(r)), in.d, scale, from, to, row + from);
    } else {
      std::fill(row + from, row + to, C{0});
    }
  }
}

template <class T, class S>
void Head<T, S>::dense_scores(const PanelView& view, PanelScratch<C>& scratch, C* values) const {
  if constexpr (std::is_same_v<T, bf16>) {
    if (tiled(*view.panel, false)) {
      // Products of bf16 are exact in fp32, those of a scaled q would not be.
      const Offset padded = tile_width(in.d);
      std::array<std::uint32_t, 128> words;
      auto* to = reinterpret_cast<std::uint32_t*>(scratch.queries);
      for (int r = 0; r < kPanelRows; ++r) {
        for (Offset from = 0; from < padded; from += 256) {
          const Offset count = std::min<Offset>(256, padded - from);
          auto* row = reinterpret_cast<bf16*>(words.data());
          if (r < view.panel->count) {
            copy_half(in.q, in.token(view.row(r)), in.d, from, from + count, row);
          } else {
            std::fill_n(row, count, bf16{});
          }
          for (Offset w = 0; w < count / 2; ++w) to[(from / 2 + w) * kPanelRows + r] = words[at(w)];
        }
      }
      sddmm_tiles(view, scratch.queries, {scratch_.half_k, padded, padded}, static_cast<float>(in.scale),
                  false, scratch.tiles, values);
      return;
    }
  }
  transpose_rows(scratch.rows, width(), scratch.rows_t);
  sddmm_dense<C>(view, scratch.rows_t, keys(scratch_.k), values, false);
}

template <class T, class S>
void Head<T, S>::panel_softmax(const PanelView& view, PanelScratch<C>& scratch, C* values, C* lse) const {
  const Panel& panel = *view.panel;
  const Rows<const C> x = keys(scratch_.k);
  load_queries(view, 0, width(), scratch.rows);
  dense_scores(view, scratch, values);
  C* rest = values + panel.dense_cols * kPanelRows;
  for (Offset block = 0; block < x.width && in.tiling->irregular_edges > 0; block += x.kBlock) {
    const C* rows[kPanelRows];
    for (int r = 0; r < panel.count; ++r) rows[r] = scratch.rows + r * x.width + block;
    sddmm_rest<C>(view, rows, x, block, rest, block > 0);
  }
  if (in.bias != nullptr) {
    for (int r = 0; r < panel.count; ++r) {
      for_each_panel_edge(*in.graph, *in.tiling, panel, r,
                          [&](Offset edge, Offset value) { values[value] += in.bias[in.edge(edge)]; });
    }
  }
  alignas(64) C peaks[kPanelRows];
  row_peaks(view, values, peaks);
  C shift[kPanelRows] = {};  // NOLINT(misc-const-correctness): written for float
  if constexpr (std::is_same_v<C, float>) {
    if (sharpen(view, values, peaks, shift)) row_peaks(view, values, peaks);
  }
  softmax<C>(view, values, peaks, lse);
  for (int r = 0; r < panel.count; ++r) lse[r] += shift[r];
}

// A float score of 80 is itself off by 4e-6, which softmax passes on as a relative error of the weights.
// Where the largest score of a row is large, those near it (the others weigh little) are made again in
// double, relative to it.
template <class T, class S>
bool Head<T, S>::sharpen(const PanelView& view, C* values, const C* peak, C* shift) const {
  constexpr float kLarge = 16;   // up to here floats are good to 1e-6
  constexpr float kReaches = 4;  // what lies below weighs less than 2 % of the largest
  constexpr C kInf = std::numeric_limits<C>::infinity();
  const Panel& panel = *view.panel;
  C near[kPanelRows];
  std::fill_n(near, kPanelRows, kInf);
  bool some = false;
  for (int r = 0; r < panel.count; ++r) {
    // Nothing to sharpen in an empty, infinite or NaN row.
    if (!(std::abs(peak[r]) > kLarge && std::abs(peak[r]) <= 1e30F)) continue;
    shift[r] = peak[r];
    near[r] = peak[r] - kReaches;
    some = true;
  }
  if (!some) return false;
  const Tiling& tiling = *in.tiling;
  const Offset dense = panel.dense_cols * kPanelRows;
  const Offset rest_base = tiling.rest_indptr[at(panel.first)];
  const Index* rest = tiling.rest.data() + rest_base;
  const auto rest_begin = [&](int r) { return dense + tiling.rest_indptr[at(panel.first + r)] - rest_base; };
  std::vector<double> queries(at(in.d * kPanelRows));
  for (int r = 0; r < panel.count; ++r) {
    if (near[r] == kInf) continue;
    for (Offset f = 0; f < in.d; ++f) {
      queries[at(r * in.d + f)] =
          in.scale * static_cast<double>(static_cast<C>(in.q(in.token(view.row(r)), f)));
    }
  }
  const auto sharp = [&](int r, Index column, double bias) {
    const double* q = queries.data() + r * in.d;
    double parts[4] = {};
    const Rows<C> keys_of = keys(scratch_.k);
    for (Offset block = 0; block < in.d; block += keys_of.kBlock) {
      const C* k = keys_of.row(block, column);
      const Offset stop = std::min(in.d - block, keys_of.kBlock);
      Offset f = 0;
      for (; f + 4 <= stop; f += 4) {
        for (Offset x = 0; x < 4; ++x) parts[x] += q[block + f + x] * static_cast<double>(k[f + x]);
      }
      for (; f < stop; ++f) parts[0] += q[block + f] * static_cast<double>(k[f]);
    }
    return static_cast<C>((parts[0] + parts[1]) + (parts[2] + parts[3]) + bias -
                          static_cast<double>(shift[r]));
  };
  if (in.bias != nullptr) {
    for (int r = 0; r < panel.count; ++r) {
      if (near[r] == kInf) continue;
      for_each_panel_edge(*in.graph, tiling, panel, r, [&](Offset edge, Offset value) {
        const Index column = value < dense ? view.cols[value / kPanelRows] : rest[value - dense];
        values[value] = values[value] >= near[r]
                            ? sharp(r, column, static_cast<double>(in.bias[in.edge(edge)]))
                            : values[value] - shift[r];
      });
    }
    return true;
  }
  for (Offset c = 0; c < panel.dense_cols; ++c) {  // cells that are no edge are -inf
    C* cells = values + c * kPanelRows;
    std::uint32_t found = 0;
    for (int r = 0; r < kPanelRows; ++r) {
      found |= static_cast<std::uint32_t>(cells[r] >= near[r] && cells[r] < kInf) << r;
      cells[r] -= shift[r];
    }
    for (; found != 0; found &= found - 1) {
      const int r = std::countr_zero(found);
      cells[r] = sharp(r, view.cols[c], 0);
    }
  }
  for (int r = 0; r < panel.count; ++r) {
    if (near[r] == kInf) continue;
    for (Offset e = rest_begin(r); e < rest_begin(r + 1); ++e) {
      values[e] = values[e] >= near[r] ? sharp(r, rest[e - dense], 0) : values[e] - shift[r];
    }
  }
  return true;
}

template <class T, class S>
void Head<T, S>::drop_edges(const PanelView& view, C* values) const {
  if (!in.edge_dropout.active()) return;
  const DropoutStream stream(in.seed, DropoutStream::Use::edges, in.batch, in.head);
  const C scale = static_cast<C>(in.edge_dropout.scale64);
  for (int r = 0; r < view.panel->count; ++r) {
    Offset block = -1;
    std::array<std::uint32_t, 4> bits{};
    for_each_panel_edge(*in.graph, *in.tiling, *view.panel, r, [&](Offset at_edge, Offset value) {
      const Offset edge = in.edge(at_edge);
      if (edge / 4 != block) bits = stream.edge_block(block = edge / 4);
      values[value] *= in.edge_dropout.keeps(bits[at(edge % 4)]) ? scale : C{0};
    });
  }
}

template <class T, class S>
void Head<T, S>::make_weights(const PanelView& view, PanelScratch<C>& scratch, C* values,
                              const HeadOutput<T>* out) {
  alignas(64) C lse[kPanelRows];
  panel_softmax(view, scratch, values, lse);
  drop_edges(view, values);
  if (out != nullptr) report(view, values, lse, *out);
  if constexpr (std::is_same_v<S, bf16>) {
    if (!tiled(*view.panel, careful)) return;
    tile_weights(view, values, scratch.tiles, scratch.weights);
    std::copy_n(scratch.weights, tile_weight_elements(view.panel->dense_cols),
                reinterpret_cast<bf16*>(values));
  }
}

template <class T, class S>
void Head<T, S>::weights_only(const HeadOutput<T>& out) {
  for_panels(true, [&](const PanelView& view, PanelScratch<C>& scratch, Offset) {
    make_weights(view, scratch, panel_values(*view.panel, scratch), &out);
  });
}

template <class T, class S>
void Head<T, S>::report(const PanelView& view, const C* values, const C* lse,
                        const HeadOutput<T>& out) const {
  const Panel& panel = *view.panel;
  for (int r = 0; r < panel.count; ++r) {
    if (!out.lse.empty()) out.lse(in.token(in.tiling->rows[at(panel.first + r)])) = lse[r];
    if (out.weights == nullptr) continue;
    for_each_panel_edge(*in.graph, *in.tiling, panel, r,
                        [&](Offset edge, Offset value) { out.weights[in.edge(edge)] = values[value]; });
  }
}

// What the other parts of a head call; the rest comes along.
#define MANYHOP_INSTANTIATE(...)                                                                             \
  template void __VA_ARGS__::transpose_rows(const __VA_ARGS__::C*, Offset, __VA_ARGS__::C*);                 \
  template void __VA_ARGS__::load_queries(const PanelView&, Offset, Offset, __VA_ARGS__::C*) const;          \
  template void __VA_ARGS__::panel_softmax(const PanelView&, PanelScratch<__VA_ARGS__::C>&, __VA_ARGS__::C*, \
                                           __VA_ARGS__::C*) const;                                           \
  template void __VA_ARGS__::drop_edges(const PanelView&, __VA_ARGS__::C*) const;                            \
  template void __VA_ARGS__::make_weights(const PanelView&, PanelScratch<__VA_ARGS__::C>&, __VA_ARGS__::C*,  \
                                          const HeadOutput<__VA_ARGS__::Stored>*);                           \
  template void __VA_ARGS__::weights_only(const HeadOutput<__VA_ARGS__::Stored>&)
MANYHOP_INSTANTIATE(Head<float>);
MANYHOP_INSTANTIATE(Head<double>);
MANYHOP_INSTANTIATE(Head<bf16>);
MANYHOP_INSTANTIATE(Head<bf16, bf16>);
#undef MANYHOP_INSTANTIATE

}  // namespace manyhop::ops::cpu
