#include "manyhop/engine/sparsek/selection.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>

#include "manyhop/engine/attention_values_internal.hpp"
#include "manyhop/graphs/base/error.hpp"
#include "manyhop/graphs/base/parallel.hpp"
#include "manyhop/ops/cuda/selection.hpp"

namespace manyhop {

namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();
constexpr double kApart = 0x1p30;  // floats beyond are 128 or more apart

using Key = CausalSparsek::Key;

// Heaps of the standard library keep the largest on top.
bool worse(const Key& a, const Key& b) {
  return a.score > b.score || (a.score == b.score && a.position > b.position);
}

Key take(std::vector<Key>& heap) {
  std::pop_heap(heap.begin(), heap.end(), worse);
  const Key key = heap.back();
  heap.pop_back();
  return key;
}

void put(std::vector<Key>& heap, Key key) {
  heap.push_back(key);
  std::push_heap(heap.begin(), heap.end(), worse);
}

// Steps between neighbouring floats become 2: gates depend on differences below 1 only, and sums stay exact.
double comparable(double score) {
  if (std::abs(score) <= kApart) return score;
  const auto bits = std::bit_cast<std::uint32_t>(static_cast<float>(std::abs(score)));
  const auto first = std::bit_cast<std::uint32_t>(static_cast<float>(kApart));
  return std::copysign(kApart + 2.0 * static_cast<double>(bits - first), score);
}

CausalOptions checked(CausalOptions options) {
  if (!(options.k >= 0) || options.k > static_cast<double>(kMaxVertices)) {
    throw ValueError(fmt::format("causal sparsek: k is {}, it must be in [0, {}]", options.k, kMaxVertices));
  }
  if (!(options.temperature > 0) || !std::isfinite(options.temperature)) {
    throw ValueError(fmt::format("causal sparsek: temperature is {}, it must be positive and finite",
                                 options.temperature));
  }
  if (options.cap == 0) options.cap = std::max<Offset>(1, static_cast<Offset>(std::ceil(2 * options.k)));
  if (options.cap != kUncapped && static_cast<double>(options.cap) < options.k) {
    throw ValueError(
        fmt::format("causal sparsek: cap is {}, it must be at least k = {}, 0 (twice k) or {} "
                    "(none)",
                    options.cap, options.k, kUncapped));
  }
  return options;
}

}  // namespace

CausalSparsek::CausalSparsek(const CausalOptions& options) : options_(checked(options)) {}

CausalSparsek::CausalSparsek(const CausalOptions& options, State state) : CausalSparsek(options) {
  std::vector<Index> positions;
  bool fits = state.rows >= 0 && state.rows <= kMaxVertices && !std::isnan(state.tau) &&
              !std::isnan(state.lost) && std::isfinite(state.sum) && std::isfinite(state.sum_rest);
  for (const auto* keys : {&state.between, &state.full}) {
    for (const Key& key : *keys) {
      fits = fits && std::isfinite(key.score) && key.position >= 0 && key.position < state.rows;
      positions.push_back(key.position);
    }
  }
  std::sort(positions.begin(), positions.end());
  fits = fits && std::adjacent_find(positions.begin(), positions.end()) == positions.end() &&
         (options_.cap == kUncapped || static_cast<Offset>(positions.size()) <= options_.cap);
  if (!fits) throw ValueError("causal sparsek: numbers and keys that no state has");
  rows_ = state.rows;
  tau_ = state.tau;
  lost_ = state.lost;
  sum_ = state.sum;
  sum_rest_ = state.sum_rest;
  between_ = std::move(state.between);
  full_ = std::move(state.full);
  std::make_heap(between_.begin(), between_.end(), worse);
  std::make_heap(full_.begin(), full_.end(), worse);
}

void CausalSparsek::add(double value) {
  const double sum = sum_ + value;
  const double part = sum - sum_;
  sum_rest_ += (sum_ - (sum - part)) + (value - part);
  sum_ = sum;
}

void CausalSparsek::leave(Index position) { left_.push_back(position); }

