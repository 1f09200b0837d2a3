// Products of bf16 matrices in tiles of 16 x 32 times 32 x 16 with sums in fp32, as AMX has them: the dense
// columns of a panel, scores and hops. All intrinsics of AMX are in tiles.cpp.
#pragma once

#include <cstdint>

#include "manyhop/ops/context.hpp"
#include "manyhop/ops/cpu/panel_kernels.hpp"

namespace manyhop::ops::cpu {

inline constexpr Offset kTileCols = 32;   // columns of one step of a product
inline constexpr Offset kTileBatch = 16;  // steps whose gathered rows are held at once

/// Features of a matrix that tiles read: rows are padded to whole tiles of 32.
inline Offset tile_width(Offset features) { return padded_width<bf16>(features); }

/// A matrix of bf16 whose rows lie two by two, word f of a pair = feature f of the even row (low half) and of
/// the odd one: [ceil(count / 2)][width][2], features in their order.
struct PairRows {
  bf16* data = nullptr;
  Offset width = 0;
  bf16* pair(Offset j) const { return data + j * width * 2; }
};

/// Elements of a PairRows.
inline Offset pair_elements(Offset count, Offset width) { return (count + 1) / 2 * 2 * width; }

/// What the products of one panel need beside their operands.
struct TileScratch {
  bf16* gathered = nullptr;  // tile_gather_elements(width)
  Index* loose = nullptr;    // [max_panel_cols]
};
inline Offset tile_gather_elements(Offset width) { return kTileBatch * kTileCols * width; }

/// A panel of fewer dense columns is left to the vector kernels: a step would be mostly padding, and its
/// weights take more room as tiles than as floats.
inline bool worth_tiles(const Panel& panel) { return panel.dense_cols >= kTileCols / 2; }

/// Elements that the weights of a panel take as tiles, [steps][32 rows][32 columns]. Of 16 dense columns or
/// more that is no more than they take as floats.
inline Offset tile_weight_elements(Offset dense_cols) {
  return (dense_cols + kTileCols - 1) / kTileCols * kTileCols * kPanelRows;
}

/// Writes the pairs [begin, end) of z. The width of z is a multiple of 32.
void make_pairs(Rows<const bf16> z, Offset begin, Offset end, PairRows to);
/// The same of floats less `center` ([width], or null), rounded.
void make_pairs(Rows<const float> z, const float* center, Offset begin, Offset end, PairRows to);

/// The same of 32 rows [32][pairs.width], features [from, to), multiples of 32.
void row_pairs(const float* rows, Offset from, Offset to, PairRows pairs);

/// Rows [begin, end) of z less `center` [width], rounded, one every `stride` elements, features in the order
/// of half_place.
void make_halves(Rows<const float> z, const float* center, Offset begin, Offset end, bf16* to, Offset stride);

/// 32 rows [32][width] as queries of sddmm_tiles, features in the order of make_halves.
void row_words(const float* rows, Offset width, bf16* words);

/// center[f] = the mean of z over its first `count` rows or 256 of them, where that is a quarter of what they
/// are or more, else 0; returns whether any is not 0. What rows have in common may be large beside what sets
/// them apart, which rounding would lose; of rows without it, as V and K are given, bf16 holds every bit.
bool center_of(Rows<const float> z, Offset count, float* center);

/// Keys of sddmm_tiles: row i is data[i stride .. i stride + width), features in the order of the queries.
struct TileKeys {
  const bf16* data = nullptr;
  Offset width = 0;  // a multiple of 32, at most 16 times what sized the scratch memory
  Offset stride = 0;
};

/// values[c, r] = scale sum_f q[r][f] k[col c][f] for dense cells, or with `accumulate` (scale 1) added to
/// what is there; q [width / 2 words][32 rows], word f of a row = features 2 f and 2 f + 1. Products are
/// exact, sums are in fp32.
void sddmm_tiles(const PanelView& view, const bf16* q, TileKeys k, float scale, bool accumulate,
                 const TileScratch& scratch, float* values);

/// The dense weights of a panel as tiles, rounded to bf16. Columns are taken in the order of spmm_tiles.
/// sums[r] = the row's weights before rounding added up (null: not wanted).
void tile_weights(const PanelView& view, const float* values, const TileScratch& scratch, bf16* weights,
                  float* sums = nullptr);

/// out[r] = sum over dense columns of weight x[col c], out [32][x.width].
void spmm_tiles(const PanelView& view, const bf16* weights, PairRows x, const TileScratch& scratch,
                float* out);

/// out[col c][f] += sum_r values[c, r] g[r][f] for f in [from, to), multiples of 32; g: row_pairs. Values
/// are rounded to bf16, sums are in fp32.
void scatter_tiles(const PanelView& view, const float* values, PairRows g, Offset from, Offset to,
                   const TileScratch& scratch, Rows<float> out);

}  // namespace manyhop::ops::cpu
