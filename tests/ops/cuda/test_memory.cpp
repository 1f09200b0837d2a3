// What the device's allocator gives against what memory() says.
#include <doctest/doctest.h>

#include <type_traits>
#include <vector>

#include "manyhop/engine/attention.hpp"
#include "manyhop/engine/schedule.hpp"
#include "manyhop/graphs/base/error.hpp"
#include "manyhop/graphs/patterns/pattern.hpp"
#include "manyhop/ops/cuda/attention.hpp"
#include "tests/ops/cuda/device.hpp"
#include "tests/support/attention_run.hpp"

using namespace manyhop;
using namespace manyhop::test;

namespace {

template <class T>
void memory_as_told(const Graph& graph, PlanOptions options) {
  Context ctx;
  ctx.backend = Backend::cuda;
  ctx.threads = 1;
  ctx.stream = 0;
  options.dtype = dtype_for<T>();
  const std::size_t before = device_bytes();
  const Plan made = plan(ctx, graph, options);
  const PlanOptions& o = made.options();
  INFO("edges ", graph.nnz(), ", batch ", o.batch, ", heads ", o.heads, " over ", o.kv_heads, ", d ",
       o.head_dim, ", ", o.value_dim, ", hops ", o.hops, ", backward ", o.backward, ", bytes ", sizeof(T));
  // Of the graph: what is kept there after planning.
  if (kEmulated) CHECK(device_bytes() - before == made.data().device.bytes());
  const Offset n = graph.n_rows();
  const Offset q_size = o.batch * o.heads * n * o.head_dim;
  const Offset k_size = o.batch * o.kv_heads * n * o.head_dim;
  const Offset v_size = o.batch * o.kv_heads * n * o.value_dim;
  const Offset out_size = o.batch * o.heads * n * o.value_dim;
  const OnDevice<T> q(q_size), k(k_size), v(v_size), out(out_size), g(out_size), dq(q_size), dk(k_size),
      dv(v_size);
  const auto view = [&](const OnDevice<T>& of, Offset heads, Offset d) {
    return TensorView<T>(of.data(), {o.batch, heads, n, d});
  };
  const TensorView<T> q_view = view(q, o.heads, o.head_dim);
  const TensorView<T> k_view = view(k, o.kv_heads, o.head_dim);
  const TensorView<T> v_view = view(v, o.kv_heads, o.value_dim);
  AttentionOptions call;
  call.hops = o.hops;
  call.teleport = 0.1;
  const auto most = most_taken([&] {
    attention<T>(ctx, made, q_view, k_view, v_view, view(out, o.heads, o.value_dim), call);
    if (!o.backward) return;
    AttentionGradients<T> gradients;
    gradients.q = view(dq, o.heads, o.head_dim);
    gradients.k = view(dk, o.kv_heads, o.head_dim);
    gradients.v = view(dv, o.kv_heads, o.value_dim);
    gradients.wants_teleport = false;
    attention_backward<T>(ctx, made, q_view, k_view, v_view, view(g, o.heads, o.value_dim), gradients, call);
  });
  const auto told = static_cast<double>(made.memory().workspace);
  CHECK(static_cast<double>(most) <= 1.1 * told);
  CHECK(static_cast<double>(most) >= 0.9 * told);
}

/// Answers at the lowest limit at which there is one, and a little above it.
template <class F>
auto with_little_memory(F&& call) {
  Context ctx;
  ctx.backend = Backend::cuda;
  ctx.threads = 1;
  std::vector<decltype(call(ctx))> answers;
  for (ctx.memory_limit = std::size_t{1} << 16; answers.size() < 3;
       ctx.memory_limit += std::size_t{1} << 15) {
    try {
      answers.push_back(call(ctx));
      ctx.memory_limit += std::size_t{48} << 10;  // room for the weights of some heads
    } catch (const LimitError&) {
      REQUIRE(ctx.memory_limit < std::size_t{1} << 26);
    }
  }
  return answers;
}

}  // namespace

DEVICE_CASE("memory() tells what the device's allocator gives") {
  for (const char* text : {"window(9)", "diffuser(16,16,8,seed=1)", "random(5,seed=1)|global(1)"}) {
    const Graph graph = pattern(text, 100);
    for (const bool backward : {false, true}) {
      for (const int hops : {1, 3}) {
        PlanOptions options;
        options.heads = 2;
        options.head_dim = 24;
        options.hops = hops;
        options.backward = backward;
        memory_as_told<bf16>(graph, options);
        memory_as_told<float>(graph, options);
        PlanOptions tf32 = options;
        tf32.tf32 = true;
        memory_as_told<float>(graph, tf32);
        tf32.head_dim = 32;  // rows that are read where they are
        memory_as_told<float>(graph, tf32);
        options.batch = 2;
        options.kv_heads = 1;
        options.value_dim = 40;
        memory_as_told<bf16>(graph, options);
        memory_as_told<double>(graph, options);
      }
    }
  }
}

