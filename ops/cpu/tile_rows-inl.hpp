// Rows and weights in the shapes that tiles multiply, rounded to bf16. As in tiles-inl.hpp everything is
// inlined into functions that say which instruction set they are for.
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
// 16 features of a row from f on, less those of the center (null: none).
MANYHOP_INLINE void round_high(const float* row, const float* center, Offset f, Words& to) {
  Floats x;
  Floats less = {};
  load(row + f, x);
  if (center != nullptr) load(center + f, less);
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

// Of floats less a center (null: none), likewise.
MANYHOP_INLINE void pair_rows(const float* even, const float* odd, const float* center, Offset from,
                              Offset to, bf16* pair) {
  for (Offset f = from; f < to; f += kLanes) {
    Words a = {};
    Words b = {};
    if (even != nullptr) round_high(even, center, f, a);
    if (odd != nullptr) round_high(odd, center, f, b);
    store((a >> 16) | (b & 0xFFFF0000U), pair + 2 * f);
  }
}
MANYHOP_INLINE void pairs_of(Rows<const float> z, const float* center, Offset begin, Offset end,
                             PairRows to) {
  for (Offset j = begin; j < end; ++j) {
    for (Offset block = 0; block < z.width; block += z.kBlock) {
      const float* odd = 2 * j + 1 < z.count ? z.row(block, 2 * j + 1) : nullptr;
      pair_rows(z.row(block, 2 * j), odd, center == nullptr ? nullptr : center + block, 0, z.stride(block),
                to.pair(j) + 2 * block);
    }
  }
}

MANYHOP_INLINE void pairs_of_rows(const float* rows, Offset from, Offset to, PairRows pairs) {
  for (Offset j = 0; j < kPanelRows / 2; ++j) {
    const float* even = rows + 2 * j * pairs.width;
    pair_rows(even, even + pairs.width, nullptr, from, to, pairs.pair(j));
  }
}

// 32 features as 16 words, features i and 16 + i in word i: a shift and a mask, no shuffle.
MANYHOP_INLINE void half_words(const float* row, const float* center, Words& to) {
  Words low;
  Words high;
  round_high(row, center, 0, low);
  round_high(row, center, kLanes, high);
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
      for (Offset i = 0; i < 16; ++i) half_words(rows + (half + i) * width + f, nullptr, words[i]);
      transpose(words);
      for (Offset w = 0; w < 16; ++w) store(words[w], to + ((f / 2 + w) * kPanelRows + half) * 2);
    }
  }
}

}  // namespace manyhop::ops::cpu::tiles
