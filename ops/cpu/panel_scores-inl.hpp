// Dot products of a panel's rows with rows of features: scores and gradients of edges; included once for each
// instruction set.
#include <type_traits>

#include "manyhop/ops/cpu/panel-inl.hpp"

#if defined(MANYHOP_OPS_CPU_PANEL_SCORES_INL) == defined(HWY_TARGET_TOGGLE)
#ifdef MANYHOP_OPS_CPU_PANEL_SCORES_INL
#undef MANYHOP_OPS_CPU_PANEL_SCORES_INL
#else
#define MANYHOP_OPS_CPU_PANEL_SCORES_INL
#endif

#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wsign-conversion"  // register arrays are indexed by small template integers

HWY_BEFORE_NAMESPACE();
namespace manyhop::ops::cpu::HWY_NAMESPACE {

// Features of a dot product that join the total together: one running fp32 sum over d = 197 is off by 1e-5 at
// a score of 40, which softmax passes on as a relative error; sums of 32 by 3e-6.
template <class C>
inline constexpr Offset kDotChunk = Rows<C>::kBlock;

// NV vectors of rows times NC columns: NV NC sums in registers, of two vectors 2 + NC loads for 2 NC
// products.
template <int NC, int NV, class C>
HWY_INLINE void dot_tile(const C* HWY_RESTRICT rows_t, Rows<const C> x, const Index* HWY_RESTRICT cols,
                         C* HWY_RESTRICT out, bool accumulate) {
  const Tag<C> d;
  using V = hn::Vec<Tag<C>>;
  for (Offset block = 0; block < x.width; block += kDotChunk<C>) {
    const Offset stride = x.stride(block);
    const C* HWY_RESTRICT base = x.block(block);
    const C* column[NC];
    V sum[NC][NV];
#pragma GCC unroll 16
    for (int c = 0; c < NC; ++c) {
      column[c] = base + cols[c] * stride;
#pragma GCC unroll 2
      for (int v = 0; v < NV; ++v) sum[c][v] = hn::Zero(d);
    }
    const C* HWY_RESTRICT row = rows_t + block * kPanelRows;
    for (Offset f = 0; f < stride; ++f) {
      V a[NV];
#pragma GCC unroll 2
      for (int v = 0; v < NV; ++v) a[v] = hn::Load(d, row + f * kPanelRows + v * kLanes<C>);
#pragma GCC unroll 16
      for (int c = 0; c < NC; ++c) {
        const V value = hn::Set(d, column[c][f]);
#pragma GCC unroll 2
        for (int v = 0; v < NV; ++v) sum[c][v] = hn::MulAdd(a[v], value, sum[c][v]);
      }
    }
#pragma GCC unroll 16
    for (int c = 0; c < NC; ++c) {
#pragma GCC unroll 2
      for (int v = 0; v < NV; ++v) {
        C* cell = out + c * kPanelRows + v * kLanes<C>;
        if (accumulate || block > 0) sum[c][v] = hn::Add(hn::Load(d, cell), sum[c][v]);
        hn::Store(sum[c][v], d, cell);
      }
    }
  }
}

#if HWY_TARGET != HWY_SCALAR
template <class D>
HWY_INLINE auto sum_of_blocks([[maybe_unused]] D d, hn::Vec<D> v) {
  if constexpr (hn::MaxLanes(D()) <= 4) {
    return v;
  } else {
    const hn::Half<D> half;
    return sum_of_blocks(half, hn::Add(hn::LowerHalf(half, v), hn::UpperHalf(half, v)));
  }
}
#endif

// The sums of four vectors of floats in one of four lanes: adds within blocks of 128 bits, then the blocks;
// a third of the steps of four SumOfLanes.
template <class V>
HWY_INLINE auto four_sums(V a, V b, V c, V e) {
#if HWY_TARGET == HWY_SCALAR
  return hn::Add(hn::Add(a, b), hn::Add(c, e));  // never called: one lane has no blocks
#else
  const Tag<float> d;
  const hn::RepartitionToWide<decltype(d)> wide;
  const auto ab = hn::Add(hn::InterleaveLower(d, a, b), hn::InterleaveUpper(d, a, b));
  const auto ce = hn::Add(hn::InterleaveLower(d, c, e), hn::InterleaveUpper(d, c, e));
  const auto low = hn::BitCast(d, hn::InterleaveLower(wide, hn::BitCast(wide, ab), hn::BitCast(wide, ce)));
  const auto high = hn::BitCast(d, hn::InterleaveUpper(wide, hn::BitCast(wide, ab), hn::BitCast(wide, ce)));
  return sum_of_blocks(d, hn::Add(low, high));
#endif
}

// out[e] (+)= the sum of the lanes of sum[e], e < NE: of each in the same order, whatever NE is.
template <int NE, class C>
HWY_INLINE void store_sums(const hn::Vec<Tag<C>>* sum, C* HWY_RESTRICT out, bool accumulate) {
  const Tag<C> d;
  if constexpr (HWY_TARGET != HWY_SCALAR && sizeof(C) == 4 && kLanes<C> >= 4) {
    const hn::CappedTag<C, 4> four;
    if constexpr (NE == 4) {
      auto sums = four_sums(sum[0], sum[1], sum[2], sum[3]);
      if (accumulate) sums = hn::Add(hn::LoadU(four, out), sums);
      hn::StoreU(sums, four, out);
    } else {
      static_assert(NE == 1);
      const auto none = hn::Zero(d);
      const C value = hn::GetLane(four_sums(sum[0], none, none, none));
      *out = accumulate ? *out + value : value;
    }
  } else {
#pragma GCC unroll 4
    for (int e = 0; e < NE; ++e) {
      const C value = hn::GetLane(hn::SumOfLanes(d, sum[e]));
      out[e] = accumulate ? out[e] + value : value;
    }
  }
}

// NE products of one row with gathered rows of one block of x.
template <int NE, class C>
HWY_INLINE void dot_edges(const C* HWY_RESTRICT row, const C* HWY_RESTRICT base, Offset stride,
                          const Index* HWY_RESTRICT cols, C* HWY_RESTRICT out, bool accumulate) {
  const Tag<C> d;
  using V = hn::Vec<Tag<C>>;
  V sum[NE];
#pragma GCC unroll 4
  for (int e = 0; e < NE; ++e) sum[e] = hn::Zero(d);
  for (Offset f = 0; f < stride; f += kLanes<C>) {
    const V a = hn::Load(d, row + f);
#pragma GCC unroll 4
    for (int e = 0; e < NE; ++e) sum[e] = hn::MulAdd(a, hn::Load(d, base + cols[e] * stride + f), sum[e]);
  }
  store_sums<NE, C>(sum, out, accumulate);
}

// The products of one row with the rows of one block of x at the other ends of its edges.
template <Ask kAsk, class C>
HWY_INLINE void dot_row(const C* HWY_RESTRICT row, const C* HWY_RESTRICT base, Offset stride,
                        const SingleEdges& edges, C* HWY_RESTRICT out, bool accumulate) {
  Offset e = 0;
  for (; e + 4 <= edges.count; e += 4) {
    for (Offset i = e; i < e + 4; ++i) ask_ahead<kAsk>(base, stride, edges, i);
    dot_edges<4>(row, base, stride, edges.others + e, out + e, accumulate);
  }
  for (; e < edges.count; ++e) dot_edges<1>(row, base, stride, edges.others + e, out + e, accumulate);
}

// A vector of rows that has none of the columns is left out: its cells become 0, or stay.
template <int NC, class C>
HWY_INLINE Offset dot_columns(const PanelView& view, Offset c, const C* rows_t, Rows<const C> x, C* values,
                              bool accumulate) {
  constexpr std::uint32_t kVector = ~std::uint32_t{0} >> (32 - kLanes<C>);
  const auto clear = [&](Offset r) HWY_ATTR {
    for (Offset i = c; i < c + NC && !accumulate; ++i)
      hn::Store(hn::Zero(Tag<C>()), Tag<C>(), values + i * kPanelRows + r);
  };
  for (; c + NC <= view.panel->dense_cols; c += NC) {
    std::uint32_t rows = 0;
    for (Offset i = c; i < c + NC; ++i) rows |= view.masks[i];
    for (Offset r = 0; r < kPanelRows; r += 2 * kLanes<C>) {
      const bool low = ((rows >> r) & kVector) != 0;
      const bool high = ((rows >> (r + kLanes<C>)) & kVector) != 0;
      const auto tile = [&](Offset first, auto vectors) HWY_ATTR {
        dot_tile<NC, decltype(vectors)::value>(rows_t + first, x, view.cols + c,
                                               values + c * kPanelRows + first, accumulate);
      };
      if (low && high) {
        tile(r, std::integral_constant<int, 2>());
        continue;
      }
      low ? tile(r, std::integral_constant<int, 1>()) : clear(r);
      high ? tile(r + kLanes<C>, std::integral_constant<int, 1>()) : clear(r + kLanes<C>);
    }
  }
  return c;
}

template <class C>
HWY_INLINE void SddmmDense(const PanelView& view, const C* rows_t, Rows<const C> x, C* values,
                           bool accumulate) {
  Offset c = 0;
  if constexpr (HWY_MAX_BYTES == 64)  // 32 registers: 3 % faster than six
    c = dot_columns<12>(view, c, rows_t, x, values, accumulate);
  c = dot_columns<6>(view, c, rows_t, x, values, accumulate);
  c = dot_columns<3>(view, c, rows_t, x, values, accumulate);
  dot_columns<1>(view, c, rows_t, x, values, accumulate);
}

template <class C>
HWY_INLINE void SddmmRest(const PanelView& view, const C* const* rows, Rows<const C> x, Offset f, C* to,
                          bool accumulate) {
  const Offset dense = view.panel->dense_cols * kPanelRows;
  const C* base = x.block(f);
  const Offset stride = x.stride(f);
  with_ask(x, f, [&](auto ask) HWY_ATTR {
    for (int r = 0; r < view.panel->count; ++r) {
      const RestRow rest = rest_of(view, r);
      dot_row<decltype(ask)::value>(rows[r], base, stride, rest.edges, to + (rest.first - dense), accumulate);
    }
  });
}

}  // namespace manyhop::ops::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();
#pragma GCC diagnostic pop

#endif
