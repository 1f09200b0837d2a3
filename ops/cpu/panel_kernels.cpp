// Compiled once for each instruction set through Highway's foreach_target.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "manyhop/ops/cpu/panel_kernels.cpp"
#include <hwy/foreach_target.h>  // IWYU pragma: keep
#include <hwy/highway.h>

#include "manyhop/ops/cpu/panel_kernels-inl.hpp"

HWY_BEFORE_NAMESPACE();
namespace manyhop::ops::cpu::HWY_NAMESPACE {

template <class C>
struct Kernels {
  static void sddmm(const PanelView& view, const C* rows, const C* rows_t, const C* x, Offset width,
                    C* values, bool accumulate) {
    Sddmm(view, rows, rows_t, x, width, values, accumulate);
  }
  static void softmax(const PanelView& view, C* values, C* lse) { Softmax(view, values, lse); }
  static void spmm(const PanelView& view, const C* values, const C* x, Offset width, C* out, bool careful) {
    Spmm(view, values, x, width, out, careful);
  }
  static void spmm_transposed(const PanelView& view, const C* values, const C* g, Offset width, Offset from,
                              Offset to, C* out) {
    SpmmTransposed(view, values, g, width, from, to, out);
  }
  static void softmax_backward(const PanelView& view, const C* weights, C* d_values, const C* d_lse) {
    SoftmaxBackward(view, weights, d_values, d_lse);
  }
};

template <class C>
KernelTable<C> table() {
  return {Kernels<C>::sddmm, Kernels<C>::softmax, Kernels<C>::spmm, Kernels<C>::spmm_transposed,
          Kernels<C>::softmax_backward};
}
KernelTable<float> TableFloat() { return table<float>(); }
KernelTable<double> TableDouble() { return table<double>(); }

}  // namespace manyhop::ops::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE

namespace manyhop::ops::cpu {

HWY_EXPORT(TableFloat);
HWY_EXPORT(TableDouble);

namespace {
template <class C>
KernelTable<C> kernels() {
  if constexpr (std::is_same_v<C, float>) {
    return HWY_DYNAMIC_DISPATCH(TableFloat)();
  } else {
    return HWY_DYNAMIC_DISPATCH(TableDouble)();
  }
}
}  // namespace

void expand_columns(const Tiling& tiling, const Panel& panel, Index* cols) {
  for (Offset s = panel.segment; s < panel.segment_end; ++s) {
    const Segment& segment = tiling.segments[static_cast<std::size_t>(s)];
    for (Index c = 0; c < segment.count; ++c) *cols++ = segment.begin + c;
  }
}

template <class C>
void sddmm(const PanelView& view, const C* rows, const C* rows_t, const C* x, Offset width, C* values,
           bool accumulate) {
  kernels<C>().sddmm(view, rows, rows_t, x, width, values, accumulate);
}
template <class C>
void softmax(const PanelView& view, C* values, C* lse) {
  kernels<C>().softmax(view, values, lse);
}
template <class C>
void spmm(const PanelView& view, const C* values, const C* x, Offset width, C* out, bool careful) {
  kernels<C>().spmm(view, values, x, width, out, careful);
}
template <class C>
void spmm_transposed(const PanelView& view, const C* values, const C* g, Offset width, Offset from, Offset to,
                     C* out) {
  kernels<C>().spmm_transposed(view, values, g, width, from, to, out);
}
template <class C>
void softmax_backward(const PanelView& view, const C* weights, C* d_values, const C* d_lse) {
  kernels<C>().softmax_backward(view, weights, d_values, d_lse);
}

#define MANYHOP_INSTANTIATE(C)                                                                        \
  template void sddmm<C>(const PanelView&, const C*, const C*, const C*, Offset, C*, bool);           \
  template void softmax<C>(const PanelView&, C*, C*);                                                 \
  template void spmm<C>(const PanelView&, const C*, const C*, Offset, C*, bool);                      \
  template void spmm_transposed<C>(const PanelView&, const C*, const C*, Offset, Offset, Offset, C*); \
  template void softmax_backward<C>(const PanelView&, const C*, C*, const C*)
MANYHOP_INSTANTIATE(float);
MANYHOP_INSTANTIATE(double);
#undef MANYHOP_INSTANTIATE

}  // namespace manyhop::ops::cpu

#endif  // HWY_ONCE
