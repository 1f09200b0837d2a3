// How the sum of a row leaves a kernel, the same for single edges and tiles.
#pragma once

#include "manyhop/ops/cuda/device.cuh"
#include "manyhop/ops/cuda/layout.hpp"

namespace manyhop::ops::cuda {

/// The 16-byte pieces of rows of storage type T.
template <class T>
struct Piece {
  using C = EdgeValue<T>;
  static constexpr int kSize = 16 / static_cast<int>(sizeof(T));

  __device__ static __forceinline__ void load(const T* from, C (&to)[kSize]) {
    const uint4 words = *reinterpret_cast<const uint4*>(from);
    if constexpr (sizeof(T) == 2) {
      const std::uint32_t word[4] = {words.x, words.y, words.z, words.w};
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        to[2 * i] = low_half(word[i]);
        to[2 * i + 1] = high_half(word[i]);
      }
    } else if constexpr (sizeof(T) == 4) {
      to[0] = as_float(words.x);
      to[1] = as_float(words.y);
      to[2] = as_float(words.z);
      to[3] = as_float(words.w);
    } else {
      const double2 pair = *reinterpret_cast<const double2*>(from);
      to[0] = pair.x;
      to[1] = pair.y;
    }
  }
  __device__ static __forceinline__ void store(const C (&from)[kSize], T* to) {
    if constexpr (sizeof(T) == 2) {
      *reinterpret_cast<uint4*>(to) = uint4{pack(from[0], from[1]), pack(from[2], from[3]),
                                            pack(from[4], from[5]), pack(from[6], from[7])};
    } else if constexpr (sizeof(T) == 4) {
      *reinterpret_cast<float4*>(to) = float4{from[0], from[1], from[2], from[3]};
    } else {
      *reinterpret_cast<double2*>(to) = double2{from[0], from[1]};
    }
  }
};

/// z = (keep sum + extra_scale extra) * dropout, for a row of a unit. Where several launches add to one row
/// (heads that share keys, hops by groups), all but the last leave their total in `totals`.
template <class T>
struct Finish {
  using C = EdgeValue<T>;
  C keep = 1;
  C extra_scale = 0;
  Rows<T> extra{};  // no data: none
  DeviceDropout dropout{};
  int hop = 0;
  C* totals = nullptr;  // [unit / share][n][width], or null: one launch
  bool first = true;
  bool last = true;
  T* out = nullptr;  // [unit / share][n][width]
  int share = 1;
  std::int64_t n = 0;
  int width = 0;

  /// Features [feature, feature + Piece<T>::kSize) of row i.
  __device__ __forceinline__ void write(std::int64_t unit, std::int64_t i, int feature,
                                        C (&sum)[Piece<T>::kSize]) const {
    constexpr int kSize = Piece<T>::kSize;
    const std::int64_t at = (unit / share * n + i) * width + feature;
    if (totals != nullptr) {
#pragma unroll
      for (int f = 0; f < kSize; ++f) {
        if (!first) sum[f] += totals[at + f];
        if (!last) totals[at + f] = sum[f];
      }
      if (!last) return;
    }
    C own[kSize] = {};
    if (extra.data != nullptr) Piece<T>::load(extra.row(unit, i) + feature, own);
#pragma unroll
    for (int f = 0; f < kSize; ++f) {
      C value = keep * sum[f];
      if (extra.data != nullptr) value += extra_scale * own[f];
      if (dropout.active()) value *= static_cast<C>(dropout.hop_factor(unit, hop, i, feature + f));
      sum[f] = value;
    }
    Piece<T>::store(sum, out + at);
  }
};

/// Where tasks leave sums that another kernel adds up: [blockIdx.y][tasks][width].
template <class C>
struct Parts {
  C* data = nullptr;
  std::int64_t tasks = 0;
  int width = 0;

  __device__ __forceinline__ C* of(std::int64_t task) const {
    return data + (static_cast<std::int64_t>(blockIdx.y) * tasks + task) * width;
  }
  /// Adds features [feature, feature + N) of the tasks of a range, in their order.
  template <int N>
  __device__ __forceinline__ void add(TaskRange range, int feature, C (&sum)[N]) const {
    for (std::int32_t task = range.begin; task < range.end; ++task) {
      const C* part = of(task) + feature;
#pragma unroll
      for (int f = 0; f < N; ++f) sum[f] += part[f];
    }
  }
};

}  // namespace manyhop::ops::cuda
