// The one place that names AMX: its intrinsics, the check that machine and system let them run, and the check
// that they do what their emulation does.
#include "manyhop/ops/cpu/tiles.hpp"

#include <fmt/format.h>

#include <cmath>
#include <cstdlib>
#include <string>
#include <string_view>
#include <vector>

#include "manyhop/graphs/base/error.hpp"
#include "manyhop/graphs/base/random.hpp"
#include "manyhop/ops/cpu/simd.hpp"
#include "manyhop/ops/cpu/tiles-inl.hpp"

#if defined(__x86_64__) && defined(__linux__)
#define MANYHOP_AMX 1
#include <cpuid.h>
#include <immintrin.h>
#include <sys/syscall.h>
#include <unistd.h>
#define MANYHOP_AMX_TARGET __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,amx-tile,amx-bf16")))
#else
#define MANYHOP_AMX 0
#endif

namespace manyhop {
namespace ops::cpu {

namespace {

#if MANYHOP_AMX

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
  MANYHOP_AMX_TARGET void zero() {
    written();
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
  }
  MANYHOP_AMX_TARGET void load(const float* from, Offset stride) {
    written();
    const auto bytes = static_cast<std::size_t>(stride) * sizeof(float);
    _tile_loadd(0, from, bytes);
    _tile_loadd(1, from + 16, bytes);
    _tile_loadd(2, from + 16 * stride, bytes);
    _tile_loadd(3, from + 16 * stride + 16, bytes);
  }
  MANYHOP_AMX_TARGET void store(float* to, Offset stride) {
    const auto bytes = static_cast<std::size_t>(stride) * sizeof(float);
    _tile_stored(0, to, bytes);
    _tile_stored(1, to + 16, bytes);
    _tile_stored(2, to + 16 * stride, bytes);
    _tile_stored(3, to + 16 * stride + 16, bytes);
  }
  MANYHOP_AMX_TARGET void step(const bf16* a0, const bf16* a1, Offset a_stride, const bf16* b0,
                               const bf16* b1, Offset b_stride) {
    const auto a_bytes = static_cast<std::size_t>(a_stride) * sizeof(bf16);
    const auto b_bytes = static_cast<std::size_t>(b_stride) * sizeof(bf16);
    _tile_loadd(4, a0, a_bytes);
    _tile_loadd(6, b0, b_bytes);
    _tile_loadd(7, b1, b_bytes);
    _tile_dpbf16ps(0, 4, 6);
    _tile_loadd(5, a1, a_bytes);
    _tile_dpbf16ps(1, 4, 7);
    _tile_dpbf16ps(2, 5, 6);
    _tile_dpbf16ps(3, 5, 7);
  }
};
#pragma GCC diagnostic pop

MANYHOP_AMX_TARGET void amx_pairs(Rows<const bf16> z, Offset begin, Offset end, PairRows to) {
  tiles::pairs_of(z, begin, end, to);
}
MANYHOP_AMX_TARGET void amx_scores(const PanelView& view, const bf16* q, const bf16* k, Offset width,
                                   float scale, const TileScratch& scratch, float* values) {
  tiles::scores_of_panel<Amx>(view, q, k, width, scale, scratch, values);
}
MANYHOP_AMX_TARGET void amx_weights(const PanelView& view, const float* values, const TileScratch& scratch,
                                    bf16* weights) {
  tiles::weights_of_panel(view, values, scratch, weights);
}
MANYHOP_AMX_TARGET void amx_products(const PanelView& view, const bf16* weights, PairRows x,
                                     Rows<const bf16> x_rows, const TileScratch& scratch, float* out) {
  tiles::products_of_panel<Amx>(view, weights, x, x_rows, scratch, out);
}

// Processor: CPUID leaf 7 says AMX-TILE (bit 24), AMX-BF16 (22) and the AVX-512 that goes with them; XCR0
// that the system saves their state. Linux lends the state of tiles (feature 18) to processes that ask.
bool machine_has_amx() {
  unsigned a = 0;
  unsigned b = 0;
  unsigned c = 0;
  unsigned d = 0;
  if (__get_cpuid(1, &a, &b, &c, &d) == 0 || (c & (1U << 27)) == 0) return false;
  if (__get_cpuid_count(7, 0, &a, &b, &c, &d) == 0) return false;
  constexpr unsigned kTiles = (1U << 22) | (1U << 24);
  constexpr unsigned kAvx512 = (1U << 16) | (1U << 17) | (1U << 30) | (1U << 31);  // F, DQ, BW, VL
  if ((d & kTiles) != kTiles || (b & kAvx512) != kAvx512) return false;
  unsigned low = 0;
  unsigned high = 0;
  __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  constexpr unsigned kSaved = (3U << 17) | (7U << 5) | (3U << 1);  // tiles, AVX-512, AVX and SSE
  if ((low & kSaved) != kSaved) return false;
  constexpr long kRequestPermission = 0x1023;
  return syscall(SYS_arch_prctl, kRequestPermission, 18L) == 0;
}

// A processor or an emulator that gets a product wrong is found out before it is believed.
MANYHOP_AMX_TARGET bool amx_is_right() {
  alignas(64) bf16 a[32 * 32];
  alignas(64) bf16 b[16 * 64];
  alignas(64) float got[32 * 32];
  alignas(64) float want[32 * 32];
  CounterRng rng(1, 0, 0);
  for (bf16& x : a) x = bf16(static_cast<float>(rng.below(255)) - 127);
  for (bf16& x : b) x = bf16(static_cast<float>(rng.below(255)) - 127);
  tiles::Emulated emulated;
  emulated.zero();
  emulated.step(a, a + 16 * 32, 32, b, b + 32, 64);
  emulated.store(want, 32);
  Amx amx;
  amx.begin();
  amx.zero();
  amx.step(a, a + 16 * 32, 32, b, b + 32, 64);
  amx.store(got, 32);
  amx.load(want, 32);
  amx.step(a, a + 16 * 32, 32, b, b + 32, 64);
  alignas(64) float twice[32 * 32];
  amx.store(twice, 32);
  amx.end();
  for (std::size_t i = 0; i < std::size(want); ++i) {  // sums of integers below 2^24: exact
    if (got[i] != want[i] || twice[i] != 2 * want[i]) return false;
  }
  return true;
}

#endif  // MANYHOP_AMX

enum class Mode : std::uint8_t { none, emulated, amx };
struct Chosen {
  Mode mode = Mode::none;
  std::string reason;
};

Chosen choose() {
  const char* text = std::getenv("MANYHOP_TILES");
  const std::string_view asked = text == nullptr ? "" : text;
  if (!asked.empty() && asked != "none" && asked != "emulated" && asked != "amx") {
    throw ValueError(fmt::format("MANYHOP_TILES is '{}': expected none, emulated or amx", asked));
  }
  if (asked == "none") return {Mode::none, "MANYHOP_TILES is none"};
  if (asked == "emulated") return {Mode::emulated, ""};
  std::string reason = "this processor or system has no AMX";
#if MANYHOP_AMX
  if (machine_has_amx()) {
    if (asked != "amx" && !simd_name().starts_with("avx512")) {
      reason = fmt::format("MANYHOP_SIMD is {}", simd_name());
    } else if (!amx_is_right()) {
      reason = "a product of AMX is wrong on this machine";
    } else {
      return {Mode::amx, ""};
    }
  }
#endif
  if (asked == "amx") throw ValueError(fmt::format("MANYHOP_TILES is 'amx': {}", reason));
  return {Mode::none, reason};
}

const Chosen& chosen() {
  static const Chosen value = choose();  // a throw leaves it to the next call
  return value;
}

}  // namespace

#if MANYHOP_AMX
#define MANYHOP_TILES_CALL(fast, plain)        \
  if (chosen().mode == Mode::amx) return fast; \
  plain
#else
#define MANYHOP_TILES_CALL(fast, plain) plain
#endif

void make_pairs(Rows<const bf16> z, Offset begin, Offset end, PairRows to) {
  MANYHOP_TILES_CALL(amx_pairs(z, begin, end, to), tiles::pairs_of(z, begin, end, to));
}
void sddmm_tiles(const PanelView& view, const bf16* q, const bf16* k, Offset width, float scale,
                 const TileScratch& scratch, float* values) {
  MANYHOP_TILES_CALL(amx_scores(view, q, k, width, scale, scratch, values),
                     tiles::scores_of_panel<tiles::Emulated>(view, q, k, width, scale, scratch, values));
}
void tile_weights(const PanelView& view, const float* values, const TileScratch& scratch, bf16* weights) {
  MANYHOP_TILES_CALL(amx_weights(view, values, scratch, weights),
                     tiles::weights_of_panel(view, values, scratch, weights));
}
void spmm_tiles(const PanelView& view, const bf16* weights, PairRows x, Rows<const bf16> x_rows,
                const TileScratch& scratch, float* out) {
  MANYHOP_TILES_CALL(amx_products(view, weights, x, x_rows, scratch, out),
                     tiles::products_of_panel<tiles::Emulated>(view, weights, x, x_rows, scratch, out));
}
#undef MANYHOP_TILES_CALL

}  // namespace ops::cpu

std::string_view tiles_name() {
  using ops::cpu::Mode;
  const Mode mode = ops::cpu::chosen().mode;
  return mode == Mode::amx ? "amx" : mode == Mode::emulated ? "emulated" : "";
}

std::string tiles_rejected() { return ops::cpu::chosen().reason; }

}  // namespace manyhop
