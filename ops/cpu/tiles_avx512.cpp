// Tiles by AVX-512's products of bf16 pairs (VDPBF16PS): twice the multiply-adds an instruction that fp32
// has.
#include "manyhop/ops/cpu/tile_units.hpp"

#if defined(__x86_64__)
#include <cpuid.h>
#include <immintrin.h>

// Clang's attribute does not take a preferred width; its vectors here are 512 bits wide by their types.
#if defined(__clang__)
#define MANYHOP_BF16_TARGET __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,fma")))
#else
#define MANYHOP_BF16_TARGET \
  __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,fma,prefer-vector-width=512")))
#endif

namespace manyhop::ops::cpu::tiles {

namespace {

// Sums of 8 rows x 32 columns stay in 16 registers over all steps: each pair of the left operand, broadcast,
// meets two vectors of the right one. Subnormal numbers count as zeros, as they do in AMX.
struct Avx512 {
  static constexpr Offset kRows = 8;

  void begin() {}
  void end() {}
  MANYHOP_BF16_TARGET void multiply(const Left& left, const Right& right, Offset steps, bool fresh,
                                    float* out, Offset stride) {
    for (Offset row = 0; row < kPanelRows; row += kRows) {
      __m512 low[kRows];
      __m512 high[kRows];
#pragma GCC unroll 8
      for (Offset i = 0; i < kRows; ++i) {
        const float* from = out + (row + i) * stride;
        low[i] = fresh ? _mm512_setzero_ps() : _mm512_loadu_ps(from);
        high[i] = fresh ? _mm512_setzero_ps() : _mm512_loadu_ps(from + kLanes);
      }
      for (Offset s = 0; s < steps; ++s) {
        const bf16* a = left.data + s * left.step + row * left.stride;
        const bf16* b = right.steps[s] + right.offset;
        for (Offset p = 0; p < kTileCols / 2; ++p) {
          const __m512i b0 = _mm512_loadu_si512(b + p * right.stride);
          const __m512i b1 = _mm512_loadu_si512(b + p * right.stride + 2 * kLanes);
#pragma GCC unroll 8
          for (Offset i = 0; i < kRows; ++i) {
            int word = 0;
            std::memcpy(&word, a + i * left.stride + 2 * p, sizeof(word));
            __m512i pair = _mm512_set1_epi32(word);  // NOLINT(misc-const-correctness): see below
#if defined(__clang__)
            // Clang 16 crashes where it folds the broadcast into the product.
            __asm__("" : "+v"(pair));
#endif
            low[i] = _mm512_dpbf16_ps(low[i], bits(pair), bits(b0));
            high[i] = _mm512_dpbf16_ps(high[i], bits(pair), bits(b1));
          }
        }
      }
#pragma GCC unroll 8
      for (Offset i = 0; i < kRows; ++i) {
        _mm512_storeu_ps(out + (row + i) * stride, low[i]);
        _mm512_storeu_ps(out + (row + i) * stride + kLanes, high[i]);
      }
    }
  }

 private:
  MANYHOP_BF16_TARGET static MANYHOP_INLINE __m512bh bits(__m512i from) {
    __m512bh to;
    std::memcpy(&to, &from, sizeof(to));
    return to;
  }
};

MANYHOP_TILE_FUNCTIONS(MANYHOP_BF16_TARGET, Avx512);

// Processor: CPUID leaf 7 says AVX-512 F, DQ, BW, VL and, in its second part, BF16 (bit 5 of EAX); XCR0 that
// the system saves the registers.
bool available() {
  unsigned a = 0;
  unsigned b = 0;
  unsigned c = 0;
  unsigned d = 0;
  if (__get_cpuid(1, &a, &b, &c, &d) == 0 || (c & (1U << 27)) == 0) return false;
  if (__get_cpuid_count(7, 0, &a, &b, &c, &d) == 0 || a == 0) return false;
  constexpr unsigned kAvx512 = (1U << 16) | (1U << 17) | (1U << 30) | (1U << 31);
  if ((b & kAvx512) != kAvx512) return false;
  if (__get_cpuid_count(7, 1, &a, &b, &c, &d) == 0 || (a & (1U << 5)) == 0) return false;
  unsigned low = 0;   // NOLINT(misc-const-correctness): the assembly writes them
  unsigned high = 0;  // NOLINT(misc-const-correctness)
  __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  constexpr unsigned kSaved = (7U << 5) | (3U << 1);
  return (low & kSaved) == kSaved;
}

MANYHOP_BF16_TARGET void multiply_once(const Left& left, const Right& right, Offset steps, bool fresh,
                                       float* out, Offset stride) {
  Avx512().multiply(left, right, steps, fresh, out, stride);
}
bool right() { return same_as_emulated(multiply_once); }

}  // namespace

Unit avx512_unit() { return TileFunctions::unit("avx512bf16", "AVX-512 with BF16", available, right); }

}  // namespace manyhop::ops::cpu::tiles

#else

namespace manyhop::ops::cpu::tiles {
Unit avx512_unit() { return {"avx512bf16", "AVX-512 with BF16"}; }
}  // namespace manyhop::ops::cpu::tiles

#endif
