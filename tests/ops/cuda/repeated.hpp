// Calls of attention that share a plan and their tensors' memory, as training has them.
#pragma once

#include <algorithm>
#include <string>
#include <vector>

#include "manyhop/engine/attention.hpp"
#include "manyhop/graphs/graph.hpp"
#include "tests/ops/cuda/device.hpp"
#include "tests/support/attention_run.hpp"
#ifndef MANYHOP_TEST_ON_DEVICE
#include <cusparse.h>  // the emulator's
#endif

namespace manyhop::test {

template <class T>
class Repeated {
 public:
  static constexpr Offset kBatch = 2, kHeads = 2, kKeyHeads = 1, kFeatures = 8;

  struct Answer {
    std::vector<T> out, dq, dk, dv;
  };

  explicit Repeated(const std::vector<Graph>& graphs, int plan_hops = 6)
      : graphs_(graphs),
        rows_(graphs[0].n_rows()),
        plan_(plan(context(), graphs,
                   {.batch = kBatch,
                    .heads = kHeads,
                    .kv_heads = kKeyHeads,
                    .head_dim = kFeatures,
                    .value_dim = kFeatures,
                    .dtype = dtype_for<T>(),
                    .hops = plan_hops,
                    .backward = true})),
        out_(size(kHeads)),
        dq_(size(kHeads)),
        dk_(size(kKeyHeads)),
        dv_(size(kKeyHeads)) {
    fill(1);
  }

  void fill(int seed) {
    const auto from = static_cast<std::uint64_t>(seed) * 4;
    values(q_, from, kHeads);
    values(k_, from + 1, kKeyHeads);
    values(v_, from + 2, kKeyHeads);
    values(g_, from + 3, kHeads);
  }
  /// Tensors lie on the device and calls are queued on this stream.
  void on(cudaStream_t stream) { stream_ = reinterpret_cast<std::uintptr_t>(stream); }
  /// The same tensors and options with a plan of its own; results are waited for.
  Repeated fresh() const {
    Repeated other(graphs_);
    other.q_ = q_;
    other.k_ = k_;
    other.v_ = v_;
    other.g_ = g_;
    other.lengths = lengths;
    other.options = options;
    return other;
  }

  std::vector<T> forward() {
    attention<T>(context(), plan_, view<const T>(q_, kHeads), view<const T>(k_, kKeyHeads),
                 view<const T>(v_, kKeyHeads), view<T>(out_, kHeads), all_options());
    return out_;
  }
  void backward() {
    AttentionGradients<T> gradients;
    gradients.q = view<T>(dq_, kHeads);
    gradients.k = view<T>(dk_, kKeyHeads);
    gradients.v = view<T>(dv_, kKeyHeads);
    gradients.wants_teleport = false;
    attention_backward<T>(context(), plan_, view<const T>(q_, kHeads), view<const T>(k_, kKeyHeads),
                          view<const T>(v_, kKeyHeads), view<const T>(g_, kHeads), gradients, all_options());
  }
  Answer run() {
    forward();
    backward();
    return {out_, dq_, dk_, dv_};
  }
  const std::vector<T>& answer() const { return out_; }
  const Plan& made() const { return plan_; }
  Offset units() const { return kBatch * kHeads; }

  /// The line of explain() that begins with `word`.
  std::string told(const std::string& word) const {
    for (const std::string& line : plan_.explain()) {
      if (line.rfind(word, 0) == 0) return line;
    }
    return "";
  }

  AttentionOptions options;
  std::vector<Offset> lengths;

 private:
  Context context() const {
    Context ctx;
    ctx.backend = Backend::cuda;
    ctx.threads = 1;
    ctx.stream = stream_;
    return ctx;
  }
  AttentionOptions all_options() const {
    AttentionOptions all = options;
    all.lengths = lengths;
    return all;
  }
  std::size_t size(Offset heads) const {
    return static_cast<std::size_t>(kBatch * heads * rows_ * kFeatures);
  }
  void values(std::vector<T>& to, std::uint64_t seed, Offset heads) {
    const auto made = random_values<T>(static_cast<Offset>(size(heads)), seed);
    to.resize(made.size());
    std::copy(made.begin(), made.end(), to.begin());  // in place: a graph has the address
  }
  template <class X, class Vector>
  TensorView<X> view(Vector& of, Offset heads) {
    return TensorView<X>(of.data(), {kBatch, heads, rows_, kFeatures});
  }

  std::vector<Graph> graphs_;
  Offset rows_;
  std::optional<std::uintptr_t> stream_;
  Plan plan_;
  std::vector<T> q_, k_, v_, g_, out_, dq_, dk_, dv_;
};

}  // namespace manyhop::test
