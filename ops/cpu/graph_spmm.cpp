// Compiled once for each instruction set through Highway's foreach_target.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "manyhop/ops/cpu/graph_spmm.cpp"
#include <hwy/foreach_target.h>  // IWYU pragma: keep
#include <hwy/highway.h>

#include <algorithm>
#include <span>

#include "manyhop/ops/cpu/simd.hpp"
#include "manyhop/ops/graph_spmm.hpp"

#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wsign-conversion"  // register arrays are indexed by small template integers

HWY_BEFORE_NAMESPACE();
namespace manyhop::ops::cpu::HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

// Eight features are the unit of a block's stride.
template <class C>
using Tag = hn::CappedTag<C, 8>;
template <class C>
inline constexpr Offset kLanes = static_cast<Offset>(hn::MaxLanes(Tag<C>()));
constexpr Offset kChunk = 128;  // edges that one running sum takes

struct Row {
  const Index* cols;
  const double* weights;  // or null
  Offset count;
};

template <int NV, class C>
HWY_INLINE void sum_row(const Row& row, const double* col_scale, C row_scale, const C* HWY_RESTRICT x,
                        Offset stride, C* HWY_RESTRICT y) {
  const Tag<C> d;
  using V = hn::Vec<Tag<C>>;
  V total[NV];
#pragma GCC unroll 8
  for (int v = 0; v < NV; ++v) total[v] = hn::Zero(d);
  for (Offset chunk = 0; chunk < row.count; chunk += kChunk) {
    V sum[NV];
#pragma GCC unroll 8
    for (int v = 0; v < NV; ++v) sum[v] = hn::Zero(d);
    for (Offset e = chunk; e < std::min(row.count, chunk + kChunk); ++e) {
      const Index j = row.cols[e];
      const double weight =
          (row.weights == nullptr ? 1.0 : row.weights[e]) * (col_scale == nullptr ? 1.0 : col_scale[j]);
      const V factor = hn::Set(d, static_cast<C>(weight));
      const C* source = x + j * stride;
#pragma GCC unroll 8
      for (int v = 0; v < NV; ++v) sum[v] = hn::MulAdd(factor, hn::LoadU(d, source + v * kLanes<C>), sum[v]);
    }
#pragma GCC unroll 8
    for (int v = 0; v < NV; ++v) total[v] = hn::Add(total[v], sum[v]);
  }
#pragma GCC unroll 8
  for (int v = 0; v < NV; ++v) hn::StoreU(hn::Mul(total[v], hn::Set(d, row_scale)), d, y + v * kLanes<C>);
}

template <int Most, class C>
HWY_INLINE void sum_blocks(const Row& row, const double* col_scale, C row_scale, const C* x, Offset stride,
                           C* y, Offset from) {
  for (; from + Most * kLanes<C> <= stride; from += Most * kLanes<C>) {
    sum_row<Most>(row, col_scale, row_scale, x + from, stride, y + from);
  }
  if constexpr (Most > 1) {
    if (from < stride) sum_blocks<Most / 2>(row, col_scale, row_scale, x, stride, y, from);
  }
}

// One feature column: the same operations in the same order as a lane of sum_row, so that the bits do not
// depend on how many columns are taken at once.
template <class C>
HWY_INLINE C sum_single(const Row& row, const double* col_scale, C row_scale, const C* x) {
  const hn::CappedTag<C, 1> d;
  auto total = hn::Zero(d);
  for (Offset chunk = 0; chunk < row.count; chunk += kChunk) {
    auto sum = hn::Zero(d);
    for (Offset e = chunk; e < std::min(row.count, chunk + kChunk); ++e) {
      const Index j = row.cols[e];
      const double weight =
          (row.weights == nullptr ? 1.0 : row.weights[e]) * (col_scale == nullptr ? 1.0 : col_scale[j]);
      sum = hn::MulAdd(hn::Set(d, static_cast<C>(weight)), hn::Set(d, x[j]), sum);
    }
    total = hn::Add(total, sum);
  }
  return hn::GetLane(hn::Mul(total, hn::Set(d, row_scale)));
}