CausalSparsek::Step CausalSparsek::append(double score) {
  if (std::isnan(score)) {
    throw ValueError(fmt::format("causal sparsek: the score of token {} is NaN", rows_));
  }
  if (rows_ >= kMaxVertices) {
    throw ValueError(fmt::format("causal sparsek: token {} is past the limit of {}", rows_, kMaxVertices));
  }
  const auto row = static_cast<Index>(rows_++);
  left_.clear();
  const double value = score == -kInfinity ? score : comparable(score / options_.temperature);
  bool entered = false;
  if (value > tau_ && value != -kInfinity) {
    entered = true;
    if (tau_ == -kInfinity || value >= tau_ + 1) {
      put(full_, {value, row});
    } else {
      put(between_, {value, row});
      add(value);
    }
    if (options_.cap != kUncapped && selected() > options_.cap) {
      const bool inner = !between_.empty();
      const Key out = take(inner ? between_ : full_);
      if (inner) add(-out.score);
      lost_ = std::max(lost_, out.score);
      leave(out.position);
    }
    settle();
    if (std::erase(left_, row) > 0) entered = false;
  }
  return {row, entered, value, tau_, lost_ > bar(), left_};
}

// What a score must pass to have had a gate: tau, or where whole gates make k, and tau could be larger, 1
// below the least of them.
double CausalSparsek::bar() const {
  const bool whole = between_.empty() && !full_.empty() && static_cast<double>(full_.size()) == options_.k;
  return whole ? std::max(tau_, full_.front().score - 1) : tau_;
}

// Walks tau up to where the gates add up to k: between two breakpoints (a key falls to 0, a key falls below
// 1) the sum is linear. Every crossing takes a key one heap further, for good.
void CausalSparsek::settle() {
  if (tau_ == -kInfinity && static_cast<double>(selected()) <= options_.k) return;
  while (true) {
    const double missing = options_.k - static_cast<double>(full_.size());
    const double falls = between_.empty() ? kInfinity : between_.front().score;
    const double loosens = full_.empty() ? kInfinity : full_.front().score - 1;
    double tau = kInfinity;
    if (!between_.empty()) {
      tau = ((sum_ - missing) + sum_rest_) / static_cast<double>(between_.size());
    } else if (missing >= 0) {
      tau = tau_;  // whole gates that make k, and no slope: the smallest tau is where the last key fell
    }
    const double next = std::min(falls, loosens);
    if (tau <= next) {
      tau_ = std::max(tau_, tau);
      break;
    }
    tau_ = std::max(tau_, next);
    if (loosens <= falls) {
      const Key key = take(full_);
      put(between_, key);
      add(key.score);
    } else {
      const Key key = take(between_);
      add(-key.score);
      leave(key.position);
    }
  }
  while (!between_.empty() && between_.front().score <= tau_) {
    const Key key = take(between_);
    add(-key.score);
    leave(key.position);
  }
  if (between_.empty()) sum_ = sum_rest_ = 0;
}

namespace {

template <class T>
void extend_by(CausalSparsek& state, std::span<const T> scores, CausalSelection& selection) {
  if (state.rows() != selection.rows()) {
    throw ValueError(fmt::format("causal sparsek: the state has seen {} rows, the selection holds {}",
                                 state.rows(), selection.rows()));
  }
  selection.options = state.options();
  const std::size_t total = selection.tau.size() + scores.size();
  selection.score.reserve(total);
  selection.tau.reserve(total);
  selection.until.reserve(total);
  for (const T score : scores) {
    if (state.rows() % 65536 == 0) check_stop();
    const CausalSparsek::Step step = state.append(static_cast<double>(score));
    selection.score.push_back(step.score);
    selection.tau.push_back(step.tau);
    selection.until.push_back(step.entered ? CausalSelection::kOpen : step.row);
    for (const Index key : step.left) selection.until[static_cast<std::size_t>(key)] = step.row;
    selection.edges += state.selected();
    selection.capped_rows += step.capped ? 1 : 0;
  }
}

template <class T>
CausalSelection whole(std::span<const T> scores, const CausalOptions& options) {
  CausalSparsek state(options);
  CausalSelection selection;
  selection.options = state.options();
  extend_by(state, scores, selection);
  return selection;
}

}  // namespace

void extend(CausalSparsek& state, std::span<const float> scores, CausalSelection& selection) {
  extend_by(state, scores, selection);
}
void extend(CausalSparsek& state, std::span<const double> scores, CausalSelection& selection) {
  extend_by(state, scores, selection);
}
CausalSelection causal_sparsek(std::span<const float> scores, const CausalOptions& options) {
  return whole(scores, options);
}
CausalSelection causal_sparsek(std::span<const double> scores, const CausalOptions& options) {
  return whole(scores, options);
}

