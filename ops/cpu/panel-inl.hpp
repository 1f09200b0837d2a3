// What the panel kernels share; included once for each instruction set.
// Nothing here crosses lanes but SumOfLanes, so that the one-lane fallback runs the same code.
#include <algorithm>
#include <type_traits>

#include "manyhop/ops/cpu/panel_kernels.hpp"

#if defined(MANYHOP_OPS_CPU_PANEL_INL) == defined(HWY_TARGET_TOGGLE)
#ifdef MANYHOP_OPS_CPU_PANEL_INL
#undef MANYHOP_OPS_CPU_PANEL_INL
#else
#define MANYHOP_OPS_CPU_PANEL_INL
#endif

#include <hwy/highway.h>

HWY_BEFORE_NAMESPACE();
namespace manyhop::ops::cpu::HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

template <class C>
using Tag = hn::CappedTag<C, 16>;
template <class C>
inline constexpr Offset kLanes = static_cast<Offset>(hn::MaxLanes(Tag<C>()));
template <class C>
inline constexpr std::size_t kRowVectors = static_cast<std::size_t>(kPanelRows / kLanes<C>);

// Sums run over at most this many terms before they join the total: at 16384 columns one running fp32 sum is
// off by about 4e-6, sums of 128 by 5e-7.
constexpr Offset kChunk = 64;

HWY_INLINE std::size_t at(Offset i) { return static_cast<std::size_t>(i); }

// Rows that are gathered from beyond the caches are asked for this many edges ahead: two heads of
// diffuser(64, 64, 64) over 65536 tokens take 1.13 s instead of 1.94. Rows in L2 only lose by it.
constexpr Offset kEdgesAhead = 16;
// Rows in L2 are asked for, too: one line of the two, the other comes with it. Sums over rows take 5 % less
// so, dot products 5 %, both at once 15 %; both lines asked for take back half of that (Zen 4).
constexpr Offset kNearAhead = 8;
template <class S>
HWY_INLINE bool far(Rows<const S> x, Offset f) {
  return x.count * x.stride(f) * static_cast<Offset>(sizeof(S)) > (Offset{2} << 20);
}
// Asks for 128 bytes, what a block keeps of a row.
template <class S>
HWY_INLINE void ask_for(const S* row) {
  __builtin_prefetch(row);
  __builtin_prefetch(reinterpret_cast<const char*>(row) + 64);
}

// The rows at the other ends of the single edges of one row or column; `others` may be read up to
// others[most].
struct SingleEdges {
  const Index* others;
  Offset count;
  Offset most;
};

// Who brings the rows that a loop over edges reads: caches that hold them, or the loop from L2 or beyond.
enum class Ask { none, near, far };

// Asks for what the loop reads some steps after edge e; rows of base lie `stride` apart.
template <Ask kAsk, class S>
HWY_INLINE void ask_ahead(const S* base, Offset stride, const SingleEdges& edges, Offset e) {
  if constexpr (kAsk == Ask::far)
    ask_for(base + edges.others[std::min(e + kEdgesAhead, edges.most)] * stride);
  if constexpr (kAsk == Ask::near)
    __builtin_prefetch(base + edges.others[std::min(e + kNearAhead, edges.most)] * stride);
}

// body(std::integral_constant of what to ask for) for rows of the block of x that starts at feature f.
template <class S, class F>
HWY_INLINE void with_ask(Rows<const S> x, Offset f, F&& body) {
  far(x, f) ? body(std::integral_constant<Ask, Ask::far>()) : body(std::integral_constant<Ask, Ask::near>());
}

// How features are loaded and stored: position p counts what lies in front of a load, lanes of C or words of
// bf16. A load gives one vector of C, of bf16 two, 16 features apart.
template <class C, class S>
struct FeatureIo {
  static constexpr int kVectors = 1;
  static constexpr Offset positions(Offset features) { return features; }
  static constexpr Offset element(Offset p) { return p; }
  static constexpr Offset feature(Offset p) { return p; }
  static HWY_INLINE void load(const C* HWY_RESTRICT row, Offset p, hn::Vec<Tag<C>>* to) {
    to[0] = hn::Load(Tag<C>(), row + p);
  }
  static HWY_INLINE void store(const hn::Vec<Tag<C>>* from, C* HWY_RESTRICT row, Offset p) {
    hn::Store(from[0], Tag<C>(), row + p);
  }
};

template <>
struct FeatureIo<float, bf16> {
  using F = Tag<float>;
  using U = hn::RebindToUnsigned<F>;
  static constexpr int kVectors = 2;
  static constexpr Offset positions(Offset features) { return features / 2; }
  static constexpr Offset element(Offset p) { return 2 * p; }
  static constexpr Offset feature(Offset p) { return 2 * p - p % 16; }
  static HWY_INLINE void load(const bf16* HWY_RESTRICT row, Offset p, hn::Vec<F>* to) {
    const U u;
    const auto words = hn::Load(u, reinterpret_cast<const std::uint32_t*>(row) + p);
    to[0] = hn::BitCast(F(), hn::ShiftLeft<16>(words));
    to[1] = hn::BitCast(F(), hn::And(words, hn::Set(u, 0xFFFF0000U)));
  }
  static HWY_INLINE void store(const hn::Vec<F>* from, bf16* HWY_RESTRICT row, Offset p) {
    const U u;
    const auto low = hn::ShiftRight<16>(rounded(from[0]));
    const auto high = hn::And(rounded(from[1]), hn::Set(u, 0xFFFF0000U));
    hn::Store(hn::Or(low, high), u, reinterpret_cast<std::uint32_t*>(row) + p);
  }
  // To nearest even in the high half; a NaN stays one.
  static HWY_INLINE hn::Vec<U> rounded(hn::Vec<F> x) {
    const U u;
    const auto bits = hn::BitCast(u, x);
    const auto odd = hn::And(hn::ShiftRight<16>(bits), hn::Set(u, 1U));
    const auto even = hn::Add(bits, hn::Add(odd, hn::Set(u, 0x7FFFU)));
    const auto nan = hn::RebindMask(u, hn::IsNaN(x));
    return hn::IfThenElse(nan, hn::Or(bits, hn::Set(u, 0x00400000U)), even);
  }
};

struct RestRow {
  SingleEdges edges;
  Offset first;  // within the panel's values
};

HWY_INLINE RestRow rest_of(const PanelView& view, int r) {
  const Tiling& tiling = *view.tiling;
  const Offset base = tiling.rest_indptr[at(view.panel->first)];
  const Offset begin = tiling.rest_indptr[at(view.panel->first + r)];
  const Offset end = tiling.rest_indptr[at(view.panel->first + r + 1)];
  return {{tiling.rest.data() + begin, end - begin, static_cast<Offset>(tiling.rest.size()) - 1 - begin},
          view.panel->dense_cols * kPanelRows + begin - base};
}

// Calls f(first value of a dense column, mask word of it).
template <class F>
HWY_INLINE void for_dense(const PanelView& view, F&& f) {
  for (Offset c = 0; c < view.panel->dense_cols; ++c) f(c * kPanelRows, view.masks[c]);
}

}  // namespace manyhop::ops::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
