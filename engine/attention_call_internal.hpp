#pragma once

#include <fmt/format.h>

#include <atomic>
#include <cmath>
#include <cstddef>
#include <functional>
#include <limits>
#include <map>
#include <memory>
#include <mutex>
#include <type_traits>
#include <utility>
#include <vector>

#include "manyhop/engine/attention.hpp"
#include "manyhop/engine/attention_values_internal.hpp"
#include "manyhop/engine/schedule.hpp"
#include "manyhop/graphs/base/error.hpp"
#include "manyhop/graphs/base/parallel.hpp"

/// What a forward and a backward call share: checks, memory, the state that is kept, the loop over heads.
/// For attention.cpp, attention_backward.cpp and attention_device.cpp alone.
namespace manyhop::attention_call {

/// Checks of a call and what its heads share.
template <class T>
class Call {
  using C = ops::ComputeOf<T>;

 public:
  Call(const Context& ctx, const Plan& plan, TensorView<const T> q, TensorView<const T> k,
       TensorView<const T> v, const AttentionOptions& options)
      : ctx_(ctx),
        plan_(plan),
        o_(plan.options()),
        options_(options),
        q_(as_batch(q)),
        k_(as_batch(k)),
        v_(as_batch(v)),
        bias_values_("bias", options.bias, !ctx.stream),
        bias_("bias", bias_values_.view, plan) {
    const Graph& graph = plan.graph();
    require_shape("q", q_, {o_.batch, o_.heads, graph.n_rows(), o_.head_dim});
    require_shape("k", k_, {o_.batch, o_.kv_heads, graph.n_cols(), o_.head_dim});
    require_shape("v", v_, {o_.batch, o_.kv_heads, graph.n_cols(), o_.value_dim});
    const double a = options.teleport;
    if (!(a >= 0 && a <= 1)) throw ValueError(fmt::format("teleport: {} is outside of [0, 1]", a));
    if (options.hops < 0 || options.hops > kMostHops)
      throw ValueError(fmt::format("hops: {}, 0 to {} are wanted", options.hops, kMostHops));
    if (!graph.square() && (options.hops != 1 || a != 0)) {
      throw ValueError(
          fmt::format("hops: {} with teleport {} on a {} x {} graph, a rectangle allows hops = 1 and "
                      "teleport = 0 only",
                      options.hops, a, graph.n_rows(), graph.n_cols()));
    }
    if (options.scale && !std::isfinite(*options.scale)) {
      throw ValueError(fmt::format("scale: {} is not finite", *options.scale));
    }
    if (options.scale && !std::isfinite(static_cast<C>(*options.scale))) {
      throw ValueError(fmt::format("scale: {} is past {}, the largest f32", *options.scale,
                                   std::numeric_limits<C>::max()));
    }
    edge_dropout_ = Dropout::of(options.dropout_p);
    hop_dropout_ = Dropout::of(options.hop_dropout_p);
    check_lengths();
  }

  ops::HeadInput<T> input(Offset batch, Offset head) const {
    const Offset kv = head / (o_.heads / o_.kv_heads);
    const auto graph_number = plan_.per_head() ? static_cast<int>(head) : 0;
    ops::HeadInput<T> in;
    in.graph = &plan_.graph(graph_number);
    in.n_rows = rows(batch);
    in.n_cols = cols(batch);
    in.tiling = tiling(graph_number, batch);
    if (whole(batch) && !plan_.data().by_column.empty())
      in.by_column = &plan_.data().by_column[at(graph_number)];
    const auto& reordered = plan_.data().reordered;
    if (!reordered.empty() && whole(batch) && !reordered[at(graph_number)].order.empty()) {
      const Reordered& other = reordered[at(graph_number)];
      in.graph = &other.graph;
      in.order = other.order.data();
      in.edges = other.edges.data();
    }
    in.d = o_.head_dim;
    in.d_value = o_.value_dim;
    in.q = matrix(q_, batch, head);
    in.k = matrix(k_, batch, kv);
    in.v = matrix(v_, batch, kv);
    in.hops = options_.hops;
    in.teleport = options_.teleport;
    in.scale = options_.scale.value_or(1.0 / std::sqrt(static_cast<double>(o_.head_dim)));
    in.bias = bias_.of(batch, head);
    in.edge_dropout = edge_dropout_;
    in.hop_dropout = hop_dropout_;
    in.seed = options_.seed;
    in.batch = batch;
    in.head = head;
    return in;
  }

