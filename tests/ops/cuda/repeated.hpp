// Calls of attention that share a plan and their tensors' memory, as training has them.
#pragma once

#include <algorithm>
#include <memory>
#include <optional>
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
        q_(size(kHeads)),
        k_(size(kKeyHeads)),
        v_(size(kKeyHeads)),
        g_(size(kHeads)),
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
  /// Tensors lie on the device, in memory that the host cannot read, and calls are queued on this stream.
  void on(cudaStream_t stream) {
    stream_ = reinterpret_cast<std::uintptr_t>(stream);
    const GuardedMemory guard;
    for (Tensor* each : {&q_, &k_, &v_, &g_, &out_, &dq_, &dk_, &dv_}) {
      each->there = std::make_unique<OnDevice<T>>(each->host);
    }
  }
  /// The same tensors and options with a plan of its own; results are waited for.
  Repeated fresh() const {
    Repeated other(graphs_);
    other.q_.host = q_.host;
    other.k_.host = k_.host;
    other.v_.host = v_.host;
    other.g_.host = g_.host;
    other.lengths = lengths;
    other.options = options;
    return other;
  }

  /// As a caller's own calls: of tensors on the device nothing is waited for.
  void queue_forward() {
    attention<T>(context(), plan_, view<const T>(q_, kHeads), view<const T>(k_, kKeyHeads),
                 view<const T>(v_, kKeyHeads), view<T>(out_, kHeads), all_options());
  }
  void queue_backward() {
    AttentionGradients<T> gradients;
    gradients.q = view<T>(dq_, kHeads);
    gradients.k = view<T>(dk_, kKeyHeads);
    gradients.v = view<T>(dv_, kKeyHeads);
    gradients.wants_teleport = false;
    attention_backward<T>(context(), plan_, view<const T>(q_, kHeads), view<const T>(k_, kKeyHeads),
                          view<const T>(v_, kKeyHeads), view<const T>(g_, kHeads), gradients, all_options());
  }
  std::vector<T> forward() {
    queue_forward();
    return answer();
  }
  Answer run() {
    queue_forward();
    queue_backward();
    return {read(out_), read(dq_), read(dk_), read(dv_)};
  }
  std::vector<T> answer() const { return read(out_); }
  const Plan& made() const { return plan_; }
  /// No call can follow.
  void forget_plan() { plan_ = Plan(nullptr); }
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
  /// The same address in each call: a graph has it.
  struct Tensor {
    explicit Tensor(std::size_t size) : host(size) {}
    std::vector<T> host;
    std::unique_ptr<OnDevice<T>> there;
  };
  std::vector<T> read(const Tensor& of) const {
    return of.there == nullptr ? of.host : of.there->read(stream_of_calls());
  }
  cudaStream_t stream_of_calls() const {
    return reinterpret_cast<cudaStream_t>(stream_.value_or(0));  // NOLINT(performance-no-int-to-ptr)
  }
  void values(Tensor& to, std::uint64_t seed, Offset heads) {
    const auto made = random_values<T>(static_cast<Offset>(size(heads)), seed);
    std::copy(made.begin(), made.end(), to.host.begin());
    if (to.there != nullptr) to.there->write(to.host);
  }
  template <class X>
  TensorView<X> view(Tensor& of, Offset heads) {
    return TensorView<X>(of.there == nullptr ? of.host.data() : of.there->data(),
                         {kBatch, heads, rows_, kFeatures});
  }

  std::vector<Graph> graphs_;
  Offset rows_;
  std::optional<std::uintptr_t> stream_;
  Plan plan_;
  Tensor q_, k_, v_, g_, out_, dq_, dk_, dv_;
};

}  // namespace manyhop::test
