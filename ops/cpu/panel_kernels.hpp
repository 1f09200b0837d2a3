// The arithmetic of one panel (32 rows of a Tiling) for the CPU, in fp32 or fp64. The instruction set is
// chosen at run time, once a call. Row-major blocks of a panel have a stride of `width` elements, a multiple
// of 16, padded with zeros.
//
// Values of a panel: dense[c][r] = values[c * 32 + r] for dense column c, then the rest row after row.
#pragma once

#include <algorithm>
#include <cstdint>

#include "manyhop/graphs/base/tensor.hpp"
#include "manyhop/graphs/tiling.hpp"

namespace manyhop::ops::cpu {

/// Widths are padded to multiples of 16 elements, rows of bf16 to 32.
template <class S>
Offset padded_width(Offset width) {
  constexpr Offset kStep = sizeof(S) == 2 ? 32 : 16;
  return (width + kStep - 1) / kStep * kStep;
}

/// A matrix [count][width] that is gathered by rows: features are kept in blocks of 128 bytes, block after
/// block, row after row within a block. A pass over one block touches count x 128 bytes and stays in L2 where
/// whole rows would not: at 4096 rows of 64 floats a gathered edge takes 3.6 ns so, 5.1 ns by whole rows and
/// 3.8 ns in blocks of 64 bytes (Zen 3); at 8192 rows 4.9, 6.3 and 8.8 ns.
///
/// S is the type of the arithmetic, or bf16. Then the width is a multiple of 32 and element 2 i and 2 i + 1
/// of each group of 32 are its features i and 16 + i: a shift and a mask of a word make two vectors of
/// features in their order, on any instruction set. Half the bytes take 0.79 of the time at 4096 rows of 64
/// features, 0.83 at 16384; fp16 by hardware conversion is no faster, and bf16 without the mask is, but
/// biased.
template <class S>
struct Rows {
  static constexpr Offset kBlock = static_cast<Offset>(128 / sizeof(S));
  S* data = nullptr;
  Offset count = 0;
  Offset width = 0;

  /// Elements from row to row in the block that starts at feature f (a multiple of kBlock).
  Offset stride(Offset f) const { return std::min(kBlock, width - f); }
  S* block(Offset f) const { return data + f * count; }
  S* row(Offset f, Offset i) const { return block(f) + i * stride(f); }
  operator Rows<const S>() const { return {data, count, width}; }  // NOLINT: as pointers convert
};

inline constexpr Offset kHalfGroup = 32;
/// Where feature f of a row of bf16 is kept.
inline Offset half_place(Offset f) {
  const Offset inside = f % kHalfGroup;
  return f - inside + (inside < 16 ? 2 * inside : 2 * inside - 31);
}

struct PanelView {
  const Tiling* tiling = nullptr;
  const Panel* panel = nullptr;
  // By expand_columns, for what reads dense columns: them one by one, and of each the rows that have it.
  const Index* cols = nullptr;
  const std::uint32_t* masks = nullptr;

  std::size_t first() const { return static_cast<std::size_t>(panel->first); }
  Index row(int r) const { return tiling->rows[first() + static_cast<std::size_t>(r)]; }
};

/// cols and masks [0 .. dense_cols) of a panel; a mask has a bit for each row.
void expand_columns(const Tiling& tiling, const Panel& panel, Index* cols, std::uint32_t* masks);

/// values[c, r] = (accumulate ? values[c, r] : 0) + sum_f rows[r][f] x[col c][f] for dense cells; rows_t
/// [width][32] is the transpose of rows, x [n_cols][width]. Of cells that are no edge some hold their
/// product, some 0.
template <class C>
void sddmm_dense(const PanelView& view, const C* rows_t, Rows<const C> x, C* values, bool accumulate);

/// The same for rest edges, over the features of the block of x that starts at feature f; rows: where that
/// block of each of the panel's rows lies; rest: the values of the panel's rest edges alone. A pass of its
/// own over many panels keeps the block in L2.
template <class C>
void sddmm_rest(const PanelView& view, const C* const* rows, Rows<const C> x, Offset f, C* rest,
                bool accumulate);

/// Cells that are no edge become -inf; peaks[r] = the largest score of row r, -inf for a row without edges.
/// A NaN may or may not be a row's peak.
template <class C>
void row_peaks(const PanelView& view, C* values, C* peaks);

/// values = softmax over the edges of each row after row_peaks, cells that are no edge become 0; lse[r] =
/// natural log of the sum of exponentials (-inf for a row without edges or with scores of -inf only, whose
/// values are all 0).
template <class C>
void softmax(const PanelView& view, C* values, const C* peaks, C* lse);

/// out[r][f] = sum over the rest edges of row r of value x[col][f], for the block of x that starts at feature
/// f; out: where the block of each of the panel's rows lies. A pass of its own over many panels keeps the
/// block in L2.
template <class C, class S>
void spmm_rest(const PanelView& view, const C* values, Rows<const S> x, Offset f, S* const* out);

/// out[r] = sum over dense columns of values[c, r] x[col c]; out [32][width]. With `careful`, cells that are
/// no edge are skipped, so that a NaN in x stays where an edge brings it.
template <class C, class S>
void spmm_dense(const PanelView& view, const C* values, Rows<const S> x, C* out, bool careful);

/// out[col c][f] += sum_r values[c, r] g[r][f] for f in [from, to), multiples of 16; g [32][width], zero rows
/// past count. `careful` as in spmm_dense, for g.
template <class C>
void scatter_dense(const PanelView& view, const C* values, const C* g, Offset from, Offset to, Rows<C> out,
                   bool careful);

/// The same for rest edges; g: where features [from, to) of each of the panel's rows lie, in one piece.
template <class C>
void scatter_rest(const PanelView& view, const C* values, const C* const* g, Offset from, Offset to,
                  Rows<C> out);

/// out[j][f] = sum over the single edges of column j of value g[row][f], for columns [begin, end) and the
/// block of features that starts at f: what scatter_rest adds to zeros, bit for bit. values: column by
/// column.
template <class C>
void gather_columns(const RestByColumn& edges, const C* values, Rows<const C> g, Offset f, Offset begin,
                    Offset end, Rows<C> out);

/// gather_columns, and of the same edges and features dots[e] (+)= <g[row], z[j]> column by column: what
/// sddmm_rest gives, bit for bit. A row that both need is read once: 3.2 ns an edge of 64 floats, where the
/// two alone take 2.4 and 3.0 (4096 rows, Zen 4).
template <class C>
void pull_columns(const RestByColumn& edges, const C* values, Rows<const C> g, Rows<const C> z, Offset f,
                  Offset begin, Offset end, Rows<C> out, C* dots, bool accumulate);

/// d_values = weights * (d_values - (sum of the row's weights * d_values) + d_lse[r]); cells that are no edge
/// are not read and become 0.
template <class C>
void softmax_backward(const PanelView& view, const C* weights, C* d_values, const C* d_lse);

/// to[r] = keep (z[r] + rest[r]) + teleport v[r] for the panel's rows; z [32][width]. `rest`, `v` and `to`
/// are matrices by row, of which the first two may be missing (no data), or, with `local`, blocks of 32 rows.
template <class C, class S = C>
struct Finish {
  C keep = 1;
  C teleport = 0;
  const C* z = nullptr;
  Rows<const S> v{};
  Rows<const S> rest{};
  bool local_rest = false;
  Rows<S> to{};
  bool local_to = false;
};
template <class C, class S>
void finish(const PanelView& view, const Finish<C, S>& what);

}  // namespace manyhop::ops::cpu
