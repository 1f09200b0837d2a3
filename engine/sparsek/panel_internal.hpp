// 32 rows of a joined selection as one dense tile: the keys that any of the rows has, with masks and gates.
#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>
#include <vector>

#include "manyhop/engine/sparsek/head_internal.hpp"
#include "manyhop/graphs/tiling.hpp"
#include "manyhop/ops/cpu/panel_kernels.hpp"

namespace manyhop::sparsek_head {

/// Neighbouring rows keep nearly the same keys, so the tile has few empty cells.
template <class C>
struct SelectedPanel {
  Tiling tiling;  // of these rows alone; all columns dense, no single edges
  std::vector<Index> cols;
  std::vector<Offset> gated;        // columns that some row has through its gate alone
  std::vector<std::uint32_t> kept;  // of each column: rows that keep it (gate or not)
  std::vector<std::uint32_t> free;  // of each column: rows that have it by window or sinks
  C threshold[kPanelRows];
  double origin = 0;

  ops::cpu::PanelView view() const {
    return {&tiling, tiling.panels.data(), cols.data(), tiling.masks.data()};
  }
  Offset count() const { return static_cast<Offset>(cols.size()); }

  /// Rows first .. first + rows - 1; `keys` are those of the row before and leave as those of the last row.
  template <class T>
  void build(const Input<T>& in, Offset first, int rows, std::vector<Index>& keys) {
    const CausalSelection& selection = *in.selection;
    const Offset last = first + rows - 1;
    // Who may be kept: the keys of the row before, and the panel's own.
    candidates_.assign(keys.begin(), keys.end());
    for (Offset i = first; i <= last; ++i) {
      in.rows->step(i, keys);
      candidates_.push_back(static_cast<Index>(i));
    }
    const Offset window_begin =
        in.join.window == 0 ? first : std::max<Offset>(0, first + 1 - std::min(in.join.window, first + 1));
    const Offset sinks = std::min(in.join.sinks, window_begin);
    cols.clear();
    gated.clear();
    kept.clear();
    free.clear();
    tiling.masks.clear();
    auto candidate = candidates_.begin();
    const auto add = [&](Offset j) {
      const auto from = [&](Offset row) {
        return static_cast<int>(std::clamp<Offset>(row - first, 0, rows));
      };
      std::uint32_t by_join =
          in.join.window > 0 ? bits(from(j), from(j + std::min(in.join.window, in.n))) : 0;
      if (j < in.join.sinks) by_join |= bits(from(j), rows);
      while (candidate != candidates_.end() && Offset{*candidate} < j) ++candidate;
      std::uint32_t by_score = 0;
      if (candidate != candidates_.end() && Offset{*candidate} == j) {
        by_score = bits(from(j), from(Offset{selection.until[static_cast<std::size_t>(j)]}));
      }
      if ((by_join | by_score) == 0) return;
      if ((by_score & ~by_join) != 0) gated.push_back(count());
      cols.push_back(static_cast<Index>(j));
      kept.push_back(by_score);
      free.push_back(by_join);
      tiling.masks.push_back(by_join | by_score);
    };
    for (Offset j = 0; j < sinks; ++j) add(j);
    for (auto key = std::lower_bound(candidates_.begin(), candidates_.end(), static_cast<Index>(sinks));
         key != candidates_.end() && Offset{*key} < window_begin; ++key) {
      add(*key);
    }
    for (Offset j = window_begin; j <= last; ++j) add(j);

    tiling.rows.resize(static_cast<std::size_t>(rows));
    for (int r = 0; r < rows; ++r) tiling.rows[static_cast<std::size_t>(r)] = static_cast<Index>(first + r);
    tiling.rest_indptr.assign(static_cast<std::size_t>(rows) + 1, 0);
    tiling.segments.assign(1, Segment{0, static_cast<Index>(count()), 0});
    tiling.panels.assign(1, Panel{0, rows, 0, count() > 0 ? 1 : 0, count(), 0});

    // Thresholds of neighbours differ little: relative to one of them, float holds them.
    origin = 0;
    for (Offset i = first; i <= last; ++i) {
      const double tau = selection.tau[static_cast<std::size_t>(i)];
      if (tau > -std::numeric_limits<double>::infinity()) origin = tau;
    }
    for (int r = 0; r < kPanelRows; ++r) {
      const double tau = r < rows ? selection.tau[static_cast<std::size_t>(first + r)] - origin : 0;
      threshold[r] = tau > -1e30 ? static_cast<C>(tau) : static_cast<C>(-1e30);
    }
  }

  /// gate[r] = p of the column's key in each row that keeps it (else unspecified), before window and sinks.
  void gates(const CausalSelection& selection, Offset column, C* gate) const {
    const auto key = static_cast<std::size_t>(cols[static_cast<std::size_t>(column)]);
    const C score = static_cast<C>(selection.score[key] - origin);
    for (int r = 0; r < kPanelRows; ++r) {
      const C p = score - threshold[r];
      const C positive = p > 0 ? p : C{0};
      gate[r] = positive < 1 ? positive : C{1};
    }
  }

  /// Bits from .. to - 1.
  static std::uint32_t bits(int from, int to) {
    if (to <= from) return 0;
    const std::uint32_t below = to >= 32 ? ~std::uint32_t{0} : (std::uint32_t{1} << to) - 1;
    return below & ~((std::uint32_t{1} << from) - 1);
  }

 private:
  std::vector<Index> candidates_;
};

}  // namespace manyhop::sparsek_head
