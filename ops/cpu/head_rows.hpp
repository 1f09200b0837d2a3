// Rows of q, k, v, out and of what a head keeps, between their types and layouts.
#pragma once

#include <algorithm>
#include <bit>
#include <cstdint>
#include <type_traits>

#include "manyhop/graphs/base/tensor.hpp"
#include "manyhop/ops/attention_head.hpp"
#include "manyhop/ops/cpu/panel_kernels.hpp"

namespace manyhop::ops::cpu {

inline constexpr int kRowsAhead = 8;  // rows to ask for before they are read

/// Rows of one head lie a whole token apart, each on a page of its own: without asking ahead every row waits
/// for memory (twice the time of pack at 12 heads of 64).
template <class T>
void prefetch_row(TensorView<const T> from, Offset i, Offset d) {
  const T* row = from.data + i * from.stride[0];
  if (from.stride[1] != 1) return;
  for (Offset f = 0; f < d; f += static_cast<Offset>(64 / sizeof(T))) __builtin_prefetch(row + f);
}

/// row[f - begin] = from[i, f] * scale for f in [begin, end), zero from d on.
template <class C, class T>
void read_row(TensorView<const T> from, Offset i, Offset d, C scale, Offset begin, Offset end, C* row) {
  const T* source = from.data + i * from.stride[0];
  const auto convert = [](T value) {
    if constexpr (std::is_same_v<T, double>) {
      return value;
    } else {
      return static_cast<C>(static_cast<float>(value));
    }
  };
  const Offset stop = std::clamp(d, begin, end);
  if (from.stride[1] == 1) {  // the compiler vectorises only a step that it knows
    for (Offset f = begin; f < stop; ++f) row[f - begin] = convert(source[f]) * scale;
  } else {
    for (Offset f = begin; f < stop; ++f) row[f - begin] = convert(source[f * from.stride[1]]) * scale;
  }
  std::fill(row + (stop - begin), row + (end - begin), C{0});
}

/// The same of bf16 as Rows keeps it.
inline void read_half_row(TensorView<const bf16> from, Offset i, Offset d, Offset begin, Offset end,
                          bf16* row) {
  const bf16* source = from.data + i * from.stride[0];
  const Offset step = from.stride[1];
  Offset f = begin;
  for (; f + kHalfGroup <= std::min(d, end) && step == 1; f += kHalfGroup) {
    for (Offset j = 0; j < kHalfGroup / 2; ++j) {
      row[f - begin + 2 * j] = source[f + j];
      row[f - begin + 2 * j + 1] = source[f + kHalfGroup / 2 + j];
    }
  }
  for (; f < end; ++f) row[half_place(f - begin)] = f < d ? source[f * step] : bf16{};
}

/// All ones in the exponent: NaN or infinity. One more in the exponent then carries into the sign, and lanes
/// stay as wide as the numbers, so that the loop becomes vectors; a sum of x * 0 is a chain that does not.
template <class C>
bool all_finite(const C* row, Offset count) {
  using Bits = std::conditional_t<sizeof(C) == 2, std::uint16_t,
                                  std::conditional_t<sizeof(C) == 4, std::uint32_t, std::uint64_t>>;
  constexpr Bits kExponent = sizeof(C) == 2   ? Bits{0x7F80U}
                             : sizeof(C) == 4 ? static_cast<Bits>(0x7F800000U)
                                              : static_cast<Bits>(0x7FF0000000000000ULL);
  constexpr Bits kOne = kExponent & static_cast<Bits>(-kExponent);  // the exponent's last bit
  Bits found = 0;
  for (Offset f = 0; f < count; ++f) {
    const Bits exponent = std::bit_cast<Bits>(row[f]) & kExponent;
    found = static_cast<Bits>(found | static_cast<Bits>(exponent + kOne));
  }
  return (found >> (8 * sizeof(Bits) - 1)) == 0;
}

/// Row i of x.
template <class S>
bool row_is_finite(Rows<const S> x, Offset i) {
  bool good = true;
  for (Offset block = 0; block < x.width; block += x.kBlock)
    good &= all_finite(x.row(block, i), x.stride(block));
  return good;
}

/// The row of x in one piece, [width], and back.
template <class S, class C>
void copy_row(Rows<const S> x, Offset i, C* row) {
  for (Offset block = 0; block < x.width; block += x.kBlock) {
    const S* from = x.row(block, i);
    if constexpr (std::is_same_v<S, C>) {
      std::copy_n(from, x.stride(block), row + block);
    } else {
      for (Offset f = 0; f < x.stride(block); f += kHalfGroup) {
        for (Offset j = 0; j < kHalfGroup / 2; ++j) {
          row[block + f + j] = static_cast<C>(from[f + 2 * j]);
          row[block + f + kHalfGroup / 2 + j] = static_cast<C>(from[f + 2 * j + 1]);
        }
      }
    }
  }
}
template <class S, class C>
void copy_row(const C* row, Rows<S> x, Offset i) {
  for (Offset block = 0; block < x.width; block += x.kBlock) {
    S* to = x.row(block, i);
    if constexpr (std::is_same_v<S, C>) {
      std::copy_n(row + block, x.stride(block), to);
    } else {
      for (Offset f = 0; f < x.stride(block); f += kHalfGroup) {
        for (Offset j = 0; j < kHalfGroup / 2; ++j) {
          to[f + 2 * j] = S(row[block + f + j]);
          to[f + 2 * j + 1] = S(row[block + f + kHalfGroup / 2 + j]);
        }
      }
    }
  }
}

/// out[row, :d] = z in the storage type.
template <class T>
void write_row(const ComputeOf<T>* z, Offset d, TensorView<T> out, Offset row) {
  T* target = out.data + row * out.stride[0];
  if (out.stride[1] == 1) {  // the compiler vectorises only a step that it knows
    for (Offset f = 0; f < d; ++f) target[f] = static_cast<T>(z[f]);
  } else {
    for (Offset f = 0; f < d; ++f) target[f * out.stride[1]] = static_cast<T>(z[f]);
  }
}

/// row[f - begin] = from[i, f] for f in [begin, end), zero from d on.
inline void copy_half(TensorView<const bf16> from, Offset i, Offset d, Offset begin, Offset end, bf16* row) {
  const bf16* source = from.data + i * from.stride[0];
  const Offset stop = std::clamp(d, begin, end);
  if (from.stride[1] == 1) {
    std::copy(source + begin, source + stop, row);
  } else {
    for (Offset f = begin; f < stop; ++f) row[f - begin] = source[f * from.stride[1]];
  }
  std::fill(row + (stop - begin), row + (end - begin), bf16{});
}

}  // namespace manyhop::ops::cpu