DEVICE_CASE("memory: one hop keeps no weights of tiles, and several make them again where they do not fit") {
  const Graph graph = pattern("full", 128);
  Context ctx;
  ctx.backend = Backend::cuda;
  ctx.threads = 1;
  ctx.stream = 0;
  PlanOptions options{.heads = 4, .kv_heads = 2, .head_dim = 128, .dtype = DType::bf16};
  const auto weights = static_cast<std::size_t>(options.heads * graph.nnz()) * sizeof(bf16);
  const std::size_t one = plan(ctx, graph, options).memory().workspace;
  options.hops = 2;
  const std::size_t two = plan(ctx, graph, options).memory().workspace;
  CHECK(two - one == weights);
  ctx.stream.reset();
  for (const int hops : {1, 3}) {
    PlanOptions trained = options;
    trained.hops = hops;
    trained.backward = true;
    const Plan made = plan(ctx, graph, trained);
    // Features of two launches; two heads share each key.
    const auto drawn = [&](Offset heads, std::uint64_t seed) {
      return random_values<bf16>(heads * graph.n_rows() * 128, seed);
    };
    const auto q = drawn(4, 1), k = drawn(2, 2), v = drawn(2, 3), g = drawn(4, 4);
    const auto view = [&](auto& of) {
      const auto heads = static_cast<Offset>(of.size()) / (graph.n_rows() * 128);
      return TensorView<std::remove_pointer_t<decltype(of.data())>>(of.data(), {1, heads, 128, 128});
    };
    AttentionOptions call;
    call.hops = hops;
    call.teleport = 0.1;
    const auto forward = [&](const Context& limited) {
      std::vector<bf16> out(q.size());
      attention<bf16>(limited, made, view(q), view(k), view(v), view(out), call);
      return out;
    };
    const auto backward = [&](const Context& limited) {
      std::vector<bf16> dq(q.size()), dk(k.size()), dv(v.size());
      AttentionGradients<bf16> gradients;
      gradients.q = view(dq);
      gradients.k = view(dk);
      gradients.v = view(dv);
      attention_backward<bf16>(limited, made, view(q), view(k), view(v), view(g), gradients, call);
      return std::vector<std::vector<bf16>>{dq, dk, dv};
    };
    const auto out = forward(ctx);
    for (const auto& answer : with_little_memory(forward)) CHECK(answer == out);
    const auto gradients = backward(ctx);
    for (const auto& answer : with_little_memory(backward)) CHECK(answer == gradients);
  }
}

DEVICE_CASE("memory: what idle calls hold is given back to the device") {
  const auto held = [] {
    cudaMemPool_t pool = nullptr;
    std::uint64_t reserved = 0;
    std::uint64_t used = 0;
    REQUIRE(cudaDeviceGetDefaultMemPool(&pool, 0) == cudaSuccess);
    REQUIRE(cudaMemPoolGetAttribute(pool, cudaMemPoolAttrReservedMemCurrent, &reserved) == cudaSuccess);
    REQUIRE(cudaMemPoolGetAttribute(pool, cudaMemPoolAttrUsedMemCurrent, &used) == cudaSuccess);
    return reserved - used;
  };
  PlanOptions options;
  options.head_dim = 32;
  memory_as_told<bf16>(pattern("window(9)", 1000), options);
  const std::uint64_t before = held();
  CHECK(before > 0);
  ops::cuda::release_memory();
  CHECK(held() < before);
}

DEVICE_CASE("memory: a call that aims at less keeps no weights, with the same bits") {
  Context ctx;
  ctx.backend = Backend::cuda;
  ctx.threads = 1;
  ctx.stream = 0;
  const Offset n = 96;
  const Plan made =
      plan(ctx, pattern("lift(regular(2,seed=1)|self,8)|random(1,seed=1)", n),
           {.heads = 2, .kv_heads = 2, .head_dim = 32, .value_dim = 32, .dtype = DType::bf16, .hops = 4});
  const OnDevice<bf16> q(2 * n * 32), k(2 * n * 32), v(2 * n * 32), out(2 * n * 32);
  const std::vector<bf16> values = random_values<bf16>(2 * n * 32, 3);
  for (const OnDevice<bf16>* x : {&q, &k, &v}) {
    REQUIRE(cudaMemcpyAsync(x->data(), values.data(), values.size() * sizeof(bf16), cudaMemcpyHostToDevice,
                            nullptr) == cudaSuccess);
  }
  const auto run = [&](std::size_t aim, std::vector<bf16>& result) {
    ops::cuda::AttentionCall<bf16> call;
    call.stream = 0;
    call.scratch_aim = aim;
    call.heads = 2;
    call.kv_heads = 2;
    call.d = 32;
    call.d_value = 32;
    call.q = TensorView<const bf16>(q.data(), {1, 2, n, 32});
    call.k = TensorView<const bf16>(k.data(), {1, 2, n, 32});
    call.v = TensorView<const bf16>(v.data(), {1, 2, n, 32});
    call.hops = 4;
    call.teleport = 0.1;
    ops::cuda::AttentionResult<bf16> to;
    to.out = TensorView<bf16>(out.data(), {1, 2, n, 32});
    const std::size_t most = most_taken([&] { ops::cuda::attention<bf16>(made.data().device, call, to); });
    result.resize(values.size());
    REQUIRE(cudaMemcpyAsync(result.data(), out.data(), result.size() * sizeof(bf16), cudaMemcpyDeviceToHost,
                            nullptr) == cudaSuccess);
    REQUIRE(cudaStreamSynchronize(nullptr) == cudaSuccess);
    return most;
  };
  std::vector<bf16> kept, again;
  const std::size_t plenty = run(0, kept);
  const std::size_t little = run(1, again);
  CHECK(same_bits(kept, again));
  CHECK(little + values.size() * sizeof(bf16) < plenty);  // nor is V copied, for no hop is captured
}