template <class C>
void Rows(const ScaledGraph& a, const C* x, C* y, Offset columns, Offset begin, Offset end) {
  const Graph& graph = *a.graph;
  const Offset* indptr = graph.indptr().data();
  const Index* indices = graph.indices().data();
  const double* weights = graph.weighted() ? graph.weights().data() : nullptr;
  const Offset stride = block_stride(columns);
  for (Offset i = begin; i < end; ++i) {
    const Row row{indices + indptr[i], weights == nullptr ? nullptr : weights + indptr[i],
                  indptr[i + 1] - indptr[i]};
    const C row_scale = a.row_scale == nullptr ? C{1} : static_cast<C>(a.row_scale[i]);
    if (stride == 1) {
      y[i] = sum_single(row, a.col_scale, row_scale, x);
    } else {
      sum_blocks<8>(row, a.col_scale, row_scale, x, stride, y + i * stride, 0);
    }
  }
}

template <class D>
HWY_INLINE hn::Vec<D> load_double(D d, const double* from) {
  return hn::LoadU(d, from);
}
template <class D>
HWY_INLINE hn::Vec<D> load_double(D d, const float* from) {
  return hn::PromoteTo(d, hn::LoadU(hn::Rebind<float, D>(), from));
}

template <class C>
void EdgeRows(const Graph& graph, const C* g, const C* x, Offset columns, double factor, double* out,
              Offset begin, Offset end) {
  const hn::CappedTag<double, 8> d;
  const auto lanes = static_cast<Offset>(hn::Lanes(d));
  const Offset* indptr = graph.indptr().data();
  const Index* indices = graph.indices().data();
  const Offset stride = block_stride(columns);
  for (Offset i = begin; i < end; ++i) {
    const C* mine = g + i * stride;
    for (Offset e = indptr[i]; e < indptr[i + 1]; ++e) {
      const C* other = x + indices[e] * stride;
      if (stride == 1) {
        out[e] += factor * (static_cast<double>(*mine) * static_cast<double>(*other));
        continue;
      }
      auto sum = hn::Zero(d);
      for (Offset f = 0; f < stride; f += lanes)
        sum = hn::MulAdd(load_double(d, mine + f), load_double(d, other + f), sum);
      out[e] += factor * hn::GetLane(hn::SumOfLanes(d, sum));
    }
  }
}

void EdgeRowsFloat(const Graph& graph, const float* g, const float* x, Offset columns, double factor,
                   double* out, Offset begin, Offset end) {
  EdgeRows(graph, g, x, columns, factor, out, begin, end);
}
void EdgeRowsDouble(const Graph& graph, const double* g, const double* x, Offset columns, double factor,
                    double* out, Offset begin, Offset end) {
  EdgeRows(graph, g, x, columns, factor, out, begin, end);
}

void RowsFloat(const ScaledGraph& a, const float* x, float* y, Offset columns, Offset begin, Offset end) {
  Rows(a, x, y, columns, begin, end);
}
void RowsDouble(const ScaledGraph& a, const double* x, double* y, Offset columns, Offset begin, Offset end) {
  Rows(a, x, y, columns, begin, end);
}

}  // namespace manyhop::ops::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();
#pragma GCC diagnostic pop

#if HWY_ONCE

namespace manyhop::ops::cpu {

HWY_EXPORT(RowsFloat);
HWY_EXPORT(RowsDouble);
HWY_EXPORT(EdgeRowsFloat);
HWY_EXPORT(EdgeRowsDouble);

template <>
void graph_spmm_rows<float>(const ScaledGraph& a, const float* x, float* y, Offset columns, Offset begin,
                            Offset end) {
  use_simd();
  HWY_DYNAMIC_DISPATCH(RowsFloat)(a, x, y, columns, begin, end);
}
template <>
void graph_spmm_rows<double>(const ScaledGraph& a, const double* x, double* y, Offset columns, Offset begin,
                             Offset end) {
  use_simd();
  HWY_DYNAMIC_DISPATCH(RowsDouble)(a, x, y, columns, begin, end);
}
template <>
void graph_sddmm_rows<float>(const Graph& graph, const float* g, const float* x, Offset columns,
                             double factor, double* out, Offset begin, Offset end) {
  use_simd();
  HWY_DYNAMIC_DISPATCH(EdgeRowsFloat)(graph, g, x, columns, factor, out, begin, end);
}
template <>
void graph_sddmm_rows<double>(const Graph& graph, const double* g, const double* x, Offset columns,
                              double factor, double* out, Offset begin, Offset end) {
  use_simd();
  HWY_DYNAMIC_DISPATCH(EdgeRowsDouble)(graph, g, x, columns, factor, out, begin, end);
}

}  // namespace manyhop::ops::cpu

#endif  // HWY_ONCE
