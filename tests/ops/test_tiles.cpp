#include "manyhop/ops/cpu/tiles.hpp"

#include <doctest/doctest.h>

#include <cmath>
#include <vector>

#include "manyhop/graphs/base/random.hpp"
#include "manyhop/graphs/patterns/pattern.hpp"

using namespace manyhop;
using namespace manyhop::ops::cpu;

namespace {

// Bands from odd and even columns, single stripes, blocks that end within a step, panels of few columns.
const char* const kPatterns[] = {"overlap(64, 32) | global(ids=[3, 77, 78, 150])",
                                 "window(20) | global(5)",
                                 "block(40)",
                                 "lift(regular(2, seed=1), 16)",
                                 "full",
                                 "overlap(70, 33)",
                                 "window(9)"};

struct Draw {
  explicit Draw(std::uint64_t seed) : rng(seed, 0, 0) {}
  bf16 next() { return bf16(static_cast<float>(rng.below(2001)) / 1000 - 1); }
  CounterRng rng;
};

std::size_t at(Offset i) { return static_cast<std::size_t>(i); }

// Rows of bf16 in the order that Rows keeps, from features in their order.
std::vector<bf16> packed(const std::vector<bf16>& plain, Offset count, Offset width) {
  std::vector<bf16> out(plain.size());
  const Rows<bf16> rows{out.data(), count, width};
  for (Offset i = 0; i < count; ++i) {
    for (Offset f = 0; f < width; ++f) {
      const Offset block = f / Rows<bf16>::kBlock * Rows<bf16>::kBlock;
      rows.row(block, i)[half_place(f - block)] = plain[at(i * width + f)];
    }
  }
  return out;
}

// body(view) for each panel that tiles are worth.
template <class F>
int for_tiled_panels(const Tiling& tiling, F&& body) {
  int seen = 0;
  std::vector<Index> cols(at(tiling.max_panel_cols));
  for (const Panel& panel : tiling.panels) {
    if (!worth_tiles(panel)) continue;
    expand_columns(tiling, panel, cols.data());
    body(PanelView{&tiling, &panel, cols.data()});
    ++seen;
  }
  return seen;
}

}  // namespace

TEST_CASE("tiles: pairs hold two rows, features in their order") {
  const Offset n = 5;
  const Offset width = 96;
  std::vector<bf16> plain(at(n * width));
  Draw draw(1);
  for (bf16& x : plain) x = draw.next();
  const auto rows = packed(plain, n, width);
  std::vector<bf16> pairs(at(pair_elements(n, width)), bf16(7));
  make_pairs(Rows<const bf16>{rows.data(), n, width}, 0, 3, {pairs.data(), width});
  for (Offset i = 0; i < 6; ++i) {
    for (Offset f = 0; f < width; ++f) {
      const bf16 want = i < n ? plain[at(i * width + f)] : bf16{};
      REQUIRE(pairs[at((i / 2 * width + f) * 2 + i % 2)] == want);
    }
  }
}

TEST_CASE("tiles: scores are exact products, scaled") {
  for (const char* text : kPatterns) {
    const Graph graph = pattern(text, 208);
    const Tiling tiling = make_tiling(graph);
    for (const Offset d : {1, 32, 33, 64, 100}) {
      const Offset width = tile_width(d);
      const float scale = d == 64 ? 1.0F : 0.3F;
      Draw draw(2);
      std::vector<bf16> k(at(208 * width));
      std::vector<bf16> q(at(kPanelRows * width));
      for (Offset i = 0; i < 208; ++i) {
        for (Offset f = 0; f < d; ++f) k[at(i * width + f)] = draw.next();
      }
      for (Offset f = 0; f < d; ++f) {
        for (Offset r = 0; r < kPanelRows; ++r) q[at((f / 2 * kPanelRows + r) * 2 + f % 2)] = draw.next();
      }
      std::vector<bf16> gathered(at(tile_gather_elements(width)));
      std::vector<Index> loose(at(tiling.max_panel_cols));
      const int seen = for_tiled_panels(tiling, [&](const PanelView& view) {
        std::vector<float> values(at(view.panel->dense_cols * kPanelRows + 1), -5);
        sddmm_tiles(view, q.data(), k.data(), width, scale, {gathered.data(), loose.data()}, values.data());
        for (Offset c = 0; c < view.panel->dense_cols; ++c) {
          for (Offset r = 0; r < kPanelRows; ++r) {
            double want = 0;
            for (Offset f = 0; f < d; ++f) {
              want += static_cast<double>(static_cast<float>(k[at(view.cols[c] * width + f)])) *
                      static_cast<double>(static_cast<float>(q[at((f / 2 * kPanelRows + r) * 2 + f % 2)]));
            }
            REQUIRE(std::abs(values[at(c * kPanelRows + r)] - static_cast<float>(want) * scale) < 1e-5);
          }
        }
        CHECK(values.back() == -5);  // nothing past the panel's cells
      });
      CHECK(seen > 0);
    }
  }
}

