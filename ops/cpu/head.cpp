#include "manyhop/ops/cpu/head.hpp"

#include <algorithm>
#include <atomic>
#include <bit>
#include <cmath>

#include "manyhop/graphs/base/parallel.hpp"

namespace manyhop::ops::cpu {

namespace {
constexpr Offset kRowGrain = 256;
constexpr int kAhead = 8;
std::size_t at(Offset i) { return static_cast<std::size_t>(i); }

// Rows of one head lie a whole token apart, each on a page of its own: without asking ahead every row waits
// for memory (twice the time of pack at 12 heads of 64).
template <class T>
void prefetch_row(TensorView<const T> from, Offset i, Offset d) {
  const T* row = from.data + i * from.stride[0];
  if (from.stride[1] != 1) return;
  for (Offset f = 0; f < d; f += static_cast<Offset>(64 / sizeof(T))) __builtin_prefetch(row + f);
}

// row[f - begin] = from[i, f] for f in [begin, end), zero from d on.
void copy_half(TensorView<const bf16> from, Offset i, Offset d, Offset begin, Offset end, bf16* row) {
  const bf16* source = from.data + i * from.stride[0];
  const Offset stop = std::clamp(d, begin, end);
  if (from.stride[1] == 1) {
    std::copy(source + begin, source + stop, row);
  } else {
    for (Offset f = begin; f < stop; ++f) row[f - begin] = source[f * from.stride[1]];
  }
  std::fill(row + (stop - begin), row + (end - begin), bf16{});
}
}  // namespace

Segments Segments::of(int hops, HeadBackward mode, bool stored) {
  if (!stored || mode != HeadBackward::checkpointed || hops <= 2) return {std::max(hops, 1), 1};
  const int length = static_cast<int>(std::ceil(std::sqrt(static_cast<double>(hops))));
  return {length, (hops + length - 1) / length};
}

template <class C>
PanelScratch<C> PanelScratch<C>::carve(Carver& carver, const HeadShape& shape) {
  const Offset widest = std::max(padded_width<C>(shape.d), shape.half ? padded_width<bf16>(shape.d_value)
                                                                      : padded_width<C>(shape.d_value));
  PanelScratch scratch;
  scratch.rows = carver.take<C>(kPanelRows * widest);
  scratch.rows_t = carver.take<C>(kPanelRows * widest);
  scratch.out = carver.take<C>(kPanelRows * widest);
  scratch.values = carver.take<C>(shape.max_panel_values);
  scratch.d_values = shape.backward ? carver.take<C>(shape.max_panel_values) : nullptr;
  scratch.cols = carver.take<Index>(shape.max_panel_cols);
  if (shape.tiles) {
    const Offset most = std::max(tile_width(shape.d), tile_width(shape.d_value));
    scratch.tiles.gathered = carver.take<bf16>(tile_gather_elements(most));
    scratch.tiles.loose = carver.take<Index>(shape.max_panel_cols);
    scratch.queries = carver.take<bf16>(kPanelRows * tile_width(shape.d));
    scratch.weights = carver.take<bf16>(tile_weight_elements(shape.max_panel_cols));
  }
  return scratch;
}

template <class C, class S>
HeadScratch<C, S> HeadScratch<C, S>::carve(Carver& carver, Carver& kept, const HeadShape& shape,
                                           bool stored) {
  const Offset width = padded_width<C>(shape.d);
  const Offset value_width = padded_width<S>(shape.d_value);
  const Offset longest = std::max(shape.n_rows, shape.n_cols);
  const auto take_z = [&](Carver& from) { return from.take<S>(longest * value_width); };
  const auto take_sums = [&] { return carver.take<C>(longest * value_width); };
  const Segments segments = shape.mode == HeadBackward::implicit
                                ? Segments{3, 1}  // V and two iterates for Z, three for W
                                : Segments::of(shape.hops, shape.mode, stored);
  const bool whole = shape.kept && segments.count == 1;  // A and all of Z are kept
  HeadScratch scratch;
  scratch.k = carver.take<C>(shape.n_cols * width);
  if (shape.tiles) {
    scratch.half_k = carver.take<bf16>(shape.n_cols * tile_width(shape.d));
    scratch.pairs = carver.take<bf16>(pair_elements(longest, value_width));
  }
  if (stored) scratch.values = (whole ? kept : carver).template take<C>(shape.value_count);
  scratch.z.push_back(take_z(carver));
  if (!shape.backward) {
    // Z_1 and Z_2 take turns. The last hop writes no Z, but its single edges are summed in one.
    const int written = stored && shape.irregular ? shape.hops : shape.hops - 1;
    S* turns[2] = {};
    for (int t = 1; t <= shape.hops; ++t) {
      S* z = nullptr;
      if (shape.kept && t < shape.hops && t % (whole ? 1 : segments.length) == 0) {
        z = take_z(kept);
      } else if (t <= written) {
        S*& turn = turns[t % 2];
        if (turn == nullptr) turn = take_z(carver);
        z = turn;
      }
      scratch.z.push_back(z);
    }
    return scratch;
  }
  if (stored) scratch.d_values = carver.take<C>(shape.value_count);
  if (stored && shape.by_column > 0) scratch.by_column = carver.take<C>(shape.by_column);
  scratch.dk = carver.take<C>(shape.n_cols * width);
  scratch.dv = take_sums();
  for (int i = 1; i < segments.length; ++i) scratch.z.push_back(take_z(whole ? kept : carver));
  for (int i = 0; i < segments.length + 1; ++i) scratch.g.push_back(take_sums());
  for (int i = 0; i < segments.count - 1; ++i)
    scratch.checkpoint.push_back(take_z(shape.kept ? kept : carver));
  return scratch;
}

namespace {
/// Bytes of the head, and of what it keeps.
template <class C>
std::pair<std::size_t, std::size_t> measured(const HeadShape& shape, bool stored) {
  Carver measure(nullptr);
  Carver kept(nullptr);
  if (shape.half) {
    HeadScratch<float, bf16>::carve(measure, kept, shape, stored);
  } else {
    HeadScratch<C, C>::carve(measure, kept, shape, stored);
  }
  return {measure.used(), kept.used()};
}
}  // namespace

template <class C>
std::size_t head_bytes(const HeadShape& shape, bool stored) {
  return measured<C>(shape, stored).first;
}

template <class C>
std::size_t kept_bytes(const HeadShape& shape) {
  return measured<C>(shape, true).second;
}

template <class C>
std::size_t panel_bytes(const HeadShape& shape) {
  Carver measure(nullptr);
  PanelScratch<C>::carve(measure, shape);
  return measure.used();
}

template <class T, class S>
Head<T, S>::Head(const HeadInput<T>& input, const HeadResources& given) : in(input), resources(given) {
  Carver head(resources.memory);
  Carver kept(resources.kept);
  scratch_ = HeadScratch<C, S>::carve(head, kept, resources.shape, resources.stored);
  const std::size_t bytes = panel_bytes<C>(resources.shape);
  for (int i = 0; i < resources.threads; ++i) {
    Carver panel(resources.panels + static_cast<std::size_t>(i) * bytes);
    free_.push_back(PanelScratch<C>::carve(panel, resources.shape));
  }
}

template <class T, class S>
void Head<T, S>::pack() {
  const auto pack_rows = [&]<class R>(TensorView<const T> from, Offset d, Rows<R> to) {
    std::atomic<bool> finite{true};
    const auto range = [&](Offset begin, Offset end) {
      bool good = true;
      for (Offset i = begin; i < end; ++i) {
        prefetch_row(from, in.token(std::min(i + kAhead, end - 1)), d);
        for (Offset block = 0; block < to.width; block += to.kBlock) {
          R* row = to.row(block, i);
          if constexpr (std::is_same_v<R, C>) {
            read_row(from, in.token(i), d, C{1}, block, block + to.stride(block), row);
          } else {
            read_half_row(from, in.token(i), d, block, block + to.stride(block), row);
          }
          good &= all_finite(row, to.stride(block));
        }
      }
      if (!good) finite = false;
    };
    if (resources.threads > 1) {
      parallel_ranges(in.n_cols, kRowGrain, range);
    } else {
      range(0, in.n_cols);
    }
    return finite.load();
  };
  careful_keys = !pack_rows(in.k, in.d, keys(scratch_.k));
  careful = !pack_rows(in.v, in.d_value, features(scratch_.z[0]));
  if constexpr (std::is_same_v<S, bf16>) {
    if (!resources.shape.tiles) return;
    const Offset padded = tile_width(in.d);
    const auto range = [&](Offset begin, Offset end) {
      for (Offset i = begin; i < end; ++i) {
        copy_half(in.k, in.token(i), in.d, 0, padded, scratch_.half_k + i * padded);
      }
    };
    resources.threads > 1 ? parallel_ranges(in.n_cols, kRowGrain, range) : range(0, in.n_cols);
  }
}

template <class T, class S>
void Head<T, S>::pair_up([[maybe_unused]] const S* z) {
  if constexpr (std::is_same_v<S, bf16>) {
    if (!resources.shape.tiles || careful) return;
    const auto range = [&](Offset begin, Offset end) {
      make_pairs(features(z), begin, end, {scratch_.pairs, value_width()});
    };
    // Of a square graph: a rectangular one has one hop, from V, which has a row for each column.
    const Offset count = (in.n_cols + 1) / 2;
    resources.threads > 1 ? parallel_ranges(count, kRowGrain, range) : range(0, count);
  }
}

template <class T, class S>
void Head<T, S>::dense_scores(const PanelView& view, PanelScratch<C>& scratch, C* values) const {
  if constexpr (std::is_same_v<S, bf16>) {
    if (resources.shape.tiles && worth_tiles(*view.panel)) {
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
      sddmm_tiles(view, scratch.queries, scratch_.half_k, padded, static_cast<float>(in.scale), scratch.tiles,
                  values);
      return;
    }
  }
  transpose_rows(scratch.rows, width(), scratch.rows_t);
  sddmm_dense<C>(view, scratch.rows_t, keys(scratch_.k), values, false);
}

template <class T, class S>
void Head<T, S>::dense_products(const PanelView& view, PanelScratch<C>& scratch, const C* values,
                                Rows<const S> z) const {
  if constexpr (std::is_same_v<S, bf16>) {
    if (tiled(*view.panel)) {
      spmm_tiles(view, reinterpret_cast<const bf16*>(values), {scratch_.pairs, value_width()}, z,
                 scratch.tiles, scratch.out);
      return;
    }
  }
  spmm_dense<C, S>(view, values, z, scratch.out, careful);
}

template <class T, class S>
void Head<T, S>::transpose_rows(const C* rows, Offset width, C* rows_t) {
  for (Offset f = 0; f < width; f += 8) {
    for (int r = 0; r < kPanelRows; ++r) {
      for (Offset i = f; i < f + 8; ++i) rows_t[i * kPanelRows + r] = rows[r * width + i];
    }
  }
}

template <class T, class S>
void Head<T, S>::gather_rows(const PanelView& view, Rows<const C> x, Offset from, Offset to, C* rows) {
  constexpr Offset kBlock = Rows<C>::kBlock;
  for (Offset block = from / kBlock * kBlock; block < to; block += kBlock) {
    const Offset begin = std::max(from, block) - block;
    const Offset end = std::min(to - block, x.stride(block));
    for (int r = 0; r < kPanelRows; ++r) {
      C* row = rows + r * x.width + block;
      if (r < view.panel->count) {
        const C* source = x.row(block, view.row(r));
        std::copy(source + begin, source + end, row + begin);
      } else {
        std::fill(row + begin, row + end, C{0});
      }
    }
  }
}

template <class T, class S>
void Head<T, S>::load_queries(const PanelView& view, Offset from, Offset to, C* rows) const {
  const Offset padded = width();
  const C scale = static_cast<C>(in.scale);
  for (int r = 0; r < std::min<Offset>(kAhead, view.panel->count); ++r)
    prefetch_row(in.q, in.token(view.row(r)), in.d);
  for (int r = 0; r < kPanelRows; ++r) {
    C* row = rows + r * padded;
    if (r + kAhead < view.panel->count) prefetch_row(in.q, in.token(view.row(r + kAhead)), in.d);
    if (r < view.panel->count) {
      read_row(in.q, in.token(view.row(r)), in.d, scale, from, to, row + from);
    } else {
      std::fill(row + from, row + to, C{0});
    }
  }
}

template <class T, class S>
void Head<T, S>::panel_softmax(const PanelView& view, PanelScratch<C>& scratch, C* values, C* lse) const {
  const Panel& panel = *view.panel;
  const Rows<const C> x = keys(scratch_.k);
  load_queries(view, 0, width(), scratch.rows);
  dense_scores(view, scratch, values);
  for (Offset block = 0; block < x.width && in.tiling->irregular_edges > 0; block += x.kBlock) {
    const C* rows[kPanelRows];
    for (int r = 0; r < panel.count; ++r) rows[r] = scratch.rows + r * x.width + block;
    sddmm_rest<C>(view, rows, x, block, values, block > 0);
  }
  if (in.bias != nullptr) {
    for (int r = 0; r < panel.count; ++r) {
      for_each_panel_edge(*in.graph, *in.tiling, panel, r, [&](Offset edge, Offset value) {
        values[value] += static_cast<C>(in.bias[in.edge(edge)]);
      });
    }
  }
  alignas(64) C peaks[kPanelRows];
  row_peaks(view, values, peaks);
  C shift[kPanelRows] = {};
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
void Head<T, S>::drop_hop(int t, Offset token, C* z) const {
  if (!in.hop_dropout.active()) return;
  const DropoutStream stream(in.seed, DropoutStream::Use::hops, in.batch, in.head);
  const C scale = static_cast<C>(in.hop_dropout.scale64);
  for (Offset f = 0; f < in.d_value; f += 4) {
    const auto bits = stream.hop_block(t, token, f / 4);
    for (Offset i = f; i < std::min(in.d_value, f + 4); ++i) {
      z[i] *= in.hop_dropout.keeps(bits[at(i - f)]) ? scale : C{0};
    }
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
    if (!tiled(*view.panel)) return;
    tile_weights(view, values, scratch.tiles, scratch.weights);
    std::copy_n(scratch.weights, tile_weight_elements(view.panel->dense_cols),
                reinterpret_cast<bf16*>(values));
  }
}

// With A kept, all single edges of a strip are summed before its dense columns, one block of features after
// the other: the block stays in L2. Panel by panel the streams of A push it out (fp32, 4096 tokens: 3.2 ms a
// hop of one head instead of 2.4). Both orders add the same numbers in the same order.
template <class T, class S>
void Head<T, S>::hop(int t, bool first, const S* z_in, S* z_out, const HeadOutput<T>* out, bool last) {
  const Rows<const S> from = features(z_in);
  const Rows<S> to = features(z_out);
  const Rows<const S> v = features(scratch_.z[0]);
  const C teleport = static_cast<C>(in.teleport);
  const C keep = static_cast<C>(1 - in.teleport);
  const bool some_rest = in.tiling->irregular_edges > 0;
  const bool two_passes = resources.stored && some_rest && z_out != nullptr;
  const auto make = [&](const PanelView& view, PanelScratch<C>& scratch, C* values) {
    if (first || !resources.stored) make_weights(view, scratch, values, first ? out : nullptr);
  };
  const bool direct = !last && !in.hop_dropout.active();
  pair_up(z_in);
  const auto complete = [&](const PanelView& view, PanelScratch<C>& scratch, const C* values,
                            Rows<const S> rest) {
    dense_products(view, scratch, values, from);
    Finish<C, S> what{.keep = keep, .teleport = teleport, .z = scratch.out, .rest = rest};
    // A rectangular graph has no V of its own for a row, and no teleport.
    if (in.teleport != 0) what.v = v;
    what.local_rest = !two_passes;
    what.local_to = !direct;
    what.to = direct ? to : Rows<S>{reinterpret_cast<S*>(scratch.rows_t), kPanelRows, v.width};
    cpu::finish(view, what);
    if (direct) return;
    for (int r = 0; r < view.panel->count; ++r) {
      copy_row<S, C>(what.to, r, scratch.out);
      drop_hop(t, in.token(view.row(r)), scratch.out);
      if (!last) {
        copy_row<S, C>(scratch.out, to, view.row(r));
      } else if (out != nullptr) {
        write_row(scratch.out, in.d_value, out->out, in.token(view.row(r)));
      }
    }
  };
  if (!two_passes) {
    for_panels(true, [&](const PanelView& view, PanelScratch<C>& scratch, Offset) {
      C* values = panel_values(*view.panel, scratch);
      make(view, scratch, values);
      Rows<S> rest{some_rest ? reinterpret_cast<S*>(scratch.rows) : nullptr, kPanelRows, v.width};
      if (some_rest) {
        S* targets[kPanelRows];
        for (Offset block = 0; block < v.width; block += v.kBlock) {
          for (int r = 0; r < view.panel->count; ++r) targets[r] = rest.row(block, r);
          spmm_rest<C, S>(view, values, from, block, targets);
        }
      }
      complete(view, scratch, values, rest);
    });
    return;
  }
  for_strips([&](PanelScratch<C>& scratch, Offset begin, Offset end) {
    const auto each = [&](bool columns, auto&& body) {
      for (Offset p = begin; p < end; ++p) {
        if (p % 64 == 0) check_stop();
        const Panel& panel = in.tiling->panels[at(p)];
        if (columns) expand_columns(*in.tiling, panel, scratch.cols);
        body(PanelView{in.tiling, &panel, scratch.cols}, scratch_.values + panel.values);
      }
    };
    if (first) each(true, [&](const PanelView& view, C* values) { make(view, scratch, values); });
    for (Offset block = 0; block < v.width; block += v.kBlock) {
      each(false, [&](const PanelView& view, const C* values) {
        S* targets[kPanelRows];
        for (int r = 0; r < view.panel->count; ++r) targets[r] = to.row(block, view.row(r));
        spmm_rest<C, S>(view, values, from, block, targets);
      });
    }
    each(true, [&](const PanelView& view, const C* values) { complete(view, scratch, values, to); });
  });
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
    if (!out.lse.empty())
      out.lse(in.token(in.tiling->rows[at(panel.first + r)])) = static_cast<float>(lse[r]);
    if (out.weights == nullptr) continue;
    for_each_panel_edge(*in.graph, *in.tiling, panel, r, [&](Offset edge, Offset value) {
      out.weights[in.edge(edge)] = static_cast<float>(values[value]);
    });
  }
}

namespace {
template <class T, class S>
void run(const HeadInput<T>& in, const HeadOutput<T>& out, const HeadResources& resources) {
  using C = ComputeOf<T>;
  Head<T, S> head(in, resources);
  head.pack();
  const auto& z = head.scratch_.z;
  for (int t = 0; t < in.hops; ++t) head.hop(t, t == 0, z[at(t)], z[at(t + 1)], &out, t + 1 == in.hops);
  if (in.hops == 0) {
    std::vector<C> row(static_cast<std::size_t>(head.value_width()));
    for (Offset i = 0; i < in.n_rows; ++i) {
      copy_row<S, C>(head.features(z[0]), i, row.data());
      write_row(row.data(), in.d_value, out.out, in.token(i));
    }
    if (!out.lse.empty() || out.weights != nullptr) head.weights_only(out);
  }
}
}  // namespace

template <class T>
void attention_head(const HeadInput<T>& in, const HeadOutput<T>& out, const HeadResources& resources) {
  if constexpr (std::is_same_v<T, bf16>) {
    if (resources.shape.half) return run<bf16, bf16>(in, out, resources);
  }
  run<T, ComputeOf<T>>(in, out, resources);
}

#define MANYHOP_INSTANTIATE(T) \
  template class Head<T>;      \
  template void attention_head<T>(const HeadInput<T>&, const HeadOutput<T>&, const HeadResources&)
MANYHOP_INSTANTIATE(float);
MANYHOP_INSTANTIATE(double);
MANYHOP_INSTANTIATE(bf16);
#undef MANYHOP_INSTANTIATE
template class Head<bf16, bf16>;
template std::size_t head_bytes<float>(const HeadShape&, bool);
template std::size_t head_bytes<double>(const HeadShape&, bool);
template std::size_t kept_bytes<float>(const HeadShape&);
template std::size_t kept_bytes<double>(const HeadShape&);
template std::size_t panel_bytes<float>(const HeadShape&);
template std::size_t panel_bytes<double>(const HeadShape&);

}  // namespace manyhop::ops::cpu
