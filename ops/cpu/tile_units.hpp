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
  void (*scores)(const PanelView&, const bf16*, const bf16*, Offset, float, const TileScratch&,
                 float*) = nullptr;
  void (*weights)(const PanelView&, const float*, const TileScratch&, bf16*) = nullptr;
  void (*products)(const PanelView&, const bf16*, PairRows, Rows<const bf16>, const TileScratch&,
                   float*) = nullptr;
};

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
