// The arithmetic of one panel (32 rows of a Tiling) for the CPU, in fp32 or fp64. The instruction set is
// chosen at run time, once a call. Row-major blocks have a stride of `width` elements, a multiple of 16,
// padded with zeros.
//
// Values of a panel: dense[c][r] = values[c * 32 + r] for dense column c, then the rest row after row.
#pragma once

#include "manyhop/graphs/tiling.hpp"

namespace manyhop::ops::cpu {

inline constexpr Offset kWidthStep = 16;  // elements; widths are padded to multiples of it
inline Offset padded_width(Offset width) { return (width + kWidthStep - 1) / kWidthStep * kWidthStep; }

struct PanelView {
  const Tiling* tiling = nullptr;
  const Panel* panel = nullptr;
  const Index* cols = nullptr;  // the dense columns one by one, [dense_cols]
};

/// cols[0 .. dense_cols) of a panel.
void expand_columns(const Tiling& tiling, const Panel& panel, Index* cols);

/// values[c, r] = (accumulate ? values[c, r] : 0) + sum_f rows[r][f] x[col c][f], for dense cells and rest
/// edges. rows [32][width], rows_t [width][32] its transpose, x [n_cols][width].
template <class C>
void sddmm(const PanelView& view, const C* rows, const C* rows_t, const C* x, Offset width, C* values,
           bool accumulate);

/// values = softmax over the edges of each row, cells that are no edge become 0; lse[r] = natural log of the
/// sum of exponentials (-inf for a row without edges or with scores of -inf only, whose values are all 0).
template <class C>
void softmax(const PanelView& view, C* values, C* lse);

/// out[r] = sum_c values[c, r] x[col c]; overwrites out [32][width]. With `careful`, cells that are no edge
/// are skipped, so that a NaN in x stays where an edge brings it.
template <class C>
void spmm(const PanelView& view, const C* values, const C* x, Offset width, C* out, bool careful);

/// out[col c][f] += sum_r values[c, r] g[r][f] for f in [from, to), multiples of 16; g [32][width], zero rows
/// past count.
template <class C>
void spmm_transposed(const PanelView& view, const C* values, const C* g, Offset width, Offset from, Offset to,
                     C* out);

/// d_values = weights * (d_values - (sum of the row's weights * d_values) + d_lse[r]).
template <class C>
void softmax_backward(const PanelView& view, const C* weights, C* d_values, const C* d_lse);

}  // namespace manyhop::ops::cpu
