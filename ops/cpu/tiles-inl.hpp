// The loops over tiles, for any unit that multiplies them: AMX, AVX-512's products of bf16, or plain loops
// that do what they do. Everything is inlined into functions that say which instruction set they are for, so
// there are no lambdas here.
#pragma once

#include <algorithm>
#include <array>
#include <cstring>
#include <utility>

#include "manyhop/ops/cpu/tiles.hpp"

#define MANYHOP_INLINE inline __attribute__((always_inline))

namespace manyhop::ops::cpu::tiles {

using Words = std::uint32_t __attribute__((vector_size(64)));
using Floats = float __attribute__((vector_size(64)));
constexpr Offset kLanes = 16;

template <class V>
MANYHOP_INLINE void load(const void* from, V& to) {
  std::memcpy(&to, from, sizeof(V));
}
template <class V>
MANYHOP_INLINE void store(const V& from, void* to) {
  std::memcpy(to, &from, sizeof(V));
}

// To nearest even in the high half; a NaN stays one.
MANYHOP_INLINE void round_high(const float* from, Words& to) {
  Floats x;
  load(from, x);
  Words bits;
  load(from, bits);
  const Words even = bits + (((bits >> 16) & 1U) + 0x7FFFU);
  to = x == x ? even : bits | 0x00400000U;
}

// One of the four steps that transpose 16 x 16 words: blocks of S x S off the diagonal change places.
template <int S, std::size_t... J>
MANYHOP_INLINE void exchange(Words& a, Words& b, std::index_sequence<J...>) {
  const Words low = __builtin_shufflevector(a, b, ((J & S) != 0 ? 16 + J - S : J)...);
  const Words high = __builtin_shufflevector(a, b, ((J & S) != 0 ? 16 + J : J + S)...);
  a = low;
  b = high;
}
template <int S>
MANYHOP_INLINE void exchange_all(Words* rows) {
  for (int i = 0; i < 16; ++i) {
    if ((i & S) == 0) exchange<S>(rows[i], rows[i + S], std::make_index_sequence<16>());
  }
}
MANYHOP_INLINE void transpose(Words* rows) {
  exchange_all<8>(rows);
  exchange_all<4>(rows);
  exchange_all<2>(rows);
  exchange_all<1>(rows);
}

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

// The steps of a panel: 32 columns each, first those in one piece from an even column on, then the loose
// ones. A walk gives the pieces one by one and leaves the numbers of the loose dense columns behind.
struct Walk {
  const PanelView* view;
  Index* loose;
  Offset segment;
  Offset number = 0;  // of the first dense column of the segment
  Index taken = 0;    // columns of the segment that are gone
  Offset loose_count = 0;

  MANYHOP_INLINE Walk(const PanelView& of, Index* memory)
      : view(&of), loose(memory), segment(of.panel->segment) {}

