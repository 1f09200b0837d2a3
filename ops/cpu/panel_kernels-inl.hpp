// Panel kernels on Highway vectors; included once for each instruction set by panel_kernels.cpp.
// Nothing here crosses lanes but SumOfLanes, so that the one-lane fallback runs the same code.
#include <algorithm>
#include <cmath>
#include <limits>
#include <type_traits>

#include "manyhop/ops/cpu/panel_kernels.hpp"

#ifndef MANYHOP_OPS_CPU_PANEL_KERNELS_TABLE
#define MANYHOP_OPS_CPU_PANEL_KERNELS_TABLE
namespace manyhop::ops::cpu {
template <class C>
struct KernelTable {
  void (*sddmm)(const PanelView&, const C*, const C*, const C*, Offset, C*, bool);
  void (*softmax)(const PanelView&, C*, C*);
  void (*spmm)(const PanelView&, const C*, const C*, Offset, C*, bool);
  void (*spmm_transposed)(const PanelView&, const C*, const C*, Offset, Offset, Offset, C*);
  void (*softmax_backward)(const PanelView&, const C*, C*, const C*);
};
}  // namespace manyhop::ops::cpu
#endif

#if defined(MANYHOP_OPS_CPU_PANEL_KERNELS_INL) == defined(HWY_TARGET_TOGGLE)
#ifdef MANYHOP_OPS_CPU_PANEL_KERNELS_INL
#undef MANYHOP_OPS_CPU_PANEL_KERNELS_INL
#else
#define MANYHOP_OPS_CPU_PANEL_KERNELS_INL
#endif

#include <hwy/contrib/math/math-inl.h>
#include <hwy/highway.h>

#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wsign-conversion"  // register arrays are indexed by small template integers

HWY_BEFORE_NAMESPACE();
namespace manyhop::ops::cpu::HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

template <class C>
using Tag = hn::CappedTag<C, 16>;
template <class C>
inline constexpr Offset kLanes = static_cast<Offset>(hn::MaxLanes(Tag<C>()));
template <class C>
inline constexpr std::size_t kRowVectors = static_cast<std::size_t>(kPanelRows / kLanes<C>);

// Sums run over at most this many terms before they join the total: at 16384 columns one running fp32 sum is
// off by about 4e-6, sums of 128 by 5e-7.
constexpr Offset kChunk = 128;

// Features of a dot product that join the total together: one running fp32 sum over d = 197 is off by 1e-5 at
// a score of 40, which softmax passes on as a relative error; sums of 32 by 3e-6.
constexpr Offset kDotChunk = 32;

HWY_INLINE std::size_t at(Offset i) { return static_cast<std::size_t>(i); }

struct RestRow {
  const Index* cols;
  Offset count;
  Offset first;  // within the panel's values
};

HWY_INLINE RestRow rest_of(const PanelView& view, int r) {
  const Tiling& tiling = *view.tiling;
  const Offset base = tiling.rest_indptr[at(view.panel->first)];
  const Offset begin = tiling.rest_indptr[at(view.panel->first + r)];
  const Offset end = tiling.rest_indptr[at(view.panel->first + r + 1)];
  return {tiling.rest.data() + begin, end - begin, view.panel->dense_cols * kPanelRows + begin - base};
}

