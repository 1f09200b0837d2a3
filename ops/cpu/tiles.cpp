// Which unit multiplies tiles: chosen once, by what the machine has and is right about.
#include "manyhop/ops/cpu/tiles.hpp"

#include <fmt/format.h>

#include <array>
#include <cstdlib>
#include <string>
#include <string_view>

#include "manyhop/graphs/base/error.hpp"
#include "manyhop/ops/cpu/simd.hpp"
#include "manyhop/ops/cpu/tile_units.hpp"

namespace manyhop {

namespace ops::cpu::tiles {
namespace {
MANYHOP_TILE_FUNCTIONS(, Emulated);
Unit emulated_unit() { return TileFunctions::unit("emulated", "", nullptr, nullptr); }
}  // namespace
}  // namespace ops::cpu::tiles

namespace ops::cpu {

namespace {

struct Chosen {
  tiles::Unit unit;    // plain loops where no other will do
  bool use = false;    // whether plans take it
  std::string reason;  // why not
};

// Empty where the unit will do.
std::string missing(const tiles::Unit& unit, bool asked) {
  if (unit.available == nullptr || !unit.available()) {
    return fmt::format("this processor or system has no {}", unit.needs);
  }
  if (!asked && !simd_name().starts_with("avx512")) return fmt::format("MANYHOP_SIMD is {}", simd_name());
  if (!unit.right()) return fmt::format("a product of {} is wrong on this machine", unit.needs);
  return {};
}

Chosen choose() {
  const char* text = std::getenv("MANYHOP_TILES");
  const std::string_view asked = text == nullptr ? "" : text;
  const std::array<tiles::Unit, 2> units = {tiles::amx_unit(), tiles::avx512_unit()};  // the faster one first
  if (asked == "none") return {tiles::emulated_unit(), false, "MANYHOP_TILES is none"};
  if (asked == "emulated") return {tiles::emulated_unit(), true, {}};
  std::string reasons;
  for (const tiles::Unit& unit : units) {
    if (!asked.empty() && asked != unit.name) continue;
    const std::string why = missing(unit, !asked.empty());
    if (why.empty()) return {unit, true, {}};
    if (!asked.empty()) throw ValueError(fmt::format("MANYHOP_TILES is '{}': {}", asked, why));
    if (reasons.find(why) == std::string::npos) reasons += (reasons.empty() ? "" : "; ") + why;
  }
  if (!asked.empty()) {
    throw ValueError(fmt::format("MANYHOP_TILES is '{}': expected none, emulated, amx or avx512bf16", asked));
  }
  return {tiles::emulated_unit(), false, reasons};
}

const Chosen& chosen() {
  static const Chosen value = choose();  // a throw leaves it to the next call
  return value;
}

}  // namespace

void make_pairs(Rows<const bf16> z, Offset begin, Offset end, PairRows to) {
  chosen().unit.pairs(z, begin, end, to);
}
void make_pairs(Rows<const float> z, const float* center, Offset begin, Offset end, PairRows to) {
  chosen().unit.float_pairs(z, center, begin, end, to);
}
void row_pairs(const float* rows, Offset from, Offset to, PairRows pairs) {
  chosen().unit.row_pairs(rows, from, to, pairs);
}
void make_halves(Rows<const float> z, const float* center, Offset begin, Offset end, bf16* to,
                 Offset stride) {
  chosen().unit.halves(z, center, begin, end, to, stride);
}
bool center_of(Rows<const float> z, Offset count, float* center) {
  return chosen().unit.center(z, count, center);
}
void row_words(const float* rows, Offset width, bf16* words) { chosen().unit.row_words(rows, width, words); }
void sddmm_tiles(const PanelView& view, const bf16* q, TileKeys k, float scale, bool accumulate,
                 const TileScratch& scratch, float* values) {
  chosen().unit.scores(view, q, k, scale, accumulate, scratch, values);
}
void tile_weights(const PanelView& view, const float* values, const TileScratch& scratch, bf16* weights,
                  float* sums) {
  chosen().unit.weights(view, values, scratch, weights, sums);
}
void spmm_tiles(const PanelView& view, const bf16* weights, PairRows x, const TileScratch& scratch,
                float* out) {
  chosen().unit.products(view, weights, x, scratch, out);
}
void scatter_tiles(const PanelView& view, const float* values, PairRows g, Offset from, Offset to,
                   const TileScratch& scratch, Rows<float> out) {
  chosen().unit.scatter(view, values, g, from, to, scratch, out);
}

}  // namespace ops::cpu

std::string_view tiles_name() {
  const ops::cpu::Chosen& chosen = ops::cpu::chosen();
  return chosen.use ? chosen.unit.name : "";
}

std::string tiles_rejected() { return ops::cpu::chosen().reason; }

}  // namespace manyhop