namespace {

[[noreturn]] void refuse_nan(Offset heads, Offset head, Offset token) {
  const std::string place = heads > 1 ? fmt::format("head {}: ", head) : "";
  throw ValueError(fmt::format("causal sparsek: {}the score of token {} is NaN", place, token));
}

/// The result, and of each head that a thread is busy with its scores.
template <class T>
void check_memory(const Context& ctx, Offset heads, Offset n) {
  const auto busy = static_cast<double>(std::min<Offset>(heads, thread_count()));
  const double bytes = static_cast<double>(n) * (20 * static_cast<double>(heads) + busy * sizeof(T));
  if (bytes <= static_cast<double>(ctx.limit())) return;
  throw LimitError(
      fmt::format("memory limit: selections of {} heads of {} tokens take {:.0f} bytes, the limit is {}",
                  heads, n, bytes, ctx.limit()));
}

template <class T>
std::vector<CausalSelection> on_device(const Context& ctx, TensorView<const T> scores,
                                       const CausalOptions& options) {
  const Offset heads = scores.extent[0];
  const Offset n = scores.extent[1];
  ops::cuda::SelectionCall call;
  call.stream = ctx.stream;
  call.heads = heads;
  call.rows = n;
  call.k = options.k;
  call.cap = options.cap == kUncapped ? n : std::min(options.cap, n);
  call.temperature = options.temperature;
  const ops::cuda::SelectedRows found =
      ops::cuda::causal_select<T>(call, {scores.data, scores.stride[0], scores.stride[1]});
  std::vector<CausalSelection> selections(static_cast<std::size_t>(heads));
  for (std::size_t h = 0; h < selections.size(); ++h) {
    if (found.nan[h] < n) refuse_nan(heads, static_cast<Offset>(h), found.nan[h]);
    const auto part = [&]<class X>(const std::vector<X>& all) {
      const auto first = all.begin() + static_cast<std::ptrdiff_t>(h) * n;
      return std::vector<X>(first, first + n);
    };
    CausalSelection& to = selections[h];
    to.options = options;
    to.score = part(found.score);
    to.tau = part(found.tau);
    to.until = part(found.until);
    to.edges = found.edges[h];
    to.capped_rows = found.capped[h];
  }
  return selections;
}

}  // namespace

template <class T>
std::vector<CausalSelection> causal_sparsek(const Context& ctx, TensorView<const T> scores,
                                            const CausalOptions& given) {
  if (scores.rank != 2) {
    throw ValueError(
        fmt::format("causal sparsek: scores have {} axes, [heads, tokens] are wanted", scores.rank));
  }
  attention_call::require_data("causal sparsek: scores", scores);
  const CausalOptions options = checked(given);
  if (scores.extent[1] > kMaxVertices) {
    throw ValueError(
        fmt::format("causal sparsek: {} tokens, at most {} are wanted", scores.extent[1], kMaxVertices));
  }
  require_backend(ctx, "causal sparsek");
  const ThreadScope scope(ctx.threads, ctx.stop);
  check_memory<T>(ctx, scores.extent[0], scores.extent[1]);
  if (ctx.backend == Backend::cuda) return on_device(ctx, scores, options);
  std::vector<CausalSelection> selections(static_cast<std::size_t>(scores.extent[0]));
  parallel_for(scores.extent[0], [&](Offset h) {
    std::vector<T> row;
    row.reserve(static_cast<std::size_t>(scores.extent[1]));
    for (Offset i = 0; i < scores.extent[1]; ++i) row.push_back(scores(h, i));
    const auto bad = std::find_if(row.begin(), row.end(), [](T x) { return std::isnan(x); });
    if (bad != row.end()) refuse_nan(scores.extent[0], h, bad - row.begin());
    selections[static_cast<std::size_t>(h)] = whole(std::span<const T>(row), options);
  });
  return selections;
}

template std::vector<CausalSelection> causal_sparsek<float>(const Context&, TensorView<const float>,
                                                            const CausalOptions&);
template std::vector<CausalSelection> causal_sparsek<double>(const Context&, TensorView<const double>,
                                                             const CausalOptions&);

}  // namespace manyhop