// Two vectors of rows times NC columns: 2 NC sums in registers, 2 + NC loads for 2 NC products.
template <int NC, class C>
HWY_INLINE void dot_tile(const C* HWY_RESTRICT rows_t, const C* HWY_RESTRICT x,
                         const Index* HWY_RESTRICT cols, Offset width, C* HWY_RESTRICT out, bool accumulate) {
  const Tag<C> d;
  using V = hn::Vec<Tag<C>>;
  const C* column[NC];
  V low[NC];
  V high[NC];
#pragma GCC unroll 8
  for (int c = 0; c < NC; ++c) {
    column[c] = x + cols[c] * width;
    low[c] = hn::Zero(d);
    high[c] = hn::Zero(d);
  }
  for (Offset chunk = 0; chunk < width; chunk += kDotChunk) {
    if (chunk > 0) {
#pragma GCC unroll 8
      for (int c = 0; c < NC; ++c) {
        C* cell = out + c * kPanelRows;
        hn::Store(chunk == kDotChunk && !accumulate ? low[c] : hn::Add(hn::Load(d, cell), low[c]), d, cell);
        cell += kLanes<C>;
        hn::Store(chunk == kDotChunk && !accumulate ? high[c] : hn::Add(hn::Load(d, cell), high[c]), d, cell);
        low[c] = hn::Zero(d);
        high[c] = hn::Zero(d);
      }
    }
    const Offset stop = std::min(width, chunk + kDotChunk);
    for (Offset f = chunk; f < stop; ++f) {
      const V a = hn::Load(d, rows_t + f * kPanelRows);
      const V b = hn::Load(d, rows_t + f * kPanelRows + kLanes<C>);
#pragma GCC unroll 8
      for (int c = 0; c < NC; ++c) {
        const V value = hn::Set(d, column[c][f]);
        low[c] = hn::MulAdd(a, value, low[c]);
        high[c] = hn::MulAdd(b, value, high[c]);
      }
    }
  }
  if (accumulate || width > kDotChunk) {
#pragma GCC unroll 8
    for (int c = 0; c < NC; ++c) {
      low[c] = hn::Add(hn::Load(d, out + c * kPanelRows), low[c]);
      high[c] = hn::Add(hn::Load(d, out + c * kPanelRows + kLanes<C>), high[c]);
    }
  }
#pragma GCC unroll 8
  for (int c = 0; c < NC; ++c) {
    hn::Store(low[c], d, out + c * kPanelRows);
    hn::Store(high[c], d, out + c * kPanelRows + kLanes<C>);
  }
}

// NE products of one row with gathered rows of x.
template <int NE, class C>
HWY_INLINE void dot_edges(const C* HWY_RESTRICT row, const C* HWY_RESTRICT x, const Index* HWY_RESTRICT cols,
                          Offset width, C* HWY_RESTRICT out, bool accumulate) {
  const Tag<C> d;
  using V = hn::Vec<Tag<C>>;
  V sum[NE];
#pragma GCC unroll 4
  for (int e = 0; e < NE; ++e) sum[e] = hn::Zero(d);
  for (Offset f = 0; f < width; f += kLanes<C>) {
    const V a = hn::Load(d, row + f);
#pragma GCC unroll 4
    for (int e = 0; e < NE; ++e) sum[e] = hn::MulAdd(a, hn::Load(d, x + cols[e] * width + f), sum[e]);
  }
#pragma GCC unroll 4
  for (int e = 0; e < NE; ++e) {
    const C value = hn::GetLane(hn::SumOfLanes(d, sum[e]));
    out[e] = accumulate ? out[e] + value : value;
  }
}

template <int NC, class C>
HWY_INLINE Offset dot_columns(const PanelView& view, Offset c, const C* rows_t, const C* x, Offset width,
                              C* values, bool accumulate) {
  for (; c + NC <= view.panel->dense_cols; c += NC) {
    for (Offset r = 0; r < kPanelRows; r += 2 * kLanes<C>) {
      dot_tile<NC>(rows_t + r, x, view.cols + c, width, values + c * kPanelRows + r, accumulate);
    }
  }
  return c;
}

template <class C>
HWY_INLINE void Sddmm(const PanelView& view, const C* rows, const C* rows_t, const C* x, Offset width,
                      C* values, bool accumulate) {
  Offset c = dot_columns<6>(view, 0, rows_t, x, width, values, accumulate);
  c = dot_columns<3>(view, c, rows_t, x, width, values, accumulate);
  dot_columns<1>(view, c, rows_t, x, width, values, accumulate);
  for (int r = 0; r < view.panel->count; ++r) {
    const RestRow rest = rest_of(view, r);
    const C* row = rows + r * width;
    Offset e = 0;
    for (; e + 4 <= rest.count; e += 4) {
      dot_edges<4>(row, x, rest.cols + e, width, values + rest.first + e, accumulate);
    }
    for (; e < rest.count; ++e)
      dot_edges<1>(row, x, rest.cols + e, width, values + rest.first + e, accumulate);
  }
}

