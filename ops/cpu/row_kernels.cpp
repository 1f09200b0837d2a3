#include "manyhop/ops/cpu/row_kernels.hpp"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "manyhop/ops/cpu/row_kernels.cpp"
#include "hwy/foreach_target.h"  // must come before highway.h
#include "hwy/highway.h"
//
#include "hwy/contrib/math/math-inl.h"
#include "manyhop/ops/cpu/simd.hpp"

HWY_BEFORE_NAMESPACE();
namespace manyhop::ops::cpu::HWY_NAMESPACE {
namespace {

namespace hn = hwy::HWY_NAMESPACE;

// Four registers of sums are held over a block of edges: enough to hide the latency of one multiply-add.
template <class D, class E = hn::TFromD<D>>
Offset add_four(D d, const E* HWY_RESTRICT w, const Index* HWY_RESTRICT cols, Offset count,
                const E* HWY_RESTRICT x, Offset stride, Offset from, Offset width, E* HWY_RESTRICT sums) {
  const Offset lanes = static_cast<Offset>(hn::Lanes(d));
  Offset c = from;
  for (; c + 4 * lanes <= width; c += 4 * lanes) {
    auto s0 = hn::Zero(d);
    auto s1 = s0;
    auto s2 = s0;
    auto s3 = s0;
    for (Offset e = 0; e < count; ++e) {
      const E* row = x + cols[e] * stride + c;
      const auto weight = hn::Set(d, w[e]);
      s0 = hn::MulAdd(weight, hn::LoadU(d, row), s0);
      s1 = hn::MulAdd(weight, hn::LoadU(d, row + lanes), s1);
      s2 = hn::MulAdd(weight, hn::LoadU(d, row + 2 * lanes), s2);
      s3 = hn::MulAdd(weight, hn::LoadU(d, row + 3 * lanes), s3);
    }
    hn::StoreU(hn::Add(hn::LoadU(d, sums + c), s0), d, sums + c);
    hn::StoreU(hn::Add(hn::LoadU(d, sums + c + lanes), s1), d, sums + c + lanes);
    hn::StoreU(hn::Add(hn::LoadU(d, sums + c + 2 * lanes), s2), d, sums + c + 2 * lanes);
    hn::StoreU(hn::Add(hn::LoadU(d, sums + c + 3 * lanes), s3), d, sums + c + 3 * lanes);
  }
  return c;
}

template <class E>
void add_weighted(const E* w, const Index* cols, Offset count, const E* x, Offset stride, Offset width,
                  E* sums) {
  const hn::ScalableTag<E> d;
  const Offset lanes = static_cast<Offset>(hn::Lanes(d));
  Offset c = add_four(d, w, cols, count, x, stride, 0, width, sums);
  for (; c + lanes <= width; c += lanes) {
    auto s = hn::Zero(d);
    for (Offset e = 0; e < count; ++e) {
      s = hn::MulAdd(hn::Set(d, w[e]), hn::LoadU(d, x + cols[e] * stride + c), s);
    }
    hn::StoreU(hn::Add(hn::LoadU(d, sums + c), s), d, sums + c);
  }
  for (; c < width; ++c) {
    E s = 0;
    for (Offset e = 0; e < count; ++e) s += w[e] * x[cols[e] * stride + c];
    sums[c] += s;
  }
}

template <class E>
void dots(const E* q, const E* x, Offset stride, const Index* cols, Offset count, Offset width, E* out) {
  const hn::ScalableTag<E> d;
  const Offset lanes = static_cast<Offset>(hn::Lanes(d));
  const auto one = [&](Offset e) {
    const E* row = x + cols[e] * stride;
    auto s = hn::Zero(d);
    Offset c = 0;
    for (; c + lanes <= width; c += lanes) s = hn::MulAdd(hn::LoadU(d, q + c), hn::LoadU(d, row + c), s);
    E tail = 0;
    for (; c < width; ++c) tail += q[c] * row[c];
    out[e] = hn::GetLane(hn::SumOfLanes(d, s)) + tail;
  };
  Offset e = 0;
  // Four edges at a time hide the latency of the sums; each edge adds in the same order as alone.
  for (; e + 4 <= count; e += 4) {
    const E* row0 = x + cols[e] * stride;
    const E* row1 = x + cols[e + 1] * stride;
    const E* row2 = x + cols[e + 2] * stride;
    const E* row3 = x + cols[e + 3] * stride;
    auto s0 = hn::Zero(d);
    auto s1 = s0;
    auto s2 = s0;
    auto s3 = s0;
    Offset c = 0;
    for (; c + lanes <= width; c += lanes) {
      const auto query = hn::LoadU(d, q + c);
      s0 = hn::MulAdd(query, hn::LoadU(d, row0 + c), s0);
      s1 = hn::MulAdd(query, hn::LoadU(d, row1 + c), s1);
      s2 = hn::MulAdd(query, hn::LoadU(d, row2 + c), s2);
      s3 = hn::MulAdd(query, hn::LoadU(d, row3 + c), s3);
    }
    E t0 = 0;
    E t1 = 0;
    E t2 = 0;
    E t3 = 0;
    for (; c < width; ++c) {
      t0 += q[c] * row0[c];
      t1 += q[c] * row1[c];
      t2 += q[c] * row2[c];
      t3 += q[c] * row3[c];
    }
    out[e] = hn::GetLane(hn::SumOfLanes(d, s0)) + t0;
    out[e + 1] = hn::GetLane(hn::SumOfLanes(d, s1)) + t1;
    out[e + 2] = hn::GetLane(hn::SumOfLanes(d, s2)) + t2;
    out[e + 3] = hn::GetLane(hn::SumOfLanes(d, s3)) + t3;
  }
  for (; e < count; ++e) one(e);
}

template <class E>
E largest(const E* values, Offset count) {
  const hn::ScalableTag<E> d;
  const Offset lanes = static_cast<Offset>(hn::Lanes(d));
  E result = values[0];
  Offset e = 0;
  if (count >= lanes) {
    auto best = hn::LoadU(d, values);
    for (e = lanes; e + lanes <= count; e += lanes) best = hn::Max(best, hn::LoadU(d, values + e));
    HWY_ALIGN E each[HWY_MAX_BYTES / sizeof(E)];
    hn::Store(best, d, each);
    for (Offset r = 0; r < lanes; ++r) result = each[r] > result ? each[r] : result;
  }
  for (; e < count; ++e) result = values[e] > result ? values[e] : result;
  return result;
}

template <class E>
double exponentials(E* values, Offset count, E shift) {
  const hn::ScalableTag<E> d;
  const Offset lanes = static_cast<Offset>(hn::Lanes(d));
  const auto offset = hn::Set(d, shift);
  const auto shifted_exp = [&](auto score) HWY_ATTR {
    const auto x = hn::Sub(score, offset);
    // Exp's range test maps NaN to zero, which would hide it.
    return hn::IfThenElse(hn::Eq(x, x), hn::Exp(d, x), x);
  };
  double sum = 0;
  Offset e = 0;
  for (; e + lanes <= count; e += lanes) {
    hn::StoreU(shifted_exp(hn::LoadU(d, values + e)), d, values + e);
  }
  if (e < count) {
    HWY_ALIGN E last[HWY_MAX_BYTES / sizeof(E)] = {};
    for (Offset r = e; r < count; ++r) last[r - e] = values[r];
    hn::Store(shifted_exp(hn::Load(d, last)), d, last);
    for (Offset r = e; r < count; ++r) values[r] = last[r - e];
  }
  for (Offset r = 0; r < count; ++r) sum += static_cast<double>(values[r]);
  return sum;
}

}  // namespace

RowKernels<float> float_kernels() {
  return {&add_weighted<float>, &dots<float>, &largest<float>, &exponentials<float>};
}
RowKernels<double> double_kernels() {
  return {&add_weighted<double>, &dots<double>, &largest<double>, &exponentials<double>};
}

}  // namespace manyhop::ops::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace manyhop::ops::cpu {

HWY_EXPORT(float_kernels);
HWY_EXPORT(double_kernels);

template <>
RowKernels<float> row_kernels<float>() {
  use_simd();
  return HWY_DYNAMIC_DISPATCH(float_kernels)();
}
template <>
RowKernels<double> row_kernels<double>() {
  use_simd();
  return HWY_DYNAMIC_DISPATCH(double_kernels)();
}

}  // namespace manyhop::ops::cpu
#endif
