// Compiled once for each instruction set through Highway's foreach_target.
#include "manyhop/ops/cpu/sparsek_kernels.hpp"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "manyhop/ops/cpu/sparsek_kernels.cpp"
#include <hwy/foreach_target.h>  // IWYU pragma: keep
#include <hwy/highway.h>

#include <algorithm>
#include <bit>
#include <limits>

#include "manyhop/ops/cpu/simd.hpp"

HWY_BEFORE_NAMESPACE();
namespace manyhop::ops::cpu::HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

template <class D>
HWY_INLINE hn::TFromD<D> largest_lane(D d, hn::Vec<D> v) {
  HWY_ALIGN hn::TFromD<D> lanes[HWY_MAX_BYTES / sizeof(hn::TFromD<D>)];
  hn::Store(v, d, lanes);
  return *std::max_element(lanes, lanes + hn::Lanes(d));
}

template <class E>
Survey<E> SurveyRow(const E* HWY_RESTRICT z, Offset n, Offset block, E* HWY_RESTRICT maxima) {
  const hn::ScalableTag<E> d;
  const Offset lanes = static_cast<Offset>(hn::Lanes(d));
  auto most = hn::Set(d, -std::numeric_limits<E>::infinity());
  auto bad = hn::Zero(d);
  const auto note = [&](auto v) HWY_ATTR { bad = hn::Or(bad, hn::VecFromMask(d, hn::IsNaN(v))); };
  Offset i = 0;
  Offset groups = 0;
  if (block > 0) {
    for (; i + block * lanes <= n; groups += lanes) {
      auto group = hn::LoadU(d, z + i);
      note(group);
      i += lanes;
      for (Offset b = 1; b < block; ++b, i += lanes) {
        const auto v = hn::LoadU(d, z + i);
        note(v);
        group = hn::Max(group, v);
      }
      hn::StoreU(group, d, maxima + groups);
      most = hn::Max(most, group);
    }
  }
  for (; i + lanes <= n; i += lanes) {
    const auto v = hn::LoadU(d, z + i);
    note(v);
    most = hn::Max(most, v);
  }
  Survey<E> found{largest_lane(d, most), !hn::AllTrue(d, hn::Eq(bad, hn::Zero(d))), groups};
  for (; i < n; ++i) {
    found.nan |= z[i] != z[i];
    found.largest = std::max(found.largest, z[i]);
  }
  return found;
}

// Which of eight bits are set, lowest first. Highway's Compress would do, but GCC 12 copies its table to the
// stack in every step; whole vectors without a hit cannot be foreseen, so a branch for them took 1.5 times as
// long.
struct BitPlaces {
  std::uint8_t at[256][8];
  constexpr BitPlaces() : at{} {
    for (int bits = 0; bits < 256; ++bits) {
      int count = 0;
      for (int b = 0; b < 8; ++b) {
        if ((bits >> b & 1) != 0) at[bits][count++] = static_cast<std::uint8_t>(b);
      }
    }
  }
};
constexpr BitPlaces kBitPlaces;

template <class E>
using EightTag = hn::CappedTag<E, 8>;

// Bits of f(vector) for the eight scores from `z` on.
template <class E, class F>
HWY_INLINE unsigned eight_bits(const E* z, F&& f) {
  const EightTag<E> d;
  const auto lanes = static_cast<unsigned>(hn::Lanes(d));
  unsigned bits = 0;
  for (unsigned v = 0; v < 8; v += lanes) {
    std::uint8_t bytes[8] = {};
    hn::StoreMaskBits(d, f(hn::LoadU(d, z + v)), bytes);
    bits |= static_cast<unsigned>(bytes[0]) << v;
  }
  return bits;
}

template <class E>
Offset Above(const E* HWY_RESTRICT z, Offset n, E limit, double base, std::int32_t* HWY_RESTRICT where,
             double* HWY_RESTRICT x) {
  const EightTag<E> d;
  const auto bound = hn::Set(d, limit);
  Offset count = 0;
  Offset i = 0;
  for (; i + 8 <= n; i += 8) {
    const unsigned bits = eight_bits(z + i, [&](auto v) HWY_ATTR { return hn::Gt(v, bound); });
    // Writes eight places, never past i + 8.
    for (int b = 0; b < 8; ++b) where[count + b] = static_cast<std::int32_t>(i) + kBitPlaces.at[bits][b];
    count += std::popcount(bits);
  }
  for (; i < n; ++i) {
    where[count] = static_cast<std::int32_t>(i);
    count += z[i] > limit ? 1 : 0;
  }
  for (Offset e = 0; e < count; ++e) x[e] = static_cast<double>(z[where[e]]) - base;
  return count;
}

