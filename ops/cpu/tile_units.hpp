// What tiles.hpp needs of a unit that multiplies tiles, and the units there are.
#pragma once

#include "manyhop/graphs/base/random.hpp"
#include "manyhop/ops/cpu/tiles-inl.hpp"

namespace manyhop::ops::cpu::tiles {

/// The functions of tiles.hpp on one unit, each compiled as a whole for its instruction set.
struct Unit {
  const char* name = "";
  const char* needs = "";         // what the machine has to have, for people
  bool (*available)() = nullptr;  // asks processor and system
  bool (*right)() = nullptr;      // multiplies, and compares with plain loops
  void (*pairs)(Rows<const bf16>, Offset, Offset, PairRows) = nullptr;
  void (*float_pairs)(Rows<const float>, const float*, Offset, Offset, PairRows) = nullptr;
  void (*row_pairs)(const float*, Offset, Offset, PairRows) = nullptr;
  void (*halves)(Rows<const float>, const float*, Offset, Offset, bf16*, Offset) = nullptr;
  bool (*center)(Rows<const float>, Offset, float*) = nullptr;
  void (*row_words)(const float*, Offset, bf16*) = nullptr;
  void (*scores)(const PanelView&, const bf16*, TileKeys, float, bool, const TileScratch&, float*) = nullptr;
  void (*weights)(const PanelView&, const float*, const TileScratch&, bf16*, float*) = nullptr;
  void (*products)(const PanelView&, const bf16*, PairRows, const TileScratch&, float*) = nullptr;
  void (*scatter)(const PanelView&, const float*, PairRows, Offset, Offset, const TileScratch&,
                  Rows<float>) = nullptr;
};

/// The functions of a Unit that multiplies by `Multiplier`, compiled for `TARGET` (an attribute).
#define MANYHOP_TILE_FUNCTIONS(TARGET, Multiplier)                                                          \
  struct TileFunctions {                                                                                    \
    TARGET static void pairs(Rows<const bf16> z, Offset begin, Offset end, PairRows to) {                   \
      pairs_of(z, begin, end, to);                                                                          \
    }                                                                                                       \
    TARGET static void float_pairs(Rows<const float> z, const float* center, Offset begin, Offset end,      \
                                   PairRows to) {                                                           \
      pairs_of(z, center, begin, end, to);                                                                  \
    }                                                                                                       \
    TARGET static void row_pairs(const float* rows, Offset from, Offset to, PairRows pairs) {               \
      pairs_of_rows(rows, from, to, pairs);                                                                 \
    }                                                                                                       \
    TARGET static void halves(Rows<const float> z, const float* center, Offset begin, Offset end, bf16* to, \
                              Offset stride) {                                                              \
      halves_of(z, center, begin, end, to, stride);                                                         \
    }                                                                                                       \
    TARGET static bool center(Rows<const float> z, Offset count, float* to) {                               \
      return center_of_rows(z, count, to);                                                                  \
    }                                                                                                       \
    TARGET static void row_words(const float* rows, Offset width, bf16* words) {                            \
      words_of_rows(rows, width, words);                                                                    \
    }                                                                                                       \
    TARGET static void scores(const PanelView& view, const bf16* q, TileKeys k, float scale,                \
                              bool accumulate, const TileScratch& scratch, float* values) {                 \
      scores_of_panel<Multiplier>(view, q, k, scale, accumulate, scratch, values);                          \
    }                                                                                                       \
    TARGET static void weights(const PanelView& view, const float* values, const TileScratch& scratch,      \
                               bf16* to, float* sums) {                                                     \
      weights_of_panel(view, values, scratch, to, sums);                                                    \
    }                                                                                                       \
    TARGET static void products(const PanelView& view, const bf16* weights, PairRows x,                     \
                                const TileScratch& scratch, float* out) {                                   \
      products_of_panel<Multiplier>(view, weights, x, scratch, out);                                        \
    }                                                                                                       \
    TARGET static void scatter(const PanelView& view, const float* values, PairRows g, Offset from,         \
                               Offset to, const TileScratch& scratch, Rows<float> out) {                    \
      scatter_of_panel<Multiplier>(view, values, g, from, to, scratch, out);                                \
    }                                                                                                       \
    static Unit unit(const char* name, const char* needs, bool (*available)(), bool (*right)()) {           \
      return {name,   needs,  available, right,  pairs,   float_pairs, row_pairs,                           \
              halves, center, row_words, scores, weights, products,    scatter};                            \
    }                                                                                                       \
  }

/// Empty (no functions) where the unit cannot be compiled.
Unit amx_unit();
Unit avx512_unit();

/// Whole numbers multiplied by `multiply(left, right, fresh, out)` and by plain loops: equal, for sums of
/// whole numbers below 2^24 are exact. A processor or an emulator that gets a product wrong is found out
/// before it is believed.
template <class F>
bool same_as_emulated(F&& multiply) {
  alignas(64) bf16 a[2 * kPanelRows * kTileCols];
  alignas(64) bf16 b[2 * kTileCols * 2 * kLanes];
  alignas(64) float want[kPanelRows * 2 * kLanes];
  alignas(64) float got[kPanelRows * 2 * kLanes];
  CounterRng rng(1, 0, 0);
  for (bf16& x : a) x = bf16(static_cast<float>(rng.below(255)) - 127);
  for (bf16& x : b) x = bf16(static_cast<float>(rng.below(255)) - 127);
  const Left left{a, kPanelRows * kTileCols, kTileCols};
  const bf16* steps[] = {b, b + kTileCols * 2 * kLanes};
  const Right right{steps, 0, 4 * kLanes};
  Emulated emulated;
  for (const bool fresh : {true, false}) {  // the second time on top of the first
    emulated.multiply(left, right, 2, fresh, want, 2 * kLanes);
    multiply(left, right, 2, fresh, got, 2 * kLanes);
    if (!std::equal(std::begin(want), std::end(want), std::begin(got))) return false;
  }
  return true;
}

}  // namespace manyhop::ops::cpu::tiles
