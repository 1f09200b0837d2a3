// Compiled once for each instruction set through Highway's foreach_target.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "manyhop/ops/cpu/panel_kernels.cpp"
#include <hwy/foreach_target.h>  // IWYU pragma: keep
#include <hwy/highway.h>

#include "manyhop/ops/cpu/panel_columns-inl.hpp"
#include "manyhop/ops/cpu/panel_products-inl.hpp"
#include "manyhop/ops/cpu/panel_scores-inl.hpp"
#include "manyhop/ops/cpu/panel_softmax-inl.hpp"
#include "manyhop/ops/cpu/simd.hpp"

#ifndef MANYHOP_OPS_CPU_PANEL_KERNELS_TABLE
#define MANYHOP_OPS_CPU_PANEL_KERNELS_TABLE
namespace manyhop::ops::cpu {
template <class C>
struct KernelTable {
  void (*sddmm_dense)(const PanelView&, const C*, Rows<const C>, C*, bool);
  void (*sddmm_rest)(const PanelView&, const C* const*, Rows<const C>, Offset, C*, bool);
  void (*row_peaks)(const PanelView&, C*, C*);
  void (*softmax)(const PanelView&, C*, const C*, C*);
  void (*scatter_dense)(const PanelView&, const C*, const C*, Offset, Offset, Rows<C>, bool);
  void (*scatter_rest)(const PanelView&, const C*, const C* const*, Offset, Offset, Rows<C>);
  void (*gather_columns)(const RestByColumn&, const C*, Rows<const C>, Offset, Offset, Offset, Rows<C>);
  void (*pull_columns)(const RestByColumn&, const C*, Rows<const C>, Rows<const C>, Offset, Offset, Offset,
                       Rows<C>, C*, bool);
  void (*softmax_backward)(const PanelView&, const C*, C*, const C*);
};

template <class C, class S>
struct ProductTable {
  void (*spmm_rest)(const PanelView&, const C*, Rows<const S>, Offset, S* const*);
  void (*spmm_dense)(const PanelView&, const C*, Rows<const S>, C*, bool);
  void (*finish)(const PanelView&, const Finish<C, S>&);
};
}  // namespace manyhop::ops::cpu
#endif

HWY_BEFORE_NAMESPACE();
namespace manyhop::ops::cpu::HWY_NAMESPACE {

template <class C>
struct Kernels {
  static void sddmm_dense(const PanelView& view, const C* rows_t, Rows<const C> x, C* values,
                          bool accumulate) {
    SddmmDense(view, rows_t, x, values, accumulate);
  }
  static void sddmm_rest(const PanelView& view, const C* const* rows, Rows<const C> x, Offset f, C* values,
                         bool accumulate) {
    SddmmRest(view, rows, x, f, values, accumulate);
  }
  static void row_peaks(const PanelView& view, C* values, C* peaks) { RowPeaks(view, values, peaks); }
  static void softmax(const PanelView& view, C* values, const C* peaks, C* lse) {
    Softmax(view, values, peaks, lse);
  }
  static void scatter_dense(const PanelView& view, const C* values, const C* g, Offset from, Offset to,
                            Rows<C> out, bool careful) {
    ScatterDense(view, values, g, from, to, out, careful);
  }
  static void scatter_rest(const PanelView& view, const C* values, const C* const* g, Offset from, Offset to,
                           Rows<C> out) {
    ScatterRest(view, values, g, from, to, out);
  }
  static void gather_columns(const RestByColumn& edges, const C* values, Rows<const C> g, Offset f,
                             Offset begin, Offset end, Rows<C> out) {
    GatherColumns(edges, values, g, f, begin, end, out);
  }
  static void pull_columns(const RestByColumn& edges, const C* values, Rows<const C> g, Rows<const C> z,
                           Offset f, Offset begin, Offset end, Rows<C> out, C* dots, bool accumulate) {
    PullColumns(edges, values, g, z, f, begin, end, out, dots, accumulate);
  }
  static void softmax_backward(const PanelView& view, const C* weights, C* d_values, const C* d_lse) {
    SoftmaxBackward(view, weights, d_values, d_lse);
  }
};

template <class C, class S>
struct Products {
  static void spmm_rest(const PanelView& view, const C* values, Rows<const S> x, Offset f, S* const* out) {
    SpmmRest(view, values, x, f, out);
  }
  static void spmm_dense(const PanelView& view, const C* values, Rows<const S> x, C* out, bool careful) {
    SpmmDense(view, values, x, out, careful);
  }
  static void finish(const PanelView& view, const Finish<C, S>& what) { FinishRows(view, what); }
};

template <class C>
KernelTable<C> table() {
  using K = Kernels<C>;
  return {K::sddmm_dense,  K::sddmm_rest,     K::row_peaks,    K::softmax,         K::scatter_dense,
          K::scatter_rest, K::gather_columns, K::pull_columns, K::softmax_backward};
}
template <class C, class S>
ProductTable<C, S> products() {
  using P = Products<C, S>;
  return {P::spmm_rest, P::spmm_dense, P::finish};
}
KernelTable<float> TableFloat() { return table<float>(); }
KernelTable<double> TableDouble() { return table<double>(); }
ProductTable<float, float> ProductsFloat() { return products<float, float>(); }
ProductTable<double, double> ProductsDouble() { return products<double, double>(); }
ProductTable<float, bf16> ProductsHalf() { return products<float, bf16>(); }

}  // namespace manyhop::ops::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE

