// The one place that names AMX: its intrinsics, and what machine and system must have to run them.
#include "manyhop/ops/cpu/tile_units.hpp"

#if defined(__x86_64__) && defined(__linux__)
#include <cpuid.h>
#include <immintrin.h>
#include <sys/syscall.h>
#include <unistd.h>

#define MANYHOP_AMX_TARGET __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,amx-tile,amx-bf16")))

namespace manyhop::ops::cpu::tiles {

namespace {

// Eight tiles of 16 rows x 64 bytes: 0 to 3 hold sums, 4 and 5 the left operand, 6 and 7 the right one.
struct alignas(64) TileConfig {
  std::uint8_t palette = 1;
  std::uint8_t start_row = 0;
  std::uint8_t reserved[14] = {};
  std::uint16_t bytes_per_row[16] = {64, 64, 64, 64, 64, 64, 64, 64};
  std::uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};
static_assert(sizeof(TileConfig) == 64);
// Not on the stack: GCC's intrinsic says that it reads eight bytes of it, and the others would not be
// written.
constexpr TileConfig kTileConfig;

// GCC's intrinsics do not say that they read memory: what was written has to be there first.
inline void written() { __asm__ volatile("" ::: "memory"); }

#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wold-style-cast"  // in the macros of immintrin.h
#pragma GCC diagnostic ignored "-Wsign-conversion"
struct Amx {
  MANYHOP_AMX_TARGET void begin() { _tile_loadconfig(&kTileConfig); }
  MANYHOP_AMX_TARGET void end() { _tile_release(); }
  MANYHOP_AMX_TARGET void multiply(const Left& left, const Right& right, Offset steps, bool fresh, float* out,
                                   Offset stride) {
    written();
    const auto out_bytes = static_cast<std::size_t>(stride) * sizeof(float);
    const auto a_bytes = static_cast<std::size_t>(left.stride) * sizeof(bf16);
    const auto b_bytes = static_cast<std::size_t>(right.stride) * sizeof(bf16);
    if (fresh) {
      _tile_zero(0);
      _tile_zero(1);
      _tile_zero(2);
      _tile_zero(3);
    } else {
      _tile_loadd(0, out, out_bytes);
      _tile_loadd(1, out + 16, out_bytes);
      _tile_loadd(2, out + 16 * stride, out_bytes);
      _tile_loadd(3, out + 16 * stride + 16, out_bytes);
    }
    for (Offset s = 0; s < steps; ++s) {
      const bf16* a = left.data + s * left.step;
      const bf16* b = right.steps[s] + right.offset;
      _tile_loadd(4, a, a_bytes);
      _tile_loadd(6, b, b_bytes);
      _tile_loadd(7, b + 2 * kLanes, b_bytes);
      _tile_dpbf16ps(0, 4, 6);
      _tile_loadd(5, a + 16 * left.stride, a_bytes);
      _tile_dpbf16ps(1, 4, 7);
      _tile_dpbf16ps(2, 5, 6);
      _tile_dpbf16ps(3, 5, 7);
    }
    _tile_stored(0, out, out_bytes);
    _tile_stored(1, out + 16, out_bytes);
    _tile_stored(2, out + 16 * stride, out_bytes);
    _tile_stored(3, out + 16 * stride + 16, out_bytes);
  }
};
#pragma GCC diagnostic pop

MANYHOP_TILE_FUNCTIONS(MANYHOP_AMX_TARGET, Amx);

// Processor: CPUID leaf 7 says AMX-TILE (bit 24), AMX-BF16 (22) and the AVX-512 that goes with them; XCR0
// that the system saves their state. Linux lends the state of tiles (feature 18) to processes that ask.
bool available() {
  unsigned a = 0;
  unsigned b = 0;
  unsigned c = 0;
  unsigned d = 0;
  if (__get_cpuid(1, &a, &b, &c, &d) == 0 || (c & (1U << 27)) == 0) return false;
  if (__get_cpuid_count(7, 0, &a, &b, &c, &d) == 0) return false;
  constexpr unsigned kTiles = (1U << 22) | (1U << 24);
  constexpr unsigned kAvx512 = (1U << 16) | (1U << 17) | (1U << 30) | (1U << 31);  // F, DQ, BW, VL
  if ((d & kTiles) != kTiles || (b & kAvx512) != kAvx512) return false;
  unsigned low = 0;   // NOLINT(misc-const-correctness): the assembly writes them
  unsigned high = 0;  // NOLINT(misc-const-correctness)
  __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  constexpr unsigned kSaved = (3U << 17) | (7U << 5) | (3U << 1);  // tiles, AVX-512, AVX and SSE
  if ((low & kSaved) != kSaved) return false;
  constexpr long kRequestPermission = 0x1023;
  return syscall(SYS_arch_prctl, kRequestPermission, 18L) == 0;
}

MANYHOP_AMX_TARGET void multiply_once(const Left& left, const Right& right, Offset steps, bool fresh,
                                      float* out, Offset stride) {
  Amx amx;
  amx.begin();
  amx.multiply(left, right, steps, fresh, out, stride);
  amx.end();
}
bool right() { return same_as_emulated(multiply_once); }

}  // namespace

Unit amx_unit() { return TileFunctions::unit("amx", "AMX", available, right); }

}  // namespace manyhop::ops::cpu::tiles

#else

namespace manyhop::ops::cpu::tiles {
Unit amx_unit() { return {"amx", "AMX"}; }
}  // namespace manyhop::ops::cpu::tiles

#endif
