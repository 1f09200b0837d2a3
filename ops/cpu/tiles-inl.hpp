// The loops over tiles, for any unit that multiplies them: AMX, AVX-512's products of bf16, or plain loops
// that do what they do. Everything is inlined into functions that say which instruction set they are for, so
// there are no lambdas here.
#pragma once

#include <algorithm>
#include <cstring>
#include <iterator>
#include <utility>

#include "manyhop/ops/cpu/tile_rows-inl.hpp"

namespace manyhop::ops::cpu::tiles {

// What a unit multiplies in `steps` steps of 32: 32 rows of the left operand, each step's 32 elements in one
// piece, by words (pairs of rows) of the right one, 32 to a pair. Strides are in elements.
struct Left {
  const bf16* data;
  Offset step;    // from one step's elements to the next one's
  Offset stride;  // from row to row
};
struct Right {
  const bf16* const* steps;  // the first pair of each step
  Offset offset;             // added to all of them
  Offset stride;             // from pair to pair, 16 to a step
};

// Every unit has begin(), end() and multiply(left, right, steps, fresh, out, stride): out[32][32] = sums, or
// plus sums where it is not fresh. This one is plain loops, for tests and machines without any other.
struct Emulated {
  void begin() {}
  void end() {}
  void multiply(const Left& left, const Right& right, Offset steps, bool fresh, float* out, Offset stride) {
    for (Offset i = 0; i < kPanelRows; ++i) {
      for (Offset j = 0; j < 2 * kLanes; ++j) {
        float sum = fresh ? 0 : out[i * stride + j];
        for (Offset s = 0; s < steps; ++s) {
          const bf16* a = left.data + s * left.step + i * left.stride;
          const bf16* b = right.steps[s] + right.offset + 2 * j;
          for (Offset p = 0; p < kTileCols / 2; ++p) {
            sum += static_cast<float>(a[2 * p]) * static_cast<float>(b[p * right.stride]);
            sum += static_cast<float>(a[2 * p + 1]) * static_cast<float>(b[p * right.stride + 1]);
          }
        }
        out[i * stride + j] = sum;
      }
    }
  }
};

// The dense columns of a panel from number c on, 32 or what is left; in one piece they follow each other.
struct Columns {
  const Index* cols;
  Offset count;