// Highway's Exp gives 0 for NaN; a NaN score must stay visible.
template <class D>
HWY_INLINE hn::Vec<D> exp_of(D d, hn::Vec<D> x) {
  return hn::IfThenElse(hn::IsNaN(x), x, hn::Exp(d, x));
}

// Calls f(first value of a dense column, mask word of it).
template <class F>
HWY_INLINE void for_dense(const PanelView& view, F&& f) {
  const Tiling& tiling = *view.tiling;
  const int count = view.panel->count;
  const std::uint32_t rows = count == 32 ? ~std::uint32_t{0} : (std::uint32_t{1} << count) - 1;
  Offset first = 0;
  for (Offset s = view.panel->segment; s < view.panel->segment_end; ++s) {
    const Segment& segment = tiling.segments[at(s)];
    const std::uint32_t* masks = segment.mask < 0 ? nullptr : tiling.masks.data() + segment.mask;
    for (Index i = 0; i < segment.count; ++i, first += kPanelRows) f(first, masks ? masks[i] & rows : rows);
  }
}

// Sums of up to kChunk columns for each of the 32 rows, joined into `total`.
template <class C>
struct ColumnSums {
  hn::Vec<Tag<C>> part[kRowVectors<C>];
  Offset pending = 0;
  C* total;

  HWY_INLINE explicit ColumnSums(C* sums) : total(sums) { clear(); }
  HWY_INLINE void clear() {
    for (auto& p : part) p = hn::Zero(Tag<C>());
    pending = 0;
  }
  HWY_INLINE void flush() {
    const Tag<C> d;
    for (std::size_t v = 0; v < kRowVectors<C>; ++v) {
      C* slot = total + static_cast<Offset>(v) * kLanes<C>;
      hn::Store(hn::Add(hn::Load(d, slot), part[v]), d, slot);
    }
    clear();
  }
  HWY_INLINE void end_column() {
    if (++pending == kChunk) flush();
  }
};

// In-place exponentials of a row of rest scores; returns their sum.
template <class C>
HWY_INLINE C exp_row(C* row, Offset count, C peak) {
  const Tag<C> d;
  const auto shift = hn::Set(d, peak);
  C total = 0;
  for (Offset chunk = 0; chunk < count; chunk += kChunk) {
    const Offset stop = std::min(count, chunk + kChunk);
    auto part = hn::Zero(d);
    Offset e = chunk;
    for (; e + kLanes<C> <= stop; e += kLanes<C>) {
      const auto p = exp_of(d, hn::Sub(hn::LoadU(d, row + e), shift));
      part = hn::Add(part, p);
      hn::StoreU(p, d, row + e);
    }
    if (e < stop) {
      HWY_ALIGN C tail[kLanes<C>];
      std::fill(tail, tail + kLanes<C>, -std::numeric_limits<C>::infinity());
      std::copy(row + e, row + stop, tail);
      const auto p = exp_of(d, hn::Sub(hn::Load(d, tail), shift));
      part = hn::Add(part, p);
      hn::Store(p, d, tail);
      std::copy(tail, tail + (stop - e), row + e);
    }
    total += hn::GetLane(hn::SumOfLanes(d, part));
  }
  return total;
}

