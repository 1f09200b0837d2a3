// Sums of rows into a panel's columns, and over the single edges of columns; included once for each
// instruction set.
#include <bit>
#include <type_traits>

#include "manyhop/ops/cpu/panel_products-inl.hpp"
#include "manyhop/ops/cpu/panel_scores-inl.hpp"

#if defined(MANYHOP_OPS_CPU_PANEL_COLUMNS_INL) == defined(HWY_TARGET_TOGGLE)
#ifdef MANYHOP_OPS_CPU_PANEL_COLUMNS_INL
#undef MANYHOP_OPS_CPU_PANEL_COLUMNS_INL
#else
#define MANYHOP_OPS_CPU_PANEL_COLUMNS_INL
#endif

#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wsign-conversion"  // register arrays are indexed by small template integers

HWY_BEFORE_NAMESPACE();
namespace manyhop::ops::cpu::HWY_NAMESPACE {

// The rows from the first to the last that some of `count` columns have.
struct RowSpan {
  Offset begin = 0;
  Offset end = kPanelRows;

  HWY_INLINE RowSpan(const std::uint32_t* masks, int count) {
    std::uint32_t rows = 0;
    for (int c = 0; c < count; ++c) rows |= masks[c];
    if (rows == ~std::uint32_t{0}) return;  // with a known count the loop is 4 % faster
    begin = rows == 0 ? 0 : std::countr_zero(rows);
    end = kPanelRows - std::countl_zero(rows);
  }
};

// NC columns x NV vectors of features, summed over `count` rows and added to out.
template <int NC, int NV, class C>
HWY_INLINE void scatter_tile(const C* HWY_RESTRICT values, const Index* HWY_RESTRICT cols, Offset count,
                             const C* HWY_RESTRICT g, Offset width, C* HWY_RESTRICT out, Offset stride) {
  const Tag<C> d;
  using V = hn::Vec<Tag<C>>;
  V sum[NC][NV];
#pragma GCC unroll 8
  for (int c = 0; c < NC; ++c) {
#pragma GCC unroll 4
    for (int v = 0; v < NV; ++v) sum[c][v] = hn::Zero(d);
  }
  for (Offset r = 0; r < count; ++r) {
    V value[NV];
#pragma GCC unroll 4
    for (int v = 0; v < NV; ++v) value[v] = hn::Load(d, g + r * width + v * kLanes<C>);
#pragma GCC unroll 8
    for (int c = 0; c < NC; ++c) {
      const V weight = hn::Set(d, values[c * kPanelRows + r]);
#pragma GCC unroll 4
      for (int v = 0; v < NV; ++v) sum[c][v] = hn::MulAdd(weight, value[v], sum[c][v]);
    }
  }
#pragma GCC unroll 8
  for (int c = 0; c < NC; ++c) {
#pragma GCC unroll 4
    for (int v = 0; v < NV; ++v) {
      C* cell = out + cols[c] * stride + v * kLanes<C>;
      hn::Store(hn::Add(hn::Load(d, cell), sum[c][v]), d, cell);
    }
  }
}

template <int NV, class C>
HWY_INLINE void scatter_row(const C* HWY_RESTRICT values, const SingleEdges& edges, const C* HWY_RESTRICT g,
                            C* HWY_RESTRICT out, Offset stride) {
  const Tag<C> d;
  using V = hn::Vec<Tag<C>>;
  V value[NV];
#pragma GCC unroll 8
  for (int v = 0; v < NV; ++v) value[v] = hn::Load(d, g + v * kLanes<C>);
  for (Offset e = 0; e < edges.count; ++e) {
    const V weight = hn::Set(d, values[e]);
    C* target = out + edges.others[e] * stride;
    ask_ahead<Ask::far>(out, stride, edges, e);
#pragma GCC unroll 8
    for (int v = 0; v < NV; ++v) {
      hn::Store(hn::MulAdd(weight, value[v], hn::Load(d, target + v * kLanes<C>)), d, target + v * kLanes<C>);
    }
  }
}

template <class C>
HWY_INLINE void scatter_careful(const PanelView& view, const C* values, const C* g, Offset from, Offset to,
                                Rows<C> out) {
  for_dense(view, [&](Offset first, std::uint32_t mask) {
    const Index column = view.cols[first / kPanelRows];
    for (int r = 0; r < kPanelRows; ++r) {
      if (((mask >> r) & 1U) == 0) continue;
      for (Offset f = from; f < to; ++f) {
        const Offset block = f / out.kBlock * out.kBlock;
        out.row(block, column)[f - block] += values[first + r] * g[r * out.width + f];
      }
    }
  });
}

template <class C>
HWY_INLINE void ScatterDense(const PanelView& view, const C* values, const C* g, Offset from, Offset to,
                             Rows<C> out, bool careful) {
  if (careful) return scatter_careful(view, values, g, from, to, out);
  const Offset dense = view.panel->dense_cols;
  for_blocks<2, C>(out.width, from, to, [&](Offset block, Offset f, auto vectors) HWY_ATTR {
    constexpr int kVectors = decltype(vectors)::value;
    C* target = out.block(block) + f;
    const C* source = g + block + f;
    const Offset stride = out.stride(block);
    const auto columns = [&](Offset c, auto n) HWY_ATTR {
      constexpr int kColumns = decltype(n)::value;
      const RowSpan rows(view.masks + c, kColumns);
      scatter_tile<kColumns, kVectors>(values + c * kPanelRows + rows.begin, view.cols + c,
                                       rows.end - rows.begin, source + rows.begin * out.width, out.width,
                                       target, stride);
    };
    Offset c = 0;
    for (; c + 6 <= dense; c += 6) columns(c, std::integral_constant<int, 6>());
    for (; c < dense; ++c) columns(c, std::integral_constant<int, 1>());
  });
}

template <class C>
HWY_INLINE void ScatterRest(const PanelView& view, const C* values, const C* const* g, Offset from, Offset to,
                            Rows<C> out) {
  for_blocks<4, C>(out.width, from, to, [&](Offset block, Offset f, auto vectors) HWY_ATTR {
    for (int r = 0; r < view.panel->count; ++r) {
      const RestRow rest = rest_of(view, r);
      scatter_row<decltype(vectors)::value>(values + rest.first, rest.edges, g[r] + (block + f - from),
                                            out.block(block) + f, out.stride(block));
    }
  });
}

HWY_INLINE SingleEdges edges_of(const RestByColumn& all, Offset j) {
  const Offset first = all.indptr[at(j)];
  return {all.rows.data() + first, all.indptr[at(j + 1)] - first,
          static_cast<Offset>(all.rows.size()) - 1 - first};
}

// One sum after the other in the order of the edges, as scatter_row has them; the vectors of a block hide the
// latency.
template <int NV, Ask kAsk, class C>
HWY_INLINE void gather_column(const C* HWY_RESTRICT values, const SingleEdges& edges, const C* HWY_RESTRICT g,
                              Offset stride, C* HWY_RESTRICT out) {
  const Tag<C> d;
  using V = hn::Vec<Tag<C>>;
  V sum[NV];
#pragma GCC unroll 8
  for (int v = 0; v < NV; ++v) sum[v] = hn::Zero(d);
  for (Offset e = 0; e < edges.count; ++e) {
    const V weight = hn::Set(d, values[e]);
    const C* source = g + edges.others[e] * stride;
    ask_ahead<kAsk>(g, stride, edges, e);
#pragma GCC unroll 8
    for (int v = 0; v < NV; ++v) sum[v] = hn::MulAdd(weight, hn::Load(d, source + v * kLanes<C>), sum[v]);
  }
#pragma GCC unroll 8
  for (int v = 0; v < NV; ++v) hn::Store(sum[v], d, out + v * kLanes<C>);
}

template <Ask kAsk, class C>
HWY_INLINE void gather_block(const C* values, const SingleEdges& edges, const C* g, Offset stride, C* out) {
  for_features<4, C>(0, stride, [&](Offset inside, auto vectors) HWY_ATTR {
    constexpr int kVectors = decltype(vectors)::value;
    if (inside == 0) {
      gather_column<kVectors, kAsk>(values, edges, g, stride, out);
    } else {
      gather_column<kVectors, Ask::none>(values, edges, g + inside, stride, out + inside);
    }
  });
}

// A whole block of features of one column, in V vectors: the rows that the sums gather are read once for the
// dot products, too. Two columns at once, whose chains of additions do not wait for each other, gain nothing.
template <int V, Ask kAsk, class C>
HWY_INLINE void pull_column(const C* HWY_RESTRICT values, const SingleEdges& edges, const C* HWY_RESTRICT g,
                            const C* HWY_RESTRICT z, C* HWY_RESTRICT out, C* HWY_RESTRICT dots,
                            bool accumulate) {
  constexpr Offset kStride = V * kLanes<C>;
  const Tag<C> d;
  using Vec = hn::Vec<Tag<C>>;
  Vec sum[V];
  Vec own[V];
#pragma GCC unroll 8
  for (int v = 0; v < V; ++v) {
    sum[v] = hn::Zero(d);
    own[v] = hn::Load(d, z + v * kLanes<C>);
  }
  const auto dot_of = [&](Offset e) HWY_ATTR {
    const Vec weight = hn::Set(d, values[e]);
    const C* source = g + edges.others[e] * kStride;
    ask_ahead<kAsk>(g, kStride, edges, e);
    Vec dot = hn::Zero(d);
#pragma GCC unroll 8
    for (int v = 0; v < V; ++v) {
      const Vec value = hn::Load(d, source + v * kLanes<C>);
      sum[v] = hn::MulAdd(weight, value, sum[v]);
      dot = hn::MulAdd(own[v], value, dot);
    }
    return dot;
  };
  Offset e = 0;
  for (; e + 4 <= edges.count; e += 4) {
    const Vec dot[4] = {dot_of(e), dot_of(e + 1), dot_of(e + 2), dot_of(e + 3)};
    store_sums<4, C>(dot, dots + e, accumulate);
  }
  for (; e < edges.count; ++e) {
    const Vec dot = dot_of(e);
    store_sums<1, C>(&dot, dots + e, accumulate);
  }
#pragma GCC unroll 8
  for (int v = 0; v < V; ++v) hn::Store(sum[v], d, out + v * kLanes<C>);
}

template <class C>
HWY_INLINE void GatherColumns(const RestByColumn& edges, const C* values, Rows<const C> g, Offset f,
                              Offset begin, Offset end, Rows<C> out) {
  with_ask(g, f, [&](auto ask) HWY_ATTR {
    for (Offset j = begin; j < end; ++j) {
      gather_block<decltype(ask)::value>(values + edges.indptr[at(j)], edges_of(edges, j), g.block(f),
                                         g.stride(f), out.row(f, j));
    }
  });
}

template <class C>
HWY_INLINE void PullColumns(const RestByColumn& edges, const C* values, Rows<const C> g, Rows<const C> z,
                            Offset f, Offset begin, Offset end, Rows<C> out, C* dots, bool accumulate) {
  constexpr Offset kVectors = Rows<C>::kBlock / kLanes<C>;
  const Offset stride = g.stride(f);
  with_ask(g, f, [&](auto ask) HWY_ATTR {
    constexpr Ask kAsk = decltype(ask)::value;
    for (Offset j = begin; j < end; ++j) {
      const Offset first = edges.indptr[at(j)];
      const SingleEdges column = edges_of(edges, j);
      if constexpr (kVectors <= 4) {  // with the dots they fit sixteen registers
        if (stride == g.kBlock) {
          pull_column<kVectors, kAsk>(values + first, column, g.block(f), z.row(f, j), out.row(f, j),
                                      dots + first, accumulate);
          continue;
        }
      }
      gather_block<kAsk>(values + first, column, g.block(f), stride, out.row(f, j));
      dot_row<Ask::none>(z.row(f, j), g.block(f), stride, column, dots + first, accumulate);  // from L1
    }
  });
}

}  // namespace manyhop::ops::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();
#pragma GCC diagnostic pop

#endif
