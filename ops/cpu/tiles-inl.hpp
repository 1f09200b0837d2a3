// The loops over tiles, for any unit that multiplies them: AMX, AVX-512's products of bf16, or plain loops
// that do what they do. Everything is inlined into functions that say which instruction set they are for, so
// there are no lambdas here.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
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
MANYHOP_INLINE void round_high(const Floats& x, Words& to) {
  Words bits;
  std::memcpy(&bits, &x, sizeof(x));
  const Words even = bits + (((bits >> 16) & 1U) + 0x7FFFU);
  to = x == x ? even : bits | 0x00400000U;
}
MANYHOP_INLINE void round_high(const float* from, Words& to) {
  Floats x;
  load(from, x);
  round_high(x, to);
}
MANYHOP_INLINE void round_high(const float* from, const float* center, Words& to) {
  Floats x;
  Floats less = {};
  load(from, x);
  if (center != nullptr) load(center, less);
  round_high(x - less, to);
}

// 32 rounded numbers in their order, from the high halves of two vectors.
template <std::size_t... J>
MANYHOP_INLINE void join_high(const Words& a, const Words& b, Words& to, std::index_sequence<J...>) {
  using Halves = std::uint16_t __attribute__((vector_size(64)));
  Halves low;
  Halves high;
  std::memcpy(&low, &a, sizeof(a));
  std::memcpy(&high, &b, sizeof(b));
  const Halves both = __builtin_shufflevector(low, high, (2 * J + 1)...);
  std::memcpy(&to, &both, sizeof(to));
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

// 16 rows of a column, rounded, and added to `sum` before that.
MANYHOP_INLINE void round_and_add(const float* column, Floats& sum, Words& to) {
  Floats x;
  load(column, x);
  sum += x;
  round_high(x, to);
}

// 32 dense columns of weights, given by their numbers (null: absent), as [32 rows][32 columns].
MANYHOP_INLINE void weight_step(const float* const* columns, bf16* to, Floats* sums) {
  for (Offset half = 0; half < kPanelRows; half += kLanes) {
    Floats& sum = sums[half / kLanes];
    Words words[16];
    for (int pair = 0; pair < 16; ++pair) {
      Words low = {};
      Words high = {};
      if (columns[2 * pair] != nullptr) round_and_add(columns[2 * pair] + half, sum, low);
      if (columns[2 * pair + 1] != nullptr) round_and_add(columns[2 * pair + 1] + half, sum, high);
      words[pair] = (low >> 16) | (high & 0xFFFF0000U);
    }
    transpose(words);
    for (Offset r = 0; r < kLanes; ++r) store(words[r], to + (half + r) * kTileCols);
  }
}

MANYHOP_INLINE void weights_of_panel(const PanelView& view, const float* values, const TileScratch& scratch,
                                     bf16* to, float* sums) {
  Floats totals[kPanelRows / kLanes] = {};
  const float* columns[kTileCols];
  Walk walk(view, scratch.loose);
  for (Offset first = walk.next(); first >= 0; first = walk.next(), to += kTileCols * kPanelRows) {
    for (Offset c = 0; c < kTileCols; ++c) columns[c] = values + (first + c) * kPanelRows;
    weight_step(columns, to, totals);
  }
  for (Offset from = 0; from < walk.loose_count; from += kTileCols, to += kTileCols * kPanelRows) {
    for (Offset c = 0; c < kTileCols; ++c) {
      columns[c] = from + c < walk.loose_count ? values + scratch.loose[from + c] * kPanelRows : nullptr;
    }
    weight_step(columns, to, totals);
  }
  if (sums != nullptr) std::memcpy(sums, totals, sizeof(totals));
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

// Floats less a center, likewise.
MANYHOP_INLINE void pair_rows(const float* even, const float* odd, const float* center, Offset features,
                              bf16* to) {
  for (Offset f = 0; f < features; f += kLanes) {
    Words a = {};
    Words b = {};
    if (even != nullptr) round_high(even + f, center == nullptr ? nullptr : center + f, a);
    if (odd != nullptr) round_high(odd + f, center == nullptr ? nullptr : center + f, b);
    store((a >> 16) | (b & 0xFFFF0000U), to + 2 * f);
  }
}
MANYHOP_INLINE void pairs_of(Rows<const float> z, const float* center, Offset begin, Offset end,
                             PairRows to) {
  for (Offset j = begin; j < end; ++j) {
    for (Offset block = 0; block < z.width; block += z.kBlock) {
      const float* odd = 2 * j + 1 < z.count ? z.row(block, 2 * j + 1) : nullptr;
      pair_rows(z.row(block, 2 * j), odd, center == nullptr ? nullptr : center + block, z.stride(block),
                to.pair(j) + 2 * block);
    }
  }
}

MANYHOP_INLINE void pairs_of_rows(const float* rows, Offset from, Offset to, PairRows pairs) {
  for (Offset j = 0; j < kPanelRows / 2; ++j) {
    const float* even = rows + 2 * j * pairs.width;
    for (Offset f = from; f < to; f += kLanes) {
      Words a;
      Words b;
      round_high(even + f, a);
      round_high(even + pairs.width + f, b);
      store((a >> 16) | (b & 0xFFFF0000U), pairs.pair(j) + 2 * f);
    }
  }
}

// 32 features as 16 words, features i and 16 + i in word i: a shift and a mask, no shuffle.
MANYHOP_INLINE void half_words(const float* row, Words& to) {
  Words low;
  Words high;
  round_high(row, low);
  round_high(row + kLanes, high);
  to = (low >> 16) | (high & 0xFFFF0000U);
}
MANYHOP_INLINE void half_words(const float* row, const float* center, Words& to) {
  Words low;
  Words high;
  round_high(row, center, low);
  round_high(row + kLanes, center + kLanes, high);
  to = (low >> 16) | (high & 0xFFFF0000U);
}

MANYHOP_INLINE void halves_of(Rows<const float> z, const float* center, Offset begin, Offset end, bf16* to,
                              Offset stride) {
  for (Offset block = 0; block < z.width; block += kHalfGroup) {
    for (Offset i = begin; i < end; ++i) {
      Words words;
      half_words(z.row(block, i), center + block, words);
      store(words, to + i * stride + block);
    }
  }
}

// Squares of floats may lie outside of what floats hold: in double.
MANYHOP_INLINE bool center_of_rows(Rows<const float> z, Offset count, float* center) {
  using Doubles = double __attribute__((vector_size(64)));
  using Eight = float __attribute__((vector_size(32)));
  constexpr Offset kEights = kHalfGroup / 8;
  constexpr double kShare = 0.25;  // of the root mean square; of 256 numbers around 0 the mean is a sixteenth
  const Offset taken = std::min<Offset>(count, 256);
  bool some = false;
  for (Offset block = 0; block < z.width; block += kHalfGroup) {
    Doubles sums[kEights] = {};
    Doubles squares[kEights] = {};
    for (Offset i = 0; i < taken; ++i) {
      const float* row = z.row(block, i * count / taken);
#pragma GCC unroll 4
      for (Offset part = 0; part < kEights; ++part) {
        Eight floats;
        load(row + 8 * part, floats);
        const Doubles x = __builtin_convertvector(floats, Doubles);
        sums[part] += x;
        squares[part] += x * x;
      }
    }
    for (Offset f = 0; f < kHalfGroup; ++f) {
      const double mean = sums[f / 8][f % 8] / static_cast<double>(taken);
      const double limit = kShare * std::sqrt(squares[f / 8][f % 8] / static_cast<double>(taken));
      const bool large = std::isfinite(limit) && mean != 0 && std::abs(mean) >= limit;
      center[block + f] = large ? static_cast<float>(mean) : 0;
      some = some || large;
    }
  }
  return some;
}

MANYHOP_INLINE void words_of_rows(const float* rows, Offset width, bf16* to) {
  for (Offset f = 0; f < width; f += kHalfGroup) {
    for (Offset half = 0; half < kPanelRows; half += kLanes) {
      Words words[16];
      for (Offset i = 0; i < 16; ++i) half_words(rows + (half + i) * width + f, words[i]);
      transpose(words);
      for (Offset w = 0; w < 16; ++w) store(words[w], to + ((f / 2 + w) * kPanelRows + half) * 2);
    }
  }
}

template <class Unit>
MANYHOP_INLINE void scores_of_panel(const PanelView& view, const bf16* q, TileKeys k, float scale,
                                    bool accumulate, const TileScratch& scratch, float* values) {
  Unit unit;
  unit.begin();
  for (Offset c = 0; c < view.panel->dense_cols; c += kTileCols) {
    const Offset count = std::min(kTileCols, view.panel->dense_cols - c);
    const Index* cols = view.cols + c;
    const bool piece = count == kTileCols && cols[kTileCols - 1] - cols[0] == kTileCols - 1;
    const bf16* rows = k.data + cols[0] * k.stride;
    Offset stride = k.stride;
    if (!piece) {
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
    const Offset count = std::min(kTileCols, view.panel->dense_cols - c);
    const Index* cols = view.cols + c;
    const bool piece = count == kTileCols && cols[kTileCols - 1] - cols[0] == kTileCols - 1;
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
      if (piece) {
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