GateSums Sums(const double* HWY_RESTRICT x, Offset n, double tau) {
  const hn::ScalableTag<double> d;
  const Offset lanes = static_cast<Offset>(hn::Lanes(d));
  const auto one = hn::Set(d, 1.0);
  const auto low = hn::Set(d, tau);
  const auto high = hn::Set(d, tau + 1);
  auto inner = hn::Zero(d);
  auto inner_sum = inner;
  auto full = inner;
  Offset i = 0;
  for (; i + lanes <= n; i += lanes) {
    const auto v = hn::LoadU(d, x + i);
    const auto done = hn::Ge(v, high);
    const auto between = hn::AndNot(done, hn::Gt(v, low));
    full = hn::Add(full, hn::IfThenElseZero(done, one));
    inner = hn::Add(inner, hn::IfThenElseZero(between, one));
    inner_sum = hn::Add(inner_sum, hn::IfThenElseZero(between, v));
  }
  GateSums found{hn::GetLane(hn::SumOfLanes(d, inner)), hn::GetLane(hn::SumOfLanes(d, inner_sum)),
                 hn::GetLane(hn::SumOfLanes(d, full))};
  for (; i < n; ++i) {
    if (x[i] >= tau + 1) {
      found.full += 1;
    } else if (x[i] > tau) {
      found.inner += 1;
      found.inner_sum += x[i];
    }
  }
  return found;
}

Offset Narrow(double* x, Offset n, double lo, double hi, GateSums& settled) {
  const EightTag<double> d;
  const auto one = hn::Set(d, 1.0);
  const auto low = hn::Set(d, lo);
  const auto high = hn::Set(d, hi);
  const auto low_full = hn::Set(d, lo + 1);
  const auto high_full = hn::Set(d, hi + 1);
  auto inner = hn::Zero(d);
  auto inner_sum = inner;
  auto full = inner;
  Offset kept = 0;
  Offset i = 0;
  for (; i + 8 <= n; i += 8) {
    const unsigned bits = eight_bits(x + i, [&](auto v) HWY_ATTR {
      const auto done = hn::Ge(v, high_full);
      const auto always = hn::AndNot(done, hn::And(hn::Ge(v, high), hn::Le(v, low_full)));
      full = hn::Add(full, hn::IfThenElseZero(done, one));
      inner = hn::Add(inner, hn::IfThenElseZero(always, one));
      inner_sum = hn::Add(inner_sum, hn::IfThenElseZero(always, v));
      return hn::Not(hn::Or(hn::Le(v, low), hn::Or(done, always)));
    });
    if (bits == 0) continue;
    // Each place is read before it is written: the b-th set bit is b or more, and kept <= i.
    for (int b = 0; b < 8; ++b) x[kept + b] = x[i + kBitPlaces.at[bits][b]];
    kept += std::popcount(bits);
  }
  settled.inner += hn::GetLane(hn::SumOfLanes(d, inner));
  settled.inner_sum += hn::GetLane(hn::SumOfLanes(d, inner_sum));
  settled.full += hn::GetLane(hn::SumOfLanes(d, full));
  for (; i < n; ++i) {
    const double v = x[i];
    if (v >= hi + 1) {
      settled.full += 1;
    } else if (v >= hi && v <= lo + 1) {
      settled.inner += 1;
      settled.inner_sum += v;
    } else if (v > lo) {
      x[kept++] = v;
    }
  }
  return kept;
}

HWY_INLINE double gate(double score, double base, double tau) {
  return std::clamp((score - base) - tau, 0.0, 1.0);
}

// In double: gates of equal scores add up to k only as far as each is right.
template <class E>
void Gates(const E* z, Offset n, double base, double tau, E* p) {
  const hn::ScalableTag<double> d;
  const Offset lanes = static_cast<Offset>(hn::Lanes(d));
  const auto origin = hn::Set(d, base);
  const auto threshold = hn::Set(d, tau);
  const auto one = hn::Set(d, 1.0);
  Offset i = 0;
  for (; i + lanes <= n; i += lanes) {
    if constexpr (sizeof(E) == 8) {
      const auto v = hn::Sub(hn::Sub(hn::LoadU(d, z + i), origin), threshold);
      hn::StoreU(hn::Min(hn::Max(v, hn::Zero(d)), one), d, p + i);
    } else {
      const hn::Rebind<E, decltype(d)> narrow;
      const auto v = hn::Sub(hn::Sub(hn::PromoteTo(d, hn::LoadU(narrow, z + i)), origin), threshold);
      hn::StoreU(hn::DemoteTo(narrow, hn::Min(hn::Max(v, hn::Zero(d)), one)), narrow, p + i);
    }
  }
  for (; i < n; ++i) p[i] = static_cast<E>(gate(static_cast<double>(z[i]), base, tau));
}

SparsekKernels<float> sparsek_float() { return {&SurveyRow<float>, &Above<float>, &Gates<float>}; }
SparsekKernels<double> sparsek_double() { return {&SurveyRow<double>, &Above<double>, &Gates<double>}; }
SearchKernels sparsek_search() { return {&Sums, &Narrow}; }

}  // namespace manyhop::ops::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace manyhop::ops::cpu {

HWY_EXPORT(sparsek_float);
HWY_EXPORT(sparsek_double);
HWY_EXPORT(sparsek_search);

template <>
SparsekKernels<float> sparsek_kernels<float>() {
  use_simd();
  return HWY_DYNAMIC_DISPATCH(sparsek_float)();
}
template <>
SparsekKernels<double> sparsek_kernels<double>() {
  use_simd();
  return HWY_DYNAMIC_DISPATCH(sparsek_double)();
}
SearchKernels search_kernels() {
  use_simd();
  return HWY_DYNAMIC_DISPATCH(sparsek_search)();
}

}  // namespace manyhop::ops::cpu
#endif