TEST_CASE("tiles: weights times rows, any order of columns") {
  for (const char* text : kPatterns) {
    const Offset n = 207;
    const Graph graph = pattern(text, n);
    const Offset count = graph.n_cols();
    const Tiling tiling = make_tiling(graph);
    for (const Offset width : {32, 64, 160}) {
      Draw draw(3);
      std::vector<bf16> plain(at(count * width));
      for (bf16& x : plain) x = draw.next();
      const auto rows = packed(plain, count, width);
      const Rows<const bf16> x_rows{rows.data(), count, width};
      std::vector<bf16> pairs(at(pair_elements(count, width)));
      make_pairs(x_rows, 0, (count + 1) / 2, {pairs.data(), width});
      std::vector<bf16> gathered(at(tile_gather_elements(width)));
      std::vector<Index> loose(at(tiling.max_panel_cols));
      const TileScratch scratch{gathered.data(), loose.data()};
      const int seen = for_tiled_panels(tiling, [&](const PanelView& view) {
        const Offset cells = view.panel->dense_cols * kPanelRows;
        std::vector<float> values(at(cells));
        for (float& v : values) v = static_cast<float>(draw.rng.below(1 << 20)) / (1 << 20);
        std::vector<bf16> weights(at(tile_weight_elements(view.panel->dense_cols)), bf16(9));
        CHECK(weights.size() <= 2 * values.size());  // fits where the floats were
        tile_weights(view, values.data(), scratch, weights.data());
        std::vector<float> out(at(kPanelRows * width), 1e9F);
        spmm_tiles(view, weights.data(), {pairs.data(), width}, x_rows, scratch, out.data());
        for (Offset r = 0; r < kPanelRows; ++r) {
          for (Offset f = 0; f < width; ++f) {
            double want = 0;
            for (Offset c = 0; c < view.panel->dense_cols; ++c) {
              want += static_cast<double>(static_cast<float>(bf16(values[at(c * kPanelRows + r)]))) *
                      static_cast<double>(static_cast<float>(plain[at(view.cols[c] * width + f)]));
            }
            REQUIRE(std::abs(out[at(r * width + f)] - want) < 1e-4);
          }
        }
      });
      CHECK(seen > 0);
    }
  }
}

TEST_CASE("tiles: a NaN weight stays NaN, a large one becomes infinite") {
  const Graph graph = pattern("block(32)", 32);
  const Tiling tiling = make_tiling(graph);
  std::vector<bf16> gathered(at(tile_gather_elements(32)));
  std::vector<Index> loose(32);
  for_tiled_panels(tiling, [&](const PanelView& view) {
    std::vector<float> values(32 * 32);
    values[0] = std::bit_cast<float>(0x7FFFFFFFU);  // column 0, row 0
    values[33] = 3.4e38F;                           // column 1, row 1
    std::vector<bf16> weights(32 * 32);
    tile_weights(view, values.data(), {gathered.data(), loose.data()}, weights.data());
    CHECK(std::isnan(static_cast<float>(weights[0])));
    CHECK(std::isinf(static_cast<float>(weights[33])));
    CHECK(static_cast<float>(weights[1]) == 0);
  });
}
