// Scratch memory of a head: how much, and where its parts lie.
#include <cmath>

#include "manyhop/ops/cpu/head.hpp"

namespace manyhop::ops::cpu {

Segments Segments::of(const HeadShape& shape, bool stored) {
  const int hops = shape.hops;
  if (shape.mode == HeadBackward::implicit) return {3, 1};  // V and two iterates for Z, three for W
  const Segments one{std::max(hops, 1), 1};
  if (!stored || shape.mode != HeadBackward::checkpointed || hops <= 2) return one;
  const int length = static_cast<int>(std::ceil(std::sqrt(static_cast<double>(hops))));
  const Segments several{length, (hops + length - 1) / length};
  // Z, G and checkpoints of each way; several segments sum the gradient of A over them.
  const Offset z = std::max(shape.n_rows, shape.n_cols) * padded_width<float>(shape.d_value);
  const Offset held = (2 * several.length + several.count - 1) * z + shape.value_count;
  return held < 2 * one.length * z ? several : one;
}

template <class C>
PanelScratch<C> PanelScratch<C>::carve(Carver& carver, const HeadShape& shape) {
  const Offset value_width =
      shape.half ? head_width<bf16>(shape, shape.d_value) : head_width<C>(shape, shape.d_value);
  const Offset widest = std::max(head_width<C>(shape, shape.d), value_width);
  PanelScratch scratch;
  scratch.rows = carver.take<C>(kPanelRows * widest);
  scratch.rows_t = carver.take<C>(kPanelRows * widest);
  scratch.out = carver.take<C>(kPanelRows * widest);
  scratch.values = carver.take<C>(shape.max_panel_values);
  scratch.d_values = shape.backward ? carver.take<C>(shape.max_panel_values) : nullptr;
  scratch.cols = carver.take<Index>(shape.max_panel_cols);
  scratch.masks = carver.take<std::uint32_t>(shape.max_panel_cols);
  if (shape.tiles) {
    scratch.tiles.gathered = carver.take<bf16>(tile_gather_elements(widest));
    scratch.tiles.loose = carver.take<Index>(shape.max_panel_cols);
    const Offset hops = shape.backward ? std::clamp<Offset>(shape.hops, 1, kTileBatch) : 0;
    scratch.queries = carver.take<bf16>(kPanelRows * std::max(tile_width(shape.d), hops * value_width));
    scratch.weights = carver.take<bf16>(tile_weight_elements(shape.max_panel_cols));
  }
  return scratch;
}

template <class C, class S>
HeadScratch<C, S> HeadScratch<C, S>::carve(Carver& carver, Carver& kept, const HeadShape& shape, bool stored,
                                           bool parallel) {
  const Offset width = head_width<C>(shape, shape.d);
  const Offset value_width = head_width<S>(shape, shape.d_value);
  const Offset longest = std::max(shape.n_rows, shape.n_cols);
  const auto take_z = [&](Carver& from) { return from.take<S>(longest * value_width); };
  const auto take_sums = [&] { return carver.take<C>(longest * value_width); };
  const Segments segments = Segments::of(shape, stored);
  HeadScratch scratch;
  scratch.k = carver.take<C>(shape.n_cols * width);
  if (shape.tiles) {
    scratch.half_k = carver.take<bf16>(shape.n_cols * tile_width(shape.d));
    scratch.pairs = carver.take<bf16>(pair_elements(longest, std::max(width, value_width)));
    if (!shape.half) scratch.center = carver.take<C>(std::max(width, value_width));
    if (shape.backward) {
      scratch.halves = carver.take<bf16>(longest * segments.length * value_width);
      scratch.centers = carver.take<C>(segments.length * value_width);
    }
  }
  if (stored) scratch.values = (shape.kept ? kept : carver).template take<C>(shape.value_count);
  scratch.z.push_back(take_z(carver));
  if (!shape.backward) {
    // Z_1 and Z_2 take turns. The last hop writes no Z, but its single edges are summed in one.
    const int written = stored && shape.irregular ? shape.hops : shape.hops - 1;
    S* turns[2] = {};
    for (int t = 1; t <= shape.hops; ++t) {
      S* z = nullptr;
      if (shape.kept && t < shape.hops) {
        z = take_z(kept);
      } else if (t <= written) {
        S*& turn = turns[t % 2];
        if (turn == nullptr) turn = take_z(carver);
        z = turn;
      }
      scratch.z.push_back(z);
    }
    return scratch;
  }
  if (stored && shape.by_column > 0) scratch.by_column = carver.take<C>(shape.by_column);
  const bool rest_alone = shape.by_column == 0 && shape.irregular;  // no memory for them but this
  if (stored && (parallel || segments.count > 1 || rest_alone))
    scratch.d_values = carver.take<C>(shape.value_count);
  scratch.dk = carver.take<C>(shape.n_cols * width);
  if (stored && shape.by_column > 0 && shape.hops > 0 && shape.mode != HeadBackward::implicit) {
    // The sums for k begin when the hops are done, but for those of an earlier head.
    const bool lent = !shape.shared && shape.by_column <= shape.n_cols * width;
    scratch.d_column = lent ? scratch.dk : carver.take<C>(shape.by_column);
  }
  scratch.dv = take_sums();
  for (int i = 1; i < segments.length; ++i) scratch.z.push_back(take_z(shape.kept ? kept : carver));
  // The last G is needed when A is there and dq is not yet: the keys make room for it and are packed again.
  scratch.keys_lent = stored && segments.count == 1 && shape.hops > 0 &&
                      shape.mode != HeadBackward::implicit && shape.n_cols * width >= longest * value_width;
  for (int i = 0; i < segments.length + 1; ++i)
    scratch.g.push_back(i == 0 && scratch.keys_lent ? scratch.k : take_sums());
  for (int i = 0; i < segments.count - 1; ++i) scratch.checkpoint.push_back(take_z(carver));
  return scratch;
}

namespace {
/// Bytes of the head, and of what it keeps.
template <class C>
std::pair<std::size_t, std::size_t> measured(const HeadShape& shape, bool stored, bool parallel) {
  Carver measure(nullptr);
  Carver kept(nullptr);
  if (shape.half) {
    HeadScratch<float, bf16>::carve(measure, kept, shape, stored, parallel);
  } else {
    HeadScratch<C, C>::carve(measure, kept, shape, stored, parallel);
  }
  return {measure.used(), kept.used()};
}
}  // namespace

template <class C>
std::size_t head_bytes(const HeadShape& shape, bool stored, bool parallel) {
  return measured<C>(shape, stored, parallel).first;
}

template <class C>
std::size_t kept_bytes(const HeadShape& shape) {
  return measured<C>(shape, true, false).second;
}

template <class C>
std::size_t panel_bytes(const HeadShape& shape) {
  Carver measure(nullptr);
  PanelScratch<C>::carve(measure, shape);
  return measure.used();
}

template struct PanelScratch<float>;
template struct PanelScratch<double>;
template struct HeadScratch<float, float>;
template struct HeadScratch<double, double>;
template struct HeadScratch<float, bf16>;
template std::size_t head_bytes<float>(const HeadShape&, bool, bool);
template std::size_t head_bytes<double>(const HeadShape&, bool, bool);
template std::size_t kept_bytes<float>(const HeadShape&);
template std::size_t kept_bytes<double>(const HeadShape&);
template std::size_t panel_bytes<float>(const HeadShape&);
template std::size_t panel_bytes<double>(const HeadShape&);

}  // namespace manyhop::ops::cpu