  MANYHOP_INLINE Columns(const PanelView& view, Offset c)
      : cols(view.cols + c), count(std::min(kTileCols, view.panel->dense_cols - c)) {}
  MANYHOP_INLINE bool in_one_piece() const {
    return count == kTileCols && cols[kTileCols - 1] - cols[0] == kTileCols - 1;
  }
};

template <class Unit>
MANYHOP_INLINE void scores_of_panel(const PanelView& view, const bf16* q, TileKeys k, float scale,
                                    bool accumulate, const TileScratch& scratch, float* values) {
  Unit unit;
  unit.begin();
  for (Offset c = 0; c < view.panel->dense_cols; c += kTileCols) {
    const Columns columns(view, c);
    const Offset count = columns.count;
    const Index* cols = columns.cols;
    const bf16* rows = k.data + cols[0] * k.stride;
    Offset stride = k.stride;
    if (!columns.in_one_piece()) {
      rows = scratch.gathered;
      stride = k.width;
      for (Offset i = 0; i < count; ++i) {
        std::memcpy(scratch.gathered + i * k.width, k.data + cols[i] * k.stride,
                    static_cast<std::size_t>(k.width) * sizeof(bf16));
      }
      std::fill(scratch.gathered + count * k.width, scratch.gathered + kTileCols * k.width, bf16{});
    }
    alignas(64) float partial[kTileCols * kPanelRows];
    float* out = values + c * kPanelRows;
    if (count < kTileCols) {
      if (accumulate) std::copy_n(out, count * kPanelRows, partial);
      if (accumulate) std::fill(partial + count * kPanelRows, std::end(partial), 0.0F);
      out = partial;
    }
    for (Offset f = 0; f < k.width; f += kTileBatch * kTileCols) {
      const Offset steps = std::min(kTileBatch, (k.width - f) / kTileCols);
      const bf16* words[kTileBatch];
      for (Offset s = 0; s < steps; ++s) words[s] = q + (f + s * kTileCols) * kPanelRows;
      unit.multiply({rows + f, kTileCols, stride}, {words, 0, 2 * kPanelRows}, steps, f == 0 && !accumulate,
                    out, kPanelRows);
    }
    if (scale != 1) {
      for (Offset i = 0; i < kTileCols * kPanelRows; ++i) out[i] *= scale;
    }
    if (count < kTileCols) std::copy_n(partial, count * kPanelRows, values + c * kPanelRows);
  }
  unit.end();
}

// One row of a matrix kept in pairs, in the low or the high half of the words of `to`.
MANYHOP_INLINE void one_of_pair(PairRows x, Index row, Offset f, Words& to) {
  Words word;
  load(x.pair(row / 2) + 2 * f, word);
  to = row % 2 == 0 ? word & 0xFFFFU : word >> 16;
}

template <class Unit>
MANYHOP_INLINE void products_of_panel(const PanelView& view, const bf16* weights, PairRows x,
                                      const TileScratch& scratch, float* out) {
  Unit unit;
  unit.begin();
  const bf16* pairs[kTileBatch];
  Walk walk(view, scratch.loose);
  Offset gathered = 0;  // loose columns that are done
  bool pieces = true;
  bool more = true;
  for (bool first = true; more; first = false) {
    Offset steps = 0;
    while (steps < kTileBatch && pieces) {
      const Offset number = walk.next();
      pieces = number >= 0;
      if (pieces) pairs[steps++] = x.pair(view.cols[number] / 2);
    }
    for (; steps < kTileBatch && !pieces && gathered < walk.loose_count; gathered += kTileCols) {
      bf16* to = scratch.gathered + steps * kTileCols * x.width;
      for (Offset c = 0; c < kTileCols; c += 2) {
        const Offset here = gathered + c;
        const Index even = here < walk.loose_count ? view.cols[scratch.loose[here]] : -1;
        const Index odd = here + 1 < walk.loose_count ? view.cols[scratch.loose[here + 1]] : -1;
        for (Offset f = 0; f < x.width; f += kLanes) {
          Words low = {};
          Words high = {};
          if (even >= 0) one_of_pair(x, even, f, low);
          if (odd >= 0) one_of_pair(x, odd, f, high);
          store(low | (high << 16), to + c * x.width + 2 * f);
        }
      }
      pairs[steps++] = to;
    }
    more = pieces || gathered < walk.loose_count;
    for (Offset f = 0; f < x.width; f += kTileCols) {
      unit.multiply({weights, kTileCols * kPanelRows, kTileCols}, {pairs, 2 * f, 2 * x.width}, steps, first,
                    out + f, x.width);
    }
    weights += steps * kTileCols * kPanelRows;
  }
  unit.end();
}

// Values lie column by column, as the left operand wants them: a step is 32 columns by the panel's 32 rows.
template <class Unit>
MANYHOP_INLINE void scatter_of_panel(const PanelView& view, const float* values, PairRows g, Offset from,
                                     Offset to, const TileScratch& scratch, Rows<float> out) {
  Unit unit;
  unit.begin();
  for (Offset c = 0; c < view.panel->dense_cols; c += kTileCols) {
    const Columns columns(view, c);
    const Offset count = columns.count;
    const Index* cols = columns.cols;
    bf16* left = scratch.gathered;
    for (Offset i = 0; i < count; ++i) {
      const float* cells = values + (c + i) * kPanelRows;
      Words low;
      Words high;
      Words both;
      round_high(cells, low);
      round_high(cells + kLanes, high);
      join_high(low, high, both, std::make_index_sequence<32>());
      store(both, left + i * kPanelRows);
    }
    std::fill(left + count * kPanelRows, left + kTileCols * kPanelRows, bf16{});
    const bf16* pairs[] = {g.data};
    const Left cells{left, 0, kPanelRows};
    for (Offset f = from; f < to; f += kTileCols) {
      const Right rows{pairs, 2 * f, 2 * g.width};
      if (columns.in_one_piece()) {
        unit.multiply(cells, rows, 1, false, out.row(f, cols[0]), kTileCols);
        continue;
      }
      alignas(64) float partial[kTileCols * kTileCols];
      unit.multiply(cells, rows, 1, true, partial, kTileCols);
      for (Offset i = 0; i < count; ++i) {
        float* row = out.row(f, cols[i]);
        for (Offset x = 0; x < kTileCols; ++x) row[x] += partial[i * kTileCols + x];
      }
    }
  }
  unit.end();
}

}  // namespace manyhop::ops::cpu::tiles
