// Calls whose tensors lie on the device: the answer of a call with host tensors, by which the host reads and
// writes nothing there.
#include <doctest/doctest.h>

#include <cmath>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "manyhop/engine/attention.hpp"
#include "manyhop/graphs/base/error.hpp"
#include "manyhop/graphs/patterns/pattern.hpp"
#include "manyhop/ops/edge_value.hpp"
#include "tests/ops/cuda/device.hpp"
#include "tests/support/attention_run.hpp"

using namespace manyhop;
using namespace manyhop::test;

namespace {

constexpr Offset kHeads = 4, kKeyHeads = 2, kFeatures = 16;

Context cuda(std::optional<std::uintptr_t> stream) {
  Context ctx;
  ctx.backend = Backend::cuda;
  ctx.threads = 1;
  ctx.stream = stream;
  return ctx;
}

std::vector<Offset> edge_shape(int rank, Offset batch, Offset edges) {
  if (rank == 1) return {edges};
  return rank == 2 ? std::vector<Offset>{kHeads, edges} : std::vector<Offset>{batch, kHeads, edges};
}
Offset product(const std::vector<Offset>& shape) {
  Offset count = 1;
  for (const Offset extent : shape) count *= extent;
  return count;
}
template <class C>
TensorView<C> shaped(C* data, const std::vector<Offset>& shape) {
  if (shape.size() == 1) return {data, {shape[0]}};
  if (shape.size() == 2) return {data, {shape[0], shape[1]}};
  return {data, {shape[0], shape[1], shape[2]}};
}

template <class T>
struct Answers {
  using C = EdgeValue<T>;
  std::vector<T> out, dq, dk, dv;
  std::vector<C> lse, weights, dbias;
  double dteleport = 0;

  bool operator==(const Answers&) const = default;
};

template <class T>
struct Task {
  using C = EdgeValue<T>;
  Graph graph;
  AttentionOptions options;
  std::vector<Offset> lengths;
  Offset batch = 2;
  int bias_rank = 1;

  /// Everything that a call takes and gives, on the device or on the host.
  Answers<T> answers(bool on_device) const {
    const Context ctx = cuda(on_device ? std::optional<std::uintptr_t>(0) : std::nullopt);
    const Plan made = plan(ctx, graph,
                           {.batch = batch,
                            .heads = kHeads,
                            .kv_heads = kKeyHeads,
                            .head_dim = kFeatures,
                            .dtype = dtype_for<T>(),
                            .hops = options.hops,
                            .backward = true});
    const Offset n = graph.n_rows();
    const auto drawn = [&](Offset heads, std::uint64_t seed) {
      return random_values<T>(batch * heads * n * kFeatures, seed);
    };
    const auto q = drawn(kHeads, 1), k = drawn(kKeyHeads, 2), v = drawn(kKeyHeads, 3), g = drawn(kHeads, 4);
    const auto bias_shape = edge_shape(bias_rank, batch, graph.nnz());
    const auto bias = random_values<C>(product(bias_shape), 5);
    const auto g_lse = random_values<C>(batch * kHeads * n, 6);
    Answers<T> a;
    a.out.resize(q.size());
    a.dq.resize(q.size());
    a.dk.resize(k.size());
    a.dv.resize(v.size());
    a.lse.resize(g_lse.size());
    a.weights.resize(static_cast<std::size_t>(batch * kHeads * graph.nnz()));
    a.dbias.resize(bias.size());
    if (!on_device) {
      call(ctx, made, q.data(), k.data(), v.data(), g.data(), bias.data(), g_lse.data(), a.out.data(),
           a.lse.data(), a.weights.data(), a.dq.data(), a.dk.data(), a.dv.data(), a.dbias.data(),
           a.dteleport);
      return a;
    }
    const OnDevice<T> q_there(q), k_there(k), v_there(v), g_there(g), out(a.out), dq(a.dq), dk(a.dk),
        dv(a.dv);
    const OnDevice<C> bias_there(bias), g_lse_there(g_lse), lse(a.lse), weights(a.weights), dbias(a.dbias);
    call(ctx, made, q_there.data(), k_there.data(), v_there.data(), g_there.data(), bias_there.data(),
         g_lse_there.data(), out.data(), lse.data(), weights.data(), dq.data(), dk.data(), dv.data(),
         dbias.data(), a.dteleport);
    return {out.read(), dq.read(),      dk.read(),    dv.read(),
            lse.read(), weights.read(), dbias.read(), a.dteleport};
  }

