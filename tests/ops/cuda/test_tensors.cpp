// Tensors that lie on the device: read where they are if their rows are what kernels read, else copied.
#include <doctest/doctest.h>

#include <cstdint>
#include <vector>

#include "manyhop/engine/attention.hpp"
#include "manyhop/graphs/patterns/pattern.hpp"
#include "tests/ops/cuda/device.hpp"
#include "tests/support/attention_run.hpp"
#include "tests/support/near.hpp"

using namespace manyhop;
using namespace manyhop::test;

namespace {

constexpr Offset kBatch = 2, kHeads = 2, kTokens = 70, kWidth = 32;

/// Values on the device, `gap` elements before the first and between rows.
template <class T>
struct Placed {
  std::vector<T> values;
  Offset heads, gap;
  OnDevice<T> memory;

  Placed(Offset h, Offset space, std::uint64_t seed)
      : values(random_values<T>(kBatch * h * kTokens * kWidth, seed)),
        heads(h),
        gap(space),
        memory(kBatch * h * kTokens * (kWidth + space) + space) {
    std::vector<T> spread(static_cast<std::size_t>(kBatch * h * kTokens * (kWidth + gap) + gap));
    for (std::size_t i = 0; i < values.size(); ++i) spread[place(i)] = values[i];
    copy(memory.data(), spread.data(), spread.size(), cudaMemcpyHostToDevice);
  }
  std::size_t place(std::size_t i) const {
    const auto width = static_cast<std::size_t>(kWidth);
    return static_cast<std::size_t>(gap) + i / width * static_cast<std::size_t>(kWidth + gap) + i % width;
  }
  TensorView<T> there() const {
    const Offset row = kWidth + gap;
    return {memory.data() + gap,
            {kBatch, heads, kTokens, kWidth},
            {heads * kTokens * row, kTokens * row, row, 1}};
  }
  TensorView<T> here() { return {values.data(), {kBatch, heads, kTokens, kWidth}}; }
  std::vector<T> read() const {
    std::vector<T> spread(static_cast<std::size_t>(kBatch * heads * kTokens * (kWidth + gap) + gap));
    copy(spread.data(), memory.data(), spread.size(), cudaMemcpyDeviceToHost);
    std::vector<T> found(values.size());
    for (std::size_t i = 0; i < found.size(); ++i) found[i] = spread[place(i)];
    return found;
  }
  static void copy(T* to, const T* from, std::size_t count, cudaMemcpyKind kind) {
    REQUIRE(cudaMemcpyAsync(to, from, count * sizeof(T), kind, nullptr) == cudaSuccess);
    REQUIRE(cudaStreamSynchronize(nullptr) == cudaSuccess);
  }
};

template <class T>
void same_as_from_the_host(Offset gap, int hops) {
  Context ctx;
  ctx.backend = Backend::cuda;
  ctx.threads = 1;
  const Plan made = plan(ctx, pattern("window(6)|random(3,seed=1)", kTokens),
                         {.batch = kBatch,
                          .heads = kHeads,
                          .kv_heads = 1,
                          .head_dim = kWidth,
                          .value_dim = kWidth,
                          .dtype = dtype_for<T>(),
                          .hops = hops,
                          .backward = true});
  Placed<T> q(kHeads, gap, 1), k(1, gap, 2), v(1, gap, 3), g(kHeads, gap, 4);
  Placed<T> out(kHeads, gap, 5), dq(kHeads, gap, 6), dk(1, gap, 7), dv(1, gap, 8);
  AttentionOptions call;
  call.hops = hops;
  call.teleport = 0.2;
  const auto run = [&](const auto& view) {
    attention<T>(ctx, made, view(q), view(k), view(v), view(out), call);
    AttentionGradients<T> to;
    to.q = view(dq);
    to.k = view(dk);
    to.v = view(dv);
    to.wants_teleport = false;
    attention_backward<T>(ctx, made, view(q), view(k), view(v), view(g), to, call);
  };
  run([](Placed<T>& x) { return x.here(); });
  ctx.stream = 0;
  for (int again = 0; again < 3; ++again) run([](Placed<T>& x) { return x.there(); });
  INFO("gap ", gap, ", hops ", hops, ", bytes ", sizeof(T));
  for (Placed<T>* x : {&q, &k, &v, &g, &out, &dq, &dk, &dv}) CHECK(same_bits(x->read(), x->values));
}

}  // namespace

DEVICE_CASE("tensors on the device: rows with and without gaps give what a copy gives") {
  for (const Offset gap : {0, 3}) {
    for (const int hops : {0, 1, 2, 4}) {
      same_as_from_the_host<float>(gap, hops);
      same_as_from_the_host<bf16>(gap, hops);
    }
  }
}
