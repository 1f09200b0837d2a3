// What kernels are written in: warps of 32 lanes that exchange values by shuffles, 16-byte loads, bf16 pairs
// and the tensor cores' bf16 product. No kernel uses shared memory or a barrier of a block, so a warp is all
// there is to reason about, and the tests run the same sources on the host (tests/ops/cuda/emulator).
#pragma once

#include <cuda_runtime.h>

#include <bit>
#include <cmath>
#include <cstdint>

#include "manyhop/graphs/base/random.hpp"
#include "manyhop/graphs/base/tensor.hpp"
#include "manyhop/ops/edge_value.hpp"

namespace manyhop::ops::cuda {

inline constexpr unsigned kWarp = 32;
inline constexpr unsigned kAllLanes = 0xffffffffU;
inline constexpr unsigned kBlockWarps = 4;

__device__ __forceinline__ int lane_id() { return static_cast<int>(threadIdx.x % kWarp); }
/// The number of this warp in the grid's first axis.
__device__ __forceinline__ std::int64_t warp_id() {
  return static_cast<std::int64_t>(blockIdx.x) * kBlockWarps + threadIdx.x / kWarp;
}
/// The number of this thread in the grid's first axis.
__device__ __forceinline__ std::int64_t thread_id() {
  return static_cast<std::int64_t>(blockIdx.x) * (kBlockWarps * kWarp) + threadIdx.x;
}

__device__ __forceinline__ std::uint32_t as_bits(float value) {
#ifdef __CUDA_ARCH__
  return __float_as_uint(value);
#else
  return std::bit_cast<std::uint32_t>(value);
#endif
}
__device__ __forceinline__ float as_float(std::uint32_t bits) {
#ifdef __CUDA_ARCH__
  return __uint_as_float(bits);
#else
  return std::bit_cast<float>(bits);
#endif
}

/// Two floats as bf16, `low` in the lower half; rounds to nearest even, NaN stays NaN.
__device__ __forceinline__ std::uint32_t pack(float low, float high) {
#ifdef __CUDA_ARCH__
  std::uint32_t pair;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
  return pair;
#else
  return static_cast<std::uint32_t>(bf16(low).bits) | static_cast<std::uint32_t>(bf16(high).bits) << 16;
#endif
}
__device__ __forceinline__ float low_half(std::uint32_t pair) { return as_float(pair << 16); }
__device__ __forceinline__ float high_half(std::uint32_t pair) { return as_float(pair & 0xffff0000U); }

/// (low half of a, low half of b) and (high half of a, high half of b).
__device__ __forceinline__ std::uint32_t low_halves(std::uint32_t a, std::uint32_t b) {
#ifdef __CUDA_ARCH__
  return __byte_perm(a, b, 0x5410);
#else
  return (a & 0xffffU) | b << 16;
#endif
}
__device__ __forceinline__ std::uint32_t high_halves(std::uint32_t a, std::uint32_t b) {
#ifdef __CUDA_ARCH__
  return __byte_perm(a, b, 0x7632);
#else
  return a >> 16 | (b & 0xffff0000U);
#endif
}

/// c += a b by one m16n8k16 product of the tensor cores: bf16 operands, fp32 sums. With g = lane / 4, t =
/// lane % 4: a[r] holds row g + 8 (r % 2), columns 2 t + 8 (r / 2) and the next; b[r] rows 2 t + 8 r and the
/// next of column g; c[i] row g + 8 (i / 2), column 2 t + i % 2.
__device__ __forceinline__ void multiply(float (&c)[4], const std::uint32_t (&a)[4], std::uint32_t b0,
                                         std::uint32_t b1) {
#ifdef __CUDA_ARCH__
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, "
      "%1, %2, %3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
#elif !defined(__CUDACC__)
  emulator::multiply(c, a, b0, b1);
#endif
}

/// Rounded to the 10 bits of mantissa that TF32 has, ties away from zero.
__device__ __forceinline__ std::uint32_t to_tf32(std::uint32_t bits) {
#ifdef __CUDA_ARCH__
  std::uint32_t rounded;
  asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(rounded) : "f"(__uint_as_float(bits)));
  return rounded;
#else
  return (bits & 0x7fffffffU) > 0x7f800000U ? 0x7fffe000U  // NaN
                                            : (bits + 0x1000U) & 0xffffe000U;
#endif
}

