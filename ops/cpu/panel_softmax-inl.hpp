// Softmax over the edges of a panel's rows, forward and backward; included once for each instruction set.
#include <cmath>
#include <limits>
#include <type_traits>

#include "manyhop/ops/cpu/panel-inl.hpp"

#if defined(MANYHOP_OPS_CPU_PANEL_SOFTMAX_INL) == defined(HWY_TARGET_TOGGLE)
#ifdef MANYHOP_OPS_CPU_PANEL_SOFTMAX_INL
#undef MANYHOP_OPS_CPU_PANEL_SOFTMAX_INL
#else
#define MANYHOP_OPS_CPU_PANEL_SOFTMAX_INL
#endif

#include <hwy/contrib/math/math-inl.h>

#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wsign-conversion"  // register arrays are indexed by small template integers

HWY_BEFORE_NAMESPACE();
namespace manyhop::ops::cpu::HWY_NAMESPACE {

// exp(x) for x <= 0, of a NaN NaN. For floats 2^n times the polynomial of Cephes' expf on |r| <= ln(2) / 2,
// two units in the last place at most; results that would be subnormal are 0. Highway's Exp covers all of the
// range and takes twice as long, 0.9 ms of a head of 4096 tokens (Zen 3).
template <class D>
HWY_INLINE hn::Vec<D> exp_of(D d, hn::Vec<D> x) {
  if constexpr (sizeof(hn::TFromD<D>) == 8) {
    return hn::IfThenElse(hn::IsNaN(x), x, hn::Exp(d, x));  // Exp gives 0 for NaN
  } else {
    const hn::RebindToSigned<D> di;
    const auto magic = hn::Set(d, 12582912.0F);  // 1.5 * 2^23: the sum's low bits are the rounded integer
    const auto shifted = hn::MulAdd(x, hn::Set(d, 1.442695040888963F), magic);
    const auto n = hn::Sub(shifted, magic);
    auto r = hn::NegMulAdd(n, hn::Set(d, 0.693359375F), x);
    r = hn::NegMulAdd(n, hn::Set(d, -2.12194440e-4F), r);
    auto p = hn::MulAdd(hn::Set(d, 1.9875691500e-4F), r, hn::Set(d, 1.3981999507e-3F));
    p = hn::MulAdd(p, r, hn::Set(d, 8.3334519073e-3F));
    p = hn::MulAdd(p, r, hn::Set(d, 4.1665795894e-2F));
    p = hn::MulAdd(p, r, hn::Set(d, 1.6666665459e-1F));
    p = hn::MulAdd(p, r, hn::Set(d, 5.0000001201e-1F));
    p = hn::MulAdd(p, hn::Mul(r, r), hn::Add(r, hn::Set(d, 1.0F)));
    const auto exponent = hn::Add(hn::ShiftLeft<23>(hn::BitCast(di, shifted)), hn::Set(di, 127 << 23));
    const auto scaled = hn::Mul(p, hn::BitCast(d, exponent));
    return hn::IfThenZeroElse(hn::Lt(x, hn::Set(d, -87.0F)), scaled);
  }
}

// Sums of up to kChunk columns for each of the 32 rows, joined into `total`.
template <class C, class Total = C>
struct ColumnSums {
  hn::Vec<Tag<C>> part[kRowVectors<C>];
  Offset pending = 0;
  Total* total;

