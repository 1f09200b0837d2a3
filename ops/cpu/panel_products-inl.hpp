// Products of a panel's values with rows of features; included once for each instruction set.
#include <iterator>
#include <type_traits>

#include "manyhop/ops/cpu/panel-inl.hpp"

#if defined(MANYHOP_OPS_CPU_PANEL_PRODUCTS_INL) == defined(HWY_TARGET_TOGGLE)
#ifdef MANYHOP_OPS_CPU_PANEL_PRODUCTS_INL
#undef MANYHOP_OPS_CPU_PANEL_PRODUCTS_INL
#else
#define MANYHOP_OPS_CPU_PANEL_PRODUCTS_INL
#endif

#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wsign-conversion"  // register arrays are indexed by small template integers

HWY_BEFORE_NAMESPACE();
namespace manyhop::ops::cpu::HWY_NAMESPACE {

template <class C>
inline constexpr Offset kLine = static_cast<Offset>(64 / sizeof(C));

// NR rows x the vectors of NL loads of features, summed over the columns of one chunk; the first chunk starts
// out. x and out: at position p. `ahead`: memory to ask for, a cache line for each column.
template <int NR, int NL, bool kAhead, class C, class S>
HWY_INLINE void product_tile(const C* HWY_RESTRICT values, const Index* HWY_RESTRICT cols, Offset count,
                             const S* HWY_RESTRICT x, Offset stride, C* HWY_RESTRICT out, Offset width,
                             bool starts, [[maybe_unused]] const C* ahead) {
  using Io = FeatureIo<C, S>;
  static_assert(Io::kVectors == 1 || NL == 1);
  constexpr int NV = NL * Io::kVectors;
  constexpr Offset kApart = Io::kVectors == 1 ? kLanes<C> : kHalfGroup / 2;
  const Tag<C> d;
  using V = hn::Vec<Tag<C>>;
  V sum[NR][NV];
#pragma GCC unroll 8
  for (int r = 0; r < NR; ++r) {
#pragma GCC unroll 4
    for (int v = 0; v < NV; ++v) sum[r][v] = hn::Zero(d);
  }
  for (Offset c = 0; c < count; ++c) {
    const S* source = x + cols[c] * stride;
    if constexpr (kAhead) __builtin_prefetch(ahead + c * kLine<C>);
    V value[NV];
#pragma GCC unroll 4
    for (int l = 0; l < NL; ++l) Io::load(source, l * kLanes<C>, value + l * Io::kVectors);
#pragma GCC unroll 8
    for (int r = 0; r < NR; ++r) {
      const V weight = hn::Set(d, values[c * kPanelRows + r]);
#pragma GCC unroll 4
      for (int v = 0; v < NV; ++v) sum[r][v] = hn::MulAdd(weight, value[v], sum[r][v]);
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < NR; ++r) {
#pragma GCC unroll 4
    for (int v = 0; v < NV; ++v) {
      C* cell = out + r * width + v * kApart;
      hn::Store(starts ? sum[r][v] : hn::Add(hn::Load(d, cell), sum[r][v]), d, cell);
    }
  }
}

// f(first feature, number of vectors) over [from, to): blocks of Most vectors, then of half as many, down to
// one.
template <int Most, class C, class F>
HWY_INLINE void for_features(Offset from, Offset to, F&& f) {
  for (; from + Most * kLanes<C> <= to; from += Most * kLanes<C>)
    f(from, std::integral_constant<int, Most>());
  if constexpr (Most > 1) {
    if (from < to) for_features<Most / 2, C>(from, to, f);
  }
}

// Every (first feature of a block, f within the block, vectors) of [from, to).
template <int Most, class C, class F>
HWY_INLINE void for_blocks(Offset width, Offset from, Offset to, F&& f) {
  constexpr Offset kBlock = Rows<C>::kBlock;
  for (Offset block = from / kBlock * kBlock; block < to; block += kBlock) {
    const Offset begin = std::max(from, block) - block;
    const Offset end = std::min({to - block, kBlock, width - block});
    for_features<Most, C>(begin, end,
                          [&](Offset inside, auto vectors) HWY_ATTR { f(block, inside, vectors); });
  }
}

template <class C>
HWY_INLINE C feature_of(const C* row, Offset f) {
  return row[f];
}
HWY_INLINE float feature_of(const bf16* row, Offset f) { return static_cast<float>(row[half_place(f)]); }

template <class C, class S>
HWY_INLINE void spmm_careful(const PanelView& view, const C* values, Rows<const S> x, C* out) {
  for_dense(view, [&](Offset first, std::uint32_t mask) {
    const Index column = view.cols[first / kPanelRows];
    for (int r = 0; r < kPanelRows; ++r) {
      if (((mask >> r) & 1U) == 0) continue;
      for (Offset f = 0; f < x.width; ++f) {
        const Offset block = f / x.kBlock * x.kBlock;
        out[r * x.width + f] += values[first + r] * feature_of(x.row(block, column), f - block);
      }
    }
  });
}

// 32 rows as 6 + 6 + 6 + 6 + 4 + 4: twelve sums and their operands fill sixteen registers; five sixes and a
// two took 15 % longer, for two rows cannot hide the latency of a multiply-add.
struct RowGroup {
  int first;
  int rows;
};
inline constexpr RowGroup kRowGroups[] = {{0, 6}, {6, 6}, {12, 6}, {18, 6}, {24, 4}, {28, 4}};

// Of each group of rows the columns of a chunk from the first to the last that it has: a band of 65 columns
// leaves 15 % of its panels' cells out.
struct ColumnSpans {
  Offset begin[std::size(kRowGroups)];
  Offset end[std::size(kRowGroups)];

  HWY_INLINE ColumnSpans(const std::uint32_t* masks, Offset count) {
    for (std::size_t i = 0; i < std::size(kRowGroups); ++i) {
      begin[i] = 0;
      end[i] = count;
      const std::uint32_t rows = ((1U << kRowGroups[i].rows) - 1) << kRowGroups[i].first;
      while (begin[i] < end[i] && (masks[begin[i]] & rows) == 0) ++begin[i];
      while (begin[i] < end[i] && (masks[end[i] - 1] & rows) == 0) --end[i];
    }
  }
};

template <int NL, bool kAhead, class C, class S>
HWY_INLINE void product_rows(const C* values, const Index* cols, const ColumnSpans& spans, const S* x,
                             Offset stride, C* out, Offset width, bool starts, const C* ahead) {
  const auto group = [&](auto index, auto asks) HWY_ATTR {
    constexpr std::size_t kIndex = decltype(index)::value;
    constexpr RowGroup kGroup = kRowGroups[kIndex];
    const Offset begin = spans.begin[kIndex];
    product_tile<kGroup.rows, NL, decltype(asks)::value>(values + begin * kPanelRows + kGroup.first,
                                                         cols + begin, spans.end[kIndex] - begin, x, stride,
                                                         out + kGroup.first * width, width, starts, ahead);
  };
  group(std::integral_constant<std::size_t, 0>(), std::false_type());
  group(std::integral_constant<std::size_t, 1>(), std::bool_constant<kAhead>());
  group(std::integral_constant<std::size_t, 2>(), std::false_type());
  group(std::integral_constant<std::size_t, 3>(), std::false_type());
  group(std::integral_constant<std::size_t, 4>(), std::false_type());
  group(std::integral_constant<std::size_t, 5>(), std::false_type());
}

// The values come from L3 or memory and are read once a hop: each chunk asks for the next one's, a line for
// each column of the second tile of its first groups of features. That takes what L1-resident values take;
// without it 5 % longer, 15 % where neighbours load L3, and all at once is as bad.
template <class C, class S>
HWY_INLINE void SpmmDense(const PanelView& view, const C* values, Rows<const S> x, C* out, bool careful) {
  using Io = FeatureIo<C, S>;
  if (careful || view.panel->dense_cols == 0) std::fill_n(out, kPanelRows * x.width, C{0});
  if (careful) return spmm_careful(view, values, x, out);
  constexpr Offset kChunkLines = kChunk * kPanelRows / kLine<C>;
  for (Offset chunk = 0; chunk < view.panel->dense_cols; chunk += kChunk) {
    const Offset count = std::min(kChunk, view.panel->dense_cols - chunk);
    const ColumnSpans spans(view.masks + chunk, count);
    const C* part = values + chunk * kPanelRows;
    const C* next = part + kChunk * kPanelRows;
    Offset asked = 0;
    for (Offset block = 0; block < x.width; block += x.kBlock) {
      const Offset stride = x.stride(block);
      for_features<2 / Io::kVectors, C>(0, Io::positions(stride), [&](Offset p, auto loads) HWY_ATTR {
        constexpr int kLoads = decltype(loads)::value;
        const S* source = x.block(block) + Io::element(p);
        C* target = out + block + Io::feature(p);
        const C* ahead = next + asked * kLine<C>;
        if (kLoads * Io::kVectors == 2 && asked < kChunkLines) {
          product_rows<kLoads, true>(part, view.cols + chunk, spans, source, stride, target, x.width,
                                     chunk == 0, ahead);
          asked += spans.end[1] - spans.begin[1];
        } else {
          product_rows<kLoads, false>(part, view.cols + chunk, spans, source, stride, target, x.width,
                                      chunk == 0, ahead);
        }
      });
    }
  }
}

// One row of single edges: NL loads of features, gathered; NE edges in flight, each with sums of its own.
template <int NE, int NL, Ask kAsk, class C, class S>
HWY_INLINE void gather_row(const C* HWY_RESTRICT values, const SingleEdges& edges, const S* HWY_RESTRICT x,
                           Offset stride, Offset p, S* HWY_RESTRICT out) {
  const Index* HWY_RESTRICT cols = edges.others;
  const Offset count = edges.count;
  using Io = FeatureIo<C, S>;
  constexpr int NV = NL * Io::kVectors;
  const Tag<C> d;
  using V = hn::Vec<Tag<C>>;
  const auto add_edge = [&](Offset edge, V* sum) HWY_ATTR {
    const V weight = hn::Set(d, values[edge]);
    const S* source = x + cols[edge] * stride;
    ask_ahead<kAsk>(x, stride, edges, edge);
#pragma GCC unroll 8
    for (int l = 0; l < NL; ++l) {
      V value[Io::kVectors];
      Io::load(source, p + l * kLanes<C>, value);
#pragma GCC unroll 2
      for (int v = 0; v < Io::kVectors; ++v) {
        sum[l * Io::kVectors + v] = hn::MulAdd(weight, value[v], sum[l * Io::kVectors + v]);
      }
    }
  };
  V total[NV];
#pragma GCC unroll 8
  for (int v = 0; v < NV; ++v) total[v] = hn::Zero(d);
  for (Offset chunk = 0; chunk < count; chunk += NE * kChunk) {
    const Offset stop = std::min(count, chunk + NE * kChunk);
    V sum[NE][NV];
#pragma GCC unroll 4
    for (int e = 0; e < NE; ++e) {
#pragma GCC unroll 8
      for (int v = 0; v < NV; ++v) sum[e][v] = hn::Zero(d);
    }
    Offset edge = chunk;
    for (; edge + NE <= stop; edge += NE) {
#pragma GCC unroll 4
      for (int e = 0; e < NE; ++e) add_edge(edge + e, sum[e]);
    }
    for (; edge < stop; ++edge) add_edge(edge, sum[0]);
#pragma GCC unroll 4
    for (int e = 0; e < NE; ++e) {
#pragma GCC unroll 8
      for (int v = 0; v < NV; ++v) total[v] = hn::Add(total[v], sum[e][v]);
    }
  }
#pragma GCC unroll 8
  for (int l = 0; l < NL; ++l) Io::store(total + l * Io::kVectors, out, p + l * kLanes<C>);
}

template <class C, class S>
HWY_INLINE void SpmmRest(const PanelView& view, const C* values, Rows<const S> x, Offset f, S* const* out) {
  using Io = FeatureIo<C, S>;
  const Offset stride = x.stride(f);
  with_ask(x, f, [&](auto ask) HWY_ATTR {
    for (int r = 0; r < view.panel->count; ++r) {
      const RestRow rest = rest_of(view, r);
      const C* weights = values + rest.first;
      for_features<4, C>(0, Io::positions(stride), [&](Offset p, auto loads) HWY_ATTR {
        constexpr int kLoads = decltype(loads)::value;
        // Eight sums hide the latency of a multiply-add.
        constexpr int kEdges = kLoads * Io::kVectors >= 8 ? 1 : 2;
        if (p == 0) {
          gather_row<kEdges, kLoads, decltype(ask)::value>(weights, rest.edges, x.block(f), stride, p,
                                                           out[r]);
        } else {
          gather_row<kEdges, kLoads, Ask::none>(weights, rest.edges, x.block(f), stride, p, out[r]);
        }
      });
    }
  });
}

template <class C, class S>
HWY_INLINE void FinishRows(const PanelView& view, const Finish<C, S>& what) {
  using Io = FeatureIo<C, S>;
  const Tag<C> d;
  using V = hn::Vec<Tag<C>>;
  const V keep = hn::Set(d, what.keep);
  const V teleport = hn::Set(d, what.teleport);
  for (int r = 0; r < view.panel->count; ++r) {
    const Index row = view.row(r);
    for (Offset block = 0; block < what.to.width; block += what.to.kBlock) {
      const C* z = what.z + r * what.to.width + block;
      const S* rest = what.rest.data != nullptr ? what.rest.row(block, what.local_rest ? r : row) : nullptr;
      const S* v = what.v.data != nullptr ? what.v.row(block, row) : nullptr;
      S* to = what.to.row(block, what.local_to ? r : row);
      for (Offset p = 0; p < Io::positions(what.to.stride(block)); p += kLanes<C>) {
        V value[Io::kVectors];
        V other[Io::kVectors];
#pragma GCC unroll 2
        for (int i = 0; i < Io::kVectors; ++i)
          value[i] = hn::Load(d, z + Io::feature(p) + i * kHalfGroup / 2);
        if (rest != nullptr) {
          Io::load(rest, p, other);
#pragma GCC unroll 2
          for (int i = 0; i < Io::kVectors; ++i) value[i] = hn::Add(value[i], other[i]);
        }
#pragma GCC unroll 2
        for (int i = 0; i < Io::kVectors; ++i) value[i] = hn::Mul(keep, value[i]);
        if (v != nullptr) {
          Io::load(v, p, other);
#pragma GCC unroll 2
          for (int i = 0; i < Io::kVectors; ++i) value[i] = hn::MulAdd(teleport, other[i], value[i]);
        }
        Io::store(value, to, p);
      }
    }
  }
}

}  // namespace manyhop::ops::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();
#pragma GCC diagnostic pop

#endif