/// c += a b by one m16n8k8 product: TF32 operands, fp32 sums. a[r] holds row g + 8 (r % 2), column t + 4 (r /
/// 2); b[r] row t + 4 r of column g; c as above.
__device__ __forceinline__ void multiply_tf32(float (&c)[4], const std::uint32_t (&a)[4], std::uint32_t b0,
                                              std::uint32_t b1) {
  const std::uint32_t x[4] = {to_tf32(a[0]), to_tf32(a[1]), to_tf32(a[2]), to_tf32(a[3])};
  const std::uint32_t y[2] = {to_tf32(b0), to_tf32(b1)};
#ifdef __CUDA_ARCH__
  asm volatile(
      "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(x[0]), "r"(x[1]), "r"(x[2]), "r"(x[3]), "r"(y[0]), "r"(y[1]));
#elif !defined(__CUDACC__)
  emulator::multiply_tf32(c, x, y[0], y[1]);
#endif
}
/// The product of tensor cores over values that are stored as T.
template <class T>
__device__ __forceinline__ void multiply_as(float (&c)[4], const std::uint32_t (&a)[4], std::uint32_t b0,
                                            std::uint32_t b1) {
  if constexpr (sizeof(T) == 2) {
    multiply(c, a, b0, b1);
  } else {
    multiply_tf32(c, a, b0, b1);
  }
}

/// A stored value as one that can be summed, and back.
template <class T>
__device__ __forceinline__ EdgeValue<T> widen_value(T value) {
  if constexpr (sizeof(T) == 2) {
    return as_float(static_cast<std::uint32_t>(value.bits) << 16);
  } else {
    return value;
  }
}
template <class T>
__device__ __forceinline__ T narrow_value(double value) {
  if constexpr (sizeof(T) == 2) {
    T stored;
    stored.bits = static_cast<std::uint16_t>(pack(static_cast<float>(value), 0.0F));
    return stored;
  } else {
    return static_cast<T>(value);
  }
}

template <class T>
__device__ __forceinline__ T shuffle_xor(T value, int lanes) {
  return __shfl_xor_sync(kAllLanes, value, lanes);
}

/// Bit l: what lane l says.
__device__ __forceinline__ std::uint32_t ballot(bool says) {
#ifdef __CUDA_ARCH__
  return __ballot_sync(kAllLanes, says);
#else
  std::uint32_t lanes = says ? 1U << static_cast<unsigned>(lane_id()) : 0U;
  for (int other = 16; other > 0; other /= 2) lanes |= shuffle_xor(lanes, other);
  return lanes;
#endif
}
__device__ __forceinline__ int bits_set(std::uint32_t bits) {
#ifdef __CUDA_ARCH__
  return __popc(bits);
#else
  return std::popcount(bits);
#endif
}

/// What lanes have written to memory before it, all lanes of the warp see after it.
__device__ __forceinline__ void sync_warp() { __syncwarp(kAllLanes); }

__device__ __forceinline__ float exponential(float x) { return expf(x); }
__device__ __forceinline__ double exponential(double x) { return exp(x); }
__device__ __forceinline__ float logarithm(float x) { return logf(x); }
__device__ __forceinline__ double logarithm(double x) { return log(x); }
/// For weights that are rounded to bf16 anyway: 2 ulp + 2^-21 |x|.
__device__ __forceinline__ float quick_exponential(float x) {
#ifdef __CUDA_ARCH__
  return __expf(x);
#else
  return expf(x);
#endif
}
template <class C>
__device__ __forceinline__ C minus_infinity() {
  return static_cast<C>(-INFINITY);
}

/// Sum of exponentials relative to the largest exponent; NaN stays.
template <class C>
struct SoftmaxSum {
  C most = minus_infinity<C>();
  C sum = 0;

  __device__ __forceinline__ void add(C score, C factor = 1) {
    if (score == minus_infinity<C>()) return;
    if (!(score <= most)) {  // NaN as well
      sum = most == minus_infinity<C>() ? C{0} : sum * exponential(most - score);
      most = score;
    }
    sum += factor * exponential(score - most);
  }
  __device__ __forceinline__ void add(SoftmaxSum other) {
    if (other.most == minus_infinity<C>()) return;
    if (!(other.most <= most)) {
      sum = most == minus_infinity<C>() ? C{0} : sum * exponential(most - other.most);
      most = other.most;
    }
    sum += other.sum * exponential(other.most - most);
  }
  __device__ __forceinline__ C log_sum() const {
    return sum == C{0} ? minus_infinity<C>() : most + logarithm(sum);
  }
};

/// Of lanes whose numbers differ in bits [from, to) alone. Both of a pair add in the same order, so that all
/// end with the same bits.
template <class C>
__device__ __forceinline__ SoftmaxSum<C> over_lanes(SoftmaxSum<C> sum, int from, int to) {
#pragma unroll
  for (int lanes = from; lanes < to; lanes *= 2) {
    SoftmaxSum<C> other;
    other.most = shuffle_xor(sum.most, lanes);
    other.sum = shuffle_xor(sum.sum, lanes);
    if ((lane_id() & lanes) == 0) {
      sum.add(other);
    } else {
      other.add(sum);
      sum = other;
    }
  }
  return sum;
}

/// exp(score - lse), 0 for a row whose scores are all -inf.
template <class C>
__device__ __forceinline__ C softmax_weight(C score, C lse) {
  return lse == minus_infinity<C>() ? C{0} : exponential(score - lse);
}

/// The same for weights that are rounded to bf16 anyway.
__device__ __forceinline__ float quick_weight(float score, float lse) {
  return lse == minus_infinity<float>() ? 0.0F : quick_exponential(score - lse);
}

/// Rows [unit / heads_a_row][n][width]: q by query head, k and v by key/value head.
template <class T>
struct Rows {
  const T* data = nullptr;
  std::int64_t n = 0;
  int width = 0;  // padded; rows are 64-byte aligned
  int share = 1;  // query heads that share a head of these rows

  __device__ __forceinline__ const T* row(std::int64_t unit, std::int64_t i) const {
    return data + (unit / share * n + i) * width;
  }
};

/// Dropout as the host has it: a key for each unit, made from (seed, use, batch, head).
struct DeviceDropout {
  const std::uint32_t* keys = nullptr;  // [units][2]; null: none
  std::uint32_t threshold = 0;
  double scale = 1;

  __device__ __forceinline__ bool active() const { return keys != nullptr; }
  __device__ __forceinline__ double edge_factor(std::int64_t unit, std::int64_t edge) const {
    const auto draw =
        philox({static_cast<std::uint32_t>(edge / 4), static_cast<std::uint32_t>(edge / 4 >> 32), 0U, 0U},
               {keys[2 * unit], keys[2 * unit + 1]});
    return draw[static_cast<std::size_t>(edge % 4)] >= threshold ? scale : 0.0;
  }
  __device__ __forceinline__ double hop_factor(std::int64_t unit, int hop, std::int64_t token,
                                               int channel) const {
    const auto draw = philox({static_cast<std::uint32_t>(token), static_cast<std::uint32_t>(hop),
                              static_cast<std::uint32_t>(channel / 4), 0U},
                             {keys[2 * unit], keys[2 * unit + 1]});
    return draw[static_cast<std::size_t>(channel % 4)] >= threshold ? scale : 0.0;
  }
};

/// What a call's kernels share: which heads, and how far each item of the batch reaches.
struct Units {
  std::int64_t first = 0;  // unit = first + step * blockIdx.y: one graph for all heads, or a graph for each
  std::int64_t step = 1;
  int heads = 1;                          // units of a batch item
  const std::int64_t* lengths = nullptr;  // [batch], or null: whole graphs
  std::int64_t n_rows = 0;
  std::int64_t n_cols = 0;
  bool square = true;
  bool transposed = false;  // rows are the graph's columns

  __device__ __forceinline__ std::int64_t unit() const {
    return first + step * static_cast<std::int64_t>(blockIdx.y);
  }
  /// A length cuts the columns, and the rows of a square graph.
  __device__ __forceinline__ std::int64_t rows(std::int64_t unit) const {
    return lengths == nullptr || !(square || transposed) ? n_rows : lengths[unit / heads];
  }
  __device__ __forceinline__ std::int64_t cols(std::int64_t unit) const {
    return lengths == nullptr || !(square || !transposed) ? n_cols : lengths[unit / heads];
  }
};

}  // namespace manyhop::ops::cuda
