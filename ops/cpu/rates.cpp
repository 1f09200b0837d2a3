#include "manyhop/ops/cpu/rates.hpp"

#include <algorithm>
#include <chrono>
#include <cstring>
#include <vector>

#include "manyhop/graphs/base/memory.hpp"
#include "manyhop/graphs/base/random.hpp"
#include "manyhop/graphs/tiling.hpp"
#include "manyhop/ops/cpu/panel_kernels.hpp"
#include "manyhop/ops/cpu/tiles.hpp"

namespace manyhop::ops::cpu {

namespace {

std::size_t at(Offset i) { return static_cast<std::size_t>(i); }

template <class F>
double fastest(int repeats, F&& run) {
  double best = 1e9;
  for (int i = 0; i < repeats; ++i) {
    const auto start = std::chrono::steady_clock::now();
    run();
    best = std::min(best, std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
  }
  return std::max(best, 1e-9);
}

Tiling scattered(Offset rows, Offset n_cols, Offset degree) {
  std::vector<Index> from;
  std::vector<Index> to;
  CounterRng rng(1, 2, 3);
  for (Offset i = 0; i < rows; ++i) {
    for (Offset e = 0; e < degree; ++e) {
      from.push_back(static_cast<Index>(i));
      to.push_back(static_cast<Index>(rng.below(static_cast<std::uint64_t>(n_cols))));
    }
  }
  return make_tiling(Graph::from_edges(rows, n_cols, from, to));
}

}  // namespace

template <class C, class S>
Rates measure_rates(Offset n_cols) {
  constexpr Offset kCols = 96;
  constexpr Offset kWidth = 64;
  constexpr int kRepeats = 20;
  const auto size = static_cast<double>(sizeof(S));
  using Block = std::vector<C, BlockAllocator<C>>;
  using RowBlock = std::vector<S, BlockAllocator<S>>;
  Rates rates;
  {
    const Tiling tiling = make_tiling(Graph::from_runs(
        kPanelRows, kCols,
        [] {
          std::vector<Offset> indptr;
          for (Offset i = 0; i <= kPanelRows; ++i) indptr.push_back(i);
          return indptr;
        }(),
        std::vector<Run>(at(kPanelRows), Run{0, static_cast<Index>(kCols)})));
    std::vector<Index> cols(at(kCols));
    std::vector<std::uint32_t> masks(at(kCols));
    expand_columns(tiling, tiling.panels[0], cols.data(), masks.data());
    const PanelView view{&tiling, tiling.panels.data(), cols.data(), masks.data()};
    Block values(at(tiling.value_count), C(0.01)), out(at(kPanelRows * kWidth));
    RowBlock x(at(kCols * kWidth), S(0.5F));
    const Rows<const S> rows{x.data(), kCols, kWidth};
    // NOLINTNEXTLINE(misc-const-correctness): bf16 may find a faster one below
    double tile = fastest(kRepeats, [&] {
      for (int i = 0; i < 4; ++i) spmm_dense<C, S>(view, values.data(), rows, out.data(), false);
    });
    if constexpr (sizeof(S) == 2) {
      if (!tiles_name().empty()) {
        RowBlock pairs(at(pair_elements(kCols, kWidth))), gathered(at(tile_gather_elements(kWidth)));
        RowBlock weights(at(tile_weight_elements(kCols)));
        std::vector<Index> loose(at(kCols));
        const TileScratch scratch{gathered.data(), loose.data()};
        make_pairs(rows, 0, kCols / 2, {pairs.data(), kWidth});
        tile_weights(view, values.data(), scratch, weights.data());
        tile = fastest(kRepeats, [&] {
          for (int i = 0; i < 4; ++i) {
            spmm_tiles(view, weights.data(), {pairs.data(), kWidth}, scratch, out.data());
          }
        });
      }
    }
    rates.tile_flops = 4 * 2.0 * kPanelRows * kCols * kWidth / tile;
    alignas(64) C peaks[kPanelRows] = {};
    alignas(64) C lse[kPanelRows];
    const double exponential = fastest(kRepeats, [&] { softmax<C>(view, values.data(), peaks, lse); });
    rates.exponentials = static_cast<double>(kPanelRows * kCols) / exponential;
  }
  {
    const Offset rows = std::clamp<Offset>(n_cols, 1, Offset{1} << 17);  // past that all come from memory
    const Tiling tiling = scattered(8 * kPanelRows, rows, 64);
    const Offset width = Rows<S>::kBlock;
    RowBlock x(at(rows * width), S(0.5F)), out(at(kPanelRows * width));
    Block values(at(tiling.value_count), C(0.01));
    S* targets[kPanelRows];
    for (Offset r = 0; r < kPanelRows; ++r) targets[r] = out.data() + r * width;
    const double gather = fastest(5, [&] {
      for (const Panel& panel : tiling.panels) {
        spmm_rest<C, S>(PanelView{&tiling, &panel, nullptr}, values.data() + panel.values,
                        Rows<const S>{x.data(), rows, width}, 0, targets);
      }
    });
    const double edges = static_cast<double>(std::max<Offset>(1, tiling.irregular_edges));
    rates.gather_bytes = edges * static_cast<double>(width) * size / gather;
    RowBlock copy(x.size());
    const double stream = fastest(3, [&] { std::memcpy(copy.data(), x.data(), x.size() * sizeof(S)); });
    rates.stream_bytes = static_cast<double>(x.size()) * size / stream;
  }
  return rates;
}

template Rates measure_rates<float, float>(Offset);
template Rates measure_rates<double, double>(Offset);
template Rates measure_rates<float, bf16>(Offset);

}  // namespace manyhop::ops::cpu
