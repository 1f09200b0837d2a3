// A head from packing to its result: K hops over panels. Scratch memory is head_scratch.cpp, A
// head_weights.cpp.
#include "manyhop/ops/cpu/head.hpp"

#include <atomic>

#include "manyhop/graphs/base/parallel.hpp"

namespace manyhop::ops::cpu {

namespace {
constexpr Offset kRowGrain = 256;
std::size_t at(Offset i) { return static_cast<std::size_t>(i); }
}  // namespace

template <class T, class S>
Head<T, S>::Head(const HeadInput<T>& input, const HeadResources& given) : in(input), resources(given) {
  Carver head(resources.memory);
  Carver kept(resources.kept);
  scratch_ = HeadScratch<C, S>::carve(head, kept, resources.shape, resources.stored, resources.threads > 1);
  const std::size_t bytes = panel_bytes<C>(resources.shape);
  for (int i = 0; i < resources.threads; ++i) {
    Carver panel(resources.panels + static_cast<std::size_t>(i) * bytes);
    free_.push_back(PanelScratch<C>::carve(panel, resources.shape));
  }
}

template <class T, class S>
template <class R>
bool Head<T, S>::pack_rows(TensorView<const T> from, Offset d, Rows<R> to) const {
  std::atomic<bool> finite{true};
  const auto range = [&](Offset begin, Offset end) {
    bool good = true;
    for (Offset i = begin; i < end; ++i) {
      prefetch_row(from, in.token(std::min(i + kRowsAhead, end - 1)), d);
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
  return finite;
}

template <class T, class S>
void Head<T, S>::pack_keys() {
  careful_keys = !pack_rows(in.k, in.d, keys(scratch_.k));
}

template <class T, class S>
void Head<T, S>::pack() {
  pack_keys();
  careful = !pack_rows(in.v, in.d_value, features(scratch_.z[0]));
  if constexpr (std::is_same_v<T, bf16>) {
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
template <class R>
void Head<T, S>::pair_up([[maybe_unused]] Rows<const R> x) {
  if constexpr (std::is_same_v<T, bf16>) {
    if (!resources.shape.tiles) return;
    if constexpr (std::is_same_v<R, float>) centered = center_of(x, in.n_cols, scratch_.center);
    [[maybe_unused]] const float* center = centered ? scratch_.center : nullptr;
    const auto range = [&](Offset begin, Offset end) {
      if constexpr (std::is_same_v<R, float>) {
        make_pairs(x, center, begin, end, {scratch_.pairs, x.width});
      } else {
        make_pairs(x, begin, end, {scratch_.pairs, x.width});
      }
    };
    // Of a square graph: a rectangular one has one hop, from V, which has a row for each column.
    const Offset count = (in.n_cols + 1) / 2;
    resources.threads > 1 ? parallel_ranges(count, kRowGrain, range) : range(0, count);
  }
}

template <class T, class S>
void Head<T, S>::dense_products(const PanelView& view, PanelScratch<C>& scratch, const C* values,
                                Rows<const S> x, bool ask_masks) const {
  if constexpr (std::is_same_v<T, bf16>) {
    if (tiled(*view.panel, ask_masks)) {
      const PairRows pairs{scratch_.pairs, x.width};
      if constexpr (std::is_same_v<S, bf16>) {  // make_weights left them as tiles
        spmm_tiles(view, reinterpret_cast<const bf16*>(values), pairs, scratch.tiles, scratch.out);
      } else {
        alignas(64) float sums[kPanelRows];
        tile_weights(view, values, scratch.tiles, scratch.weights, sums);
        spmm_tiles(view, scratch.weights, pairs, scratch.tiles, scratch.out);
        for (Offset r = 0; r < kPanelRows && centered; ++r) {
          float* row = scratch.out + r * x.width;
          for (Offset f = 0; f < x.width; ++f) row[f] += sums[r] * scratch_.center[f];
        }
      }
      return;
    }
  }
  spmm_dense<C, S>(view, values, x, scratch.out, ask_masks);
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
  // A NaN in q or k is one in Z_1, and cells without an edge hold 0: the next hop must leave them out.
  std::atomic<bool> finite{true};
  const auto settle = [&] { careful = careful || !finite; };
  if (!careful) pair_up(from);
  const auto complete = [&](const PanelView& view, PanelScratch<C>& scratch, const C* values,
                            Rows<const S> rest) {
    dense_products(view, scratch, values, from, careful);
    Finish<C, S> what{.keep = keep, .teleport = teleport, .z = scratch.out, .rest = rest};
    // A rectangular graph has no V of its own for a row, and no teleport.
    if (in.teleport != 0) what.v = v;
    what.local_rest = !two_passes;
    what.local_to = !direct;
    what.to = direct ? to : Rows<S>{reinterpret_cast<S*>(scratch.rows_t), kPanelRows, v.width};
    cpu::finish(view, what);
    if (direct) {
      bool good = true;
      for (int r = 0; r < view.panel->count; ++r) good &= row_is_finite<S>(to, view.row(r));
      if (!good) finite = false;
      return;
    }
    for (int r = 0; r < view.panel->count; ++r) {
      copy_row<S, C>(what.to, r, scratch.out);
      drop_hop(t, in.token(view.row(r)), scratch.out);
      if (!last) {
        copy_row<S, C>(scratch.out, to, view.row(r));
        if (!row_is_finite<S>(to, view.row(r))) finite = false;
      } else if (out != nullptr) {
        write_row(scratch.out, in.d_value, out->out, in.token(view.row(r)));
      }
    }
  };
  if (!two_passes) {
    for_panels(true, [&](const PanelView& view, PanelScratch<C>& scratch, Offset) {
      C* values = panel_values(*view.panel, scratch);
      make(view, scratch, values);
      const Rows<S> rest{some_rest ? reinterpret_cast<S*>(scratch.rows) : nullptr, kPanelRows, v.width};
      if (some_rest) {
        S* targets[kPanelRows];
        for (Offset block = 0; block < v.width; block += v.kBlock) {
          for (int r = 0; r < view.panel->count; ++r) targets[r] = rest.row(block, r);
          spmm_rest<C, S>(view, values, from, block, targets);
        }
      }
      complete(view, scratch, values, rest);
    });
    return settle();
  }
  for_strips([&](PanelScratch<C>& scratch, Offset begin, Offset end) {
    const auto each = [&](bool columns, auto&& body) {
      for (Offset p = begin; p < end; ++p) {
        if (p % 64 == 0) check_stop();
        const Panel& panel = in.tiling->panels[at(p)];
        body(columns ? scratch.expand(*in.tiling, panel) : scratch.view(*in.tiling, panel),
             scratch_.values + panel.values);
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
  settle();
}

namespace {
template <class T, class S>
void run(const HeadInput<T>& in, const HeadOutput<T>& out, const HeadResources& resources) {
  using C = ComputeOf<T>;
  Head<T, S> head(in, resources);
  head.pack();
  const auto& z = head.scratch_.z;
  for (int t = 0; t < in.hops; ++t) {
    const bool tiled = resources.shape.tiles && !head.careful;
    head.hop(t, t == 0, z[at(t)], z[at(t + 1)], &out, t + 1 == in.hops);
    // A lies in tiles, which ask no masks: once more from V, without them.
    if (std::is_same_v<S, bf16> && tiled && head.careful) t = -1;
  }
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

// Members of head_weights.cpp are instantiated there.
#define MANYHOP_INSTANTIATE(...)                                                                            \
  template __VA_ARGS__::Head(const HeadInput<__VA_ARGS__::Stored>&, const HeadResources&);                  \
  template void __VA_ARGS__::pack();                                                                        \
  template void __VA_ARGS__::pack_keys();                                                                   \
  template void __VA_ARGS__::pair_up(Rows<const __VA_ARGS__::C>);                                           \
  template void __VA_ARGS__::dense_products(const PanelView&, PanelScratch<__VA_ARGS__::C>&,                \
                                            const __VA_ARGS__::C*, Rows<const __VA_ARGS__::C>, bool) const; \
  template void __VA_ARGS__::gather_rows(const PanelView&, Rows<const __VA_ARGS__::C>, Offset, Offset,      \
                                         __VA_ARGS__::C*);                                                  \
  template void __VA_ARGS__::drop_hop(int, Offset, __VA_ARGS__::C*) const;                                  \
  template void __VA_ARGS__::hop(int, bool, const __VA_ARGS__::C*, __VA_ARGS__::C*,                         \
                                 const HeadOutput<__VA_ARGS__::Stored>*, bool);                             \
  template void attention_head<__VA_ARGS__::Stored>(                                                        \
      const HeadInput<__VA_ARGS__::Stored>&, const HeadOutput<__VA_ARGS__::Stored>&, const HeadResources&)
MANYHOP_INSTANTIATE(Head<float>);
MANYHOP_INSTANTIATE(Head<double>);
MANYHOP_INSTANTIATE(Head<bf16>);
#undef MANYHOP_INSTANTIATE

}  // namespace manyhop::ops::cpu