namespace manyhop::ops::cpu {

HWY_EXPORT(TableFloat);
HWY_EXPORT(TableDouble);
HWY_EXPORT(ProductsFloat);
HWY_EXPORT(ProductsDouble);
HWY_EXPORT(ProductsHalf);

namespace {
template <class C>
KernelTable<C> kernels() {
  use_simd();
  if constexpr (std::is_same_v<C, float>) {
    return HWY_DYNAMIC_DISPATCH(TableFloat)();
  } else {
    return HWY_DYNAMIC_DISPATCH(TableDouble)();
  }
}
template <class C, class S>
ProductTable<C, S> products() {
  use_simd();
  if constexpr (std::is_same_v<S, bf16>) {
    return HWY_DYNAMIC_DISPATCH(ProductsHalf)();
  } else if constexpr (std::is_same_v<C, float>) {
    return HWY_DYNAMIC_DISPATCH(ProductsFloat)();
  } else {
    return HWY_DYNAMIC_DISPATCH(ProductsDouble)();
  }
}
}  // namespace

void expand_columns(const Tiling& tiling, const Panel& panel, Index* cols, std::uint32_t* masks) {
  const std::uint32_t rows = ~std::uint32_t{0} >> (kPanelRows - panel.count);
  for (Offset s = panel.segment; s < panel.segment_end; ++s) {
    const Segment& segment = tiling.segments[static_cast<std::size_t>(s)];
    const std::uint32_t* some = segment.mask < 0 ? nullptr : tiling.masks.data() + segment.mask;
    for (Index c = 0; c < segment.count; ++c) {
      cols[c] = segment.begin + c;
      masks[c] = some == nullptr ? rows : some[c] & rows;
    }
    cols += segment.count;
    masks += segment.count;
  }
}

template <class C>
void sddmm_dense(const PanelView& view, const C* rows_t, Rows<const C> x, C* values, bool accumulate) {
  kernels<C>().sddmm_dense(view, rows_t, x, values, accumulate);
}
template <class C>
void sddmm_rest(const PanelView& view, const C* const* rows, Rows<const C> x, Offset f, C* rest,
                bool accumulate) {
  kernels<C>().sddmm_rest(view, rows, x, f, rest, accumulate);
}
template <class C>
void row_peaks(const PanelView& view, C* values, C* peaks) {
  kernels<C>().row_peaks(view, values, peaks);
}
template <class C>
void softmax(const PanelView& view, C* values, const C* peaks, C* lse) {
  kernels<C>().softmax(view, values, peaks, lse);
}
template <class C, class S>
void spmm_rest(const PanelView& view, const C* values, Rows<const S> x, Offset f, S* const* out) {
  products<C, S>().spmm_rest(view, values, x, f, out);
}
template <class C, class S>
void spmm_dense(const PanelView& view, const C* values, Rows<const S> x, C* out, bool careful) {
  products<C, S>().spmm_dense(view, values, x, out, careful);
}
template <class C>
void scatter_dense(const PanelView& view, const C* values, const C* g, Offset from, Offset to, Rows<C> out,
                   bool careful) {
  kernels<C>().scatter_dense(view, values, g, from, to, out, careful);
}
template <class C>
void scatter_rest(const PanelView& view, const C* values, const C* const* g, Offset from, Offset to,
                  Rows<C> out) {
  kernels<C>().scatter_rest(view, values, g, from, to, out);
}
template <class C>
void gather_columns(const RestByColumn& edges, const C* values, Rows<const C> g, Offset f, Offset begin,
                    Offset end, Rows<C> out) {
  kernels<C>().gather_columns(edges, values, g, f, begin, end, out);
}
template <class C>
void pull_columns(const RestByColumn& edges, const C* values, Rows<const C> g, Rows<const C> z, Offset f,
                  Offset begin, Offset end, Rows<C> out, C* dots, bool accumulate) {
  kernels<C>().pull_columns(edges, values, g, z, f, begin, end, out, dots, accumulate);
}
template <class C>
void softmax_backward(const PanelView& view, const C* weights, C* d_values, const C* d_lse) {
  kernels<C>().softmax_backward(view, weights, d_values, d_lse);
}
template <class C, class S>
void finish(const PanelView& view, const Finish<C, S>& what) {
  products<C, S>().finish(view, what);
}

#define MANYHOP_INSTANTIATE(C)                                                                               \
  template void sddmm_dense<C>(const PanelView&, const C*, Rows<const C>, C*, bool);                         \
  template void sddmm_rest<C>(const PanelView&, const C* const*, Rows<const C>, Offset, C*, bool);           \
  template void row_peaks<C>(const PanelView&, C*, C*);                                                      \
  template void softmax<C>(const PanelView&, C*, const C*, C*);                                              \
  template void scatter_dense<C>(const PanelView&, const C*, const C*, Offset, Offset, Rows<C>, bool);       \
  template void scatter_rest<C>(const PanelView&, const C*, const C* const*, Offset, Offset, Rows<C>);       \
  template void gather_columns<C>(const RestByColumn&, const C*, Rows<const C>, Offset, Offset, Offset,      \
                                  Rows<C>);                                                                  \
  template void pull_columns<C>(const RestByColumn&, const C*, Rows<const C>, Rows<const C>, Offset, Offset, \
                                Offset, Rows<C>, C*, bool);                                                  \
  template void softmax_backward<C>(const PanelView&, const C*, C*, const C*)
MANYHOP_INSTANTIATE(float);
MANYHOP_INSTANTIATE(double);
#undef MANYHOP_INSTANTIATE
#define MANYHOP_INSTANTIATE(C, S)                                                              \
  template void spmm_rest<C, S>(const PanelView&, const C*, Rows<const S>, Offset, S* const*); \
  template void spmm_dense<C, S>(const PanelView&, const C*, Rows<const S>, C*, bool);         \
  template void finish<C, S>(const PanelView&, const Finish<C, S>&)
MANYHOP_INSTANTIATE(float, float);
MANYHOP_INSTANTIATE(double, double);
MANYHOP_INSTANTIATE(float, bf16);
#undef MANYHOP_INSTANTIATE

}  // namespace manyhop::ops::cpu

#endif  // HWY_ONCE