// Masks what is no edge with -inf and leaves the largest score of each row in peak.
template <class C>
HWY_INLINE void mask_and_peak(const PanelView& view, C* values, C* peak) {
  const Tag<C> d;
  const hn::RebindToUnsigned<Tag<C>> du;
  using U = hn::TFromD<decltype(du)>;
  const auto lowest = hn::Set(d, -std::numeric_limits<C>::infinity());
  hn::Vec<Tag<C>> most[kRowVectors<C>];
  for (auto& m : most) m = lowest;
  for_dense(view, [&](Offset first, std::uint32_t mask) HWY_ATTR {
    for (std::size_t v = 0; v < kRowVectors<C>; ++v) {
      C* cell = values + first + static_cast<Offset>(v) * kLanes<C>;
      auto score = hn::Load(d, cell);
      if (mask != ~std::uint32_t{0}) {
        const auto bits =
            hn::Shl(hn::Set(du, U{1}), hn::Iota(du, static_cast<U>(static_cast<Offset>(v) * kLanes<C>)));
        const auto member = hn::TestBit(hn::Set(du, static_cast<U>(mask)), bits);
        score = hn::IfThenElse(hn::RebindMask(d, member), score, lowest);
        hn::Store(score, d, cell);
      }
      most[v] = hn::Max(most[v], score);
    }
  });
  for (std::size_t v = 0; v < kRowVectors<C>; ++v)
    hn::Store(most[v], d, peak + static_cast<Offset>(v) * kLanes<C>);
  for (int r = 0; r < view.panel->count; ++r) {
    const RestRow rest = rest_of(view, r);
    for (Offset e = 0; e < rest.count; ++e) peak[r] = std::max(peak[r], values[rest.first + e]);
  }
}

template <class C>
HWY_INLINE void Softmax(const PanelView& view, C* values, C* lse) {
  const Tag<C> d;
  constexpr C kInf = std::numeric_limits<C>::infinity();
  HWY_ALIGN C peak[kPanelRows];
  HWY_ALIGN C total[kPanelRows] = {};
  mask_and_peak(view, values, peak);
  for (C& p : peak) p = p == -kInf ? C{0} : p;  // -inf - -inf would be NaN

  ColumnSums<C> sums(total);
  for_dense(view, [&](Offset first, std::uint32_t) HWY_ATTR {
    for (std::size_t v = 0; v < kRowVectors<C>; ++v) {
      const Offset lane = static_cast<Offset>(v) * kLanes<C>;
      const auto p = exp_of(d, hn::Sub(hn::Load(d, values + first + lane), hn::Load(d, peak + lane)));
      hn::Store(p, d, values + first + lane);
      sums.part[v] = hn::Add(sums.part[v], p);
    }
    sums.end_column();
  });
  sums.flush();
  HWY_ALIGN C inverse[kPanelRows] = {};
  for (int r = 0; r < kPanelRows; ++r) {
    lse[r] = -kInf;
    if (r >= view.panel->count) continue;
    const RestRow rest = rest_of(view, r);
    total[r] += exp_row(values + rest.first, rest.count, peak[r]);
    if (total[r] == 0) continue;
    inverse[r] = 1 / total[r];
    lse[r] = peak[r] + std::log(total[r]);
    for (Offset e = 0; e < rest.count; ++e) values[rest.first + e] *= inverse[r];
  }
  for_dense(view, [&](Offset first, std::uint32_t) HWY_ATTR {
    for (std::size_t v = 0; v < kRowVectors<C>; ++v) {
      const Offset lane = static_cast<Offset>(v) * kLanes<C>;
      hn::Store(hn::Mul(hn::Load(d, values + first + lane), hn::Load(d, inverse + lane)), d,
                values + first + lane);
    }
  });
}

// NR rows x NV vectors of features, summed over the columns of one chunk and added to out.
template <int NR, int NV, class C>
HWY_INLINE void product_tile(const C* HWY_RESTRICT values, const Index* HWY_RESTRICT cols, Offset count,
                             const C* HWY_RESTRICT x, Offset width, C* HWY_RESTRICT out) {
  const Tag<C> d;
  using V = hn::Vec<Tag<C>>;
  V sum[NR][NV];
#pragma GCC unroll 8
  for (int r = 0; r < NR; ++r) {
#pragma GCC unroll 4
    for (int v = 0; v < NV; ++v) sum[r][v] = hn::Zero(d);
  }
  for (Offset c = 0; c < count; ++c) {
    const C* source = x + cols[c] * width;
    V value[NV];
#pragma GCC unroll 4
    for (int v = 0; v < NV; ++v) value[v] = hn::Load(d, source + v * kLanes<C>);
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
      C* cell = out + r * width + v * kLanes<C>;
      hn::Store(hn::Add(hn::Load(d, cell), sum[r][v]), d, cell);
    }
  }
}