  /// All heads at once, for a device.
  ops::cuda::AttentionCall<T> device_call() const {
    ops::cuda::AttentionCall<T> to;
    to.stream = ctx_.stream;
    to.memory_limit = ctx_.memory_limit;
    to.batch = o_.batch;
    to.heads = o_.heads;
    to.kv_heads = o_.kv_heads;
    to.d = o_.head_dim;
    to.d_value = o_.value_dim;
    to.q = q_;
    to.k = k_;
    to.v = v_;
    to.hops = options_.hops;
    to.teleport = options_.teleport;
    to.scale = options_.scale.value_or(1.0 / std::sqrt(static_cast<double>(o_.head_dim)));
    to.lengths = options_.lengths;
    to.edge_dropout = edge_dropout_;
    to.hop_dropout = hop_dropout_;
    to.seed = options_.seed;
    return to;
  }
  TensorView<const C> bias_view() const { return bias_values_.view; }

  Offset rows(Offset batch) const {
    const Graph& graph = plan_.graph();
    return options_.lengths.empty() || !graph.square() ? graph.n_rows() : options_.lengths[at(batch)];
  }
  Offset cols(Offset batch) const {
    return options_.lengths.empty() ? plan_.graph().n_cols() : options_.lengths[at(batch)];
  }

  /// body(unit, resources) for each unit: as many at a time as the schedule has slots, then the left-over
  /// ones with all threads inside. `alone`: one after the other, all threads inside.
  void for_units(Offset units, const Schedule& schedule, bool alone,
                 const std::function<void(Offset, const ops::HeadResources&)>& body) const {
    std::byte* memory = ctx_.workspace.reserve(schedule.workspace());
    std::byte* panels = memory + schedule.heads();
    std::atomic<Offset> done{0};
    const auto run = [&](Offset unit, const ops::HeadResources& resources) {
      check_stop();
      body(unit, resources);
      if (ctx_.progress) ctx_.progress("attention", static_cast<double>(++done) / static_cast<double>(units));
    };
    ops::HeadResources whole{.shape = schedule.shape,
                             .memory = memory,
                             .panels = panels,
                             .threads = schedule.panel_slots,
                             .stored = schedule.stored};
    Offset together = 0;
    if (!alone && schedule.slots > 1) {
      together = units / schedule.slots * schedule.slots;
      std::mutex mutex;
      std::vector<int> free;
      for (int i = schedule.slots - 1; i >= 0; --i) free.push_back(i);
      parallel_for(together, [&](Offset unit) {
        std::unique_lock lock(mutex);
        const auto slot = static_cast<std::size_t>(free.back());  // the arena has no more threads than slots
        free.pop_back();
        lock.unlock();
        ops::HeadResources mine = whole;
        mine.memory = memory + slot * schedule.head_bytes;
        mine.panels = panels + slot * schedule.panel_bytes;
        mine.threads = 1;
        try {
          run(unit, mine);
        } catch (...) {
          lock.lock();
          free.push_back(static_cast<int>(slot));
          throw;
        }
        lock.lock();
        free.push_back(static_cast<int>(slot));
      });
    }
    for (Offset unit = together; unit < units; ++unit) run(unit, whole);
  }

  /// Of a forward call that keeps what `options.state` asks for, if that can be; prepares the state.
  Schedule keeping_schedule(Offset units) const {
    AttentionState* state = options_.state;
    if (state != nullptr) state->clear();
    if (state == nullptr || !keeps()) return schedule(units, false, ops::HeadBackward::stored);
    const Schedule found = schedule_with_state(units, false, ops::HeadBackward::stored);
    if (!found.shape.kept) return found;
    state->unit_bytes = unit_bytes(found.shape);
    state->memory.reserve(state->unit_bytes * static_cast<std::size_t>(units));
    state->units = units;
    state->plan = &plan_.data();
    state->hops = options_.hops;
    state->mode = options_.backward;
    return found;
  }

  /// Bytes of the state of all units; 0: none is kept.
  std::size_t state_bytes(Offset units) const {
    if (!keeps()) return 0;
    const Schedule found = schedule_with_state(units, false, ops::HeadBackward::stored);
    return found.shape.kept ? unit_bytes(found.shape) * static_cast<std::size_t>(units) : 0;
  }

  /// Of a call that keeps or takes a state; where that does not fit the memory, of one that does not.
  Schedule schedule_with_state(Offset units, bool backward, ops::HeadBackward mode) const {
    try {
      return schedule(units, backward, mode, true);
    } catch (const LimitError&) {
      return schedule(units, backward, mode);
    }
  }

  /// The state to take, or null; it must be of this plan and these options.
  AttentionState* taken_state() const {
    AttentionState* state = options_.state;
    if (state == nullptr || state->empty()) return nullptr;
    if (state->plan != &plan_.data() || state->mode != options_.backward || state->hops != options_.hops) {
      throw ValueError(
          fmt::format("state: kept by a call of {} hops of another plan or mode, this one has {} hops",
                      state->hops, options_.hops));
    }
    return state;
  }

