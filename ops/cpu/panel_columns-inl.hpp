// Products over the single edges of columns; included once for each instruction set.
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

// One sum after the other in the order of the edges, as scatter_row has them; the vectors of a block hide the
// latency.
template <int NV, class C>
HWY_INLINE void gather_column(const C* HWY_RESTRICT values, const Index* HWY_RESTRICT rows, Offset count,
                              const C* HWY_RESTRICT g, Offset stride, C* HWY_RESTRICT out) {
  const Tag<C> d;
  using V = hn::Vec<Tag<C>>;
  V sum[NV];
#pragma GCC unroll 8
  for (int v = 0; v < NV; ++v) sum[v] = hn::Zero(d);
  for (Offset e = 0; e < count; ++e) {
    const V weight = hn::Set(d, values[e]);
    const C* source = g + rows[e] * stride;
#pragma GCC unroll 8
    for (int v = 0; v < NV; ++v) sum[v] = hn::MulAdd(weight, hn::Load(d, source + v * kLanes<C>), sum[v]);
  }
#pragma GCC unroll 8
  for (int v = 0; v < NV; ++v) hn::Store(sum[v], d, out + v * kLanes<C>);
}

template <class C>
HWY_INLINE void GatherColumns(const RestByColumn& edges, const C* values, Rows<const C> g, Offset f,
                              Offset begin, Offset end, Rows<C> out) {
  const Offset stride = g.stride(f);
  for (Offset j = begin; j < end; ++j) {
    const Offset first = edges.indptr[at(j)];
    const Offset count = edges.indptr[at(j + 1)] - first;
    for_features<4, C>(0, stride, [&](Offset inside, auto vectors) HWY_ATTR {
      gather_column<decltype(vectors)::value>(values + first, edges.rows.data() + first, count,
                                              g.block(f) + inside, stride, out.row(f, j) + inside);
    });
  }
}

// A whole block of features of one column, in V vectors: the rows that the sums gather are read once for the
// dot products, too. Two columns at once, whose chains of additions do not wait for each other, gain nothing.
template <int V, class C>
HWY_INLINE void pull_column(const C* HWY_RESTRICT values, const Index* HWY_RESTRICT rows, Offset count,
                            const Index* last, const C* HWY_RESTRICT g, const C* HWY_RESTRICT z,
                            C* HWY_RESTRICT out, C* HWY_RESTRICT dots, bool accumulate) {
  constexpr Offset kStride = V * kLanes<C>;
  const Tag<C> d;
  using Vec = hn::Vec<Tag<C>>;
  const Offset most = last - rows;
  Vec sum[V];
  Vec own[V];
#pragma GCC unroll 8
  for (int v = 0; v < V; ++v) {
    sum[v] = hn::Zero(d);
    own[v] = hn::Load(d, z + v * kLanes<C>);
  }
  const auto dot_of = [&](Offset e) HWY_ATTR {
    const Vec weight = hn::Set(d, values[e]);
    const C* source = g + rows[e] * kStride;
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
  for (; e + 4 <= count; e += 4) {
    const Index* ahead = rows + std::min(e + kNearAhead, most - 3);
    for (Offset i = 0; i < 4; ++i) __builtin_prefetch(g + ahead[i] * kStride);
    const Vec dot[4] = {dot_of(e), dot_of(e + 1), dot_of(e + 2), dot_of(e + 3)};
    store_sums<4, C>(dot, dots + e, accumulate);
  }
  for (; e < count; ++e) {
    const Vec dot = dot_of(e);
    store_sums<1, C>(&dot, dots + e, accumulate);
  }
#pragma GCC unroll 8
  for (int v = 0; v < V; ++v) hn::Store(sum[v], d, out + v * kLanes<C>);
}

template <class C>
HWY_INLINE void PullColumns(const RestByColumn& edges, const C* values, Rows<const C> g, Rows<const C> z,
                            Offset f, Offset begin, Offset end, Rows<C> out, C* dots, bool accumulate) {
  constexpr Offset kVectors = Rows<C>::kBlock / kLanes<C>;
  const Offset stride = g.stride(f);
  const bool ask = far(g, f);
  const Index* last = edges.rows.data() + (std::max<std::size_t>(edges.rows.size(), 1) - 1);
  for (Offset j = begin; j < end; ++j) {
    const Offset first = edges.indptr[at(j)];
    const Offset count = edges.indptr[at(j + 1)] - first;
    const Index* rows = edges.rows.data() + first;
    if constexpr (kVectors <= 4) {  // with the dots they fit sixteen registers
      if (stride == g.kBlock && !ask) {
        pull_column<kVectors>(values + first, rows, count, last, g.block(f), z.row(f, j), out.row(f, j),
                              dots + first, accumulate);
        continue;
      }
    }
    for_features<4, C>(0, stride, [&](Offset inside, auto vectors) HWY_ATTR {
      gather_column<decltype(vectors)::value>(values + first, rows, count, g.block(f) + inside, stride,
                                              out.row(f, j) + inside);
    });
    dot_row(z.row(f, j), g.block(f), stride, rows, count, last, false, dots + first, accumulate);  // from L1
  }
}

}  // namespace manyhop::ops::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();
#pragma GCC diagnostic pop

#endif
