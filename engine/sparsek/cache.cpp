#include "manyhop/engine/sparsek/cache.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "manyhop/graphs/base/error.hpp"
#include "manyhop/ops/tensor_checks_internal.hpp"

namespace manyhop {

namespace {

std::size_t at(Offset i) { return static_cast<std::size_t>(i); }

constexpr double kInfinity = std::numeric_limits<double>::infinity();

SparsekCacheOptions checked(SparsekCacheOptions o) {
  if (o.kv_heads == 0) o.kv_heads = o.heads;
  if (o.score_heads == 0) o.score_heads = o.kv_heads;
  if (o.value_dim == 0) o.value_dim = o.head_dim;
  const auto divides = [](Offset a, Offset b) { return a > 0 && b > 0 && b % a == 0; };
  if (!divides(o.kv_heads, o.heads) || !divides(o.score_heads, o.heads) ||
      !(divides(o.kv_heads, o.score_heads) || divides(o.score_heads, o.kv_heads))) {
    throw ValueError(
        fmt::format("sparsek cache: {} heads, {} of keys, {} of scores; the latter two must divide "
                    "the first, and one of them the other",
                    o.heads, o.kv_heads, o.score_heads));
  }
  if (o.head_dim < 1 || o.value_dim < 1) {
    throw ValueError(
        fmt::format("sparsek cache: widths {} and {}, both must be 1 or more", o.head_dim, o.value_dim));
  }
  if (o.join.window < 0 || o.join.sinks < 0) {
    throw ValueError(fmt::format("sparsek cache: window {} and sinks {}, both must be 0 or more",
                                 o.join.window, o.join.sinks));
  }
  if (o.scale && !std::isfinite(*o.scale)) {
    throw ValueError(fmt::format("sparsek cache: scale {} is not finite", *o.scale));
  }
  o.select = CausalSparsek(o.select).options();
  if (o.select.cap == kUncapped) {
    throw ValueError("sparsek cache: the selection has no cap, give one (0: twice k)");
  }
  return o;
}

template <class V>
void require(const char* name, const TensorView<V>& view, Offset a, Offset b) {
  const bool fits = b < 0 ? view.rank == 1 && view.extent[0] == a
                          : view.rank == 2 && view.extent[0] == a && view.extent[1] == b;
  if (fits && !view.lacks_data()) return;
  throw ValueError(fmt::format("sparsek cache: {} has shape {}, [{}{}] is wanted", name,
                               ops::shape_text(view), a, b < 0 ? "" : fmt::format(", {}", b)));
}

// Eight sums: independent lanes, and the rounding of short sums.
template <class C, class T>
C dot(const C* q, const T* k, Offset d) {
  C parts[8] = {};
  Offset f = 0;
  for (; f + 8 <= d; f += 8) {
    for (Offset x = 0; x < 8; ++x) parts[x] += q[f + x] * static_cast<C>(k[f + x]);
  }
  for (; f < d; ++f) parts[0] += q[f] * static_cast<C>(k[f]);
  return ((parts[0] + parts[1]) + (parts[2] + parts[3])) + ((parts[4] + parts[5]) + (parts[6] + parts[7]));
}

}  // namespace

template <class T>
SparsekCache<T>::SparsekCache(const SparsekCacheOptions& options, const Context& ctx)
    : options_(checked(options)) {
  const auto& o = options_;
  const double values = (static_cast<double>(o.join.sinks) + static_cast<double>(o.join.window) +
                         static_cast<double>(o.select.cap) * static_cast<double>(o.score_heads)) *
                        static_cast<double>(o.kv_heads) * static_cast<double>(row_width());
  const auto limit = static_cast<double>(ctx.limit());
  if (values * sizeof(T) > limit) {
    throw LimitError(fmt::format(
        "memory limit: a cache of window {}, sinks {} and cap {} takes {:.0f} bytes, the limit is "
        "{:.0f}",
        o.join.window, o.join.sinks, o.select.cap, values * sizeof(T), limit));
  }
  fixed_.resize(at((o.join.sinks + o.join.window) * o.kv_heads * row_width()));
  kept_.resize(at(o.score_heads * o.select.cap * kept_heads() * row_width()));
  slots_.resize(at(o.score_heads * o.select.cap));
  states_.assign(at(o.score_heads), CausalSparsek(o.select));
}

template <class T>
SparsekCache<T>::SparsekCache(const SparsekCacheOptions& options, const State& state, const Context& ctx)
    : SparsekCache(options, ctx) {
  if (state.fixed.size() != fixed_.size() || state.kept.size() != kept_.size() ||
      state.positions.size() != slots_.size() || state.selections.size() != states_.size()) {
    throw ValueError("sparsek cache: the state of a cache with other options");
  }
  std::copy(state.fixed.begin(), state.fixed.end(), fixed_.begin());
  std::copy(state.kept.begin(), state.kept.end(), kept_.begin());
  tokens_ = state.tokens;
  const Offset cap = options_.select.cap;
  for (Offset s = 0; s < options_.score_heads; ++s) {
    const CausalSparsek::State& given = state.selections[at(s)];
    states_[at(s)] = CausalSparsek(options_.select, given);
    Offset used = 0;
    for (Offset x = 0; x < cap; ++x) {
      Slot& slot = slots_[at(s * cap + x)];
      slot.position = state.positions[at(s * cap + x)];
      used += slot.position == -1 ? 0 : 1;
    }
    // Every key has one place, and every other place is free: append() looks for them.
    bool fits = given.rows == tokens_ && used == states_[at(s)].selected();
    states_[at(s)].for_each([&](const CausalSparsek::Key& key, double) {
      const auto first = slots_.begin() + s * cap;
      const auto place =
          std::find_if(first, first + cap, [&](const Slot& slot) { return slot.position == key.position; });
      if (place == first + cap) {
        fits = false;
      } else {
        place->score = key.score;
      }
    });
    if (!fits) throw ValueError("sparsek cache: places of keys that no state has");
  }
}

template <class T>
typename SparsekCache<T>::State SparsekCache<T>::state() const {
  State found{tokens_, fixed_, kept_, {}, {}};
  for (const Slot& slot : slots_) found.positions.push_back(slot.position);
  for (const CausalSparsek& one : states_) found.selections.push_back(one.state());
  return found;
}

template <class T>
Offset SparsekCache<T>::kept_heads() const {
  return std::max<Offset>(1, options_.kv_heads / options_.score_heads);
}

template <class T>
Offset SparsekCache<T>::first_kept(Offset score_head) const {
  return score_head * options_.kv_heads / options_.score_heads;
}

template <class T>
T* SparsekCache<T>::slot(Offset score_head, Offset slot) {
  return kept_.data() + (score_head * options_.select.cap + slot) * kept_heads() * row_width();
}
template <class T>
const T* SparsekCache<T>::slot(Offset score_head, Offset slot) const {
  return kept_.data() + (score_head * options_.select.cap + slot) * kept_heads() * row_width();
}

template <class T>
std::size_t SparsekCache<T>::bytes() const {
  return sizeof(*this) + (fixed_.capacity() + kept_.capacity()) * sizeof(T) +
         slots_.capacity() * sizeof(Slot) +
         states_.size() * (sizeof(CausalSparsek) +
                           2 * at(options_.select.cap) * (sizeof(CausalSparsek::Key) + sizeof(Index)));
}

template <class T>
void SparsekCache<T>::append(TensorView<const T> k, TensorView<const T> v,
                             TensorView<const EdgeValue<T>> scores) {
  const auto& o = options_;
  require("k", k, o.kv_heads, o.head_dim);
  require("v", v, o.kv_heads, o.value_dim);
  require("scores", scores, o.score_heads, Offset{-1});
  for (Offset s = 0; s < o.score_heads; ++s) {
    if (std::isnan(scores(s))) {
      throw ValueError(fmt::format("sparsek cache: score {} of token {} is NaN", s, tokens_));
    }
  }
  if (tokens_ >= kMaxVertices) {
    throw ValueError(fmt::format("sparsek cache: token {} is past the limit of {}", tokens_, kMaxVertices));
  }
  const auto copy = [&](Offset first, Offset count, T* to) {
    for (Offset h = first; h < first + count; ++h) {
      for (Offset f = 0; f < o.head_dim; ++f) *to++ = k(h, f);
      for (Offset f = 0; f < o.value_dim; ++f) *to++ = v(h, f);
    }
  };
  const Offset row = o.kv_heads * row_width();
  if (tokens_ < o.join.sinks) copy(0, o.kv_heads, fixed_.data() + tokens_ * row);
  if (o.join.window > 0) {
    copy(0, o.kv_heads, fixed_.data() + (o.join.sinks + tokens_ % o.join.window) * row);
  }
  for (Offset s = 0; s < o.score_heads; ++s) {
    const auto step = states_[at(s)].append(static_cast<double>(scores(s)));
    Slot* const slots = slots_.data() + s * o.select.cap;
    const auto find = [&](Index position) {
      return std::find_if(slots, slots + o.select.cap,
                          [&](const Slot& slot) { return slot.position == position; }) -
             slots;
    };
    for (const Index key : step.left) slots[find(key)].position = -1;
    if (!step.entered) continue;
    const Offset free = find(-1);
    slots[free] = {step.row, step.score};
    copy(first_kept(s), kept_heads(), slot(s, free));
  }
  ++tokens_;
}

template <class T>
void SparsekCache<T>::attend(TensorView<const T> q, TensorView<T> out) const {
  using C = EdgeValue<T>;
  const auto& o = options_;
  require("q", q, o.heads, o.head_dim);
  require("out", out, o.heads, o.value_dim);
  if (tokens_ == 0) throw ValueError("sparsek cache: attend before the first token, append one");
  const double scale = o.scale.value_or(1 / std::sqrt(static_cast<double>(o.head_dim)));
  struct Found {
    const T* row;
    C score;
    double gate;
  };
  std::vector<Found> found;
  std::vector<C> query(at(o.head_dim));
  std::vector<double> sums(at(o.value_dim));
  const Offset last = tokens_ - 1;
  const Offset row = o.kv_heads * row_width();
  for (Offset h = 0; h < o.heads; ++h) {
    const Offset kv = h / (o.heads / o.kv_heads);
    const Offset s = h / (o.heads / o.score_heads);
    for (Offset f = 0; f < o.head_dim; ++f) query[at(f)] = widen(q(h, f)) * static_cast<C>(scale);
    found.clear();
    C most = -std::numeric_limits<C>::infinity();
    const auto add = [&](const T* key, double gate) {
      const C score = dot(query.data(), key, o.head_dim);
      most = std::max(most, score);
      found.push_back({key, score, gate});
    };
    const Offset window = std::max<Offset>(0, tokens_ - o.join.window);  // its first token
    for (Offset j = 0; j < std::min(o.join.sinks, window); ++j)
      add(fixed_.data() + j * row + kv * row_width(), 1);
    for (Offset j = window; j <= last; ++j) {
      add(fixed_.data() + (o.join.sinks + j % o.join.window) * row + kv * row_width(), 1);
    }
    const double tau = states_[at(s)].tau();
    for (Offset x = 0; x < o.select.cap; ++x) {
      const Slot& slot_of = slots_[at(s * o.select.cap + x)];
      const Offset position = slot_of.position;
      if (position < 0 || position < o.join.sinks || position >= window) continue;
      add(slot(s, x) + (kv - first_kept(s)) * row_width(), CausalSparsek::gate(slot_of.score, tau));
    }
    std::fill(sums.begin(), sums.end(), 0);
    double total = 0;
    double gated = 0;
    const double peak = most == -kInfinity ? 0 : static_cast<double>(most);
    for (const Found& key : found) {
      const double a = std::exp(static_cast<double>(key.score) - peak);
      total += a;
      gated += a * key.gate;
      for (Offset f = 0; f < o.value_dim; ++f) {
        sums[at(f)] += a * key.gate * static_cast<double>(widen(key.row[o.head_dim + f]));
      }
    }
    const double norm = o.gate == Gate::values ? total : gated;
    for (Offset f = 0; f < o.value_dim; ++f) {
      out(h, f) = narrow<T>(norm == 0 ? 0 : sums[at(f)] / norm);
    }
  }
}

template class SparsekCache<float>;
template class SparsekCache<double>;
template class SparsekCache<bf16>;

}  // namespace manyhop
