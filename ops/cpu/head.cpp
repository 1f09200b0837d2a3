#include "manyhop/ops/cpu/head.hpp"

#include <algorithm>
#include <atomic>
#include <bit>
#include <cmath>

#include "manyhop/graphs/base/parallel.hpp"

namespace manyhop::ops::cpu {

namespace {
constexpr Offset kRowGrain = 256;
std::size_t at(Offset i) { return static_cast<std::size_t>(i); }

// row[f] = from[i, f] * scale for f < d, zero up to `padded`.
template <class C, class T>
void read_row(TensorView<const T> from, Offset i, Offset d, C scale, Offset padded, C* row) {
  const T* source = from.data + i * from.stride[0];
  const auto convert = [](T value) {
    if constexpr (std::is_same_v<T, double>) {
      return value;
    } else {
      return static_cast<C>(static_cast<float>(value));
    }
  };
  if (from.stride[1] == 1) {  // the compiler vectorises only a step that it knows
    for (Offset f = 0; f < d; ++f) row[f] = convert(source[f]) * scale;
  } else {
    for (Offset f = 0; f < d; ++f) row[f] = convert(source[f * from.stride[1]]) * scale;
  }
  std::fill(row + d, row + padded, C{0});
}
}  // namespace

Segments Segments::of(int hops, HeadBackward mode, bool stored) {
  if (!stored || mode != HeadBackward::checkpointed || hops <= 2) return {std::max(hops, 1), 1};
  const int length = static_cast<int>(std::ceil(std::sqrt(static_cast<double>(hops))));
  return {length, (hops + length - 1) / length};
}

template <class C>
PanelScratch<C> PanelScratch<C>::carve(Carver& carver, const HeadShape& shape) {
  const Offset widest = std::max(padded_width(shape.d), padded_width(shape.d_value));
  PanelScratch scratch;
  scratch.rows = carver.take<C>(kPanelRows * widest);
  scratch.rows_t = carver.take<C>(kPanelRows * widest);
  scratch.out = carver.take<C>(kPanelRows * widest);
  scratch.values = carver.take<C>(shape.max_panel_values);
  scratch.d_values = shape.backward ? carver.take<C>(shape.max_panel_values) : nullptr;
  scratch.cols = carver.take<Index>(shape.max_panel_cols);
  return scratch;
}

template <class C>
HeadScratch<C> HeadScratch<C>::carve(Carver& carver, const HeadShape& shape, bool stored) {
  const Offset width = padded_width(shape.d);
  const Offset value_width = padded_width(shape.d_value);
  const Offset longest = std::max(shape.n_rows, shape.n_cols);
  HeadScratch scratch;
  scratch.k = carver.take<C>(shape.n_cols * width);
  if (stored) scratch.values = carver.take<C>(shape.value_count);
  const auto take_z = [&] { return carver.take<C>(longest * value_width); };
  if (!shape.backward) {
    scratch.z.push_back(take_z());
    for (int i = 0; i < std::min(2, shape.hops - 1); ++i) scratch.z.push_back(take_z());
    return scratch;
  }
  if (stored) scratch.d_values = carver.take<C>(shape.value_count);
  scratch.dk = carver.take<C>(shape.n_cols * width);
  scratch.dv = carver.take<C>(shape.n_cols * value_width);
  // implicit: V and two iterates for Z, three for W.
  const Segments segments =
      shape.mode == HeadBackward::implicit ? Segments{3, 1} : Segments::of(shape.hops, shape.mode, stored);
  for (int i = 0; i < segments.length; ++i) scratch.z.push_back(take_z());
  for (int i = 0; i < segments.length + 1; ++i) scratch.g.push_back(take_z());
  for (int i = 0; i < segments.count - 1; ++i) scratch.checkpoint.push_back(take_z());
  return scratch;
}

template <class C>
std::size_t head_bytes(const HeadShape& shape, bool stored) {
  Carver measure(nullptr);
  HeadScratch<C>::carve(measure, shape, stored);
  return measure.used();
}

template <class C>
std::size_t panel_bytes(const HeadShape& shape) {
  Carver measure(nullptr);
  PanelScratch<C>::carve(measure, shape);
  return measure.used();
}

template <class T>
Head<T>::Head(const HeadInput<T>& input, const HeadResources& given) : in(input), resources(given) {
  Carver head(resources.memory);
  scratch_ = HeadScratch<C>::carve(head, resources.shape, resources.stored);
  const std::size_t bytes = panel_bytes<C>(resources.shape);
  for (int i = 0; i < resources.threads; ++i) {
    Carver panel(resources.panels + static_cast<std::size_t>(i) * bytes);
    free_.push_back(PanelScratch<C>::carve(panel, resources.shape));
  }
}

template <class T>
void Head<T>::pack() {
  std::atomic<bool> finite{true};
  const auto pack_rows = [&](TensorView<const T> from, Offset count, Offset d, C* to, bool check) {
    const Offset padded = padded_width(d);
    const auto range = [&](Offset begin, Offset end) {
      C worst = 0;
      for (Offset i = begin; i < end; ++i) {
        C* row = to + i * padded;
        read_row(from, i, d, C{1}, padded, row);
        if (check) {
          for (Offset f = 0; f < d; ++f) worst += row[f] * C{0};  // NaN or infinity leaves a NaN
        }
      }
      if (worst != 0) finite = false;
    };
    if (resources.threads > 1) {
      parallel_ranges(count, kRowGrain, range);
    } else {
      range(0, count);
    }
  };
  pack_rows(in.k, in.n_cols, in.d, scratch_.k, false);
  pack_rows(in.v, in.n_cols, in.d_value, scratch_.z[0], true);
  careful = !finite;
}

template <class T>
void Head<T>::transpose_rows(const C* rows, Offset width, C* rows_t) {
  for (Offset f = 0; f < width; f += 8) {
    for (int r = 0; r < kPanelRows; ++r) {
      for (Offset i = f; i < f + 8; ++i) rows_t[i * kPanelRows + r] = rows[r * width + i];
    }
  }
}

template <class T>
void Head<T>::gather_rows(const Panel& panel, const C* x, Offset width, Offset from, Offset to,
                          C* rows) const {
  for (int r = 0; r < kPanelRows; ++r) {
    C* row = rows + r * width;
    if (r < panel.count) {
      const C* source = x + in.tiling->rows[at(panel.first + r)] * width;
      std::copy(source + from, source + to, row + from);
    } else {
      std::fill(row + from, row + to, C{0});
    }
  }
}

template <class T>
void Head<T>::load_queries(const Panel& panel, Offset from, Offset to, C* rows) const {
  const Offset padded = width();
  for (int r = 0; r < kPanelRows; ++r) {
    C* row = rows + r * padded;
    std::fill(row + from, row + to, C{0});
    if (r >= panel.count || from >= in.d) continue;
    TensorView<const T> slice = in.q;
    slice.data += from * slice.stride[1];
    const Offset count = std::min(in.d, to) - from;
    read_row(slice, in.tiling->rows[at(panel.first + r)], count, static_cast<C>(in.scale), count, row + from);
  }
}

template <class T>
void Head<T>::panel_softmax(const PanelView& view, PanelScratch<C>& scratch, C* values, C* lse) const {
  const Panel& panel = *view.panel;
  const Offset padded = width();
  const C scale = static_cast<C>(in.scale);
  for (int r = 0; r < panel.count; ++r) {
    read_row(in.q, in.tiling->rows[at(panel.first + r)], in.d, scale, padded, scratch.rows + r * padded);
  }
  std::fill(scratch.rows + panel.count * padded, scratch.rows + kPanelRows * padded, C{0});
  transpose_rows(scratch.rows, padded, scratch.rows_t);
  sddmm(view, scratch.rows, scratch.rows_t, scratch_.k, padded, values, false);
  if (in.bias != nullptr) {
    for (int r = 0; r < panel.count; ++r) {
      for_each_panel_edge(*in.graph, *in.tiling, panel, r,
                          [&](Offset edge, Offset value) { values[value] += static_cast<C>(in.bias[edge]); });
    }
  }
  C shift[kPanelRows] = {};
  if constexpr (std::is_same_v<C, float>) sharpen(view, values, shift);
  softmax(view, values, lse);
  for (int r = 0; r < panel.count; ++r) lse[r] += shift[r];
}

// A float score of 80 is itself off by 4e-6, which softmax passes on as a relative error of the weights.
// Where scores are large, those near the largest of their row (the others weigh little) are made again in
// double, relative to it.
template <class T>
void Head<T>::sharpen(const PanelView& view, C* values, C* shift) const {
  constexpr float kLarge = 16;   // up to here floats are good to 1e-6
  constexpr float kReaches = 4;  // what lies below weighs less than 2 % of the largest
  const Panel& panel = *view.panel;
  const Offset count = in.tiling->panel_values(panel);
  std::uint32_t largest = 0;  // the bits of |score| are in order, NaN last
  for (Offset x = 0; x < count; ++x) {
    largest = std::max(largest, std::bit_cast<std::uint32_t>(static_cast<float>(values[x])) & 0x7FFFFFFFU);
  }
  if (std::bit_cast<float>(largest) <= kLarge) return;
  const Tiling& tiling = *in.tiling;
  const Offset dense = panel.dense_cols * kPanelRows;
  const Offset rest_base = tiling.rest_indptr[at(panel.first)];
  const Index* rest = tiling.rest.data() + rest_base;
  const auto rest_begin = [&](int r) { return dense + tiling.rest_indptr[at(panel.first + r)] - rest_base; };
  // f(first value of a dense column, rows that have it).
  const auto for_dense = [&](auto&& f) {
    Offset first = 0;
    for (Offset s = panel.segment; s < panel.segment_end; ++s) {
      const Segment& segment = tiling.segments[at(s)];
      for (Index c = 0; c < segment.count; ++c, first += kPanelRows) {
        f(first, segment.mask < 0 ? ~std::uint32_t{0} : tiling.masks[at(segment.mask + c)]);
      }
    }
  };

  constexpr C kInf = std::numeric_limits<C>::infinity();
  C peak[kPanelRows];
  std::fill_n(peak, kPanelRows, -kInf);
  for_dense([&](Offset first, std::uint32_t mask) {
    for (int r = 0; r < kPanelRows; ++r) {
      const C value = ((mask >> r) & 1U) != 0 ? values[first + r] : -kInf;
      peak[r] = value > peak[r] ? value : peak[r];
    }
  });
  std::vector<double> queries(at(in.d * kPanelRows));
  C near[kPanelRows];
  std::fill_n(near, kPanelRows, kInf);
  for (int r = 0; r < panel.count; ++r) {
    for (Offset e = rest_begin(r); e < rest_begin(r + 1); ++e) peak[r] = std::max(peak[r], values[e]);
    if (!(std::abs(peak[r]) <= 1e30F)) continue;  // nothing to sharpen in an empty, infinite or NaN row
    shift[r] = peak[r];
    near[r] = peak[r] - kReaches;
    for (Offset f = 0; f < in.d; ++f) {
      queries[at(r * in.d + f)] =
          in.scale * static_cast<double>(static_cast<C>(in.q(tiling.rows[at(panel.first + r)], f)));
    }
  }
  const auto sharp = [&](int r, Index column, double bias) {
    const double* q = queries.data() + r * in.d;
    const C* k = scratch_.k + column * width();
    double parts[4] = {};
    Offset f = 0;
    for (; f + 4 <= in.d; f += 4) {
      for (Offset x = 0; x < 4; ++x) parts[x] += q[f + x] * static_cast<double>(k[f + x]);
    }
    for (; f < in.d; ++f) parts[0] += q[f] * static_cast<double>(k[f]);
    return static_cast<C>((parts[0] + parts[1]) + (parts[2] + parts[3]) + bias -
                          static_cast<double>(shift[r]));
  };
  if (in.bias != nullptr) {
    for (int r = 0; r < panel.count; ++r) {
      for_each_panel_edge(*in.graph, tiling, panel, r, [&](Offset edge, Offset value) {
        const Index column = value < dense ? view.cols[value / kPanelRows] : rest[value - dense];
        values[value] = values[value] >= near[r] ? sharp(r, column, static_cast<double>(in.bias[edge]))
                                                 : values[value] - shift[r];
      });
    }
    return;
  }
  for_dense([&](Offset first, std::uint32_t mask) {
    C* cells = values + first;
    std::uint32_t found = 0;
    for (int r = 0; r < kPanelRows; ++r) {
      found |= static_cast<std::uint32_t>(cells[r] >= near[r]) << r;
      cells[r] -= shift[r];
    }
    for (found &= mask; found != 0; found &= found - 1) {
      const int r = std::countr_zero(found);
      cells[r] = sharp(r, view.cols[first / kPanelRows], 0);
    }
  });
  for (int r = 0; r < panel.count; ++r) {
    for (Offset e = rest_begin(r); e < rest_begin(r + 1); ++e) {
      values[e] = values[e] >= near[r] ? sharp(r, rest[e - dense], 0) : values[e] - shift[r];
    }
  }
}

template <class T>
void Head<T>::drop_edges(const PanelView& view, C* values) const {
  if (!in.edge_dropout.active()) return;
  const DropoutStream stream(in.seed, DropoutStream::Use::edges, in.batch, in.head);
  const C scale = static_cast<C>(in.edge_dropout.scale64);
  for (int r = 0; r < view.panel->count; ++r) {
    Offset block = -1;
    std::array<std::uint32_t, 4> bits{};
    for_each_panel_edge(*in.graph, *in.tiling, *view.panel, r, [&](Offset edge, Offset value) {
      if (edge / 4 != block) bits = stream.edge_block(block = edge / 4);
      values[value] *= in.edge_dropout.keeps(bits[at(edge % 4)]) ? scale : C{0};
    });
  }
}

template <class T>
void Head<T>::drop_hop(int t, Index row, C* z) const {
  if (!in.hop_dropout.active()) return;
  const DropoutStream stream(in.seed, DropoutStream::Use::hops, in.batch, in.head);
  const C scale = static_cast<C>(in.hop_dropout.scale64);
  for (Offset f = 0; f < in.d_value; f += 4) {
    const auto bits = stream.hop_block(t, row, f / 4);
    for (Offset i = f; i < std::min(in.d_value, f + 4); ++i) {
      z[i] *= in.hop_dropout.keeps(bits[at(i - f)]) ? scale : C{0};
    }
  }
}

template <class T>
void Head<T>::hop(int t, bool first, const C* z_in, C* z_out, const HeadOutput<T>* out) {
  const Offset padded = value_width();
  const C teleport = static_cast<C>(in.teleport);
  const C keep = static_cast<C>(1 - in.teleport);
  for_panels(true, [&](const PanelView& view, PanelScratch<C>& scratch, Offset) {
    const Panel& panel = *view.panel;
    C* values = panel_values(panel, scratch);
    if (first || !resources.stored) {
      alignas(64) C lse[kPanelRows];
      panel_softmax(view, scratch, values, lse);
      drop_edges(view, values);
      if (first && out != nullptr) report(view, values, lse, *out);
    }
    spmm(view, values, z_in, padded, scratch.out, careful);
    for (int r = 0; r < panel.count; ++r) {
      const Index row = in.tiling->rows[at(panel.first + r)];
      C* z = scratch.out + r * padded;
      if (in.teleport != 0) {  // a rectangular graph has no V of its own for a row, and no teleport
        const C* v = scratch_.z[0] + row * padded;
        for (Offset f = 0; f < padded; ++f) z[f] = keep * z[f] + teleport * v[f];
      }
      drop_hop(t, row, z);
      if (z_out != nullptr) std::copy(z, z + padded, z_out + row * padded);
      if (z_out == nullptr && out != nullptr) write_row(z, in.d_value, out->out, row);
    }
  });
}

template <class T>
void Head<T>::weights_only(const HeadOutput<T>& out) {
  for_panels(true, [&](const PanelView& view, PanelScratch<C>& scratch, Offset) {
    alignas(64) C lse[kPanelRows];
    C* values = panel_values(*view.panel, scratch);
    panel_softmax(view, scratch, values, lse);
    drop_edges(view, values);
    report(view, values, lse, out);
  });
}

template <class T>
void Head<T>::report(const PanelView& view, const C* values, const C* lse, const HeadOutput<T>& out) const {
  const Panel& panel = *view.panel;
  for (int r = 0; r < panel.count; ++r) {
    if (!out.lse.empty()) out.lse(in.tiling->rows[at(panel.first + r)]) = static_cast<float>(lse[r]);
    if (out.weights == nullptr) continue;
    for_each_panel_edge(*in.graph, *in.tiling, panel, r, [&](Offset edge, Offset value) {
      out.weights[edge] = static_cast<float>(values[value]);
    });
  }
}

template <class T>
void attention_head(const HeadInput<T>& in, const HeadOutput<T>& out, const HeadResources& resources) {
  using C = ComputeOf<T>;
  Head<T> head(in, resources);
  head.pack();
  const C* z = head.scratch_.z[0];
  for (int t = 0; t < in.hops; ++t) {
    const bool last = t + 1 == in.hops;
    C* next = last ? nullptr : head.scratch_.z[static_cast<std::size_t>(1 + t % 2)];
    head.hop(t, t == 0, z, next, &out);
    z = next;
  }
  if (in.hops == 0) {
    for (Offset i = 0; i < in.n_rows; ++i) write_row(z + i * head.value_width(), in.d_value, out.out, i);
    if (!out.lse.empty() || out.weights != nullptr) head.weights_only(out);
  }
}

#define MANYHOP_INSTANTIATE(T) \
  template class Head<T>;      \
  template void attention_head<T>(const HeadInput<T>&, const HeadOutput<T>&, const HeadResources&)
MANYHOP_INSTANTIATE(float);
MANYHOP_INSTANTIATE(double);
MANYHOP_INSTANTIATE(bf16);
#undef MANYHOP_INSTANTIATE
template std::size_t head_bytes<float>(const HeadShape&, bool);
template std::size_t head_bytes<double>(const HeadShape&, bool);
template std::size_t panel_bytes<float>(const HeadShape&);
template std::size_t panel_bytes<double>(const HeadShape&);

}  // namespace manyhop::ops::cpu
