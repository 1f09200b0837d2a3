#include "manyhop/ops/cpu/tiles.hpp"

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <limits>
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
  std::vector<std::uint32_t> masks(at(tiling.max_panel_cols));
  for (const Panel& panel : tiling.panels) {
    if (!worth_tiles(panel)) continue;
    expand_columns(tiling, panel, cols.data(), masks.data());
    body(PanelView{&tiling, &panel, cols.data(), masks.data()});
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
        const TileScratch scratch{gathered.data(), loose.data()};
        sddmm_tiles(view, q.data(), {k.data(), width, width}, scale, false, scratch, values.data());
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
        if (scale != 1) return;
        const std::vector<float> once = values;
        sddmm_tiles(view, q.data(), {k.data(), width, width}, 1, true, scratch, values.data());
        CHECK(values.back() == -5);
        for (std::size_t i = 0; i + 1 < values.size(); ++i) REQUIRE(std::abs(values[i] - 2 * once[i]) < 1e-5);
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
        std::vector<float> sums(at(kPanelRows), 1e9F);
        tile_weights(view, values.data(), scratch, weights.data(), sums.data());
        std::vector<float> out(at(kPanelRows * width), 1e9F);
        spmm_tiles(view, weights.data(), {pairs.data(), width}, scratch, out.data());
        for (Offset r = 0; r < kPanelRows; ++r) {
          double sum = 0;
          for (Offset c = 0; c < view.panel->dense_cols; ++c)
            sum += static_cast<double>(values[at(c * kPanelRows + r)]);
          REQUIRE(std::abs(sums[at(r)] - sum) < 1e-4);
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

TEST_CASE("tiles: floats round to what rows of bf16 hold") {
  const Offset n = 5;
  const Offset width = 96;
  std::vector<float> floats(at(n * width));
  std::vector<bf16> halves(floats.size());
  const Rows<float> rows{floats.data(), n, width};
  const Rows<bf16> rounded{halves.data(), n, width};
  const auto number = [](Offset i, Offset f) { return 1.0F / static_cast<float>(i * 100 + f + 1); };
  for (Offset i = 0; i < n; ++i) {
    for (Offset f = 0; f < width; ++f) {
      rows.row(f / 32 * 32, i)[f % 32] = number(i, f);
      const Offset block = f / Rows<bf16>::kBlock * Rows<bf16>::kBlock;
      rounded.row(block, i)[half_place(f - block)] = bf16(number(i, f));
    }
  }
  std::vector<bf16> got(at(pair_elements(n, width)));
  std::vector<bf16> want(got.size());
  const std::vector<float> center(at(width));
  make_pairs(Rows<const float>(rows), center.data(), 0, 3, {got.data(), width});
  make_pairs(Rows<const bf16>(rounded), 0, 3, {want.data(), width});
  CHECK(got == want);

  const Offset stride = width + 32;
  std::vector<bf16> side(at(n * stride), bf16(7));
  make_halves(rows, center.data(), 0, n, side.data(), stride);
  for (Offset i = 0; i < n; ++i) {
    for (Offset f = 0; f < width; ++f) REQUIRE(side[at(i * stride + half_place(f))] == bf16(number(i, f)));
    CHECK(side[at(i * stride + width)] == bf16(7));
  }

  std::vector<float> local(at(kPanelRows * width));
  for (Offset r = 0; r < kPanelRows; ++r) {
    for (Offset f = 0; f < width; ++f) local[at(r * width + f)] = number(r, f);
  }
  std::vector<bf16> words(local.size());
  row_words(local.data(), width, words.data());
  std::vector<bf16> pairs(local.size(), bf16(7));
  row_pairs(local.data(), 32, width, {pairs.data(), width});
  for (Offset r = 0; r < kPanelRows; ++r) {
    for (Offset f = 0; f < width; ++f) {
      const Offset place = half_place(f);
      REQUIRE(words[at((place / 2 * kPanelRows + r) * 2 + place % 2)] == bf16(number(r, f)));
      REQUIRE(pairs[at((r / 2 * width + f) * 2 + r % 2)] == (f < 32 ? bf16(7) : bf16(number(r, f))));
    }
  }
}

TEST_CASE("tiles: a center where rows have a mean, of any size") {
  const Offset width = 64;
  for (const Offset n : {1, 7, 300, 1000}) {
    for (const float size : {1.0F, 1e30F, 1e-30F}) {
      std::vector<float> numbers(at(n * width));
      const Rows<float> rows{numbers.data(), n, width};
      for (Offset i = 0; i < n; ++i) {
        const float around = i % 2 == 0 ? 1.0F : -1.0F;
        for (Offset f = 0; f < width; ++f)
          rows.row(f / 32 * 32, i)[f % 32] = size * (around + (f == 40 ? 3 : 0));
      }
      std::vector<float> center(at(width), 9);
      CHECK(center_of(rows, n, center.data()));
      CHECK(std::abs(center[40] / size - 3) <= (n < 8 ? 1 : 0.01F));
      if (n > 7) CHECK(std::count(center.begin(), center.end(), 0.0F) == width - 1);
    }
  }
  std::vector<float> some(at(32), std::numeric_limits<float>::infinity());
  std::vector<float> center(at(32), 9);
  some[3] = std::numeric_limits<float>::quiet_NaN();
  some[4] = 0;
  CHECK_FALSE(center_of({some.data(), 1, 32}, 1, center.data()));
  CHECK(std::count(center.begin(), center.end(), 0.0F) == 32);
}

TEST_CASE("tiles: rows scattered into columns, added to what is there") {
  for (const char* text : kPatterns) {
    const Offset n = 207;
    const Graph graph = pattern(text, n);
    const Tiling tiling = make_tiling(graph);
    for (const Offset width : {32, 64, 160}) {
      const Offset from = width == 160 ? 64 : 0;
      Draw draw(5);
      std::vector<float> g(at(kPanelRows * width));
      for (float& x : g) x = static_cast<float>(draw.next());
      std::vector<bf16> pairs(g.size());
      row_pairs(g.data(), 0, width, {pairs.data(), width});
      std::vector<bf16> gathered(at(tile_gather_elements(width)));
      std::vector<Index> loose(at(tiling.max_panel_cols));
      const int seen = for_tiled_panels(tiling, [&](const PanelView& view) {
        std::vector<float> values(at(view.panel->dense_cols * kPanelRows));
        for (float& v : values) v = static_cast<float>(draw.rng.below(1 << 20)) / (1 << 20);
        std::vector<float> sums(at(n * width), 3);
        std::vector<double> want(sums.begin(), sums.end());
        const Rows<float> out{sums.data(), n, width};
        scatter_tiles(view, values.data(), {pairs.data(), width}, from, width,
                      {gathered.data(), loose.data()}, out);
        for (Offset c = 0; c < view.panel->dense_cols; ++c) {
          for (Offset f = from; f < width; ++f) {
            double& sum = want[at(view.cols[c] * width + f)];
            for (Offset r = 0; r < kPanelRows; ++r) {
              sum += static_cast<double>(static_cast<float>(bf16(values[at(c * kPanelRows + r)]))) *
                     static_cast<double>(g[at(r * width + f)]);
            }
          }
        }
        for (Offset i = 0; i < n; ++i) {
          for (Offset f = 0; f < width; ++f)
            REQUIRE(std::abs(out.row(f / 32 * 32, i)[f % 32] - want[at(i * width + f)]) < 1e-4);
        }
      });
      CHECK(seen > 0);
    }
  }
}