// One row of single edges: NV vectors of features, gathered.
template <int NV, class C>
HWY_INLINE void gather_row(const C* HWY_RESTRICT values, const Index* HWY_RESTRICT cols, Offset count,
                           const C* HWY_RESTRICT x, Offset width, C* HWY_RESTRICT out) {
  const Tag<C> d;
  using V = hn::Vec<Tag<C>>;
  V sum[NV];
#pragma GCC unroll 8
  for (int v = 0; v < NV; ++v) sum[v] = hn::Zero(d);
  for (Offset e = 0; e < count; ++e) {
    const V weight = hn::Set(d, values[e]);
    const C* source = x + cols[e] * width;
#pragma GCC unroll 8
    for (int v = 0; v < NV; ++v) sum[v] = hn::MulAdd(weight, hn::Load(d, source + v * kLanes<C>), sum[v]);
  }
#pragma GCC unroll 8
  for (int v = 0; v < NV; ++v) {
    C* cell = out + v * kLanes<C>;
    hn::Store(hn::Add(hn::Load(d, cell), sum[v]), d, cell);
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

template <class C>
HWY_INLINE void spmm_careful(const PanelView& view, const C* values, const C* x, Offset width, C* out) {
  for_dense(view, [&](Offset first, std::uint32_t mask) {
    const C* source = x + view.cols[first / kPanelRows] * width;
    for (int r = 0; r < kPanelRows; ++r) {
      if (((mask >> r) & 1U) == 0) continue;
      for (Offset f = 0; f < width; ++f) out[r * width + f] += values[first + r] * source[f];
    }
  });
}

template <class C>
HWY_INLINE void spmm_dense(const PanelView& view, const C* values, const C* x, Offset width, C* out) {
  for (Offset chunk = 0; chunk < view.panel->dense_cols; chunk += kChunk) {
    const Offset count = std::min(kChunk, view.panel->dense_cols - chunk);
    const C* block = values + chunk * kPanelRows;
    for_features<2, C>(0, width, [&](Offset f, auto vectors) HWY_ATTR {
      constexpr int kVectors = decltype(vectors)::value;
      int r = 0;
      for (; r + 6 <= kPanelRows; r += 6) {
        product_tile<6, kVectors>(block + r, view.cols + chunk, count, x + f, width, out + r * width + f);
      }
      product_tile<kPanelRows % 6, kVectors>(block + r, view.cols + chunk, count, x + f, width,
                                             out + r * width + f);
    });
  }
}

template <class C>
HWY_INLINE void Spmm(const PanelView& view, const C* values, const C* x, Offset width, C* out, bool careful) {
  std::fill(out, out + kPanelRows * width, C{0});
  careful ? spmm_careful(view, values, x, width, out) : spmm_dense(view, values, x, width, out);
  for (int r = 0; r < view.panel->count; ++r) {
    const RestRow rest = rest_of(view, r);
    for (Offset chunk = 0; chunk < rest.count; chunk += kChunk) {
      const Offset count = std::min(kChunk, rest.count - chunk);
      for_features<8, C>(0, width, [&](Offset f, auto vectors) HWY_ATTR {
        gather_row<decltype(vectors)::value>(values + rest.first + chunk, rest.cols + chunk, count, x + f,
                                             width, out + r * width + f);
      });
    }
  }
}

// NC columns x NV vectors of features, summed over the 32 rows and added to out.
template <int NC, int NV, class C>
HWY_INLINE void scatter_tile(const C* HWY_RESTRICT values, const Index* HWY_RESTRICT cols,
                             const C* HWY_RESTRICT g, Offset width, C* HWY_RESTRICT out) {
  const Tag<C> d;
  using V = hn::Vec<Tag<C>>;
  V sum[NC][NV];
#pragma GCC unroll 8
  for (int c = 0; c < NC; ++c) {
#pragma GCC unroll 4
    for (int v = 0; v < NV; ++v) sum[c][v] = hn::Zero(d);
  }
  for (int r = 0; r < kPanelRows; ++r) {
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
      C* cell = out + cols[c] * width + v * kLanes<C>;
      hn::Store(hn::Add(hn::Load(d, cell), sum[c][v]), d, cell);
    }
  }
}

template <int NV, class C>
HWY_INLINE void scatter_row(const C* HWY_RESTRICT values, const Index* HWY_RESTRICT cols, Offset count,
                            const C* HWY_RESTRICT g, Offset width, C* HWY_RESTRICT out) {
  const Tag<C> d;
  using V = hn::Vec<Tag<C>>;
  V value[NV];
#pragma GCC unroll 8
  for (int v = 0; v < NV; ++v) value[v] = hn::Load(d, g + v * kLanes<C>);
  for (Offset e = 0; e < count; ++e) {
    const V weight = hn::Set(d, values[e]);
    C* target = out + cols[e] * width;
#pragma GCC unroll 8
    for (int v = 0; v < NV; ++v) {
      hn::Store(hn::MulAdd(weight, value[v], hn::Load(d, target + v * kLanes<C>)), d, target + v * kLanes<C>);
    }
  }
}

template <class C>
HWY_INLINE void SpmmTransposed(const PanelView& view, const C* values, const C* g, Offset width, Offset from,
                               Offset to, C* out) {
  const Offset dense = view.panel->dense_cols;
  for_features<2, C>(from, to, [&](Offset f, auto vectors) HWY_ATTR {
    constexpr int kVectors = decltype(vectors)::value;
    Offset c = 0;
    for (; c + 6 <= dense; c += 6) {
      scatter_tile<6, kVectors>(values + c * kPanelRows, view.cols + c, g + f, width, out + f);
    }
    for (; c < dense; ++c)
      scatter_tile<1, kVectors>(values + c * kPanelRows, view.cols + c, g + f, width, out + f);
  });
  for (int r = 0; r < view.panel->count; ++r) {
    const RestRow rest = rest_of(view, r);
    for_features<8, C>(from, to, [&](Offset f, auto vectors) HWY_ATTR {
      scatter_row<decltype(vectors)::value>(values + rest.first, rest.cols, rest.count, g + r * width + f,
                                            width, out + f);
    });
  }
}

template <class C>
HWY_INLINE void SoftmaxBackward(const PanelView& view, const C* weights, C* d_values, const C* d_lse) {
  const Tag<C> d;
  HWY_ALIGN C dot[kPanelRows] = {};
  ColumnSums<C> sums(dot);
  for_dense(view, [&](Offset first, std::uint32_t) HWY_ATTR {
    for (std::size_t v = 0; v < kRowVectors<C>; ++v) {
      const Offset cell = first + static_cast<Offset>(v) * kLanes<C>;
      sums.part[v] = hn::MulAdd(hn::Load(d, weights + cell), hn::Load(d, d_values + cell), sums.part[v]);
    }
    sums.end_column();
  });
  sums.flush();
  for (int r = 0; r < view.panel->count; ++r) {
    const RestRow rest = rest_of(view, r);
    C part = 0;
    for (Offset e = rest.first; e < rest.first + rest.count; ++e) part += weights[e] * d_values[e];
    dot[r] += part - d_lse[r];
    for (Offset e = rest.first; e < rest.first + rest.count; ++e)
      d_values[e] = weights[e] * (d_values[e] - dot[r]);
  }
  for_dense(view, [&](Offset first, std::uint32_t) HWY_ATTR {
    for (std::size_t v = 0; v < kRowVectors<C>; ++v) {
      const Offset lane = static_cast<Offset>(v) * kLanes<C>;
      const auto centred = hn::Sub(hn::Load(d, d_values + first + lane), hn::Load(d, dot + lane));
      hn::Store(hn::Mul(hn::Load(d, weights + first + lane), centred), d, d_values + first + lane);
    }
  });
}

}  // namespace manyhop::ops::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();
#pragma GCC diagnostic pop

#endif