  void call(const Context& ctx, const Plan& made, const T* q, const T* k, const T* v, const T* g,
            const C* bias, const C* g_lse, T* out, C* lse, C* weights, T* dq, T* dk, T* dv, C* dbias,
            double& dteleport) const {
    const Offset n = graph.n_rows();
    const auto view = [&](auto* data, Offset heads) {
      return TensorView<std::remove_pointer_t<decltype(data)>>(data, {batch, heads, n, kFeatures});
    };
    AttentionOptions all = options;
    all.lengths = lengths;
    all.bias = shaped(bias, edge_shape(bias_rank, batch, graph.nnz()));
    AttentionOptions forward = all;
    forward.lse = TensorView<C>(lse, {batch, kHeads, n});
    forward.weights = shaped(weights, edge_shape(3, batch, graph.nnz()));
    attention<T>(ctx, made, view(q, kHeads), view(k, kKeyHeads), view(v, kKeyHeads), view(out, kHeads),
                 forward);
    AttentionGradients<T> gradients;
    gradients.q = view(dq, kHeads);
    gradients.k = view(dk, kKeyHeads);
    gradients.v = view(dv, kKeyHeads);
    gradients.bias = shaped(dbias, edge_shape(bias_rank, batch, graph.nnz()));
    attention_backward<T>(ctx, made, view(q, kHeads), view(k, kKeyHeads), view(v, kKeyHeads), view(g, kHeads),
                          gradients, all, TensorView<const C>(g_lse, {batch, kHeads, n}));
    dteleport = gradients.teleport;
  }
};

template <class T>
void same_as_on_the_host() {
  for (int rank = 1; rank <= 3; ++rank) {
    for (const int hops : {rank == 1 ? 0 : 1, 3}) {
      Task<T> task{pattern("window(5)|random(2,seed=3)|global(1)", 24), {}, {}, 2, rank};
      task.options.hops = hops;
      task.options.teleport = 0.2;
      if (rank == 2) task.lengths = {17, 24};
      if (rank == 3) task.options.dropout_p = task.options.hop_dropout_p = 0.2;
      INFO("bytes ", sizeof(T), ", rank ", rank, ", hops ", hops);
      CHECK(task.answers(true) == task.answers(false));
    }
  }
}

}  // namespace

DEVICE_CASE("device tensors: the same bits as from the host, which touches none of them") {
  const GuardedMemory guard;
  same_as_on_the_host<float>();
  same_as_on_the_host<bf16>();
  same_as_on_the_host<double>();
}

DEVICE_CASE("device tensors: what a batch of none leaves in a bias that its items share") {
  const GuardedMemory guard;
  for (const int rank : {1, 2}) {
    Task<float> task{pattern("window(2)", 9), {}, {}, 0, rank};
    const std::vector<float> there = task.answers(true).dbias;
    CHECK(there == std::vector<float>(there.size(), 0));
    CHECK(task.answers(false).dbias == there);
  }
}

DEVICE_CASE("device tensors: f32 values beside f64 tensors are refused, not read") {
  const GuardedMemory guard;
  const Graph graph = pattern("window(2)", 9);
  const Context ctx = cuda(0);
  const Plan made = plan(ctx, graph, {.heads = 1, .head_dim = 4, .dtype = DType::f64});
  const OnDevice<double> x(9 * 4);
  const OnDevice<float> bias(graph.nnz());
  const TensorView<double> view(x.data(), {1, 1, 9, 4});
  AttentionOptions options;
  options.bias = TensorView<const float>(bias.data(), {graph.nnz()});
  CHECK_THROWS_WITH_AS(attention<double>(ctx, made, view, view, view, view, options),
                       "bias: f32 values beside f64 tensors on a device, f64 is wanted", ValueError);
}