  Schedule schedule(Offset units, bool backward, ops::HeadBackward mode, bool kept = false) const {
    ops::HeadShape shape = plan_.data().shape;
    // Rows may be ordered otherwise and panels be larger.
    for (const auto& [key, cut] : cut_) shape.cover(*cut);
    shape.hops = options_.hops;
    shape.backward = backward;
    shape.mode = mode;
    shape.kept = kept;
    // Whether the state fits the memory must not show in the bits.
    shape.exact = backward || kept || (options_.state != nullptr && keeps());
    shape = with_arithmetic(shape, o_.dtype);
    const std::size_t kept_total =
        kept ? unit_bytes(shape) * static_cast<std::size_t>(o_.batch * o_.heads) : std::size_t{0};
    const std::size_t inputs = input_bytes(o_, shape.n_rows, shape.n_cols) * (backward ? 2 : 1);
    return make_schedule(shape, o_.dtype, ctx_.backend, units, thread_count(),
                         inputs + graph_bytes(plan_.data()) + kept_total, inputs, ctx_.limit());
  }

  std::size_t unit_bytes(const ops::HeadShape& shape) const {
    return o_.dtype == DType::f64 ? ops::cpu::kept_bytes<double>(shape) : ops::cpu::kept_bytes<float>(shape);
  }

  const PlanOptions& plan_options() const { return o_; }

 private:
  /// Whether a forward call keeps anything for the backward one.
  bool keeps() const {
    return options_.hops > 0 && ctx_.backend == Backend::cpu &&
           options_.backward == AttentionBackward::stored;
  }

  void check_lengths() {
    if (options_.lengths.empty()) return;
    if (static_cast<Offset>(options_.lengths.size()) != o_.batch) {
      throw ValueError(
          fmt::format("lengths: {} entries for a batch of {}", options_.lengths.size(), o_.batch));
    }
    const Graph& graph = plan_.graph();
    for (std::size_t b = 0; b < options_.lengths.size(); ++b) {
      const Offset length = options_.lengths[b];
      if (length < 0 || length > graph.n_cols()) {
        throw ValueError(fmt::format("lengths[{}]: {} is outside 0 .. {}", b, length, graph.n_cols()));
      }
      if (length == graph.n_cols() || ctx_.backend == Backend::cuda) continue;  // a device cuts as it goes
      for (int g = 0; g < (plan_.per_head() ? o_.heads : 1); ++g) {
        auto& slot = cut_[{g, length}];
        if (!slot)
          slot = std::make_unique<Tiling>(make_tiling(plan_.graph(g), graph.square() ? length : -1, length));
      }
    }
  }

  bool whole(Offset batch) const { return cols(batch) == plan_.graph().n_cols(); }
  const Tiling* tiling(int graph_number, Offset batch) const {
    if (whole(batch)) return &plan_.tiling(graph_number);
    return cut_.at({graph_number, cols(batch)}).get();
  }

  const Context& ctx_;
  const Plan& plan_;
  const PlanOptions& o_;
  const AttentionOptions& options_;
  TensorView<const T> q_, k_, v_;
  ReadValues<C> bias_values_;
  EdgeValues<const C> bias_;
  Dropout edge_dropout_;
  Dropout hop_dropout_;
  std::map<std::pair<int, Offset>, std::unique_ptr<Tiling>> cut_;  // graphs cut to the lengths of the batch
};

inline ops::HeadResources with_kept(ops::HeadResources resources, AttentionState* state, Offset unit) {
  if (state != nullptr && !state->empty())
    resources.kept = state->memory.reserve(0) + static_cast<std::size_t>(unit) * state->unit_bytes;
  return resources;
}

template <class T>
constexpr DType dtype_of() {
  return std::is_same_v<T, double> ? DType::f64 : std::is_same_v<T, bf16> ? DType::bf16 : DType::f32;
}

inline void require_plan_of(const Context& ctx, const Plan& plan) {
  if ((ctx.backend == Backend::cuda) == (plan.backend() == Backend::cuda)) return;
  throw ValueError(fmt::format("attention: backend {}, the plan was made for {}", name_of(ctx.backend),
                               name_of(plan.backend())));
}

template <class T>
void require_dtype(const Plan& plan) {
  if (plan.options().dtype == dtype_of<T>()) return;
  throw ValueError(fmt::format("attention: tensors are {}, the plan was made for {}", name_of(dtype_of<T>()),
                               name_of(plan.options().dtype)));
}

}  // namespace manyhop::attention_call