  MANYHOP_INLINE void skip(Index count) {
    for (Index i = 0; i < count; ++i) loose[loose_count++] = static_cast<Index>(number + taken + i);
    taken += count;
  }
  // The number of the first dense column of the next piece, or -1.
  MANYHOP_INLINE Offset next() {
    while (segment < view->panel->segment_end) {
      const Segment& here = view->tiling->segments[static_cast<std::size_t>(segment)];
      if (taken < here.count && (here.begin + taken) % 2 != 0) skip(1);
      if (here.count - taken >= kTileCols) {
        const Offset piece = number + taken;
        taken += static_cast<Index>(kTileCols);
        return piece;
      }
      skip(here.count - taken);
      number += here.count;
      taken = 0;
      ++segment;
    }
    return -1;
  }
};

// 32 dense columns of weights, given by their numbers (null: absent), as [32 rows][32 columns].
MANYHOP_INLINE void weight_step(const float* const* columns, bf16* to) {
  for (Offset half = 0; half < kPanelRows; half += kLanes) {
    Words words[16];
    for (int pair = 0; pair < 16; ++pair) {
      Words low = {};
      Words high = {};
      if (columns[2 * pair] != nullptr) round_high(columns[2 * pair] + half, low);
      if (columns[2 * pair + 1] != nullptr) round_high(columns[2 * pair + 1] + half, high);
      words[pair] = (low >> 16) | (high & 0xFFFF0000U);
    }
    transpose(words);
    for (Offset r = 0; r < kLanes; ++r) store(words[r], to + (half + r) * kTileCols);
  }
}

MANYHOP_INLINE void weights_of_panel(const PanelView& view, const float* values, const TileScratch& scratch,
                                     bf16* to) {
  const float* columns[kTileCols];
  Walk walk(view, scratch.loose);
  for (Offset first = walk.next(); first >= 0; first = walk.next(), to += kTileCols * kPanelRows) {
    for (Offset c = 0; c < kTileCols; ++c) columns[c] = values + (first + c) * kPanelRows;
    weight_step(columns, to);
  }
  for (Offset from = 0; from < walk.loose_count; from += kTileCols, to += kTileCols * kPanelRows) {
    for (Offset c = 0; c < kTileCols; ++c) {
      columns[c] = from + c < walk.loose_count ? values + scratch.loose[from + c] * kPanelRows : nullptr;
    }
    weight_step(columns, to);
  }
}

// Two rows as Rows keeps them, word by word into pairs of features in their order; null: zeros.
MANYHOP_INLINE void pair_rows(const bf16* even, const bf16* odd, Offset features, bf16* to) {
  for (Offset f = 0; f < features; f += kHalfGroup) {
    Words a = {};
    Words b = {};
    if (even != nullptr) load(even + f, a);
    if (odd != nullptr) load(odd + f, b);
    store((a & 0xFFFFU) | (b << 16), to + 2 * f);
    store((a >> 16) | (b & 0xFFFF0000U), to + 2 * f + kHalfGroup);
  }
}

MANYHOP_INLINE void pairs_of(Rows<const bf16> z, Offset begin, Offset end, PairRows to) {
  for (Offset j = begin; j < end; ++j) {
    for (Offset block = 0; block < z.width; block += z.kBlock) {
      const bf16* odd = 2 * j + 1 < z.count ? z.row(block, 2 * j + 1) : nullptr;
      pair_rows(z.row(block, 2 * j), odd, z.stride(block), to.pair(j) + 2 * block);
    }
  }
}

template <class Unit>
MANYHOP_INLINE void scores_of_panel(const PanelView& view, const bf16* q, const bf16* k, Offset width,
                                    float scale, const TileScratch& scratch, float* values) {
  Unit unit;
  unit.begin();
  for (Offset c = 0; c < view.panel->dense_cols; c += kTileCols) {
    const Offset count = std::min(kTileCols, view.panel->dense_cols - c);
    const Index* cols = view.cols + c;
    const bool piece = count == kTileCols && cols[kTileCols - 1] - cols[0] == kTileCols - 1;
    const bf16* rows = k + cols[0] * width;
    if (!piece) {
      rows = scratch.gathered;
      for (Offset i = 0; i < count; ++i) {
        std::memcpy(scratch.gathered + i * width, k + cols[i] * width,
                    static_cast<std::size_t>(width) * sizeof(bf16));
      }
      std::fill(scratch.gathered + count * width, scratch.gathered + kTileCols * width, bf16{});
    }
    alignas(64) float partial[kTileCols * kPanelRows];
    float* out = count == kTileCols ? values + c * kPanelRows : partial;
    for (Offset f = 0; f < width; f += kTileBatch * kTileCols) {
      const Offset steps = std::min(kTileBatch, (width - f) / kTileCols);
      const bf16* words[kTileBatch];
      for (Offset s = 0; s < steps; ++s) words[s] = q + (f + s * kTileCols) * kPanelRows;
      unit.multiply({rows + f, kTileCols, width}, {words, 0, 2 * kPanelRows}, steps, f == 0, out, kPanelRows);
    }
    if (scale != 1) {
      for (Offset i = 0; i < kTileCols * kPanelRows; ++i) out[i] *= scale;
    }
    if (out == partial) std::copy_n(partial, count * kPanelRows, values + c * kPanelRows);
  }
  unit.end();
}

template <class Unit>
MANYHOP_INLINE void products_of_panel(const PanelView& view, const bf16* weights, PairRows x,
                                      Rows<const bf16> x_rows, const TileScratch& scratch, float* out) {
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
        for (Offset block = 0; block < x.width; block += x_rows.kBlock) {
          pair_rows(even < 0 ? nullptr : x_rows.row(block, even), odd < 0 ? nullptr : x_rows.row(block, odd),
                    x_rows.stride(block), to + c * x.width + 2 * block);
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

}  // namespace manyhop::ops::cpu::tiles