  HWY_INLINE explicit ColumnSums(Total* sums) : total(sums) { clear(); }
  HWY_INLINE void clear() {
    for (auto& p : part) p = hn::Zero(Tag<C>());
    pending = 0;
  }
  HWY_INLINE void flush() {
    const Tag<C> d;
    for (std::size_t v = 0; v < kRowVectors<C>; ++v) {
      Total* slot = total + static_cast<Offset>(v) * kLanes<C>;
      if constexpr (std::is_same_v<C, Total>) {
        hn::Store(hn::Add(hn::Load(d, slot), part[v]), d, slot);
      } else {
        HWY_ALIGN C lanes[kLanes<C>];
        hn::Store(part[v], d, lanes);
        for (Offset l = 0; l < kLanes<C>; ++l) slot[l] += static_cast<Total>(lanes[l]);
      }
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

// Lanes of the v-th vector of a column whose cells are edges.
template <class C>
HWY_INLINE hn::Mask<Tag<C>> edge_lanes(std::uint32_t mask, std::size_t v) {
  const Tag<C> d;
  const hn::RebindToUnsigned<Tag<C>> du;
  using U = hn::TFromD<decltype(du)>;
  const auto first = static_cast<U>(static_cast<Offset>(v) * kLanes<C>);
  const auto bits = hn::Shl(hn::Set(du, U{1}), hn::Iota(du, first));
  return hn::RebindMask(d, hn::TestBit(hn::Set(du, static_cast<U>(mask)), bits));
}

template <class C>
HWY_INLINE void RowPeaks(const PanelView& view, C* values, C* peak) {
  const Tag<C> d;
  const auto lowest = hn::Set(d, -std::numeric_limits<C>::infinity());
  hn::Vec<Tag<C>> most[kRowVectors<C>];
  for (auto& m : most) m = lowest;
  for_dense(view, [&](Offset first, std::uint32_t mask) HWY_ATTR {
    for (std::size_t v = 0; v < kRowVectors<C>; ++v) {
      C* cell = values + first + static_cast<Offset>(v) * kLanes<C>;
      auto score = hn::Load(d, cell);
      if (mask != ~std::uint32_t{0}) {
        score = hn::IfThenElse(edge_lanes<C>(mask, v), score, lowest);
        hn::Store(score, d, cell);
      }
      most[v] = hn::Max(most[v], score);
    }
  });
  for (std::size_t v = 0; v < kRowVectors<C>; ++v)
    hn::Store(most[v], d, peak + static_cast<Offset>(v) * kLanes<C>);
  for (int r = 0; r < view.panel->count; ++r) {
    const RestRow rest = rest_of(view, r);
    for (Offset e = 0; e < rest.edges.count; ++e) peak[r] = std::max(peak[r], values[rest.first + e]);
  }
}

template <class C>
HWY_INLINE void Softmax(const PanelView& view, C* values, const C* peaks, C* lse) {
  const Tag<C> d;
  constexpr C kInf = std::numeric_limits<C>::infinity();
  HWY_ALIGN C peak[kPanelRows];
  HWY_ALIGN C total[kPanelRows] = {};
  for (int r = 0; r < kPanelRows; ++r) peak[r] = peaks[r] == -kInf ? C{0} : peaks[r];  // -inf - -inf is NaN

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
    total[r] += exp_row(values + rest.first, rest.edges.count, peak[r]);
    if (total[r] == 0) continue;
    inverse[r] = 1 / total[r];
    lse[r] = peak[r] + std::log(total[r]);
    for (Offset e = 0; e < rest.edges.count; ++e) values[rest.first + e] *= inverse[r];
  }
  for_dense(view, [&](Offset first, std::uint32_t mask) HWY_ATTR {
    for (std::size_t v = 0; v < kRowVectors<C>; ++v) {
      const Offset lane = static_cast<Offset>(v) * kLanes<C>;
      auto weight = hn::Mul(hn::Load(d, values + first + lane), hn::Load(d, inverse + lane));
      if (mask != ~std::uint32_t{0}) {  // 0 times the NaN of a row with one
        weight = hn::IfThenElseZero(edge_lanes<C>(mask, v), weight);
      }
      hn::Store(weight, d, values + first + lane);
    }
  });
}

// The row sums are joined in double: where values have a mean they are large beside what is left of d_values
// once they are taken off, and a row may have all columns.
template <class C>
HWY_INLINE void SoftmaxBackward(const PanelView& view, const C* weights, C* d_values, const C* d_lse) {
  const Tag<C> d;
  HWY_ALIGN double total[kPanelRows] = {};
  ColumnSums<C, double> sums(total);
  for_dense(view, [&](Offset first, std::uint32_t mask) HWY_ATTR {
    for (std::size_t v = 0; v < kRowVectors<C>; ++v) {
      const Offset cell = first + static_cast<Offset>(v) * kLanes<C>;
      auto gradient = hn::Load(d, d_values + cell);
      if (mask != ~std::uint32_t{0}) {  // a weight of 0 would not silence a NaN
        gradient = hn::IfThenElseZero(edge_lanes<C>(mask, v), gradient);
      }
      sums.part[v] = hn::MulAdd(hn::Load(d, weights + cell), gradient, sums.part[v]);
    }
    sums.end_column();
  });
  sums.flush();
  HWY_ALIGN C dot[kPanelRows] = {};
  for (int r = 0; r < view.panel->count; ++r) {
    const RestRow rest = rest_of(view, r);
    double part[4] = {};  // four chains of additions hide their latency
    for (Offset e = 0; e < rest.edges.count; ++e) {
      part[e % 4] +=
          static_cast<double>(weights[rest.first + e]) * static_cast<double>(d_values[rest.first + e]);
    }
    dot[r] =
        static_cast<C>(total[r] + (part[0] + part[1]) + (part[2] + part[3]) - static_cast<double>(d_lse[r]));
    for (Offset e = rest.first; e < rest.first + rest.edges.count; ++e)
      d_values[e] = weights[e] * (d_values[e] - dot[r]);
  }
  for_dense(view, [&](Offset first, std::uint32_t mask) HWY_ATTR {
    for (std::size_t v = 0; v < kRowVectors<C>; ++v) {
      const Offset lane = static_cast<Offset>(v) * kLanes<C>;
      const auto centred = hn::Sub(hn::Load(d, d_values + first + lane), hn::Load(d, dot + lane));
      auto gradient = hn::Mul(hn::Load(d, weights + first + lane), centred);
      if (mask != ~std::uint32_t{0}) gradient = hn::IfThenElseZero(edge_lanes<C>(mask, v), gradient);
      hn::Store(gradient, d, d_values + first + lane);
    }
  });
}

}  // namespace manyhop::ops::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();
#pragma GCC diagnostic pop

#endif
